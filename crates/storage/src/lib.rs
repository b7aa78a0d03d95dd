//! Storage service: targets, chain replication, reads and resync

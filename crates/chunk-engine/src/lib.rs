//! Chunks on local disks: allocation, metadata log, checksums and crash recovery

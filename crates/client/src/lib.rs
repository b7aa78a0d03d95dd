//! Clients of the cluster manager, metadata and storage services: routing, retry, striping

//! Metadata service: inodes, directory entries, sessions and garbage collection as transactions

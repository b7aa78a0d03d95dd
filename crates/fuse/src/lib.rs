//! The 3FS FUSE file system: kernel requests to cluster calls
mod attr;
mod cluster;
mod config;
mod dynamic;
mod errno;
mod ids;

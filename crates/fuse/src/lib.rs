//! The 3FS FUSE file system: kernel requests to cluster calls

//! The file system on real mounts, over a cluster in this process. Needs root and /dev/fuse.

mod cluster;
mod data;
mod harness;
mod names;
mod shared;
mod virt;

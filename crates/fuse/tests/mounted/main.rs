//! The file system on real mounts, over a cluster in this process. Needs root and /dev/fuse.

mod calls;
mod cluster;
mod coherence;
mod data;
mod harness;
mod listing;
mod names;
mod shared;
mod virt;

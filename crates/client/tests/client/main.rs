//! The clients against servers in the same process, over a network in memory and tokio's paused clock.

mod cluster;
mod config;
mod file;
mod memory;
mod meta;
mod mgmtd;
mod net;
mod servers;
mod storage;
mod threads;

//! A FUSE session layer in pure Rust: kernel ABI, parallel channels, async handlers
pub mod abi;
pub mod errno;
mod pod;

//! A FUSE session layer in pure Rust: kernel ABI, parallel channels, async handlers

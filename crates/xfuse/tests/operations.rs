//! Every class of operation through a real mount of the memfs example.

mod common;

#[path = "bodies/operations.rs"]
mod operations;

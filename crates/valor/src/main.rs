//! Valor: a distributed file system for AI, compatible with 3FS.

fn main() {}

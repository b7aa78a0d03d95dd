//! Derive macro for the 3FS serde encoding

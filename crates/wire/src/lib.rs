//! 3FS binary serde encoding, message frame, checksums and compression

//! Users of the cluster: their records, tokens and authentication.

pub mod tokens;

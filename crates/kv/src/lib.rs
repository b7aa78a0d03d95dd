//! Transactional key-value store: trait, conflict ranges and engines

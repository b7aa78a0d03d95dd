//! Clock, randomness, network and disk: the world a process sees, real or simulated

pub mod disk;

//! Channels: the threads that take requests from the kernel.

pub(crate) mod classic;

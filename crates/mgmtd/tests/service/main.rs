//! Managers on one store and servers that send heartbeats, all in one thread and on tokio's paused clock.

mod cluster;
mod election;
mod fuzz;
mod golden;
mod liveness;
mod methods;
mod records;
mod world;

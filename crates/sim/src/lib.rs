//! A whole cluster in one thread from one seed: the real servers and clients of manager, metadata and storage on simulated
//! time, network and disks, with faults, workloads and checkers. `docs/testing.md` says how to run it.
//!
//! * `net`, `world`: what a process sees; [`cluster`]: processes on machines.
//! * [`faults`]: what goes wrong and when; [`work`]: what clients do meanwhile.
//! * [`check`]: what must hold; [`run`]: one run from one seed.
//! * [`scale`]: what a manager costs in a large cluster.

pub mod check;
pub mod cluster;
pub mod faults;
pub mod net;
pub mod rng;
pub mod run;
pub mod scale;
pub mod trace;
pub mod work;
pub mod world;

pub use run::{Options, Outcome, run};

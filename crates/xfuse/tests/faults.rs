//! What happens when handlers, callers or daemons misbehave.

mod common;

#[path = "bodies/faults.rs"]
mod faults;

//! The service's methods (`src/mgmtd/ops`), by subject. Every method first compares the cluster's name (5003), then
//! the caller if it is one for administrators, then requires the lease (5000).

mod chains;
mod configs;
mod heartbeat;
mod nodes;
mod reads;
mod sessions;
mod tables;

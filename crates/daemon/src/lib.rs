//! What every server process needs around its service: shard threads, listening addresses, identity files, logs,
//! the metrics endpoint, signals and the Core service. The crates of the services know none of it, so that a
//! simulator can run them without.

mod app;
mod base;
mod core_service;
mod logging;
mod metrics_endpoint;
mod nic;
mod rotate;
mod shards;
mod stop;

pub use app::{AppConfig, KvEngineConfig, LauncherConfig, StartError, read_config_file, release_version};
pub use base::{BaseConfig, BoundGroup, GroupConfig, ListenerConfig, bind_groups, service_group_infos};
pub use core_service::core_router;
pub use logging::{LogOptions, init as init_logging};
pub use metrics_endpoint::serve_metrics;
pub use nic::NetworkType;
pub use rotate::{LogWriter, RotatingFile};
pub use shards::{Shard, Shards};
pub use stop::{Stop, follow_parent};

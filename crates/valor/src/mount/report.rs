//! What a mount says about itself: the JSON that its control socket and `valor admin mount-stats` exchange.

use serde::{Deserialize, Serialize};
use xfuse::stats::{Snapshot, WaitStats};

/// Statistics of a mount at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Report {
    pub mount_point: String,
    pub pid: u32,
    pub transport: String,
    /// The kernel polls the rings of io_uring.
    pub sqpoll: bool,
    /// Why the transport is not what was asked for.
    pub fallback: Option<String>,
    /// The setting: a share or `auto`.
    pub mix: String,
    /// The share in force.
    pub share: f64,
    pub max_window_us: u64,
    pub wake_cost_us: f64,
    pub in_flight: u64,
    pub buffers_in_use: u64,
    pub unknown: u64,
    pub malformed: u64,
    pub panics: u64,
    pub bad_errnos: u64,
    pub interrupts: u64,
    pub late_replies: u64,
    pub refused_replies: u64,
    /// What this kernel lacks.
    pub missing: Vec<String>,
    pub channels: Vec<Channel>,
    pub operations: Vec<Operation>,
}

/// Wait counters of one channel.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Channel {
    pub req_fuse: u64,
    pub req_xfuse: u64,
    pub spin_hit: u64,
    pub spin_expired: u64,
    pub blocked: u64,
    pub spin_ns: u64,
    pub block_ns: u64,
    pub wakes: u64,
    pub window_ns: u64,
}

/// One operation.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Operation {
    pub name: String,
    pub count: u64,
    pub errors: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

impl From<&WaitStats> for Channel {
    fn from(stats: &WaitStats) -> Self {
        let WaitStats {
            req_fuse,
            req_xfuse,
            spin_hit,
            spin_expired,
            blocked,
            spin_ns,
            block_ns,
            wakes,
            window_ns,
        } = *stats;
        Channel { req_fuse, req_xfuse, spin_hit, spin_expired, blocked, spin_ns, block_ns, wakes, window_ns }
    }
}

impl Report {
    /// Takes over the counters.
    pub fn with_counters(self, snapshot: &Snapshot) -> Self {
        let micros = |time: std::time::Duration| time.as_nanos() as f64 / 1e3;
        let operations = snapshot.operations.iter().map(|operation| Operation {
            name: operation.opcode.name().to_owned(),
            count: operation.count,
            errors: operation.errors,
            mean_us: micros(operation.mean()),
            p50_us: micros(operation.quantile(0.5)),
            p99_us: micros(operation.quantile(0.99)),
        });
        Report {
            in_flight: snapshot.in_flight as u64,
            buffers_in_use: snapshot.buffers_in_use as u64,
            unknown: snapshot.unknown,
            malformed: snapshot.malformed,
            panics: snapshot.panics,
            bad_errnos: snapshot.bad_errnos,
            interrupts: snapshot.interrupts,
            late_replies: snapshot.late_replies,
            refused_replies: snapshot.refused_replies,
            channels: snapshot.channels.iter().map(Channel::from).collect(),
            operations: operations.collect(),
            ..self
        }
    }
}

/// One line sent to the control socket.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Ask for a [`Report`].
    Stats,
    /// Change settings, given as `key=value`.
    Set(Vec<String>),
}

/// One line sent back.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Stats`], and to [`Request::Set`] after the change.
    Report(Box<Report>),
    /// Why not.
    Error(String),
}

//! Counters and latency histograms, per operation, kept per channel so that channels do not share cache lines.
//!
//! Counts are exact. Latencies are those of every [`SAMPLED`]th request of an operation on a channel: reading the clock
//! costs more than everything else here.

use crate::abi::Opcode;
use crate::abi::opcode_slots;
use crate::inflight::Inflight;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Histogram buckets: four per power of two, from 256 ns to 2^40 ns (18 minutes).
const BUCKETS: usize = 4 * 32 + 1;

/// One in this many requests has its latency measured, the first of each operation on a channel included.
pub const SAMPLED: u64 = 8;

#[derive(Debug)]
struct OperationCounters {
    begun: AtomicU64,
    count: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

impl Default for OperationCounters {
    fn default() -> Self {
        let zero = AtomicU64::default;
        OperationCounters {
            begun: zero(),
            count: zero(),
            errors: zero(),
            nanos: zero(),
            latency: std::array::from_fn(|_| AtomicU64::default()),
        }
    }
}

/// Index of the bucket that holds a latency.
fn bucket(nanos: u64) -> usize {
    if nanos < 256 {
        return 0;
    }
    let octave = nanos.ilog2() as usize;
    let quarter = (nanos >> (octave - 2) & 3) as usize;
    (1 + 4 * (octave - 8) + quarter).min(BUCKETS - 1)
}

/// Upper bound of a bucket in nanoseconds.
fn bucket_limit(index: usize) -> u64 {
    let (octave, quarter) = ((index.saturating_sub(1)) / 4, (index.saturating_sub(1)) % 4);
    if index == 0 { 256 } else { ((5 + quarter as u64) << (octave + 8)) / 4 }
}

/// How a channel waited.
#[derive(Debug, Default)]
pub(crate) struct WaitCounters {
    pub(crate) req_fuse: AtomicU64,
    pub(crate) req_xfuse: AtomicU64,
    pub(crate) spin_hit: AtomicU64,
    pub(crate) spin_expired: AtomicU64,
    pub(crate) blocked: AtomicU64,
    pub(crate) spin_ns: AtomicU64,
    pub(crate) block_ns: AtomicU64,
    pub(crate) wakes: AtomicU64,
    pub(crate) window_ns: AtomicU64,
    pub(crate) short_gaps: AtomicU64,
}

/// Counters of one channel.
#[derive(Debug)]
pub(crate) struct ChannelStats {
    pub(crate) wait: WaitCounters,
    operations: Vec<OperationCounters>,
    /// Requests of operations this crate does not know.
    pub(crate) unknown: AtomicU64,
    /// Requests that could not be decoded.
    pub(crate) malformed: AtomicU64,
    /// Handlers that panicked.
    pub(crate) panics: AtomicU64,
    /// Handlers that returned an error that is none.
    pub(crate) bad_errnos: AtomicU64,
    /// Interrupts received.
    pub(crate) interrupts: AtomicU64,
    /// Replies to requests that the kernel had given up.
    pub(crate) late_replies: AtomicU64,
    /// Replies the kernel refused.
    pub(crate) refused_replies: AtomicU64,
}

impl ChannelStats {
    pub(crate) fn new() -> Self {
        ChannelStats {
            wait: WaitCounters::default(),
            operations: (0..opcode_slots()).map(|_| OperationCounters::default()).collect(),
            unknown: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            bad_errnos: AtomicU64::new(0),
            interrupts: AtomicU64::new(0),
            late_replies: AtomicU64::new(0),
            refused_replies: AtomicU64::new(0),
        }
    }

    /// A request begins. True if its latency is to be measured.
    pub(crate) fn begin(&self, opcode: Opcode) -> bool {
        self.operations[opcode.index()].begun.fetch_add(1, Relaxed).is_multiple_of(SAMPLED)
    }

    /// A request ends, after this time if that was measured.
    pub(crate) fn record(&self, opcode: Opcode, latency: Option<Duration>, failed: bool) {
        let counters = &self.operations[opcode.index()];
        counters.count.fetch_add(1, Relaxed);
        if failed {
            counters.errors.fetch_add(1, Relaxed);
        }
        if let Some(latency) = latency {
            let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
            counters.nanos.fetch_add(nanos, Relaxed);
            counters.latency[bucket(nanos)].fetch_add(1, Relaxed);
        }
    }
}

/// How one channel waited for its requests, in a [`Snapshot`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitStats {
    /// Requests labelled FUSE: of waits that block at once.
    pub req_fuse: u64,
    /// Requests labelled XFUSE: of waits that may spin.
    pub req_xfuse: u64,
    /// Spins that met a request.
    pub spin_hit: u64,
    /// Spins whose window passed.
    pub spin_expired: u64,
    /// Waits that ended by blocking.
    pub blocked: u64,
    /// Nanoseconds spun.
    pub spin_ns: u64,
    /// Nanoseconds blocked.
    pub block_ns: u64,
    /// Times the channel was woken from blocking, with or without there being a request.
    pub wakes: u64,
    /// The window of the last wait in nanoseconds, 0 if it did not spin. A gauge.
    pub window_ns: u64,
}

impl WaitStats {
    /// Sums of counters; the largest window.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a WaitStats>) -> WaitStats {
        all.into_iter().fold(WaitStats::default(), |sum, one| WaitStats {
            req_fuse: sum.req_fuse + one.req_fuse,
            req_xfuse: sum.req_xfuse + one.req_xfuse,
            spin_hit: sum.spin_hit + one.spin_hit,
            spin_expired: sum.spin_expired + one.spin_expired,
            blocked: sum.blocked + one.blocked,
            spin_ns: sum.spin_ns + one.spin_ns,
            block_ns: sum.block_ns + one.block_ns,
            wakes: sum.wakes + one.wakes,
            window_ns: sum.window_ns.max(one.window_ns),
        })
    }
}

impl WaitCounters {
    fn read(&self) -> WaitStats {
        WaitStats {
            req_fuse: self.req_fuse.load(Relaxed),
            req_xfuse: self.req_xfuse.load(Relaxed),
            spin_hit: self.spin_hit.load(Relaxed),
            spin_expired: self.spin_expired.load(Relaxed),
            blocked: self.blocked.load(Relaxed),
            spin_ns: self.spin_ns.load(Relaxed),
            block_ns: self.block_ns.load(Relaxed),
            wakes: self.wakes.load(Relaxed),
            window_ns: self.window_ns.load(Relaxed),
        }
    }
}

/// Live statistics of a session.
#[derive(Debug, Clone)]
pub struct Stats {
    channels: Arc<[(Arc<ChannelStats>, Arc<Inflight>)]>,
    /// How many of them, from the first, wait by the session's policy.
    waiting: usize,
    pool: crate::buffer::Pool,
}

/// One operation in a [`Snapshot`].
#[derive(Debug, Clone)]
pub struct OperationStats {
    /// The operation.
    pub opcode: Opcode,
    /// Requests answered.
    pub count: u64,
    /// Of these, with an error.
    pub errors: u64,
    /// Time from reading the request until the reply is ready, summed over the requests that were measured.
    pub total: Duration,
    buckets: Vec<u64>,
}

impl OperationStats {
    /// Requests whose latency was measured: one in [`SAMPLED`].
    pub fn measured(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Mean latency of the requests that were measured.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos((self.total.as_nanos() / u128::from(self.measured().max(1))) as u64)
    }

    /// A latency that the given share (0 to 1) of measured requests did not exceed, to within a quarter of its power of two.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (self.measured() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(bucket_limit(index));
            }
        }
        Duration::ZERO
    }
}

/// Statistics at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Operations that occurred.
    pub operations: Vec<OperationStats>,
    /// How each channel waited. What serves the device beside the queues of io_uring does not count.
    pub channels: Vec<WaitStats>,
    /// Requests being handled.
    pub in_flight: usize,
    /// Request buffers in use, one per channel included.
    pub buffers_in_use: usize,
    /// Requests of operations this crate does not know (answered `ENOSYS`).
    pub unknown: u64,
    /// Requests that could not be decoded (answered `EINVAL`).
    pub malformed: u64,
    /// Handlers that panicked (answered `EIO`).
    pub panics: u64,
    /// Handlers that returned a number that is no errno (answered `EIO`).
    pub bad_errnos: u64,
    /// Interrupts received.
    pub interrupts: u64,
    /// Replies to requests that the kernel had given up.
    pub late_replies: u64,
    /// Replies the kernel refused as malformed.
    pub refused_replies: u64,
}

impl Snapshot {
    /// The statistics of one operation, if it occurred.
    pub fn operation(&self, opcode: Opcode) -> Option<&OperationStats> {
        self.operations.iter().find(|operation| operation.opcode == opcode)
    }

    /// Number of requests of one operation.
    pub fn count(&self, opcode: Opcode) -> u64 {
        self.operation(opcode).map_or(0, |operation| operation.count)
    }
}

impl Stats {
    pub(crate) fn new(
        channels: Vec<(Arc<ChannelStats>, Arc<Inflight>)>,
        waiting: usize,
        pool: crate::buffer::Pool,
    ) -> Self {
        Stats { channels: channels.into(), waiting, pool }
    }

    /// The sum over all channels at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let sum = |field: fn(&ChannelStats) -> &AtomicU64| -> u64 {
            self.channels.iter().map(|(stats, _)| field(stats).load(Relaxed)).sum()
        };
        Snapshot {
            operations: Opcode::ALL.iter().filter_map(|opcode| self.operation(*opcode)).collect(),
            channels: self.channels.iter().take(self.waiting).map(|(stats, _)| stats.wait.read()).collect(),
            in_flight: self.channels.iter().map(|(_, inflight)| inflight.busy()).sum(),
            buffers_in_use: self.pool.in_use(),
            unknown: sum(|s| &s.unknown),
            malformed: sum(|s| &s.malformed),
            panics: sum(|s| &s.panics),
            bad_errnos: sum(|s| &s.bad_errnos),
            interrupts: sum(|s| &s.interrupts),
            late_replies: sum(|s| &s.late_replies),
            refused_replies: sum(|s| &s.refused_replies),
        }
    }

    fn operation(&self, opcode: Opcode) -> Option<OperationStats> {
        let mut result =
            OperationStats { opcode, count: 0, errors: 0, total: Duration::ZERO, buckets: vec![0; BUCKETS] };
        for (channel, _) in self.channels.iter() {
            let counters = &channel.operations[opcode.index()];
            result.count += counters.count.load(Relaxed);
            result.errors += counters.errors.load(Relaxed);
            result.total += Duration::from_nanos(counters.nanos.load(Relaxed));
            for (sum, bucket) in result.buckets.iter_mut().zip(&counters.latency) {
                *sum += bucket.load(Relaxed);
            }
        }
        (result.count > 0).then_some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_and_latencies_those_of_a_sample() {
        let channel = ChannelStats::new();
        for number in 0..80u64 {
            let measured = channel.begin(Opcode::Read);
            assert_eq!(measured, number % SAMPLED == 0);
            channel.record(Opcode::Read, measured.then_some(Duration::from_micros(10)), number % 10 == 0);
        }
        let pool = crate::buffer::Pool::new(1 << 12, 1);
        let stats = Stats::new(vec![(Arc::new(channel), Inflight::new(1))], 1, pool);
        let read = stats.snapshot().operation(Opcode::Read).cloned().unwrap();
        assert_eq!((read.count, read.errors, read.measured()), (80, 8, 10));
        assert_eq!((read.mean(), read.total), (Duration::from_micros(10), Duration::from_micros(100)));
        assert!(read.quantile(0.5) >= read.mean() && read.quantile(0.01) == read.quantile(1.0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic only, and slow")]
    fn buckets_are_ordered_and_hold_their_values() {
        let mut last = 0;
        for nanos in (0..1 << 20).step_by(7).chain((1 << 20..1 << 36).step_by(1 << 20)) {
            let index = bucket(nanos);
            assert!(index >= last, "buckets do not decrease at {nanos}");
            assert!(nanos < bucket_limit(index), "{nanos} is below the limit of bucket {index}");
            assert!(index == 0 || nanos >= bucket_limit(index - 1), "{nanos} is not below bucket {index}");
            last = index;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}

//! What goes wrong, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use valor_env::disk::memory::{Fault, OpKind};

use crate::cluster::{CLIENT, Cluster, DISK, KV, Kind, META, STORAGE, Shape};
use crate::net::Host;
use crate::rng::Rng;

/// Kinds of faults. A run has some of them, so that seeds differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A storage server's process is killed and started again.
    Kill,
    /// A storage server's machine loses power.
    Power,
    /// All storage servers are killed, one shortly after the other.
    KillAll,
    /// All storage servers lose power.
    PowerAll,
    /// A manager is killed or loses power.
    Mgmtd,
    /// A metadata server is killed or loses power.
    Meta,
    /// The shared database is killed or loses power, for a short time.
    Kv,
    /// The primary manager or a metadata server does not reach the shared database but everyone else; perhaps its clock
    /// goes wrong, too.
    Storeless,
    /// Two hosts do not hear each other.
    Partition,
    /// One host does not hear another, which hears it.
    OneWay,
    /// A storage server, and perhaps a client, does not reach one or all managers but everyone else.
    Unmanaged,
    /// A host reaches nobody.
    Isolation,
    /// Connections break, one after the other.
    Resets,
    /// A host answers slowly.
    Slow,
    /// A wall clock jumps and is set right later.
    Clock,
    /// A disk is full for a while.
    Full,
    /// A disk is slow for a while.
    SlowDisk,
    /// A disk fails until its server is started again.
    BadDisk,
}

/// All kinds, with how often each comes.
pub const KINDS: &[(FaultKind, u64)] = &[
    (FaultKind::Kill, 10),
    (FaultKind::Power, 8),
    (FaultKind::KillAll, 6),
    (FaultKind::PowerAll, 6),
    (FaultKind::Mgmtd, 4),
    (FaultKind::Meta, 4),
    (FaultKind::Kv, 3),
    (FaultKind::Storeless, 8),
    (FaultKind::Partition, 6),
    (FaultKind::OneWay, 8),
    (FaultKind::Unmanaged, 8),
    (FaultKind::Isolation, 5),
    (FaultKind::Resets, 10),
    (FaultKind::Slow, 6),
    (FaultKind::Clock, 3),
    (FaultKind::Full, 3),
    (FaultKind::SlowDisk, 4),
    (FaultKind::BadDisk, 2),
];

/// Something to be done later.
#[derive(Debug)]
enum Later {
    Boot(usize),
    Reset(Host, Host),
    Unblock(Host, Host),
    Unslow(Host),
    SetClockRight(usize),
    Capacity(usize),
    FastDisk(usize),
    Restart(usize),
}

/// The faults of a run.
pub struct Faults {
    rng: Rng,
    kinds: Vec<(FaultKind, u64)>,
    agenda: BTreeMap<(Instant, u64), Later>,
    next: u64,
    /// Longest pause between two faults.
    pause: Duration,
}

impl Faults {
    /// A choice of faults.
    pub fn new(mut rng: Rng, shape: Shape) -> Self {
        let share = *rng.pick(&[0.25, 0.5, 0.8]);
        let mut possible = KINDS.to_vec();
        if shape.shares_database() {
            // What these runs are for.
            let weight = |kind| if matches!(kind, FaultKind::Mgmtd | FaultKind::Meta) { 3 } else { 1 };
            possible.iter_mut().for_each(|(kind, often)| *often *= weight(*kind));
        } else {
            possible.retain(|(kind, _)| !matches!(kind, FaultKind::Kv | FaultKind::Storeless));
        }
        let mut kinds: Vec<_> = possible.iter().copied().filter(|_| rng.chance(share)).collect();
        if kinds.is_empty() {
            kinds.push(*rng.pick(&possible));
        }
        let pause = Duration::from_millis(*rng.pick(&[800, 2000, 5000]));
        Self { rng, kinds, agenda: BTreeMap::new(), next: 0, pause }
    }

    /// Faults of these kinds only.
    pub fn of(rng: Rng, kinds: &[FaultKind], pause: Duration) -> Self {
        let kinds = kinds.iter().map(|kind| (*kind, 1)).collect();
        Self { rng, kinds, agenda: BTreeMap::new(), next: 0, pause }
    }

    /// Lets faults happen for some time, then ends them all.
    pub async fn run(&mut self, cluster: &mut Cluster, time: Duration) {
        let end = Instant::now() + time;
        let mut next_fault = Instant::now() + self.rng.millis(0..1000);
        loop {
            let agenda = self.agenda.keys().next().map(|(at, _)| *at);
            let now = agenda.unwrap_or(next_fault).min(next_fault).min(end);
            sleep_until(now).await;
            if now >= end {
                break;
            }
            self.work_off(cluster, now);
            if next_fault <= now {
                self.strike(cluster);
                next_fault = now + self.pause.mul_f64(self.rng.below(50..1000) as f64 / 1000.0);
            }
        }
        self.heal(cluster);
    }

    /// Ends all faults.
    pub fn heal(&mut self, cluster: &mut Cluster) {
        cluster.trace.event("all faults end");
        for (_, later) in std::mem::take(&mut self.agenda) {
            self.perform(cluster, later);
        }
        for index in 0..cluster.nodes.len() {
            if !cluster.is_up(index) {
                cluster.boot(index);
            }
        }
    }

    fn work_off(&mut self, cluster: &mut Cluster, now: Instant) {
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
            let later = entry.remove();
            self.perform(cluster, later);
        }
    }

    fn later(&mut self, after: Duration, what: Later) {
        self.next += 1;
        self.agenda.insert((Instant::now() + after, self.next), what);
    }

    fn perform(&mut self, cluster: &mut Cluster, later: Later) {
        match later {
            Later::Boot(index) if cluster.is_up(index) => {}
            Later::Boot(index) => cluster.boot(index),
            Later::Reset(a, b) => {
                let count = cluster.net.reset(a, b);
                cluster.trace.event(format_args!("{count} connections between {a} and {b} reset"));
            }
            Later::Unblock(from, to) => {
                cluster.trace.event(format_args!("{from} reaches {to}"));
                cluster.net.unblock(from, to);
            }
            Later::Unslow(host) => cluster.net.set_slow(host, Duration::ZERO),
            Later::SetClockRight(index) => cluster.nodes[index].machine.set_clock_right(),
            Later::Capacity(index) => {
                cluster.trace.event(format_args!("disk of {} has room", cluster.nodes[index].machine.name));
                cluster.nodes[index].machine.disk.set_capacity(DISK);
            }
            Later::FastDisk(index) => {
                cluster.nodes[index].machine.disk.set_latency(Duration::from_millis(2));
            }
            Later::Restart(index) => {
                // A new disk in the sense that it does not fail any more.
                cluster.kill(index);
                cluster.boot(index);
            }
        }
    }

    fn choose(&mut self) -> FaultKind {
        let total: u64 = self.kinds.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.below(0..total);
        for (kind, weight) in &self.kinds {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return *kind,
            }
        }
        self.kinds[0].0
    }

    fn strike(&mut self, cluster: &mut Cluster) {
        let nodes = cluster.of(Kind::Storage);
        let node = *self.rng.pick(&nodes);
        let host = cluster.nodes[node].machine.host;
        match self.choose() {
            FaultKind::Kill => self.stop(cluster, node, false, Duration::ZERO),
            FaultKind::Power => self.stop(cluster, node, true, Duration::ZERO),
            FaultKind::KillAll => self.stop_all(cluster, &nodes, false),
            FaultKind::PowerAll => self.stop_all(cluster, &nodes, true),
            FaultKind::Mgmtd => {
                // More often than not the one that matters.
                let primaries = cluster.primaries();
                let all = if self.rng.chance(0.5) { primaries } else { Vec::new() };
                let all = if all.is_empty() { cluster.of(Kind::Mgmtd) } else { all };
                self.stop_one(cluster, &all);
            }
            FaultKind::Meta => self.stop_one(cluster, &cluster.of(Kind::Meta)),
            FaultKind::Kv => self.stop_database(cluster),
            FaultKind::Storeless => self.storeless(cluster),
            FaultKind::Partition => {
                let (a, b) = self.two_hosts(cluster);
                let time = self.rng.millis(200..8000);
                self.block(cluster, a, b, time);
                self.block(cluster, b, a, time);
            }
            FaultKind::OneWay => {
                let (a, b) = self.two_hosts(cluster);
                let time = self.rng.millis(200..8000);
                self.block(cluster, a, b, time);
            }
            FaultKind::Unmanaged => self.unmanaged(cluster, host),
            FaultKind::Isolation => {
                let hosts = cluster.hosts();
                let host = *self.rng.pick(&hosts);
                let time = self.rng.millis(200..6000);
                for other in hosts.into_iter().filter(|other| *other != host) {
                    self.block(cluster, host, other, time);
                    self.block(cluster, other, host, time);
                }
            }
            FaultKind::Resets => self.resets(cluster),
            FaultKind::Slow => {
                let host = *self.rng.pick(&cluster.hosts());
                let extra = self.rng.millis(5..400);
                cluster.trace.event(format_args!("{host} is slow by {extra:?}"));
                cluster.net.set_slow(host, extra);
                let time = self.rng.millis(500..6000);
                self.later(time, Later::Unslow(host));
            }
            FaultKind::Clock => {
                let index = self.rng.index(cluster.nodes.len());
                self.jump(cluster, index);
            }
            FaultKind::Full => {
                let disk = &cluster.nodes[node].machine.disk;
                let used: u64 = disk.files().iter().map(|(_, _, bytes)| bytes).sum();
                cluster.trace.event(format_args!("disk of {} is full", cluster.nodes[node].machine.name));
                disk.set_capacity(used + self.rng.below(0..3 << 20));
                let time = self.rng.millis(500..6000);
                self.later(time, Later::Capacity(node));
            }
            FaultKind::SlowDisk => {
                let latency = self.rng.millis(10..150);
                cluster.trace.event(format_args!("disk of {} is slow", cluster.nodes[node].machine.name));
                cluster.nodes[node].machine.disk.set_latency(latency);
                let time = self.rng.millis(500..6000);
                self.later(time, Later::FastDisk(node));
            }
            FaultKind::BadDisk => {
                let kind = *self.rng.pick(&[None, Some(OpKind::Write), Some(OpKind::Sync)]);
                let fault = Fault { kind, after: self.rng.below(0..50), times: u64::MAX, ..Fault::default() };
                cluster.trace.event(format_args!("disk of {} fails", cluster.nodes[node].machine.name));
                cluster.nodes[node].machine.disk.inject(fault);
                let time = self.rng.millis(500..6000);
                self.later(time, Later::Restart(node));
            }
        }
    }

    fn stop(&mut self, cluster: &mut Cluster, index: usize, power: bool, extra: Duration) {
        if !cluster.is_up(index) {
            return;
        }
        if power {
            let keep = *self.rng.pick(&[0.0, 0.0, 0.3, 0.7, 1.0]);
            cluster.cut_power(index, keep);
        } else {
            cluster.kill(index);
        }
        let long = self.rng.chance(0.4);
        let down = if long { self.rng.millis(2000..10_000) } else { self.rng.millis(10..1500) };
        self.later(down + extra, Later::Boot(index));
    }

    fn stop_one(&mut self, cluster: &mut Cluster, of: &[usize]) {
        let index = *self.rng.pick(of);
        let power = self.rng.chance(0.3);
        self.stop(cluster, index, power, Duration::ZERO);
    }

    fn stop_database(&mut self, cluster: &mut Cluster) {
        let down = self.rng.millis(10..1500);
        for index in cluster.of(Kind::Kv) {
            if !cluster.is_up(index) {
                continue;
            }
            if self.rng.chance(0.3) {
                cluster.cut_power(index, 0.0);
            } else {
                cluster.kill(index);
            }
            self.later(down, Later::Boot(index));
        }
    }

    fn jump(&mut self, cluster: &Cluster, index: usize) {
        let seconds = self.rng.below(0..100) as i64 - 50;
        let machine = &cluster.nodes[index].machine;
        cluster.trace.event(format_args!("clock of {} jumps {seconds} s", machine.name));
        machine.jump(seconds * 1_000_000);
        let time = self.rng.millis(500..10_000);
        self.later(time, Later::SetClockRight(index));
    }

    fn storeless(&mut self, cluster: &Cluster) {
        let mut victims = cluster.primaries();
        if victims.is_empty() || self.rng.chance(0.3) {
            victims = cluster.of(Kind::Meta);
        }
        let victim = *self.rng.pick(&victims);
        let (host, time) = (cluster.nodes[victim].machine.host, self.rng.millis(500..12_000));
        let direction = self.rng.below(0..4);
        if direction != 0 {
            self.block(cluster, host, KV, time);
        }
        if direction != 1 {
            self.block(cluster, KV, host, time);
        }
        if self.rng.chance(0.3) {
            self.jump(cluster, victim);
        }
    }

    fn stop_all(&mut self, cluster: &mut Cluster, nodes: &[usize], power: bool) {
        for node in nodes {
            let extra = self.rng.millis(0..1500);
            self.stop(cluster, *node, power, extra);
        }
    }

    fn two_hosts(&mut self, cluster: &Cluster) -> (Host, Host) {
        let hosts = cluster.hosts();
        loop {
            let (a, b) = (*self.rng.pick(&hosts), *self.rng.pick(&hosts));
            // Clients do not talk to each other.
            if a != b && !(a >= CLIENT && b >= CLIENT) {
                return (a, b);
            }
        }
    }

    fn block(&mut self, cluster: &Cluster, from: Host, to: Host, time: Duration) {
        cluster.trace.event(format_args!("{from} does not reach {to} for {time:?}"));
        cluster.net.block(from, to);
        self.later(time, Later::Unblock(from, to));
    }

    /// Longer than the manager waits for heartbeats, mostly.
    fn unmanaged(&mut self, cluster: &Cluster, host: Host) {
        let time = self.rng.millis(1500..9000);
        let mut cut = vec![host];
        cut.extend(cluster.clients.iter().map(|client| client.machine.host).filter(|_| self.rng.chance(0.5)));
        let both = self.rng.chance(0.7);
        let mut managers = cluster.managers();
        if managers.len() > 1 && self.rng.chance(0.5) {
            managers = vec![*self.rng.pick(&managers)];
        }
        for host in cut {
            for manager in managers.iter().copied() {
                self.block(cluster, manager, host, time);
                if both {
                    self.block(cluster, host, manager, time);
                }
            }
        }
    }

    /// Answers get lost: those of servers to clients above all, and of successors to predecessors.
    fn resets(&mut self, cluster: &Cluster) {
        let count = 3 + self.rng.index(20);
        for _ in 0..count {
            let server = STORAGE + self.rng.index(usize::from(cluster.shape.storage)) as u8;
            let client = CLIENT + self.rng.index(usize::from(cluster.shape.clients)) as u8;
            let meta = META + self.rng.index(usize::from(cluster.shape.metas)) as u8;
            let (a, b) = match self.rng.below(0..10) {
                0..5 => (client, server),
                5..7 => (client, meta),
                7 => (meta, if cluster.shape.shares_database() { KV } else { client }),
                _ => self.two_hosts(cluster),
            };
            let after = self.rng.millis(0..2500);
            self.later(after, Later::Reset(a, b));
        }
    }
}

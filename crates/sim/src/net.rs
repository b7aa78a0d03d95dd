//! The network: byte streams between hosts with delay, partitions in either direction, resets, and hosts that vanish.
//!
//! As with TCP, bytes arrive in order and once, or the connection ends. A blocked direction holds its bytes back, and
//! they arrive when it heals; a reset loses what had not arrived. So a request may be executed whose answer is lost.

mod pipe;
mod socket;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use valor_env::{Acceptor, Endpoint, Listener, Stream};

use crate::trace::Trace;
use pipe::Pipe;
use socket::SimSocket;

/// A machine, by the last byte of its address.
pub type Host = u8;

/// A blocked direction that holds bytes for longer than this ends the connection, as an operating system would.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);

/// One run of a process. What it holds is useless once it is dead.
#[derive(Debug, Default)]
pub struct Life {
    dead: AtomicBool,
}

impl Life {
    /// Whether the process is still there.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

/// How a process ends, as its peers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The operating system closes its connections after what was sent.
    Closed,
    /// The machine is gone: peers hear nothing until it is back.
    Silent,
}

/// The network. Clones are the same network.
#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// A direction was opened.
    healed: Notify,
    trace: Trace,
}

struct State {
    rng: StdRng,
    listeners: BTreeMap<SocketAddr, Listening>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    /// Directions that carry nothing, with the number of reasons.
    blocked: BTreeMap<(Host, Host), u32>,
    delay_max: Duration,
    slow: BTreeMap<Host, Duration>,
    silent: BTreeSet<Host>,
}

struct Listening {
    life: Arc<Life>,
    queue: VecDeque<Stream>,
    waker: Option<Waker>,
}

struct Connection {
    ends: [(Host, Arc<Life>); 2],
    /// From the first end to the second, and back.
    pipes: [Arc<Pipe>; 2],
}

impl Net {
    /// A network without hosts; `seed` decides delays.
    pub fn new(seed: u64, trace: Trace) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            next: 1,
            blocked: BTreeMap::new(),
            delay_max: Duration::from_millis(2),
            slow: BTreeMap::new(),
            silent: BTreeSet::new(),
        };
        Self(Arc::new(Inner { state: Mutex::new(state), healed: Notify::new(), trace }))
    }

    /// Address of a host's service.
    pub fn address(host: Host) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), 8000)
    }

    /// Delays are random up to this.
    pub fn set_delay(&self, max: Duration) {
        self.0.state.lock().delay_max = max;
    }

    /// Everything to and from a host takes up to this much longer; zero ends it.
    pub fn set_slow(&self, host: Host, extra: Duration) {
        let mut state = self.0.state.lock();
        if extra.is_zero() {
            state.slow.remove(&host)
        } else {
            state.slow.insert(host, extra)
        };
    }

    /// Blocks a direction until it was unblocked as often.
    pub fn block(&self, from: Host, to: Host) {
        *self.0.state.lock().blocked.entry((from, to)).or_default() += 1;
    }

    /// Takes one reason away to block a direction.
    pub fn unblock(&self, from: Host, to: Host) {
        let mut state = self.0.state.lock();
        let Some(count) = state.blocked.get_mut(&(from, to)) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        state.blocked.remove(&(from, to));
        let now = Instant::now();
        let mut broken = Vec::new();
        for (id, connection) in &state.connections {
            for (pipe, sender) in connection.pipes.iter().zip(0..) {
                let ends = (connection.ends[sender].0, connection.ends[1 - sender].0);
                if ends != (from, to) {
                    continue;
                }
                if pipe.oldest().is_some_and(|sent| now - sent > UNACKNOWLEDGED_MAX) {
                    broken.push(*id);
                }
                pipe.wake();
            }
        }
        for id in broken {
            state.reset(id);
        }
        drop(state);
        self.0.healed.notify_waiters();
    }

    /// Ends the connections between two hosts; what is under way is lost. Returns how many there were.
    pub fn reset(&self, a: Host, b: Host) -> usize {
        let mut state = self.0.state.lock();
        let between = |ends: &[(Host, Arc<Life>); 2]| {
            (ends[0].0, ends[1].0) == (a, b) || (ends[0].0, ends[1].0) == (b, a)
        };
        let ids: Vec<u64> =
            state.connections.iter().filter(|(_, c)| between(&c.ends)).map(|(id, _)| *id).collect();
        for id in &ids {
            state.reset(*id);
        }
        ids.len()
    }

    /// Ends a process's part in the network.
    pub fn kill(&self, host: Host, life: &Arc<Life>, how: End) {
        life.dead.store(true, Ordering::Relaxed);
        let mut state = self.0.state.lock();
        state.listeners.retain(|_, listening| !Arc::ptr_eq(&listening.life, life));
        let ours =
            |connection: &Connection| connection.ends.iter().position(|(_, owner)| Arc::ptr_eq(owner, life));
        let ids: Vec<(u64, usize)> =
            state.connections.iter().filter_map(|(id, c)| Some((*id, ours(c)?))).collect();
        match how {
            End::Closed => {
                for (id, end) in ids {
                    let pipes = &state.connections[&id].pipes;
                    pipes[end].finish();
                    pipes[1 - end].refuse();
                }
            }
            End::Silent => {
                state.silent.insert(host);
            }
        }
    }

    /// A host that was silent answers again: connections of dead processes end.
    pub fn boot(&self, host: Host) {
        let mut state = self.0.state.lock();
        state.silent.remove(&host);
        let stale = |c: &Connection| c.ends.iter().any(|(at, life)| *at == host && life.is_dead());
        let ids: Vec<u64> = state.connections.iter().filter(|(_, c)| stale(c)).map(|(id, _)| *id).collect();
        for id in ids {
            state.reset(id);
        }
        drop(state);
        self.0.healed.notify_waiters();
    }

    /// Listens for a process.
    pub(crate) fn bind(&self, host: Host, life: &Arc<Life>, on: &Endpoint) -> io::Result<Listener> {
        let Endpoint::Tcp(address) = on else { return Err(io::ErrorKind::Unsupported.into()) };
        if host_of(*address) != Some(host) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let mut state = self.0.state.lock();
        if state.listeners.contains_key(address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let listening = Listening { life: Arc::clone(life), queue: VecDeque::new(), waker: None };
        state.listeners.insert(*address, listening);
        let acceptor = SimAcceptor { net: self.clone(), address: *address, life: Arc::clone(life) };
        Ok(Listener::new(acceptor, on.clone()))
    }

    /// Connects for a process.
    pub(crate) async fn connect(&self, from: Host, life: Arc<Life>, to: Endpoint) -> io::Result<Stream> {
        let Endpoint::Tcp(address) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        let Some(host) = host_of(address) else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
        let pause = {
            let mut state = self.0.state.lock();
            state.delay(from, host) + state.delay(host, from)
        };
        sleep(pause).await;
        loop {
            let healed = self.0.healed.notified();
            {
                let mut state = self.0.state.lock();
                if life.is_dead() {
                    drop(state);
                    return std::future::pending().await;
                }
                if state.passes(from, host) && state.passes(host, from) && !state.silent.contains(&host) {
                    return self.open(&mut state, from, &life, host, address);
                }
            }
            healed.await;
        }
    }

    fn open(
        &self,
        state: &mut State,
        from: Host,
        life: &Arc<Life>,
        to: Host,
        address: SocketAddr,
    ) -> io::Result<Stream> {
        let Some(listening) = state.listeners.get_mut(&address) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let id = state.next;
        state.next += 1;
        let pipes = [Arc::new(Pipe::default()), Arc::new(Pipe::default())];
        let ends = [(from, Arc::clone(life)), (to, Arc::clone(&listening.life))];
        let end = |index: usize| SimSocket {
            net: self.clone(),
            id,
            host: ends[index].0,
            peer: ends[1 - index].0,
            life: Arc::clone(&ends[index].1),
            out: Arc::clone(&pipes[index]),
            inward: Arc::clone(&pipes[1 - index]),
            arrival: Mutex::default(),
        };
        let port = 10_000 + (id % 50_000) as u16;
        let ours = SocketAddr::new(Self::address(from).ip(), port);
        let stream = Stream::new(end(0), Endpoint::Tcp(address));
        listening.queue.push_back(Stream::new(end(1), Endpoint::Tcp(ours)));
        if let Some(waker) = listening.waker.take() {
            waker.wake();
        }
        state.connections.insert(id, Connection { ends, pipes });
        self.0.trace.bytes(2, &[from, to]);
        Ok(stream)
    }

    fn passes(&self, from: Host, to: Host) -> bool {
        self.0.state.lock().passes(from, to)
    }

    fn delay(&self, from: Host, to: Host) -> Duration {
        self.0.state.lock().delay(from, to)
    }

    /// One end of a connection was dropped.
    fn dropped(&self, id: u64, out: &Pipe, inward: &Pipe) {
        out.finish();
        inward.refuse();
        if inward.is_finished() {
            self.0.state.lock().connections.remove(&id);
        }
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.0.state.lock().connections.len()
    }
}

impl State {
    fn passes(&self, from: Host, to: Host) -> bool {
        !self.blocked.contains_key(&(from, to))
    }

    fn delay(&mut self, from: Host, to: Host) -> Duration {
        let extra = |host| self.slow.get(&host).copied().unwrap_or_default();
        let max = self.delay_max + extra(from) + extra(to);
        max.mul_f64(self.rng.random::<f64>())
    }

    fn reset(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            connection.pipes.iter().for_each(|pipe| pipe.reset());
        }
    }
}

/// The host that an address belongs to.
fn host_of(address: SocketAddr) -> Option<Host> {
    match address.ip() {
        IpAddr::V4(ip) if ip.octets()[..3] == [10, 0, 0] => Some(ip.octets()[3]),
        _ => None,
    }
}

struct SimAcceptor {
    net: Net,
    address: SocketAddr,
    life: Arc<Life>,
}

impl Acceptor for SimAcceptor {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let mut state = self.net.0.state.lock();
        let Some(listening) = state.listeners.get_mut(&self.address) else { return Poll::Pending };
        if !Arc::ptr_eq(&listening.life, &self.life) {
            return Poll::Pending;
        }
        match listening.queue.pop_front() {
            Some(stream) => Poll::Ready(Ok(stream)),
            None => {
                listening.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for SimAcceptor {
    fn drop(&mut self) {
        let mut state = self.net.0.state.lock();
        let ours = |listening: &Listening| Arc::ptr_eq(&listening.life, &self.life);
        // Streams nobody accepted end when the lock is free: dropping them takes it.
        let gone = match state.listeners.get(&self.address).is_some_and(ours) {
            true => state.listeners.remove(&self.address),
            false => None,
        };
        drop(state);
        drop(gone);
    }
}

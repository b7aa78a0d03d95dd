//! A network in memory, so that tokio's paused clock can be used: sockets that are never "about to be readable".

use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use valor_env::{Acceptor, BoxFuture, Endpoint, Env, Listener, Socket, Stream, UtcMicros, World};
use valor_protocol::layout::Mt19937_64;

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    closed: bool,
    reader: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

type SharedPipe = Arc<Mutex<Pipe>>;

struct End {
    incoming: SharedPipe,
    outgoing: SharedPipe,
}

impl Socket for End {
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.incoming.lock();
        if pipe.bytes.is_empty() && !pipe.closed {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let take = buf.len().min(pipe.bytes.len());
        for (to, from) in buf.iter_mut().zip(pipe.bytes.drain(..take)) {
            *to = from;
        }
        Ok(take)
    }

    fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut pipe = self.outgoing.lock();
        if pipe.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        for buf in bufs {
            pipe.bytes.extend(buf.iter());
        }
        pipe.wake();
        Ok(bufs.iter().map(|buf| buf.len()).sum())
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.incoming.lock();
        if pipe.bytes.is_empty() && !pipe.closed {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn shutdown(&self) {
        for pipe in [&self.incoming, &self.outgoing] {
            let mut pipe = pipe.lock();
            pipe.closed = true;
            pipe.wake();
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.shutdown();
    }
}

#[derive(Default)]
struct Backlog {
    streams: VecDeque<Stream>,
    waker: Option<Waker>,
}

struct MemoryListener {
    address: SocketAddr,
    net: Net,
    backlog: Arc<Mutex<Backlog>>,
}

impl Acceptor for MemoryListener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let mut backlog = self.backlog.lock();
        match backlog.streams.pop_front() {
            Some(stream) => Poll::Ready(Ok(stream)),
            None => {
                backlog.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.net.0.lock().listeners.remove(&self.address);
    }
}

#[derive(Default)]
struct Shared {
    listeners: HashMap<SocketAddr, Arc<Mutex<Backlog>>>,
    pipes: Vec<(SocketAddr, [SharedPipe; 2])>,
    silent: HashSet<SocketAddr>,
    next_port: u16,
    random: Option<Mt19937_64>,
}

/// The network. Clones are the same one.
#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<Shared>>);

impl Net {
    pub fn new(seed: u64) -> Net {
        let net = Net::default();
        net.0.lock().random = Some(Mt19937_64::new(seed));
        net
    }

    pub fn env(&self) -> Env {
        Env::new(self.clone())
    }

    /// Breaks all connections to an address. A listener there stays.
    pub fn cut(&self, address: SocketAddr) {
        let mut shared = self.0.lock();
        let (cut, kept) = std::mem::take(&mut shared.pipes).into_iter().partition(|(to, _)| *to == address);
        shared.pipes = kept;
        let cut: Vec<_> = cut;
        for (_, pipes) in cut {
            for pipe in pipes {
                let mut pipe = pipe.lock();
                pipe.closed = true;
                pipe.wake();
            }
        }
    }

    /// Connections to a silent address are never established.
    pub fn silence(&self, address: SocketAddr) {
        self.0.lock().silent.insert(address);
        self.cut(address);
    }
}

impl World for Net {
    fn utc_now(&self) -> UtcMicros {
        UtcMicros(1_700_000_000_000_000)
    }

    fn fill_random(&self, buf: &mut [u8]) {
        let mut shared = self.0.lock();
        let random = shared.random.as_mut().unwrap();
        buf.fill_with(|| random.next_u64() as u8);
    }

    fn hostname(&self) -> String {
        "test".into()
    }

    fn connect(&self, to: Endpoint) -> BoxFuture<io::Result<Stream>> {
        let Endpoint::Tcp(address) = to else { unreachable!("no UNIX sockets here") };
        let net = self.clone();
        Box::pin(async move {
            if net.0.lock().silent.contains(&address) {
                std::future::pending::<()>().await;
            }
            let mut shared = net.0.lock();
            let Some(backlog) = shared.listeners.get(&address).cloned() else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let [a, b] = [SharedPipe::default(), SharedPipe::default()];
            shared.pipes.push((address, [a.clone(), b.clone()]));
            let near = End { incoming: a.clone(), outgoing: b.clone() };
            let far = End { incoming: b, outgoing: a };
            let mut backlog = backlog.lock();
            backlog.streams.push_back(Stream::new(far, Endpoint::Tcp("10.9.9.9:9".parse().unwrap())));
            if let Some(waker) = backlog.waker.take() {
                waker.wake();
            }
            Ok(Stream::new(near, Endpoint::Tcp(address)))
        })
    }

    fn bind(&self, on: &Endpoint, _: bool) -> io::Result<Listener> {
        let Endpoint::Tcp(mut address) = *on else { unreachable!("no UNIX sockets here") };
        let mut shared = self.0.lock();
        if address.port() == 0 {
            shared.next_port += 1;
            address.set_port(1000 + shared.next_port);
        }
        let backlog = Arc::new(Mutex::new(Backlog::default()));
        shared.listeners.insert(address, backlog.clone());
        let listener = MemoryListener { address, net: self.clone(), backlog };
        Ok(Listener::new(listener, Endpoint::Tcp(address)))
    }

    fn disk(&self) -> Arc<dyn valor_env::disk::Disk> {
        unreachable!("clients have no disk")
    }
}

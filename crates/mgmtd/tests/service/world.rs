//! A world for one test: a wall clock that runs with tokio's (which tests pause), seeded randomness and a network in
//! memory.

use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use tokio::time::Instant;
use valor_env::{Acceptor, BoxFuture, Endpoint, Env, Listener, Socket, Stream, UtcMicros, World, disk};

/// 2023-11-14 22:13:20, the wall clock when a test starts.
pub const EPOCH: i64 = 1_700_000_000_000_000;

/// What all machines of a test share.
#[derive(Clone)]
pub struct Hub {
    start: Instant,
    random: Arc<AtomicU64>,
    listeners: Arc<Mutex<HashMap<Endpoint, Arc<Mutex<Backlog>>>>>,
}

/// One machine; its clock may be wrong.
pub struct Machine {
    hub: Hub,
    skew: Arc<AtomicI64>,
}

impl Hub {
    pub fn new(seed: u64) -> Self {
        Self { start: Instant::now(), random: Arc::new(AtomicU64::new(seed)), listeners: Arc::default() }
    }

    /// A machine, and its clock's error in microseconds.
    pub fn machine(&self) -> (Env, Arc<AtomicI64>) {
        let skew = Arc::new(AtomicI64::new(0));
        (Env::new(Machine { hub: self.clone(), skew: Arc::clone(&skew) }), skew)
    }

    fn next_random(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.random.fetch_add(step, Relaxed).wrapping_add(step);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl World for Machine {
    fn utc_now(&self) -> UtcMicros {
        let passed = self.hub.start.elapsed().as_micros() as i64;
        UtcMicros(EPOCH + passed + self.skew.load(Relaxed))
    }

    fn fill_random(&self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            chunk.copy_from_slice(&self.hub.next_random().to_le_bytes()[..chunk.len()]);
        }
    }

    fn hostname(&self) -> String {
        "test".into()
    }

    fn connect(&self, to: Endpoint) -> BoxFuture<io::Result<Stream>> {
        let backlog = self.hub.listeners.lock().get(&to).cloned();
        Box::pin(async move {
            let backlog = backlog.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = pair();
            let mut backlog = backlog.lock();
            backlog.waiting.push_back(Stream::new(theirs, Endpoint::Unix("".into())));
            backlog.waker.take().into_iter().for_each(Waker::wake);
            Ok(Stream::new(ours, to))
        })
    }

    fn bind(&self, on: &Endpoint, _reuse_port: bool) -> io::Result<Listener> {
        let backlog = Arc::new(Mutex::new(Backlog::default()));
        self.hub.listeners.lock().insert(on.clone(), Arc::clone(&backlog));
        Ok(Listener::new(MemoryAcceptor(backlog), on.clone()))
    }

    fn disk(&self) -> Arc<dyn disk::Disk> {
        unreachable!("the manager has no files of its own")
    }
}

#[derive(Default)]
struct Backlog {
    waiting: VecDeque<Stream>,
    waker: Option<Waker>,
}

struct MemoryAcceptor(Arc<Mutex<Backlog>>);

impl Acceptor for MemoryAcceptor {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let mut backlog = self.0.lock();
        match backlog.waiting.pop_front() {
            Some(stream) => Poll::Ready(Ok(stream)),
            None => {
                backlog.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    closed: bool,
    reader: Option<Waker>,
}

struct MemorySocket {
    read: Arc<Mutex<Pipe>>,
    write: Arc<Mutex<Pipe>>,
}

fn pair() -> (MemorySocket, MemorySocket) {
    let (a, b) = (Arc::new(Mutex::new(Pipe::default())), Arc::new(Mutex::new(Pipe::default())));
    let ours = MemorySocket { read: Arc::clone(&a), write: Arc::clone(&b) };
    (ours, MemorySocket { read: b, write: a })
}

impl Socket for MemorySocket {
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.read.lock();
        if pipe.bytes.is_empty() {
            return if pipe.closed { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let count = buf.len().min(pipe.bytes.len());
        for (to, from) in buf.iter_mut().zip(pipe.bytes.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }

    fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut pipe = self.write.lock();
        if pipe.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        bufs.iter().for_each(|buf| pipe.bytes.extend(buf.iter()));
        pipe.reader.take().into_iter().for_each(Waker::wake);
        Ok(bufs.iter().map(|buf| buf.len()).sum())
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.read.lock();
        if pipe.closed || !pipe.bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn shutdown(&self) {
        for pipe in [&self.read, &self.write] {
            let mut pipe = pipe.lock();
            pipe.closed = true;
            pipe.reader.take().into_iter().for_each(Waker::wake);
        }
    }
}

impl Drop for MemorySocket {
    fn drop(&mut self) {
        self.shutdown();
    }
}

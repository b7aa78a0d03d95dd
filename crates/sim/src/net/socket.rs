//! One end of a connection, as a process holds it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};
use valor_env::Socket;

use super::pipe::{Pipe, Readable};
use super::{Host, Life, Net};

pub(super) struct SimSocket {
    pub(super) net: Net,
    pub(super) id: u64,
    pub(super) host: Host,
    pub(super) peer: Host,
    pub(super) life: Arc<Life>,
    pub(super) out: Arc<Pipe>,
    pub(super) inward: Arc<Pipe>,
    pub(super) arrival: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl Socket for SimSocket {
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        if self.life.is_dead() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.inward.receive(buf, Instant::now(), self.net.passes(self.peer, self.host))
    }

    fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.life.is_dead() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let now = Instant::now();
        let due = now + self.net.delay(self.host, self.peer);
        let sent = self.out.send(bufs, now, due)?;
        self.net.0.trace.bytes(u64::from(self.host) << 16 | u64::from(self.peer) << 8 | 3, &sent);
        Ok(sent.len())
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.life.is_dead() {
            return Poll::Pending;
        }
        loop {
            let passes = self.net.passes(self.peer, self.host);
            match self.inward.readable(cx, Instant::now(), passes) {
                Readable::Now => return Poll::Ready(Ok(())),
                Readable::Later => return Poll::Pending,
                Readable::At(due) => {
                    let mut arrival = self.arrival.lock();
                    let sleep = arrival.get_or_insert_with(|| Box::pin(sleep_until(due)));
                    sleep.as_mut().reset(due);
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.life.is_dead() && self.out.writable(cx) {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn shutdown(&self) {
        if !self.life.is_dead() {
            self.out.finish();
            self.inward.refuse();
        }
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        // What is left of a dead process is no concern of its peers: they know already.
        if !self.life.is_dead() {
            self.net.dropped(self.id, &self.out, &self.inward);
        }
    }
}

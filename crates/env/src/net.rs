//! Byte stream sockets as the RPC layer wants them: non-blocking calls on a shared reference, plus readiness.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::task::{Context, Poll};

/// Where a server listens. Text form: `127.0.0.1:8000` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// TCP address and port.
    Tcp(SocketAddr),
    /// Path of a UNIX stream socket; empty for the nameless peer of an accepted connection.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// An open connection. One task may wait for reading and one for writing; the calls themselves need no waiting task.
pub trait Socket: Send + Sync + 'static {
    /// Reads what is there: `Ok(0)` at the peer's end, `WouldBlock` when there is nothing.
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes what fits: `WouldBlock` when nothing does.
    fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Ready when a read is worth trying.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ready when a write is worth trying.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ends both directions; pending and later reads see the end, and so does the peer.
    fn shutdown(&self);
}

/// An open connection.
pub struct Stream {
    socket: Box<dyn Socket>,
    peer: Endpoint,
}

impl Stream {
    /// Wraps a socket connected with `peer`.
    pub fn new(socket: impl Socket, peer: Endpoint) -> Self {
        Self { socket: Box::new(socket), peer }
    }

    /// The other end.
    pub fn peer(&self) -> &Endpoint {
        &self.peer
    }

    /// See [`Socket::try_read`].
    ///
    /// # Errors
    /// `WouldBlock`, or that the connection is broken.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.try_read(buf)
    }

    /// See [`Socket::try_write_vectored`].
    ///
    /// # Errors
    /// `WouldBlock`, or that the connection is broken.
    pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.try_write_vectored(bufs)
    }

    /// Waits until a write is worth trying. One task at a time.
    ///
    /// # Errors
    /// That the connection is broken.
    pub async fn writable(&self) -> io::Result<()> {
        crate::poll(|cx| self.socket.poll_writable(cx)).await
    }

    /// Waits until a read is worth trying. One task at a time.
    ///
    /// # Errors
    /// That the connection is broken.
    pub async fn readable(&self) -> io::Result<()> {
        crate::poll(|cx| self.socket.poll_readable(cx)).await
    }

    /// Reads at least one byte, or `Ok(0)` at the end. One task at a time.
    ///
    /// # Errors
    /// That the connection is broken.
    pub async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.try_read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => return result,
            }
            crate::poll(|cx| self.socket.poll_readable(cx)).await?;
        }
    }

    /// See [`Socket::shutdown`].
    pub fn shutdown(&self) {
        self.socket.shutdown();
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stream").field(&self.peer).finish()
    }
}

/// A listening socket.
pub trait Acceptor: Send + Sync + 'static {
    /// The next connection.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>>;
}

/// A listening socket.
pub struct Listener {
    acceptor: Box<dyn Acceptor>,
    local: Endpoint,
}

impl Listener {
    /// Wraps an acceptor that listens on `local`.
    pub fn new(acceptor: impl Acceptor, local: Endpoint) -> Self {
        Self { acceptor: Box::new(acceptor), local }
    }

    /// Where it listens, with the port that was chosen if none was asked for.
    pub fn local(&self) -> &Endpoint {
        &self.local
    }

    /// Waits for the next connection. One task at a time.
    ///
    /// # Errors
    /// What the network says; running out of descriptors is not the end of the listener.
    pub async fn accept(&self) -> io::Result<Stream> {
        crate::poll(|cx| self.acceptor.poll_accept(cx)).await
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.local).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_as_text() {
        for text in ["127.0.0.1:80", "[::1]:80", "unix:/run/kv.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert!("localhost".parse::<Endpoint>().is_err());
    }
}

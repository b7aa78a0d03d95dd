//! The operating system as a [`World`].

use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use rand::RngCore;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use crate::{Acceptor, BoxFuture, Endpoint, Listener, Socket, Stream, UtcMicros, World, disk};

/// Connections waiting to be accepted; the kernel lowers it to its own limit.
const BACKLOG: u32 = 4096;

/// How long sent bytes may stay unacknowledged before a connection counts as broken.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);
/// Silence after which the kernel asks whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The real world.
pub(crate) struct Real {
    disk: Arc<dyn disk::Disk>,
}

impl Real {
    pub(crate) fn new() -> Self {
        Self { disk: disk::real() }
    }
}

impl World for Real {
    fn utc_now(&self) -> UtcMicros {
        let micros = match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
        };
        UtcMicros(micros)
    }

    fn fill_random(&self, buf: &mut [u8]) {
        // ChaCha with keys from the kernel, renewed regularly.
        rand::rng().fill_bytes(buf);
    }

    fn hostname(&self) -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    fn connect(&self, to: Endpoint) -> BoxFuture<io::Result<Stream>> {
        Box::pin(async move {
            match &to {
                Endpoint::Tcp(address) => {
                    let socket = TcpStream::connect(address).await?;
                    tune(&socket)?;
                    Ok(Stream::new(socket, to))
                }
                Endpoint::Unix(path) => Ok(Stream::new(UnixStream::connect(path).await?, to)),
            }
        })
    }

    fn bind(&self, on: &Endpoint, reuse_port: bool) -> io::Result<Listener> {
        match on {
            Endpoint::Tcp(address) => {
                let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                socket.set_reuseaddr(true)?;
                socket.set_reuseport(reuse_port)?;
                socket.bind(*address)?;
                let listener = socket.listen(BACKLOG)?;
                let local = Endpoint::Tcp(listener.local_addr()?);
                Ok(Listener::new(listener, local))
            }
            Endpoint::Unix(path) => Ok(Listener::new(UnixAcceptor::bind(path)?, on.clone())),
        }
    }

    fn disk(&self) -> Arc<dyn disk::Disk> {
        Arc::clone(&self.disk)
    }
}

/// Sends at once, and notices within seconds that the peer's machine is gone: without this a connection to it would
/// stay in use for a quarter of an hour, every call on it waiting for its deadline.
fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(socket, UNACKNOWLEDGED_MAX.as_millis() as u32)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE / 4)?;
    Ok(())
}

macro_rules! impl_socket {
    ($ty:ty) => {
        impl Socket for $ty {
            fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
                let mut short = None;
                let full = self.try_io(Interest::READABLE, || {
                    let read = rustix::io::read(self, &mut *buf)?;
                    // A short read has emptied the socket (readiness is edge-triggered), so report it as blocking:
                    // the next attempt then waits for an event instead of asking the kernel in vain.
                    if read == 0 || read == buf.len() {
                        return Ok(read);
                    }
                    short = Some(read);
                    Err(io::ErrorKind::WouldBlock.into())
                });
                short.map_or(full, Ok)
            }

            fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
                self.try_io(Interest::WRITABLE, || Ok(rustix::io::writev(self, bufs)?))
            }

            fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }

            fn shutdown(&self) {
                // Fails only if the connection is gone already.
                let _ = rustix::net::shutdown(self.as_fd(), rustix::net::Shutdown::Both);
            }
        }
    };
}

impl_socket!(TcpStream);
impl_socket!(UnixStream);

impl Acceptor for TcpListener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let (socket, peer) = ready!(TcpListener::poll_accept(self, cx))?;
        tune(&socket)?;
        Poll::Ready(Ok(Stream::new(socket, Endpoint::Tcp(peer))))
    }
}

/// A listening UNIX socket, whose file disappears with it.
struct UnixAcceptor {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file, so that a successor's is not removed.
    identity: (u64, u64),
}

impl UnixAcceptor {
    fn bind(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Before `listen`, so that nobody else can connect in between.
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        rustix::net::listen(&socket, BACKLOG as i32)?;
        let metadata = fs::metadata(path)?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok(Self { listener, path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }
}

/// Removes a socket file on which nobody listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        _ => return Ok(()),
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

impl Acceptor for UnixAcceptor {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let (socket, peer) = ready!(self.listener.poll_accept(cx))?;
        let peer = peer.as_pathname().map(Path::to_owned).unwrap_or_default();
        Poll::Ready(Ok(Stream::new(socket, Endpoint::Unix(peer))))
    }
}

impl Drop for UnixAcceptor {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity);
        if ours {
            // Nothing to be done if it cannot be removed: the next listener replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Env;

    use super::*;

    async fn exchange(env: &Env, endpoint: &Endpoint) {
        let listener = env.bind(endpoint, true).unwrap();
        let client = env.connect(listener.local()).await.unwrap();
        let server = listener.accept().await.unwrap();
        assert_eq!(client.try_read(&mut [0; 4]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.writable().await.unwrap();
        assert_eq!(client.try_write_vectored(&[IoSlice::new(b"ab"), IoSlice::new(b"cd")]).unwrap(), 4);
        let mut buf = [0; 3];
        assert_eq!(server.read(&mut buf).await.unwrap(), 3);
        assert_eq!(server.read(&mut buf).await.unwrap(), 1);
        client.shutdown();
        assert_eq!(server.read(&mut buf).await.unwrap(), 0);
        assert_eq!(client.read(&mut buf).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn tcp() {
        let env = Env::real();
        exchange(&env, &"127.0.0.1:0".parse().unwrap()).await;
        let first = env.bind(&"127.0.0.1:0".parse().unwrap(), true).unwrap();
        assert!(env.bind(first.local(), true).is_ok(), "shards share a port");
        assert!(env.bind(first.local(), false).is_err());
    }

    #[tokio::test]
    async fn unix() {
        let env = Env::real();
        let path = std::env::temp_dir().join(format!("valor-env-{:x}.sock", env.random_u64()));
        let endpoint = Endpoint::Unix(path.clone());
        exchange(&env, &endpoint).await;
        assert!(!path.exists(), "removed with its listener");

        // Left behind by a process that died.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        exchange(&env, &endpoint).await;

        let listener = env.bind(&endpoint, false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(env.bind(&endpoint, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
    }

    #[test]
    fn clock_and_randomness() {
        let env = Env::real();
        assert!(env.utc_now().0 > 1_600_000_000_000_000);
        assert_ne!(env.random_u64(), env.random_u64());
        let uuid = env.random_uuid();
        assert_eq!((uuid[6] >> 4, uuid[8] >> 6), (4, 2));
        assert!(!env.hostname().is_empty());
    }
}

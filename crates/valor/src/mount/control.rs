//! The control socket of a mount: a line of JSON asks, a line answers. Only the mount's own user and root may.

use super::report::{Reply, Report, Request};
use rustix::process::geteuid;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use valor_config::Live;
use valor_fuse::Config;
use xfuse::WaitHandle;
use xfuse::stats::Stats;
use xfuse::transport::InUse;

/// Name of the socket in the mount's directory.
pub const SOCKET: &str = "control.sock";
/// Longest request and longest reply.
const MAX_REQUEST: u64 = 4096;
const MAX_REPLY: u64 = 4 << 20;
/// Callers at a time; further ones wait to be accepted.
const MAX_CALLERS: usize = 8;
/// How long a caller may take over a request, and this side over an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after the kernel could not accept a caller.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the socket speaks for.
#[derive(Clone)]
pub struct Target {
    mount_point: PathBuf,
    pub(super) stats: Stats,
    pub(super) wait: WaitHandle,
    transport: InUse,
    missing: Vec<String>,
}

impl Target {
    /// A mounted session.
    pub fn new(session: &xfuse::Session, mount_point: &Path) -> Self {
        Target {
            mount_point: mount_point.to_owned(),
            stats: session.stats().clone(),
            wait: session.wait_handle(),
            transport: session.transport().clone(),
            missing: session.negotiated().missing.iter().map(|missing| missing.name.to_owned()).collect(),
        }
    }

    fn report(&self) -> Report {
        let settings = Report {
            mount_point: self.mount_point.display().to_string(),
            pid: std::process::id(),
            transport: self.transport.transport.to_string(),
            sqpoll: self.transport.sqpoll,
            fallback: self.transport.fallback.clone(),
            mix: self.wait.mix().to_string(),
            share: self.wait.share(),
            max_window_us: self.wait.max_window().as_micros() as u64,
            missing: self.missing.clone(),
            wake_cost_us: self.wait.wake_cost().as_nanos() as f64 / 1e3,
            ..Report::default()
        };
        settings.with_counters(&self.stats.snapshot())
    }
}

/// A socket that callers can connect to; nobody answers yet. It is removed when this is dropped.
pub struct Listening {
    path: SocketFile,
    listener: UnixListener,
}

/// The socket being served. It is removed when this is dropped.
pub struct Control {
    _path: SocketFile,
    task: tokio::task::JoinHandle<()>,
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens in `dir`, which must be this user's. The process's lock on it keeps two mounts apart. To be called before
/// mounting, so that whoever sees the mount finds the socket.
///
/// # Errors
/// When the directory is not safe or the socket cannot be made.
pub fn listen(dir: &Path) -> Result<Listening, String> {
    let path = checked(dir)?.join(SOCKET);
    let shown = path.display();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{shown}: {error}"));
        }
        _ => {}
    }
    // Made under another name and closed to others before it can be found.
    let hidden = path.with_extension("new");
    let _ = std::fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden).map_err(|error| format!("{}: {error}", hidden.display()))?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&hidden, private)
        .and_then(|()| std::fs::rename(&hidden, &path))
        .map_err(|error| format!("{shown}: {error}"))?;
    Ok(Listening { path: SocketFile(path), listener })
}

impl Listening {
    /// Answers for `target`.
    pub fn serve(self, target: Target, config: Arc<Live<Config>>) -> Control {
        Control { _path: self.path, task: tokio::spawn(accept(self.listener, target, config)) }
    }
}

/// A directory in which nobody else can put sockets.
fn checked(dir: &Path) -> Result<PathBuf, String> {
    let shown = dir.display();
    let real = dir.canonicalize().map_err(|error| format!("{shown}: {error}"))?;
    let meta = real.metadata().map_err(|error| format!("{shown}: {error}"))?;
    let me = geteuid().as_raw();
    if meta.uid() != me && meta.uid() != 0 {
        return Err(format!("{shown} belongs to user {}, not to user {me} or root", meta.uid()));
    }
    if meta.mode() & 0o022 != 0 && meta.mode() & libc::S_ISVTX == 0 {
        return Err(format!("{shown} can be written by others (chmod go-w {shown})"));
    }
    Ok(real)
}

async fn accept(listener: UnixListener, target: Target, config: Arc<Live<Config>>) {
    let callers = Arc::new(Semaphore::new(MAX_CALLERS));
    loop {
        let Ok(permit) = Arc::clone(&callers).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (target, config) = (target.clone(), Arc::clone(&config));
                tokio::spawn(async move {
                    let _permit = permit;
                    let _ = tokio::time::timeout(PATIENCE, converse(stream, &target, &config)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_friend(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

async fn converse(stream: UnixStream, target: &Target, config: &Live<Config>) -> std::io::Result<()> {
    if !is_friend(&stream) {
        return Ok(());
    }
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    BufReader::new(read.take(MAX_REQUEST)).read_until(b'\n', &mut line).await?;
    let reply = match serde_json::from_slice(&line) {
        Ok(request) => answer(request, target, config),
        Err(error) => Reply::Error(format!("not a request: {error}")),
    };
    let mut bytes = serde_json::to_vec(&reply)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await
}

fn answer(request: Request, target: &Target, config: &Live<Config>) -> Reply {
    if let Request::Set(settings) = request {
        let changed = toml_of(&settings).and_then(|text| {
            // Through the configuration, so that what it says stays true.
            config.hot_update(&text, "mount-set").map_err(|error| error.to_string())
        });
        if let Err(message) = changed {
            return Reply::Error(message);
        }
    }
    Reply::Report(Box::new(target.report()))
}

/// Settings that can be changed at run time, as an update of the configuration.
fn toml_of(settings: &[String]) -> Result<String, String> {
    let mut table = toml::Table::new();
    for setting in settings {
        let (key, value) =
            setting.split_once('=').ok_or_else(|| format!("{setting:?} is not of the form KEY=VALUE"))?;
        let value = match key {
            "mix" => value.to_owned(),
            // A bare number is microseconds, as in the flag.
            "max-window" | "max_window" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("{value}us")
            }
            "max-window" | "max_window" => value.to_owned(),
            _ => return Err(format!("{key:?} cannot be set; try mix=A or max-window=US")),
        };
        table.insert(key.replace('-', "_"), toml::Value::String(value));
    }
    Ok(toml::Table::from_iter([("valor".to_owned(), toml::Value::Table(table))]).to_string())
}

/// Asks a mount.
///
/// # Errors
/// What keeps it from answering, or what it answers instead.
pub async fn ask(socket: &Path, request: &Request) -> Result<Report, String> {
    let shown = socket.display();
    let dir = socket.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Root may ask about anybody's mount; others would tell a stranger what they want to set.
    let root = geteuid().is_root();
    if !root {
        checked(dir)?;
    }
    let talk = async {
        let stream = UnixStream::connect(socket).await?;
        if !root && !is_friend(&stream) {
            return Err(std::io::Error::other("another user's process listens there"));
        }
        let (read, mut write) = stream.into_split();
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        write.write_all(&bytes).await?;
        let mut line = Vec::new();
        BufReader::new(read.take(MAX_REPLY)).read_until(b'\n', &mut line).await?;
        Ok(line)
    };
    let line = match tokio::time::timeout(PATIENCE, talk).await {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => {
            return Err(format!("{shown}: {error}; is the mount running? (--socket names another one's)"));
        }
        Err(_) => return Err(format!("{shown}: no answer in {PATIENCE:?}")),
    };
    match serde_json::from_slice(&line) {
        Ok(Reply::Report(report)) => Ok(*report),
        Ok(Reply::Error(message)) => Err(message),
        Err(error) => Err(format!("{shown}: not an answer of a mount: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_an_update_of_the_configuration() {
        let settings = ["mix=0.25", "max-window=20"].map(str::to_owned);
        let live = Live::new(Config::default());
        live.hot_update(&toml_of(&settings).unwrap(), "test").unwrap();
        let policy = live.get().valor.wait_policy().unwrap();
        assert_eq!((policy.mix, policy.max_window.as_micros()), (xfuse::Mix::Fixed(0.25), 20));
        for bad in ["mix", "channels=3", "readonly=true", "mix.x=1", ""] {
            assert!(toml_of(&[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(live.hot_update(&toml_of(&["mix=\"\n[valor]".into()]).unwrap(), "test").is_err());
    }

    #[test]
    fn a_directory_open_to_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(checked(dir.path()).is_ok());
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(checked(dir.path()).unwrap_err().contains("written by others"));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(12345), None).unwrap();
            assert!(checked(dir.path()).unwrap_err().contains("12345"));
        }
    }

    #[test]
    fn requests_are_read_strictly() {
        let read = |text: &str| serde_json::from_str::<Request>(text).ok();
        assert_eq!(read("\"stats\""), Some(Request::Stats));
        assert_eq!(read("{\"set\":[\"mix=1\"]}"), Some(Request::Set(vec!["mix=1".into()])));
        assert_eq!(read("{\"set\":[1]}"), None);
        assert_eq!(read("{\"stop\":[]}"), None);
    }
}

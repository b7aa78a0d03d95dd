//! `valor kv`: a process with a key-value store for several mgmtd and metadata servers of this machine. And how those
//! reach it, or open a store of their own.

use super::{Process, STOP_GRACE, ServeArgs};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use valor_env::Endpoint;
use valor_kv::{Database, Durability};
use valor_rpc::{Server, ServerConfig, ServerHandle};

/// Flags of the store's process.
#[derive(clap::Args, Debug)]
pub struct KvArgs {
    /// Directory for the store, its socket `kv.sock`, log and lock.
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// What is on disk before a commit is acknowledged: `always` or `process`.
    #[arg(long, default_value = "always")]
    pub sync: String,
    /// Serve Prometheus metrics on this address.
    #[arg(long, value_name = "IP:PORT")]
    pub metrics: Option<SocketAddr>,
    /// End when this process (the supervisor) ends.
    #[arg(long, hide = true)]
    pub follow_parent: Option<u32>,
    /// Log JSON objects.
    #[arg(long)]
    pub log_json: bool,
    /// Log filter, for example `info,valor_kv=debug`.
    #[arg(long)]
    pub log: Option<String>,
}

/// Runs until stopped.
///
/// # Errors
/// A message for the user.
pub async fn run(args: KvArgs) -> Result<(), String> {
    let KvArgs { dir, sync, metrics, follow_parent, log_json, log } = args;
    let args = ServeArgs { dir, sync, metrics, follow_parent, log_json, log, ..ServeArgs::default() };
    let process = Process::prepare_store("kv", args)?;
    let db = open_database(&process)?;
    let served = serve_database(&process, db.clone())?;
    process.stop.triggered().await;
    served.stop(STOP_GRACE).await;
    db.close().await.map_err(|error| format!("database: {error}"))
}

/// The store that another process serves on `shared`; or one of this process, which it serves to administrators.
///
/// # Errors
/// A message naming the directory or the socket.
pub fn database(
    process: &Process,
    shared: Option<&Path>,
) -> Result<(Database, Option<ServerHandle>), String> {
    if let Some(socket) = shared {
        return Ok((remote(process, socket), None));
    }
    let db = open_database(process)?;
    let served = serve_database(process, db.clone())?;
    Ok((db, Some(served)))
}

/// The store behind a socket. Nothing is sent yet.
pub fn remote(process: &Process, socket: &Path) -> Database {
    Database::remote(process.env.clone(), Arc::clone(&process.rpc), Endpoint::Unix(socket.to_owned()))
}

fn open_database(process: &Process) -> Result<Database, String> {
    let durability = match process.args.sync.as_str() {
        "always" => Durability::Always,
        "process" => Durability::Process,
        other => return Err(format!("--sync must be `always` or `process`, not `{other}`")),
    };
    let path = process.args.dir.join("kv");
    Database::open(process.env.clone(), &path, durability)
        .map_err(|error| format!("database {}: {error}", path.display()))
}

/// Serves the database on a UNIX socket that only this user can open.
fn serve_database(process: &Process, db: Database) -> Result<ServerHandle, String> {
    use rustix::fs::Mode;
    let path = process.args.dir.join("kv.sock");
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    if path.exists() {
        std::fs::remove_file(&path).map_err(wrong)?;
    }
    let server =
        Server::builder(process.env.clone(), ServerConfig::default()).service(valor_kv::remote::router(db));
    // From the first moment on: connections are accepted at once.
    let mask = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let listening = server.listen(&[Endpoint::Unix(path.clone())]);
    rustix::process::umask(mask);
    listening.map_err(wrong)
}

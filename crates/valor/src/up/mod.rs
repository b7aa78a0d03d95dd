//! `valor up`, `valor down`, `valor status`: a whole cluster on this machine.

mod bootstrap;
mod loopdev;
mod plan;
mod programs;
mod supervise;

use crate::serve::create_dir;
use bootstrap::Bootstrap;
use loopdev::LoopDisk;
pub use plan::Stores;
use plan::{Plan, Ports};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use supervise::Supervisor;
use tokio::time::Instant;
use valor_config::Size;
use valor_daemon::Stop;
use valor_env::Env;

/// Longest a start may take before it is called stuck.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long the processes of a killed supervisor get to end.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(15);
/// How long `valor down` waits: all processes may be slow, one kind after the other.
const DOWN_PATIENCE: Duration = Duration::from_secs(180);
/// What went wrong when the cluster of a data directory stopped.
const OUTCOME: &str = "up.failed";

/// Starts a cluster on this machine and mounts it; Ctrl-C or `valor down` stops it.
#[derive(clap::Args, Debug)]
pub struct UpArgs {
    /// Directory to mount on; made if missing.
    pub mount_point: PathBuf,
    /// Where data, configuration and logs live.
    #[arg(long, default_value_os_t = default_data_dir())]
    pub data_dir: PathBuf,
    /// Number of storage processes.
    #[arg(long)]
    pub storage_nodes: Option<u32>,
    /// Number of cluster managers, of which one leads. With more than one of them or of metadata processes, one more
    /// process keeps what all of them know, and any one may fail without the mount noticing more than a pause.
    #[arg(long)]
    pub mgmtd_nodes: Option<u32>,
    /// Number of metadata processes.
    #[arg(long)]
    pub meta_nodes: Option<u32>,
    /// Copies of each chunk, on different storage processes.
    #[arg(long)]
    pub replicas: Option<u32>,
    /// Bytes of a chunk: a power of two from 64KB to 64MB.
    #[arg(long)]
    pub chunk_size: Option<Size>,
    /// Put each storage target on a file system of its own, on this many loop devices (root only).
    #[arg(long)]
    pub loop_devices: Option<u32>,
    /// Size of each loop device.
    #[arg(long, default_value = "4GB")]
    pub loop_size: Size,
    /// What is durable before a write is acknowledged: `process` survives kill -9 of every process, `always` also
    /// a power failure of the machine.
    #[arg(long)]
    pub sync: Option<String>,
    /// Serve Prometheus metrics on this port and the following ones: the shared store if there is one, mgmtd, storage,
    /// meta, mount.
    #[arg(long)]
    pub metrics_port: Option<u16>,
    /// Start the servers without mounting.
    #[arg(long)]
    pub no_mount: bool,
    /// More settings of the mount, as `KEY=VALUE` (spelt as in its configuration file).
    #[arg(long = "mount-config", value_name = "KEY=VALUE")]
    pub mount_config: Vec<String>,
}

/// Where a cluster lives when no `--data-dir` is given.
pub fn default_data_dir() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/var/lib"), PathBuf::from);
    std::env::var_os("XDG_DATA_HOME").map_or_else(|| home.join(".local/share"), PathBuf::from).join("valor")
}

/// Runs until stopped.
///
/// # Errors
/// A message for the user.
pub async fn up(args: UpArgs) -> Result<(), String> {
    let data_dir = prepare_dir(&args.data_dir)?;
    let _lock = lock(&data_dir).await?;
    let plan = resume_or_plan(&args, &data_dir)?;
    let mount_point =
        if args.no_mount { None } else { Some(crate::mount::prepare_mount_point(&args.mount_point)?) };
    let disks = attach_disks(&plan, &data_dir)?;
    let stop = Stop::default();
    stop.on_signals().map_err(|error| error.to_string())?;

    let started = Instant::now();
    let mut supervisor = Supervisor::new(std::env::current_exe().map_err(|error| error.to_string())?);
    let outcome = start_all(&args, &plan, &data_dir, mount_point.as_deref(), &mut supervisor, &stop).await;
    match outcome {
        Ok(Started::Running) => {
            greet(&args, &plan, &data_dir, mount_point.as_deref(), started.elapsed());
            tend_until(&mut supervisor, &stop).await;
            eprintln!("stopping...");
        }
        Ok(Started::Stopped) => eprintln!("stopping..."),
        Err(_) => {}
    }
    let stopped = supervisor.stop(&stop).await;
    for disk in disks {
        if let Err(error) = disk.detach() {
            eprintln!("{error}");
        }
    }
    if let Err(message) = &stopped
        && matches!(outcome, Ok(Started::Running))
    {
        // For `valor down`, which waits for the lock.
        std::fs::write(data_dir.join(OUTCOME), message).map_err(|error| format!("{message}\n{error}"))?;
        return stopped;
    }
    outcome.map(drop)
}

enum Started {
    Running,
    Stopped,
}

async fn start_all(
    args: &UpArgs,
    plan: &Plan,
    data_dir: &Path,
    mount_point: Option<&Path>,
    supervisor: &mut Supervisor,
    stop: &Stop,
) -> Result<Started, String> {
    let servers = programs::servers(args, plan, data_dir);
    let count = servers.len();
    for program in servers {
        supervisor.start(program).map_err(|error| format!("cannot start a process: {error}"))?;
    }
    let bootstrap = Bootstrap::new(Env::real(), plan.clone());
    let deadline = Instant::now() + START_PATIENCE;
    let ready = async {
        bootstrap.wait_for_servers(deadline).await?;
        bootstrap.create_chains(deadline).await?;
        bootstrap.wait_for_chains(deadline).await
    };
    tokio::select! {
        result = ready => result.map_err(|stuck| explain(&stuck.to_string(), supervisor, data_dir))?,
        () = tend_until(supervisor, stop) => return Ok(Started::Stopped),
    }
    if let Some(mount_point) = mount_point {
        let program = programs::mount(args, plan, data_dir, mount_point, count);
        supervisor.start(program).map_err(|error| format!("cannot start the mount: {error}"))?;
        tokio::select! {
            result = wait_for_mount(mount_point, deadline) => {
                result.map_err(|error| explain(&error, supervisor, data_dir))?;
            }
            () = stop.triggered() => return Ok(Started::Stopped),
        }
    }
    Ok(Started::Running)
}

fn explain(problem: &str, supervisor: &mut Supervisor, data_dir: &Path) -> String {
    let mut text = format!("{problem}\nlogs are in {}", data_dir.display());
    if let Some((name, output)) = supervisor.first_dead() {
        text.push_str(&format!("\n{name} is not running; it said:\n{output}"));
    }
    text
}

async fn tend_until(supervisor: &mut Supervisor, stop: &Stop) {
    loop {
        let pause = supervisor.tend();
        tokio::select! {
            () = stop.triggered() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn wait_for_mount(mount_point: &Path, deadline: Instant) -> Result<(), String> {
    loop {
        let list = xfuse::mount::mounts().map_err(|error| error.to_string())?;
        if list
            .iter()
            .any(|mount| mount.mount_point == mount_point && mount.fstype == crate::mount::FUSE_KIND)
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("{} was not mounted in time", mount_point.display()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn prepare_dir(data_dir: &Path) -> Result<PathBuf, String> {
    create_dir(data_dir).map_err(|error| format!("--data-dir {}: {error}", data_dir.display()))?;
    data_dir.canonicalize().map_err(|error| format!("--data-dir {}: {error}", data_dir.display()))
}

/// Takes the data directory for this process; the lock goes with it.
async fn lock(data_dir: &Path) -> Result<File, String> {
    let path = data_dir.join("up.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(format!(
            "a cluster runs in {} already; stop it with `valor down --data-dir {}` or choose another --data-dir",
            data_dir.display(),
            data_dir.display()
        ));
    }
    let _ = std::fs::remove_file(data_dir.join(OUTCOME));
    std::fs::write(data_dir.join("up.pid"), std::process::id().to_string())
        .map_err(|error| error.to_string())?;
    end_leftovers(data_dir).await?;
    Ok(file)
}

/// Waits for processes of a killed supervisor: they end by themselves, unless they hang.
async fn end_leftovers(data_dir: &Path) -> Result<(), String> {
    let deadline = Instant::now() + LEFTOVER_PATIENCE;
    for path in crate::serve::process_locks(data_dir) {
        loop {
            match crate::serve::try_lock_file(&path) {
                Ok(_) => break,
                Err(error) if Instant::now() >= deadline => {
                    return Err(format!("{error}; kill that process and try again"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
    Ok(())
}

fn resume_or_plan(args: &UpArgs, data_dir: &Path) -> Result<Plan, String> {
    let old = Plan::load(data_dir).map_err(|error| error.to_string())?;
    let mut plan = match &old {
        Some(plan) => plan.clone(),
        None => new_plan(args),
    };
    if let Some(old) = &old {
        refuse_change("--storage-nodes", args.storage_nodes.map(u64::from), u64::from(old.storage_nodes))?;
        refuse_change("--mgmtd-nodes", args.mgmtd_nodes.map(u64::from), u64::from(old.mgmtd_nodes))?;
        refuse_change("--meta-nodes", args.meta_nodes.map(u64::from), u64::from(old.meta_nodes))?;
        refuse_change("--replicas", args.replicas.map(u64::from), u64::from(old.replicas))?;
        refuse_change("--chunk-size", args.chunk_size.map(Size::get), u64::from(old.chunk_size))?;
        refuse_change("--loop-devices", args.loop_devices.map(u64::from), u64::from(old.loop_devices))?;
        if let Some(sync) = &args.sync {
            plan.sync.clone_from(sync);
        }
    }
    plan.check()?;
    keep_free_ports(&mut plan).map_err(|error| format!("no free port on the loopback interface: {error}"))?;
    plan.save(data_dir).map_err(|error| format!("{}: {error}", data_dir.display()))?;
    Ok(plan)
}

fn refuse_change(option: &str, wanted: Option<u64>, have: u64) -> Result<(), String> {
    match wanted {
        Some(wanted) if wanted != have => Err(format!(
            "this cluster was made with {option} {have}, which cannot change; leave the option out, or choose another \
             --data-dir for a new cluster"
        )),
        _ => Ok(()),
    }
}

fn new_plan(args: &UpArgs) -> Plan {
    let storage_nodes = args.storage_nodes.unwrap_or(3);
    let (mgmtd_nodes, meta_nodes) = (args.mgmtd_nodes.unwrap_or(1), args.meta_nodes.unwrap_or(1));
    Plan {
        cluster_id: format!("valor-{:08x}", Env::real().random_u64() >> 32),
        storage_nodes,
        mgmtd_nodes,
        meta_nodes,
        shared_store: mgmtd_nodes > 1 || meta_nodes > 1,
        replicas: args.replicas.unwrap_or(storage_nodes.min(3)),
        chunk_size: u32::try_from(args.chunk_size.map_or(1 << 20, Size::get)).unwrap_or(u32::MAX),
        loop_devices: args.loop_devices.unwrap_or(0),
        loop_size: args.loop_size.get(),
        sync: args.sync.clone().unwrap_or_else(|| "process".into()),
        ports: Ports::default(),
    }
}

/// Keeps the remembered ports that are still free, and chooses others for the rest.
fn keep_free_ports(plan: &mut Plan) -> io::Result<()> {
    plan.ports.storage.resize(plan.storage_nodes as usize, [0; 2]);
    plan.ports.more_mgmtd.resize(plan.mgmtd_nodes.saturating_sub(1) as usize, [0; 2]);
    plan.ports.more_meta.resize(plan.meta_nodes.saturating_sub(1) as usize, [0; 2]);
    let mut held = Vec::new();
    let ports = [&mut plan.ports.mgmtd, &mut plan.ports.meta]
        .into_iter()
        .chain(&mut plan.ports.more_mgmtd)
        .chain(&mut plan.ports.more_meta)
        .chain(&mut plan.ports.storage);
    for port in ports.flatten() {
        let listener =
            TcpListener::bind(("127.0.0.1", *port)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(())
}

fn attach_disks(plan: &Plan, data_dir: &Path) -> Result<Vec<LoopDisk>, String> {
    let mut disks = Vec::new();
    for number in 0..plan.loop_devices {
        let disk = LoopDisk::new(&data_dir.join("disks"), number);
        disk.attach(plan.loop_size).map_err(|error| format!("loop device {number}: {error}"))?;
        disks.push(disk);
    }
    Ok(disks)
}

fn greet(args: &UpArgs, plan: &Plan, data_dir: &Path, mount_point: Option<&Path>, took: Duration) {
    println!(
        "cluster {} is up after {:.1} s: {} mgmtd, {} meta, {} storage, {} chains of {} replica(s)",
        plan.cluster_id,
        took.as_secs_f64(),
        plan.mgmtd_nodes,
        plan.meta_nodes,
        plan.storage_nodes,
        plan.chains(),
        plan.replicas
    );
    if let Some(mount_point) = mount_point {
        println!("mounted on {}", mount_point.display());
    }
    let dir = if args.data_dir == default_data_dir() {
        String::new()
    } else {
        format!(" --data-dir {}", data_dir.display())
    };
    println!("look around:  valor admin{dir} list-nodes | list-chains | list-targets | stat / | ls /");
    println!("data, logs:   {}", data_dir.display());
    if let Some(port) = args.metrics_port {
        let mut following = plan.mgmtd_nodes + plan.storage_nodes + plan.meta_nodes - 1;
        following += u32::from(plan.shared_store) + u32::from(mount_point.is_some());
        println!("metrics:      http://127.0.0.1:{port}/metrics and the following {following} ports");
    }
    println!("stop:         Ctrl-C, or: valor down{dir}");
}

/// Stops the cluster of a data directory.
#[derive(clap::Args, Debug)]
pub struct DownArgs {
    /// The directory given to `valor up`.
    #[arg(long, default_value_os_t = default_data_dir())]
    pub data_dir: PathBuf,
}

/// Stops a running `up` and waits for its end.
///
/// # Errors
/// A message for the user.
pub async fn down(args: DownArgs) -> Result<(), String> {
    let dir = args.data_dir.display();
    let Ok(file) = File::options().write(true).open(args.data_dir.join("up.lock")) else {
        return Err(format!("no cluster was ever started in {dir}; give the --data-dir of `valor up`"));
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        crate::mount::clear_stale_mounts()?;
        println!("nothing runs in {dir}");
        return Ok(());
    }
    let text = std::fs::read_to_string(args.data_dir.join("up.pid"))
        .map_err(|error| format!("{dir}/up.pid: {error}"))?;
    let pid = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| format!("{dir}/up.pid does not hold a process id"))?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)
        .map_err(|error| format!("cannot signal process {text}: {error}"))?;
    let deadline = Instant::now() + DOWN_PATIENCE;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= deadline {
            return Err(format!(
                "process {text} did not stop within {} s; see its logs in {dir}",
                DOWN_PATIENCE.as_secs()
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    match std::fs::read_to_string(args.data_dir.join(OUTCOME)) {
        Ok(message) => Err(format!("stopped, but {message}")),
        Err(_) => {
            println!("stopped");
            Ok(())
        }
    }
}

/// Name and managers of the cluster in a data directory, for administration.
///
/// # Errors
/// A message for the user.
pub fn local_cluster(data_dir: &Path) -> Result<(String, Vec<valor_protocol::address::Address>), String> {
    let plan = local_plan(data_dir)?;
    let managers = plan.mgmtds().iter().map(|server| bootstrap::local(server.ports[0])).collect();
    Ok((plan.cluster_id, managers))
}

/// Which processes of the cluster in a data directory keep what.
///
/// # Errors
/// A message for the user.
pub fn local_stores(data_dir: &Path) -> Result<Stores, String> {
    local_plan(data_dir).map(|plan| plan.stores())
}

fn local_plan(data_dir: &Path) -> Result<Plan, String> {
    Plan::load(data_dir).map_err(|error| error.to_string())?.ok_or_else(|| {
        format!(
            "no cluster in {}; give the --data-dir of `valor up`, or --mgmtd and --cluster-id",
            data_dir.display()
        )
    })
}

//! The systems compared: each starts empty in its own directory and leaves nothing behind.

use crate::process::{self, Resources, run};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const MOOSE_MASTER_PORTS: [u16; 3] = [19_419, 19_420, 19_421];
const MOOSE_CHUNK_PORT: u16 = 19_430;
/// MooseFS refuses loopback addresses for its master, so it gets a network namespace whose own interface has this
/// address; traffic goes through that namespace's loopback device as Valor's does through the host's.
const MOOSE_ADDRESS: &str = "192.168.77.1";
const MOOSE_NAMESPACE: &str = "valor-bench-mfs";

/// A system with its number of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum SystemKind {
    Local,
    #[value(name = "valor-1")]
    Valor1,
    #[value(name = "valor-3")]
    Valor3,
    #[value(name = "moosefs-1")]
    Moosefs1,
    #[value(name = "moosefs-3")]
    Moosefs3,
}

impl SystemKind {
    pub const ALL: [Self; 5] = [Self::Local, Self::Valor1, Self::Moosefs1, Self::Valor3, Self::Moosefs3];

    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Valor1 => "valor-1",
            Self::Valor3 => "valor-3",
            Self::Moosefs1 => "moosefs-1",
            Self::Moosefs3 => "moosefs-3",
        }
    }

    /// The peer with the same number of replicas.
    pub fn peer(self) -> Option<Self> {
        match self {
            Self::Valor1 => Some(Self::Moosefs1),
            Self::Valor3 => Some(Self::Moosefs3),
            _ => None,
        }
    }
}

/// A running system.
pub struct System {
    kind: SystemKind,
    dir: PathBuf,
    children: Vec<Child>,
}

impl System {
    /// Starts it empty under `base`.
    ///
    /// # Errors
    /// What went wrong, with the command's own words.
    pub fn start(kind: SystemKind, base: &Path, valor: &Path) -> Result<Self, String> {
        let dir = base.join(kind.name());
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        std::fs::create_dir_all(dir.join("mnt")).map_err(|error| format!("{}: {error}", dir.display()))?;
        let mut system = Self { kind, dir, children: Vec::new() };
        match kind {
            SystemKind::Local => {}
            SystemKind::Valor1 => system.start_valor(valor, 1)?,
            SystemKind::Valor3 => system.start_valor(valor, 3)?,
            SystemKind::Moosefs1 => system.start_moosefs(1)?,
            SystemKind::Moosefs3 => system.start_moosefs(3)?,
        }
        Ok(system)
    }

    /// Where to work.
    pub fn root(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// What its own processes used so far.
    pub fn resources(&self) -> Resources {
        if self.kind == SystemKind::Local {
            return Resources::default();
        }
        process::resources(&self.dir.display().to_string())
    }

    /// What its mount process used so far.
    pub fn mount_resources(&self) -> Resources {
        match self.kind {
            SystemKind::Local => Resources::default(),
            SystemKind::Valor1 | SystemKind::Valor3 => {
                process::resources(&format!("--dir={}", self.dir.join("data/mount").display()))
            }
            SystemKind::Moosefs1 | SystemKind::Moosefs3 => {
                process::resources(&format!("mfsmount {}", self.root().display()))
            }
        }
    }

    fn start_valor(&mut self, valor: &Path, replicas: u32) -> Result<(), String> {
        let mut child = Command::new(valor)
            .arg("up")
            .arg(self.root())
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .args(["--storage-nodes", "3", "--replicas", &replicas.to_string(), "--sync", "process"])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                format!("{}: {error}; build it first: cargo build --release", valor.display())
            })?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut said = String::new();
        while !said.contains("stop: ") {
            if lines.read_line(&mut said).map_err(|error| error.to_string())? == 0 {
                return Err(format!("valor up ended: {said}"));
            }
        }
        self.children.push(child);
        Ok(())
    }

    fn start_moosefs(&mut self, goal: u32) -> Result<(), String> {
        let [client, chunk, command] = MOOSE_MASTER_PORTS;
        moosefs_namespace()?;
        let master = self.dir.join("master");
        std::fs::create_dir_all(&master).map_err(|error| error.to_string())?;
        write(&master.join("exports.cfg"), "* / rw,alldirs,admin,maproot=0:0\n* . rw\n")?;
        write(
            &master.join("master.cfg"),
            &format!(
                "WORKING_USER = root\nWORKING_GROUP = root\nDATA_PATH = {0}\nEXPORTS_FILENAME = {0}/exports.cfg\n\
                 MATOML_LISTEN_PORT = {command}\nMATOCS_LISTEN_PORT = {chunk}\nMATOCL_LISTEN_PORT = {client}\n\
                 SYSLOG_IDENT = bench-mfsmaster\n",
                master.display()
            ),
        )?;
        std::fs::copy("/var/lib/mfs/metadata.mfs.empty", master.join("metadata.mfs"))
            .or_else(|_| std::fs::write(master.join("metadata.mfs"), "MFSM NEW").map(|()| 8))
            .map_err(|error| error.to_string())?;
        self.spawn("mfsmaster", &["-f", "-c", &text(&master.join("master.cfg")), "start"])?;
        for number in 0..3_u16 {
            let server = self.dir.join(format!("chunk-{number}"));
            std::fs::create_dir_all(server.join("data")).map_err(|error| error.to_string())?;
            write(&server.join("hdd.cfg"), &format!("{}\n", server.join("data").display()))?;
            write(
                &server.join("chunk.cfg"),
                &format!(
                    "WORKING_USER = root\nWORKING_GROUP = root\nDATA_PATH = {0}\nHDD_CONF_FILENAME = {0}/hdd.cfg\n\
                     MASTER_HOST = {MOOSE_ADDRESS}\nMASTER_PORT = {chunk}\nCSSERV_LISTEN_PORT = {1}\n\
                     HDD_LEAVE_SPACE_DEFAULT = 64MiB\nSYSLOG_IDENT = bench-mfschunk\n",
                    server.display(),
                    MOOSE_CHUNK_PORT + number
                ),
            )?;
            self.spawn("mfschunkserver", &["-f", "-c", &text(&server.join("chunk.cfg")), "start"])?;
        }
        let root = text(&self.root());
        let deadline = Instant::now() + PATIENCE;
        while in_namespace("mfsmount", &[&root, "-H", MOOSE_ADDRESS, "-P", &client.to_string()]).is_err() {
            if Instant::now() > deadline {
                return Err("mfsmount: the master did not answer".into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        // Usable once all chunk servers have registered: a file with three copies can be written.
        let probe = self.root().join("probe");
        while !(in_namespace("mfssetgoal", &["-r", "3", &root]).is_ok() && three_copies(&probe)) {
            if Instant::now() > deadline {
                return Err("moosefs: chunk servers did not register".into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        std::fs::remove_file(probe).map_err(|error| error.to_string())?;
        in_namespace("mfssetgoal", &["-r", &goal.to_string(), &root]).map(drop)
    }

    fn spawn(&mut self, program: &str, args: &[&str]) -> Result<(), String> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("{program}.out")))
            .map_err(|error| error.to_string())?;
        let child = Command::new("nsenter")
            .arg(namespace_flag())
            .arg(program)
            .args(args)
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| {
                format!(
                    "{program}: {error} (apt-get install moosefs-master moosefs-chunkserver moosefs-client)"
                )
            })?;
        self.children.push(child);
        Ok(())
    }

    /// Stops it and removes its data.
    ///
    /// # Errors
    /// When its directory cannot be removed.
    pub fn stop(mut self) -> Result<(), String> {
        self.end();
        std::fs::remove_dir_all(&self.dir).map_err(|error| format!("{}: {error}", self.dir.display()))
    }

    fn end(&mut self) {
        if matches!(self.kind, SystemKind::Moosefs1 | SystemKind::Moosefs3) {
            let _ = run("umount", &["-l", &text(&self.root())]);
        }
        while let Some(mut child) = self.children.pop() {
            let _ = run("kill", &[&child.id().to_string()]);
            let deadline = Instant::now() + PATIENCE;
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        for (pid, _) in process::matching(&self.dir.display().to_string()) {
            let _ = run("kill", &["-9", &pid.to_string()]);
        }
        if self.kind.name().starts_with("moosefs") {
            let _ = run("ip", &["netns", "delete", MOOSE_NAMESPACE]);
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.end();
        let _ = run("umount", &["-l", &text(&self.root())]);
    }
}

fn three_copies(probe: &Path) -> bool {
    let written = std::fs::write(probe, "x").is_ok();
    let copies = in_namespace("mfsfileinfo", &[&text(probe)]).map_or(0, |info| info.matches("copy ").count());
    written && copies >= 3
}

fn moosefs_namespace() -> Result<(), String> {
    if !Path::new("/run/netns").join(MOOSE_NAMESPACE).exists() {
        run("ip", &["netns", "add", MOOSE_NAMESPACE])?;
        run("ip", &["-n", MOOSE_NAMESPACE, "addr", "add", &format!("{MOOSE_ADDRESS}/32"), "dev", "lo"])?;
        run("ip", &["-n", MOOSE_NAMESPACE, "link", "set", "lo", "up"])?;
    }
    Ok(())
}

/// Enters the network namespace only, so that mounts stay visible.
fn namespace_flag() -> String {
    format!("--net=/run/netns/{MOOSE_NAMESPACE}")
}

fn in_namespace(program: &str, args: &[&str]) -> Result<String, String> {
    run("nsenter", &[&[namespace_flag().as_str(), program], args].concat())
}

fn write(path: &Path, content: &str) -> Result<(), String> {
    std::fs::write(path, content).map_err(|error| format!("{}: {error}", path.display()))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

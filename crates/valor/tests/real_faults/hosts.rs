//! Hosts in network namespaces, the processes on them, and what can be done to both.

#[path = "disk.rs"]
mod disk;

use crate::harness::{Signal, VALOR, is_mounted};
use crate::slow;
use disk::Disk;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(50);
/// Longest time that one command of the set-up may take, in `timeout`'s terms.
const COMMAND_TIMEOUT: &str = "60";
const CLUSTER: &str = "real-faults";
/// Name and last byte of the address of each host.
const HOSTS: [(&str, u8); 8] =
    [("mgmtd", 1), ("meta", 2), ("s1", 11), ("s2", 12), ("s3", 13), ("c1", 21), ("c2", 22), (ADMIN, 30)];
/// Where administrators sit; nothing runs there and nothing happens to it.
const ADMIN: &str = "admin";
const MOUNTS: [&str; 2] = ["c1", "c2"];
/// The storage server with a disk of its own, which can fail.
const WITH_DISK: &str = "s3";
/// Delay of a slow network.
const DELAY_MS: u64 = 40;

/// What a host's network does.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing comes in or goes out.
    Both,
    /// Nothing comes in.
    In,
    /// Nothing goes out.
    Out,
    /// This percentage of what comes in is lost.
    Loss(u32),
    /// Nothing comes in from this address.
    From(String),
}

struct Process {
    args: Vec<String>,
    child: Option<Child>,
    started: Instant,
}

/// The cluster. Everything goes when it is dropped.
pub struct World {
    dir: tempfile::TempDir,
    prefix: String,
    processes: BTreeMap<&'static str, Process>,
    disk: Option<Disk>,
}

impl World {
    /// Builds the network and the cluster; `None` where that is not possible.
    pub fn start() -> Option<World> {
        remove_leftovers();
        let dir = tempfile::Builder::new().prefix("valor-faults-").tempdir().expect("temporary directory");
        let prefix = format!("vrf{}", std::process::id());
        let mut world = World { dir, prefix, processes: BTreeMap::new(), disk: None };
        if !world.build_network() {
            return None;
        }
        world.disk = Disk::make(world.path("disk.img"), &world.path(WITH_DISK).join("targets"));
        world.start_cluster();
        Some(world)
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Address of a host.
    pub fn address(&self, host: &str) -> String {
        let number = HOSTS.iter().find(|(name, _)| *name == host).map_or(0, |(_, number)| *number);
        format!("10.77.0.{number}")
    }

    /// A namespace with a bridge, and one for each host with a cable to it.
    fn build_network(&self) -> bool {
        let net = self.namespace("net");
        let ok = try_run(&["ip", "netns", "add", &net])
            && try_run(&["ip", "-n", &net, "link", "add", "br0", "type", "bridge"])
            && try_run(&["ip", "-n", &net, "link", "set", "br0", "up"])
            && try_run(&["nsenter", &format!("--net=/run/netns/{net}"), "nft", "list", "tables"]);
        if !ok {
            return false;
        }
        for (host, _) in HOSTS {
            let (ns, cable) = (self.namespace(host), format!("p-{host}"));
            run(&["ip", "netns", "add", &ns]);
            run(&[
                "ip", "-n", &net, "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &ns,
            ]);
            run(&["ip", "-n", &net, "link", "set", &cable, "master", "br0", "up"]);
            run(&["ip", "-n", &ns, "address", "add", &format!("{}/24", self.address(host)), "dev", "eth0"]);
            run(&["ip", "-n", &ns, "link", "set", "eth0", "up"]);
            run(&["ip", "-n", &ns, "link", "set", "lo", "up"]);
        }
        true
    }

    /// A command on a host.
    fn on(&self, host: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace(host))).arg(program);
        command
    }

    // The cluster.

    fn start_cluster(&mut self) {
        let manager = format!("[\"TCP://{}:8000\"]", self.address("mgmtd"));
        let groups = "[{network_type=\"TCP\",listener={listen_port=8000}},{network_type=\"TCP\",listener={listen_port=9000}}]";
        for (host, number) in HOSTS.into_iter().filter(|(host, _)| *host != ADMIN) {
            let kind = match host {
                "mgmtd" | "meta" => host,
                _ if host.starts_with('s') => "storage",
                _ => "mount",
            };
            let mut args = vec![
                kind.to_owned(),
                "--profile=fast".into(),
                format!("--dir={}", self.path(host).display()),
                format!("--follow-parent={}", std::process::id()),
                format!("--launcher_config.cluster_id={CLUSTER}"),
                format!("--launcher_config.mgmtd_client.mgmtd_server_addresses={manager}"),
            ];
            if kind == "mount" {
                args.push(self.mount_point(host).display().to_string());
            } else {
                args.push(format!("--app_config.node_id={number}"));
                args.push(format!("--config.server.base.groups={groups}"));
            }
            match kind {
                "storage" => args.extend([
                    format!(
                        "--config.server.targets.target_paths=[\"{}/targets\"]",
                        self.path(host).display()
                    ),
                    // What this disk has acknowledged must outlive its failure.
                    match self.disk.as_ref().filter(|_| host == WITH_DISK) {
                        Some(_) => "--config.server.sync=\"always\"".into(),
                        None => "--config.server.sync=\"process\"".to_owned(),
                    },
                ]),
                "meta" => args.extend(["--sync=process".into(), "--init-root-layout=1,1048576,3".into()]),
                "mgmtd" => args.push("--sync=process".into()),
                _ => {}
            }
            self.processes.insert(host, Process { args, child: None, started: Instant::now() });
        }
        self.spawn("mgmtd");
        for host in ["s1", "s2", "s3", "meta"] {
            self.spawn(host);
        }
        self.wait_until("servers to report", |world| {
            world
                .admin(&["list-nodes", "--json"])
                .is_some_and(|list| list.matches("HeartbeatConnected").count() >= 4)
        });
        let plan = self.path("plan");
        let args = [
            "plan-chains",
            "--nodes",
            "11-13",
            "--targets-per-disk",
            "3",
            "--replicas",
            "3",
            "--output",
            plan.to_str().expect("path"),
        ];
        self.wait_until("a plan", |world| world.admin(&args).is_some());
        for line in std::fs::read_to_string(plan.join("create_target_cmd.txt")).expect("plan").lines() {
            let args: Vec<&str> = line.split(' ').collect();
            self.wait_until(line, |world| world.admin(&args).is_some());
        }
        let file = |name: &str| plan.join(name).display().to_string();
        let (chains, table) = (file("generated_chains.csv"), file("generated_chain_table.csv"));
        self.wait_until("chains", |world| world.admin(&["upload-chains", &chains]).is_some());
        self.wait_until("a chain table", |world| world.admin(&["upload-chain-table", "1", &table]).is_some());
        self.wait_until("all chains to serve", World::is_whole);
        for host in MOUNTS {
            self.spawn(host);
        }
        self.wait_until("both mounts", |world| {
            MOUNTS.iter().all(|host| is_mounted(&world.mount_point(host)))
        });
    }

    fn path(&self, host: &str) -> PathBuf {
        self.dir.path().join(host)
    }

    fn mount_point(&self, host: &str) -> PathBuf {
        self.dir.path().join(format!("mnt-{host}"))
    }

    /// Where the cluster is mounted by its clients.
    pub fn mounts(&self) -> Vec<PathBuf> {
        MOUNTS.iter().map(|host| self.mount_point(host)).collect()
    }

    fn spawn(&mut self, host: &'static str) {
        let dir = self.path(host);
        std::fs::create_dir_all(&dir).expect("directory");
        let output =
            std::fs::File::options().create(true).append(true).open(dir.join("out")).expect("output");
        // `nsenter` becomes the program, so that the child's pid is the program's.
        let mut command = self.on(host, VALOR);
        let process = self.processes.get_mut(host).expect("known host");
        command.args(&process.args).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("output")).stderr(output);
        process.child = Some(command.spawn().expect("nsenter"));
        process.started = Instant::now();
    }

    /// What an administrator on a host without faults sees.
    pub fn admin(&self, args: &[&str]) -> Option<String> {
        let output = self
            .on(ADMIN, "timeout")
            .args([COMMAND_TIMEOUT, VALOR, "admin", "--cluster-id", CLUSTER, "--mgmtd"])
            .arg(format!("TCP://{}:8000", self.address("mgmtd")))
            .args(args)
            .output()
            .expect("valor admin");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// All chains serve with all their replicas.
    pub fn is_whole(&self) -> bool {
        self.admin(&["list-chains"]).is_some_and(|list| {
            list.contains("SERVING") && !list.contains("DEGRADED") && !list.contains("UNAVAILABLE")
        })
    }

    /// Whether a chain lacks a replica.
    fn is_degraded(&self) -> bool {
        let list = self.admin(&["list-chains"]);
        list.is_some_and(|list| list.contains("DEGRADED") || list.contains("UNAVAILABLE"))
    }

    // Time.

    /// Starts again what has ended, as a supervisor does; a mount must not end.
    fn tend(&mut self) {
        let ended: Vec<&'static str> = self
            .processes
            .iter_mut()
            .filter_map(|(host, process)| {
                let child = process.child.as_mut()?;
                let status = child.try_wait().expect("wait")?;
                println!("           {host} ended ({status})");
                Some(*host)
            })
            .collect();
        for host in ended {
            assert!(!MOUNTS.contains(&host), "a mount ended:\n{}", self.tail(host));
            // A process that ends at once must not be started in a tight loop.
            std::thread::sleep(Duration::from_millis(300));
            self.spawn(host);
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.tend();
            std::thread::sleep(POLL);
        }
    }

    /// Waits for a condition.
    pub fn wait_until(&mut self, what: &str, ready: impl Fn(&World) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !ready(self) {
            if Instant::now() >= deadline {
                self.show_logs();
                panic!("gave up waiting for {what}");
            }
            self.tend();
            std::thread::sleep(POLL);
        }
    }

    // Faults.

    fn pid(&self, host: &str) -> Option<u32> {
        self.processes.get(host)?.child.as_ref().map(Child::id)
    }

    /// kill -9; the process is started again a moment later.
    pub fn kill(&mut self, host: &str) {
        self.signal(host, Signal::KILL);
    }

    /// Sends a signal.
    pub fn signal(&self, host: &str, what: Signal) {
        if let Some(pid) = self.pid(host) {
            crate::send(pid, what);
        }
    }

    /// A network fault for a while.
    pub fn during(&mut self, host: &str, fault: Fault, time: Duration) {
        let rules = |hook: &str, rule: &str| {
            format!(" chain {hook} {{\n  type filter hook {hook} priority 0; policy accept;\n  {rule}\n }}\n")
        };
        let chains = match fault {
            Fault::Both => rules("input", "iif eth0 drop") + &rules("output", "oif eth0 drop"),
            Fault::In => rules("input", "iif eth0 drop"),
            Fault::Out => rules("output", "oif eth0 drop"),
            Fault::Loss(percent) => {
                rules("input", &format!("iif eth0 numgen random mod 100 < {percent} drop"))
            }
            Fault::From(address) => rules("input", &format!("ip saddr {address} drop")),
        };
        self.nft(host, &format!("table inet faults {{\n{chains}}}\n"));
        self.pass(time);
        self.nft(host, "delete table inet faults\n");
    }

    fn nft(&self, host: &str, text: &str) {
        assert!(self.try_nft(host, text), "nft: {text}");
    }

    fn try_nft(&self, host: &str, text: &str) -> bool {
        let mut child = self.on(host, "nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
        child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("rules");
        child.wait().expect("nft").success()
    }

    /// A slow network at a server for a while: `tc netem`, which loses something too, where the kernel has it, else a
    /// proxy. Returns how it was done.
    pub fn slow_down(&mut self, host: &str, time: Duration) -> &'static str {
        let net = format!("--net=/run/netns/{}", self.namespace(host));
        let delay = format!("{DELAY_MS}ms");
        let tc = ["nsenter", &net, "tc", "qdisc"];
        let add = [&tc[..], &["add", "dev", "eth0", "root", "netem", "delay", &delay, "loss", "1%"]].concat();
        if try_run(&add) {
            self.pass(time);
            run(&[&tc[..], &["del", "dev", "eth0", "root"]].concat());
            return "Slow (netem)";
        }
        let program = std::env::current_exe().expect("own path");
        let mut proxy = self.on(host, program.to_str().expect("path"));
        proxy.args(["proxy_process", "--exact", "--nocapture"]);
        proxy.env(slow::SERVER, format!("{}:8000", self.address(host)));
        proxy.env(slow::DELAY, DELAY_MS.to_string());
        let mut proxy = proxy.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a proxy");
        let mut lines = BufReader::new(proxy.stdout.take().expect("piped")).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line == slow::READY)), "the proxy does not listen");
        let hook = "type nat hook prerouting priority -100; policy accept;";
        let rule = format!("iif eth0 tcp dport 8000 redirect to :{}", slow::PORT);
        let redirected =
            self.try_nft(host, &format!("table ip slow {{\n chain in {{\n  {hook}\n  {rule}\n }}\n}}\n"));
        if redirected {
            self.pass(time);
            self.nft(host, "delete table ip slow\n");
        }
        drop(proxy.stdin.take());
        proxy.wait().expect("the proxy's end");
        if redirected { "Slow (proxy)" } else { "Slow: SKIPPED, no netem and no nat in this kernel" }
    }

    /// The disk of one storage server fails while it is written; after a while it is put in anew and its server is
    /// started again. Returns how it was done.
    pub fn fail_disk(&mut self, time: Duration) -> &'static str {
        let Some(disk) = &self.disk else { return "DiskFails: SKIPPED, no loop devices or no ext4" };
        disk.fail();
        self.wait_until("the targets of the failed disk to leave their chains", Self::is_degraded);
        self.pass(time);
        if let Some(mut server) = self.processes.get_mut(WITH_DISK).and_then(|process| process.child.take()) {
            let _ = server.kill();
            server.wait().expect("the server's end");
        }
        if let Some(disk) = &self.disk {
            disk.replug();
        }
        self.spawn(WITH_DISK);
        "DiskFails"
    }

    /// Pulls a host's cable out of the switch, or plugs it in.
    pub fn cable(&self, host: &str, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        run(&["ip", "-n", &self.namespace("net"), "link", "set", &format!("p-{host}"), state]);
    }

    // The end.

    /// Stops everything in order; the mounts first.
    pub fn stop(mut self) {
        for hosts in [&MOUNTS[..], &["meta", "s1", "s2", "s3", "mgmtd"]] {
            for host in hosts {
                self.signal(host, Signal::TERM);
            }
            let deadline = Instant::now() + Duration::from_secs(30);
            for host in hosts {
                let Some(child) = self.processes.get_mut(host).and_then(|process| process.child.as_mut())
                else {
                    continue;
                };
                while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                    std::thread::sleep(POLL);
                }
            }
        }
    }

    fn tail(&self, host: &str) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.path(host)).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_file() && path.extension().is_none_or(|end| end == "log") {
                let bytes = std::fs::read(&path).unwrap_or_default();
                let end = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(3000)..]).into_owned();
                text.push_str(&format!("--- {}\n{end}\n", path.display()));
            }
        }
        text
    }

    fn show_logs(&self) {
        if let Some(list) = self.admin(&["list-chains"]) {
            println!("{list}");
        }
        for (host, _) in HOSTS {
            println!("{}", self.tail(host));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        // The mounts first: nothing must wait for a mount whose servers are gone.
        for process in self.processes.values_mut() {
            if let Some(mut child) = process.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        for host in MOUNTS {
            try_run(&["umount", "-l", &self.mount_point(host).display().to_string()]);
        }
        remove_namespaces(&self.prefix);
    }
}

/// Runs a command of the set-up, which must succeed.
fn run(args: &[&str]) {
    let output = Command::new("timeout").arg(COMMAND_TIMEOUT).args(args).output().expect("timeout");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn try_run(args: &[&str]) -> bool {
    let mut command = Command::new("timeout");
    command.arg(COMMAND_TIMEOUT).args(args).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn namespaces() -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn remove_namespaces(prefix: &str) {
    for name in namespaces().into_iter().filter(|name| name.starts_with(&format!("{prefix}-"))) {
        try_run(&["ip", "netns", "delete", &name]);
    }
}

/// Namespaces of runs whose process is gone.
fn remove_leftovers() {
    for name in namespaces() {
        let pid = name.strip_prefix("vrf").and_then(|rest| rest.split('-').next());
        if let Some(pid) = pid.filter(|pid| pid.parse::<u32>().is_ok())
            && !Path::new("/proc").join(pid).exists()
        {
            remove_namespaces(&format!("vrf{pid}"));
        }
    }
}

//! The command lines of a planned cluster's processes.

use super::loopdev::LoopDisk;
use super::plan::Plan;
use super::supervise::{Program, STOP_PATIENCE};
use super::{UpArgs, bootstrap};
use crate::serve::create_dir;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the mount may take to stop beyond the time in which it sends what programs wrote.
const MOUNT_GRACE: Duration = Duration::from_secs(8);

/// The servers, in the order in which they are started; they are stopped in the reverse one.
pub fn servers(args: &UpArgs, plan: &Plan, data_dir: &Path) -> Vec<Program> {
    let mut list = List { args, plan, data_dir, programs: Vec::new() };
    let sync = format!("--sync={}", plan.sync);
    if plan.shared_store {
        list.store(&sync);
    }
    let socket = |store: &str| data_dir.join(store).join("kv.sock").display().to_string();
    let stores = plan.stores();
    for server in plan.mgmtds() {
        let store = match stores.manager {
            "mgmtd" => sync.clone(),
            shared => format!("--launcher_config.kv_engine.socket={}", socket(shared)),
        };
        list.node(&server.name, "mgmtd", server.node_id, server.ports, [store]);
    }
    for (index, node) in plan.storage_node_ids().enumerate() {
        let paths: Vec<String> = target_paths(plan, data_dir, u32::try_from(index).unwrap_or(u32::MAX))
            .iter()
            .map(|path| format!("{:?}", path.display().to_string()))
            .collect();
        let more = [
            format!("--config.server.targets.target_paths=[{}]", paths.join(",")),
            "--config.server.targets.allow_disk_without_uuid=true".into(),
            format!("--config.server.sync={:?}", plan.sync),
        ];
        list.node(&format!("storage-{}", index + 1), "storage", node, plan.ports.storage[index], more);
    }
    let root_layout = format!("{},{},{}", bootstrap::CHAIN_TABLE.0, plan.chunk_size, plan.stripe_size());
    for server in plan.metas() {
        let store = match stores.metadata {
            "meta" => sync.clone(),
            shared => format!("--config.server.kv_engine.socket={}", socket(shared)),
        };
        let more = [store, format!("--init-root-layout={root_layout}")];
        list.node(&server.name, "meta", server.node_id, server.ports, more);
    }
    list.programs
}

/// The mount, which is started after `servers` others.
pub fn mount(args: &UpArgs, plan: &Plan, data_dir: &Path, mount_point: &Path, servers: usize) -> Program {
    let dir = data_dir.join("mount");
    let mut list = common_args("mount", plan, &dir);
    list.push(mount_point.display().to_string());
    list.extend(args.mount_config.iter().map(|setting| format!("--config.{setting}")));
    list.extend(metrics(args, servers));
    let stop_patience = mount_patience(&args.mount_config) + MOUNT_GRACE;
    Program { stop_patience, ..program("mount", list, &dir) }
}

/// How long the mount tries to send what programs wrote, by its settings.
fn mount_patience(settings: &[String]) -> Duration {
    let set = settings.iter().rev().filter_map(|setting| setting.strip_prefix("valor.stop_patience="));
    let set = set.map(|value| value.trim_matches('"').parse().ok()).next().flatten();
    set.unwrap_or(valor_fuse::STOP_PATIENCE).get()
}

struct List<'a> {
    args: &'a UpArgs,
    plan: &'a Plan,
    data_dir: &'a Path,
    programs: Vec<Program>,
}

impl List<'_> {
    fn store(&mut self, sync: &str) {
        let dir = self.data_dir.join("kv");
        let list = vec!["kv".into(), dir_arg(&dir), follow_arg(), sync.to_owned()];
        self.push("kv", list, &dir);
    }

    fn node(
        &mut self,
        name: &str,
        kind: &str,
        node: u32,
        ports: [u16; 2],
        more: impl IntoIterator<Item = String>,
    ) {
        let dir = self.data_dir.join(name);
        let mut list = common_args(kind, self.plan, &dir);
        list.extend([
            format!("--app_config.node_id={node}"),
            format!("--config.server.base.groups={}", groups_toml(ports)),
            "--config.server.base.shards=1".into(),
        ]);
        list.extend(more);
        self.push(name, list, &dir);
    }

    fn push(&mut self, name: &str, mut list: Vec<String>, dir: &Path) {
        list.extend(metrics(self.args, self.programs.len()));
        self.programs.push(program(name, list, dir));
    }
}

/// Where the program started after `before` others serves its metrics.
fn metrics(args: &UpArgs, before: usize) -> Option<String> {
    let offset = u16::try_from(before).unwrap_or(u16::MAX);
    args.metrics_port.map(|port| format!("--metrics=127.0.0.1:{}", port.saturating_add(offset)))
}

/// Directories that hold the targets of storage node `index`.
fn target_paths(plan: &Plan, data_dir: &Path, index: u32) -> Vec<PathBuf> {
    if plan.loop_devices == 0 {
        return vec![data_dir.join(format!("storage-{}", index + 1)).join("targets")];
    }
    let per_node = plan.disks_per_node();
    (0..per_node)
        .map(|disk| {
            LoopDisk::new(&data_dir.join("disks"), index * per_node + disk).mount_point().join("targets")
        })
        .collect()
}

fn common_args(kind: &str, plan: &Plan, dir: &Path) -> Vec<String> {
    let mgmtds: Vec<String> =
        plan.mgmtds().iter().map(|server| format!("\"{}\"", bootstrap::local(server.ports[0]))).collect();
    let mgmtds = mgmtds.join(",");
    vec![
        kind.to_owned(),
        "--profile=fast".into(),
        dir_arg(dir),
        follow_arg(),
        format!("--launcher_config.cluster_id={}", plan.cluster_id),
        format!("--launcher_config.mgmtd_client.mgmtd_server_addresses=[{mgmtds}]"),
    ]
}

fn dir_arg(dir: &Path) -> String {
    format!("--dir={}", dir.display())
}

fn follow_arg() -> String {
    format!("--follow-parent={}", std::process::id())
}

fn groups_toml(ports: [u16; 2]) -> String {
    let group = |port: u16| format!("{{network_type=\"LOCAL\",listener={{listen_port={port}}}}}");
    format!("[{},{}]", group(ports[0]), group(ports[1]))
}

fn program(name: &str, args: Vec<String>, dir: &Path) -> Program {
    // A missing directory shows as an error of the start itself.
    let _ = create_dir(dir);
    let output = dir.join(format!("{name}.out"));
    Program { name: name.to_owned(), args, output, stop_patience: STOP_PATIENCE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_gets_the_time_that_it_is_set_to_take() {
        let patience = |settings: &[&str]| {
            mount_patience(&settings.iter().map(|&setting| setting.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(patience(&[]), Duration::from_secs(30));
        assert_eq!(patience(&["valor.stop_patience=2s", "valor.mix=1"]), Duration::from_secs(2));
        assert_eq!(
            patience(&["valor.stop_patience=2s", "valor.stop_patience=\"3min\""]),
            Duration::from_secs(180)
        );
        assert_eq!(patience(&["valor.stop_patience=soon"]), Duration::from_secs(30), "the mount refuses it");
    }
}

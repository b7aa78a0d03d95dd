//! `plan-chains`: chain tables that spread recovery load evenly, as files for the other commands.

use super::{Admin, AdminArgs};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use valor_placement::{Changed, Measure, Node, Place, Plan, Shape, Spec};
use valor_protocol::mgmtd::RoutingInfo;
use valor_protocol::{ChainId, ChainTableId, ChainTableVersion};

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Plan chains for new nodes, or the moves that add a node to a running cluster or drain one.
    PlanChains(PlanArgs),
}

#[derive(clap::Args, Debug)]
pub struct PlanArgs {
    /// Plan anew for these nodes, for example 10001-10005,10009. Needs no running cluster.
    #[arg(long, value_delimiter = ',', required_unless_present_any = ["add_node", "drain_node"])]
    nodes: Vec<Ids>,
    /// Disks of each node (of the added node with --add-node).
    #[arg(long, default_value_t = 1)]
    disks: u32,
    /// Targets of each disk.
    #[arg(long, default_value_t = 6)]
    targets_per_disk: u32,
    /// Replicas of each chain.
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// Share chains with all nodes, or with neighbours in the order given.
    #[arg(long, value_enum, default_value_t)]
    shape: ShapeName,
    /// Chain table to plan for, or to change.
    #[arg(long, default_value_t = 1)]
    table_id: u32,
    /// Add this node to the cluster's chains.
    #[arg(long, conflicts_with_all = ["nodes", "drain_node"])]
    add_node: Option<u32>,
    /// Move everything away from this node.
    #[arg(long, conflicts_with_all = ["nodes"])]
    drain_node: Option<u32>,
    /// The same seed gives the same plan.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the files go.
    #[arg(long, default_value = "output")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
enum ShapeName {
    #[default]
    FullMesh,
    Ring,
}

impl From<ShapeName> for Shape {
    fn from(name: ShapeName) -> Self {
        match name {
            ShapeName::FullMesh => Shape::FullMesh,
            ShapeName::Ring => Shape::Ring,
        }
    }
}

/// A node id, or a range of them.
#[derive(Clone, Copy, Debug)]
struct Ids {
    first: u32,
    last: u32,
}

impl std::str::FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let parse = |text: &str| text.trim().parse().map_err(|_| format!("`{text}` is not a node id"));
        let (first, last) = (parse(first)?, parse(last)?);
        if first > last || last - first > 100_000 {
            Err(format!("`{text}` is not a range"))
        } else {
            Ok(Ids { first, last })
        }
    }
}

/// Runs the command; only changes need a cluster.
pub async fn run(args: &AdminArgs, command: &Command) -> Result<(), String> {
    let Command::PlanChains(plan) = command;
    std::fs::create_dir_all(&plan.output).map_err(|error| format!("{}: {error}", plan.output.display()))?;
    if plan.nodes.is_empty() {
        let admin = Admin::connect(args)?;
        return change(plan, &admin.routing().await?);
    }
    let ids = plan.nodes.iter().flat_map(|ids| ids.first..=ids.last);
    let spec = Spec {
        nodes: ids.map(|id| Node { id, disks: plan.disks }).collect(),
        replicas: plan.replicas,
        targets_per_disk: plan.targets_per_disk,
        shape: plan.shape.into(),
        seed: plan.seed,
    };
    let made = valor_placement::plan(&spec).map_err(|error| error.to_string())?;
    write_new(plan, &made)?;
    report(&made);
    Ok(())
}

/// Files as 3FS's `gen_chain_table.py` makes them.
fn write_new(args: &PlanArgs, plan: &Plan) -> Result<(), String> {
    let mut ids = TargetIds::default();
    let mut create = String::new();
    let replicas: Vec<&str> = vec!["TargetId"; plan.replicas()];
    let mut chains = format!("ChainId,{}\n", replicas.join(","));
    let mut table = String::from("ChainId\n");
    for (number, places) in plan.chains.iter().enumerate() {
        let chain = chain_id(args.table_id, number)?;
        let mut row = vec![chain.to_string()];
        for place in places {
            let target = ids.next(*place);
            create.push_str(&create_target(*place, target, chain));
            row.push(target.to_string());
        }
        let _ = writeln!(chains, "{}", row.join(","));
        let _ = writeln!(table, "{chain}");
    }
    save(&args.output, "create_target_cmd.txt", &create)?;
    save(&args.output, "generated_chains.csv", &chains)?;
    save(&args.output, "generated_chain_table.csv", &table)?;
    let dir = args.output.display();
    println!("to make them:\n  xargs -L1 valor admin < {dir}/create_target_cmd.txt");
    println!("  valor admin upload-chains {dir}/generated_chains.csv");
    println!("  valor admin upload-chain-table {} {dir}/generated_chain_table.csv", args.table_id);
    Ok(())
}

/// The number of a table's chain, as 3FS's script counts them.
fn chain_id(table: u32, number: usize) -> Result<u32, String> {
    u32::try_from(900_000_000 + u64::from(table) * 100_000 + number as u64 + 1)
        .ok()
        .filter(|_| number < 100_000)
        .ok_or_else(|| format!("table {table} has no room for {} chains", number + 1))
}

fn create_target(place: Place, target: u64, chain: u32) -> String {
    format!(
        "create-target --node-id {} --disk-index {} --target-id {target} --chain-id {chain} --use-new-chunk-engine\n",
        place.node, place.disk
    )
}

/// Numbers of targets as 3FS's script gives them: node, disk, count on the disk.
#[derive(Default)]
struct TargetIds {
    used: BTreeSet<u64>,
    last: BTreeMap<Place, u64>,
}

impl TargetIds {
    fn next(&mut self, place: Place) -> u64 {
        let disk = (1_000_000 + u64::from(place.node)) * 1000 + u64::from(place.disk) + 1;
        loop {
            let last = self.last.entry(place).or_default();
            *last += 1;
            let id = disk * 100 + *last;
            if self.used.insert(id) {
                return id;
            }
        }
    }
}

/// The running cluster's placement, with the chains' and targets' ids.
struct Running {
    plan: Plan,
    chains: Vec<ChainId>,
    targets: Vec<Vec<(Place, u64)>>,
}

fn running(args: &PlanArgs, routing: &RoutingInfo) -> Result<Running, String> {
    let table = routing
        .chain_table(ChainTableId(args.table_id), ChainTableVersion(0))
        .ok_or_else(|| format!("no chain table {}; see `valor admin list-chain-tables`", args.table_id))?;
    let mut disks: BTreeMap<u32, u32> = BTreeMap::new();
    let mut targets = Vec::new();
    for chain in &table.chains {
        let info = routing.chains.get(chain).ok_or_else(|| format!("chain {chain} is not known"))?;
        let mut places = Vec::new();
        for member in &info.targets {
            let id = member.target_id;
            let place =
                routing.targets.get(&id).and_then(|target| Some((target.node_id?, target.disk_index?)));
            let (node, disk) = place.ok_or_else(|| {
                format!("it is not known where target {id} of chain {chain} is; start its server first")
            })?;
            let count = disks.entry(node.0).or_default();
            *count = (*count).max(disk + 1);
            places.push((Place { node: node.0, disk }, id.0));
        }
        targets.push(places);
    }
    let nodes = disks.into_iter().map(|(id, disks)| Node { id, disks }).collect();
    let chains =
        targets.iter().map(|places: &Vec<_>| places.iter().map(|(place, _)| *place).collect()).collect();
    let plan = Plan { nodes, shape: args.shape.into(), chains };
    Ok(Running { plan, chains: table.chains.clone(), targets })
}

fn change(args: &PlanArgs, routing: &RoutingInfo) -> Result<(), String> {
    let running = running(args, routing)?;
    let changed = match (args.add_node, args.drain_node) {
        (Some(id), _) => running.plan.grow(Node { id, disks: args.disks }, args.seed),
        (None, Some(id)) => running.plan.drain(id, args.seed),
        (None, None) => return Err("give --nodes, --add-node or --drain-node".into()),
    };
    let changed = changed.map_err(|error| error.to_string())?;
    write_moves(args, &running, &changed, routing)?;
    println!(
        "{} replicas move; no even placement can do with fewer than {}",
        changed.moves.len(),
        changed.least_moves
    );
    println!("before:");
    report(&running.plan);
    println!("after:");
    report(&changed.plan);
    Ok(())
}

/// Steps to be run one after the other, each when the one before has taken effect.
fn write_moves(
    args: &PlanArgs,
    running: &Running,
    changed: &Changed,
    routing: &RoutingInfo,
) -> Result<(), String> {
    let mut ids = TargetIds::default();
    ids.used.extend(routing.targets.keys().map(|id| id.0));
    let (mut create, mut add, mut offline, mut leave, mut remove) =
        (String::new(), String::new(), String::new(), String::new(), String::new());
    for step in &changed.moves {
        let chain = running.chains[step.chain];
        let old = running.targets[step.chain].iter().find(|(place, _)| *place == step.from);
        let old = old.map(|(_, id)| *id).ok_or("a move from nowhere")?;
        let new = ids.next(step.to);
        create.push_str(&create_target(step.to, new, chain.0));
        let _ = writeln!(add, "update-chain {chain} {new} --mode add");
        let _ = writeln!(offline, "offline-target --node-id {} --target-id {old}", step.from.node);
        let _ = writeln!(leave, "update-chain {chain} {old} --mode remove");
        let _ = writeln!(remove, "remove-target --node-id {} --target-id {old}", step.from.node);
    }
    let files = [
        ("1_create_targets_cmd.txt", create, "then"),
        ("2_add_to_chains_cmd.txt", add, "then wait until `list-chains` shows all targets as Serving"),
        ("3_take_offline_cmd.txt", offline, "then wait until the old targets are Offline"),
        ("4_remove_from_chains_cmd.txt", leave, "then"),
        ("5_remove_targets_cmd.txt", remove, "and it is done"),
    ];
    println!("to move them:");
    for (name, text, after) in &files {
        save(&args.output, name, text)?;
        println!("  xargs -L1 valor admin < {}/{name}   # {after}", args.output.display());
    }
    Ok(())
}

fn save(dir: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn report(plan: &Plan) {
    let quality = plan.quality();
    println!(
        "{} chains of {} replicas on {} nodes ({})",
        plan.chains.len(),
        plan.replicas(),
        plan.nodes.len(),
        plan.shape.name()
    );
    let line = |what: &str, measure: Measure| {
        println!(
            "  {what:<44} {:>4} to {:>4}, bound {:>4}{}",
            measure.least,
            measure.most,
            measure.bound,
            match measure.most > measure.bound {
                true => format!(", {:.0}% above it", measure.excess_percent()),
                false => ", reached".into(),
            }
        );
    };
    line("targets of a disk", quality.targets_per_disk);
    line("chains led by a node", quality.heads);
    line("chains shared by two nodes (load of a failure)", quality.shared_by_nodes);
    line("chains shared by a disk and another node", quality.shared_by_disks);
    line("chains of a node filled by another one", quality.fills);
    if quality.far_pairs > 0 {
        println!("  {} pairs of nodes share chains though they are no neighbours", quality.far_pairs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_3fs_and_are_not_used_twice() {
        let mut ids = TargetIds::default();
        let place = Place { node: 10001, disk: 2 };
        assert_eq!(ids.next(place), 101_000_100_301);
        ids.used.insert(101_000_100_302);
        assert_eq!(ids.next(place), 101_000_100_303);
        assert_eq!(chain_id(1, 0).unwrap(), 900_100_001);
        assert!(chain_id(1, 100_000).is_err());
        let ids: Ids = "3-5".parse().unwrap();
        assert_eq!((ids.first, ids.last), (3, 5));
        assert!("5-3".parse::<Ids>().is_err() && "x".parse::<Ids>().is_err());
    }
}

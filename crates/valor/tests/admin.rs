//! Every `valor admin` command, against a real cluster.

mod harness;

use harness::{Cluster, VALOR, wait_until};
use serde_json::Value;
use std::fs;
use std::process::Command;

type Test = fn(&Cluster);

/// The tests share a cluster, since starting one takes longer than each of them.
#[test]
fn commands_show_and_change_a_cluster() {
    let mut cluster = Cluster::start(&["--chunk-size", "256KB"]);
    let tests: &[(&str, Test)] = &[
        ("cluster", the_cluster_is_listed),
        ("output", tables_are_aligned_and_json_is_json),
        ("files", files_are_shown_and_changed),
        ("content", contents_and_chunks_are_shown),
        ("config", configurations_are_kept_and_applied),
        ("chains", targets_chains_and_tables_are_made),
        ("errors", mistakes_are_explained),
        ("users", users_are_kept),
    ];
    for (name, test) in tests {
        println!("--- {name}");
        test(&cluster);
    }
    cluster.down();
}

/// The rows of a command's table.
fn rows(cluster: &Cluster, args: &[&str]) -> Vec<Value> {
    let text = cluster.admin(&[args, &["--json"]].concat());
    // `user-add` prints the token behind the table.
    let mut stream = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let first = stream.next().unwrap_or_else(|| panic!("{args:?}: no output"));
    match first.unwrap_or_else(|error| panic!("{args:?}: {error}\n{text}")) {
        Value::Array(rows) => rows,
        other => panic!("{args:?}: {other}"),
    }
}

fn column(rows: &[Value], name: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    rows.iter().map(|row| text(&row[name])).collect()
}

/// The value of a field in the table of `stat`.
fn field(rows: &[Value], name: &str) -> String {
    let row = rows.iter().find(|row| row["Field"] == name);
    column(&[row.unwrap_or_else(|| panic!("no {name} in {rows:?}")).clone()], "Value").remove(0)
}

/// What a command that must fail says.
fn refused(cluster: &Cluster, args: &[&str]) -> String {
    let data_dir = cluster.data_dir();
    let mut command = Command::new(VALOR);
    let output =
        command.args(["admin", "--data-dir"]).arg(data_dir).args(args).output().expect("valor admin");
    assert!(!output.status.success(), "{args:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn the_cluster_is_listed(cluster: &Cluster) {
    let nodes = rows(cluster, &["list-nodes"]);
    let mut kinds = column(&nodes, "Type");
    kinds.sort();
    assert_eq!(kinds, ["META", "MGMTD", "STORAGE", "STORAGE", "STORAGE"]);
    assert!(column(&nodes, "Addresses").iter().all(|addresses| addresses.contains("TCP://")), "{nodes:?}");

    let clients = rows(cluster, &["list-clients"]);
    assert_eq!(column(&clients, "Type"), ["FUSE"], "the mount");

    let tables = rows(cluster, &["list-chain-tables"]);
    assert_eq!(column(&tables, "ReplicaCount"), ["3"]);
    let count: usize = column(&tables, "ChainCount")[0].parse().expect("number");

    let chains = rows(cluster, &["list-chains"]);
    assert_eq!(chains.len(), count);
    assert!(column(&chains, "Status").iter().all(|status| status == "SERVING"), "{chains:?}");
    let table = column(&tables, "ChainTableId").remove(0);
    assert_eq!(rows(cluster, &["list-chains", "-t", &table]), chains);

    let targets = rows(cluster, &["list-targets"]);
    assert_eq!(targets.len(), 3 * count);
    let chain = column(&chains, "ChainId").remove(0);
    let of_one = rows(cluster, &["list-targets", "-c", &chain]);
    assert_eq!(of_one.len(), 3);
    assert!(column(&of_one, "ChainId").iter().all(|id| *id == chain));
    assert_eq!(rows(cluster, &["list-targets", "--orphan"]), Vec::<Value>::new());
}

fn tables_are_aligned_and_json_is_json(cluster: &Cluster) {
    let text = cluster.admin(&["list-chains"]);
    let mut lines = text.lines();
    let header = lines.next().expect("header");
    let at = header.find("Targets").expect("column");
    for line in lines {
        assert!(line.is_char_boundary(at) && line[..at].ends_with("  "), "not aligned:\n{text}");
    }
    let chains = rows(cluster, &["list-chains"]);
    assert!(chains[0]["ChainId"].is_u64() && chains[0]["Targets"].is_string());
}

fn files_are_shown_and_changed(cluster: &Cluster) {
    cluster.admin(&["mkdir", "/made/below", "-p", "--perm", "750"]);
    let made = fs::metadata(cluster.mount().join("made/below")).expect("seen through the mount");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&made.permissions()) & 0o777, 0o750);

    cluster.admin(&["set-layout", "/made", "--chunk-size", "128KB", "--stripe-size", "1"]);
    let shown = rows(cluster, &["stat", "/made", "--display-layout"]);
    assert_eq!((field(&shown, "ChunkSize"), field(&shown, "StripeSize")), ("131072".into(), "1".into()));

    let file = cluster.mount().join("made/file");
    fs::write(&file, vec![7; 300_000]).expect("write");
    let shown = rows(cluster, &["stat", "/made/file", "--display-layout"]);
    assert_eq!(field(&shown, "Length"), "300000");
    assert_eq!(field(&shown, "ChunkSize"), "131072", "taken from the directory");

    std::os::unix::fs::symlink("file", cluster.mount().join("made/link")).expect("symlink");
    assert_eq!(field(&rows(cluster, &["stat", "/made/link"]), "Type"), "Symlink");
    assert_eq!(field(&rows(cluster, &["stat", "-L", "/made/link"]), "Type"), "File");

    let listed = rows(cluster, &["ls", "/made"]);
    assert_eq!(column(&listed, "Name"), ["below", "file", "link"]);
    assert_eq!(column(&listed, "Type"), ["Directory", "File", "Symlink"]);
    assert_eq!(rows(cluster, &["ls", "/made", "-l", "2"]).len(), 2);

    cluster.admin(&["rm", "-r", "/made/below"]);
    assert_eq!(column(&rows(cluster, &["ls", "/made"]), "Name"), ["file", "link"]);
}

fn contents_and_chunks_are_shown(cluster: &Cluster) {
    fs::write(cluster.mount().join("digits"), "123456789").expect("write");
    let sums = rows(cluster, &["checksum", "/digits", "/made/file"]);
    // The check value of CRC-32C.
    assert_eq!(column(&sums, "Crc32c")[0], "e3069283");
    assert_eq!(column(&sums, "Length"), ["9", "300000"]);

    let shown = rows(cluster, &["stat", "/digits"]);
    let inodes = rows(cluster, &["dump-inodes"]);
    assert!(column(&inodes, "InodeId").contains(&field(&shown, "Inode")), "{inodes:?}");

    // One chunk of 9 bytes, three of the other file.
    let chunks = rows(cluster, &["dump-chunk-meta"]);
    assert!(chunks.len() >= 4, "{chunks:?}");
}

fn configurations_are_kept_and_applied(cluster: &Cluster) {
    let nodes = rows(cluster, &["list-nodes"]);
    let id_of = |kind: &str| {
        let node = nodes.iter().find(|node| node["Type"] == kind).expect("node");
        column(std::slice::from_ref(node), "Id").remove(0)
    };
    let meta = id_of("META");
    let running = cluster.admin(&["get-config", "-n", &meta]);
    assert!(running.lines().count() > 10, "{running}");

    // A hot update shows in the running configuration only.
    let storage = id_of("STORAGE");
    let key = "server.storage.max_waiters_per_chunk";
    let before = cluster.admin(&["get-config", "-n", &storage, "-k", key]);
    cluster.admin(&["hot-update-config", "-n", &storage, "-s", &format!("{key} = 77")]);
    let after = cluster.admin(&["get-config", "-n", &storage, "-k", key]);
    assert!(after.contains("77") && !before.contains("77"), "{before} {after}");

    // A stored one gets a version and reaches the processes.
    let file = cluster.scratch("config").join("storage.toml");
    fs::write(&file, format!("{key} = 78\n")).expect("write");
    assert_eq!(cluster.admin(&["get-config", "-t", "STORAGE"]).trim(), "", "nothing is stored yet");
    let said = cluster.admin(&["set-config", "-t", "STORAGE", "-f", &file.display().to_string()]);
    assert!(said.contains("version 1"), "{said}");
    assert!(cluster.admin(&["get-config", "-t", "STORAGE"]).contains("78"));
    wait_until("the stored configuration to be applied", || {
        cluster.admin(&["get-config", "-n", &storage, "-k", key]).contains("78")
    });
    let versions = rows(cluster, &["get-config", "-l"]);
    let storage = versions.iter().find(|row| row["Type"] == "STORAGE").expect("a line for each kind");
    assert_eq!(storage["ConfigVersion"], 1);
}

fn targets_chains_and_tables_are_made(cluster: &Cluster) {
    let nodes = rows(cluster, &["list-nodes"]);
    let storage = nodes.iter().find(|node| node["Type"] == "STORAGE").expect("node");
    let node = column(std::slice::from_ref(storage), "Id").remove(0);
    let (target, chain) = ("909090909090", "909090");
    let place = ["--node-id", &node, "--disk-index", "0", "--target-id", target, "--chain-id", chain];
    cluster.admin(&[&["create-target"], &place[..]].concat());
    wait_until("the target to be known as an orphan", || {
        column(&rows(cluster, &["list-targets", "--orphan"]), "TargetId").contains(&target.to_owned())
    });

    let dir = cluster.scratch("chains");
    let (chains, table) = (dir.join("chains.csv"), dir.join("table.csv"));
    fs::write(&chains, format!("ChainId,TargetId\n{chain},{target}\n")).expect("write");
    cluster.admin(&["upload-chains", &chains.display().to_string()]);
    wait_until("the new chain to serve", || {
        let all = rows(cluster, &["list-chains"]);
        all.iter()
            .any(|row| column(std::slice::from_ref(row), "ChainId")[0] == chain && row["Status"] == "SERVING")
    });
    fs::write(&table, format!("ChainId\n{chain}\n")).expect("write");
    cluster.admin(&["upload-chain-table", "7", &table.display().to_string(), "--desc", "of a test"]);
    let tables = rows(cluster, &["list-chain-tables"]);
    let made = tables.iter().find(|row| row["ChainTableId"] == 7).expect("the new table");
    assert_eq!((&made["ChainCount"], &made["Desc"]), (&Value::from(1), &Value::from("of a test")));

    // It can be used.
    let layout = ["--chain-table-id", "7", "--chunk-size", "64KB", "--stripe-size", "1"];
    cluster.admin(&[&["mkdir", "/single"], &layout[..]].concat());
    fs::write(cluster.mount().join("single/file"), "on one target").expect("write");
    assert_eq!(fs::read_to_string(cluster.mount().join("single/file")).expect("read"), "on one target");
}

fn mistakes_are_explained(cluster: &Cluster) {
    let dir = cluster.scratch("wrong");
    let wrong = dir.join("wrong.csv");
    let path = wrong.display().to_string();
    fs::write(&wrong, "nonsense\n1,2\n").expect("write");
    let said = refused(cluster, &["upload-chains", &path]);
    assert!(said.contains(&path) && said.contains("ChainId,TargetId"), "{said}");
    fs::write(&wrong, "ChainId,TargetId\n1,x\n").expect("write");
    assert!(refused(cluster, &["upload-chains", &path]).contains("wrong.csv:2"));

    fs::write(&wrong, "no_such_key = 1\n").expect("write");
    let said = refused(cluster, &["hot-update-config", "-t", "STORAGE", "-f", &path]);
    assert!(said.contains("no_such_key"), "{said}");

    assert!(refused(cluster, &["stat", "/nowhere"]).contains("NotFound"), "a missing file");
    assert!(refused(cluster, &["checksum", "/made"]).contains("not a file"));
    assert!(
        refused(cluster, &["list-chains", "-t", "99"]).contains("list-chain-tables"),
        "says where to look"
    );
    assert!(refused(cluster, &["set-layout", "/made"]).contains("layout options"));
    assert!(refused(cluster, &["mkdir", "/x", "--perm", "999"]).contains("octal"));
}

/// Last, since the cluster asks for tokens as soon as it has a user, if it is configured to.
fn users_are_kept(cluster: &Cluster) {
    assert!(refused(cluster, &["user-add", "1000", "somebody"]).contains("--admin"), "the first must be one");
    let said = cluster.admin(&["user-add", "0", "root", "--root", "--admin"]);
    assert!(said.lines().any(|line| line.len() > "token: ".len() && line.starts_with("token: ")), "{said}");
    let added = rows(cluster, &["user-add", "1000", "ada", "--groups", "10,20"]);
    assert_eq!(column(&added, "Groups"), ["10,20"]);
    let users = rows(cluster, &["user-list"]);
    assert_eq!(column(&users, "Name"), ["root", "ada"]);
    assert_eq!(column(&users, "IsAdmin"), ["true", "false"]);
    cluster.admin(&["user-remove", "1000"]);
    assert_eq!(column(&rows(cluster, &["user-list"]), "Name"), ["root"]);
}

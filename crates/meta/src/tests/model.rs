//! Random operations compared with the reference: one after the other, and at the same time with failures of the
//! store. `VALOR_SEED` repeats one run; `VALOR_ROUNDS` makes more.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use valor_env::Env;
use valor_kv::{Database, Faults};
use valor_protocol::InodeId;
use valor_protocol::meta::*;
use valor_protocol::valor::{RENAME_EXCHANGE, RENAME_NOREPLACE, Rename2Req};
use valor_wire::{Status, UtcTime};

use super::invariants::Everything;
use super::reference::{Op, Outcome, Place, Reference, Rule, Seen};
use crate::config::Config;
use crate::init_fs;
use crate::testing::{TestCluster, TestServer, seed_interleaving, test_config, test_layout};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn name(&mut self) -> &'static str {
        self.pick(&["a", "b", "c"])
    }

    /// A path of up to three names from the root.
    fn path(&mut self) -> Place {
        let names: Vec<_> = (0..=self.below(3)).map(|_| self.name()).collect();
        Place { dir: 0, path: format!("/{}", names.join("/")) }
    }

    /// Any operation of several users, by paths.
    fn op(&mut self) -> Op {
        let uid = self.pick(&[0, 0, 5, 6]);
        let (path, other) = (self.path(), self.path());
        if self.below(12) == 0 {
            return Op::Chmod { uid, path, perm: self.pick(&[0o755, 0o777, 0o1777, 0o700, 0o644, 0o600]) };
        }
        let target = self.pick(&["a", "b/c", "/a/b", "../c", "/c"]).to_owned();
        let (exclusive, follow) = (self.below(3) == 0, self.below(2) == 0);
        self.op_at(uid, path, other, target, exclusive, follow)
    }

    /// An operation on names in directories, as clients that resolve paths themselves make them: each is one
    /// transaction. Symlinks are not followed, since following them takes several.
    fn leaf_op(&mut self, dirs: usize, symlinks: bool) -> Op {
        let place = |random: &mut Self| Place { dir: random.below(dirs), path: random.name().to_owned() };
        let (path, other) = (place(self), place(self));
        let exclusive = symlinks || self.below(3) == 0;
        match self.op_at(0, path, other, "x".to_owned(), exclusive, false) {
            Op::Symlink { uid, path, .. } if !symlinks => Op::Mkdir { uid, path, perm: 0o755 },
            Op::List { uid, path } => Op::Stat { uid, path, follow: false },
            op => op,
        }
    }

    fn op_at(
        &mut self,
        uid: u32,
        path: Place,
        other: Place,
        target: String,
        exclusive: bool,
        follow: bool,
    ) -> Op {
        match self.below(22) {
            0..=3 => Op::Mkdir { uid, path, perm: self.pick(&[0o755, 0o777, 0o1777, 0o700]) },
            4..=6 => Op::Create { uid, path, exclusive },
            7 => Op::Symlink { uid, path, target },
            8..=9 => Op::Link { uid, old: path, new: other },
            10..=12 => Op::Remove { uid, path, recursive: self.below(2) == 0 },
            13..=17 => {
                let rule = self.pick(&[Rule::Replace, Rule::Replace, Rule::Refuse, Rule::Exchange]);
                Op::Rename { uid, src: path, dest: other, rule }
            }
            18..=19 => Op::Stat { uid, path, follow },
            _ => Op::List { uid, path },
        }
    }
}

fn rounds(default: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    match number("VALOR_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("VALOR_ROUNDS").unwrap_or(default)).collect(),
    }
}

fn seen(inode: &Inode) -> Seen {
    let letter = match inode.data.inode_type() {
        InodeType::File => 'f',
        InodeType::Directory => 'd',
        InodeType::Symlink => 'l',
    };
    Seen::Inode(letter, inode.data.acl.perm, inode.data.acl.uid, u32::from(inode.data.nlink))
}

/// A server, and the directories that operations start at.
struct Subject {
    server: TestServer,
    dirs: Vec<InodeId>,
}

impl Subject {
    fn at(&self, place: &Place) -> PathAt {
        PathAt::at(self.dirs[place.dir], place.path.as_str())
    }

    /// Performs an operation on the service.
    async fn perform(&self, op: &Op) -> Outcome {
        self.ask(op).await.map_err(|status| status.code)
    }

    async fn ask(&self, op: &Op) -> Result<Seen, Status> {
        let Self { server, .. } = self;
        let meta = &server.meta;
        Ok(match op {
            Op::Mkdir { uid, path, perm } => {
                let (base, path, perm) = (server.base(*uid), self.at(path), *perm);
                seen(&meta.mkdirs(MkdirsReq { base, path, perm, ..MkdirsReq::default() }).await?.stat)
            }
            Op::Create { uid, path, exclusive } => {
                let flags = if *exclusive { OpenFlags::CREAT | OpenFlags::EXCL } else { OpenFlags::CREAT };
                let req = CreateReq { path: self.at(path), ..server.create_req(*uid, "x", flags, 0) };
                seen(&meta.create(req).await?.stat)
            }
            Op::Symlink { uid, path, target } => {
                let (base, path, target) = (server.base(*uid), self.at(path), target.as_str().into());
                seen(&meta.symlink(SymlinkReq { base, path, target }).await?.stat)
            }
            Op::Link { uid, old, new } => {
                let (base, flags) = (server.base(*uid), AtFlags::default());
                let (old_path, new_path) = (self.at(old), self.at(new));
                seen(&meta.hard_link(HardLinkReq { base, old_path, new_path, flags }).await?.stat)
            }
            Op::Remove { uid, path, recursive } => {
                let (base, path, recursive) = (server.base(*uid), self.at(path), *recursive);
                meta.remove(RemoveReq { base, path, recursive, ..RemoveReq::default() }).await?;
                Seen::Nothing
            }
            Op::Rename { uid, src, dest, rule: Rule::Replace } => {
                let (base, src, dest) = (server.base(*uid), self.at(src), self.at(dest));
                let rsp = meta.rename(RenameReq { base, src, dest, ..RenameReq::default() }).await?;
                seen(&rsp.stat.unwrap())
            }
            Op::Rename { uid, src, dest, rule } => {
                let flags = if *rule == Rule::Refuse { RENAME_NOREPLACE } else { RENAME_EXCHANGE };
                let (base, src, dest) = (server.base(*uid), self.at(src), self.at(dest));
                seen(&meta.rename2(Rename2Req { base, src, dest, flags }).await?.stat)
            }
            Op::Chmod { uid, path, perm } => {
                let change = SetAttrReq { perm: Some(*perm), ..SetAttrReq::default() };
                seen(&server.set_attr(*uid, self.at(path), change).await?)
            }
            Op::Stat { uid, path, follow } => {
                let flags = if *follow { AtFlags::SYMLINK_FOLLOW } else { AtFlags::SYMLINK_NOFOLLOW };
                seen(&meta.stat(StatReq { base: server.base(*uid), path: self.at(path), flags }).await?.stat)
            }
            Op::List { uid, path } => {
                let req = ListReq { base: server.base(*uid), path: self.at(path), ..ListReq::default() };
                let entries = meta.list(req).await?.entries;
                Seen::Names(entries.iter().map(|entry| entry.name.to_string()).collect())
            }
        })
    }
}

/// The tree in the store as the reference writes it.
fn dump(everything: &Everything) -> String {
    fn below(
        all: &Everything,
        id: InodeId,
        path: &str,
        first: &mut BTreeMap<InodeId, String>,
        text: &mut String,
    ) {
        for entry in all.entries.values().filter(|entry| entry.parent == id) {
            let path = format!("{path}/{}", entry.name);
            let inode = &all.inodes[&entry.data.id];
            let same = first.entry(inode.id).or_insert_with(|| path.clone()).clone();
            let what = match &inode.data.r#type {
                InodeKind::File(_) => format!("file {same}"),
                InodeKind::Symlink(symlink) => format!("symlink {same} {}", symlink.target),
                InodeKind::Directory(_) => "dir".to_owned(),
            };
            let Acl { perm, uid, gid, .. } = inode.data.acl;
            writeln!(text, "{path} {what} {perm:o} {uid} {gid} {}", inode.data.nlink).unwrap();
            if inode.data.as_directory().is_some() {
                below(all, inode.id, &path, first, text);
            }
        }
    }
    let mut text = String::new();
    below(everything, InodeId::ROOT, "", &mut BTreeMap::new(), &mut text);
    text
}

/// The queues are left alone until they are asked to empty.
fn model_config() -> Config {
    let mut config = test_config();
    config.gc.enable = false;
    config.gc.gc_file_delay = valor_config::Duration::from_secs(0);
    config.posix_times = true;
    config
}

/// Everything is removed, and collected: nothing but the roots and the queues is left.
async fn empty_out(server: &TestServer, reference: &mut Reference) {
    server.configure("gc.enable = true");
    wait_for_queues(server).await;
    reference.collect();
    let everything = Everything::read(&server.db).await;
    assert_eq!(dump(&everything), reference.dump());
    for name in server.names("/").await {
        server.remove_as(0, &name, true).await.unwrap();
    }
    wait_for_queues(server).await;
    // Symlinks replaced by renames live on for a minute.
    tokio::time::sleep(Duration::from_secs(100)).await;
    let left = Everything::read(&server.db).await;
    left.check();
    assert_eq!((left.inodes.len(), left.entries.len(), left.sessions.len()), (6, 4, 0), "{:?}", left.inodes);
}

async fn wait_for_queues(server: &TestServer) {
    for _ in 0..10_000 {
        let everything = Everything::read(&server.db).await;
        if everything.waiting().is_empty() {
            return everything.check();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the queues do not empty");
}

#[tokio::test(start_paused = true)]
async fn one_operation_after_the_other() {
    for seed in rounds(40) {
        println!("seed {seed}");
        seed_interleaving(seed);
        let mut random = Random(seed);
        let server = TestServer::start(model_config()).await;
        let subject = Subject { server, dirs: vec![InodeId::ROOT] };
        let mut reference = Reference::new();
        for step in 0..150 {
            let op = random.op();
            let expected = reference.apply(&op);
            let found = subject.perform(&op).await;
            assert_eq!(found, expected, "seed {seed} step {step}: {op:?}\n{}", reference.dump());
        }
        let everything = Everything::read(&subject.server.db).await;
        everything.check();
        assert_eq!(dump(&everything), reference.dump(), "seed {seed}");
        empty_out(&subject.server, &mut reference).await;
    }
}

/// A server whose store fails as `faults` say.
async fn unreliable(faults: Faults, mut config: Config) -> Subject {
    let env = Env::real();
    let db = Database::memory(env.clone());
    init_fs(&db, test_layout(), UtcTime(env.utc_now().0)).await.unwrap();
    // Permissions must not come from a cache here: it is not part of the transaction.
    config.acl_cache_time = valor_config::Duration::from_secs(0);
    config.retry_transaction.max_retry_count = 1000;
    config.operation_timeout = valor_config::Duration::from_secs(0);
    let mut server = TestServer::join(
        config,
        db.with_faults(faults),
        Arc::new(TestCluster::with_chains(6)),
        Arc::default(),
        50.into(),
    )
    .await;
    server.db = db;
    let mut dirs = vec![InodeId::ROOT];
    for name in STARTS {
        dirs.push(server.mkdir(name).await.id);
    }
    Subject { server, dirs }
}

/// Directories in the root that operations start at, besides the root.
const STARTS: [&str; 3] = ["a", "b", "d"];

/// Three tasks of three operations each at the same time.
async fn run_together(
    subject: &Arc<Subject>,
    random: &mut Random,
    symlinks: bool,
) -> Vec<Vec<(Op, Outcome)>> {
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let ops: Vec<Op> = (0..3).map(|_| random.leaf_op(subject.dirs.len(), symlinks)).collect();
        let subject = Arc::clone(subject);
        running.spawn(async move {
            let mut done = Vec::new();
            for op in ops {
                let outcome = subject.perform(&op).await;
                done.push((op, outcome));
            }
            done
        });
    }
    running.join_all().await
}

#[tokio::test(start_paused = true)]
async fn operations_at_the_same_time_have_an_order() {
    for seed in rounds(100) {
        println!("seed {seed}");
        seed_interleaving(seed);
        let mut random = Random(seed.wrapping_mul(0x1234_5678_9abc_def1));
        let rare = u32::from(seed % 2 == 0) * 50;
        let faults = Faults { read_too_old: rare / 5, commit_conflict: rare, commit_unknown: 0 };
        let subject = Arc::new(unreliable(faults, model_config()).await);
        let mut reference = Reference::new();
        STARTS.iter().for_each(|name| reference.add_start(name));
        let symlinks = seed % 4 < 2;
        for _ in 0..12 {
            let op = random.leaf_op(subject.dirs.len(), symlinks);
            assert_eq!(subject.perform(&op).await, reference.apply(&op), "seed {seed}: {op:?}");
        }
        for round in 0..6 {
            let tasks = run_together(&subject, &mut random, symlinks).await;
            let everything = Everything::read(&subject.server.db).await;
            everything.check();
            let end = dump(&everything);
            let slices: Vec<&[(Op, Outcome)]> = tasks.iter().map(Vec::as_slice).collect();
            let Some(next) = explain(&reference, &slices, &end) else {
                panic!(
                    "seed {seed} round {round}: no order explains\n{tasks:#?}\nfrom\n{}to\n{end}",
                    reference.dump()
                );
            };
            reference = next;
        }
        empty_out(&subject.server, &mut reference).await;
    }
}

/// A commit of unknown outcome may be tried again after others saw its effect, so no order need explain the answers;
/// but nothing is broken, and nothing is left over.
#[tokio::test(start_paused = true)]
async fn commits_of_unknown_outcome_break_nothing() {
    for seed in rounds(60) {
        println!("seed {seed}");
        seed_interleaving(seed);
        let mut random = Random(seed.wrapping_mul(0x0fed_cba9_8765_4321));
        let faults = Faults { read_too_old: 10, commit_conflict: 50, commit_unknown: 150 };
        let subject = Arc::new(unreliable(faults, model_config()).await);
        let server = &subject.server;
        for _ in 0..10 {
            run_together(&subject, &mut random, seed % 2 == 0).await;
            Everything::read(&server.db).await.check();
        }
        server.configure("gc.enable = true");
        wait_for_queues(server).await;
        for name in server.names("/").await {
            server.remove_as(0, &name, true).await.unwrap();
        }
        wait_for_queues(server).await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        let left = Everything::read(&server.db).await;
        left.check();
        assert_eq!((left.inodes.len(), left.entries.len()), (6, 4), "seed {seed}: {:?}", left.inodes);
    }
}

/// The state after some order of the tasks' operations, each task's own order kept, that has these outcomes and this
/// end.
fn explain(start: &Reference, tasks: &[&[(Op, Outcome)]], end: &str) -> Option<Reference> {
    if tasks.iter().all(|rest| rest.is_empty()) {
        return (start.dump() == end).then(|| start.clone());
    }
    (0..tasks.len()).find_map(|task| {
        let ((op, outcome), rest) = tasks[task].split_first()?;
        let mut next = start.clone();
        if next.apply(op) != *outcome {
            return None;
        }
        let mut tasks = tasks.to_vec();
        tasks[task] = rest;
        explain(&next, &tasks, end)
    })
}

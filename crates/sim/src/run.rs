//! One run: a cluster, its workload and its faults from one seed, and the verdict.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, timeout};

use crate::check::{Verdict, chains, copies, managers, metadata, probes, replicas};
use crate::cluster::{Cluster, Kind, Shape};
use crate::faults::Faults;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::work::{Hand, Shared, chunks, files};

/// How long faults go on.
const TROUBLE: Duration = Duration::from_secs(30);
/// How long clients may take to end what they are at once everything works again.
const DRAIN: Duration = Duration::from_secs(120);
/// How long chains may take to be whole again.
const RECOVERY: Duration = Duration::from_secs(120);
/// How long removed files may take to be collected.
const COLLECTION: Duration = Duration::from_secs(120);
/// Simulated time after which a run counts as hung.
const LIMIT: Duration = Duration::from_secs(1200);

/// Choices that are not the seed's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Print events.
    pub print: bool,
    /// Without faults.
    pub calm: bool,
    /// A quarter of the time.
    pub short: bool,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Seed.
    pub seed: u64,
    /// Hash over everything that happened.
    pub hash: u64,
    /// Entries in it.
    pub entries: u64,
    /// Simulated time.
    pub time: Duration,
    /// Operations that succeeded, and that failed.
    pub operations: (u64, u64),
    /// What does not hold.
    pub violations: Vec<String>,
}

/// Runs a seed. The thread must have no tokio runtime.
pub fn run(seed: u64, options: Options) -> Outcome {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets needs nothing that could be missing");
    runtime.block_on(async {
        let trace = Trace::new(options.print);
        let verdict = Verdict::new(trace.clone());
        let hand = Hand::new(Shared::default());
        let scenario = scenario(seed, options, &trace, &verdict, &hand);
        match timeout(LIMIT, scenario).await {
            Ok(Ok(())) => {}
            Ok(Err(stuck)) => verdict.violation(stuck),
            Err(_) => verdict.violation("the run does not end"),
        }
        let (hash, entries) = trace.digest();
        let violations = verdict.all();
        Outcome { seed, hash, entries, time: trace.elapsed(), operations: hand.counts(), violations }
    })
}

async fn scenario(
    seed: u64,
    options: Options,
    trace: &Trace,
    verdict: &Verdict,
    hand: &Hand,
) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let storage = 3 + rng.index(3) as u8;
    let several = rng.chance(1.0 / 3.0);
    let mut servers = || if several { 2 + rng.index(2) as u8 } else { 1 };
    let shape = Shape {
        managers: servers(),
        metas: servers(),
        storage,
        clients: 2 + rng.index(2) as u8,
        chains: 1 + rng.index(3) as u8,
        replicas: if rng.chance(0.85) { 3 } else { 2 },
    };
    trace.event(format_args!("seed {seed}: {shape:?}"));
    let mut cluster = Cluster::start(shape, &mut rng, trace.clone()).await?;
    chains::observe(&cluster.admin.mgmtd, verdict.clone(), trace.clone(), Arc::clone(&cluster.memory));
    managers::observe(&cluster, verdict.clone());
    unsettle(&cluster, &mut rng);
    let history = Arc::new(chunks::History::default());
    let registers = Arc::new(chunks::registers(shape.chains, 1 + rng.index(4) as u8));
    let mut chunk_tasks = Vec::new();
    let mut file_tasks = Vec::new();
    let (reads, pause) = (*rng.pick(&[0.3, 0.5, 0.7]), *rng.pick(&[10, 30, 100]));
    for (index, client) in (0..).zip(&cluster.clients) {
        for worker in 0..1 + rng.index(3) as u32 {
            let worker = chunks::Worker {
                id: index * 16 + worker + 1,
                storage: Arc::clone(&client.storage),
                registers: Arc::clone(&registers),
                history: Arc::clone(&history),
                hand: Arc::clone(hand),
                memory: Arc::clone(&cluster.memory),
                verdict: verdict.clone(),
                rng: rng.fork(),
                pause,
                reads,
                written: 0,
            };
            chunk_tasks.push(tokio::spawn(worker.run()));
        }
        let worker = files::Worker::new(
            index,
            client.env.clone(),
            Arc::clone(&client.meta),
            client.files.clone(),
            Arc::clone(hand),
            verdict.clone(),
            rng.fork(),
            *rng.pick(&[20, 200]),
        );
        file_tasks.push(tokio::spawn(worker.run()));
    }
    let trouble = if options.short { TROUBLE / 4 } else { TROUBLE };
    if options.calm {
        sleep(trouble).await;
    } else {
        Faults::new(rng.fork(), cluster.shape).run(&mut cluster, trouble).await;
    }
    sleep(rng.millis(0..3000)).await;
    hand.stop();
    let ended = async {
        for task in chunk_tasks {
            task.await.map_err(|error| error.to_string())?;
        }
        let mut workers = Vec::new();
        for task in file_tasks {
            workers.push(task.await.map_err(|error| error.to_string())?);
        }
        Ok::<_, String>(workers)
    };
    let workers = timeout(DRAIN, ended).await.map_err(|_| "clients do not end".to_owned())??;
    cluster.replace_damaged().await?;
    cluster.wait_until_whole(RECOVERY).await?;
    settle(&mut cluster, verdict, hand, &history, &registers, workers, rng).await
}

/// Delays of networks and disks of this run.
fn unsettle(cluster: &Cluster, rng: &mut Rng) {
    cluster.net.set_delay(rng.millis(1..8));
    let write_back = *rng.pick(&[0.0, 0.1]);
    let slow = rng.chance(0.5);
    for index in cluster.of(Kind::Storage) {
        let disk = &cluster.nodes[index].machine.disk;
        disk.set_write_back(write_back);
        if slow {
            disk.set_latency(Duration::from_millis(2));
        }
    }
}

/// The last checks, in a quiet cluster.
async fn settle(
    cluster: &mut Cluster,
    verdict: &Verdict,
    hand: &Hand,
    history: &Arc<chunks::History>,
    registers: &Arc<Vec<chunks::Register>>,
    workers: Vec<files::Worker>,
    mut rng: Rng,
) -> Result<(), String> {
    cluster.trace.event("last checks");
    let mut reader = chunks::Worker {
        id: 1000,
        storage: Arc::clone(&cluster.admin.storage),
        registers: Arc::clone(registers),
        history: Arc::clone(history),
        hand: Arc::clone(hand),
        memory: Arc::clone(&cluster.memory),
        verdict: verdict.clone(),
        rng: rng.fork(),
        pause: 0,
        reads: 1.0,
        written: 0,
    };
    reader.read_all().await;
    reader.read_all().await;
    for mut worker in workers {
        worker.look_at_all().await;
    }
    let collected = Instant::now();
    let everything = loop {
        let db = cluster.meta_database().ok_or("the metadata server does not run")?;
        let everything = metadata::Everything::read(&db).await?;
        let Some(garbage) = everything.garbage() else { break everything };
        if collected.elapsed() > COLLECTION {
            verdict.violation(format!("not collected within {COLLECTION:?}: {garbage}"));
            break everything;
        }
        sleep(Duration::from_millis(200)).await;
    };
    everything.check(verdict);
    // Whatever was pending is completed by now.
    let chunks = replicas::check(cluster, verdict).await?;
    for chunk in everything.ownerless(&chunks) {
        verdict.violation(format!("nobody owns {chunk}"));
    }
    probes::old_chain_versions(cluster, registers, verdict).await;
    copies::of_metadata(cluster, verdict).await?;
    copies::of_writes(cluster, verdict).await?;
    if probes::damage(cluster, &chunks, rng.index(usize::from(cluster.shape.storage))) {
        for _ in 0..4 {
            reader.read_all().await;
        }
    }
    let operations = history.check(verdict);
    cluster.trace.event(format_args!("{operations} operations on {} registers", registers.len()));
    Ok(())
}

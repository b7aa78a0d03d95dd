//! Asks every manager all the time for what only the primary answers.

use crate::harness::Cluster;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use valor_env::Env;
use valor_protocol::Address;
use valor_protocol::mgmtd::{GetRoutingInfoReq, methods::GetRoutingInfo};
use valor_protocol::status::code::MGMTD_NOT_PRIMARY;
use valor_rpc::{CallOptions, Client, ClientConfig};

const INTERVAL: Duration = Duration::from_millis(50);
/// A manager that stands still answers what it was asked during the last part of that time.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A manager that became primary stays it for longer, whatever happens to it: nobody takes its lease earlier. Two that
/// act at a time are seen as changes in quick succession, back and forth.
const SHORTEST_REIGN: Duration = Duration::from_secs(1);

/// The thread that asks, and what it has learnt.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: watch::Sender<bool>,
    thread: std::thread::JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    reign: Option<Reign>,
    changes: usize,
    /// When the latest request was sent that each manager refused, not being primary.
    refused: BTreeMap<String, Instant>,
    broken: Vec<String>,
}

struct Reign {
    name: String,
    /// Who reigned before.
    before: Option<String>,
    /// It has answered by then.
    since: Instant,
}

impl Seen {
    fn answered(&mut self, name: &str, sent: Instant) {
        match &mut self.reign {
            Some(reign) if reign.name == name => {}
            // Perhaps it has answered before the other did.
            Some(reign) if sent < reign.since => {}
            reign => {
                if let Some(old) = reign {
                    self.changes += 1;
                    let reigned = sent - old.since;
                    if reigned < SHORTEST_REIGN && old.before.as_deref() == Some(name) {
                        self.broken.push(format!("{name} answers {reigned:?} after {} began to", old.name));
                    }
                }
                let before = reign.take().map(|old| old.name);
                *reign = Some(Reign { name: name.to_owned(), before, since: Instant::now() });
            }
        }
    }

    fn refused(&mut self, name: &str, sent: Instant) {
        let latest = self.refused.entry(name.to_owned()).or_insert(sent);
        *latest = sent.max(*latest);
    }
}

impl Watch {
    /// Of the managers of a cluster that is up.
    pub fn start(cluster: &Cluster) -> Self {
        let managers = managers(cluster);
        assert_eq!(managers.len(), 3, "{managers:?}");
        let plan = std::fs::read_to_string(cluster.data_dir().join("cluster.toml")).expect("plan");
        let plan: toml::Table = plan.parse().expect("plan");
        let req = GetRoutingInfoReq {
            cluster_id: plan["cluster_id"].as_str().expect("text").to_owned(),
            ..Default::default()
        };
        let seen = Arc::<Mutex<Seen>>::default();
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::spawn({
            let seen = Arc::clone(&seen);
            move || run(&managers, &req, &seen, stopped)
        });
        Self { seen, stop, thread }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        checked(&self.seen)
    }

    /// Who acts as primary, by the last answers.
    pub fn primary(&self) -> Option<String> {
        self.seen().reign.as_ref().map(|reign| reign.name.clone())
    }

    /// Whether a manager has refused a request that was sent after `begin`.
    pub fn refuses_since(&self, name: &str, begin: Instant) -> bool {
        self.seen().refused.get(name).is_some_and(|sent| *sent > begin)
    }

    /// The same of all of them, each at some time.
    pub fn all_refuse_since(&self, begin: Instant) -> bool {
        let seen = self.seen();
        seen.refused.len() == 3 && seen.refused.values().all(|sent| *sent > begin)
    }

    /// How often the primary has changed.
    pub fn stop(self) -> usize {
        self.stop.send_replace(true);
        self.thread.join().expect("the thread that asks");
        checked(&self.seen).changes
    }
}

/// Fails if two were primary at a time.
fn checked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    let seen = seen.lock().expect("not poisoned");
    assert!(seen.broken.is_empty(), "two primaries: {:?}", seen.broken);
    seen
}

/// Names and addresses.
fn managers(cluster: &Cluster) -> Vec<(String, Address)> {
    let list: Value = serde_json::from_str(&cluster.admin(&["list-nodes", "--json"])).expect("JSON");
    let nodes = list.as_array().expect("a list").iter().filter(|node| node["Type"] == "MGMTD");
    nodes
        .map(|node| {
            let addresses = node["Addresses"].as_str().expect("text");
            let own =
                addresses.split(' ').find_map(|group| group.strip_prefix("Mgmtd@")).expect("an address");
            (format!("mgmtd-{}", node["Id"]), own.parse().expect("an address"))
        })
        .collect()
}

fn run(
    managers: &[(String, Address)],
    req: &GetRoutingInfoReq,
    seen: &Arc<Mutex<Seen>>,
    mut stopped: watch::Receiver<bool>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let rpc = Client::new(Env::real(), ClientConfig::default());
        loop {
            for (name, address) in managers {
                tokio::spawn(ask(Arc::clone(&rpc), name.clone(), *address, req.clone(), Arc::clone(seen)));
            }
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    });
}

async fn ask(
    rpc: Arc<Client>,
    name: String,
    address: Address,
    req: GetRoutingInfoReq,
    seen: Arc<Mutex<Seen>>,
) {
    let sent = Instant::now();
    let answer = rpc.call::<GetRoutingInfo>(address, &req, &CallOptions::timeout(TIMEOUT)).await;
    let mut seen = seen.lock().expect("not poisoned");
    match answer {
        Ok(_) => seen.answered(&name, sent),
        Err(status) if status.code == MGMTD_NOT_PRIMARY => seen.refused(&name, sent),
        // Not there.
        Err(_) => {}
    }
}

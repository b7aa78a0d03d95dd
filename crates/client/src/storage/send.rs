//! Sends operations to the replicas chosen for them until they succeed or are given up: in batches per server, or one
//! by one.

use super::StorageClient;
use super::config::{RetryOptions, TargetSelection, TargetSelectionMode};
use super::gate::Gate;
use super::retry::{Retry, converted};
use super::select::{Chosen, Criteria};
use crate::join::join_all;
use crate::routing::Routing;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use valor_env::metrics;
use valor_protocol::status::{code, status, with_message};
use valor_protocol::storage::VersionedChainId;
use valor_protocol::storage::methods::SERVICE;
use valor_protocol::{Address, ChainId, NodeId, Status};

/// Where and how a request is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    /// Server.
    pub address: Address,
    /// Deadline of the request.
    pub deadline: Duration,
    /// Earlier attempts.
    pub retry_count: u32,
}

/// Operations that one request carries many of.
pub(super) trait BatchCall: Sync {
    /// An operation.
    type Op: Sync;
    /// Its successful result.
    type Done: Send;
    /// Replica if the caller does not say.
    const MODE: TargetSelectionMode;

    /// An operation's chain.
    fn chain(op: &Self::Op) -> ChainId;
    /// Bytes that count against the limit of a request.
    fn bytes(_: &Self::Op) -> u64 {
        0
    }
    /// Limits.
    fn gate(client: &StorageClient) -> &Gate;
    /// Sends one request: a result for each operation, or what the whole request failed with.
    fn send(
        &self,
        client: &StorageClient,
        to: Sending,
        ops: &[(&Self::Op, VersionedChainId)],
    ) -> impl Future<Output = Result<Vec<Result<Self::Done, Status>>, Status>> + Send;
}

/// An operation's number and replica.
type Routed = (usize, Chosen);

/// Operations for one request.
struct Batch {
    node: NodeId,
    ops: Vec<Routed>,
}

/// An operation's number, its replica if one was chosen, and what came of it.
type Outcome<T> = (usize, Option<Chosen>, Result<T, Status>);

/// Runs operations in batches, retrying those that fail. A result for each, in order.
pub(super) async fn run_batches<C: BatchCall>(
    client: &StorageClient,
    call: &C,
    ops: &[C::Op],
    selection: &TargetSelection,
    options: &RetryOptions,
) -> Vec<Result<C::Done, Status>> {
    let mut retry = Retry::new(&client.config.load().retry, options);
    let mut results: Vec<Option<Result<C::Done, Status>>> = ops.iter().map(|_| None).collect();
    let mut pending: Vec<usize> = (0..ops.len()).collect();
    while let Some(deadline) = if pending.is_empty() { None } else { retry.begin() } {
        let outcomes = attempt(client, call, ops, &pending, selection, &retry, deadline).await;
        pending.clear();
        for (index, chosen, outcome) in outcomes {
            let outcome = outcome.map_err(|error| {
                if retry.note(&error, chosen.as_ref()) {
                    pending.push(index);
                }
                converted(error)
            });
            if let Some(slot) = results.get_mut(index) {
                *slot = Some(outcome);
            }
        }
        if !pending.is_empty() {
            retry.pause(&client.mgmtd).await;
        }
    }
    results.into_iter().map(|result| finished(result.unwrap_or_else(not_attempted))).collect()
}

fn not_attempted<T>() -> Result<T, Status> {
    Err(status(code::STORAGE_CLIENT_TIMEOUT))
}

fn finished<T>(result: Result<T, Status>) -> Result<T, Status> {
    if let Err(error) = &result
        && error.code != code::STORAGE_CLIENT_CHUNK_NOT_FOUND
    {
        ::metrics::counter!(metrics::CLIENT_STORAGE_FAILURES).increment(1);
        tracing::debug!(%error, "storage operation given up");
    }
    result
}

async fn attempt<C: BatchCall>(
    client: &StorageClient,
    call: &C,
    ops: &[C::Op],
    pending: &[usize],
    selection: &TargetSelection,
    retry: &Retry,
    deadline: Duration,
) -> Vec<Outcome<C::Done>> {
    let routing = client.mgmtd.routing();
    let gate = C::gate(client);
    let (chosen, mut outcomes) = choose_all::<C>(client, ops, pending, selection, retry, &routing);
    let size = |&(index, _): &Routed| ops.get(index).map_or(0, C::bytes);
    let limits = gate.limits();
    let batches = split(chosen, limits.max_batch_size, limits.max_batch_bytes.get(), size);
    let sent = join_all(batches.iter().map(|batch| async {
        let of_batch: Vec<_> =
            batch.ops.iter().filter_map(|(index, chosen)| Some((ops.get(*index)?, chosen.chain))).collect();
        let asked = batch.ops.iter().map(|(_, chosen)| *chosen);
        let results = admitted(client, gate, &routing, batch.node, asked, async |address| {
            let to = Sending { address, deadline, retry_count: retry.count() };
            call.send(client, to, &of_batch).await
        })
        .await
        .and_then(|results| if results.len() == of_batch.len() { Ok(results) } else { Err(wrong_count()) });
        match results {
            Ok(results) => results,
            Err(error) => batch.ops.iter().map(|_| Err(error.clone())).collect(),
        }
    }))
    .await;
    for (batch, results) in batches.iter().zip(sent) {
        let numbered = batch.ops.iter().zip(results);
        outcomes.extend(numbered.map(|(&(index, chosen), result)| (index, Some(chosen), result)));
    }
    outcomes
}

fn wrong_count() -> Status {
    with_message(code::STORAGE_CLIENT_FOUND_BUG, "number of results differs from number of operations")
}

/// Chooses replicas: those chosen, and the outcomes of operations for which none could be.
fn choose_all<C: BatchCall>(
    client: &StorageClient,
    ops: &[C::Op],
    pending: &[usize],
    selection: &TargetSelection,
    retry: &Retry,
    routing: &Routing,
) -> (Vec<Routed>, Vec<Outcome<C::Done>>) {
    let gate = C::gate(client);
    let criteria = Criteria {
        mode: mode_or(selection, C::MODE),
        options: selection,
        failed: &|chosen| retry.has_failed(chosen),
        load: &|node| gate.in_flight(node),
    };
    let mut assigned = HashMap::new();
    let (mut all, mut outcomes) = (Vec::with_capacity(pending.len()), Vec::with_capacity(pending.len()));
    for &index in pending {
        let Some(op) = ops.get(index) else { continue };
        match client.selector.choose(routing, C::chain(op), &criteria, &mut assigned) {
            Ok(chosen) => all.push((index, chosen)),
            Err(code) => outcomes.push((index, None, Err(unavailable(code, C::chain(op))))),
        }
    }
    (all, outcomes)
}

fn mode_or(selection: &TargetSelection, default: TargetSelectionMode) -> TargetSelectionMode {
    if selection.mode == TargetSelectionMode::Default { default } else { selection.mode }
}

fn unavailable(code: u16, chain: ChainId) -> Status {
    with_message(code, format!("chain {chain}"))
}

/// Waits for leave, makes sure that the chains have not changed meanwhile, sends, and waits for the answer as long as the
/// replicas that were asked belong to those that serve.
async fn admitted<T>(
    client: &StorageClient,
    gate: &Gate,
    routing: &Routing,
    node: NodeId,
    asked: impl Iterator<Item = Chosen> + Clone,
    send: impl AsyncFnOnce(Address) -> Result<T, Status>,
) -> Result<T, Status> {
    let Some(address) = routing.node_endpoint(node, SERVICE) else {
        let message = format!("node {node} has no endpoint for storage over TCP");
        return Err(with_message(code::STORAGE_CLIENT_NO_RDMA_INTERFACE, message));
    };
    let _pass = gate.enter(node).await;
    // Before the look at what is known now, so that no change falls between the two.
    let changes = client.mgmtd.watch();
    let changed = client.mgmtd.routing_cache().peek(|now| {
        let same = |Chosen { chain, .. }| {
            now.chain(chain.chain_id).is_some_and(|now| now.version == chain.chain_ver)
        };
        now.version() != routing.version() && !asked.clone().all(same)
    });
    if changed {
        return Err(status(code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH));
    }
    tokio::select! {
        biased;
        result = send(address) => result,
        // As for a deadline: the request may have been executed.
        () = serve_no_longer(changes, asked) => {
            Err(with_message(code::RPC_TIMEOUT, "a replica that was asked does not serve its chain any longer"))
        }
    }
}

/// Waits until one of the replicas is not among those that serve its chain: a server that is dead, or that stands still,
/// would be waited for until the deadline, while the chain serves again without it.
async fn serve_no_longer(
    mut changes: watch::Receiver<Arc<Routing>>,
    asked: impl Iterator<Item = Chosen> + Clone,
) {
    while changes.changed().await.is_ok() {
        let now = changes.borrow_and_update();
        let serves = |chosen: Chosen| {
            now.chain(chosen.chain.chain_id)
                .and_then(|chain| chain.serving.as_ref().ok())
                .is_some_and(|all| all.iter().any(|replica| replica.target_id == chosen.replica.target_id))
        };
        if !asked.clone().all(serves) {
            return;
        }
    }
    std::future::pending().await
}

/// Groups operations by node, in order, into batches within the limits that are filled about equally.
fn split(chosen: Vec<Routed>, max_ops: usize, max_bytes: u64, bytes: impl Fn(&Routed) -> u64) -> Vec<Batch> {
    let mut by_node: BTreeMap<NodeId, Vec<Routed>> = BTreeMap::new();
    for op in chosen {
        by_node.entry(op.1.replica.node_id).or_default().push(op);
    }
    let mut batches = Vec::with_capacity(by_node.len());
    for (node, ops) in by_node {
        let even_ops = even(ops.len() as u64, max_ops as u64);
        let even_bytes = even(ops.iter().map(&bytes).sum(), max_bytes);
        let mut batch = Batch { node, ops: Vec::with_capacity(ops.len().min(max_ops)) };
        let mut batch_bytes = 0;
        for op in ops {
            let size = bytes(&op);
            let full = batch.ops.len() as u64 >= even_ops || batch_bytes + size > even_bytes;
            if full && !batch.ops.is_empty() {
                batches.push(std::mem::replace(&mut batch, Batch { node, ops: Vec::new() }));
                batch_bytes = 0;
            }
            batch.ops.push(op);
            batch_bytes += size;
        }
        batches.push(batch);
    }
    batches
}

/// The share of each when `total` is split evenly into parts of at most `max`.
fn even(total: u64, max: u64) -> u64 {
    let max = max.max(1);
    if total <= max { max } else { total.div_ceil(total.div_ceil(max)) }
}

/// Runs one operation with a request of its own, retrying it.
pub(super) async fn run_one<T, F, Fut>(
    client: &StorageClient,
    gate: &Gate,
    chain: ChainId,
    selection: &TargetSelection,
    options: &RetryOptions,
    send: F,
) -> Result<T, Status>
where
    F: Fn(Sending, VersionedChainId) -> Fut + Sync,
    Fut: Future<Output = Result<T, Status>> + Send,
{
    let mut retry = Retry::new(&client.config.load().retry, options);
    let mut result = not_attempted();
    while let Some(deadline) = retry.begin() {
        let routing = client.mgmtd.routing();
        let chosen = choose_head(client, gate, chain, selection, &retry, &routing);
        let outcome = match &chosen {
            Ok(chosen) => {
                let node = chosen.replica.node_id;
                admitted(client, gate, &routing, node, std::iter::once(*chosen), async |address| {
                    send(Sending { address, deadline, retry_count: retry.count() }, chosen.chain).await
                })
                .await
            }
            Err(code) => Err(unavailable(*code, chain)),
        };
        let error = match outcome {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let again = retry.note(&error, chosen.as_ref().ok());
        result = Err(converted(error));
        if !again {
            break;
        }
        retry.pause(&client.mgmtd).await;
    }
    finished(result)
}

fn choose_head(
    client: &StorageClient,
    gate: &Gate,
    chain: ChainId,
    selection: &TargetSelection,
    retry: &Retry,
    routing: &Routing,
) -> Result<Chosen, u16> {
    let criteria = Criteria {
        mode: mode_or(selection, TargetSelectionMode::HeadTarget),
        options: selection,
        failed: &|chosen| retry.has_failed(chosen),
        load: &|node| gate.in_flight(node),
    };
    client.selector.choose(routing, chain, &criteria, &mut HashMap::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Replica;
    use valor_protocol::TargetId;

    fn chosen(node: u32) -> Chosen {
        let replica = Replica { target_id: TargetId(1), node_id: NodeId(node) };
        Chosen { chain: VersionedChainId::default(), replica }
    }

    fn sizes(nodes: &[u32], max_ops: usize, max_bytes: u64, bytes: u64) -> Vec<(u32, Vec<usize>)> {
        let ops = nodes.iter().enumerate().map(|(index, &node)| (index, chosen(node))).collect();
        let batches = split(ops, max_ops, max_bytes, |_| bytes);
        batches.iter().map(|batch| (batch.node.0, batch.ops.iter().map(|op| op.0).collect())).collect()
    }

    #[test]
    fn batches_are_per_node_and_even() {
        assert_eq!(sizes(&[1, 2, 1], 10, 100, 1), [(1, vec![0, 2]), (2, vec![1])]);
        let split: Vec<usize> = sizes(&[1; 10], 4, 100, 1).iter().map(|(_, ops)| ops.len()).collect();
        assert_eq!(split, [4, 4, 2]);
        let split: Vec<usize> = sizes(&[1; 6], 5, 100, 1).iter().map(|(_, ops)| ops.len()).collect();
        assert_eq!(split, [3, 3]);
        let split: Vec<usize> = sizes(&[1; 6], 100, 40, 10).iter().map(|(_, ops)| ops.len()).collect();
        assert_eq!(split, [3, 3]);
        assert_eq!(sizes(&[1, 1], 100, 5, 10).len(), 2, "too large for any batch, sent alone");
    }
}

//! Requests that are repeated late, made up for a quiet cluster: chance brings them about in few runs only.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use valor_client::storage::{ReadOp, ReadOptions};
use valor_protocol::Method;
use valor_protocol::meta::methods::{LockDirectory, Mkdirs, Remove, SetAttr};
use valor_protocol::meta::{LockAction, LockDirectoryReq, MkdirsReq, PathAt, RemoveReq, ReqBase, SetAttrReq};
use valor_protocol::mgmtd::{ChainInfo, PublicTargetState};
use valor_protocol::status::code;
use valor_protocol::storage::methods::Write;
use valor_protocol::storage::{IOResult, VersionedChainId, WriteReq};
use valor_protocol::{Address, InodeId, NodeId, RequestId, Uuid};
use valor_rpc::CallOptions;
use valor_wire::Status;

use super::{Verdict, requests};
use crate::cluster::{Cluster, Kind, ROOT, chain_id};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What was done at one metadata server and undone since is asked for again, at another server.
///
/// # Errors
/// What cannot be done.
pub async fn of_metadata(cluster: &Cluster, verdict: &Verdict) -> Result<(), String> {
    let metas = cluster.of(Kind::Meta);
    let [one, other, ..] = metas[..] else { return Ok(()) };
    let late = Late { cluster, one: address(cluster, one), other: address(cluster, other) };
    let path = PathAt::at(InodeId::ROOT, "late");
    let mkdirs = MkdirsReq { base: late.base(), path: path.clone(), perm: 0o755, ..MkdirsReq::default() };
    let made = late.first::<Mkdirs>(&mkdirs).await?.stat.id;

    let change = |perm| SetAttrReq {
        base: late.base(),
        path: PathAt::inode(made),
        perm: Some(perm),
        ..SetAttrReq::default()
    };
    let changed = change(0o700);
    late.first::<SetAttr>(&changed).await?;
    late.first::<SetAttr>(&change(0o755)).await?;
    late.copy::<SetAttr>(&changed).await?;
    let lock = |action| LockDirectoryReq { base: late.base(), inode: made, action };
    let locked = lock(LockAction::TryLock);
    late.first::<LockDirectory>(&locked).await?;
    late.first::<LockDirectory>(&lock(LockAction::UnLock)).await?;
    late.copy::<LockDirectory>(&locked).await?;
    let stat = || cluster.admin.meta.stat(&ROOT, path.clone(), false);
    let found = cluster.until("the directory is looked at", PATIENCE, stat).await?;
    if found.data.acl.perm != 0o755 {
        verdict.violation(format!("a late copy of setAttr has set permissions back: {found:?}"));
    }
    if found.data.as_directory().is_some_and(|directory| directory.lock.is_some()) {
        verdict.violation(format!("a late copy of lockDirectory has locked again: {found:?}"));
    }

    let remove = RemoveReq { base: late.base(), path: path.clone(), ..RemoveReq::default() };
    late.first::<Remove>(&remove).await?;
    late.copy::<Mkdirs>(&mkdirs).await?;
    match stat().await {
        Err(status) if status.code == code::META_NOT_FOUND => {}
        found => verdict.violation(format!("a late copy of mkdirs has made the directory again: {found:?}")),
    }
    Ok(())
}

/// Requests of which a copy comes late at another server.
struct Late<'a> {
    cluster: &'a Cluster,
    one: Address,
    other: Address,
}

impl Late<'_> {
    fn base(&self) -> ReqBase {
        let admin = &self.cluster.admin;
        let (client, uuid) = (admin.storage.client_id().clone(), Uuid(admin.env.random_uuid()));
        ReqBase { user: ROOT.clone(), client, uuid, ..ReqBase::default() }
    }

    async fn first<M: Method>(&self, req: &M::Req) -> Result<M::Rsp, String> {
        self.send::<M>(self.one, req).await
    }

    async fn copy<M: Method>(&self, req: &M::Req) -> Result<M::Rsp, String> {
        self.send::<M>(self.other, req).await
    }

    async fn send<M: Method>(&self, to: Address, req: &M::Req) -> Result<M::Rsp, String> {
        let options = CallOptions::timeout(Duration::from_secs(5));
        let what = format!("{} is answered", M::NAME);
        self.cluster.until(&what, PATIENCE, || self.cluster.admin.rpc.call::<M>(to, req, &options)).await
    }
}

/// Where a metadata server listens.
fn address(cluster: &Cluster, index: usize) -> Address {
    endpoint(cluster, cluster.nodes[index].id(), "MetaSerde")
}

/// A write is answered while a replica is away, and another one follows it. The replica is filled, all others end, and
/// the first write is repeated.
///
/// # Errors
/// What cannot be done.
pub async fn of_writes(cluster: &mut Cluster, verdict: &Verdict) -> Result<(), String> {
    let index = |node: &NodeId| cluster.nodes.iter().position(|known| known.id() == *node);
    let members: Vec<usize> = nodes(cluster, |_| true).iter().filter_map(index).collect();
    let Some((filled, others)) = members.split_last().filter(|(_, others)| !others.is_empty()) else {
        return Ok(());
    };
    cluster.kill(*filled);
    let (first, second) = (request(cluster, 1), request(cluster, 2));
    write(cluster, first.clone()).await?;
    write(cluster, second.clone()).await?;
    cluster.boot(*filled);
    cluster.wait_until_whole(PATIENCE).await?;
    for index in others {
        cluster.kill(*index);
    }
    write(cluster, first).await?;
    let op = ReadOp {
        chain_id: chain_id(0),
        chunk_id: second.payload.key.chunk_id.clone(),
        offset: 0,
        length: second.payload.length,
    };
    let read = || async {
        let results =
            cluster.admin.storage.batch_read(std::slice::from_ref(&op), &ROOT, &ReadOptions::default()).await;
        let data = results.into_iter().next().ok_or_else(|| "no result".to_owned())?;
        let data = data.map_err(|status| status.to_string())?.data;
        if data != second.payload.inlinebuf.data {
            verdict.violation("a write that was answered came again after a later one, at a filled replica");
        }
        Ok::<_, String>(())
    };
    cluster.until("the chunk is read", PATIENCE, read).await?;
    for index in others {
        cluster.boot(*index);
    }
    cluster.wait_until_whole(PATIENCE).await
}

/// Nodes of the first chain's targets that are in the states asked for, in order.
fn nodes(cluster: &Cluster, wanted: impl Fn(PublicTargetState) -> bool) -> Vec<NodeId> {
    let routing = cluster.admin.mgmtd.routing();
    let chain = routing.info().chain(chain_id(0));
    let targets = chain.into_iter().flat_map(|chain: &ChainInfo| &chain.targets);
    let targets = targets.filter(|target| wanted(target.public_state));
    targets.filter_map(|target| routing.target(target.target_id)?.node_id).collect()
}

fn endpoint(cluster: &Cluster, node: NodeId, service: &str) -> Address {
    cluster.admin.mgmtd.routing().node_endpoint(node, service).unwrap_or_default()
}

/// A write on a channel of its own.
fn request(cluster: &Cluster, number: u8) -> WriteReq {
    let data = Bytes::from(vec![number; 100]);
    let place = (u16::MAX - u16::from(number), u64::from(number));
    let mut req = requests::write(cluster, VersionedChainId::default(), b"sim-late", data, place);
    req.tag.request_id = RequestId(u64::MAX - u64::from(number));
    req
}

/// Sends a write to the head of now until it succeeds.
async fn write(cluster: &Cluster, mut req: WriteReq) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        // Success or not, it goes where the head is as far as is known.
        let _ = cluster.admin.mgmtd.refresh_now().await;
        let error = match send(cluster, &mut req).await.and_then(|result| result.length_info) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if begun.elapsed() >= PATIENCE {
            return Err(format!("a write is not answered: {error}"));
        }
        sleep(PAUSE).await;
    }
}

async fn send(cluster: &Cluster, req: &mut WriteReq) -> Result<IOResult, Status> {
    let chain_ver = {
        let routing = cluster.admin.mgmtd.routing();
        routing.info().chain(chain_id(0)).map(|chain| chain.chain_version).unwrap_or_default()
    };
    let head =
        nodes(cluster, |state| state == PublicTargetState::Serving).first().copied().unwrap_or_default();
    req.payload.key.v_chain_id = VersionedChainId { chain_id: chain_id(0), chain_ver };
    req.retry_count += 1;
    let options = CallOptions::timeout(Duration::from_secs(5));
    let address = endpoint(cluster, head, "StorageSerde");
    Ok(cluster.admin.rpc.call::<Write>(address, req, &options).await?.result)
}

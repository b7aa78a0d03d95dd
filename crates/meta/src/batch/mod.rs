//! Operations on one inode by its owner, merged (`src/meta/store/ops/BatchOperation.cc`).
//!
//! `sync`, `close`, `setAttr` by id, and `create` of a name in a directory run on the server that owns the inode (the
//! directory). While one transaction on an inode runs, further requests gather in a batch which becomes the next one:
//! a hundred creates in one directory cost a few transactions instead of a hundred conflicting ones. Since only the
//! owner changes a file's length, a batch may ask storage for it without fear that another server does the same.

mod append;
mod attributes;
mod create;
mod length;

use std::collections::HashMap;
use std::sync::Arc;

use metrics::histogram;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use valor_protocol::InodeId;
use valor_protocol::meta::{
    CloseReq, CloseRsp, CreateReq, CreateRsp, Inode, SetAttrReq, SetAttrRsp, SyncReq, SyncRsp,
};
use valor_protocol::status::code;
use valor_protocol::valor::{AppendReserveReq, AppendReserveRsp};
use valor_wire::Status;

use crate::core::{Core, Cx, Operation};
use crate::error::{Result, fail, status};
use crate::store::{Read, Tx, read_conflict_inode, require_inode, store_inode};
use length::LengthState;

/// The answer to one request.
pub(crate) type Answer<T> = std::result::Result<T, Status>;

/// A request that waits for its answer.
pub(crate) struct Waiting<Req, Rsp> {
    req: Req,
    /// Set by a try; without it the request shares the fate of the batch.
    answer: Option<Answer<Rsp>>,
    /// The answer is written down in the transaction, and holds only with it.
    remembered: bool,
    reply: oneshot::Sender<Answer<Rsp>>,
}

impl<Req, Rsp> Waiting<Req, Rsp> {
    /// Sends the answer. What a try promised holds only if its transaction was committed; a refusal that
    /// need not be remembered holds anyway.
    fn finish(self, batch: &Answer<Inode>, rest: impl FnOnce(&Inode) -> Answer<Rsp>) {
        let answer = match (self.answer, batch) {
            (Some(Err(refusal)), _) if !self.remembered => Err(refusal),
            (_, Err(error)) => Err(error.clone()),
            (Some(answer), Ok(_)) => answer,
            (None, Ok(inode)) => rest(inode),
        };
        // The client may have gone.
        let _ = self.reply.send(answer);
    }
}

/// Requests on one inode that run in one transaction.
pub(crate) struct Batch {
    inode: InodeId,
    syncs: Vec<Waiting<SyncReq, SyncRsp>>,
    closes: Vec<Waiting<CloseReq, CloseRsp>>,
    set_attrs: Vec<Waiting<SetAttrReq, SetAttrRsp>>,
    appends: Vec<Waiting<AppendReserveReq, AppendReserveRsp>>,
    creates: Vec<Waiting<CreateReq, CreateRsp>>,
    length: LengthState,
}

/// A kind of request that goes through batches.
pub(crate) trait Batched: Sized + Send + 'static {
    /// Its response.
    type Rsp: Send + 'static;
    /// Puts it into a batch.
    fn join(waiting: Waiting<Self, Self::Rsp>, batch: &mut Batch);
}

macro_rules! batched {
    ($($req:ty => $rsp:ty, $list:ident;)*) => {$(
        impl Batched for $req {
            type Rsp = $rsp;

            fn join(waiting: Waiting<Self, $rsp>, batch: &mut Batch) {
                batch.$list.push(waiting);
            }
        }
    )*};
}

batched! {
    SyncReq => SyncRsp, syncs;
    CloseReq => CloseRsp, closes;
    SetAttrReq => SetAttrRsp, set_attrs;
    AppendReserveReq => AppendReserveRsp, appends;
    CreateReq => CreateRsp, creates;
}

impl Batch {
    fn new(inode: InodeId) -> Self {
        Self {
            inode,
            syncs: Vec::new(),
            closes: Vec::new(),
            set_attrs: Vec::new(),
            appends: Vec::new(),
            creates: Vec::new(),
            length: LengthState::default(),
        }
    }

    fn len(&self) -> usize {
        self.syncs.len() + self.closes.len() + self.set_attrs.len() + self.appends.len() + self.creates.len()
    }

    fn forget_answers(&mut self) {
        self.syncs.iter_mut().for_each(|waiting| waiting.answer = None);
        self.closes.iter_mut().for_each(|waiting| waiting.answer = None);
        self.set_attrs.iter_mut().for_each(|waiting| (waiting.answer, waiting.remembered) = (None, false));
        self.appends.iter_mut().for_each(|waiting| waiting.answer = None);
        self.creates.iter_mut().for_each(|waiting| (waiting.answer, waiting.remembered) = (None, false));
    }

    /// Gives everyone his answer, or that of the whole.
    fn finish(self, result: &Answer<Inode>) {
        fn none<T>() -> Answer<T> {
            Err(status(code::META_FOUND_BUG, "a batch left a request without answer"))
        }
        for waiting in self.syncs {
            waiting.finish(result, |inode| Ok(SyncRsp { stat: inode.clone(), ..SyncRsp::default() }));
        }
        for waiting in self.closes {
            waiting.finish(result, |inode| Ok(CloseRsp { stat: inode.clone(), ..CloseRsp::default() }));
        }
        for waiting in self.set_attrs {
            waiting.finish(result, |inode| Ok(SetAttrRsp { stat: inode.clone(), ..SetAttrRsp::default() }));
        }
        self.appends.into_iter().for_each(|waiting| waiting.finish(result, |_| none()));
        self.creates.into_iter().for_each(|waiting| waiting.finish(result, |_| none()));
    }
}

impl Operation for Batch {
    type Rsp = Inode;

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<Inode> {
        self.forget_answers();
        let (owner, stamp) = cx.core.distributor.check_owner(tx, self.inode).await?;
        if !owner {
            return fail(code::META_BUSY, format!("inode {} belongs to another server", self.inode));
        }
        let mut inode = require_inode(tx, self.inode, Read::Snapshot).await?;
        self.length.restart(stamp, &inode);
        let mut dirty = self.sync_and_close(cx, tx, &mut inode).await?;
        dirty |= self.set_attributes(cx, tx, &mut inode).await?;
        self.append(cx, tx, &inode).await?;
        dirty |= self.create(cx, tx, &mut inode).await?;
        if dirty {
            read_conflict_inode(tx, inode.id);
            store_inode(tx, &inode)?;
        }
        if !self.set_attrs.is_empty() {
            crate::times::overlay(cx, tx, &mut inode).await?;
        }
        Ok(inode)
    }

    fn committed(&mut self, cx: &Cx<'_>, _: &Inode) {
        if !self.set_attrs.is_empty() {
            cx.core.acl_cache.invalidate(self.inode);
        }
    }
}

const SHARDS: usize = 64;

/// Batches that gather, by inode. An inode is present while a transaction on it runs.
pub(crate) struct Batches {
    shards: [Mutex<HashMap<InodeId, Option<Batch>>>; SHARDS],
}

impl Default for Batches {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Batches {
    fn shard(&self, inode: InodeId) -> &Mutex<HashMap<InodeId, Option<Batch>>> {
        &self.shards[(inode.0 ^ (inode.0 >> 12)) as usize % SHARDS]
    }

    /// The batch that runs next, or none, in which case the inode is free.
    fn next(&self, inode: InodeId) -> Option<Batch> {
        let mut map = self.shard(inode).lock();
        let next = map.get_mut(&inode).and_then(Option::take);
        if next.is_none() {
            map.remove(&inode);
        }
        next
    }
}

/// Runs a request in a batch on `inode` and waits for its answer.
pub(crate) async fn submit<R: Batched>(
    core: &Arc<Core>,
    batches: &Arc<Batches>,
    inode: InodeId,
    req: R,
) -> Answer<R::Rsp> {
    let (reply, answer) = oneshot::channel();
    let waiting = Waiting { req, answer: None, remembered: false, reply };
    let limit = core.config.get().max_batch_operations as usize;
    let first = {
        let mut map = batches.shard(inode).lock();
        match map.get_mut(&inode) {
            Some(next) => {
                let batch = next.get_or_insert_with(|| Batch::new(inode));
                if limit != 0 && batch.len() >= limit {
                    return Err(status(code::META_BUSY, format!("too many requests on inode {inode}")));
                }
                R::join(waiting, batch);
                None
            }
            None => {
                map.insert(inode, None);
                let mut batch = Batch::new(inode);
                R::join(waiting, &mut batch);
                Some(batch)
            }
        }
    };
    if let Some(batch) = first {
        // A task of its own: others wait for it even if this client goes away.
        let runner = Runner { core: Arc::clone(core), batches: Arc::clone(batches), inode, done: false };
        let trace = valor_env::request_id::current().unwrap_or_default();
        tokio::spawn(valor_env::request_id::scope(trace, runner.run(batch)));
    }
    answer.await.unwrap_or_else(|_| Err(status(code::META_BUSY, "batch was given up")))
}

struct Runner {
    core: Arc<Core>,
    batches: Arc<Batches>,
    inode: InodeId,
    done: bool,
}

impl Runner {
    async fn run(mut self, mut batch: Batch) {
        loop {
            histogram!(valor_env::metrics::META_BATCH_SIZE).record(batch.len() as f64);
            let result = self.core.drive(&mut batch).await;
            batch.finish(&result);
            match self.batches.next(self.inode) {
                Some(next) => batch = next,
                None => break,
            }
        }
        self.done = true;
    }
}

impl Drop for Runner {
    /// Only after a panic, or when the runtime shuts down: nobody else would run what waits here.
    fn drop(&mut self) {
        if !self.done {
            self.batches.shard(self.inode).lock().remove(&self.inode);
        }
    }
}

//! The half that serves a database.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use valor_env::Env;
use valor_rpc::Router;
use valor_wire::Status;

use super::VIEW_AGE_MAX;
use super::protocol::{
    Begin, BeginReq, Commit, CommitReq, CommitRsp, End, EndReq, Entry, Fence, FenceReq, Get, GetReq, GetRsp,
    Nothing, SERVICE, SERVICE_ID, Scan, ScanReq, ScanRsp, ViewInfo,
};
use super::views::{Held, Views};
use crate::batch::CommitRequest;
use crate::key::{KeyRange, check_range, check_readable};
use crate::store::{Store, View};
use crate::{Database, KvError};

/// Views held for remote transactions at a time.
const VIEWS_MAX: usize = 1024;
/// Entries in one answer.
const SCAN_ENTRIES_MAX: u32 = 1024;
/// Bytes of keys and values in one answer, beyond which it ends after the entry it has reached.
const SCAN_BYTES_MAX: usize = 1 << 20;

/// The service through which other processes run transactions on `db`.
pub fn router(db: Database) -> Router {
    let (env, store) = db.into_parts();
    let server = Arc::new(Server { env, store, views: Mutex::new(Views::new(VIEWS_MAX)) });
    let with = |server: &Arc<Server>| Arc::clone(server);
    let (begin, end, get, scan, commit, fence) =
        (with(&server), with(&server), with(&server), with(&server), with(&server), with(&server));
    Router::new(SERVICE_ID, SERVICE)
        .method::<Begin, _, _>(move |_, req| {
            answer(begin.clone(), async move |server| server.begin(&req).await)
        })
        .method::<End, _, _>(move |_, req| answer(end.clone(), async move |server| Ok(server.end(&req))))
        .method::<Get, _, _>(move |_, req| answer(get.clone(), async move |server| server.get(req).await))
        .method::<Scan, _, _>(move |_, req| answer(scan.clone(), async move |server| server.scan(req).await))
        .method::<Commit, _, _>(move |_, req| {
            answer(commit.clone(), async move |server| server.commit(req).await)
        })
        .method::<Fence, _, _>(move |_, req| {
            answer(fence.clone(), async move |server| server.fence(&req).await)
        })
}

async fn answer<T>(
    server: Arc<Server>,
    handle: impl AsyncFnOnce(&Server) -> Result<T, KvError>,
) -> Result<T, Status> {
    handle(&server).await.map_err(Status::from)
}

struct Server {
    env: Env,
    store: Store,
    views: Mutex<Views>,
}

impl Server {
    async fn begin(&self, req: &BeginReq) -> Result<ViewInfo, KvError> {
        // Nobody waits longer, and handlers of those who have asked again must not pile up while the disk stands still.
        let view = timeout(VIEW_AGE_MAX, self.store.view()).await;
        let view = Arc::new(view.map_err(|_| KvError::Retryable("commits wait for the disk".into()))??);
        let begun = Instant::now();
        let version = view.version();
        // Random, so that a client that outlives a restart does not meet a stranger's view.
        let id = self.env.random_u64();
        self.views.lock().insert(id, Held { view, client: req.client, begun });
        Ok(ViewInfo { view: id, version })
    }

    fn end(&self, req: &EndReq) -> Nothing {
        self.views.lock().remove(req.view);
        Nothing {}
    }

    fn view(&self, id: u64) -> Result<Arc<View>, KvError> {
        self.views.lock().get(id).map(|held| held.view.clone())
    }

    async fn get(&self, req: GetReq) -> Result<GetRsp, KvError> {
        check_readable(&req.key)?;
        let view = self.view(req.view)?;
        Ok(GetRsp { value: self.store.get(&view, &req.key).await? })
    }

    async fn scan(&self, req: ScanReq) -> Result<ScanRsp, KvError> {
        check_range(&req.begin, &req.end)?;
        let view = self.view(req.view)?;
        let range = KeyRange { begin: req.begin, end: req.end };
        let limit = req.limit.min(SCAN_ENTRIES_MAX) as usize;
        let mut scan = self.store.scan(&view, &range, req.reverse, limit).await?;
        let mut bytes = 0;
        let fitting = scan.entries.iter().position(|entry| {
            bytes += entry.key.len() + entry.value.len();
            bytes > SCAN_BYTES_MAX
        });
        if let Some(last) = fitting {
            scan.more |= last + 1 < scan.entries.len();
            scan.entries.truncate(last + 1);
        }
        Ok(ScanRsp { entries: scan.entries.into_iter().map(Entry::from).collect(), more: scan.more })
    }

    async fn fence(&self, req: &FenceReq) -> Result<Nothing, KvError> {
        let request = CommitRequest { write_conflicts: vec![req.range()], ..CommitRequest::default() };
        self.store.commit(None, request).await?;
        Ok(Nothing {})
    }

    async fn commit(&self, req: CommitReq) -> Result<CommitRsp, KvError> {
        // The end counts when the commit takes effect, which may have to wait for the disk.
        let held = self.views.lock().remove(req.view).ok_or(KvError::TooOld)?;
        let request = req.check(Some(held.ends()))?;
        Ok(CommitRsp { version: self.store.commit(None, request).await?.version })
    }
}

//! The service: requests in, responses out (`src/meta/service/MetaOperator.cc`).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use valor_config::Live;
use valor_env::Env;
use valor_kv::Database;
use valor_protocol::meta::{self, *};
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_protocol::valor::{
    self, AppendReserveReq, AppendReserveRsp, HoldReq, HoldRsp, RENAME_EXCHANGE, RENAME_NOREPLACE,
    Rename2Req, Rename2Rsp,
};
use valor_protocol::{InodeId, Method, NodeId};
use valor_rpc::{Client, Router};
use valor_wire::{Status, UtcTime};

use crate::acl_cache::AclCache;
use crate::batch::{Batched, Batches, submit};
use crate::cluster::{ChunkAccess, Cluster};
use crate::config::Config;
use crate::core::Core;
use crate::distributor::{self, Distributor};
use crate::error::{Error, status};
use crate::forward::{Forwarded, forward};
use crate::inode_id::InodeIds;
use crate::layout::ChainAllocator;
use crate::ops::*;
use crate::path::has_parent;
use crate::store::Tx;
use crate::users::Users;
use crate::{gc, idempotent, sessions};

type Answer<T> = Result<T, Status>;

/// How often a `create` resolves its path when what it found has changed before the file was made. After that the
/// client is told to try again.
const CREATE_ROUNDS: u32 = 4;

/// What the service needs from the rest of the process.
pub struct Deps {
    /// Where inodes, entries and sessions are.
    pub db: Database,
    /// Users, for authentication and the garbage collector.
    pub users: Arc<dyn Users>,
    /// Routing information and client sessions.
    pub cluster: Arc<dyn Cluster>,
    /// Chunks of files.
    pub chunks: Arc<dyn ChunkAccess>,
    /// For requests passed on to other metadata servers.
    pub rpc: Arc<Client>,
}

/// A metadata server, shared by all shards of its process.
pub struct Meta {
    core: Arc<Core>,
    batches: Arc<Batches>,
    users: Arc<dyn Users>,
    rpc: Arc<Client>,
    tasks: Mutex<JoinSet<()>>,
}

/// Makes the root directories of a new file system; those that exist stay as they are.
///
/// # Errors
/// 1xxx from the store, 3013 for a layout that cannot be a directory's.
pub async fn init_fs(db: &Database, root_layout: Layout, now: UtcTime) -> Answer<()> {
    root_layout.valid(true)?;
    let op = InitFs { layout: root_layout, now };
    for _ in 0..10 {
        let attempt = async {
            let mut tx = Tx::begin(db);
            op.apply(&mut tx).await?;
            tx.commit().await
        };
        match attempt.await {
            Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(10)).await,
            result => return result.map_err(Error::into_status),
        }
    }
    Err(status(code::TXN_CONFLICT, "the store is busy"))
}

impl Meta {
    /// Opens the server's garbage collection queues, joins the map of servers, and starts the background tasks on the
    /// current runtime.
    ///
    /// # Errors
    /// 3011 if the file system was not initialised, 1xxx from the store.
    pub async fn start(env: Env, config: Arc<Live<Config>>, node: NodeId, deps: Deps) -> Answer<Arc<Self>> {
        let core = Arc::new(Core {
            config,
            node,
            db: deps.db,
            cluster: deps.cluster,
            chunks: deps.chunks,
            acl_cache: AclCache::new(),
            chains: ChainAllocator::new(env.clone()),
            inode_ids: InodeIds::new(&env),
            gc: gc::GcQueues::default(),
            distributor: Distributor::new(node),
            statfs: Default::default(),
            env,
        });
        gc::init(&core).await.map_err(Error::into_status)?;
        distributor::update(&core, false).await.map_err(Error::into_status)?;
        let meta = Arc::new(Self {
            core,
            batches: Arc::default(),
            users: deps.users,
            rpc: deps.rpc,
            tasks: Mutex::default(),
        });
        meta.spawn_tasks();
        Ok(meta)
    }

    fn spawn_tasks(self: &Arc<Self>) {
        let mut tasks = self.tasks.lock();
        gc::spawn(Arc::clone(&self.core), Arc::clone(&self.users), &mut tasks);
        let core = Arc::clone(&self.core);
        tasks.spawn(async move {
            loop {
                let interval = core.config.get().distributor.update_interval.get();
                tokio::time::sleep(
                    interval.mul_f64(0.8 + 0.4 * (core.env.random_u64() % 1000) as f64 / 1000.0),
                )
                .await;
                if let Err(error) = distributor::update(&core, false).await {
                    tracing::warn!(%error, "map of metadata servers is not up to date");
                }
            }
        });
        let core = Arc::clone(&self.core);
        tasks.spawn(async move {
            loop {
                let pause = idempotent::clean_interval(&core.config.get());
                tokio::time::sleep(pause).await;
                if !sessions::is_first_server(&core) {
                    continue;
                }
                match idempotent::clean(&core).await {
                    Ok(dropped) => tracing::debug!(dropped, "remembered results dropped"),
                    Err(error) => tracing::warn!(%error, "remembered results cannot be dropped"),
                }
            }
        });
        let meta = Arc::downgrade(self);
        let core = Arc::clone(&self.core);
        tasks.spawn(async move {
            loop {
                let config = core.config.get().session_manager.clone();
                tokio::time::sleep(config.scan_interval.get()).await;
                if !config.enable || !sessions::is_first_server(&core) {
                    continue;
                }
                let Some(meta) = meta.upgrade() else { break };
                match sessions::scan(&meta).await {
                    Ok(ended) => tracing::debug!(ended, "sessions scanned"),
                    Err(error) => tracing::info!(%error, "sessions cannot be scanned"),
                }
            }
        });
    }

    /// Ends the background tasks and leaves the map of servers, so that others take over at once. Requests are still
    /// answered, or passed on.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
        if let Err(error) = distributor::update(&self.core, true).await {
            tracing::warn!(%error, "the map of metadata servers still lists this server");
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Ends the sessions of dead clients now; gives their number. The background task does so from time to time.
    ///
    /// # Errors
    /// 6004 while mgmtd does not know all clients, 1xxx from the store.
    pub async fn scan_sessions(self: &Arc<Self>) -> Answer<usize> {
        sessions::scan(self).await.map_err(Error::into_status)
    }

    async fn check_user(&self, user: &mut UserInfo) -> Answer<()> {
        if self.core.config.get().authenticate {
            *user = self.users.authenticate(user).await?;
        }
        Ok(())
    }

    /// Answers here if this server owns the inode, else asks the owner.
    async fn by_owner<M>(&self, inode: InodeId, req: M::Req) -> Answer<M::Rsp>
    where
        M: Method,
        M::Req: Batched<Rsp = M::Rsp> + Forwarded,
    {
        let owner = self.core.distributor.owner(inode);
        if owner == Some(self.core.node) {
            submit(&self.core, &self.batches, inode, req).await
        } else {
            forward::<M>(&self.core, &self.rpc, owner, req).await
        }
    }
}

/// Methods that are one operation after the check of the user.
macro_rules! plain {
    ($($(#[$doc:meta])* $method:ident($req:ty) -> $rsp:ty = $op:expr;)*) => {
        impl Meta {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// As the specification of the method says.
                pub async fn $method(&self, mut req: $req) -> Answer<$rsp> {
                    self.check_user(&mut req.base.user).await?;
                    req.valid()?;
                    let op: fn($req) -> _ = $op;
                    self.core.execute(op(req)).await
                }
            )*
        }
    };
}

plain! {
    /// `stat`
    stat(StatReq) -> StatRsp = |req| Stat { req };
    /// `batchStat`
    batch_stat(BatchStatReq) -> BatchStatRsp = |req| BatchStat { req };
    /// `batchStatByPath`
    batch_stat_by_path(BatchStatByPathReq) -> BatchStatByPathRsp = |req| BatchStatByPath { req };
    /// `getRealPath`
    get_real_path(GetRealPathReq) -> GetRealPathRsp = |req| GetRealPath { req };
    /// `mkdirs`
    mkdirs(MkdirsReq) -> MkdirsRsp = |req| Mkdirs { req };
    /// `symlink`
    symlink(SymlinkReq) -> SymlinkRsp = |req| MakeSymlink { req };
    /// `hardLink`
    hard_link(HardLinkReq) -> HardLinkRsp = |req| HardLink { req };
    /// `remove`
    remove(RemoveReq) -> RemoveRsp = |req| Remove { req };
    /// `rename`
    rename(RenameReq) -> RenameRsp = Rename::from;
    /// `list`
    list(ListReq) -> ListRsp = |req| List { req };
    /// `lockDirectory`
    lock_directory(LockDirectoryReq) -> LockDirectoryRsp = |req| LockDirectory { req };
}

impl Meta {
    /// `statFs`
    ///
    /// # Errors
    /// 7012 if no storage server has told its space for long.
    pub async fn stat_fs(&self, mut req: StatFsReq) -> Answer<StatFsRsp> {
        self.check_user(&mut req.base.user).await?;
        let space = self.core.statfs.get(&self.core).await?;
        let used = space.capacity - space.free;
        Ok(StatFsRsp { capacity: space.capacity, used, free: space.free, ..StatFsRsp::default() })
    }

    /// `open`
    ///
    /// # Errors
    /// As the specification of the method says.
    pub async fn open(&self, mut req: OpenReq) -> Answer<OpenRsp> {
        self.check_user(&mut req.base.user).await?;
        req.valid()?;
        let CreateRsp { stat, need_truncate, .. } = self.core.execute(Open::from(req)).await?;
        Ok(OpenRsp { stat, need_truncate, ..OpenRsp::default() })
    }

    /// `create`: a path is opened first, and only a missing last name goes to the owner of its directory. A chain table
    /// that is not known may be newer than the routing information here, which is refreshed then.
    ///
    /// # Errors
    /// As the specification of the method says.
    pub async fn create(&self, req: CreateReq) -> Answer<CreateRsp> {
        match self.create_with_known_chains(req.clone()).await {
            Err(error)
                if error.code == code::META_INVALID_FILE_LAYOUT && self.core.cluster.refresh().await =>
            {
                self.create_with_known_chains(req).await
            }
            result => result,
        }
    }

    async fn create_with_known_chains(&self, mut req: CreateReq) -> Answer<CreateRsp> {
        self.check_user(&mut req.base.user).await?;
        req.valid()?;
        let mut resolve = req.path.path.as_ref().is_some_and(|path| has_parent(path));
        for _ in 1..CREATE_ROUNDS {
            let mut leaf = req.clone();
            if resolve && let Some(rsp) = self.try_open(&mut leaf).await? {
                return Ok(rsp);
            }
            match self.by_owner::<meta::methods::Create>(leaf.path.parent, leaf).await {
                // The name may belong to a symlink by now, which only the resolution of a path follows.
                Err(error) if error.code == code::META_BUSY && req.base.forward.0 == 0 => resolve = true,
                // The directory that the path led to is gone by now; another may have its name.
                Err(error) if error.code == code::META_NOT_FOUND && resolve => {}
                result => return result,
            }
        }
        if let Some(rsp) = self.try_open(&mut req).await? {
            return Ok(rsp);
        }
        self.by_owner::<meta::methods::Create>(req.path.parent, req).await
    }

    /// Opens what exists; otherwise rewrites the path to the directory and the name that is missing in it.
    async fn try_open(&self, req: &mut CreateReq) -> Answer<Option<CreateRsp>> {
        let mut open = Open::from(&*req);
        match self.core.drive(&mut open).await {
            Ok(rsp) => Ok(Some(rsp)),
            Err(error) => match open.missing {
                Some((parent, name)) if error.code == code::META_NOT_FOUND => {
                    req.path = PathAt { parent, path: Some(name) };
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    /// `sync`
    ///
    /// # Errors
    /// As the specification of the method says.
    pub async fn sync(&self, req: SyncReq) -> Answer<SyncRsp> {
        req.valid()?;
        self.by_owner::<meta::methods::Sync>(req.inode, req).await
    }

    /// `close`
    ///
    /// # Errors
    /// As the specification of the method says.
    pub async fn close(&self, req: CloseReq) -> Answer<CloseRsp> {
        req.valid()?;
        self.by_owner::<meta::methods::Close>(req.inode, req).await
    }

    /// `setAttr`
    ///
    /// # Errors
    /// As the specification of the method says.
    pub async fn set_attr(&self, mut req: SetAttrReq) -> Answer<SetAttrRsp> {
        self.check_user(&mut req.base.user).await?;
        req.valid()?;
        if req.path.path.is_some() {
            return self.core.execute(SetAttr { req }).await;
        }
        self.by_owner::<meta::methods::SetAttr>(req.path.parent, req).await
    }

    /// `truncate`
    ///
    /// # Errors
    /// Always 1: clients truncate by themselves.
    pub async fn truncate(&self, _: TruncateReq) -> Answer<TruncateRsp> {
        Err(status(code::NOT_IMPLEMENTED, "truncate is done by the client"))
    }

    /// `pruneSession`
    ///
    /// # Errors
    /// 1xxx from the store.
    pub async fn prune_session(&self, req: PruneSessionReq) -> Answer<PruneSessionRsp> {
        self.core.execute(PruneSession { req }).await
    }

    /// `dropUserCache`
    ///
    /// # Errors
    /// None.
    pub async fn drop_user_cache(&self, req: DropUserCacheReq) -> Answer<DropUserCacheRsp> {
        if req.drop_all {
            self.users.forget(None);
        } else if req.uid.is_some() {
            self.users.forget(req.uid);
        }
        Ok(DropUserCacheRsp::default())
    }

    /// `authenticate`
    ///
    /// # Errors
    /// 25 if the token does not fit.
    pub async fn authenticate(&self, mut req: AuthReq) -> Answer<AuthRsp> {
        self.check_user(&mut req.base.user).await?;
        Ok(AuthRsp { user: req.base.user, ..AuthRsp::default() })
    }

    /// `testRpc`
    ///
    /// # Errors
    /// 1xxx from the store.
    pub async fn test_rpc(&self, _: TestRpcReq) -> Answer<TestRpcRsp> {
        self.core.execute(TestRpc).await
    }

    /// `appendReserve`, an extension
    ///
    /// # Errors
    /// 3010 if the file is not open under the session, 3102 if it would grow too large.
    pub async fn append_reserve(&self, mut req: AppendReserveReq) -> Answer<AppendReserveRsp> {
        self.check_user(&mut req.base.user).await?;
        self.by_owner::<valor::meta::AppendReserve>(req.inode, req).await
    }

    /// `rename2`, an extension
    ///
    /// # Errors
    /// As `rename`; 3 for unknown flags.
    pub async fn rename2(&self, mut req: Rename2Req) -> Answer<Rename2Rsp> {
        self.check_user(&mut req.base.user).await?;
        let existing = match req.flags {
            0 => Existing::Replace,
            RENAME_NOREPLACE => Existing::Refuse,
            RENAME_EXCHANGE => Existing::Exchange,
            other => return Err(status(code::INVALID_ARG, format!("rename flags {other:#x}"))),
        };
        req.src.valid_for_create()?;
        req.dest.valid_for_create()?;
        let op = Rename::with_rule(req.base, req.src, req.dest, existing);
        let stat = self.core.execute(op).await?.stat.unwrap_or_default();
        Ok(Rename2Rsp { stat, ..Rename2Rsp::default() })
    }

    /// `hold`, an extension
    ///
    /// # Errors
    /// 3000 if the inode is gone, 3010 if it is not a file.
    pub async fn hold(&self, mut req: HoldReq) -> Answer<HoldRsp> {
        self.check_user(&mut req.base.user).await?;
        self.core.execute(Hold { req }).await
    }

    /// The services of this server: 3FS's, and our extensions.
    #[must_use]
    pub fn routers(self: &Arc<Self>) -> [Router; 2] {
        use meta::methods as m;
        macro_rules! router {
            ($id:expr, $name:expr, $($method:ty => $handler:ident,)*) => {{
                let mut router = Router::new($id, $name);
                $({
                    let meta = Arc::clone(self);
                    router = router.method::<$method, _, _>(move |_, req| {
                        let meta = Arc::clone(&meta);
                        async move { meta.$handler(req).await }
                    });
                })*
                router
            }};
        }
        let meta = router!(m::SERVICE_ID, m::SERVICE,
            m::StatFs => stat_fs, m::Stat => stat, m::Create => create, m::Mkdirs => mkdirs, m::Symlink => symlink,
            m::HardLink => hard_link, m::Remove => remove, m::Open => open, m::Sync => sync, m::Close => close,
            m::Rename => rename, m::List => list, m::Truncate => truncate, m::GetRealPath => get_real_path,
            m::SetAttr => set_attr, m::PruneSession => prune_session, m::DropUserCache => drop_user_cache,
            m::Authenticate => authenticate, m::LockDirectory => lock_directory, m::BatchStat => batch_stat,
            m::BatchStatByPath => batch_stat_by_path, m::TestRpc => test_rpc,
        );
        let extensions = router!(valor::meta::SERVICE_ID, valor::meta::SERVICE,
            valor::meta::AppendReserve => append_reserve, valor::meta::Rename2 => rename2, valor::meta::Hold => hold,
        );
        [meta, extensions]
    }
}

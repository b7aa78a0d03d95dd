//! State of one mount, shared by all channels.

use crate::cluster::Cluster;
use crate::config::Config;
use crate::dir::NameChanges;
use crate::handle::{DirHandle, FileHandle, Handles};
use crate::ids::{from_ino, is_virtual};
use crate::inode::{Node, Nodes};
use crate::readers::Readers;
use crate::remains::Losses;
use crate::user_config::{Effective, UserConfigs};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;
use valor_config::Live;
use valor_env::Env;
use valor_protocol::InodeId;
use valor_protocol::meta::PathAt;
use valor_protocol::status::{code, status};
use valor_protocol::user::UserInfo;
use valor_wire::{Status, UtcTime, Uuid};
use xfuse::{Context, Errno, Notifier};

/// Unit in which bytes on their way to storage are counted.
const BUDGET_UNIT: u64 = 1024;

/// What a mount is told besides its configuration.
#[derive(Debug, Clone, Default)]
pub struct MountParams {
    /// Where it is mounted, absolute.
    pub mount_point: String,
    /// Name of the cluster, shorter than 32 bytes.
    pub cluster_id: String,
    /// Token sent with every call, empty without authentication.
    pub token: String,
    /// Let other users in, with permissions checked by the kernel.
    pub allow_other: bool,
}

pub(crate) struct Core<C> {
    pub(crate) env: Env,
    pub(crate) cluster: C,
    pub(crate) params: MountParams,
    pub(crate) configs: Arc<UserConfigs>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) files: Handles<FileHandle>,
    pub(crate) dirs: Handles<DirHandle>,
    pub(crate) name_changes: NameChanges,
    pub(crate) readers: Readers,
    pub(crate) notifier: OnceLock<Notifier>,
    /// Files written since their last sync.
    pub(crate) dirty: Mutex<BTreeSet<InodeId>>,
    /// Writes that failed at the end.
    pub(crate) losses: Losses,
    /// Bytes of all files on their way to storage.
    budget: Arc<Semaphore>,
    budget_units: u32,
    /// The metadata service does not know our extensions.
    pub(crate) no_extensions: AtomicBool,
}

impl<C: Cluster> Core<C> {
    pub(crate) fn new(env: Env, cluster: C, config: Arc<Live<Config>>, params: MountParams) -> Arc<Self> {
        let units = (config.get().valor.write_behind.get() / BUDGET_UNIT).clamp(1, 1 << 28) as u32;
        Arc::new(Core {
            env,
            cluster,
            params,
            configs: UserConfigs::new(config),
            nodes: Arc::new(Nodes::new()),
            files: Handles::new(),
            dirs: Handles::new(),
            name_changes: NameChanges::default(),
            readers: Readers::default(),
            notifier: OnceLock::new(),
            dirty: Mutex::default(),
            losses: Losses::default(),
            budget: Arc::new(Semaphore::new(units as usize)),
            budget_units: units,
            no_extensions: AtomicBool::new(false),
        })
    }

    /// The caller as calls carry it. Groups are not sent; with authentication the server knows them.
    pub(crate) fn user(&self, cx: &Context) -> UserInfo {
        self.user_of(cx.uid(), cx.gid())
    }

    pub(crate) fn user_of(&self, uid: u32, gid: u32) -> UserInfo {
        UserInfo { uid, gid, groups: Vec::new(), token: self.params.token.clone() }
    }

    /// Settings in force for the caller.
    pub(crate) fn settings(&self, cx: &Context) -> Effective {
        self.configs.of(cx.uid())
    }

    /// Refuses changes if the mount is read-only for the caller.
    pub(crate) fn writable(&self, cx: &Context) -> Result<(), Errno> {
        if self.settings(cx).readonly { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Runs a call, given up when the caller was killed, or is interrupted if so configured. Otherwise a call that is
    /// repeated until a server answers could overtake what others have done meanwhile.
    pub(crate) async fn run<T>(
        &self,
        cx: &Context,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let given_up = async {
            if self.configs.global().enable_interrupt { cx.interrupted().await } else { cx.abandoned().await }
        };
        tokio::select! {
            biased;
            result = call => result,
            () = given_up => Err(status(code::META_REQUEST_CANCELED)),
        }
    }

    pub(crate) fn now(&self) -> UtcTime {
        UtcTime(self.env.utc_now().0)
    }

    pub(crate) fn new_session(&self) -> Uuid {
        Uuid(self.env.random_uuid())
    }

    pub(crate) fn notifier(&self) -> Notifier {
        self.notifier.get().cloned().unwrap_or_else(Notifier::disconnected)
    }

    /// The node of an inode that the kernel must know.
    pub(crate) fn node(&self, ino: u64) -> Result<Arc<Node>, Errno> {
        self.nodes.get(from_ino(ino)).ok_or(Errno::ENOENT)
    }

    /// The handle of an open file.
    pub(crate) fn file(&self, fh: u64) -> Result<Arc<FileHandle>, Errno> {
        self.files.get(fh).ok_or(Errno::EBADF)
    }

    /// A share of what may be on its way to storage.
    pub(crate) async fn budget(&self, bytes: u64) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let units = bytes.div_ceil(BUDGET_UNIT).clamp(1, u64::from(self.budget_units)) as u32;
        // The semaphore is never closed.
        self.budget.clone().acquire_many_owned(units).await.ok()
    }

    pub(crate) fn mark_dirty(&self, id: InodeId) {
        self.dirty.lock().insert(id);
    }

    pub(crate) fn unmark_dirty(&self, id: InodeId) {
        self.dirty.lock().remove(&id);
    }
}

/// A name in a directory, as calls carry it.
pub(crate) fn at(parent: u64, name: &OsStr) -> PathAt {
    PathAt::at(from_ino(parent), name.as_bytes())
}

/// Refuses operations on the virtual tree.
pub(crate) fn not_virtual(ino: u64) -> Result<(), Errno> {
    if is_virtual(InodeId(ino)) { Err(Errno::EPERM) } else { Ok(()) }
}

/// Text for the kernel.
pub(crate) fn text(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

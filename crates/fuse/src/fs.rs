//! The kernel's operations, each handed to the part that knows it.

use crate::cluster::Cluster;
use crate::config::Config;
use crate::core::{Core, MountParams};
use crate::ids::from_ino;
use crate::remains::{Remains, for_each};
use crate::sync::periodic;
use std::sync::Arc;
use valor_config::Live;
use valor_env::Env;
use xfuse::request::*;
use xfuse::*;

/// The file system of a cluster, ready to be mounted.
pub struct FuseFs<C> {
    core: Arc<Core<C>>,
}

impl<C: Cluster> FuseFs<C> {
    /// A file system over `cluster`.
    pub fn new(env: Env, cluster: C, config: Arc<Live<Config>>, params: MountParams) -> Self {
        FuseFs { core: Core::new(env, cluster, config, params) }
    }

    /// The regular syncs of written files, to be spawned on a thread that serves the mount. Ends with the file system.
    pub fn background(&self) -> impl Future<Output = ()> + Send + 'static {
        periodic(Arc::downgrade(&self.core))
    }

    /// Flushes and tells of what was written, beside the session and after it. Keeps the file system alive.
    pub fn remains(&self) -> Remains<C> {
        Remains(Arc::clone(&self.core))
    }

    /// Name of the cluster.
    pub(crate) fn params(&self) -> &MountParams {
        &self.core.params
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        self.core.configs.global()
    }
}

impl<C: Cluster> Filesystem for FuseFs<C> {
    fn init(&self, info: &SessionInfo) -> Result<(), Errno> {
        self.core.notifier.set(info.notifier.clone()).map_err(|_| Errno::EBUSY)
    }

    async fn destroy(&self) {
        self.core.losses.expect_end();
        // Descriptors that processes did not close themselves: the kernel does not tell of them once it has gone.
        for_each(self.core.files.drain(), |handle| {
            let core = Arc::clone(&self.core);
            async move { core.release_handle(&handle).await }
        })
        .await;
        self.core.sync_all().await;
    }

    fn forget(&self, ino: u64, nlookup: u64) {
        self.core.nodes.forget(from_ino(ino), nlookup);
    }

    async fn lookup(&self, cx: &Context, r: Lookup<'_>) -> Result<Entry, Errno> {
        self.core.lookup(cx, r).await
    }

    async fn getattr(&self, cx: &Context, r: Getattr) -> Result<Attr, Errno> {
        self.core.getattr(cx, r.ino).await
    }

    // STATX would bring the time of birth only, which 3FS does not keep. Once it is refused, the kernel answers statx(2)
    // from the attributes it has; otherwise it would ask again for each file whose time of birth a program wants, as
    // Rust's `metadata` does.

    async fn setattr(&self, cx: &Context, r: Setattr) -> Result<Attr, Errno> {
        self.core.setattr(cx, r).await
    }

    async fn readlink(&self, cx: &Context, r: Readlink) -> Result<Data, Errno> {
        self.core.readlink(cx, r.ino)
    }

    async fn symlink(&self, cx: &Context, r: Symlink<'_>) -> Result<Entry, Errno> {
        self.core.symlink(cx, r).await
    }

    async fn mknod(&self, cx: &Context, r: Mknod<'_>) -> Result<Entry, Errno> {
        self.core.mknod(cx, r).await
    }

    async fn mkdir(&self, cx: &Context, r: Mkdir<'_>) -> Result<Entry, Errno> {
        self.core.mkdir(cx, r).await
    }

    async fn unlink(&self, cx: &Context, r: Unlink<'_>) -> Result<(), Errno> {
        self.core.unlink(cx, r).await
    }

    async fn rmdir(&self, cx: &Context, r: Rmdir<'_>) -> Result<(), Errno> {
        self.core.rmdir(cx, r).await
    }

    async fn rename(&self, cx: &Context, r: Rename<'_>) -> Result<(), Errno> {
        self.core.rename(cx, r).await
    }

    async fn link(&self, cx: &Context, r: Link<'_>) -> Result<Entry, Errno> {
        self.core.link(cx, r).await
    }

    async fn open(&self, cx: &Context, r: Open) -> Result<Opened, Errno> {
        self.core.open(cx, r).await
    }

    async fn create(&self, cx: &Context, r: Create<'_>) -> Result<Created, Errno> {
        self.core.create(cx, r).await
    }

    async fn read(&self, cx: &Context, r: Read) -> Result<Data, Errno> {
        self.core.read(cx, r).await
    }

    async fn write(&self, cx: &Context, r: Write) -> Result<Written, Errno> {
        self.core.write_request(cx, r).await
    }

    async fn statfs(&self, cx: &Context, _: Statfs) -> Result<Totals, Errno> {
        self.core.statfs(cx).await
    }

    async fn flush(&self, cx: &Context, r: Flush) -> Result<(), Errno> {
        let handle = self.core.file(r.fh)?;
        handle.open_ended();
        self.core.flush_handle(&handle, &self.core.user(cx)).await
    }

    async fn release(&self, _: &Context, r: Release) -> Result<(), Errno> {
        let handle = self.core.files.remove(r.fh).ok_or(Errno::ENOENT)?;
        self.core.release_handle(&handle).await;
        Ok(())
    }

    async fn fsync(&self, cx: &Context, r: Fsync) -> Result<(), Errno> {
        let handle = self.core.file(r.fh)?;
        self.core.fsync(&handle, &self.core.user(cx), r.datasync).await
    }

    async fn setxattr(&self, cx: &Context, r: Setxattr<'_>) -> Result<(), Errno> {
        self.core.setxattr(cx, r).await
    }

    async fn getxattr(&self, cx: &Context, r: Getxattr<'_>) -> Result<Xattr, Errno> {
        self.core.getxattr(cx, r).await
    }

    async fn listxattr(&self, cx: &Context, r: Listxattr) -> Result<Xattr, Errno> {
        self.core.listxattr(cx, r).await
    }

    async fn removexattr(&self, cx: &Context, r: Removexattr<'_>) -> Result<(), Errno> {
        self.core.removexattr(cx, r).await
    }

    async fn opendir(&self, cx: &Context, r: Open) -> Result<Opened, Errno> {
        Ok(self.core.opendir(cx, r))
    }

    async fn readdir(&self, cx: &Context, r: Readdir) -> Result<DirBuffer, Errno> {
        self.core.readdir(cx, r).await
    }

    async fn readdirplus(&self, cx: &Context, r: Readdir) -> Result<DirPlusBuffer, Errno> {
        self.core.readdirplus(cx, r).await
    }

    async fn releasedir(&self, _: &Context, r: Release) -> Result<(), Errno> {
        self.core.dirs.remove(r.fh).map(drop).ok_or(Errno::EBADF)
    }

    async fn fsyncdir(&self, _: &Context, _: Fsync) -> Result<(), Errno> {
        // Names are durable when the operation on them has returned.
        Ok(())
    }

    async fn access(&self, cx: &Context, r: Access) -> Result<(), Errno> {
        self.core.access(cx, r).await
    }

    async fn ioctl(&self, cx: &Context, r: Ioctl<'_>) -> Result<IoctlReply, Errno> {
        self.core.ioctl(cx, r).await
    }

    async fn fallocate(&self, cx: &Context, r: Fallocate) -> Result<(), Errno> {
        self.core.fallocate(cx, r).await
    }

    async fn lseek(&self, cx: &Context, r: Lseek) -> Result<Offset, Errno> {
        self.core.lseek(cx, r).await
    }

    async fn syncfs(&self, _: &Context, _: Syncfs) -> Result<(), Errno> {
        self.core.sync_all().await;
        Ok(())
    }
}

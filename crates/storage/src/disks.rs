//! Disks and the targets on them: opening at start, creating, removing, closing.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use crate::cluster::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use valor_chunk_engine::{Engine, Options, SyncMode};
use valor_client::join_all;
use valor_env::disk::Disk;
use valor_env::mutation::{Mutation, broken};
use valor_protocol::mgmtd::LocalTargetState;
use valor_protocol::status::code;
use valor_protocol::storage::{CreateTargetReq, Target, VersionedChainId};
use valor_protocol::{ChainId, Status, TargetId};

use crate::config::Sync;
use crate::identity::{ENGINE, FILE, TargetIdentity};
use crate::replica::roles::LocalTarget;
use crate::storage::Storage;
use crate::target::{OpenTarget, Store};

/// The configured disks and the targets opened on them.
pub(crate) struct Disks {
    /// Directories by disk index.
    pub(crate) paths: Vec<PathBuf>,
    slots: Mutex<HashMap<TargetId, Slot>>,
    /// Targets are created and removed one at a time.
    change: tokio::sync::Mutex<()>,
}

/// A target that this process has opened.
struct Slot {
    identity: TargetIdentity,
    dir: PathBuf,
    disk: usize,
    store: Store,
    maintenance: JoinHandle<()>,
    /// The last opening; gone when no request uses it any more.
    opening: Weak<OpenTarget>,
}

impl Disks {
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        Disks { paths, slots: Mutex::default(), change: tokio::sync::Mutex::default() }
    }

    /// Directory of the disk that holds a target's directory.
    pub(crate) fn of(dir: &Path) -> &Path {
        dir.parent().unwrap_or(dir)
    }

    /// Stores of the targets on a disk.
    pub(crate) fn stores(&self, disk: usize) -> Vec<(TargetId, Store)> {
        let slots = self.slots.lock();
        slots
            .iter()
            .filter(|(_, slot)| slot.disk == disk)
            .map(|(id, slot)| (*id, slot.store.clone()))
            .collect()
    }

    /// True while requests still use the target's last opening.
    pub(crate) fn is_in_use(&self, id: TargetId) -> bool {
        self.slots.lock().get(&id).is_some_and(|slot| slot.opening.strong_count() > 0)
    }
}

fn failure(text: String) -> Status {
    Status::new(code::STORAGE_STORAGE_INIT_FAILED, text)
}

impl Storage {
    /// Opens what the disks hold. A disk or target that fails is left out.
    pub(crate) async fn open_targets(self: &Arc<Self>) -> Result<(), Status> {
        let disk = self.env.disk();
        let mut dirs = Vec::new();
        let mut usable = 0;
        for (index, path) in self.disks.paths.iter().enumerate() {
            match list_targets(&disk, path).await {
                Ok(found) => {
                    usable += 1;
                    dirs.extend(found.into_iter().map(|(dir, identity)| (index, dir, identity)));
                }
                Err(error) => {
                    tracing::error!(disk = index, path = %path.display(), %error, "disk left out");
                    self.metrics.disk_failed(index);
                }
            }
        }
        if usable == 0 {
            return Err(failure("none of targets.target_paths is usable".into()));
        }
        let total = dirs.len();
        tracing::info!(targets = total, disks = usable, "opening targets");
        let opened = join_all(dirs.into_iter().map(|(index, dir, identity)| async move {
            let result = self.open_target(index, &dir, identity).await;
            match result {
                Ok(target) => {
                    self.metrics.loaded.increment(1.0);
                    tracing::info!(target = %target.info.target_id, dir = %dir.display(), "target opened");
                    Some(target)
                }
                Err(status) => {
                    tracing::error!(dir = %dir.display(), %status, "target left out");
                    None
                }
            }
        }))
        .await;
        let _change = self.map_change.lock().await;
        let mut map = (*self.map()).clone();
        let mut count = 0;
        for target in opened.into_iter().flatten() {
            count += usize::from(map.add(target).is_ok());
        }
        tracing::info!(opened = count, total, "targets opened");
        self.publish(map);
        Ok(())
    }

    /// Opens the engine of a target and makes its first opening.
    async fn open_target(
        self: &Arc<Self>,
        disk_index: usize,
        dir: &Path,
        identity: TargetIdentity,
    ) -> Result<LocalTarget<Arc<OpenTarget>>, Status> {
        let engine =
            Engine::open(self.env.disk(), &dir.join(ENGINE), self.engine_options(identity.target_id)).await;
        let engine = engine.map_err(|error| failure(error.to_string()))?;
        if broken(Mutation::DropPendingOnRestart) {
            for meta in engine.pending() {
                engine.discard_pending(meta.id.as_bytes()).await.map_err(|e| failure(e.to_string()))?;
            }
        }
        Ok(self.keep(disk_index, dir, identity, engine))
    }

    fn engine_options(&self, target_id: u64) -> Options {
        let config = self.config.get();
        Options {
            sync: match config.sync {
                Sync::Always if broken(Mutation::SkipSync) => SyncMode::Process,
                Sync::Always => SyncMode::Always,
                Sync::Process => SyncMode::Process,
            },
            reserve_bytes: config.targets.reserve_bytes.get(),
            ..Options::new(target_id)
        }
    }

    fn keep(
        self: &Arc<Self>,
        disk: usize,
        dir: &Path,
        identity: TargetIdentity,
        engine: Arc<Engine>,
    ) -> LocalTarget<Arc<OpenTarget>> {
        let id = TargetId(identity.target_id);
        let maintenance = tokio::spawn(Arc::clone(&engine).maintain());
        let store = Store::new(engine, self.env.utc_now().0);
        let slot = Slot { identity, dir: dir.into(), disk, store, maintenance, opening: Weak::new() };
        let mut slots = self.disks.slots.lock();
        let slot = slots.entry(id).insert_entry(slot);
        self.new_opening(slot.into_mut())
    }

    /// A new opening of a kept target, as it enters the map.
    fn new_opening(&self, slot: &mut Slot) -> LocalTarget<Arc<OpenTarget>> {
        let (id, chain_id) = (TargetId(slot.identity.target_id), ChainId(slot.identity.chain_id));
        let open =
            OpenTarget::new(id, chain_id, self.next_generation(), slot.dir.clone(), slot.store.clone());
        slot.opening = Arc::downgrade(&open);
        let info = Target {
            target_id: id,
            path: slot.dir.as_os_str().as_encoded_bytes().into(),
            local_state: LocalTargetState::Online,
            disk_index: slot.disk as u32,
            chain_id,
            use_chunk_engine: true,
            ..Target::default()
        };
        LocalTarget { info, path: slot.dir.clone(), store: Some(open) }
    }

    /// Opens targets again that lost their place, once no request uses their last opening.
    pub(crate) async fn reopen_closed(&self) {
        let closed: Vec<TargetId> = {
            let map = self.map();
            let waits = |target: &&Arc<LocalTarget<Arc<OpenTarget>>>| {
                target.info.local_state == LocalTargetState::Offline && !target.unrecoverably_offline()
            };
            map.targets().filter(waits).map(|target| target.info.target_id).collect()
        };
        let free: Vec<TargetId> = closed.into_iter().filter(|id| !self.disks.is_in_use(*id)).collect();
        if free.is_empty() {
            return;
        }
        let _change = self.map_change.lock().await;
        let mut map = (*self.map()).clone();
        for id in free {
            let target = self.disks.slots.lock().get_mut(&id).map(|slot| self.new_opening(slot));
            let Some(target) = target else { continue };
            match map.add(target) {
                Ok(()) => tracing::info!(target = %id, "target opened again"),
                Err(status) => tracing::warn!(target = %id, %status, "target not opened again"),
            }
        }
        self.place_and_publish(map).await;
    }

    /// Creates a target; success if it is there and the request allows that.
    pub(crate) async fn create_target(self: &Arc<Self>, req: &CreateTargetReq) -> Result<(), Status> {
        let disk_index = req.disk_index as usize;
        let Some(path) = self.disks.paths.get(disk_index) else {
            return Err(failure(format!(
                "disk index exceed {} >= {}",
                req.disk_index,
                self.disks.paths.len()
            )));
        };
        if req.chain_id == ChainId(0) {
            return Err(failure(format!("target {} without chain id", req.target_id)));
        }
        let _change = self.disks.change.lock().await;
        if self.check_existing(req)? {
            return Ok(());
        }
        let dir = path.join(req.target_id.to_string());
        let disk = self.env.disk();
        let io = |error: io::Error| failure(format!("{}: {error}", dir.display()));
        disk.create_dir_all(&dir).await.map_err(io)?;
        let identity = TargetIdentity::new(req.target_id.0, req.chain_id.0);
        let engine_dir = dir.join(ENGINE);
        let options = self.engine_options(identity.target_id);
        // Data that are damaged may be all there is.
        if !matches!(TargetIdentity::read(&disk, &dir).await, Ok(None)) {
            return Err(failure(format!(
                "{} holds a target that could not be opened (this server's log says why); move it away to make the \
                 target anew, without its data",
                dir.display()
            )));
        }
        // What an interrupted creation left has no identity file, so nobody counts on it.
        remove_tree(&disk, &engine_dir).await.map_err(io)?;
        let engine = Engine::create(disk.clone(), &engine_dir, options).await;
        let engine = engine.map_err(|error| failure(error.to_string()))?;
        identity.write(&disk, &dir).await.map_err(|error| failure(error.to_string()))?;
        disk.sync_dir(path).await.map_err(io)?;
        let target = self.keep(disk_index, &dir, identity, engine);
        tracing::info!(target = %req.target_id, chain = %req.chain_id, dir = %dir.display(), "target created");
        let _map_change = self.map_change.lock().await;
        let mut map = (*self.map()).clone();
        map.add(target)?;
        self.place_and_publish(map).await;
        Ok(())
    }

    /// True if the target exists already, as the request wants it.
    fn check_existing(&self, req: &CreateTargetReq) -> Result<bool, Status> {
        let slots = self.disks.slots.lock();
        let other =
            slots.iter().find(|(id, slot)| **id != req.target_id && slot.identity.chain_id == req.chain_id.0);
        if let Some((id, _)) = other {
            let chain = req.chain_id;
            return Err(failure(format!(
                "target {id} is existing with same chain id {chain}, req target {}",
                req.target_id
            )));
        }
        match slots.get(&req.target_id) {
            None if req.add_chunk_size => {
                Err(failure(format!("target {} {} is not existing", req.chain_id, req.target_id)))
            }
            None => Ok(false),
            Some(slot) if slot.identity.chain_id != req.chain_id.0 => {
                Err(failure(format!("target {} belongs to chain {}", req.target_id, slot.identity.chain_id)))
            }
            Some(slot) if slot.disk != req.disk_index as usize => {
                Err(failure(format!("target {} is on disk {}", req.target_id, slot.disk)))
            }
            Some(_) if !req.allow_existing_target => {
                Err(failure(format!("target {} is already existing", req.target_id)))
            }
            Some(_) => Ok(true),
        }
    }

    /// Removes an offline target and its data.
    pub(crate) async fn remove_target(&self, id: TargetId, force: bool) -> Result<(), Status> {
        let _change = self.disks.change.lock().await;
        let invalid =
            |text: &str| Err(Status::new(code::STORAGE_TARGET_STATE_INVALID, format!("target {id} {text}")));
        let target = self.map().by_id(id)?.clone();
        if !target.unrecoverably_offline() {
            return invalid("is not offline");
        }
        if target.info.v_chain_id != VersionedChainId::default() && !force {
            return invalid("is still in a chain");
        }
        if self.disks.is_in_use(id) {
            return invalid("is still in use");
        }
        let Some(slot) = self.disks.slots.lock().remove(&id) else {
            return invalid("is not here");
        };
        slot.maintenance.abort();
        if let Err(error) = slot.store.engine.close().await {
            tracing::warn!(target = %id, %error, "closing before removal");
        }
        let disk = self.env.disk();
        let removed = async {
            // First what makes it a target.
            disk.remove_file(&slot.dir.join(FILE)).await?;
            disk.sync_dir(&slot.dir).await?;
            remove_tree(&disk, &slot.dir).await
        };
        removed.await.map_err(|error: io::Error| failure(format!("{}: {error}", slot.dir.display())))?;
        tracing::info!(target = %id, "target removed");
        let _map_change = self.map_change.lock().await;
        let mut map = (*self.map()).clone();
        map.remove(id)?;
        self.publish(map);
        Ok(())
    }

    /// Closes all engines.
    pub(crate) async fn close_targets(&self) {
        let slots: Vec<(TargetId, Slot)> = self.disks.slots.lock().drain().collect();
        for (id, slot) in slots {
            if let Err(error) = slot.store.engine.close().await {
                tracing::error!(target = %id, %error, "target not closed cleanly");
            }
            slot.maintenance.abort();
        }
    }

    /// Ends the targets' background work without closing them, as a crash would.
    pub(crate) fn abandon_targets(&self) {
        for slot in self.disks.slots.lock().values() {
            slot.maintenance.abort();
        }
    }
}

/// Directories on a disk that hold targets.
async fn list_targets(disk: &Arc<dyn Disk>, path: &Path) -> io::Result<Vec<(PathBuf, TargetIdentity)>> {
    disk.create_dir_all(path).await?;
    let mut found = Vec::new();
    for dir in disk.list(path).await? {
        match TargetIdentity::read(disk, &dir).await {
            Ok(Some(identity)) => found.push((dir, identity)),
            Ok(None) => {}
            Err(error) => tracing::error!(dir = %dir.display(), %error, "target left out"),
        }
    }
    Ok(found)
}

/// Removes all files below a directory. Empty directories stay: they cost nothing and may be used again.
fn remove_tree<'a>(disk: &'a Arc<dyn Disk>, dir: &'a Path) -> BoxFuture<'a, io::Result<()>> {
    Box::pin(async move {
        let entries = match disk.list(dir).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            match disk.remove_file(&entry).await {
                Ok(()) => {}
                Err(error) if is_directory(&error) => remove_tree(disk, &entry).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}

/// What removing a directory as a file fails with (EISDIR on Linux, EPERM elsewhere).
fn is_directory(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::PermissionDenied)
}

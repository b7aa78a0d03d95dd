//! Making engines and opening them: what is on disk becomes the state.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use parking_lot::Mutex;
use valor_env::disk::{Disk, OpenOptions};

use crate::checkpoint::{self, Header, Loaded};
use crate::codec::{Fields, Malformed, Put};
use crate::engine::Engine;
use crate::error::{EngineError, Result, io_error};
use crate::files::DataFiles;
use crate::geometry::FILES_PER_CLASS;
use crate::log::{
    FORMAT_VERSION, Known, Log, Lsn, Place, remove_segment, replay, seal, segment_path, unseal,
};
use crate::maintain::Checkpoints;
use crate::options::{Options, SyncMode};
use crate::place::SpaceLeft;
use crate::record::Record;
use crate::signal::Signal;
use crate::state::State;
use crate::tables::Tables;

const MAGIC: &[u8; 8] = b"VALORENG";

/// Name of the file that says there is an engine.
fn marker(dir: &Path) -> PathBuf {
    dir.join("engine")
}

fn place(disk: Arc<dyn Disk>, dir: &Path, options: &Options) -> Place {
    let durable = options.sync == SyncMode::Always;
    let segment_size = options.log_segment_bytes.max(64 << 10);
    Place { disk, dir: dir.into(), target_id: options.target_id, segment_size, durable }
}

impl Engine {
    /// Whether `dir` holds an engine.
    ///
    /// # Errors
    /// `Io`.
    pub async fn exists(disk: &Arc<dyn Disk>, dir: &Path) -> Result<bool> {
        let path = marker(dir);
        disk.exists(&path).await.map_err(|e| io_error("stat", &path, e))
    }

    /// Makes a new engine in `dir`, which is created if needed and must hold no engine. Remains of a creation that did
    /// not end are replaced.
    ///
    /// # Errors
    /// `InvalidArg` if there is an engine; `NoSpace`, `Io`.
    pub async fn create(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Arc<Engine>> {
        if Engine::exists(&disk, dir).await? {
            return Err(EngineError::InvalidArg("there is an engine already"));
        }
        let failed = |e| io_error("create", dir, e);
        disk.create_dir_all(dir).await.map_err(failed)?;
        for path in disk.list(dir).await.map_err(failed)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if ["log-", "spare-", "checkpoint", "data-", "engine.tmp"]
                .iter()
                .any(|ours| name.starts_with(ours))
            {
                disk.remove_file(&path).await.map_err(|e| io_error("remove", &path, e))?;
            }
        }
        let place = place(Arc::clone(&disk), dir, &options);
        let header = Header { number: 0, from: Lsn::new(1, 4096), boot_id: disk.boot_id(), opens: 0 };
        let empty = Mutex::new(State { applied: header.from, ..State::default() });
        checkpoint::write(&place, header, &empty).await?;
        checkpoint::publish(&place, 0).await?;
        write_marker(&place).await?;
        Engine::open(disk, dir, options).await
    }

    /// Opens the engine in `dir`.
    ///
    /// # Errors
    /// `Corrupt` where the files cannot have been left like that by this engine or a loss of power; `NoSpace`, `Io`.
    pub async fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Arc<Engine>> {
        let place = place(Arc::clone(&disk), dir, &options);
        check_marker(&place).await?;
        checkpoint::forget(&place).await;
        let (loaded, checkpoints, mut state, stale) = load_checkpoint(&place).await?;
        let known = Known {
            from: loaded.header.from,
            durable: loaded.durable,
            boot_id: loaded.header.boot_id,
            opens: loaded.header.opens,
        };
        let found = replay(&place, known, |record, lsn, next| {
            state.applied = next;
            let id = match &record {
                Record::Prepare { id, .. } | Record::Put { id, .. } | Record::Commit { id, .. } => id,
                Record::Discard { id, .. } | Record::Fold { id, .. } => id,
                Record::Open { .. } | Record::End | Record::Close => return Ok(()),
            };
            if loaded.contains(id, lsn) { Ok(()) } else { state.apply(record).map(|_| ()) }
        })
        .await?;
        state.applied = found.tail;
        state.finish_loading().map_err(|(chunk, slot)| EngineError::Corrupt {
            file: crate::files::path(dir, slot.class, slot.file()),
            offset: slot.start(),
            chunk: Some(chunk),
            what: "two chunks in one place",
        })?;
        for number in found.unusable.iter().copied() {
            if state.log_users.contains_key(&number) {
                let file = segment_path(dir, number);
                tracing::error!(file = %file.display(), "overwritten data cannot be read: damaged header");
            } else {
                remove_segment(&place, number).await?;
            }
        }
        state.patches_max = options.patches_per_chunk_max;
        state.patched_max = options.patched_chunks_max;
        state.reusable_max = options.reusable_bytes_max;
        let opens = found.opens + 1;
        let work = Arc::new(Signal::default());
        let engine = Arc::new(Engine {
            log: Log::new(place.clone(), options.sync, found, Arc::clone(&work)),
            files: DataFiles::new(Arc::clone(&disk), dir.into(), options.target_id),
            tables: Tables::new(options.table_cache_bytes),
            state: Mutex::new(state),
            orphans: Default::default(),
            checkpoints: Mutex::new(checkpoints),
            checkpointed: Signal::default(),
            space_left: Mutex::new(SpaceLeft::default()),
            work,
            boot_id: disk.boot_id(),
            opens,
            uses: AtomicU32::new(0),
            place,
            options,
        });
        engine.start().await?;
        for number in stale {
            let path = checkpoint::path(dir, number);
            disk.remove_file(&path).await.map_err(|e| io_error("remove", &path, e))?;
        }
        Ok(engine)
    }

    /// First steps: what earlier processes left unsynced, and a record of this open.
    async fn start(&self) -> Result<()> {
        self.files.open_existing().await?;
        if self.options.sync == SyncMode::Always {
            self.files.sync_all().await?;
            self.log.sync().await?;
        }
        let record = Record::Open { boot_id: self.boot_id, opens: self.opens };
        self.log.append(&self.state, record, Vec::new()).await
    }
}

async fn write_marker(place: &Place) -> Result<()> {
    let (path, temporary) = (marker(&place.dir), place.dir.join("engine.tmp"));
    let failed = |e| io_error("create", &path, e);
    let mut bytes = Vec::new();
    bytes.put(MAGIC);
    bytes.u32(FORMAT_VERSION);
    bytes.u64(place.target_id);
    bytes.u32(FILES_PER_CLASS);
    seal(&mut bytes);
    let options = OpenOptions { truncate: true, ..OpenOptions::CREATE };
    let file = place.disk.open(&temporary, options).await.map_err(failed)?;
    file.write_at(0, &[bytes.into()]).await.map_err(failed)?;
    file.sync_data().await.map_err(failed)?;
    place.disk.rename(&temporary, &path).await.map_err(failed)?;
    place.disk.sync_dir(&place.dir).await.map_err(failed)
}

async fn check_marker(place: &Place) -> Result<()> {
    let path = marker(&place.dir);
    let failed = |e| io_error("open", &path, e);
    let file = place.disk.open(&path, OpenOptions::READ).await.map_err(failed)?;
    let bytes = file.read_at(0, 4096).await.map_err(failed)?;
    let check = || {
        let mut fields = Fields(unseal(&bytes)?);
        let magic: [u8; 8] = fields.array()?;
        let known = (&magic, fields.u32()?) == (MAGIC, FORMAT_VERSION);
        match (known, fields.u64()? == place.target_id, fields.u32()? == FILES_PER_CLASS) {
            (false, ..) | (.., false) => Err(Malformed("engine of an unknown format version")),
            (_, false, _) => Err(Malformed("engine of another target")),
            _ => fields.end(),
        }
    };
    check().map_err(|malformed| EngineError::corrupt(&path, 0, malformed.0))
}

/// The newest checkpoint that can be read, what is known of others, and those which are not needed any more.
async fn load_checkpoint(place: &Place) -> Result<(Loaded, Checkpoints, State, Vec<u64>)> {
    let numbers = checkpoint::list(place).await?;
    let mut first_error = None;
    for (i, number) in numbers.iter().copied().enumerate().rev() {
        let mut state = State::default();
        let loaded = match checkpoint::load(place, number, &mut state).await {
            Ok(loaded) => loaded,
            Err(error @ EngineError::Corrupt { .. }) => {
                tracing::error!(%error, "a checkpoint cannot be read, trying the one before");
                first_error.get_or_insert(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut checkpoints =
            Checkpoints { latest: Some(loaded.header), len: loaded.len, ..Checkpoints::default() };
        let mut stale = numbers[..i].to_vec();
        // The one before stays until the next is written.
        if let Some(before) = stale.last().copied()
            && let Ok(header) = checkpoint::load_header(place, before).await
        {
            checkpoints.previous = Some(header);
            stale.pop();
        }
        return Ok((loaded, checkpoints, state, stale));
    }
    Err(first_error.unwrap_or_else(|| EngineError::corrupt(&place.dir, 0, "no checkpoint")))
}

//! Checkpoints: all chunks' metadata in one file, so that the log need not be read from its beginning.
//!
//! A checkpoint is written while chunks change. Each of its blocks says up to which record its chunks are current; of
//! the log, records before that place are skipped for chunks in the block's range.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;
use valor_env::disk::OpenOptions;

use crate::ChunkId;
use crate::codec::{Fields, Malformed, Put};
use crate::error::{EngineError, Result, io_error};
use crate::log::{FORMAT_VERSION, Lsn, Place, seal, unseal};
use crate::patch::Patch;
use crate::record::{self, Content, Pending};
use crate::signal::yield_now;
use crate::state::{Entry, Extra, State};

const MAGIC: &[u8; 8] = b"VALORCKP";
/// A block is full with this many bytes.
const BLOCK_LEN: usize = 64 << 10;
/// No frame is longer: a block's last chunk may have many patches, each of at most a chunk's block checksums.
const FRAME_MAX: u32 = 256 << 20;

/// A checkpoint's place in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Counts checkpoints.
    pub(crate) number: u64,
    /// Replay begins here.
    pub(crate) from: Lsn,
    /// Machine's boot, and how often the engine had been opened.
    pub(crate) boot_id: [u8; 16],
    pub(crate) opens: u32,
}

/// A checkpoint that was read.
pub(crate) struct Loaded {
    pub(crate) header: Header,
    /// All log records below were on disk.
    pub(crate) durable: Lsn,
    /// Bytes of the file.
    pub(crate) len: u64,
    /// Last chunk of each block but the final one, and the place up to which the block is current.
    blocks: Vec<(Option<ChunkId>, Lsn)>,
}

impl Loaded {
    /// Whether the record at `lsn` about the chunk is contained already.
    pub(crate) fn contains(&self, id: &ChunkId, lsn: Lsn) -> bool {
        let block = self.blocks.partition_point(|(last, _)| last.as_ref().is_some_and(|last| last < id));
        self.blocks.get(block).is_some_and(|(_, current)| lsn < *current)
    }
}

/// Name of a checkpoint's file.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("checkpoint-{number:016x}"))
}

/// Numbers of a directory's checkpoints, oldest first.
pub(crate) async fn list(place: &Place) -> Result<Vec<u64>> {
    let entries = place.disk.list(&place.dir).await.map_err(|e| io_error("list", &place.dir, e))?;
    let number = |path: &PathBuf| {
        let digits = path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.to_owned();
        u64::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 16)
    };
    Ok(entries.iter().filter_map(number).collect())
}

/// Writes a checkpoint under a temporary name; [`publish`] makes it one. Returns its length. The log must be synced in
/// between, up to what [`State::applied`] is when this returns.
pub(crate) async fn write(place: &Place, header: Header, state: &Mutex<State>) -> Result<u64> {
    let path = temporary(&place.dir);
    let failed = |e| io_error("write", &path, e);
    let options = OpenOptions { truncate: true, ..OpenOptions::CREATE };
    let file = place.disk.open(&path, options).await.map_err(failed)?;
    let mut offset = 0;
    let first = frame(|out| header.encode(place.target_id, out));
    file.write_at(offset, std::slice::from_ref(&first)).await.map_err(failed)?;
    offset += first.len() as u64;
    let (mut after, mut total) = (None, 0u64);
    loop {
        let (block, last, count) = encode_block(&state.lock(), after.as_ref());
        total += count;
        file.write_at(offset, std::slice::from_ref(&block)).await.map_err(failed)?;
        offset += block.len() as u64;
        match last {
            Some(last) => after = Some(last),
            None => break,
        }
        yield_now().await;
    }
    let durable = state.lock().applied;
    let footer = frame(|out| {
        out.u8(Kind::Footer as u8);
        out.u64(total);
        out.u64(durable.0);
    });
    file.write_at(offset, std::slice::from_ref(&footer)).await.map_err(failed)?;
    file.sync_data().await.map_err(failed)?;
    Ok(offset + footer.len() as u64)
}

/// Removes what was written of a checkpoint that is not to be.
pub(crate) async fn forget(place: &Place) {
    // Missing or not, the next one is written over it.
    let _ = place.disk.remove_file(&temporary(&place.dir)).await;
}

/// Gives the checkpoint written last its name.
pub(crate) async fn publish(place: &Place, number: u64) -> Result<()> {
    let (from, to) = (temporary(&place.dir), path(&place.dir, number));
    let failed = |e| io_error("publish", &to, e);
    place.disk.rename(&from, &to).await.map_err(failed)?;
    place.disk.sync_dir(&place.dir).await.map_err(failed)
}

fn temporary(dir: &Path) -> PathBuf {
    dir.join("checkpoint.tmp")
}

/// Reads a checkpoint's header.
pub(crate) async fn load_header(place: &Place, number: u64) -> Result<Header> {
    let path = path(&place.dir, number);
    let failed = |e| io_error("read", &path, e);
    let file = place.disk.open(&path, OpenOptions::READ).await.map_err(failed)?;
    let len = file.size().await.map_err(failed)?;
    let first = Reader { offset: 0, buffer: Bytes::new(), len }.next(&*file).await.map_err(failed)?;
    let header = first.and_then(|body| {
        let mut fields = Fields(&body);
        fields.u8()?;
        Header::decode(&mut fields, place.target_id, number)
    });
    header.map_err(|malformed| EngineError::corrupt(&path, 0, malformed.0))
}

/// Reads a checkpoint into an empty state.
pub(crate) async fn load(place: &Place, number: u64, state: &mut State) -> Result<Loaded> {
    let path = path(&place.dir, number);
    let failed = |e| io_error("read", &path, e);
    let file = place.disk.open(&path, OpenOptions::READ).await.map_err(failed)?;
    let len = file.size().await.map_err(failed)?;
    let mut reader = Reader { offset: 0, buffer: Bytes::new(), len };
    let mut loaded: Option<Loaded> = None;
    let mut total = 0;
    loop {
        let start = reader.offset;
        let corrupt = |m: Malformed| EngineError::corrupt(&path, start, m.0);
        let body = reader.next(&*file).await.map_err(failed)?.map_err(corrupt)?;
        let mut fields = Fields(&body);
        match (fields.u8().map_err(corrupt)?, &mut loaded) {
            (kind, None) if kind == Kind::Header as u8 => {
                let header = Header::decode(&mut fields, place.target_id, number).map_err(corrupt)?;
                loaded = Some(Loaded { header, durable: Lsn::default(), len, blocks: Vec::new() });
            }
            (kind, Some(loaded)) if kind == Kind::Block as u8 => {
                let (block, count) = decode_block(&mut fields, state).map_err(corrupt)?;
                loaded.blocks.push(block);
                total += count;
            }
            (kind, Some(loaded)) if kind == Kind::Footer as u8 => {
                let counted = fields.u64().map_err(corrupt)?;
                loaded.durable = Lsn(fields.u64().map_err(corrupt)?);
                let complete = loaded.blocks.last().is_some_and(|(last, _)| last.is_none());
                if counted != total || !complete || state.chunks.len() as u64 != total {
                    return Err(corrupt(Malformed("checkpoint with missing parts")));
                }
                break;
            }
            _ => return Err(corrupt(Malformed("order of a checkpoint's parts"))),
        }
        fields.end().map_err(corrupt)?;
    }
    loaded.ok_or_else(|| EngineError::corrupt(&path, 0, "checkpoint without a header"))
}

#[derive(Clone, Copy)]
enum Kind {
    Header = 1,
    Block = 2,
    Footer = 3,
}

/// Length, contents, checksum.
fn frame(fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(BLOCK_LEN + 4096);
    out.u32(0);
    fill(&mut out);
    let len = out.len() as u32;
    out[..4].copy_from_slice(&len.to_le_bytes());
    seal(&mut out);
    out.into()
}

impl Header {
    fn encode(&self, target_id: u64, out: &mut Vec<u8>) {
        out.u8(Kind::Header as u8);
        out.put(MAGIC);
        out.u32(FORMAT_VERSION);
        out.u64(target_id);
        out.u64(self.number);
        out.u64(self.from.0);
        out.put(&self.boot_id);
        out.u32(self.opens);
    }

    fn decode(
        fields: &mut Fields<'_>,
        target_id: u64,
        number: u64,
    ) -> std::result::Result<Header, Malformed> {
        let magic: [u8; 8] = fields.array()?;
        let (version, target) = (fields.u32()?, fields.u64()?);
        let (found, from) = (fields.u64()?, Lsn(fields.u64()?));
        let (boot_id, opens) = (fields.array()?, fields.u32()?);
        match (&magic == MAGIC && version == FORMAT_VERSION, target == target_id, found == number) {
            (false, ..) => Err(Malformed("checkpoint of an unknown format version")),
            (_, false, _) => Err(Malformed("checkpoint of another target")),
            (.., false) => Err(Malformed("checkpoint under another's name")),
            _ => Ok(Header { number, from, boot_id, opens }),
        }
    }
}

/// A block with the chunks that follow `after`; its last chunk unless it is the final block; how many there are.
fn encode_block(state: &State, after: Option<&ChunkId>) -> (Bytes, Option<ChunkId>, u64) {
    let low = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut chunks = state.chunks.range::<ChunkId, _>((low, Bound::Unbounded)).peekable();
    let (mut body, mut last, mut count) = (Vec::with_capacity(BLOCK_LEN + 4096), None, 0u64);
    while body.len() < BLOCK_LEN
        && let Some((id, entry)) = chunks.next()
    {
        encode_entry(id, entry, &mut body);
        (last, count) = (Some(id), count + 1);
    }
    let is_final = chunks.peek().is_none();
    let block = frame(|out| {
        out.u8(Kind::Block as u8);
        out.u8(u8::from(is_final));
        out.u64(state.applied.0);
        out.u64(count);
        out.put(&body);
    });
    (block, last.filter(|_| !is_final).cloned(), count)
}

type Block = (Option<ChunkId>, Lsn);

fn decode_block(fields: &mut Fields<'_>, state: &mut State) -> std::result::Result<(Block, u64), Malformed> {
    let (is_final, lsn, count) = (fields.u8()? == 1, Lsn(fields.u64()?), fields.u64()?);
    let mut last = None;
    for _ in 0..count {
        let (id, entry) = decode_entry(fields)?;
        last = Some(id.clone());
        state.load(id, entry);
    }
    Ok(((last.filter(|_| !is_final), lsn), count))
}

fn encode_entry(id: &ChunkId, entry: &Entry, out: &mut Vec<u8>) {
    record::encode_id(id, out);
    out.u32(entry.chunk_size);
    out.u32(entry.ver);
    if entry.ver != 0 {
        out.u32(entry.chain_ver);
        entry.content.encode(out);
        out.u32(entry.slot);
        out.u32(entry.salt);
        record::encode_tag(&entry.tag, out);
        out.u32(entry.patches().len() as u32);
        for patch in entry.patches() {
            out.u64(patch.lsn.0);
            patch.encode(out);
        }
    }
    out.u8(u8::from(entry.pending().is_some()));
    if let Some(pending) = entry.pending() {
        pending.encode(out, true);
    }
}

fn decode_entry(fields: &mut Fields<'_>) -> std::result::Result<(ChunkId, Entry), Malformed> {
    let id = record::decode_id(fields)?;
    let mut entry = Entry::new(fields.u32()?);
    let mut extra = Extra::default();
    entry.ver = fields.u32()?;
    if entry.ver != 0 {
        entry.chain_ver = fields.u32()?;
        entry.content = Content::decode(fields, entry.chunk_size)?;
        (entry.slot, entry.salt) = (fields.u32()?, fields.u32()?);
        entry.tag = record::decode_tag(fields)?;
        for _ in 0..fields.u32()? {
            let lsn = Lsn(fields.u64()?);
            extra.patches.push(Patch::decode(fields, lsn)?);
        }
    }
    if fields.u8()? != 0 {
        extra.pending = Some(Pending::decode(fields, entry.chunk_size, None)?);
    }
    if entry.ver == 0 && extra.pending.is_none() {
        return Err(Malformed("chunk without a version"));
    }
    if !extra.patches.is_empty() || extra.pending.is_some() {
        entry.extra = Some(Box::new(extra));
    }
    Ok((id, entry))
}

/// Reads frames one after the other.
struct Reader {
    offset: u64,
    /// Bytes at `offset`.
    buffer: Bytes,
    len: u64,
}

impl Reader {
    async fn next(
        &mut self,
        file: &dyn valor_env::disk::DiskFile,
    ) -> std::io::Result<std::result::Result<Bytes, Malformed>> {
        if !self.fill(file, 4).await? {
            return Ok(Err(Malformed("end of a checkpoint")));
        }
        let len = u32::from_le_bytes([self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]]);
        if !(4..FRAME_MAX).contains(&len) || !self.fill(file, len as usize + 4).await? {
            return Ok(Err(Malformed("length of a checkpoint's part")));
        }
        let whole = self.buffer.split_to(len as usize + 4);
        self.offset += whole.len() as u64;
        Ok(unseal(&whole).map(|body| whole.slice(4..body.len())))
    }

    /// Sees to it that `len` bytes are in the buffer; false if the file is shorter.
    async fn fill(&mut self, file: &dyn valor_env::disk::DiskFile, len: usize) -> std::io::Result<bool> {
        if self.buffer.len() < len && self.offset + len as u64 <= self.len {
            self.buffer = file.read_at(self.offset, len.max(1 << 20)).await?.freeze();
        }
        Ok(self.buffer.len() >= len)
    }
}

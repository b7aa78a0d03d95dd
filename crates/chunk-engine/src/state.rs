//! What is known about chunks, as a function of the records applied so far.
//!
//! [`State::apply`] is the only place where chunks change; running and recovering call it with the same records in the
//! same order.

use std::collections::{BTreeMap, HashSet, VecDeque};

use crate::ChunkId;
use crate::codec::Malformed;
use crate::crc;
use crate::geometry::{Slot, blocks};
use crate::log::Lsn;
use crate::patch::{self, Patch};
use crate::readers::Readers;
use crate::record::{Body, Content, Pending, Record};
use crate::slots::{Freed, Slots};
use crate::update::{ChunkMeta, PendingMeta, Tag, VersionMeta};

/// A chunk. Kept small: there are many.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) chunk_size: u32,
    /// Committed version; 0: none, and the fields that describe it mean nothing.
    pub(crate) ver: u32,
    pub(crate) chain_ver: u32,
    pub(crate) content: Content,
    /// Number of the committed version's slot within the class of `chunk_size`.
    pub(crate) slot: u32,
    /// Sets the slot's checksums apart from those of its earlier uses.
    pub(crate) salt: u32,
    pub(crate) tag: Tag,
    pub(crate) extra: Option<Box<Extra>>,
}

/// What most chunks do not have most of the time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Extra {
    /// Patches of the committed version.
    pub(crate) patches: Vec<Patch>,
    pub(crate) pending: Option<Pending>,
}

impl Entry {
    pub(crate) fn new(chunk_size: u32) -> Self {
        Entry {
            chunk_size,
            ver: 0,
            chain_ver: 0,
            content: Content::default(),
            slot: 0,
            salt: 0,
            tag: Tag::default(),
            extra: None,
        }
    }

    pub(crate) fn committed_slot(&self) -> Slot {
        Slot { class: crate::geometry::class_of(self.chunk_size), index: self.slot }
    }

    pub(crate) fn pending(&self) -> Option<&Pending> {
        self.extra.as_ref()?.pending.as_ref()
    }

    pub(crate) fn patches(&self) -> &[Patch] {
        self.extra.as_ref().map_or(&[], |extra| &extra.patches)
    }

    pub(crate) fn committed(&self) -> Option<VersionMeta> {
        (self.ver != 0).then(|| version(self.ver, self.chain_ver, self.content, self.tag))
    }

    pub(crate) fn meta(&self, id: &ChunkId) -> ChunkMeta {
        let committed = self.committed();
        ChunkMeta {
            id: id.clone(),
            chunk_size: self.chunk_size,
            committed,
            pending: self.pending().map(pending_meta),
        }
    }

    /// Drops what is empty.
    fn shrink(&mut self) {
        if self.extra.as_ref().is_some_and(|extra| extra.patches.is_empty() && extra.pending.is_none()) {
            self.extra = None;
        }
    }
}

/// Bytes of content a pending version adds to those of the committed one.
fn own_bytes(pending: &Pending) -> u64 {
    if matches!(pending.body, Body::Fresh { .. }) { pending.content.len.into() } else { 0 }
}

fn version(ver: u32, chain_ver: u32, content: Content, tag: Tag) -> VersionMeta {
    VersionMeta { ver, chain_ver, length: content.len, checksum: crc::wire_form(content.crc), tag }
}

pub(crate) fn pending_meta(pending: &Pending) -> PendingMeta {
    let removes = pending.body == Body::Remove;
    PendingMeta { version: version(pending.ver, pending.chain_ver, pending.content, pending.tag), removes }
}

/// Everything in memory about an engine's chunks.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) chunks: BTreeMap<ChunkId, Entry>,
    pub(crate) slots: Slots,
    pub(crate) readers: Readers,
    /// Chunks with an update under way.
    pub(crate) busy: HashSet<ChunkId>,
    /// Chunks whose patches are being folded.
    pub(crate) folding: HashSet<ChunkId>,
    /// Chunks that got patches, those with the oldest first. May name chunks that have none any more.
    pub(crate) patched: VecDeque<ChunkId>,
    /// Patches by the log segment they need.
    pub(crate) log_users: BTreeMap<u32, u64>,
    /// Bytes of committed and pending content.
    pub(crate) content_bytes: u64,
    /// All records below are applied.
    pub(crate) applied: Lsn,
    /// Chunks with so many patches that they should be folded before others.
    pub(crate) crowded: VecDeque<ChunkId>,
    /// Patches at which a chunk is crowded; 0: never.
    pub(crate) patches_max: usize,
    /// Patched chunks at which the oldest are folded.
    pub(crate) patched_max: usize,
    /// Bytes of freed space at which some is given back.
    pub(crate) reusable_max: u64,
}

/// What an applied record left over.
#[derive(Default)]
pub(crate) struct Left {
    /// Slots no version uses any more.
    pub(crate) slots: Vec<Freed>,
}

impl State {
    /// Changes chunks as a record says. Fails, without a change, if it does not fit; that cannot happen to a record
    /// made by this process.
    pub(crate) fn apply(&mut self, record: Record) -> Result<Left, Malformed> {
        let mut left = Left::default();
        match record {
            Record::Prepare { id, chunk_size, pending } => {
                self.apply_prepare(id, chunk_size, pending, &mut left)?
            }
            Record::Put { id, chunk_size, pending } => {
                let (ver, chain_ver) = (pending.ver, pending.chain_ver);
                self.apply_prepare(id.clone(), chunk_size, pending, &mut left)?;
                self.apply_commit(id, ver, chain_ver, &mut left)?;
            }
            Record::Commit { id, ver, chain_ver } => self.apply_commit(id, ver, chain_ver, &mut left)?,
            Record::Discard { id, ver } => self.apply_discard(&id, ver, &mut left)?,
            Record::Fold { id, salt, upto } => self.apply_fold(&id, salt, upto),
            Record::Open { .. } | Record::End | Record::Close => {}
        }
        Ok(left)
    }

    fn apply_prepare(
        &mut self,
        id: ChunkId,
        chunk_size: u32,
        pending: Pending,
        left: &mut Left,
    ) -> Result<(), Malformed> {
        let known = self.chunks.get(&id);
        if known.is_some_and(|entry| entry.chunk_size != chunk_size) {
            return Err(Malformed("chunk size changes"));
        }
        let has_content = known.is_some_and(|entry| entry.ver != 0);
        if !has_content && !matches!(pending.body, Body::Fresh { .. }) && known.is_none() {
            return Err(Malformed("update of a chunk that does not exist"));
        }
        if !has_content && matches!(pending.body, Body::Same { .. }) {
            return Err(Malformed("update of a chunk without content"));
        }
        if let Body::Fresh { slot, .. } = pending.body
            && slot.class != crate::geometry::class_of(chunk_size)
        {
            return Err(Malformed("slot of another size"));
        }
        self.use_log(pending.body.patches(), 1);
        self.content_bytes += own_bytes(&pending);
        let entry = self.chunks.entry(id).or_insert_with(|| Entry::new(chunk_size));
        let old = entry.extra.get_or_insert_default().pending.replace(pending);
        if let Some(old) = old {
            self.forget_pending(old, left);
        }
        Ok(())
    }

    /// Undoes a pending version's claims.
    fn forget_pending(&mut self, pending: Pending, left: &mut Left) {
        self.use_log(pending.body.patches(), -1);
        self.content_bytes -= own_bytes(&pending);
        if let Body::Fresh { slot, .. } = pending.body {
            left.slots.push(Freed { slot, len: pending.content.len });
        }
    }

    fn use_log(&mut self, patches: &[Patch], change: i64) {
        for segment in patches.iter().filter_map(Patch::segment) {
            let users = self.log_users.entry(segment).or_default();
            *users = users.saturating_add_signed(change);
            if *users == 0 {
                self.log_users.remove(&segment);
            }
        }
    }

    fn apply_commit(
        &mut self,
        id: ChunkId,
        ver: u32,
        chain_ver: u32,
        left: &mut Left,
    ) -> Result<(), Malformed> {
        let entry = self.chunks.get_mut(&id).ok_or(Malformed("commit of a chunk that does not exist"))?;
        let extra = entry.extra.as_mut().ok_or(Malformed("commit without a pending version"))?;
        let pending = extra.pending.take_if(|pending| pending.ver == ver);
        let pending = pending.ok_or(Malformed("commit of a version that is not pending"))?;
        let had_content = entry.ver != 0;
        let bytes_before = own_bytes(&pending);
        let mut gone = Vec::new();
        let first_patch = extra.patches.is_empty();
        match pending.body {
            Body::Remove => {
                let entry = self.chunks.remove(&id).expect("found above");
                self.forget_committed(&entry, left);
                return Ok(());
            }
            Body::Same { patches, .. } => {
                if pending.content.len < entry.content.len {
                    gone = patch::cut(&mut extra.patches, blocks(pending.content.len as usize));
                }
                patch::extend(&mut extra.patches, patches);
            }
            Body::Fresh { slot, salt, patches } => {
                gone = std::mem::replace(&mut extra.patches, patches);
                if had_content {
                    let slot = Slot { class: slot.class, index: entry.slot };
                    left.slots.push(Freed { slot, len: entry.content.len });
                }
                (entry.slot, entry.salt) = (slot.index, salt);
            }
        }
        if had_content {
            self.content_bytes -= u64::from(entry.content.len);
        }
        self.content_bytes = self.content_bytes - bytes_before + u64::from(pending.content.len);
        (entry.ver, entry.chain_ver, entry.content, entry.tag) =
            (ver, chain_ver, pending.content, pending.tag);
        let patched = !extra.patches.is_empty();
        let crowded = self.patches_max != 0 && extra.patches.len() % self.patches_max == self.patches_max - 1;
        entry.shrink();
        self.use_log(&gone, -1);
        if crowded {
            self.crowded.push_back(id.clone());
        }
        if patched && (first_patch || !gone.is_empty()) {
            self.patched.push_back(id);
        }
        Ok(())
    }

    fn forget_committed(&mut self, entry: &Entry, left: &mut Left) {
        if entry.ver != 0 {
            self.content_bytes -= u64::from(entry.content.len);
            self.use_log(entry.patches(), -1);
            left.slots.push(Freed { slot: entry.committed_slot(), len: entry.content.len });
        }
    }

    fn apply_discard(&mut self, id: &ChunkId, ver: u32, left: &mut Left) -> Result<(), Malformed> {
        let entry = self.chunks.get_mut(id).ok_or(Malformed("discard of a chunk that does not exist"))?;
        let extra = entry.extra.as_mut().ok_or(Malformed("discard without a pending version"))?;
        let pending = extra.pending.take_if(|pending| pending.ver == ver);
        let pending = pending.ok_or(Malformed("discard of a version that is not pending"))?;
        entry.shrink();
        if entry.ver == 0 {
            self.chunks.remove(id);
        }
        self.forget_pending(pending, left);
        Ok(())
    }

    fn apply_fold(&mut self, id: &ChunkId, salt: u32, upto: Lsn) {
        // The chunk may have gone or moved to another slot since the fold began.
        let Some(entry) = self.chunks.get_mut(id).filter(|entry| entry.ver != 0 && entry.salt == salt) else {
            return;
        };
        let Some(extra) = &mut entry.extra else { return };
        let kept = extra.patches.partition_point(|patch| patch.lsn <= upto);
        let gone: Vec<Patch> = extra.patches.drain(..kept).collect();
        let left = !extra.patches.is_empty();
        entry.shrink();
        self.use_log(&gone, -1);
        if left {
            self.patched.push_back(id.clone());
        }
    }

    /// Takes in a chunk from a checkpoint.
    pub(crate) fn load(&mut self, id: ChunkId, entry: Entry) {
        if entry.ver != 0 {
            self.content_bytes += u64::from(entry.content.len);
            self.use_log(entry.patches(), 1);
        }
        if let Some(pending) = entry.pending() {
            self.content_bytes += own_bytes(pending);
            self.use_log(pending.body.patches(), 1);
        }
        self.chunks.insert(id, entry);
    }

    /// After loading and replaying: finds out which slots are free and which chunks have patches. Fails with a chunk
    /// whose slot another has too.
    pub(crate) fn finish_loading(&mut self) -> Result<(), (ChunkId, Slot)> {
        let mut patched = Vec::new();
        for (id, entry) in &self.chunks {
            let fresh = match entry.pending().map(|pending| &pending.body) {
                Some(Body::Fresh { slot, .. }) => Some(*slot),
                _ => None,
            };
            let committed = (entry.ver != 0).then(|| entry.committed_slot());
            for slot in committed.into_iter().chain(fresh) {
                if !self.slots.claim(slot) {
                    return Err((id.clone(), slot));
                }
            }
            patched.extend(entry.patches().first().map(|patch| (patch.lsn, id.clone())));
        }
        self.slots.find_free();
        patched.sort_unstable();
        self.patched = patched.into_iter().map(|(_, id)| id).collect();
        Ok(())
    }

    /// Gives back slots that nobody uses any more.
    pub(crate) fn release(&mut self, slots: Vec<Freed>) {
        for slot in slots {
            if self.readers.give_up(slot) {
                self.slots.free(slot);
            }
        }
    }

    /// A reader is done.
    pub(crate) fn leave(&mut self, began: u64) {
        for slot in self.readers.leave(began) {
            self.slots.free(slot);
        }
    }

    /// Whether background work may be due that depends on chunks.
    pub(crate) fn wants_attention(&self) -> bool {
        !self.crowded.is_empty()
            || self.patched.len() > self.patched_max
            || self.slots.should_give_back(self.reusable_max)
    }

    /// The oldest log segment some patch needs.
    pub(crate) fn oldest_needed(&self) -> Option<u32> {
        self.log_users.first_key_value().map(|(segment, _)| *segment)
    }
}

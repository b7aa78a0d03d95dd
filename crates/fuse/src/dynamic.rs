//! What a mount knows about a file beyond its inode: writes not yet told to the metadata service, and its length
//! (`src/fuse/FuseClients.h`, `RcInode::DynamicAttr`). Pure bookkeeping.

use valor_protocol::InodeId;
use valor_protocol::meta::{Acl, File, Inode, VersionedLength};
use valor_wire::UtcTime;

/// Changing attributes of one inode.
#[derive(Debug, Clone, PartialEq)]
pub struct Dynamic {
    /// Number of writes done.
    pub written: u64,
    /// Writes that a sync with length has covered.
    pub synced: u64,
    /// Writes that an fsync has covered.
    pub fsynced: u64,
    /// Who wrote last; periodic syncs are done in their name.
    pub writer: u32,
    /// Chains in use, 0 for all.
    pub dyn_stripe: u32,
    /// Version of truncations.
    pub truncate_ver: u64,
    /// The end of our own writes since the last sync; none if it is not known, so that storage must be asked.
    pub hint: Option<VersionedLength>,
    /// Local access time not yet sent.
    pub atime: Option<UtcTime>,
    /// Local modification time not yet sent.
    pub mtime: Option<UtcTime>,
    /// Owner and permissions as last seen.
    pub acl: Acl,
    /// A directory's parent as last seen.
    pub parent: Option<InodeId>,
    /// Length as the server told last.
    server_length: u64,
    /// End of what this mount has accepted for writing and not yet synced.
    accepted_end: u64,
}

/// What a sync of a file sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsynced {
    /// Writes done when the sync began.
    pub written: u64,
    /// Length hint, `None` to have storage asked.
    pub hint: Option<VersionedLength>,
    /// Access time.
    pub atime: Option<UtcTime>,
    /// Modification time.
    pub mtime: Option<UtcTime>,
}

impl Dynamic {
    /// From an inode seen for the first time.
    pub fn new(inode: &Inode) -> Self {
        let file = inode.data.as_file();
        let truncate_ver = file.map_or(0, |file| file.truncate_ver);
        Dynamic {
            written: 0,
            synced: 0,
            fsynced: 0,
            writer: 0,
            dyn_stripe: file.map_or(0, |file| file.dyn_stripe),
            truncate_ver,
            hint: Some(VersionedLength { length: 0, truncate_ver }),
            atime: None,
            mtime: None,
            acl: inode.data.acl,
            parent: inode.data.as_directory().map(|dir| dir.parent),
            server_length: file.map_or(0, |file| file.length),
            accepted_end: 0,
        }
    }

    /// Takes over what the server says. `sync_ver` is the number of writes the reply covers.
    pub fn update(&mut self, inode: &Inode, sync_ver: u64, fsync: bool) {
        self.acl = inode.data.acl;
        self.parent = inode.data.as_directory().map(|dir| dir.parent);
        let Some(File { length, truncate_ver, dyn_stripe, .. }) = inode.data.as_file() else { return };
        self.synced = self.synced.max(sync_ver);
        if self.written == self.synced {
            self.hint = Some(VersionedLength::default());
        }
        if fsync {
            self.fsynced = self.fsynced.max(sync_ver);
        }
        self.truncate_ver = self.truncate_ver.max(*truncate_ver);
        self.dyn_stripe = *dyn_stripe;
        self.server_length = *length;
    }

    /// Notes that bytes up to `end` were accepted; they count for the length from now on.
    pub fn accept(&mut self, end: u64) {
        self.accepted_end = self.accepted_end.max(end);
    }

    /// Forgets accepted lengths once everything accepted was written and synced, or dropped.
    pub fn settle(&mut self) {
        if self.written == self.synced {
            self.accepted_end = 0;
        }
    }

    /// Forgets accepted lengths: the server has set another.
    pub fn forget_accepted(&mut self) {
        self.accepted_end = 0;
    }

    /// The file's length as far as this mount knows.
    pub fn known_length(&self) -> u64 {
        let hinted = if self.written > self.synced { self.hint.map_or(0, |hint| hint.length) } else { 0 };
        self.server_length.max(self.accepted_end).max(hinted)
    }

    /// Chains a write of `end` bytes needs beyond those in use, if any.
    pub fn stripe_needed(&self, end: u64, chunk_size: u32, stripe_size: u32) -> Option<u32> {
        let chunks = u32::try_from(end.div_ceil(u64::from(chunk_size.max(1)))).unwrap_or(u32::MAX);
        let needed = chunks.min(stripe_size);
        (self.dyn_stripe != 0 && self.dyn_stripe < needed).then_some(needed)
    }

    /// Notes a finished write that began at version `truncate_ver`: `end` behind its last byte, `None` if it failed.
    pub fn finish_write(&mut self, truncate_ver: u64, end: Option<u64>, writer: u32, now: UtcTime) {
        if writer != 0 {
            self.writer = writer;
        }
        self.written += 1;
        let hint = end.map(|length| VersionedLength { length, truncate_ver });
        self.hint = VersionedLength::merge_hint(self.hint, hint);
        self.mtime = Some(now);
    }

    /// What has not been told to the server. `None` if nothing, unless `force`.
    pub fn unsynced(&self, fsync: bool, force: bool) -> Option<Unsynced> {
        let base = if fsync { self.fsynced } else { self.synced };
        let Dynamic { written, hint, atime, mtime, .. } = *self;
        (force || base < written).then_some(Unsynced { written, hint, atime, mtime })
    }

    /// A sync failed: the next one has storage asked. What was written counts for the length all the same.
    pub fn sync_failed(&mut self) {
        let hint = self.hint.take();
        // Until then; a file without writes of ours is as long as the server says.
        if let Some(hint) = hint.filter(|_| self.written > self.synced) {
            self.accept(hint.length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::meta::{InodeData, InodeKind};

    fn file(length: u64, truncate_ver: u64) -> Inode {
        let file = File { length, truncate_ver, dyn_stripe: 2, ..File::default() };
        Inode { data: InodeData { r#type: InodeKind::File(file), ..InodeData::default() }, id: InodeId(7) }
    }

    fn hint(length: u64, truncate_ver: u64) -> Option<VersionedLength> {
        Some(VersionedLength { length, truncate_ver })
    }

    #[test]
    fn writes_are_unsynced_until_the_server_knows() {
        let mut d = Dynamic::new(&file(10, 3));
        assert_eq!((d.unsynced(true, false), d.known_length()), (None, 10));
        d.finish_write(3, Some(100), 5, UtcTime(1));
        d.finish_write(3, Some(50), 0, UtcTime(2));
        let unsynced = d.unsynced(false, false).unwrap();
        assert_eq!((unsynced.written, unsynced.hint, unsynced.mtime), (2, hint(100, 3), Some(UtcTime(2))));
        assert_eq!((d.known_length(), d.writer), (100, 5));
        d.update(&file(100, 3), unsynced.written, false);
        assert_eq!(d.unsynced(false, false), None);
        assert!(d.unsynced(true, false).is_some(), "a plain sync is no fsync");
        d.update(&file(100, 3), 2, true);
        assert_eq!(d.unsynced(true, false), None);
        assert!(d.unsynced(true, true).is_some());
    }

    #[test]
    fn a_write_during_a_sync_stays_unsynced() {
        let mut d = Dynamic::new(&file(0, 0));
        d.finish_write(0, Some(5), 1, UtcTime(1));
        let before = d.unsynced(false, false).unwrap();
        d.finish_write(0, Some(9), 1, UtcTime(2));
        d.update(&file(5, 0), before.written, false);
        assert_eq!(d.unsynced(false, false).unwrap().hint, hint(9, 0));
        assert_eq!(d.known_length(), 9);
    }

    #[test]
    fn a_failed_write_makes_the_next_sync_ask_storage() {
        let mut d = Dynamic::new(&file(0, 0));
        d.finish_write(0, Some(5), 1, UtcTime(1));
        d.finish_write(0, None, 1, UtcTime(1));
        d.finish_write(0, Some(6), 1, UtcTime(1));
        assert_eq!(d.unsynced(false, false).unwrap().hint, None);
        d.update(&file(6, 0), 3, false);
        assert_eq!(d.hint, hint(0, 0));
    }

    #[test]
    fn a_failed_sync_forgets_no_length() {
        let mut d = Dynamic::new(&file(10, 0));
        d.finish_write(0, Some(500), 1, UtcTime(1));
        d.sync_failed();
        assert_eq!((d.known_length(), d.hint), (500, None));
        d.update(&file(300, 1), 1, true);
        d.settle();
        assert_eq!(d.known_length(), 300, "until one succeeds");
        d.sync_failed();
        d.update(&file(200, 2), 1, true);
        assert_eq!(d.known_length(), 200, "nothing of ours was unknown");
    }

    #[test]
    fn accepted_bytes_count_until_settled() {
        let mut d = Dynamic::new(&file(10, 0));
        d.accept(500);
        assert_eq!(d.known_length(), 500);
        d.finish_write(0, Some(500), 1, UtcTime(1));
        d.settle();
        assert_eq!(d.known_length(), 500);
        d.update(&file(300, 1), 1, true);
        d.settle();
        assert_eq!(d.known_length(), 300, "the server has the last word");
    }

    #[test]
    fn stripes_grow_with_the_file() {
        let d = Dynamic::new(&file(0, 0));
        assert_eq!(d.stripe_needed(20, 10, 8), None);
        assert_eq!(d.stripe_needed(21, 10, 8), Some(3));
        assert_eq!(d.stripe_needed(1000, 10, 8), Some(8));
        let fixed = Dynamic { dyn_stripe: 0, ..d };
        assert_eq!(fixed.stripe_needed(1000, 10, 8), None);
    }
}

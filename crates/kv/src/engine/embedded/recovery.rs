//! Reading the log when a database is opened.
//!
//! The log is sound up to the first record that is not whole or does not follow its predecessor. What comes after was either never
//! acknowledged (a crash in the middle of a write) and is cut off, or it is damage: [`Recovered::check`] decides with the
//! version that the state file requires.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::log::{Log, Segment, list_segments};
use super::record::{HEADER_LEN, SegmentHeader, decode_record};
use super::tree::Tree;
use super::{corrupt, io_error};
use crate::KvError;
use crate::batch::Version;
use crate::engine::Durability;

/// A log that was read into the tree's memtables.
pub(crate) struct Recovered {
    dir: PathBuf,
    durability: Durability,
    /// Sound segments with the length and the last version of their sound part.
    segments: Vec<(Arc<Segment>, u64, Version)>,
    /// Where the sound part ends before the log's files do.
    damage: Option<Damage>,
    /// Last version of the sound part, or of the tables.
    last: Version,
}

struct Damage {
    file: PathBuf,
    offset: u64,
    /// Files that begin after the damage, and the damaged one if it has no header.
    discarded: Vec<PathBuf>,
}

/// Reads the log in `dir` and puts what the tables do not hold into memtables of `tree`, one per segment.
pub(crate) fn recover(
    dir: &Path,
    tree: &Tree,
    flushed: Version,
    durability: Durability,
) -> Result<Recovered, KvError> {
    let in_tables = flushed.max(tree.last_version_in_tables());
    let mut recovered =
        Recovered { dir: dir.to_owned(), durability, segments: Vec::new(), damage: None, last: in_tables };
    let paths = list_segments(dir)?;
    if paths.is_empty() {
        return Err(corrupt(dir, None, "there is no log"));
    }
    for (index, path) in paths.iter().enumerate() {
        let followers = &paths[index..];
        if let Some(damage) = recovered.read_segment(path, followers, tree, in_tables)? {
            recovered.damage = Some(damage);
            break;
        }
    }
    Ok(recovered)
}

impl Recovered {
    /// Replays one segment. `followers` are the log's files from this one on.
    fn read_segment(
        &mut self,
        path: &Path,
        followers: &[PathBuf],
        tree: &Tree,
        in_tables: Version,
    ) -> Result<Option<Damage>, KvError> {
        let without_this = || Damage { file: path.to_owned(), offset: 0, discarded: followers.to_vec() };
        let Some(segment) = Segment::open(path)? else { return Ok(Some(without_this())) };
        let header = segment.header();
        let follows = match self.segments.last() {
            Some((_, _, last)) => header.base == *last,
            None => header.base <= in_tables,
        };
        if !follows {
            return Ok(Some(without_this()));
        }
        if !self.segments.is_empty() {
            tree.rotate();
        }
        let mut rest = Bytes::from(fs::read(path).map_err(|error| io_error(path, &error))?);
        let len = rest.len() as u64;
        let mut last = header.base;
        rest = rest.split_off(HEADER_LEN);
        while let Some(batch) = decode_record(header.salt, last, &mut rest) {
            last = batch.version;
            if last > in_tables {
                tree.insert(&batch);
            }
        }
        self.last = self.last.max(last);
        let sound = len - rest.len() as u64;
        self.segments.push((Arc::new(segment), sound, last));
        Ok((!rest.is_empty()).then(|| Damage {
            file: path.to_owned(),
            offset: sound,
            discarded: followers[1..].to_vec(),
        }))
    }

    /// Checks that the sound part reaches `required`. Returns the last version.
    pub(crate) fn check(&self, required: Version) -> Result<Version, KvError> {
        if self.last >= required {
            return Ok(self.last);
        }
        let reason =
            format!("commit {} was acknowledged, but the log is only sound up to {}", required, self.last);
        let end = match (&self.damage, self.segments.last()) {
            (Some(damage), _) => (damage.file.as_path(), damage.offset),
            (None, Some((segment, len, _))) => (segment.path(), *len),
            (None, None) => (self.dir.as_path(), 0),
        };
        Err(corrupt(end.0, Some(end.1), &reason))
    }

    /// Cuts off what is not sound and goes on writing behind it. Returns the closed segments with their last versions too. A new
    /// segment gets `salt`.
    pub(crate) fn resume(mut self, salt: u64) -> Result<(Log, Vec<(Arc<Segment>, Version)>), KvError> {
        if let Some(damage) = &self.damage {
            tracing::warn!(
                file = %damage.file.display(), offset = damage.offset, discarded = damage.discarded.len(),
                "end of the log cut off: commits that were not acknowledged"
            );
            for path in &damage.discarded {
                fs::remove_file(path).map_err(|error| io_error(path, &error))?;
            }
        }
        let Some((active, len, last)) = self.segments.pop() else {
            // Only a log without acknowledged commits has no sound segment.
            let header = SegmentHeader { salt, base: self.last };
            return Ok((Log::create(&self.dir, self.durability, header)?, Vec::new()));
        };
        active.truncate(len)?;
        let closed: Vec<_> = self.segments.into_iter().map(|(segment, _, last)| (segment, last)).collect();
        let earlier = closed.iter().map(|(segment, _)| segment.clone()).collect();
        Ok((Log::resume(&self.dir, self.durability, active, len, last, earlier), closed))
    }
}

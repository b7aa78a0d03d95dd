//! Reading the log when a database is opened.
//!
//! The log is sound up to the first record that is not whole or does not follow its predecessor. What comes after was either never
//! acknowledged (a crash in the middle of a write) and is cut off, or it is damage: [`Recovered::check`] decides with the
//! version that the state file requires.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::log::{Closed, Log, Segment, list_segments};
use super::record::{HEADER_LEN, SegmentHeader, decode_record};
use super::tree::Tree;
use super::{corrupt, io_error};
use crate::KvError;
use crate::batch::Version;

/// A log that was read into the tree's memtables.
pub(crate) struct Recovered {
    dir: PathBuf,
    /// Sound segments with the length and the last version of their sound part.
    segments: Vec<(Arc<Segment>, u64, Version)>,
    /// Segments whose commits are all in the tables.
    obsolete: Vec<PathBuf>,
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
pub(crate) fn recover(dir: &Path, tree: &Tree, flushed: Version) -> Result<Recovered, KvError> {
    let in_tables = flushed.max(tree.last_version_in_tables());
    let mut segments = list_segments(dir)?;
    if segments.is_empty() {
        return Err(corrupt(dir, None, "there is no log"));
    }
    // A segment that begins within the tables makes those before it superfluous, whatever their state.
    let first = segments.iter().rposition(|(base, _)| *base <= in_tables).unwrap_or(0);
    let needed = segments.split_off(first);
    let mut recovered = Recovered {
        dir: dir.to_owned(),
        segments: Vec::new(),
        obsolete: segments.into_iter().map(|(_, path)| path).collect(),
        damage: None,
        last: in_tables,
    };
    let paths: Vec<PathBuf> = needed.iter().map(|(_, path)| path.clone()).collect();
    for (index, (base, path)) in needed.iter().enumerate() {
        recovered.damage = recovered.read_segment(*base, path, &paths[index..], tree, in_tables)?;
        if recovered.damage.is_some() {
            break;
        }
    }
    Ok(recovered)
}

impl Recovered {
    /// Replays one segment. `followers` are the log's files from this one on.
    fn read_segment(
        &mut self,
        base: Version,
        path: &Path,
        followers: &[PathBuf],
        tree: &Tree,
        in_tables: Version,
    ) -> Result<Option<Damage>, KvError> {
        let without_this = || Damage { file: path.to_owned(), offset: 0, discarded: followers.to_vec() };
        let follows = match self.segments.last() {
            Some((_, _, last)) => base == *last,
            None => base <= in_tables,
        };
        let segment = Segment::open(path)?.filter(|segment| follows && segment.header().base == base);
        let Some(segment) = segment else { return Ok(Some(without_this())) };
        if !self.segments.is_empty() {
            tree.rotate();
        }
        let mut rest = Bytes::from(fs::read(path).map_err(|error| io_error(path, &error))?);
        let len = rest.len() as u64;
        let mut last = base;
        rest = rest.split_off(HEADER_LEN);
        while let Some(batch) = decode_record(segment.header().salt, last, &mut rest) {
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

    /// Cuts off what is not sound and goes on writing behind it. Returns the closed segments too. A new
    /// segment gets `salt`.
    pub(crate) fn resume(mut self, salt: u64) -> Result<(Log, Vec<Closed>), KvError> {
        if let Some(damage) = &self.damage {
            tracing::warn!(
                file = %damage.file.display(), offset = damage.offset, discarded = damage.discarded.len(),
                "end of the log cut off: commits that were not acknowledged"
            );
        }
        let discarded = self.damage.iter().flat_map(|damage| &damage.discarded);
        for path in discarded.chain(&self.obsolete) {
            fs::remove_file(path).map_err(|error| io_error(path, &error))?;
        }
        let Some((active, len, last)) = self.segments.pop() else {
            // Only a log without acknowledged commits has no sound segment.
            let header = SegmentHeader { salt, base: self.last };
            return Ok((Log::create(&self.dir, header)?, Vec::new()));
        };
        active.truncate(len)?;
        let closed: Vec<Closed> =
            self.segments.into_iter().map(|(segment, _, last)| Closed { segment, last }).collect();
        let earlier = closed.iter().map(|closed| closed.segment.clone()).collect();
        Ok((Log::resume(&self.dir, active, len, last, earlier), closed))
    }
}

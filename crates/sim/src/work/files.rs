//! Files: each worker has a directory of its own and knows what must be in it. What an operation that failed has left is
//! not known, and its names are not looked at any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bstr::BString;
use bytes::Bytes;
use tokio::time::sleep;
use valor_client::MetaClient;
use valor_client::file::{FileIo, FileMap, FileRead, FileReadOptions, FileWrite, FileWriteOptions, Holes};
use valor_client::meta::FileChange;
use valor_env::Env;
use valor_protocol::InodeId;
use valor_protocol::meta::{Inode, OpenFlags, PathAt};
use valor_protocol::status::code;
use valor_wire::{Status, Uuid};

use super::{Hand, fill, is_bug};
use crate::check::Verdict;
use crate::cluster::{CHUNK_SIZE, ROOT};
use crate::rng::Rng;

/// Names a worker uses for files.
const NAMES: usize = 12;
/// Names a worker uses for directories.
const DIRECTORIES: usize = 3;
/// Longest file, in bytes.
const LONGEST: u64 = 3 * CHUNK_SIZE as u64;

/// One client's work on files.
pub struct Worker {
    /// Number of the worker, part of its directory's name.
    pub id: u32,
    /// The process's world.
    pub env: Env,
    /// Names.
    pub meta: Arc<MetaClient>,
    /// Contents.
    pub files: FileIo,
    /// Shared.
    pub hand: Hand,
    /// Violations.
    pub verdict: Verdict,
    /// Choices.
    pub rng: Rng,
    /// Longest pause between two operations, in milliseconds.
    pub pause: u64,
    state: State,
}

/// What must be there.
#[derive(Default)]
struct State {
    directory: Option<InodeId>,
    files: BTreeMap<String, Vec<u8>>,
    /// Empty ones.
    directories: BTreeSet<String>,
    /// Names of which nothing is known.
    unknown: BTreeSet<String>,
    written: u64,
}

type Done<T> = Result<T, Status>;

impl Worker {
    /// A worker without a directory yet.
    #[expect(clippy::too_many_arguments, reason = "a worker is made at one place")]
    pub fn new(
        id: u32,
        env: Env,
        meta: Arc<MetaClient>,
        files: FileIo,
        hand: Hand,
        verdict: Verdict,
        rng: Rng,
        pause: u64,
    ) -> Self {
        Self { id, env, meta, files, hand, verdict, rng, pause, state: State::default() }
    }

    /// Works until asked to stop; gives the worker back for the last look.
    pub async fn run(mut self) -> Self {
        while !self.hand.is_stopping() {
            if self.state.directory.is_none() {
                self.make_directory().await;
            } else {
                self.step().await;
            }
            let pause = self.rng.millis(0..self.pause + 1);
            sleep(pause).await;
        }
        self
    }

    async fn make_directory(&mut self) {
        let name = format!("worker{}", self.id);
        let made =
            self.meta.mkdirs(&ROOT, PathAt::at(InodeId::ROOT, name.as_str()), 0o755, false, None).await;
        let inode = match made {
            Err(status) if status.code == code::META_EXISTS => {
                self.meta.stat(&ROOT, PathAt::at(InodeId::ROOT, name.as_str()), false).await
            }
            other => other,
        };
        self.hand.count(&inode);
        self.state.directory = inode.ok().map(|inode| inode.id);
    }

    fn at(&self, name: &str) -> PathAt {
        PathAt::at(self.state.directory.unwrap_or(InodeId::ROOT), name)
    }

    async fn step(&mut self) {
        let work = self.rng.below(0..11);
        let name = match work {
            10 => format!("d{}", self.rng.index(DIRECTORIES)),
            _ => format!("f{}", self.rng.index(NAMES)),
        };
        if self.state.unknown.contains(&name) {
            return;
        }
        let (what, names, result) = match work {
            0..4 => ("write", vec![name.clone()], self.write(&name).await),
            4..6 => ("read", vec![], self.read(&name).await),
            6..8 => ("unlink", vec![name.clone()], self.unlink(&name).await),
            8 => {
                let other = format!("f{}", self.rng.index(NAMES));
                if other == name || self.state.unknown.contains(&other) {
                    return;
                }
                ("rename", vec![name.clone(), other.clone()], self.rename(&name, &other).await)
            }
            9 => ("truncate", vec![name.clone()], self.truncate(&name).await),
            _ => ("directory", vec![name.clone()], self.directory(&name).await),
        };
        self.hand.count(&result);
        if let Err(status) = result {
            tracing::debug!(worker = self.id, what, ?names, %status, "operation failed");
            if is_bug(&status) {
                self.verdict.violation(format!("{what} {names:?} of worker {}: {status}", self.id));
            }
            for name in names {
                self.state.files.remove(&name);
                self.state.directories.remove(&name);
                self.state.unknown.insert(name);
            }
        }
    }

    async fn write(&mut self, name: &str) -> Done<()> {
        let session = Uuid(self.env.random_uuid());
        let there = self.state.files.contains_key(name);
        let exclusive = self.rng.chance(if there { 0.1 } else { 0.5 });
        let flags = OpenFlags::WRONLY | OpenFlags::CREAT;
        let flags = if exclusive { flags | OpenFlags::EXCL } else { flags };
        let inode = match self.meta.create(&ROOT, self.at(name), Some(session), flags, 0o644, None).await {
            Err(status) if exclusive && there && status.code == code::META_EXISTS => return Ok(()),
            Err(status) if status.code == code::META_EXISTS => {
                self.verdict.violation(format!("{name} of worker {} is there to be created", self.id));
                return Err(status);
            }
            created => created?,
        };
        if exclusive && there {
            self.verdict.violation(format!("{name} of worker {} is created a second time", self.id));
        }
        match self.write_open(name, &inode).await {
            Ok(content) => {
                let change = FileChange { update_length: true, ..FileChange::default() };
                let closed = self.meta.close(&ROOT, inode.id, Some(session), change).await?;
                self.check_length("closed", name, &closed, content.len());
                self.state.files.insert(name.to_owned(), content);
                Ok(())
            }
            Err(status) => {
                // As a mount does: the file is closed in any case.
                self.meta.close_later(&ROOT, inode.id, session, FileChange::default());
                Err(status)
            }
        }
    }

    async fn write_open(&mut self, name: &str, inode: &Inode) -> Done<Vec<u8>> {
        let map = FileMap::of(inode)?;
        let mut content = self.state.files.get(name).cloned().unwrap_or_default();
        for _ in 0..1 + self.rng.index(3) {
            self.state.written += 1;
            let len = 1 + self.rng.below(0..u64::from(CHUNK_SIZE)) as usize;
            // No holes: a write begins within the file or at its end.
            let offset = self.rng.below(0..(content.len() as u64).min(LONGEST - len as u64) + 1);
            let data = fill(u64::from(self.id) << 40 | self.state.written, len);
            let end = offset as usize + len;
            content.resize(content.len().max(end), 0);
            content[offset as usize..end].copy_from_slice(&data);
            let write = FileWrite { map: &map, offset, data: Bytes::from(data) };
            let written = self.files.write(&ROOT, write, &FileWriteOptions::default()).await?;
            if written != len as u64 {
                self.verdict.violation(format!("{written} of {len} bytes written to {name}"));
            }
            if self.rng.chance(0.3) {
                let change = FileChange { update_length: true, ..FileChange::default() };
                self.meta.sync(&ROOT, inode.id, change).await?;
            }
        }
        Ok(content)
    }

    fn check_length(&self, what: &str, name: &str, inode: &Inode, expected: usize) {
        let length = inode.data.as_file().map(|file| file.length);
        if length != Some(expected as u64) {
            let text = format!("{what} {name} of worker {}: length {length:?}, not {expected}", self.id);
            self.verdict.violation(text);
        }
    }

    async fn read(&mut self, name: &str) -> Done<()> {
        let opened = self.meta.open(&ROOT, self.at(name), None, OpenFlags::RDONLY).await;
        let inode = match (opened, self.state.files.get(name)) {
            (Err(status), None) if status.code == code::META_NOT_FOUND => return Ok(()),
            (Err(status), Some(_)) if status.code == code::META_NOT_FOUND => {
                self.verdict.violation(format!("{name} of worker {} is not there", self.id));
                return Ok(());
            }
            (Ok(inode), None) => {
                self.verdict.violation(format!("{name} of worker {} is there: {inode:?}", self.id));
                return Ok(());
            }
            (opened, _) => opened?,
        };
        let expected = self.state.files.get(name).cloned().unwrap_or_default();
        self.check_length("opened", name, &inode, expected.len());
        let map = FileMap::of(&inode)?;
        let read = FileRead {
            map: &map,
            offset: 0,
            length: expected.len() as u32,
            file_length: Some(expected.len() as u64),
        };
        let options = FileReadOptions { holes: Holes::Zeros, ..FileReadOptions::default() };
        let found = self.files.read(&ROOT, read, &options).await?.to_bytes();
        if found[..] != expected[..] {
            let at = found.iter().zip(&expected).position(|(a, b)| a != b);
            let text = format!("{name} of worker {}: {} bytes, differ at {at:?}", self.id, found.len());
            self.verdict.violation(text);
        }
        Ok(())
    }

    async fn unlink(&mut self, name: &str) -> Done<()> {
        let there = self.state.files.contains_key(name);
        match self.meta.unlink(&ROOT, self.at(name)).await {
            Err(status) if status.code == code::META_NOT_FOUND && !there => return Ok(()),
            Err(status) if status.code == code::META_NOT_FOUND => {
                self.verdict.violation(format!("{name} of worker {} is not there to be unlinked", self.id));
            }
            other => other?,
        }
        self.state.files.remove(name);
        Ok(())
    }

    async fn rename(&mut self, from: &str, to: &str) -> Done<()> {
        let there = self.state.files.contains_key(from);
        match self.meta.rename(&ROOT, self.at(from), self.at(to), false).await {
            Err(status) if status.code == code::META_NOT_FOUND && !there => return Ok(()),
            Err(status) if status.code == code::META_NOT_FOUND => {
                self.verdict.violation(format!("{from} of worker {} is not there to be renamed", self.id));
            }
            other => drop(other?),
        }
        if let Some(content) = self.state.files.remove(from) {
            self.state.files.insert(to.to_owned(), content);
        }
        Ok(())
    }

    /// Makes a directory or removes it, and now and then tries what must be refused.
    async fn directory(&mut self, name: &str) -> Done<()> {
        let there = self.state.directories.contains(name);
        let make = self.rng.chance(if there { 0.2 } else { 0.8 });
        let (done, refusal) = match make {
            true => {
                let made = self.meta.mkdirs(&ROOT, self.at(name), 0o755, false, None).await;
                (made.map(drop), code::META_EXISTS)
            }
            false => (self.meta.rmdir(&ROOT, self.at(name), false).await, code::META_NOT_FOUND),
        };
        match done {
            Ok(()) if there != make => {}
            Ok(()) => self.verdict.violation(format!("{name} of worker {} is made or gone twice", self.id)),
            Err(status) if status.code == refusal && there == make => return Ok(()),
            Err(status) => {
                if status.code == refusal {
                    self.verdict.violation(format!("{name} of worker {}: {status}", self.id));
                }
                return Err(status);
            }
        }
        if make {
            self.state.directories.insert(name.to_owned());
        } else {
            self.state.directories.remove(name);
        }
        Ok(())
    }

    async fn truncate(&mut self, name: &str) -> Done<()> {
        let Some(content) = self.state.files.get(name) else { return Ok(()) };
        let length = self.rng.below(0..content.len() as u64 + 5000).min(LONGEST);
        let inode = self.meta.stat(&ROOT, self.at(name), false).await?;
        let inode = self.meta.truncate_inode(&ROOT, &inode, length).await?;
        self.check_length("truncated", name, &inode, length as usize);
        if let Some(content) = self.state.files.get_mut(name) {
            content.resize(length as usize, 0);
        }
        Ok(())
    }

    /// Looks at everything in a cluster that must answer.
    pub async fn look_at_all(&mut self) {
        let names: Vec<String> = self.state.files.keys().cloned().collect();
        for name in names {
            if let Err(status) = self.read(&name).await {
                self.verdict.violation(format!("{name} of worker {} cannot be read: {status}", self.id));
            }
        }
        let Some(directory) = self.state.directory else { return };
        match self.meta.list(&ROOT, PathAt::inode(directory), BString::default(), 1000, false).await {
            Err(status) => {
                self.verdict.violation(format!("directory of worker {} cannot be listed: {status}", self.id));
            }
            Ok(list) => {
                let listed: BTreeSet<String> =
                    list.entries.iter().map(|entry| entry.name.to_string()).collect();
                let unknown = &self.state.unknown;
                let listed: Vec<&String> = listed.iter().filter(|name| !unknown.contains(*name)).collect();
                let expected: BTreeSet<&String> =
                    self.state.files.keys().chain(&self.state.directories).collect();
                let expected: Vec<&String> = expected.into_iter().collect();
                if listed != expected {
                    let text = format!("directory of worker {}: {listed:?}, not {expected:?}", self.id);
                    self.verdict.violation(text);
                }
            }
        }
    }

    /// Names of which nothing is known.
    pub fn unknown(&self) -> usize {
        self.state.unknown.len()
    }
}

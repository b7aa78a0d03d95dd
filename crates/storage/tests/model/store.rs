//! A replica's disk in the model: whole contents in memory, surviving crashes.

use std::collections::BTreeMap;

use valor_protocol::storage::{ChecksumInfo, ChecksumType, UpdateType};
use valor_protocol::{ChainVersion, ChunkVer};
use valor_storage::replica::update::Prepared;
use valor_storage::replica::version::{LocalChunk, Pending, Version};

/// Content of a chunk: each cell holds the number of the write that filled it.
pub type Content = Vec<u16>;

pub fn checksum(content: &Content) -> ChecksumInfo {
    let bytes: Vec<u8> = content.iter().flat_map(|cell| cell.to_le_bytes()).collect();
    ChecksumInfo { r#type: ChecksumType::Crc32c, value: valor_wire::storage_crc32c(&bytes) }
}

/// What an update does to a content.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub kind: UpdateType,
    pub offset: usize,
    pub data: Content,
    /// New length of truncate and extend.
    pub length: usize,
}

impl Change {
    pub fn wire_length(&self) -> u32 {
        if self.kind == UpdateType::Write { self.data.len() as u32 } else { self.length as u32 }
    }

    pub fn apply(&self, before: &Content) -> Content {
        let mut content = before.clone();
        match self.kind {
            UpdateType::Write => {
                content.resize(content.len().max(self.offset + self.data.len()), 0);
                content[self.offset..self.offset + self.data.len()].copy_from_slice(&self.data);
            }
            UpdateType::Truncate => content.resize(self.length, 0),
            UpdateType::Extend => content.resize(content.len().max(self.length), 0),
            _ => {}
        }
        content
    }
}

#[derive(Clone, Debug, Default)]
pub struct Chunk {
    pub committed: Option<(Version, Content)>,
    pub pending: Option<(Pending, Content)>,
}

#[derive(Clone, Debug, Default)]
pub struct Store {
    pub chunks: BTreeMap<u8, Chunk>,
}

impl Store {
    pub fn local(&self, chunk: u8) -> LocalChunk {
        let chunk = self.chunks.get(&chunk).cloned().unwrap_or_default();
        LocalChunk { committed: chunk.committed.map(|(v, _)| v), pending: chunk.pending.map(|(p, _)| p) }
    }

    /// The newest content, for resending a pending version or filling a successor.
    pub fn newest(&self, chunk: u8) -> Content {
        let chunk = self.chunks.get(&chunk).cloned().unwrap_or_default();
        let pending = chunk.pending.filter(|(p, _)| !p.remove).map(|(_, content)| content);
        pending.or(chunk.committed.map(|(_, content)| content)).unwrap_or_default()
    }

    pub fn prepare(
        &mut self,
        chunk: u8,
        change: &Change,
        ver: ChunkVer,
        chain_ver: ChainVersion,
        replace: bool,
    ) -> Prepared {
        let entry = self.chunks.entry(chunk).or_default();
        let before = entry.committed.as_ref().filter(|_| !replace || change.kind == UpdateType::Remove);
        let content = change.apply(&before.map(|(_, c)| c.clone()).unwrap_or_default());
        let version = Version { ver, chain_ver, length: content.len() as u32, checksum: checksum(&content) };
        entry.pending = Some((Pending { version, remove: change.kind == UpdateType::Remove }, content));
        Prepared { length: version.length, checksum: version.checksum }
    }

    /// Returns the committed content, or nothing for a removal.
    pub fn commit(&mut self, chunk: u8, ver: ChunkVer, chain_ver: ChainVersion) -> Option<Content> {
        let entry = self.chunks.get_mut(&chunk).expect("commit of a known chunk");
        let (pending, content) = entry.pending.take().expect("commit of a pending version");
        assert_eq!(pending.version.ver, ver);
        if pending.remove {
            self.chunks.remove(&chunk);
            return None;
        }
        entry.committed = Some((Version { chain_ver, ..pending.version }, content.clone()));
        Some(content)
    }

    pub fn discard(&mut self, chunk: u8) {
        let entry = self.chunks.get_mut(&chunk).expect("discard of a known chunk");
        entry.pending.take().expect("discard of a pending version");
        if entry.committed.is_none() {
            self.chunks.remove(&chunk);
        }
    }
}

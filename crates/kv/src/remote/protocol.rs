//! Messages between a remote database's two halves. Between Valor processes of one release only.

use bytes::Bytes;
use tokio::time::Instant;
use valor_protocol::Method;
use valor_wire::Wire;

use crate::KvError;
use crate::batch::{CommitInfo, CommitRequest, Mutation, versionstamp};
use crate::key::{KeyRange, KeyValue};
use crate::overlay::Overlay;
use crate::transaction::write_ranges;

/// Number of the service.
pub const SERVICE_ID: u16 = 0x5601;
/// Name of the service.
pub const SERVICE: &str = "ValorKv";

/// An empty message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct Nothing {}

#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct BeginReq {
    /// The sender's name for itself.
    pub(crate) client: u64,
}

/// A version the server keeps readable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct ViewInfo {
    pub(crate) view: u64,
    pub(crate) version: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct EndReq {
    pub(crate) view: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct GetReq {
    pub(crate) view: u64,
    pub(crate) key: Bytes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct GetRsp {
    pub(crate) value: Option<Bytes>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct ScanReq {
    pub(crate) view: u64,
    pub(crate) begin: Bytes,
    pub(crate) end: Bytes,
    pub(crate) reverse: bool,
    pub(crate) limit: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct Entry {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct ScanRsp {
    pub(crate) entries: Vec<Entry>,
    pub(crate) more: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct Range {
    pub(crate) begin: Bytes,
    pub(crate) end: Bytes,
}

/// A write. `kind` says which fields count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct WriteMessage {
    pub(crate) kind: u8,
    /// The key, or the begin of the range.
    pub(crate) key: Bytes,
    /// The value, or the end of the range.
    pub(crate) value: Bytes,
    /// Place of the versionstamp.
    pub(crate) offset: u32,
}

const SET: u8 = 0;
const CLEAR: u8 = 1;
const CLEAR_RANGE: u8 = 2;
const SET_VERSIONSTAMPED: u8 = 3;

#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct CommitReq {
    /// View to end. Must be one that the server still holds.
    pub(crate) view: u64,
    /// A name by which the sender can keep this commit out later. Counts as read.
    pub(crate) fence: u64,
    pub(crate) read_version: Option<u64>,
    pub(crate) read_conflicts: Vec<Range>,
    pub(crate) write_conflicts: Vec<Range>,
    pub(crate) writes: Vec<WriteMessage>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct CommitRsp {
    pub(crate) version: u64,
}

/// Keeps a commit out that has not arrived yet; one that has is over when this is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub(crate) struct FenceReq {
    pub(crate) fence: u64,
}

impl FenceReq {
    /// What a commit reads, and its fence writes. The keys hold nothing.
    pub(crate) fn range(&self) -> KeyRange {
        KeyRange::single(&[b"\xff/fence/", &self.fence.to_be_bytes()[..]].concat())
    }
}

macro_rules! methods {
    ($($marker:ident = $id:literal $name:literal ($req:ty) -> $rsp:ty;)*) => {$(
        pub(crate) struct $marker;
        impl Method for $marker {
            const SERVICE_ID: u16 = SERVICE_ID;
            const SERVICE: &'static str = SERVICE;
            const ID: u16 = $id;
            const NAME: &'static str = $name;
            type Req = $req;
            type Rsp = $rsp;
        }
    )*};
}

methods! {
    Begin = 1 "begin" (BeginReq) -> ViewInfo;
    End = 2 "end" (EndReq) -> Nothing;
    Get = 3 "get" (GetReq) -> GetRsp;
    Scan = 4 "scan" (ScanReq) -> ScanRsp;
    Commit = 5 "commit" (CommitReq) -> CommitRsp;
    Fence = 6 "fence" (FenceReq) -> Nothing;
}

impl From<KeyValue> for Entry {
    fn from(entry: KeyValue) -> Self {
        Entry { key: entry.key, value: entry.value }
    }
}

impl From<Entry> for KeyValue {
    fn from(entry: Entry) -> Self {
        KeyValue { key: entry.key, value: entry.value }
    }
}

impl From<KeyRange> for Range {
    fn from(range: KeyRange) -> Self {
        Range { begin: range.begin, end: range.end }
    }
}

impl From<Mutation> for WriteMessage {
    fn from(mutation: Mutation) -> Self {
        let (kind, key, value, offset) = match mutation {
            Mutation::Set { key, value } => (SET, key, value, 0),
            Mutation::Clear { key } => (CLEAR, key, Bytes::new(), 0),
            Mutation::ClearRange(range) => (CLEAR_RANGE, range.begin, range.end, 0),
            Mutation::SetVersionstamped { key, value, offset } => (SET_VERSIONSTAMPED, key, value, offset),
        };
        // Offsets lie within a value, whose length is bounded far below.
        WriteMessage { kind, key, value, offset: offset as u32 }
    }
}

impl CommitReq {
    pub(crate) fn new(request: CommitRequest, view: u64, fence: u64) -> Self {
        CommitReq {
            view,
            fence,
            read_version: request.read_version,
            read_conflicts: request.read_conflicts.into_iter().map(Range::from).collect(),
            write_conflicts: request.write_conflicts.into_iter().map(Range::from).collect(),
            writes: request.mutations.into_iter().map(WriteMessage::from).collect(),
        }
    }

    /// Checks what another process sent and brings it into the form that commits have.
    ///
    /// `ends` is the time from which on it must not take effect.
    pub(crate) fn check(self, ends: Option<Instant>) -> Result<CommitRequest, KvError> {
        use crate::key::{MAX_TRANSACTION, check_stamped, check_value, check_writable, coalesce};
        let mut overlay = Overlay::default();
        let mut size = 0;
        for write in self.writes {
            let WriteMessage { kind, key, value, offset } = write;
            size += key.len() + value.len();
            match kind {
                SET => {
                    check_writable(&key)?;
                    check_value(&value)?;
                    overlay.set(key, value);
                }
                CLEAR => {
                    check_writable(&key)?;
                    overlay.clear(key);
                }
                CLEAR_RANGE => overlay.clear_range(checked(key, value)?),
                SET_VERSIONSTAMPED => {
                    check_stamped(&key, &value, offset as usize)?;
                    overlay.set_stamped(key, value, offset as usize);
                }
                other => return Err(KvError::illegal(format!("unknown kind of write {other}"))),
            }
        }
        let ranges = |ranges: Vec<Range>| -> Result<Vec<KeyRange>, KvError> {
            ranges.into_iter().map(|range| checked(range.begin, range.end)).collect()
        };
        let (mut read_conflicts, write_conflicts) =
            (ranges(self.read_conflicts)?, ranges(self.write_conflicts)?);
        size += read_conflicts.iter().chain(&write_conflicts).map(KeyRange::size).sum::<usize>();
        // The sender counted less: it had not added the written keys to the conflict ranges, two ends for each.
        if size > 4 * MAX_TRANSACTION {
            return Err(KvError::TooLarge { what: "transaction", size, limit: 4 * MAX_TRANSACTION });
        }
        if self.fence != 0 {
            read_conflicts.push(FenceReq { fence: self.fence }.range());
        }
        let mutations = overlay.mutations();
        Ok(CommitRequest {
            read_version: self.read_version,
            ends,
            read_conflicts: coalesce(read_conflicts),
            write_conflicts: write_ranges(&mutations, write_conflicts),
            mutations,
        })
    }
}

fn checked(begin: Bytes, end: Bytes) -> Result<KeyRange, KvError> {
    crate::key::check_range(&begin, &end)?;
    Ok(KeyRange { begin, end })
}

impl CommitRsp {
    pub(crate) fn info(&self) -> CommitInfo {
        CommitInfo { version: self.version, versionstamp: Some(versionstamp(self.version)) }
    }
}

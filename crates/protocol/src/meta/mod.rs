//! The metadata service's types (`src/fbs/meta/Common.h`, `Schema.h`).

mod rpc;
mod valid;

pub use rpc::*;
pub use valid::Validate;

use crate::app::ClientId;
use crate::id::*;
use bstr::BString;
use valor_wire::{DecodeError, Decoder, Encoder, UtcTime, Uuid, Wire};

/// Longest file name in bytes.
pub const MAX_NAME_LENGTH: usize = 255;

macro_rules! flags {
    ($(#[$doc:meta])* $name:ident($int:ty); $($(#[$cdoc:meta])* $flag:ident = $value:expr;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Wire)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$cdoc])* pub const $flag: $name = $name($value);)*

            /// True if all bits of `other` are set.
            pub const fn contains(self, other: $name) -> bool {
                self.0 & other.0 == other.0
            }

            /// Both sets of bits.
            pub const fn with(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }

            /// Without the bits of `other`.
            pub const fn without(self, other: $name) -> $name {
                $name(self.0 & !other.0)
            }
        }

        impl std::ops::BitOr for $name {
            type Output = $name;
            fn bitor(self, other: $name) -> $name {
                self.with(other)
            }
        }
    };
}

flags! {
    /// Flags of open and create: Linux `O_*` bits of x86-64.
    OpenFlags(i32);
    /// Read only.
    RDONLY = 0;
    /// Write only.
    WRONLY = 0o1;
    /// Read and write.
    RDWR = 0o2;
    /// Create if missing.
    CREAT = 0o100;
    /// Fail if it exists.
    EXCL = 0o200;
    /// Empty the file.
    TRUNC = 0o1000;
    /// Writes go to the end.
    APPEND = 0o2000;
    /// Past the page cache.
    DIRECT = 0o40000;
    /// Must be a directory.
    DIRECTORY = 0o200000;
    /// The last symlink is not followed.
    NOFOLLOW = 0o400000;
}

impl OpenFlags {
    /// The access mode bits alone.
    pub const fn access_mode(self) -> OpenFlags {
        OpenFlags(self.0 & 0o3)
    }

    /// True if writing is asked for. Both mode bits set count as reading and writing.
    pub const fn writes(self) -> bool {
        self.access_mode().0 != Self::RDONLY.0
    }

    /// True if reading is asked for.
    pub const fn reads(self) -> bool {
        self.access_mode().0 != Self::WRONLY.0
    }
}

flags! {
    /// Flags of path lookups: Linux `AT_*` bits.
    AtFlags(i32);
    /// The last symlink is not followed, whatever else is set.
    SYMLINK_NOFOLLOW = 0x100;
    /// Remove a directory.
    REMOVEDIR = 0x200;
    /// The last symlink is followed.
    SYMLINK_FOLLOW = 0x400;
    /// No automount; without effect.
    NO_AUTOMOUNT = 0x800;
    /// The empty path means the parent.
    EMPTY_PATH = 0x1000;
}

impl AtFlags {
    /// True if the last component is followed when it is a symlink.
    pub const fn follows_last_symlink(self) -> bool {
        self.contains(Self::SYMLINK_FOLLOW) && !self.contains(Self::SYMLINK_NOFOLLOW)
    }
}

flags! {
    /// Inode flags: `FS_IOC_GETFLAGS` bits.
    IFlags(u32);
    /// The file's chunks go to the new chunk engine (`FS_SECRM_FL` reused).
    CHUNK_ENGINE = 0x1;
    /// Cannot be changed or removed.
    IMMUTABLE = 0x10;
    /// The directory has its own chain allocation counter (`FS_INDEX_FL` reused).
    CHAIN_ALLOCATION = 0x1000;
    /// Huge file.
    HUGE_FILE = 0x4_0000;
    /// All that may be set.
    SUPPORTED = 0x4_1011;
    /// Those that children inherit.
    INHERITED = 0x1001;
}

flags! {
    /// Flags of a file.
    FileFlags(u32);
    /// The file is known to have holes.
    HAS_HOLE = 1;
}

/// A name relative to a directory. No path = the parent inode itself; an absolute path starts at the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct PathAt {
    /// Where a relative path starts.
    pub parent: InodeId,
    /// The path.
    pub path: Option<BString>,
}

impl PathAt {
    /// An inode itself.
    pub fn inode(inode: InodeId) -> PathAt {
        PathAt { parent: inode, path: None }
    }

    /// A path below an inode.
    pub fn at(parent: InodeId, path: impl Into<BString>) -> PathAt {
        PathAt { parent, path: Some(path.into()) }
    }
}

/// An open file of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct SessionInfo {
    /// Client.
    pub client: ClientId,
    /// Random per open.
    pub session: Uuid,
}

/// Owner, group, permission bits and flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct Acl {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits (07777).
    pub perm: u32,
    /// Flags.
    pub iflags: IFlags,
}

/// No chains chosen yet. One byte without meaning on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Empty;

impl Wire for Empty {
    const MIN_SIZE: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        0u8.encode(out);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        // C++ sends a byte of uninitialised memory.
        u8::decode(input).map(|_| Empty)
    }
}

/// Order of a range of chains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Wire)]
#[repr(u8)]
pub enum Shuffle {
    /// Ascending.
    #[default]
    NoShuffle = 0,
    /// libstdc++'s `std::shuffle` with `mt19937_64`.
    StdShuffleMt19937 = 1,
}

/// `stripe_size` chains from `base_index` on, shuffled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct ChainRange {
    /// First index, counted from 1.
    pub base_index: u32,
    /// Order.
    pub shuffle: Shuffle,
    /// Seed of the order.
    pub seed: u64,
}

/// Chains one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct ChainList {
    /// Indexes, or chain ids when table id and version are 0.
    pub chain_indexes: Vec<u32>,
}

/// The chains of a layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Wire)]
#[wire(variant)]
pub enum Chains {
    /// Not chosen yet.
    Empty(Empty),
    /// A range of a table.
    ChainRange(ChainRange),
    /// A list.
    ChainList(ChainList),
}

impl Default for Chains {
    fn default() -> Self {
        Chains::Empty(Empty)
    }
}

/// Where a file's chunks are, or where the files of a directory will be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct Layout {
    /// Chain table.
    pub table_id: ChainTableId,
    /// Its version; 0 = newest.
    pub table_version: ChainTableVersion,
    /// Bytes per chunk, a power of two.
    pub chunk_size: u32,
    /// Chains per file.
    pub stripe_size: u32,
    /// Which chains.
    pub chains: Chains,
}

/// A file's own data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct File {
    /// Length in bytes as last recorded.
    pub length: u64,
    /// Raised when the file shrinks.
    pub truncate_ver: u64,
    /// Where its chunks are.
    pub layout: Layout,
    /// Flags.
    pub flags: FileFlags,
    /// Chains in use so far; 0 = all of the stripe.
    pub dyn_stripe: u32,
}

impl File {
    /// Length with the version it belongs to.
    pub fn versioned_length(&self) -> VersionedLength {
        VersionedLength { length: self.length, truncate_ver: self.truncate_ver }
    }
}

/// A directory's lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct Lock {
    /// Who holds it.
    pub client: ClientId,
}

/// A directory's own data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Wire)]
pub struct Directory {
    /// Directory it is in.
    pub parent: InodeId,
    /// Layout of new files.
    pub layout: Layout,
    /// Its name.
    pub name: BString,
    /// Counter of chain allocation; 0xffff_ffff = unset.
    pub chain_alloc_counter: u32,
    /// Lock.
    pub lock: Option<Lock>,
}

impl Default for Directory {
    fn default() -> Self {
        Directory {
            parent: InodeId::default(),
            layout: Layout::default(),
            name: BString::default(),
            chain_alloc_counter: u32::MAX,
            lock: None,
        }
    }
}

/// A symlink's own data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct Symlink {
    /// Where it points.
    pub target: BString,
}

/// What an inode is, with the data that depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Wire)]
#[wire(variant)]
pub enum InodeKind {
    /// Regular file.
    File(File),
    /// Directory.
    Directory(Directory),
    /// Symlink.
    Symlink(Symlink),
}

impl Default for InodeKind {
    fn default() -> Self {
        InodeKind::File(File::default())
    }
}

/// What a directory entry points to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Wire)]
#[repr(u8)]
pub enum InodeType {
    /// Regular file.
    #[default]
    File = 0,
    /// Directory.
    Directory = 1,
    /// Symlink.
    Symlink = 2,
}

/// Times an inode has before anyone sets them: 2023-06-01 00:00 +08:00, as in 3FS.
const DEFAULT_TIME: i64 = 1_685_548_800_000_000;

/// An inode without its number: the value kept under `INOD` + id.
#[derive(Clone, Debug, PartialEq, Wire)]
pub struct InodeData {
    /// What it is.
    pub r#type: InodeKind,
    /// Owner, group, permissions.
    pub acl: Acl,
    /// Hard links.
    pub nlink: u16,
    /// Last access.
    pub atime: UtcTime,
    /// Last change of the inode.
    pub ctime: UtcTime,
    /// Last change of the content.
    pub mtime: UtcTime,
}

impl Default for InodeData {
    fn default() -> Self {
        InodeData {
            r#type: InodeKind::default(),
            acl: Acl::default(),
            nlink: 1,
            atime: UtcTime(DEFAULT_TIME),
            ctime: UtcTime(DEFAULT_TIME),
            mtime: UtcTime(DEFAULT_TIME),
        }
    }
}

/// An inode.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct Inode {
    /// All but its number.
    #[wire(base)]
    pub data: InodeData,
    /// Its number.
    pub id: InodeId,
}

impl InodeData {
    /// The type alone.
    pub fn inode_type(&self) -> InodeType {
        match self.r#type {
            InodeKind::File(_) => InodeType::File,
            InodeKind::Directory(_) => InodeType::Directory,
            InodeKind::Symlink(_) => InodeType::Symlink,
        }
    }

    /// The file part, if it is a file.
    pub fn as_file(&self) -> Option<&File> {
        if let InodeKind::File(file) = &self.r#type { Some(file) } else { None }
    }

    /// The file part, if it is a file.
    pub fn as_file_mut(&mut self) -> Option<&mut File> {
        if let InodeKind::File(file) = &mut self.r#type { Some(file) } else { None }
    }

    /// The directory part, if it is a directory.
    pub fn as_directory(&self) -> Option<&Directory> {
        if let InodeKind::Directory(dir) = &self.r#type { Some(dir) } else { None }
    }

    /// The directory part, if it is a directory.
    pub fn as_directory_mut(&mut self) -> Option<&mut Directory> {
        if let InodeKind::Directory(dir) = &mut self.r#type { Some(dir) } else { None }
    }

    /// The symlink part, if it is a symlink.
    pub fn as_symlink(&self) -> Option<&Symlink> {
        if let InodeKind::Symlink(link) = &self.r#type { Some(link) } else { None }
    }
}

/// How an entry came to wait for garbage collection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct GcInfo {
    /// Who removed it.
    pub user: u32,
    /// Where it was.
    pub orig_path: BString,
}

/// A directory entry without its key: the value kept under `DENT` + parent + name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct DirEntryData {
    /// Inode.
    pub id: InodeId,
    /// What it is.
    pub r#type: InodeType,
    /// Copy of a directory's permissions; present for directories only.
    pub dir_acl: Option<Acl>,
    /// Uuid of the request that made it, to recognise repetitions.
    pub uuid: Uuid,
    /// Present below the garbage collector's directories.
    pub gc_info: Option<GcInfo>,
}

/// A directory entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct DirEntry {
    /// All but its key.
    #[wire(base)]
    pub data: DirEntryData,
    /// Directory.
    pub parent: InodeId,
    /// Name.
    pub name: BString,
}

/// A length and how often the file had shrunk when it was valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Wire)]
pub struct VersionedLength {
    /// Length in bytes.
    pub length: u64,
    /// Times the file had shrunk.
    pub truncate_ver: u64,
}

impl VersionedLength {
    /// Merges two hints: none if either is none, else the longer; the first when equal
    /// (`src/fbs/meta/Schema.h`, `mergeHint`).
    pub fn merge_hint(a: Option<VersionedLength>, b: Option<VersionedLength>) -> Option<VersionedLength> {
        let (a, b) = (a?, b?);
        Some(if a.length >= b.length { a } else { b })
    }
}

//! The servers that are compared: what there is, starting one as a process of its own, and ending it.

mod backend;
mod bare;
mod on_backend_rs;
mod on_fuser;
mod on_libfuse;
mod on_xfuse;
mod process;

pub use backend::{MEMORY_BYTES, MEMORY_FILE};
pub use on_libfuse::build as build_libfuse;
pub use on_libfuse::version as libfuse_version;
pub use process::{Running, ServeArgs, Setup, open_client, serve};

use crate::rows::{SAME_CPU, Section};
use on_libfuse::Options;
use on_xfuse::Settings;

/// Which of the two file systems a server serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Files {
    /// One file in memory, direct I/O.
    Memory,
    /// A tmpfs tree passed through.
    Tree,
}

/// A library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Library {
    Xfuse,
    Libfuse,
    Fuser,
    BackendRs,
    /// None: what the kernel alone takes. Not a peer.
    None,
}

impl Library {
    pub const PEERS: [Library; 3] = [Library::Libfuse, Library::Fuser, Library::BackendRs];

    pub fn name(self) -> &'static str {
        match self {
            Library::Xfuse => "xfuse",
            Library::Libfuse => "libfuse",
            Library::Fuser => "fuser",
            Library::BackendRs => "fuse-backend-rs",
            Library::None => "none",
        }
    }
}

/// A library in one of its modes.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    /// Name in tables, and how a server process is told what it is.
    pub name: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Xfuse(Settings),
    Libfuse { threads: usize, options: Options },
    Fuser { threads: usize, clone_fd: bool },
    BackendRs { threads: usize },
    Bare,
}

/// The mode in which xfuse chooses everything itself.
pub const AUTO: &str = "xfuse-auto";

/// The floor: a server that does nothing but read requests and write prepared answers.
pub const BARE: &str = "bare";

/// Points between the ends of the mix; only measured when asked for by name.
pub const MORE_VARIANTS: &[Variant] = &[
    Variant { name: "xfuse-a25", kind: Kind::Xfuse(Settings::CLASSIC.mix(0.25)) },
    Variant { name: "xfuse-a50", kind: Kind::Xfuse(Settings::CLASSIC.mix(0.5)) },
    Variant { name: "xfuse-a75", kind: Kind::Xfuse(Settings::CLASSIC.mix(0.75)) },
    Variant { name: "xfuse-uring-a25", kind: Kind::Xfuse(Settings::URING.mix(0.25)) },
    Variant { name: "xfuse-uring-a50", kind: Kind::Xfuse(Settings::URING.mix(0.5)) },
    Variant { name: "xfuse-uring-a75", kind: Kind::Xfuse(Settings::URING.mix(0.75)) },
];

/// All servers of an ordinary run. A further mode is one more line.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "xfuse-1", kind: Kind::Xfuse(Settings::CLASSIC.channels(1)) },
    Variant { name: "xfuse-n", kind: Kind::Xfuse(Settings::CLASSIC) },
    Variant { name: "xfuse-spin", kind: Kind::Xfuse(Settings::CLASSIC.mix(0.0)) },
    Variant { name: "xfuse-uring", kind: Kind::Xfuse(Settings::URING) },
    Variant { name: "xfuse-uring-spin", kind: Kind::Xfuse(Settings::URING.mix(0.0)) },
    Variant { name: "xfuse-sqpoll", kind: Kind::Xfuse(Settings::SQPOLL.mix(0.0)) },
    Variant { name: AUTO, kind: Kind::Xfuse(Settings::AUTO) },
    Variant { name: "libfuse-s", kind: Kind::Libfuse { threads: 1, options: Options::Plain } },
    Variant { name: "libfuse-mt", kind: Kind::Libfuse { threads: 0, options: Options::Plain } },
    Variant { name: "libfuse-clone", kind: Kind::Libfuse { threads: 0, options: Options::CloneFd } },
    Variant { name: "libfuse-splice", kind: Kind::Libfuse { threads: 0, options: Options::Splice } },
    Variant { name: "fuser-1", kind: Kind::Fuser { threads: 1, clone_fd: false } },
    Variant { name: "fuser-clone", kind: Kind::Fuser { threads: 4, clone_fd: true } },
    Variant { name: "fbrs-1", kind: Kind::BackendRs { threads: 1 } },
    Variant { name: "fbrs-4", kind: Kind::BackendRs { threads: 4 } },
    Variant { name: BARE, kind: Kind::Bare },
];

impl Variant {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        VARIANTS.iter().chain(MORE_VARIANTS).copied()
    }

    pub fn find(name: &str) -> Option<Self> {
        Self::all().find(|variant| variant.name == name)
    }

    pub fn library(&self) -> Library {
        match self.kind {
            Kind::Xfuse(_) => Library::Xfuse,
            Kind::Libfuse { .. } => Library::Libfuse,
            Kind::Fuser { .. } => Library::Fuser,
            Kind::BackendRs { .. } => Library::BackendRs,
            Kind::Bare => Library::None,
        }
    }

    /// Whether its threads choose their CPUs themselves, whatever the row asks for.
    pub fn pins_itself(&self) -> bool {
        matches!(self.kind, Kind::Xfuse(settings) if settings.is_uring())
    }

    /// Whether it uses io_uring if it may.
    pub fn wants_uring(&self) -> bool {
        self.pins_itself() || self.name == AUTO
    }

    /// Whether this mode can serve the file system given, and differs from others there.
    pub fn is_for(&self, files: Files) -> bool {
        match self.kind {
            // Splicing is only for data that is in files.
            Kind::Libfuse { options: Options::Splice, .. } => files == Files::Tree,
            Kind::Bare => files == Files::Memory,
            _ => true,
        }
    }

    /// Whether it takes part in a section: the floor is only of interest where nothing else adds to it.
    pub fn takes_part(&self, section: &Section) -> bool {
        self.is_for(section.files) && (self.name != BARE || section.title == SAME_CPU)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_library_is_there() {
        for variant in Variant::all() {
            assert_eq!(Variant::all().filter(|other| other.name == variant.name).count(), 1, "{variant:?}");
        }
        for library in Library::PEERS.into_iter().chain([Library::Xfuse]) {
            assert!(VARIANTS.iter().any(|variant| variant.library() == library), "{library:?}");
        }
    }
}

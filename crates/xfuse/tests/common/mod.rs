//! Shared by the tests that mount for real.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xfuse::{Filesystem, InitConfig, MountOptions, Session, Transport};

pub mod parameter;

#[path = "../../examples/memfs/fs.rs"]
pub mod memfs;

/// A mounted file system that is unmounted at the end of the test.
pub struct Mounted {
    pub session: Option<Session>,
    pub dir: TempDir,
}

/// Whether this machine lets the test mount; says so if not.
pub fn can_mount() -> bool {
    let ok = Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
    if !ok {
        eprintln!("skipped: needs root and /dev/fuse");
    }
    ok && (transport() == Transport::Classic || parameter::enable_uring())
}

/// The programs `uring` and `sqpoll` run the tests of the others through io_uring.
pub fn transport() -> Transport {
    let uring = ["uring", "sqpoll"].contains(&env!("CARGO_CRATE_NAME"));
    if uring { Transport::Uring } else { Transport::Classic }
}

fn sqpoll() -> bool {
    env!("CARGO_CRATE_NAME") == "sqpoll"
}

pub fn mount(fs: impl Filesystem) -> Mounted {
    mount_with(fs, 2)
}

pub fn mount_with(fs: impl Filesystem, channels: usize) -> Mounted {
    let dir = tempfile::tempdir().unwrap();
    let mut init = InitConfig::default();
    init.want |= memfs::wanted_flags();
    let options =
        MountOptions { fsname: "xfuse-test".into(), subtype: Some("xfuse".into()), ..Default::default() };
    let builder = Session::builder(fs).init(init).mount_options(options).channels(channels);
    let session = builder.transport(transport()).sqpoll(sqpoll()).mount(dir.path()).unwrap();
    let used = session.transport();
    assert_eq!((used.transport, used.sqpoll, &used.fallback), (transport(), sqpoll(), &None));
    Mounted { session: Some(session), dir }
}

impl Mounted {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn session(&self) -> &Session {
        self.session.as_ref().unwrap()
    }

    /// Unmounts and checks that nothing stays in use. (For a moment, a process that another test of this program is just
    /// starting may hold copies of all descriptors.)
    pub fn close(mut self) {
        let session = self.session.take().unwrap();
        session.unmount().unwrap();
        eventually("the end of the session", || session.is_ended());
        session.wait();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // A failed test may have left requests hanging.
            let _ = session.abort();
            let _ = session.unmount();
        }
    }
}

/// Waits for a condition that another thread brings about.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

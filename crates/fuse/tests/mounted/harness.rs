//! Mounts for tests.

use crate::cluster::{Direct, Services};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use valor_config::Live;
use valor_env::Env;
use valor_fuse::{Config, FuseFs, MountParams, mount};
use xfuse::Session;

/// A mount over services that other mounts may share.
pub struct Mount {
    pub services: Arc<Services>,
    pub config: Arc<Live<Config>>,
    pub calls: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    session: Option<Session>,
    dir: TempDir,
}

/// Whether this machine lets the test mount; says so if not.
pub fn can_mount() -> bool {
    let ok = Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
    if !ok {
        eprintln!("skipped: needs root and /dev/fuse");
    }
    ok
}

/// Settings without caches in the kernel, so that two mounts see each other at once.
pub fn uncached() -> Config {
    Config {
        attr_timeout: 0.0,
        entry_timeout: 0.0,
        negative_timeout: 0.0,
        symlink_timeout: 0.0,
        ..Config::default()
    }
}

/// Mounts a new file system.
pub fn new() -> Mount {
    on(Services::start(), 1, Config::default())
}

/// Mounts as client `number`.
pub fn on(services: Arc<Services>, number: u8, config: Config) -> Mount {
    let dir = tempfile::tempdir().unwrap();
    let params = MountParams {
        mount_point: dir.path().to_str().unwrap().to_owned(),
        cluster_id: "test".into(),
        token: String::new(),
        allow_other: true,
    };
    let config = Live::new(config);
    let direct = Direct::new(services.clone(), number);
    let calls = direct.calls();
    let fs = FuseFs::new(Env::real(), direct, config.clone(), params);
    Mount { services, config, calls, session: Some(mount(fs).unwrap()), dir }
}

impl Mount {
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn session(&self) -> &Session {
        self.session.as_ref().unwrap()
    }

    /// How often a call was made.
    pub fn called(&self, name: &str) -> u64 {
        self.calls.lock().get(name).copied().unwrap_or(0)
    }

    /// Unmounts and waits until everything is flushed.
    pub fn close(mut self) {
        let session = self.session.take().unwrap();
        session.unmount().unwrap();
        eventually("the end of the session", || session.is_ended());
        session.wait();
        assert_eq!(session.stats().snapshot().panics, 0);
    }
}

impl Drop for Mount {
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
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("timed out waiting for {what}");
}

/// The errno of a failure.
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

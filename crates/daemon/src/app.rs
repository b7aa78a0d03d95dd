//! Node-local files of a two-phase application: `--app_cfg`, `--launcher_cfg`, `--cfg` (3FS
//! `src/common/app/TwoPhaseApplication.h`).

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use valor_config::{ConfigError, Live, Part, Tree};
use valor_protocol::app::ReleaseVersion;

/// Identity of a server (3FS `src/core/app/ServerAppConfig.h`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppConfig {
    /// Node id, unique in the cluster.
    pub node_id: u32,
    /// Whether node id 0 is accepted.
    pub allow_empty_node_id: bool,
}

impl Default for AppConfig {
    fn default() -> Self {
        Self { node_id: 0, allow_empty_node_id: true }
    }
}

impl Tree for AppConfig {
    fn check(&self) -> Result<(), String> {
        if self.node_id == 0 && !self.allow_empty_node_id {
            return Err("`node_id` must be set to a positive number".into());
        }
        Ok(())
    }
}

/// How a process finds its cluster (3FS `src/core/app/ServerLauncherConfig.h`, `src/fuse/FuseLauncherConfig.h`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LauncherConfig {
    /// Name of the cluster, equal in all its processes.
    pub cluster_id: String,
    /// Where mgmtd is.
    pub mgmtd_client: MgmtdAddresses,
    /// The key-value store (mgmtd only).
    pub kv_engine: KvEngineConfig,
    /// Mount point (mount only).
    pub mountpoint: String,
    /// Let other users in (mount only).
    pub allow_other: bool,
    /// File with the mount's token (mount only).
    pub token_file: String,
}

/// The one key of the launcher's `mgmtd_client` section that has an effect.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MgmtdAddresses {
    /// For example `["TCP://127.0.0.1:8000"]`.
    pub mgmtd_server_addresses: Vec<String>,
}

/// Which key-value store mgmtd and metadata servers use (3FS `src/fdb/HybridKvEngineConfig.h`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KvEngineConfig {
    /// Socket on which another process of this machine serves its store, `kv.sock` in the directory of `valor kv`: several
    /// servers share it. Empty: a store in this process, in its own directory.
    pub socket: PathBuf,
}

impl KvEngineConfig {
    /// Keys below this section that C++ 3FS has and that have no effect here.
    pub const IGNORED: &'static [&'static str] = &["use_memkv", "fdb"];

    /// The socket, unless the store is the process's own.
    pub fn shared(&self) -> Option<&Path> {
        (!self.socket.as_os_str().is_empty()).then_some(&self.socket)
    }
}

impl Default for LauncherConfig {
    fn default() -> Self {
        Self {
            cluster_id: String::new(),
            mgmtd_client: MgmtdAddresses::default(),
            kv_engine: KvEngineConfig::default(),
            mountpoint: String::new(),
            allow_other: true,
            token_file: String::new(),
        }
    }
}

impl Tree for LauncherConfig {
    const IGNORED: &'static [&'static str] =
        &["ib_devices", "client", "allow_dev_version", "fdb", "use_memkv", "mgmtd_client.*"];
    const PARTS: &'static [Part] = &[Part::lists("kv_engine", &[], KvEngineConfig::IGNORED)];

    fn check(&self) -> Result<(), String> {
        if self.cluster_id.len() >= 32 {
            return Err(format!("`cluster_id` \"{}\" must be shorter than 32 characters", self.cluster_id));
        }
        Ok(())
    }
}

/// Why a process could not start, with the file to look at.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// A file has a wrong key or value.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Applies a configuration file on top of `base`; no path leaves it as it is.
///
/// # Errors
/// [`StartError`], naming the file and the key.
pub fn read_config_file<T: Tree>(base: T, path: Option<&Path>) -> Result<T, StartError> {
    let Some(path) = path else { return Ok(base) };
    let text =
        std::fs::read_to_string(path).map_err(|source| StartError::Read { path: path.to_owned(), source })?;
    let live = Live::new(base);
    live.apply(&text, &path.display().to_string())?;
    Ok((*live.get()).clone())
}

/// The version that nodes and clients report, in 3FS's form; the date part orders releases.
#[must_use]
pub fn release_version() -> ReleaseVersion {
    ReleaseVersion { build_time_in_seconds: 20_261_123 << 32, ..ReleaseVersion::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launcher_files_of_3fs_are_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta_main_launcher.toml");
        let text = "allow_dev_version = true\ncluster_id = \"stage\"\n[ib_devices]\nfork_safe = true\n\
                    [kv_engine]\nuse_memkv = false\n[kv_engine.fdb]\nclusterFile = \"\"\n\
                    [mgmtd_client]\nmgmtd_server_addresses = [\"RDMA://10.0.0.1:8000\"]\nenable_auto_refresh = true\n";
        std::fs::write(&path, text).unwrap();
        let config = read_config_file(LauncherConfig::default(), Some(&path)).unwrap();
        assert_eq!((config.cluster_id.as_str(), config.kv_engine.shared()), ("stage", None));
        assert_eq!(config.mgmtd_client.mgmtd_server_addresses, ["RDMA://10.0.0.1:8000"]);
    }

    #[test]
    fn errors_name_the_file() {
        let missing = read_config_file(AppConfig::default(), Some(Path::new("/no/app.toml"))).unwrap_err();
        assert!(missing.to_string().starts_with("/no/app.toml: "), "{missing}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.toml");
        std::fs::write(&path, "node_ib = 3\n").unwrap();
        let error = read_config_file(AppConfig::default(), Some(&path)).unwrap_err().to_string();
        assert!(error.contains("app.toml: unknown key `node_ib`; did you mean `node_id`?"), "{error}");
    }
}

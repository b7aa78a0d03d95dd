//! The file in each target's directory that says which target it is.
//!
//! Our own form of 3FS's `target.toml`: the keys that mean the same have its names.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use valor_env::disk::{Disk, OpenOptions};

/// Name of the file.
pub const FILE: &str = "target.toml";
/// Directory of the chunk engine beside it.
pub const ENGINE: &str = "chunks";
/// The layout described here.
const LAYOUT: u32 = 1;
/// Longest file read; a longer one is none of ours.
const MAX_LEN: u64 = 64 << 10;

/// Which target a directory holds.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TargetIdentity {
    /// Version of the directory's layout.
    pub valor_layout: u32,
    /// Target, also the directory's name.
    pub target_id: u64,
    /// Chain it was created for.
    pub chain_id: u32,
}

/// Why a directory cannot be used as a target.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Reading or writing failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// The file says something else than it must.
    #[error("{}: {reason}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl TargetIdentity {
    /// A new target's identity.
    pub fn new(target_id: u64, chain_id: u32) -> Self {
        TargetIdentity { valor_layout: LAYOUT, target_id, chain_id }
    }

    /// Reads a target directory's identity; none if it holds no target.
    ///
    /// # Errors
    /// [`IdentityError`], also for a file that does not fit the directory's name.
    pub async fn read(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Option<TargetIdentity>, IdentityError> {
        let path = dir.join(FILE);
        let failed = |source| IdentityError::Io { path: path.clone(), source };
        let file = match disk.open(&path, OpenOptions::READ).await {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let size = file.size().await.map_err(failed)?.min(MAX_LEN);
        let bytes = file.read_at(0, size as usize).await.map_err(failed)?;
        let text = String::from_utf8_lossy(&bytes);
        let invalid = |reason: String| IdentityError::Invalid { path: path.clone(), reason };
        let identity: TargetIdentity =
            toml::from_str(&text).map_err(|error| invalid(error.message().to_owned()))?;
        if identity.valor_layout != LAYOUT {
            return Err(invalid(format!("layout {} is not known to this version", identity.valor_layout)));
        }
        if dir.file_name().is_none_or(|name| *name != *identity.target_id.to_string()) {
            return Err(invalid(format!("names target {}", identity.target_id)));
        }
        Ok(Some(identity))
    }

    /// Writes it, so that it is there wholly or not at all.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub async fn write(&self, disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), IdentityError> {
        let path = dir.join(FILE);
        let temporary = dir.join(format!("{FILE}.new"));
        let failed = |source| IdentityError::Io { path: path.clone(), source };
        let text = toml::to_string(self).map_err(|error| failed(io::Error::other(error)))?;
        let options = OpenOptions { truncate: true, ..OpenOptions::CREATE };
        let file = disk.open(&temporary, options).await.map_err(failed)?;
        file.write_at(0, &[Bytes::from(text)]).await.map_err(failed)?;
        file.sync_data().await.map_err(failed)?;
        disk.rename(&temporary, &path).await.map_err(failed)?;
        disk.sync_dir(dir).await.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Arc<dyn Disk> {
        valor_env::Env::real().disk()
    }

    #[tokio::test]
    async fn written_and_read() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("42");
        let disk = disk();
        disk.create_dir_all(&dir).await.unwrap();
        assert_eq!(TargetIdentity::read(&disk, &dir).await.unwrap(), None);
        assert_eq!(TargetIdentity::read(&disk, &dir.join("nothing")).await.unwrap(), None);
        let identity = TargetIdentity::new(42, 7);
        identity.write(&disk, &dir).await.unwrap();
        assert_eq!(TargetIdentity::read(&disk, &dir).await.unwrap(), Some(identity));
        std::fs::write(dir.join("file"), "x").unwrap();
        assert_eq!(TargetIdentity::read(&disk, &dir.join("file")).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("43");
        std::fs::create_dir(&dir).unwrap();
        let disk = disk();
        TargetIdentity::new(42, 7).write(&disk, &dir).await.unwrap();
        assert!(TargetIdentity::read(&disk, &dir).await.unwrap_err().to_string().contains("names target 42"));
        for text in ["", "target_id = 43", "valor_layout = 9\ntarget_id = 43\nchain_id = 1", "\u{0}"] {
            std::fs::write(dir.join(FILE), text).unwrap();
            assert!(TargetIdentity::read(&disk, &dir).await.is_err(), "{text:?}");
        }
    }
}

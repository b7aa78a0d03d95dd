//! `valor mount`: the FUSE process.

use crate::overrides::Overrides;
use std::path::{Path, PathBuf};
use xfuse::mount::{clear_stale, mounts};

/// File system type of our mounts and of C++ 3FS's.
pub const FUSE_KIND: &str = "fuse.hf3fs";

/// A mount point that is ready to be mounted on: made if missing, freed if a dead daemon left a mount there.
///
/// # Errors
/// A message that says what is wrong with it and how to clear it.
pub fn prepare_mount_point(path: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    clear(path)?;
    std::fs::create_dir_all(path).map_err(|error| format!("mount point {shown}: {error}"))?;
    let real = path.canonicalize().map_err(|error| format!("mount point {shown}: {error}"))?;
    if !real.is_dir() {
        return Err(format!("mount point {shown} is not a directory"));
    }
    let list = mounts().map_err(|error| format!("cannot read the list of mounts: {error}"))?;
    if let Some(mount) = list.iter().rev().find(|mount| mount.mount_point == real) {
        return Err(format!(
            "mount point {shown} is busy: {} ({}) is mounted there; stop it with `valor down` or `umount {shown}`, or \
             choose another directory",
            mount.source.display(),
            mount.fstype
        ));
    }
    Ok(real)
}

/// Clears every mount of ours whose daemon is dead.
///
/// # Errors
/// When one cannot be unmounted.
pub fn clear_stale_mounts() -> Result<(), String> {
    let list = mounts().map_err(|error| format!("cannot read the list of mounts: {error}"))?;
    for mount in list.iter().filter(|mount| mount.fstype == FUSE_KIND) {
        clear(&mount.mount_point)?;
    }
    Ok(())
}

fn clear(path: &Path) -> Result<(), String> {
    let cleared = clear_stale(path).or_else(|error| match error.kind() {
        // What is not there is not mounted on.
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Ok(0),
        _ => Err(format!(
            "{0}: a dead mount is in the way and cannot be cleared ({error}); try `umount -l {0}` as root",
            path.display()
        )),
    })?;
    if cleared > 0 {
        eprintln!("{}: cleared a mount whose daemon was gone", path.display());
    }
    Ok(())
}

#[derive(clap::Args, Debug)]
pub struct MountArgs {
    pub mount_point: Option<PathBuf>,
}
pub async fn run(_args: MountArgs, _overrides: Overrides) -> Result<(), String> {
    Err("x".into())
}

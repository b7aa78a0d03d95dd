//! Storage targets on file systems of their own: a sparse file, a loop device, ext4 or xfs.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One loop-mounted disk.
#[derive(Debug, Clone)]
pub struct LoopDisk {
    image: PathBuf,
    mount_point: PathBuf,
}

impl LoopDisk {
    /// Disk `number` under `dir`: `<dir>/disk-N.img` mounted on `<dir>/disk-N`.
    pub fn new(dir: &Path, number: u32) -> Self {
        Self {
            image: dir.join(format!("disk-{number}.img")),
            mount_point: dir.join(format!("disk-{number}")),
        }
    }

    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Makes the image and its file system if they are not there yet, and mounts it.
    ///
    /// # Errors
    /// When a command is missing or fails; the message holds what it said.
    pub fn attach(&self, bytes: u64) -> io::Result<()> {
        std::fs::create_dir_all(&self.mount_point)?;
        if self.is_mounted()? {
            return Ok(());
        }
        if !self.image.exists() {
            let unfinished = self.image.with_extension("new");
            std::fs::File::create(&unfinished)?.set_len(bytes)?;
            make_file_system(&unfinished)?;
            std::fs::rename(&unfinished, &self.image)?;
        }
        run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&self.image).arg(&self.mount_point))
    }

    /// Unmounts it; the loop device goes with the mount.
    ///
    /// # Errors
    /// When `umount` fails, for example because a process still has a file open.
    pub fn detach(&self) -> io::Result<()> {
        if self.is_mounted()? { run(Command::new("umount").arg(&self.mount_point)) } else { Ok(()) }
    }

    fn is_mounted(&self) -> io::Result<bool> {
        let Ok(real) = self.mount_point.canonicalize() else { return Ok(false) };
        Ok(xfuse::mount::mounts()?.iter().any(|mount| mount.mount_point == real))
    }
}

fn make_file_system(image: &Path) -> io::Result<()> {
    let xfs = run(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(image));
    match xfs {
        Err(_) => run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1"])
            .arg(image)),
        done => done,
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let what = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            error.kind(),
            format!("`{what}` is not installed (Debian: apt-get install xfsprogs e2fsprogs mount)"),
        ),
        kind => io::Error::new(kind, format!("{what}: {error}")),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{what} failed ({}): {}", output.status, said.trim())))
}

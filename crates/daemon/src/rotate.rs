//! Log files that rotate by size, so that a long-lived process cannot fill its disk.

use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A log file `NAME` with up to `keep` older ones `NAME.1` (newest) .. `NAME.keep`.
pub struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    state: Mutex<Open>,
}

struct Open {
    file: File,
    bytes: u64,
}

impl RotatingFile {
    /// Opens `path` for appending.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path, max_bytes: u64, keep: u32) -> io::Result<Arc<Self>> {
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(Arc::new(Self { path: path.to_owned(), max_bytes, keep, state: Mutex::new(Open { file, bytes }) }))
    }

    fn older(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    fn rotate(&self, open: &mut Open) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            match std::fs::rename(self.older(number), self.older(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.keep > 0 {
            std::fs::rename(&self.path, self.older(1))?;
        }
        open.file = append(&self.path)?;
        open.bytes = 0;
        Ok(())
    }

    fn write_record(&self, record: &[u8]) -> io::Result<()> {
        let mut open = self.state.lock();
        if open.bytes > 0 && open.bytes + record.len() as u64 > self.max_bytes {
            self.rotate(&mut open)?;
        }
        open.file.write_all(record)?;
        open.bytes += record.len() as u64;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A handle that tracing writes whole records through.
#[derive(Clone)]
pub struct LogWriter(pub Arc<RotatingFile>);

impl Write for LogWriter {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0.write_record(record)?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_by_size_and_keeps_a_bounded_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = LogWriter(RotatingFile::open(&path, 100, 2).unwrap());
        for number in 0..20 {
            log.write_all(format!("{number:039}\n").as_bytes()).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["x.log", "x.log.1", "x.log.2"]);
        let newest = std::fs::read_to_string(&path).unwrap();
        assert!(newest.ends_with(&format!("{:039}\n", 19)), "{newest}");
    }
}

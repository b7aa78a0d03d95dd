//! What the tree's own files say about themselves.
//!
//! The tree (crate `lsm-tree`) checks every block it reads, but neither the manifest that lists its tables nor whole tables. This
//! module does both, with the checksums the tree stores: `current` names the manifest `v<N>` and its XXH3-128, the manifest
//! lists the tables and theirs. Format of lsm-tree 3.1.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use super::{corrupt, io_error};
use crate::KvError;

/// File that names the manifest.
const CURRENT: &str = "current";
/// Version number, checksum, checksum type.
const CURRENT_LEN: usize = 8 + 16 + 1;
const TABLES_DIR: &str = "tables";

/// A table the manifest lists.
#[derive(Debug)]
pub(crate) struct TableFile {
    pub(crate) path: PathBuf,
    checksum: u128,
}

/// Whether there is a tree in `dir`.
pub(crate) fn exists(dir: &Path) -> Result<bool, KvError> {
    let path = dir.join(CURRENT);
    path.try_exists().map_err(|error| io_error(&path, &error))
}

/// Checks the manifest of the tree in `dir` and returns the tables it lists.
pub(crate) fn read(dir: &Path) -> Result<Vec<TableFile>, KvError> {
    let current = dir.join(CURRENT);
    let bytes = read_file(&current)?;
    if bytes.len() != CURRENT_LEN || bytes[CURRENT_LEN - 1] != 0 {
        return Err(corrupt(&current, Some(0), "not a version number with its checksum"));
    }
    let mut fields = &bytes[..];
    let number = fields.get_u64_le();
    let checksum = fields.get_u128_le();
    let path = dir.join(format!("v{number}"));
    let manifest = match read_file(&path) {
        Err(KvError::Corrupt { .. }) => {
            let reason = format!("names {}, which is missing", path.display());
            return Err(corrupt(&current, Some(0), &reason));
        }
        other => other?,
    };
    if xxh3_128(&manifest) != checksum {
        return Err(corrupt(&path, None, "manifest does not match its checksum"));
    }
    tables_section(&path)
        .and_then(|section| parse_tables(dir, section))
        .ok_or_else(|| corrupt(&path, None, "table list cannot be parsed"))
}

fn tables_section(path: &Path) -> Option<Bytes> {
    let archive = sfa::Reader::new(path).ok()?;
    let mut section = Vec::new();
    archive.toc().section(b"tables")?.buf_reader(path).ok()?.read_to_end(&mut section).ok()?;
    Some(section.into())
}

/// Levels of runs of tables: a count before each, and per table its number, checksum type, checksum and a base for the
/// sequence numbers of its entries.
fn parse_tables(dir: &Path, mut section: Bytes) -> Option<Vec<TableFile>> {
    let mut tables = Vec::new();
    for _level in 0..section.try_get_u8().ok()? {
        for _run in 0..section.try_get_u8().ok()? {
            for _table in 0..section.try_get_u32_le().ok()? {
                let number = section.try_get_u64_le().ok()?;
                let _checksum_type = section.try_get_u8().ok()?;
                let checksum = section.try_get_u128_le().ok()?;
                let _base = section.try_get_u64_le().ok()?;
                tables.push(TableFile { path: dir.join(TABLES_DIR).join(number.to_string()), checksum });
            }
        }
    }
    Some(tables)
}

impl TableFile {
    /// Reads the file and compares its checksum.
    pub(crate) fn verify(&self) -> Result<(), KvError> {
        let hash = || {
            let mut file = File::open(&self.path)?;
            let mut hasher = Xxh3Default::new();
            let mut buffer = vec![0; 256 << 10];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(hasher.digest128()),
                    len => hasher.update(&buffer[..len]),
                }
            }
        };
        match hash() {
            Ok(checksum) if checksum == self.checksum => Ok(()),
            Ok(_) => Err(corrupt(&self.path, None, "table does not match its checksum")),
            Err(error) => Err(read_error(&self.path, &error)),
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, KvError> {
    std::fs::read(path).map_err(|error| read_error(path, &error))
}

/// A file of ours that cannot be read because it is missing is damage, anything else is the system's failure.
fn read_error(path: &Path, error: &io::Error) -> KvError {
    match error.kind() {
        io::ErrorKind::NotFound => corrupt(path, None, "file is missing"),
        _ => io_error(path, error),
    }
}

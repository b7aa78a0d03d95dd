//! The mount table of this process.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Device number as `major:minor`.
    pub device: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// File system type, such as `fuse.hf3fs`.
    pub fstype: String,
    /// Source, such as `hf3fs.cluster`.
    pub source: OsString,
}

impl MountEntry {
    /// Whether it is a FUSE file system.
    pub fn is_fuse(&self) -> bool {
        self.fstype == "fuse" || self.fstype == "fuseblk" || self.fstype.starts_with("fuse.")
    }
}

/// All mounts visible to this process, in mount order.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-")?;
    Some(MountEntry {
        device: String::from_utf8(fields.get(2)?.to_vec()).ok()?,
        mount_point: OsString::from_vec(unescape(fields.get(4)?)).into(),
        fstype: String::from_utf8(fields.get(separator + 1)?.to_vec()).ok()?,
        source: OsString::from_vec(unescape(fields.get(separator + 2)?)),
    })
}

/// Blank, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] if first == b'\\' => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_optional_fields_and_escapes() {
        let line =
            b"36 35 0:52 / /mnt/a\\040b rw,nosuid shared:1 master:2 - fuse.hf3fs hf3fs.test rw,user_id=0";
        let entry = parse_line(line).unwrap();
        assert_eq!(entry.device, "0:52");
        assert_eq!(entry.mount_point, PathBuf::from("/mnt/a b"));
        assert_eq!((entry.fstype.as_str(), entry.source.to_str()), ("fuse.hf3fs", Some("hf3fs.test")));
        assert!(entry.is_fuse());
        assert_eq!(parse_line(b"36 35 0:52"), None);
        assert_eq!(unescape(b"\\"), b"\\");
    }
}

//! Names and attributes.

use crate::harness::{self, can_mount, errno};
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

#[test]
fn a_tree_of_everything() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    fs::create_dir_all(m.path("a/b")).unwrap();
    fs::write(m.path("a/f"), b"hello").unwrap();
    assert_eq!(fs::read(m.path("a/f")).unwrap(), b"hello");
    fs::hard_link(m.path("a/f"), m.path("a/b/g")).unwrap();
    symlink("../f", m.path("a/b/l")).unwrap();
    assert_eq!(fs::read(m.path("a/b/l")).unwrap(), b"hello");
    let meta = fs::metadata(m.path("a/b/g")).unwrap();
    assert_eq!((meta.len(), meta.nlink(), meta.blksize(), meta.blocks()), (5, 2, crate::cluster::CHUNK, 1));
    assert_eq!(errno(fs::remove_dir(m.path("a"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(m.path("a/b"))), libc::EISDIR);
    assert_eq!(errno(fs::remove_dir(m.path("a/f"))), libc::ENOTDIR);
    assert_eq!(errno(fs::metadata(m.path("x"))), libc::ENOENT);
    assert_eq!(errno(fs::create_dir(m.path("a"))), libc::EEXIST);
    assert_eq!(errno(fs::write(m.path("n".repeat(256).as_str()), b"")), libc::ENAMETOOLONG);
    fs::rename(m.path("a/f"), m.path("top")).unwrap();
    fs::rename(m.path("top"), m.path("a/b/g")).unwrap();
    assert_eq!(errno(fs::rename(m.path("a"), m.path("a/b/inside"))), libc::EINVAL);
    fs::remove_dir_all(m.path("a")).unwrap();
    assert!(!m.path("a").exists());
    let space = rustix::fs::statvfs(m.root()).unwrap();
    assert_eq!((space.f_bsize, space.f_blocks, space.f_bfree, space.f_namemax), (2 << 20, 51200, 30720, 255));
    m.close();
}

#[test]
fn the_mount_shows_who_it_is() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let table = xfuse::mount::mounts().unwrap();
    let entry = table.iter().find(|entry| entry.mount_point == m.root()).unwrap();
    assert_eq!((entry.fstype.as_str(), entry.source.to_str()), ("fuse.hf3fs", Some("hf3fs.test")));
    assert_eq!(m.session().negotiated().max_write, 1 << 20);
    assert_eq!(fs::metadata(m.root()).unwrap().ino(), 1);
    m.close();
}

#[test]
fn attributes_change() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let path = m.path("f");
    fs::write(&path, b"x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
    let time = UNIX_EPOCH + Duration::new(1_000_000_007, 0);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_times(fs::FileTimes::new().set_accessed(time).set_modified(time)).unwrap();
    drop(file);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o600, 12, 34));
    assert_eq!((meta.mtime(), meta.atime()), (1_000_000_007, 1_000_000_007));
    m.close();
}

#[test]
fn set_id_bits_do_not_survive_writers_and_new_owners() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let mode = |name: &str| fs::metadata(m.path(name)).unwrap().mode() & 0o7777;
    let set = |name: &str, mode| fs::set_permissions(m.path(name), fs::Permissions::from_mode(mode)).unwrap();
    fs::create_dir(m.path("d")).unwrap();
    set("d", 0o777);
    fs::write(m.path("d/f"), b"x").unwrap();
    set("d/f", 0o6777);
    std::os::unix::fs::chown(m.path("d/f"), Some(1000), Some(1000)).unwrap();
    assert_eq!(mode("d/f"), 0o777, "chown");
    set("d/f", 0o6777);
    let path = m.path("d/f");
    let status = std::process::Command::new("setpriv")
        .args(["--reuid=1001", "--regid=1001", "--clear-groups", "sh", "-c", "echo y >> \"$0\""])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(mode("d/f"), 0o777, "written by somebody else");
    m.close();
}

#[test]
fn special_files_are_refused_clearly() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let fifo = rustix::fs::mknodat(CWD, m.path("fifo"), FileType::Fifo, Mode::from(0o600), 0);
    assert_eq!(fifo.unwrap_err(), rustix::io::Errno::OPNOTSUPP);
    rustix::fs::mknodat(CWD, m.path("file"), FileType::RegularFile, Mode::from(0o600), 0).unwrap();
    assert_eq!(fs::metadata(m.path("file")).unwrap().len(), 0);
    m.close();
}

#[test]
fn rename_flags_are_atomic_or_refused() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    fs::write(m.path("a"), b"1").unwrap();
    fs::write(m.path("b"), b"2").unwrap();
    let rename = |flags| rustix::fs::renameat_with(CWD, m.path("a"), CWD, m.path("b"), flags);
    assert_eq!(rename(RenameFlags::NOREPLACE).unwrap_err(), rustix::io::Errno::EXIST);
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!(
        (fs::read(m.path("a")).unwrap(), fs::read(m.path("b")).unwrap()),
        (b"2".to_vec(), b"1".to_vec())
    );
    assert_eq!(rename(RenameFlags::WHITEOUT).unwrap_err(), rustix::io::Errno::INVAL);
    fs::remove_file(m.path("b")).unwrap();
    rename(RenameFlags::NOREPLACE).unwrap();
    assert_eq!(fs::read(m.path("b")).unwrap(), b"2");
    m.services.no_extensions.store(true, std::sync::atomic::Ordering::Relaxed);
    fs::write(m.path("a"), b"1").unwrap();
    assert_eq!(rename(RenameFlags::EXCHANGE).unwrap_err(), rustix::io::Errno::INVAL);
    m.close();
}

#[test]
fn exchanged_directories_know_their_new_parents() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    fs::create_dir_all(m.path("a/x")).unwrap();
    fs::create_dir_all(m.path("b/y")).unwrap();
    let ino = |path: &str| fs::metadata(m.path(path)).unwrap().ino();
    let (x, y, a, b) = (ino("a/x"), ino("b/y"), ino("a"), ino("b"));
    rustix::fs::renameat_with(CWD, m.path("a/x"), CWD, m.path("b/y"), RenameFlags::EXCHANGE).unwrap();
    for (dir, parent) in [("a/x", a), ("b/y", b)] {
        let fd = rustix::fs::open(m.path(dir), OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut entries = rustix::fs::Dir::new(fd).unwrap();
        let dots = entries.find(|entry| entry.as_ref().unwrap().file_name() == c"..").unwrap();
        assert_eq!(dots.unwrap().ino(), parent, "{dir}");
    }
    assert_eq!((ino("a/x"), ino("b/y")), (y, x));
    m.close();
}

#[test]
fn large_directories_and_their_dots() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    fs::create_dir_all(m.path("p/d")).unwrap();
    let expected: Vec<String> = (0..1000).map(|i| format!("f{i:04}")).collect();
    for name in &expected {
        File::create(m.path("p/d").join(name)).unwrap();
    }
    let list = |path| {
        let fd = rustix::fs::open(path, OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut dir = rustix::fs::Dir::new(fd).unwrap();
        let mut all = Vec::new();
        for pass in 0..2 {
            let names: Vec<(String, u64)> = dir
                .by_ref()
                .map(|entry| entry.unwrap())
                .map(|entry| (entry.file_name().to_str().unwrap().to_owned(), entry.ino()))
                .collect();
            if pass == 0 {
                all = names;
                dir.rewind();
            } else {
                assert_eq!(names, all, "a rewound directory lists the same");
            }
        }
        all
    };
    let names = list(m.path("p/d"));
    let ino = |path: &str| fs::metadata(m.path(path)).unwrap().ino();
    assert_eq!(names[..2], [(".".into(), ino("p/d")), ("..".into(), ino("p"))]);
    assert!(names[2..].iter().map(|(name, _)| name).eq(&expected));
    assert!(m.called("list") >= 40, "listed in pages");
    let root = list(m.root().to_path_buf());
    let names: Vec<&str> = root.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [".", "..", "p", "3fs-virt"]);
    m.close();
}

#[test]
fn read_only_mounts_change_nothing() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    fs::write(m.path("f"), b"x").unwrap();
    m.config.hot_update("readonly = true", "test").unwrap();
    assert_eq!(errno(fs::write(m.path("f"), b"y")), libc::EROFS);
    assert_eq!(errno(fs::write(m.path("g"), b"y")), libc::EROFS);
    assert_eq!(errno(fs::create_dir(m.path("d"))), libc::EROFS);
    assert_eq!(errno(fs::remove_file(m.path("f"))), libc::EROFS);
    assert_eq!(errno(fs::rename(m.path("f"), m.path("h"))), libc::EROFS);
    assert_eq!(errno(symlink("f", m.path("l"))), libc::EROFS);
    assert_eq!(fs::read(m.path("f")).unwrap(), b"x");
    m.close();
}

#[test]
fn directory_locks_are_extended_attributes() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let other = harness::on(m.services.clone(), 2, harness::uncached());
    let dir = m.path("d");
    fs::create_dir(&dir).unwrap();
    let set = |path: &std::path::Path, value: &[u8]| {
        rustix::fs::setxattr(path, "hf3fs.lock", value, rustix::fs::XattrFlags::empty())
            .map_err(|e| e.raw_os_error())
    };
    let mut text = [0; 256];
    let unlocked = rustix::fs::getxattr(&dir, "hf3fs.lock", &mut text[..]);
    assert_eq!(unlocked.unwrap_err(), rustix::io::Errno::NODATA);
    assert_eq!(set(&dir, b"what"), Err(libc::EINVAL));
    set(&dir, b"try_lock").unwrap();
    assert_eq!(set(&other.path("d"), b"try_lock"), Err(libc::ENOLCK));
    assert_eq!(errno(fs::write(other.path("d/f"), b"")), libc::ENOLCK);
    fs::write(m.path("d/f"), b"").unwrap();
    let len = rustix::fs::getxattr(&dir, "hf3fs.lock", &mut text[..]).unwrap();
    let shown = std::str::from_utf8(&text[..len]).unwrap();
    assert!(shown.contains("\"uuid\":\"01010101-") && shown.contains("\"hostname\":\"host1\""), "{shown}");
    let len = rustix::fs::listxattr(&dir, &mut text[..]).unwrap();
    assert_eq!(&text[..len], b"hf3fs.lock\0");
    rustix::fs::removexattr(&dir, "hf3fs.lock").unwrap();
    fs::write(other.path("d/g"), b"").unwrap();
    let user = rustix::fs::setxattr(&dir, "user.x", b"1", rustix::fs::XattrFlags::empty());
    assert_eq!(user.unwrap_err(), rustix::io::Errno::OPNOTSUPP);
    other.close();
    m.close();
}

//! The virtual tree and the ioctls.

use crate::cluster::CHUNK;
use crate::harness::{self, Mount, can_mount, errno};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use valor_protocol::InodeId;

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_tree_is_there() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let virt = m.path("3fs-virt");
    let meta = |name: &str| fs::symlink_metadata(virt.join(name)).unwrap();
    let about = |name: &str| (meta(name).ino(), meta(name).mode());
    let dir = libc::S_IFDIR;
    assert_eq!(about("."), (0xffff_ffff_ffff_fffe, dir | 0o555));
    assert_eq!(about("rm-rf"), (0xffff_ffff_ffff_fffd, dir | 0o777));
    assert_eq!(about("iovs"), (0xffff_ffff_8000_0000, dir | 0o777));
    assert_eq!(about("get-conf"), (0xffff_ffff_0000_0000, dir | 0o555));
    assert_eq!(about("set-conf"), (0xffff_fffe_8000_0000, dir | 0o777));
    assert_eq!(names(&virt), ["rm-rf", "iovs", "get-conf", "set-conf"]);
    assert!(names(&virt.join("rm-rf")).is_empty() && names(&virt.join("iovs")).is_empty());
    assert_eq!(names(&virt.join("get-conf")).len(), 17);
    assert!(!virt.join("other").exists());
    assert_eq!(errno(fs::create_dir(virt.join("x"))), libc::EPERM);
    assert_eq!(errno(fs::write(virt.join("rm-rf/x"), b"")), libc::EPERM);
    assert_eq!(errno(fs::remove_dir(virt.join("iovs"))), libc::EPERM);
    assert_eq!(errno(symlink("/dev/shm/x", virt.join("iovs/key"))), libc::EOPNOTSUPP);
    m.close();
}

#[test]
fn settings_are_shown_and_changed() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let get = |key: &str| fs::read_link(m.path("3fs-virt/get-conf").join(key)).unwrap().into_os_string();
    let set = |key: &str, value: &str| symlink(value, m.path("3fs-virt/set-conf").join(key));
    assert_eq!(get("usr.attr_timeout"), "30");
    assert_eq!(get("sys.periodic_sync.interval"), "30s");
    set("sys.periodic_sync.enable", "false").unwrap();
    assert!(!m.config.get().periodic_sync.enable);
    set("usr.symlink_timeout", "0").unwrap();
    set("usr.readonly", "true").unwrap();
    assert_eq!(errno(fs::write(m.path("f"), b"")), libc::EROFS);
    set("usr.readonly", "false").unwrap();
    fs::write(m.path("f"), b"").unwrap();
    assert_eq!(errno(set("usr.nothing", "1")), libc::EINVAL);
    assert_eq!(errno(set("usr.readonly", "maybe")), libc::EINVAL);
    assert_eq!(errno(fs::read_link(m.path("3fs-virt/get-conf/usr.nothing"))), libc::EINVAL);
    m.close();
}

#[test]
fn trees_are_removed_at_once() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let make = |name: &str| {
        fs::create_dir_all(m.path(name).join("x/y")).unwrap();
        fs::write(m.path(name).join("x/f"), b"1").unwrap();
    };
    for name in ["a", "b", "c/d"] {
        make(name);
    }
    let rm = m.path("3fs-virt/rm-rf");
    symlink(m.path("a/"), rm.join("1")).unwrap();
    assert!(!m.path("a").exists());
    fs::rename(m.path("b"), rm.join("2")).unwrap();
    assert!(!m.path("b").exists());
    symlink(m.path("c/../c/d/x"), rm.join("3")).unwrap();
    assert_eq!(names(&m.path("c/d")), Vec::<String>::new());
    assert_eq!(errno(symlink("/etc", rm.join("4"))), libc::EINVAL);
    assert_eq!(errno(symlink(m.root(), rm.join("5"))), libc::EINVAL);
    assert_eq!(errno(symlink(m.path("nothing"), rm.join("6"))), libc::ENOENT);
    let ln = |target: &str| {
        let mut command = Command::new("ln");
        command.args(["-s", target]).arg(rm.join("7")).current_dir(m.root());
        command.stderr(std::process::Stdio::null()).status().unwrap().success()
    };
    assert!(!ln("c"), "a relative path is refused");
    assert!(m.path("c").exists());
    assert!(ln(m.path("c").to_str().unwrap()));
    assert!(!m.path("c").exists());
    m.close();
}

#[test]
fn a_symlink_can_move() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("f"), b"moved").unwrap();
    symlink(format!("mv:{}", m.path("f").display()), m.path("d/g")).unwrap();
    harness::eventually("the real entry", || fs::read(m.path("d/g")).is_ok_and(|text| text == b"moved"));
    // The kernel is told of it by another thread.
    harness::eventually("the old name to be gone", || !m.path("f").exists());
    assert_eq!(errno(symlink("mv:/etc/passwd", m.path("d/h"))), libc::EINVAL);
    m.close();
}

/// Calls an ioctl with a buffer that it reads or writes.
fn ioctl(file: &File, command: u32, buffer: &mut [u8]) -> std::io::Result<i32> {
    // SAFETY: each command reads or writes at most the number of bytes its number says, which callers provide.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), u64::from(command) as _, buffer.as_mut_ptr()) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

fn number(file: &File, command: u32) -> u32 {
    let mut bytes = [0; 4];
    ioctl(file, command, &mut bytes).unwrap();
    u32::from_ne_bytes(bytes)
}

fn name_field(name: &str, len: usize) -> Vec<u8> {
    let mut field = name.as_bytes().to_vec();
    field.resize(len, 0);
    field
}

fn move_argument(m: &Mount, from: (&str, &str), to: (&str, &str), to_trash: bool) -> Vec<u8> {
    let ino = |dir: &str| fs::metadata(m.path(dir)).unwrap().ino().to_ne_bytes();
    let flag = [u8::from(to_trash), 0, 0, 0, 0, 0, 0, 0];
    [&ino(from.0)[..], &name_field(from.1, 256), &ino(to.0), &name_field(to.1, 256), &flag].concat()
}

#[test]
fn ioctls_tell_about_the_mount() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    for file in [
        File::create(m.path("f")).unwrap(),
        File::open(m.root()).unwrap(),
        File::open(m.path("3fs-virt")).unwrap(),
    ] {
        let mut name = [9; 32];
        ioctl(&file, 0x8020_6800, &mut name).unwrap();
        assert_eq!(&name, &name_field("test", 32)[..]);
        assert_eq!(number(&file, 0x8004_6801), m.root().as_os_str().len() as u32);
        assert_eq!(number(&file, 0x8004_6802), 0x8f3f_5fff);
        assert_eq!(number(&file, 0x8004_6803), 1);
        assert_eq!(errno(ioctl(&file, 0x8004_68ff, &mut [0; 4])), libc::EINVAL);
    }
    m.close();
}

#[test]
fn ioctls_change_names() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    fs::create_dir_all(m.path("a/sub/deep")).unwrap();
    fs::create_dir(m.path("b")).unwrap();
    fs::write(m.path("f"), b"1").unwrap();
    let dir = File::open(m.path("a")).unwrap();
    ioctl(&dir, 0x4218_680e, &mut move_argument(&m, ("a", "sub"), ("b", "moved"), false)).unwrap();
    assert!(m.path("b/moved/deep").exists() && !m.path("a/sub").exists());
    let wrong_dir = ioctl(&dir, 0x4218_680e, &mut move_argument(&m, ("b", "moved"), ("a", "x"), false));
    assert_eq!(errno(wrong_dir), libc::EINVAL);
    let file = File::open(m.path("f")).unwrap();
    let parent = fs::metadata(m.path("b")).unwrap().ino();
    let mut link = [&parent.to_ne_bytes()[..], &name_field("linked", 256)].concat();
    ioctl(&file, 0x4108_680c, &mut link).unwrap();
    assert_eq!(fs::read(m.path("b/linked")).unwrap(), b"1");
    let parent = File::open(m.path("b")).unwrap();
    let remove = |recursive: u8| {
        let ino = parent.metadata().unwrap().ino().to_ne_bytes();
        let mut argument = [&ino[..], &name_field("moved", 256), &[recursive, 0, 0, 0, 0, 0, 0, 0]].concat();
        ioctl(&parent, 0x4110_680f, &mut argument)
    };
    assert_eq!(errno(remove(0)), libc::ENOTEMPTY);
    remove(1).unwrap();
    assert_eq!(names(&m.path("b")), ["linked"]);
    ioctl(&dir, 0x8004_680a, &mut [0; 4]).unwrap();
    assert!(fs::symlink_metadata(m.path("a/x")).is_err());
    drop((dir, file, parent));
    m.close();
}

#[test]
fn ioctls_on_data_and_flags() {
    if !can_mount() {
        return;
    }
    let m = harness::new();
    let file = File::options().read(true).write(true).create(true).truncate(true).open(m.path("f")).unwrap();
    file.write_all_at(&vec![7; 4 * CHUNK as usize], 0).unwrap();
    ioctl(&file, 0x8004_680b, &mut [0; 4]).unwrap();
    let id = InodeId(file.metadata().unwrap().ino());
    let punch = |start: u64, end: u64| {
        let mut argument = vec![0; 16016];
        argument[..4].copy_from_slice(&1u32.to_ne_bytes());
        argument[16..24].copy_from_slice(&start.to_ne_bytes());
        argument[8016..8024].copy_from_slice(&end.to_ne_bytes());
        ioctl(&file, 0x7e90_680d, &mut argument)
    };
    punch(CHUNK, 3 * CHUNK).unwrap();
    assert_eq!(m.services.storage.present(id), [0, 3]);
    assert_eq!(errno(punch(1, CHUNK)), libc::EINVAL);
    let mut flags = [0; 8];
    ioctl(&file, 0x8008_6601, &mut flags).unwrap();
    flags[0] |= 0x10;
    ioctl(&file, 0x4008_6602, &mut flags).unwrap();
    assert_eq!(errno(fs::remove_file(m.path("f"))), libc::EPERM, "immutable");
    let mut xattr = [0; 28];
    ioctl(&file, 0x801c_581f, &mut xattr).unwrap();
    assert_eq!(xattr[0] & 8, 8);
    drop(file);
    m.close();
}

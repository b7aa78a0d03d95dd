//! The passthrough example on a directory of the local disk.

mod common;

use common::{can_mount, eventually};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use xfuse::{Session, Transport};

#[path = "../examples/passthrough/fs.rs"]
mod passthrough;

fn through(transport: Transport) {
    let (source, mountpoint) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(source.path().join("before"), b"was there").unwrap();
    let fs_impl = passthrough::Passthrough::new(source.path()).unwrap();
    let session = Session::builder(fs_impl).transport(transport).mount(mountpoint.path()).unwrap();
    let (top, below) = (mountpoint.path(), source.path());
    assert_eq!(fs::read(top.join("before")).unwrap(), b"was there");
    let data: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    fs::create_dir(top.join("d")).unwrap();
    fs::write(top.join("d/f"), &data).unwrap();
    assert!(fs::read(top.join("d/f")).unwrap() == data);
    assert!(fs::read(below.join("d/f")).unwrap() == data);
    fs::set_permissions(top.join("d/f"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(below.join("d/f")).unwrap().mode() & 0o777, 0o640);
    fs::File::options().write(true).open(top.join("d/f")).unwrap().set_len(10).unwrap();
    assert_eq!(fs::metadata(below.join("d/f")).unwrap().len(), 10);
    symlink("f", top.join("d/s")).unwrap();
    assert_eq!(fs::read_link(below.join("d/s")).unwrap().to_str(), Some("f"));
    fs::hard_link(top.join("d/f"), top.join("d/g")).unwrap();
    assert_eq!(fs::metadata(top.join("d/g")).unwrap().nlink(), 2);
    fs::rename(top.join("d/g"), top.join("h")).unwrap();
    let mut names: Vec<_> = fs::read_dir(top.join("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["f", "s"]);
    for number in 0..500 {
        fs::write(top.join(format!("d/many-{number:03}")), b"").unwrap();
    }
    assert_eq!(fs::read_dir(top.join("d")).unwrap().count(), 502);
    assert_eq!(fs::remove_dir(top.join("d")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    fs::remove_dir_all(top.join("d")).unwrap();
    fs::remove_file(top.join("h")).unwrap();
    assert!(!below.join("d").exists() && !below.join("h").exists());
    let stats = session.stats().snapshot();
    assert_eq!((stats.panics, stats.malformed, stats.refused_replies, stats.bad_errnos), (0, 0, 0, 0));
    session.unmount().unwrap();
    eventually("the end of the session", || session.is_ended());
    session.wait();
}

#[test]
fn shows_and_changes_the_directory_below() {
    if can_mount() {
        through(Transport::Classic);
    }
}

//! What programs expect of a file system, on a real mount: one cluster, one test per promise of SEMANTICS.md.

mod harness;

use harness::{Cluster, Random, run};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A test in a directory of its own.
type Test = fn(&Path);

/// The tests share a cluster, since starting one takes longer than each of them.
#[test]
fn promises_hold_on_a_mount() {
    let mut cluster = Cluster::start(&["--chunk-size", "256KB"]);
    let tests: &[(&str, Test)] = &[
        ("names", names),
        ("readdir", readdir_lists_everything_with_dots),
        ("links", links),
        ("rename", rename_replaces_and_keeps_trees),
        ("rename_flags", rename_flags),
        ("holes", holes_read_zero_and_seek),
        ("fallocate", fallocate_extends_and_punches),
        ("truncate", truncate_shrinks_and_grows),
        ("unlinked", an_open_file_outlives_its_name),
        ("append", append_writes_at_the_end),
        ("modes", modes_and_times),
        ("special", special_files_are_refused),
        ("errors", errors_are_the_usual_ones),
        ("large", large_and_unaligned_io),
        ("statfs", statfs_shows_space),
        ("sync_dir", directories_can_be_synced),
        ("virtual", virtual_tree),
    ];
    for (name, test) in tests {
        println!("--- {name}");
        let dir = cluster.mount().join(name);
        fs::create_dir(&dir).expect("directory of a test");
        test(&dir);
    }
    cluster.down();
}

fn names(dir: &Path) {
    for name in ["a", "with blank", "ümlaut", "日本語", "tab\tnew\nline", "-dash", "..."] {
        fs::write(dir.join(name), name).expect("create");
        assert_eq!(fs::read_to_string(dir.join(name)).expect("read"), name);
    }
    let raw = dir.join(std::ffi::OsStr::from_bytes(b"not \xff utf-8"));
    fs::write(&raw, "x").expect("create");
    assert!(raw.exists());
    let long = "n".repeat(255);
    fs::write(dir.join(&long), "x").expect("255 bytes are allowed");
    let error = fs::write(dir.join("n".repeat(256)), "x").expect_err("256 are not");
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
}

fn readdir_lists_everything_with_dots(dir: &Path) {
    let count = 1500;
    for number in 0..count {
        File::create(dir.join(format!("file-{number:05}"))).expect("create");
    }
    let mut names: Vec<_> =
        fs::read_dir(dir).expect("readdir").map(|entry| entry.expect("entry").file_name()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    let all = run("ls", &["-f", dir.to_str().expect("path")]);
    let dots: Vec<&str> = all.lines().filter(|line| *line == "." || *line == "..").collect();
    assert_eq!(dots.len(), 2, "readdir gives . and ..");
    run("rm", &["-r", dir.to_str().expect("path")]);
    assert!(!dir.exists());
}

fn links(dir: &Path) {
    fs::write(dir.join("a"), "data").expect("write");
    fs::hard_link(dir.join("a"), dir.join("b")).expect("link");
    assert_eq!(fs::metadata(dir.join("b")).expect("stat").nlink(), 2);
    fs::remove_file(dir.join("a")).expect("unlink");
    assert_eq!(fs::read_to_string(dir.join("b")).expect("read"), "data");
    symlink("b", dir.join("s")).expect("symlink");
    assert_eq!(fs::read_link(dir.join("s")).expect("readlink"), PathBuf::from("b"));
    assert_eq!(fs::read_to_string(dir.join("s")).expect("read through a link"), "data");
    symlink("loop", dir.join("loop")).expect("symlink");
    let error = fs::read(dir.join("loop")).expect_err("a loop");
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
}

fn rename_replaces_and_keeps_trees(dir: &Path) {
    fs::write(dir.join("a"), "a").expect("write");
    fs::write(dir.join("b"), "b").expect("write");
    fs::rename(dir.join("a"), dir.join("b")).expect("rename");
    assert_eq!(fs::read_to_string(dir.join("b")).expect("read"), "a");
    assert!(!dir.join("a").exists());
    fs::create_dir_all(dir.join("x/y/z")).expect("mkdir");
    fs::write(dir.join("x/y/z/f"), "f").expect("write");
    let error = fs::rename(dir.join("x"), dir.join("x/y/x")).expect_err("into itself");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    fs::rename(dir.join("x/y"), dir.join("moved")).expect("rename a tree");
    assert_eq!(fs::read_to_string(dir.join("moved/z/f")).expect("read"), "f");
    fs::create_dir(dir.join("full")).expect("mkdir");
    fs::write(dir.join("full/f"), "").expect("write");
    let error = fs::rename(dir.join("x"), dir.join("full")).expect_err("onto a full directory");
    assert_eq!(error.raw_os_error(), Some(libc::ENOTEMPTY));
}

fn rename2(from: &Path, to: &Path, flags: u32) -> i32 {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let (from, to) = (text(from), text(to));
    // SAFETY: both strings live through the call.
    let result =
        unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    if result == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) }
}

fn rename_flags(dir: &Path) {
    let (a, b, c) = (dir.join("a"), dir.join("b"), dir.join("c"));
    fs::write(&a, "a").expect("write");
    fs::create_dir(&b).expect("mkdir");
    assert_eq!(rename2(&a, &b, libc::RENAME_NOREPLACE), libc::EEXIST);
    assert_eq!(rename2(&a, &c, libc::RENAME_NOREPLACE), 0);
    assert_eq!(rename2(&c, &b, libc::RENAME_EXCHANGE), 0);
    assert_eq!(fs::read_to_string(&b).expect("b is the file now"), "a");
    assert!(c.is_dir());
    assert_eq!(rename2(&a, &b, libc::RENAME_EXCHANGE), libc::ENOENT);
}

fn seek(file: &File, offset: i64, whence: i32) -> Result<i64, i32> {
    // SAFETY: plain system call on an open descriptor.
    let result = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    if result < 0 { Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(-1)) } else { Ok(result) }
}

fn holes_read_zero_and_seek(dir: &Path) {
    let file = File::create_new(dir.join("f")).expect("create");
    file.write_all_at(b"tail", 3 << 20).expect("write");
    file.sync_all().expect("fsync");
    assert_eq!(file.metadata().expect("stat").len(), (3 << 20) + 4);
    let data = fs::read(dir.join("f")).expect("read");
    assert!(data[..3 << 20].iter().all(|byte| *byte == 0));
    assert_eq!(&data[3 << 20..], b"tail");
    let file = File::open(dir.join("f")).expect("open");
    let place = seek(&file, 0, libc::SEEK_DATA).expect("data exists");
    assert!(place > 0 && place <= 3 << 20, "first data at {place}");
    assert_eq!(seek(&file, 0, libc::SEEK_HOLE), Ok(0));
    assert_eq!(seek(&file, 3 << 20, libc::SEEK_HOLE), Ok((3 << 20) + 4));
    assert_eq!(seek(&file, 4 << 20, libc::SEEK_DATA), Err(libc::ENXIO));
}

fn fallocate_extends_and_punches(dir: &Path) {
    let call = |file: &File, mode: i32, offset: i64, len: i64| {
        // SAFETY: plain system call on an open descriptor.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) };
        if result == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) }
    };
    let path = dir.join("f");
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).expect("create");
    assert_eq!(call(&file, 0, 0, 1_000_000), 0);
    assert_eq!(file.metadata().expect("stat").len(), 1_000_000);
    file.write_all_at(&vec![7; 1_000_000], 0).expect("write");
    assert_eq!(call(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 1000, 700_000), 0);
    let data = fs::read(&path).expect("read");
    assert!(data[..1000].iter().all(|b| *b == 7) && data[701_000..].iter().all(|b| *b == 7));
    assert!(data[1000..701_000].iter().all(|b| *b == 0));
    assert_eq!(call(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096), libc::EOPNOTSUPP);
    assert_eq!(file.metadata().expect("stat").len(), 1_000_000);
}

fn truncate_shrinks_and_grows(dir: &Path) {
    let path = dir.join("f");
    fs::write(&path, vec![9; 700_000]).expect("write");
    let file = OpenOptions::new().write(true).open(&path).expect("open");
    for len in [600_001_u64, 262_144, 5, 0, 10, 400_000] {
        file.set_len(len).expect("truncate");
        assert_eq!(fs::metadata(&path).expect("stat").len(), len);
    }
    let data = fs::read(&path).expect("read");
    assert!(data.len() == 400_000 && data.iter().all(|byte| *byte == 0), "what was cut off stays cut off");
    let file = File::create(&path).expect("O_TRUNC");
    assert_eq!(file.metadata().expect("stat").len(), 0);
}

fn an_open_file_outlives_its_name(dir: &Path) {
    let path = dir.join("f");
    let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).expect("create");
    file.write_all(b"before").expect("write");
    fs::remove_file(&path).expect("unlink");
    file.write_all(b" and after").expect("write");
    file.sync_all().expect("fsync");
    let mut buffer = [0; 16];
    file.read_exact_at(&mut buffer, 0).expect("read");
    assert_eq!(&buffer, b"before and after");
    assert!(!path.exists());
}

fn append_writes_at_the_end(dir: &Path) {
    let path = dir.join("log");
    for number in 0..20 {
        let mut file = OpenOptions::new().create(true).append(true).open(&path).expect("open");
        writeln!(file, "line {number}").expect("append");
    }
    let text = fs::read_to_string(&path).expect("read");
    assert_eq!(text.lines().count(), 20);
    assert!(text.ends_with("line 19\n"));
}

fn modes_and_times(dir: &Path) {
    let path = dir.join("f");
    fs::write(&path, "x").expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).expect("chmod");
    assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, 0o4751);
    let times = fs::FileTimes::new()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000))
        .set_accessed(std::time::UNIX_EPOCH + std::time::Duration::from_secs(900_000_000));
    File::options().write(true).open(&path).expect("open").set_times(times).expect("utimes");
    let meta = fs::metadata(&path).expect("stat");
    assert_eq!((meta.mtime(), meta.atime()), (1_000_000_000, 900_000_000));
    std::os::unix::fs::chown(&path, Some(12), Some(34)).expect("chown");
    let meta = fs::metadata(&path).expect("stat");
    assert_eq!((meta.uid(), meta.gid()), (12, 34));
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    let script = format!("cat {0} 2>&1; echo x > {0}", path.display());
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=4242", "--regid=4242", "--clear-groups", "sh", "-c", &script])
        .output()
        .expect("setpriv");
    assert!(!output.status.success(), "another user can neither read nor write");
    assert_eq!(fs::read_to_string(&path).expect("read"), "x");
}

fn special_files_are_refused(dir: &Path) {
    for kind in [libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR] {
        let path = CString::new(dir.join("node").as_os_str().as_bytes()).expect("no NUL");
        // SAFETY: the string lives through the call.
        let result = unsafe { libc::mknod(path.as_ptr(), kind | 0o644, 0) };
        let errno = std::io::Error::last_os_error().raw_os_error();
        assert!(result == -1 && matches!(errno, Some(libc::EOPNOTSUPP | libc::EPERM)), "{kind:o}: {errno:?}");
        assert!(!dir.join("node").exists());
    }
}

fn errors_are_the_usual_ones(dir: &Path) {
    fs::write(dir.join("f"), "x").expect("write");
    fs::create_dir(dir.join("d")).expect("mkdir");
    fs::write(dir.join("d/x"), "x").expect("write");
    let errno = |result: std::io::Result<()>| result.expect_err("must fail").raw_os_error();
    assert_eq!(fs::read(dir.join("none")).expect_err("missing").kind(), ErrorKind::NotFound);
    assert_eq!(errno(fs::create_dir(dir.join("d"))), Some(libc::EEXIST));
    assert_eq!(errno(fs::create_dir(dir.join("no/d"))), Some(libc::ENOENT));
    assert_eq!(errno(fs::create_dir(dir.join("f/d"))), Some(libc::ENOTDIR));
    assert_eq!(errno(fs::remove_dir(dir.join("d"))), Some(libc::ENOTEMPTY));
    assert_eq!(errno(fs::remove_dir(dir.join("f"))), Some(libc::ENOTDIR));
    assert_eq!(errno(fs::remove_file(dir.join("d"))), Some(libc::EISDIR));
    assert_eq!(errno(File::create_new(dir.join("f")).map(drop)), Some(libc::EEXIST));
    assert_eq!(errno(File::create(dir.join("d")).map(drop)), Some(libc::EISDIR));
    assert_eq!(errno(fs::rename(dir.join("f"), dir.join("d"))), Some(libc::EISDIR));
    assert_eq!(errno(fs::rename(dir.join("d"), dir.join("f"))), Some(libc::ENOTDIR));
}

fn large_and_unaligned_io(dir: &Path) {
    let mut random = Random::new("large_and_unaligned_io");
    let data = random.bytes(7_654_321);
    let path = dir.join("f");
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).expect("create");
    let mut offset = 0;
    while offset < data.len() {
        let len = (1 + random.below(900_000) as usize).min(data.len() - offset);
        file.write_all_at(&data[offset..offset + len], offset as u64).expect("write");
        offset += len;
    }
    let mut back = vec![0; data.len()];
    file.read_exact_at(&mut back, 0).expect("read before close");
    assert!(back == data);
    drop(file);
    for _ in 0..100 {
        let start = random.below(data.len() as u64) as usize;
        let len = (random.below(600_000) as usize).min(data.len() - start);
        let mut part = vec![0; len];
        File::open(&path).expect("open").read_exact_at(&mut part, start as u64).expect("read");
        assert!(part == data[start..start + len], "{start}+{len}");
    }
}

fn statfs_shows_space(dir: &Path) {
    let text = run("stat", &["-f", "-c", "%b %f %S %l", dir.to_str().expect("path")]);
    let numbers: Vec<u64> = text.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    assert!(numbers[0] > 0 && numbers[1] > 0 && numbers[1] <= numbers[0], "{text}");
    assert_eq!(numbers[3], 255);
}

fn directories_can_be_synced(dir: &Path) {
    File::open(dir).expect("open a directory").sync_all().expect("fsync of a directory");
}

fn virtual_tree(dir: &Path) {
    let root = dir.parent().expect("the mount");
    let list: Vec<_> = fs::read_dir(root.join("3fs-virt"))
        .expect("3fs-virt")
        .map(|e| e.expect("entry").file_name())
        .collect();
    for name in ["rm-rf", "iovs", "get-conf", "set-conf"] {
        assert!(list.iter().any(|entry| entry == name), "{name} in {list:?}");
    }
    fs::create_dir_all(dir.join("tree/a/b")).expect("mkdir");
    fs::write(dir.join("tree/a/b/f"), "x").expect("write");
    symlink(dir.join("tree"), root.join("3fs-virt/rm-rf/anything")).expect("recursive removal");
    assert!(!dir.join("tree").exists());
    let value = fs::read_link(root.join("3fs-virt/get-conf/usr.readonly")).expect("a setting");
    assert_eq!(value, PathBuf::from("false"));
}

//! Every class of operation through a real mount of the memfs example.

use crate::common::memfs::{ANSWER, IOCTL_ANSWER, IOCTL_RETRIED, MemFs, Options};
use crate::common::{Mounted, can_mount, eventually, mount, mount_with};
use rustix::fs::{
    AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, SeekFrom, StatxFlags, XattrFlags,
};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::sync::atomic::Ordering;
use xfuse::abi::Opcode;

fn memfs() -> Mounted {
    mount(MemFs::new(Options::default()))
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_read_back_what_was_written() {
    if !can_mount() {
        return;
    }
    for direct_io in [false, true] {
        let m = mount(MemFs::new(Options { direct_io, ..Options::default() }));
        let data: Vec<u8> = (0..5_000_003u32).map(|i| (i * 7 % 251) as u8).collect();
        fs::write(m.path("f"), &data).unwrap();
        assert!(fs::read(m.path("f")).unwrap() == data);
        let file = OpenOptions::new().read(true).write(true).open(m.path("f")).unwrap();
        file.write_all_at(b"overwritten", 131_070).unwrap();
        let mut part = [0; 15];
        file.read_exact_at(&mut part, 131_068).unwrap();
        assert_eq!(&part[2..13], b"overwritten");
        assert_eq!(part[..2], data[131_068..131_070]);
        assert_eq!(file.read_at(&mut part, 5_000_000).unwrap(), 3, "short read at the end");
        file.set_len(10).unwrap();
        assert_eq!(fs::metadata(m.path("f")).unwrap().len(), 10);
        fs::write(m.path("f"), b"x").unwrap();
        assert_eq!(fs::read(m.path("f")).unwrap(), b"x", "O_TRUNC");
        drop(file);
        m.close();
    }
}

#[test]
fn appends_and_mmap() {
    if !can_mount() {
        return;
    }
    let m = memfs();
    let mut file = OpenOptions::new().create(true).append(true).open(m.path("log")).unwrap();
    for i in 0..100 {
        writeln!(file, "line {i}").unwrap();
    }
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    assert_eq!(fs::read_to_string(m.path("log")).unwrap().lines().count(), 100);
    drop(file);
    m.close();
}

#[test]
fn directories_links_and_renames() {
    if !can_mount() {
        return;
    }
    let m = memfs();
    fs::create_dir_all(m.path("a/b/c")).unwrap();
    assert_eq!(fs::metadata(m.path("a")).unwrap().nlink(), 3);
    fs::write(m.path("a/f"), b"1").unwrap();
    fs::hard_link(m.path("a/f"), m.path("a/g")).unwrap();
    assert_eq!(fs::metadata(m.path("a/g")).unwrap().nlink(), 2);
    symlink("f", m.path("a/s")).unwrap();
    assert_eq!(fs::read_link(m.path("a/s")).unwrap().to_str(), Some("f"));
    assert_eq!(fs::read(m.path("a/s")).unwrap(), b"1");
    assert_eq!(names(&m.path("a")), ["b", "f", "g", "s"]);
    fs::rename(m.path("a/f"), m.path("a/b/f")).unwrap();
    assert_eq!(fs::read(m.path("a/b/f")).unwrap(), b"1");
    assert_eq!(fs::remove_dir(m.path("a/b")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    assert_eq!(fs::create_dir(m.path("a")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    assert_eq!(fs::metadata(m.path("nothing")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    let (old, new) = (m.path("a/g"), m.path("a/b/f"));
    let cwd = rustix::fs::CWD;
    let replaced = rustix::fs::renameat_with(cwd, &old, cwd, &new, RenameFlags::NOREPLACE);
    assert_eq!(replaced.unwrap_err(), rustix::io::Errno::EXIST);
    fs::write(m.path("other"), b"2").unwrap();
    rustix::fs::renameat_with(cwd, m.path("other"), cwd, &old, RenameFlags::EXCHANGE).unwrap();
    assert_eq!((fs::read(&old).unwrap(), fs::read(m.path("other")).unwrap()), (b"2".to_vec(), b"1".to_vec()));
    fs::remove_dir_all(m.path("a")).unwrap();
    assert_eq!(names(m.dir.path()), ["other"]);
    m.close();
}

#[test]
fn large_directories_are_listed_completely() {
    if !can_mount() {
        return;
    }
    let m = memfs();
    let expected: Vec<String> = (0..3000).map(|i| format!("file-with-a-longer-name-{i:05}")).collect();
    for name in &expected {
        File::create(m.path(name)).unwrap();
    }
    assert!(names(m.dir.path()) == expected);
    let fd = rustix::fs::open(m.dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    let dots: Vec<_> = rustix::fs::Dir::new(fd)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_bytes().starts_with(b"."))
        .map(|entry| (entry.file_name().to_owned(), entry.ino(), entry.file_type()))
        .collect();
    let directory = rustix::fs::FileType::Directory;
    assert_eq!(dots, [(c".".into(), 1, directory), (c"..".into(), 1, directory)]);
    let listings = m.session().stats().snapshot();
    assert!(listings.count(Opcode::Readdir) + listings.count(Opcode::Readdirplus) > 2);
    m.close();
}

#[test]
fn attributes() {
    if !can_mount() {
        return;
    }
    let m = memfs();
    let path = m.path("f");
    File::create(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_007, 123_456_789);
    file.set_times(fs::FileTimes::new().set_accessed(time).set_modified(time)).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (12, 34));
    assert_eq!(meta.mode() & 0o777, 0o751);
    assert_eq!((meta.mtime(), meta.mtime_nsec(), meta.atime()), (1_000_000_007, 123_456_789, 1_000_000_007));
    let stat = rustix::fs::statx(
        rustix::fs::CWD,
        &path,
        AtFlags::STATX_FORCE_SYNC,
        StatxFlags::BASIC_STATS | StatxFlags::BTIME,
    )
    .unwrap();
    if m.session().negotiated().minor >= 39 {
        assert_eq!((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec), (1, 2), "STATX carries the birth time");
    }
    let totals = rustix::fs::statvfs(m.dir.path()).unwrap();
    assert_eq!((totals.f_blocks, totals.f_bfree, totals.f_namemax), (1000, 500, 255));
    assert!(rustix::fs::access(&path, rustix::fs::Access::READ_OK).is_ok());
    drop(file);
    m.close();
}

#[test]
fn special_files() {
    if !can_mount() {
        return;
    }
    let m = memfs();
    let fifo = m.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let kind = fs::symlink_metadata(&fifo).unwrap();
    assert_eq!(kind.mode() & libc::S_IFMT, libc::S_IFIFO);
    let fd = rustix::fs::open(m.dir.path(), OFlags::TMPFILE | OFlags::RDWR, Mode::from(0o600));
    if m.session().negotiated().minor >= 37 {
        let file = File::from(fd.unwrap());
        file.write_all_at(b"unnamed", 0).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_eq!(names(m.dir.path()), ["fifo"]);
    }
    m.close();
}

#[test]
fn extended_attributes() {
    if !can_mount() {
        return;
    }
    let m = memfs();
    let path = m.path("f");
    File::create(&path).unwrap();
    let value = vec![7u8; 60_000];
    rustix::fs::setxattr(&path, "user.large", &value, XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&path, "user.small", b"abc", XattrFlags::CREATE).unwrap();
    let again = rustix::fs::setxattr(&path, "user.small", b"d", XattrFlags::CREATE);
    assert_eq!(again.unwrap_err(), rustix::io::Errno::EXIST);
    let mut buffer = vec![0; 65536];
    let len = rustix::fs::getxattr(&path, "user.large", &mut buffer[..]).unwrap();
    assert!(buffer[..len] == value[..]);
    let short = rustix::fs::getxattr(&path, "user.small", &mut buffer[..2]);
    assert_eq!(short.unwrap_err(), rustix::io::Errno::RANGE);
    let len = rustix::fs::listxattr(&path, &mut buffer[..]).unwrap();
    assert_eq!(&buffer[..len], b"user.large\0user.small\0");
    rustix::fs::removexattr(&path, "user.small").unwrap();
    let gone = rustix::fs::getxattr(&path, "user.small", &mut buffer[..]);
    assert_eq!(gone.unwrap_err(), rustix::io::Errno::NODATA);
    m.close();
}

#[test]
fn space_and_seeking() {
    if !can_mount() {
        return;
    }
    let m = memfs();
    let mut file =
        OpenOptions::new().create(true).truncate(true).read(true).write(true).open(m.path("f")).unwrap();
    file.write_all(&[1; 10_000]).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 20_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 20_000);
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 100, 50).unwrap();
    let mut part = [9; 52];
    file.read_exact_at(&mut part, 99).unwrap();
    assert_eq!((part[0], part[1], part[50], part[51]), (1, 0, 0, 1));
    let collapse = rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse.unwrap_err(), rustix::io::Errno::OPNOTSUPP);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(5)).unwrap(), 20_000);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(5)).unwrap(), 5);
    let mut copy =
        OpenOptions::new().create(true).truncate(true).read(true).write(true).open(m.path("g")).unwrap();
    file.rewind().unwrap();
    let copied = rustix::fs::copy_file_range(&file, Some(&mut 0), &copy, Some(&mut 0), 5_000).unwrap();
    assert_eq!(copied, 5_000);
    let mut text = Vec::new();
    copy.read_to_end(&mut text).unwrap();
    assert_eq!(text.len(), 5_000);
    assert!(
        m.session()
            .stats()
            .snapshot()
            .operation(Opcode::Fallocate)
            .is_some_and(|o| (o.count, o.errors) == (2, 0))
    );
    drop((file, copy));
    m.close();
}

#[test]
fn ioctl_and_poll() {
    if !can_mount() {
        return;
    }
    let m = memfs();
    let file = File::create(m.path("f")).unwrap();
    for target in [file, File::open(m.dir.path()).unwrap()] {
        let mut value = 0u32;
        // SAFETY: the command writes one u32 to the given address.
        let result = unsafe { libc::ioctl(target.as_raw_fd(), u64::from(IOCTL_ANSWER) as _, &raw mut value) };
        assert_eq!((result, value), (7, ANSWER));
        // SAFETY: this command has no effect on memory.
        let result = unsafe { libc::ioctl(target.as_raw_fd(), 0x5555, 0) };
        assert_eq!((result, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ENOTTY)));
    }
    // Retries are only for unrestricted (CUSE) ioctls; elsewhere the kernel turns them into an error.
    let file = File::open(m.path("f")).unwrap();
    let mut value = 0u32;
    // SAFETY: the command writes at most one u32 to the given address.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), u64::from(IOCTL_RETRIED) as _, &raw mut value) };
    assert_eq!((result, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EIO)));
    let mut poll = [rustix::event::PollFd::new(&file, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut poll, None).unwrap(), 1);
    drop(file);
    m.close();
}

#[test]
fn locks_are_the_file_systems() {
    if !can_mount() {
        return;
    }
    let m = memfs();
    fs::write(m.path("f"), b"x").unwrap();
    let (a, b) = (File::open(m.path("f")).unwrap(), File::options().write(true).open(m.path("f")).unwrap());
    let open_file_lock = |file: &File, command, kind: i32| {
        // SAFETY: an all-zero flock is valid.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as i16;
        // SAFETY: the command reads and writes the given flock.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
        if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(i32::from(lock.l_type)) }
    };
    open_file_lock(&a, libc::F_OFD_SETLK, libc::F_RDLCK).unwrap();
    assert_eq!(open_file_lock(&b, libc::F_OFD_GETLK, libc::F_WRLCK).unwrap(), libc::F_RDLCK);
    let refused = open_file_lock(&b, libc::F_OFD_SETLK, libc::F_WRLCK).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EAGAIN));
    let waiter = std::thread::spawn(move || open_file_lock(&b, libc::F_OFD_SETLKW, libc::F_WRLCK).map(drop));
    eventually("the waiting lock", || m.session().stats().snapshot().in_flight > 0);
    open_file_lock(&a, libc::F_OFD_SETLK, libc::F_UNLCK).unwrap();
    waiter.join().unwrap().unwrap();
    // flock(2) was not asked for and stays in the kernel.
    rustix::fs::flock(&a, FlockOperation::LockExclusive).unwrap();
    drop(a);
    m.close();
}

#[test]
fn forgets_balance_lookups_and_destroy_is_called() {
    if !can_mount() {
        return;
    }
    let fs = MemFs::new(Options::default());
    let destroyed = fs.destroyed.clone();
    let m = mount_with(fs, 3);
    for i in 0..300 {
        fs::write(m.path(&format!("f{i}")), b"x").unwrap();
    }
    for i in 0..300 {
        fs::remove_file(m.path(&format!("f{i}"))).unwrap();
    }
    let stats = m.session().stats().clone();
    eventually("forgets of the removed files", || {
        let s = stats.snapshot();
        s.count(Opcode::Forget) + s.count(Opcode::BatchForget) >= 1
    });
    m.close();
    assert!(destroyed.load(Ordering::SeqCst));
    assert_eq!(stats.snapshot().in_flight, 0);
}

#[test]
fn many_threads() {
    if !can_mount() {
        return;
    }
    let m = mount_with(MemFs::new(Options { direct_io: true, ..Options::default() }), 3);
    std::thread::scope(|scope| {
        for t in 0..8u8 {
            let dir = m.path(&format!("t{t}"));
            scope.spawn(move || {
                fs::create_dir(&dir).unwrap();
                for i in 0..60 {
                    let path = dir.join(format!("f{i}"));
                    let data = vec![t ^ i; 70_000 + usize::from(i)];
                    fs::write(&path, &data).unwrap();
                    assert!(fs::read(&path).unwrap() == data);
                    if i % 3 == 0 {
                        fs::remove_file(&path).unwrap();
                    }
                }
                assert_eq!(fs::read_dir(&dir).unwrap().count(), 40);
            });
        }
    });
    let snapshot = m.session().stats().snapshot();
    assert_eq!((snapshot.panics, snapshot.malformed, snapshot.refused_replies), (0, 0, 0));
    let write = snapshot.operation(Opcode::Write).unwrap();
    assert!(write.quantile(0.5) <= write.quantile(0.99) && write.quantile(0.99) > std::time::Duration::ZERO);
    m.close();
}

#[test]
fn open_options_reach_the_file_system() {
    if !can_mount() {
        return;
    }
    let m = memfs();
    let mut exclusive = OpenOptions::new();
    exclusive.write(true).create_new(true).mode(0o640);
    exclusive.open(m.path("f")).unwrap();
    assert_eq!(exclusive.open(m.path("f")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    assert_eq!(fs::metadata(m.path("f")).unwrap().mode(), libc::S_IFREG | 0o640);
    m.close();
}

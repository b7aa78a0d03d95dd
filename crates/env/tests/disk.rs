//! The same bodies on every kind of disk, and what is particular to each.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use valor_env::disk::memory::{Fault, MemoryDisk, OpKind};
use valor_env::disk::{Backend, Disk, DiskFile, OpenOptions, real_with};

/// Runs a body on every kind of disk; the directory exists and is empty.
async fn on_each<F: Future<Output = ()>>(body: impl Fn(Arc<dyn Disk>, PathBuf) -> F) {
    for backend in [Backend::IoUring, Backend::Blocking] {
        let dir = tempfile::tempdir().unwrap();
        println!("{backend:?}");
        body(real_with(backend), dir.path().to_path_buf()).await;
    }
    // Memory-backed, where calls that must not wait are not known.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    body(real_with(Backend::IoUring), dir.path().to_path_buf()).await;

    for polls in [0, 3] {
        println!("memory, {polls} polls");
        let disk = MemoryDisk::new(7);
        disk.set_polls(polls);
        let dir = PathBuf::from("/some/where");
        disk.create_dir_all(&dir).await.unwrap();
        body(disk.handle(), dir).await;
    }
}

fn piece(byte: u8, len: usize) -> Bytes {
    Bytes::from(vec![byte; len])
}

async fn read(file: &Arc<dyn DiskFile>, offset: u64, len: usize) -> Vec<u8> {
    file.read_at(offset, len).await.unwrap().to_vec()
}

#[tokio::test]
async fn what_was_written_is_read() {
    on_each(|disk, dir| async move {
        let file = disk.open(&dir.join("f"), OpenOptions::CREATE_NEW).await.unwrap();
        file.write_at(10, &[piece(1, 3), Bytes::new(), piece(2, 5000), piece(3, 1)]).await.unwrap();
        assert_eq!(file.size().await.unwrap(), 10 + 5004);
        let expected = [vec![0; 10], vec![1; 3], vec![2; 5000], vec![3]].concat();
        assert_eq!(read(&file, 0, 100_000).await, expected);
        assert_eq!(read(&file, 12, 2).await, [1, 2]);
        assert_eq!(read(&file, 5014, 10).await, []);
        assert_eq!(read(&file, 1 << 40, 10).await, []);
        assert_eq!(read(&file, 3, 0).await, []);
        file.write_at(11, &[piece(9, 1)]).await.unwrap();
        assert_eq!(read(&file, 10, 4).await, [1, 9, 1, 2]);
        file.sync_data().await.unwrap();

        let again = disk.open(&dir.join("f"), OpenOptions::READ).await.unwrap();
        assert_eq!(read(&again, 10, 2).await, [1, 9]);
        assert!(again.write_at(0, &[piece(1, 1)]).await.is_err() || disk.space(&dir).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn many_pieces_and_large_transfers() {
    on_each(|disk, dir| async move {
        let file = disk.open(&dir.join("f"), OpenOptions::CREATE).await.unwrap();
        let pieces: Vec<Bytes> = (0..3000u32).map(|i| piece(i as u8, 700)).collect();
        file.write_at(5, &pieces).await.unwrap();
        assert!(read(&file, 5, 3000 * 700).await == pieces.concat());
        let large = piece(5, 40 << 20);
        file.write_at(1 << 30, std::slice::from_ref(&large)).await.unwrap();
        assert!(read(&file, 1 << 30, large.len()).await == large);
    })
    .await;
}

#[tokio::test]
async fn lengths_holes_and_reserved_space() {
    on_each(|disk, dir| async move {
        let file = disk.open(&dir.join("f"), OpenOptions::CREATE).await.unwrap();
        file.set_len(10_000).await.unwrap();
        assert_eq!(read(&file, 0, 20_000).await, vec![0; 10_000]);
        file.write_at(0, &[piece(1, 16_384)]).await.unwrap();
        file.punch_hole(4096, 8192).await.unwrap();
        let expected = [vec![1; 4096], vec![0; 8192], vec![1; 4096]].concat();
        assert_eq!(read(&file, 0, 20_000).await, expected);
        if file.zero_range(0, 100).await.is_ok() {
            assert_eq!(read(&file, 99, 2).await, [0, 1]);
            file.write_at(0, &[piece(1, 100)]).await.unwrap();
        }
        file.set_len(100).await.unwrap();
        file.set_len(5000).await.unwrap();
        assert_eq!(read(&file, 99, 10_000).await, [vec![1], vec![0; 4900]].concat());
        file.allocate(0, 1 << 20).await.unwrap();
        assert_eq!(file.size().await.unwrap(), 1 << 20);
        assert_eq!(read(&file, 99, 2).await, [1, 0]);
    })
    .await;
}

#[tokio::test]
async fn names() {
    on_each(|disk, dir| async move {
        let kind = |result: std::io::Result<Arc<dyn DiskFile>>| result.err().map(|e| e.kind());
        let path = |name: &str| dir.join(name);
        let missing = disk.open(&path("a"), OpenOptions::WRITE).await;
        assert_eq!(kind(missing), Some(std::io::ErrorKind::NotFound));
        disk.open(&path("a"), OpenOptions::CREATE_NEW).await.unwrap();
        let again = disk.open(&path("a"), OpenOptions::CREATE_NEW).await;
        assert_eq!(kind(again), Some(std::io::ErrorKind::AlreadyExists));
        disk.open(&path("b"), OpenOptions::CREATE).await.unwrap();
        disk.create_dir_all(&path("d/e")).await.unwrap();
        disk.create_dir_all(&path("d/e")).await.unwrap();
        assert_eq!(disk.list(&dir).await.unwrap(), [path("a"), path("b"), path("d")]);
        disk.rename(&path("b"), &path("a")).await.unwrap();
        disk.rename(&path("a"), &path("d/e/f")).await.unwrap();
        assert!(disk.exists(&path("d/e/f")).await.unwrap());
        assert!(!disk.exists(&path("a")).await.unwrap());
        disk.sync_dir(&dir).await.unwrap();
        disk.remove_file(&path("d/e/f")).await.unwrap();
        assert_eq!(disk.list(&path("d/e")).await.unwrap(), Vec::<PathBuf>::new());
        assert!(disk.remove_file(&path("d/e/f")).await.is_err());
        assert!(disk.list(&path("nowhere")).await.is_err());
        let space = disk.space(&dir).await.unwrap();
        assert!(space.capacity >= space.free && space.free >= space.available && space.available > 0);
        assert_eq!(disk.boot_id(), disk.boot_id());
    })
    .await;
}

/// Takes a file's pages out of the cache, so that reading it must wait for the medium.
fn forget_pages(path: &Path) {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    // SAFETY: a plain system call on an open descriptor.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(result, 0);
}

#[tokio::test]
async fn cached_reads_are_ready_at_once_and_others_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let disk = real_with(Backend::IoUring);
    let file = disk.open(&path, OpenOptions::CREATE).await.unwrap();
    let blocks: Vec<Bytes> = (0..200u8).map(|i| piece(i, 65_536)).collect();
    file.write_at(0, &blocks).await.unwrap();
    assert!(file.read_at(0, 10).is_ready());
    assert!(file.read_at(65_536, 65_536).is_ready());

    forget_pages(&path);
    let reads: Vec<_> = (0..200u64).map(|i| (i, file.read_at(i * 65_536, 65_536))).collect();
    println!("{} of 200 cold reads waited", reads.iter().filter(|(_, read)| !read.is_ready()).count());
    for (i, read) in reads.into_iter().rev() {
        assert!(read.await.unwrap().iter().all(|&byte| byte == i as u8));
    }
}

#[tokio::test]
async fn abandoned_operations_keep_their_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let disk = real_with(Backend::IoUring);
    let file = disk.open(&path, OpenOptions::CREATE).await.unwrap();
    for round in 0..20u8 {
        file.write_at(0, &[piece(round, 4 << 20)]).await.unwrap();
        forget_pages(&path);
        let mut reads: Vec<_> = (0..64u64).map(|i| file.read_at(i * 65_536, 65_536)).collect();
        reads.truncate(3);
        drop(file.sync_data());
        // Were the abandoned buffers free, these would take them, and the kernel would overwrite what is put there.
        let mut taken: Vec<_> = (0..64).map(|_| valor_env::buffer::Pool::global().take(65_536)).collect();
        taken.iter_mut().for_each(|buf| buf.fill(0xee));
        for read in reads {
            assert!(read.await.unwrap().iter().all(|&byte| byte == round));
        }
        file.sync_data().await.unwrap();
        assert!(taken.iter().all(|buf| buf.iter().all(|&byte| byte == 0xee)));
    }
}

#[test]
fn a_runtime_may_end_with_operations_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let disk = real_with(Backend::IoUring);
    for round in 0..5u8 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (file, pending) = runtime.block_on(async {
            let file = disk.open(&path, OpenOptions::CREATE).await.unwrap();
            file.write_at(0, &[piece(round, 4 << 20)]).await.unwrap();
            forget_pages(&path);
            let reads: Vec<_> = (0..64u64).map(|i| file.read_at(i * 65_536, 65_536)).collect();
            tokio::spawn(file.sync_data());
            (file, reads)
        });
        drop(runtime);
        // Nobody watches the ring any more; the results are still to be had, here or in another runtime.
        let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        other.block_on(async {
            for read in pending {
                assert!(read.await.unwrap().iter().all(|&byte| byte == round));
            }
            assert_eq!(file.read_at(7, 1).await.unwrap()[0], round);
        });
    }
    // Outside any runtime: plain calls.
    let mut read =
        std::pin::pin!(async { disk.open(&path, OpenOptions::READ).await.unwrap().read_at(0, 1).await });
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(read) = read.as_mut().poll(&mut context) else {
        panic!("plain calls do not wait")
    };
    assert_eq!(read.unwrap()[0], 4);
}

#[test]
fn operations_may_be_awaited_on_another_thread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let disk = real_with(Backend::IoUring);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let file = runtime().block_on(async {
        let file = disk.open(&path, OpenOptions::CREATE).await.unwrap();
        file.write_at(0, &[piece(3, 16 << 20)]).await.unwrap();
        file
    });
    forget_pages(&path);
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let (done, finished) = tokio::sync::oneshot::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            runtime().block_on(async {
                for i in 0..512 {
                    sender.send(file.read_at(i * 32_768, 32_768)).unwrap();
                    if i % 32 == 0 {
                        file.sync_data().await.unwrap();
                    }
                }
                drop(sender);
                finished.await.unwrap();
            })
        });
        scope.spawn(|| {
            runtime().block_on(async {
                while let Some(read) = receiver.recv().await {
                    let read = read.await.unwrap();
                    assert!(read.len() == 32_768 && read.iter().all(|&byte| byte == 3));
                }
                done.send(()).unwrap();
            })
        });
    });
}

/// Writes "1", syncs, writes "2" over it and a second page; returns the file's state after a power loss.
async fn after_power_loss(seed: u64, keep: f64) -> Vec<u8> {
    let disk = MemoryDisk::new(seed);
    disk.create_dir_all(Path::new("/d")).await.unwrap();
    let file = disk.open(Path::new("/d/f"), OpenOptions::CREATE).await.unwrap();
    file.write_at(0, &[piece(1, 4096)]).await.unwrap();
    file.sync_data().await.unwrap();
    disk.sync_dir(Path::new("/d")).await.unwrap();
    let boot = disk.boot_id();
    file.write_at(0, &[piece(2, 8192)]).await.unwrap();
    disk.lose_power(keep);
    assert_ne!(disk.boot_id(), boot);
    assert!(file.read_at(0, 1).await.is_err(), "opened by a process that is gone");
    disk.contents(Path::new("/d/f")).unwrap()
}

#[tokio::test]
async fn power_loss_takes_what_was_not_synced() {
    assert_eq!(after_power_loss(1, 0.0).await, vec![1; 4096]);
    assert_eq!(after_power_loss(1, 1.0).await, vec![2; 8192]);
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let bytes = after_power_loss(seed, 0.5).await;
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|&byte| byte == sector[0])), "seed {seed}");
        assert_eq!(bytes, after_power_loss(seed, 0.5).await, "the seed decides");
        let torn = bytes[..4096].windows(2).any(|pair| pair[0] != pair[1]);
        seen.insert((bytes.len(), bytes[0], torn));
    }
    assert!(seen.contains(&(4096, 1, false)) && seen.contains(&(8192, 2, false)));
    assert!(seen.iter().any(|(_, _, torn)| *torn));
}

#[tokio::test]
async fn names_are_durable_after_their_directory_is_synced() {
    let disk = MemoryDisk::new(1);
    let dir = Path::new("/d");
    disk.create_dir_all(dir).await.unwrap();
    disk.open(&dir.join("old"), OpenOptions::CREATE).await.unwrap();
    disk.sync_dir(dir).await.unwrap();
    disk.open(&dir.join("new"), OpenOptions::CREATE).await.unwrap();
    disk.rename(&dir.join("old"), &dir.join("renamed")).await.unwrap();
    let crashed = disk.snapshot(2);
    crashed.lose_power(0.0);
    assert_eq!(crashed.list(dir).await.unwrap(), [dir.join("old")]);
    disk.sync_dir(dir).await.unwrap();
    disk.lose_power(0.0);
    assert_eq!(disk.list(dir).await.unwrap(), [dir.join("new"), dir.join("renamed")]);
    disk.remove_file(&dir.join("new")).await.unwrap();
    disk.restart();
    assert_eq!(disk.list(dir).await.unwrap(), [dir.join("renamed")]);
}

#[tokio::test]
async fn faults() {
    let disk = MemoryDisk::new(1);
    disk.create_dir_all(Path::new("/d")).await.unwrap();
    let file = disk.open(Path::new("/d/file"), OpenOptions::CREATE).await.unwrap();
    disk.inject(Fault {
        kind: Some(OpKind::Write),
        name_contains: "fil".into(),
        after: 1,
        ..Fault::default()
    });
    disk.inject(Fault { reads: true, errno: libc::ENOMEM, ..Fault::default() });
    file.write_at(0, &[piece(1, 10)]).await.unwrap();
    assert_eq!(file.write_at(0, &[piece(2, 10)]).await.unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(file.read_at(0, 10).await.unwrap_err().raw_os_error(), Some(libc::ENOMEM));
    assert_eq!(read(&file, 0, 10).await, [1; 10]);

    disk.set_capacity(8192);
    let full = file.write_at(0, &[piece(3, 10_000)]).await.unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(file.allocate(0, 12_288).await.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(disk.space(Path::new("/")).await.unwrap().available, 0);
    file.punch_hole(0, 4096).await.unwrap();
    assert_eq!(disk.space(Path::new("/")).await.unwrap().available, 4096);
    assert!(disk.flip(Path::new("/d/file"), 1, 0x80).unwrap());
    assert_eq!(read(&file, 0, 3).await, [0, 0x80, 0]);

    disk.stop_at(disk.counts().changes + 1);
    file.set_len(3).await.unwrap();
    assert!(!disk.stopped());
    assert!(file.write_at(0, &[piece(4, 5000)]).await.is_err());
    assert!(disk.stopped() && file.read_at(0, 1).await.is_err() && disk.list(Path::new("/d")).await.is_err());
    disk.restart();
    let file = disk.open(Path::new("/d/file"), OpenOptions::WRITE).await.unwrap();
    let left = file.size().await.unwrap() as usize;
    assert!(left <= 5000 && (left == 3 || read(&file, 0, left).await == vec![4; left]));
}

#[tokio::test(start_paused = true)]
async fn a_slow_disk_takes_time_and_goes_on_when_nobody_waits() {
    let disk = MemoryDisk::new(1);
    disk.create_dir_all(Path::new("/d")).await.unwrap();
    let file = disk.open(Path::new("/d/f"), OpenOptions::CREATE).await.unwrap();
    disk.set_latency(Duration::from_millis(100));
    let start = tokio::time::Instant::now();
    file.write_at(0, &[piece(1, 10)]).await.unwrap();
    assert!(start.elapsed() > Duration::ZERO);
    drop(file.write_at(0, &[piece(2, 10)]));
    assert_eq!(read(&file, 0, 10).await, [2; 10]);
}

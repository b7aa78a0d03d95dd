//! Data in the memory where it arrives and from where it leaves.

use crate::common::{can_mount, eventually, mount, transport};
use bytes::Bytes;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use xfuse::request::*;
use xfuse::{Attr, Context, Data, Entry, Errno, Filesystem, Opened, Payload, Transport, Written, abi};

const SIZE: u64 = 64 << 20;
const BLOCK: usize = 256 << 10;

/// One file, direct I/O. Byte `n` of it is `pattern(n)`, whatever is written.
#[derive(Clone, Default)]
struct Patterned {
    /// WRITEs from here on are held on to.
    hold_from: u64,
    held: Arc<Mutex<Vec<Payload>>>,
    kept: Arc<Mutex<Vec<(u64, Bytes)>>>,
    /// WRITEs whose data was not the pattern.
    wrong: Arc<AtomicU64>,
}

fn pattern(offset: u64) -> u8 {
    (offset / 4096 + offset % 251) as u8
}

fn fill(bytes: &mut [u8], offset: u64) {
    bytes.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = pattern(at));
}

fn is_pattern(bytes: &[u8], offset: u64) -> bool {
    bytes.iter().zip(offset..).all(|(byte, at)| *byte == pattern(at))
}

fn attributes(ino: u64) -> abi::Attr {
    let mode = if ino == abi::ROOT_ID { libc::S_IFDIR | 0o755 } else { libc::S_IFREG | 0o644 };
    abi::Attr { ino, mode, nlink: 1, size: SIZE, ..Default::default() }
}

impl Filesystem for Patterned {
    async fn lookup(&self, _: &Context, _: Lookup<'_>) -> Result<Entry, Errno> {
        Ok(Entry { nodeid: 2, attr: attributes(2), ..Entry::default() })
    }

    async fn getattr(&self, _: &Context, r: Getattr) -> Result<Attr, Errno> {
        Ok(Attr { valid: Duration::ZERO, attr: attributes(r.ino) })
    }

    async fn open(&self, _: &Context, _: Open) -> Result<Opened, Errno> {
        let flags = abi::FOPEN_DIRECT_IO | abi::FOPEN_PARALLEL_DIRECT_WRITES;
        Ok(Opened { flags, ..Opened::default() })
    }

    async fn read(&self, cx: &Context, r: Read) -> Result<Data, Errno> {
        let mut room = cx.room(r.size);
        assert_eq!(room.len(), r.size as usize);
        if r.offset >= SIZE {
            return Ok(Data::empty());
        }
        // While there is a room, another is elsewhere.
        let mut other = cx.room(r.size);
        other.fill(0);
        fill(&mut room, r.offset);
        if r.offset.is_multiple_of(3) {
            // Late, and not the first that was taken.
            tokio::task::yield_now().await;
            other.copy_from_slice(&room);
            return Ok(other.filled(r.size as usize));
        }
        Ok(room.filled(r.size as usize))
    }

    async fn write(&self, _: &Context, r: Write) -> Result<Written, Errno> {
        let size = r.data.len() as u32;
        if !is_pattern(&r.data, r.offset) {
            self.wrong.fetch_add(1, Ordering::SeqCst);
        }
        if r.offset >= self.hold_from {
            self.held.lock().unwrap().push(r.data);
        } else if r.offset.is_multiple_of(8 * BLOCK as u64) {
            let data = r.data.keep().await;
            self.kept.lock().unwrap().push((r.offset, data));
        }
        Ok(Written(size))
    }
}

fn open(path: std::path::PathBuf) -> File {
    std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path).unwrap()
}

fn write_pattern(file: &File, offset: u64, len: usize) {
    let mut block = vec![0; len];
    fill(&mut block, offset);
    file.write_all_at(&block, offset).unwrap();
}

#[test]
fn reads_are_made_and_writes_are_read_in_place() {
    if !can_mount() {
        return;
    }
    let fs = Patterned { hold_from: u64::MAX, ..Patterned::default() };
    let m = mount(fs.clone());
    let file = open(m.path("file"));
    std::thread::scope(|scope| {
        for worker in 0..4u64 {
            let file = &file;
            scope.spawn(move || {
                let mut block = vec![0; BLOCK];
                for number in 0..32 {
                    // Also parts of pages, and less than is copied out of entries.
                    let offset = (worker * 32 + number) * BLOCK as u64;
                    let len = BLOCK - [0, 1, 5000, BLOCK - 100][number as usize % 4];
                    write_pattern(file, offset, len);
                    file.read_exact_at(&mut block[..len], offset).unwrap();
                    assert!(is_pattern(&block[..len], offset), "{offset}");
                }
            });
        }
    });
    assert_eq!(file.read_at(&mut [0; 10], SIZE).unwrap(), 0);
    assert_eq!(fs.wrong.load(Ordering::SeqCst), 0);
    let kept = std::mem::take(&mut *fs.kept.lock().unwrap());
    assert!(kept.len() >= 16 && kept.iter().all(|(offset, data)| is_pattern(data, *offset)));
    assert!(m.session().stats().snapshot().buffers_in_use >= kept.len());
    drop((kept, file));
    m.close();
}

#[test]
fn what_is_held_of_a_write_stays_as_it_is() {
    if !can_mount() {
        return;
    }
    let fs = Patterned { hold_from: SIZE / 2, ..Patterned::default() };
    let m = mount(fs.clone());
    let file = open(m.path("file"));
    let held = || fs.held.lock().unwrap().len();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_pattern(&file, SIZE / 2, BLOCK));
        eventually("the write", || held() > 0);
        // Other writes go through other entries, of this and every other queue.
        for number in 0..64 {
            write_pattern(&file, number * BLOCK as u64, BLOCK);
        }
        let data = fs.held.lock().unwrap().clone();
        assert!(is_pattern(&data[0], SIZE / 2));
        if transport() == Transport::Uring {
            assert!(!writer.is_finished(), "its answer would give the memory to the kernel");
        }
        fs.held.lock().unwrap().clear();
        assert!(is_pattern(&data[0], SIZE / 2), "a clone holds on to it as well");
        drop(data);
        // The kernel may have split the write.
        while !writer.is_finished() {
            fs.held.lock().unwrap().clear();
            std::thread::yield_now();
        }
    });
    assert_eq!(fs.wrong.load(Ordering::SeqCst), 0);
    drop(file);
    m.close();
}

/// The memory outlives queue, ring and session.
#[test]
fn what_is_held_of_a_write_outlives_the_session() {
    if !can_mount() {
        return;
    }
    let fs = Patterned::default();
    let held = fs.held.clone();
    let m = mount(fs);
    let file = open(m.path("file"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut block = vec![0; BLOCK];
            fill(&mut block, 0);
            // The abort ends it, if its answer has waited.
            let _ = file.write_at(&block, 0);
        });
        eventually("the write", || !held.lock().unwrap().is_empty());
        m.session().abort().unwrap();
    });
    drop(file);
    m.session().wait();
    drop(m);
    let held = std::mem::take(&mut *held.lock().unwrap());
    assert!(is_pattern(&held[0], 0) && held[0].len() > 4096);
}

//! Work on names: creations, removals and renames whose outcome is known each time.

use super::Random;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

const NAMES: u64 = 12;

/// What is there: the content of files, none for directories.
pub type Names = BTreeMap<String, Option<Vec<u8>>>;

/// Works on names in a directory of its own, and knows what each operation must say.
pub struct Worker {
    directory: PathBuf,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Names>,
}

impl Worker {
    pub fn start(mount: &Path, number: u64, seed: u64) -> Self {
        let directory = mount.join(format!("worker-{number}"));
        fs::create_dir(&directory).expect("directory of a worker");
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (directory, count, stop) = (directory.clone(), Arc::clone(&count), Arc::clone(&stop));
            move || {
                let (mut random, mut names) = (Random::seeded(seed), Names::new());
                while !stop.load(Ordering::SeqCst) {
                    step(&directory, &mut random, &mut names);
                    count.fetch_add(1, Ordering::SeqCst);
                }
                names
            }
        });
        Self { directory, count, stop, thread }
    }

    pub fn done(&self) -> u64 {
        assert!(!self.thread.is_finished(), "a worker of {} has failed", self.directory.display());
        self.count.load(Ordering::SeqCst)
    }

    pub fn stop(self) -> (PathBuf, Names) {
        self.stop.store(true, Ordering::SeqCst);
        let names = self.thread.join().expect("worker");
        println!("{}: {} operations", self.directory.display(), self.count.load(Ordering::SeqCst));
        (self.directory, names)
    }
}

fn step(directory: &Path, random: &mut Random, names: &mut Names) {
    let name = format!("n{}", random.below(NAMES));
    let path = directory.join(&name);
    match names.get(&name).cloned() {
        None if random.below(4) == 0 => {
            expect("mkdir", &path, fs::create_dir(&path));
            names.insert(name, None);
        }
        None => {
            let len = random.below(5000) as usize;
            let content = random.bytes(len);
            let mut file = File::options().write(true).create_new(true).open(&path);
            expect("write", &path, file.as_mut().map_err(copy).and_then(|file| file.write_all(&content)));
            names.insert(name, Some(content));
        }
        Some(None) => {
            let again = fs::create_dir(&path).map_err(|error| error.kind());
            assert_eq!(again, Err(io::ErrorKind::AlreadyExists), "mkdir {}", path.display());
            expect("rmdir", &path, fs::remove_dir(&path));
            names.remove(&name);
        }
        Some(Some(content)) => match random.below(4) {
            0 => {
                let again = File::options().write(true).create_new(true).open(&path);
                assert_eq!(
                    again.map(drop).map_err(|e| e.kind()),
                    Err(io::ErrorKind::AlreadyExists),
                    "{name}"
                );
                assert!(fs::read(&path).is_ok_and(|found| found == content), "content of {}", path.display());
            }
            1 => {
                expect("unlink", &path, fs::remove_file(&path));
                names.remove(&name);
            }
            _ => {
                let other = format!("n{}", random.below(NAMES));
                if names.get(&other) == Some(&None) {
                    return;
                }
                expect("rename", &path, fs::rename(&path, directory.join(&other)));
                names.remove(&name);
                names.insert(other, Some(content));
            }
        },
    }
}

fn copy(error: &mut io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

fn expect(what: &str, path: &Path, result: io::Result<()>) {
    if let Err(error) = result {
        panic!("{what} {}: {error}", path.display());
    }
}

/// Compares what a worker knew when it stopped with what is there.
pub fn check(directory: &Path, names: &Names) {
    let listed = fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry").file_name());
    let mut listed: Vec<String> = listed.map(|name| name.into_string().expect("text")).collect();
    listed.sort();
    assert!(listed.iter().eq(names.keys()), "{listed:?}, not {:?}", names.keys());
    for (name, content) in names {
        let path = directory.join(name);
        match content {
            Some(content) => {
                assert_eq!(&fs::read(&path).expect("read"), content, "content of {}", path.display());
            }
            None => assert!(path.is_dir(), "{}", path.display()),
        }
    }
}

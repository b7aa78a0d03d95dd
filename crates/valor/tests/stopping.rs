//! The end of a mount: what programs wrote is stored, or what is lost is named in bounded time.

mod harness;

use harness::{Cluster, Signal, is_mounted, signal, wait_until};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

/// A cluster whose storage servers can be made to hang. They go on in the end, lest the clean-up has to wait for them.
struct Hung(Vec<i32>);

impl Hung {
    fn storage(cluster: &Cluster) -> Self {
        let mut pids = cluster.processes();
        pids.retain(|(kind, _)| kind == "storage");
        let hung = Hung(pids.into_iter().map(|(_, pid)| pid).collect());
        hung.0.iter().for_each(|pid| signal(*pid, Signal::STOP));
        hung
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| signal(*pid, Signal::CONT));
    }
}

/// A mount of the test's own, whose end is looked at.
struct Mount {
    child: Child,
    output: std::path::PathBuf,
}

impl Mount {
    fn start(cluster: &Cluster, path: &Path, patience: &str) -> Self {
        std::fs::create_dir_all(path).expect("mount point");
        let output = cluster.scratch("output").join("mount");
        let child = Command::new(harness::VALOR)
            .arg("mount")
            .arg(path)
            .args(["--profile=fast", "--data-dir"])
            .arg(cluster.data_dir())
            .arg(format!("--dir={}/own", cluster.data_dir().display()))
            .arg(format!("--config.valor.stop_patience={patience}"))
            .stderr(File::create(&output).expect("output"))
            .stdout(Stdio::null())
            .spawn()
            .expect("valor mount");
        wait_until("the mount", || is_mounted(path));
        Mount { child, output }
    }

    fn signal(&self, what: Signal) {
        signal(self.child.id().cast_signed(), what);
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// How it ended and what it said.
    fn ended(&mut self) -> (ExitStatus, String) {
        let mut status = None;
        wait_until("the mount's process to end", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        (status.expect("ended"), self.said())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A program of its own that has a file open: if the test had, every program it starts would close a copy, and wait for
/// the servers with it.
struct Writer {
    child: Child,
    answers: BufReader<ChildStdout>,
}

const WRITE_TO: &str = "VALOR_TEST_WRITE_TO";

impl Writer {
    /// Writes a file, so that its chains are known and writing it again asks nobody, and opens it.
    fn start(path: &Path) -> Self {
        std::fs::write(path, "some bytes").expect("write");
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "writer_process", "--nocapture"])
            .env(WRITE_TO, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("writer");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut writer = Writer { child, answers };
        writer.wait_for("open");
        writer
    }

    /// Has it write bytes, which are taken although no server answers.
    fn write(&mut self, len: usize) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        writeln!(stdin, "{len}").expect("ask the writer");
        self.wait_for("written");
    }

    fn wait_for(&mut self, what: &str) {
        let mut line = String::new();
        // The test harness speaks, too.
        while !line.contains(what) {
            line.clear();
            assert!(self.answers.read_line(&mut line).expect("answer") > 0, "the writer has ended");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        signal(self.child.id().cast_signed(), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// What [`Writer`] starts.
#[test]
fn writer_process() {
    let Some(path) = std::env::var_os(WRITE_TO) else { return };
    let mut file = OpenOptions::new().write(true).open(path).expect("open");
    println!("open");
    for line in std::io::stdin().lines() {
        let len: usize = line.expect("line").parse().expect("length");
        file.write_all(&vec![7; len]).expect("write");
        println!("written");
    }
}

#[test]
fn a_mount_whose_servers_hang_ends_in_time_and_names_what_is_lost() {
    let mut cluster = Cluster::start(&["--no-mount"]);
    let path = cluster.mount();
    let mut mount = Mount::start(&cluster, &path, "2s");
    std::fs::create_dir(path.join("dir")).expect("mkdir");
    let mut writer = Writer::start(&path.join("dir/lost"));
    let hung = Hung::storage(&cluster);
    writer.write(12_345);
    mount.signal(Signal::TERM);
    let (status, said) = mount.ended();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("gave up after 2s: 12345 bytes of 1 files are not written: /dir/lost (12345 bytes)"),
        "{said}"
    );
    assert!(!is_mounted(&path), "nothing is left behind");
    drop((writer, hung));
    cluster.down();
}

#[test]
fn a_second_signal_ends_a_mount_at_once() {
    let mut cluster = Cluster::start(&["--no-mount"]);
    let path = cluster.mount();
    // Far longer than the test waits.
    let mut mount = Mount::start(&cluster, &path, "1h");
    let mut writer = Writer::start(&path.join("lost"));
    let hung = Hung::storage(&cluster);
    writer.write(1000);
    mount.signal(Signal::TERM);
    wait_until("it to tell that it waits", || {
        mount.said().contains("stopping: so far 1000 bytes of 1 files")
    });
    assert!(mount.child.try_wait().expect("wait").is_none());
    mount.signal(Signal::INT);
    let (status, said) = mount.ended();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("asked again to stop: 1000 bytes of 1 files are not written: /lost (1000 bytes)"),
        "{said}"
    );
    drop((writer, hung));
    cluster.down();
}

#[test]
fn down_does_not_wait_for_servers_that_hang_and_tells_what_is_lost() {
    let mut cluster = Cluster::start(&["--mount-config=valor.stop_patience=2s"]);
    let path = cluster.mount().join("lost");
    let mut writer = Writer::start(&path);
    let hung = Hung::storage(&cluster);
    writer.write(1000);
    let mount = format!("/proc/{}", cluster.pid_of("mount").expect("runs"));
    let said = std::thread::scope(|scope| {
        // Servers that hang are killed only after a while.
        scope.spawn(move || {
            wait_until("the mount to end", || !Path::new(&mount).exists());
            drop(hung);
        });
        cluster.down_in_vain()
    });
    assert!(said.contains("gave up after 2s: 1000 bytes of 1 files are not written: /lost"), "{said}");
    drop(writer);
    cluster.up();
    assert!(path.exists());
    cluster.down();
}

/// A shared mapping of the first page of a file.
struct Mapped(*mut u8);

impl Mapped {
    fn new(file: &File) -> Self {
        // SAFETY: a fresh shared mapping of one page, which the file has.
        let at = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(at, libc::MAP_FAILED);
        Mapped(at.cast())
    }

    fn fill(&self, byte: u8) {
        // SAFETY: the mapping is a page long and writable, and only this thread uses it.
        unsafe { std::ptr::write_bytes(self.0, byte, 4096) };
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, and nothing refers to it any more.
        unsafe { libc::munmap(self.0.cast(), 4096) };
    }
}

#[test]
fn pages_that_are_mapped_when_a_mount_is_stopped_are_stored() {
    let mut cluster = Cluster::start(&[]);
    for (covered, setting) in [(false, false), (false, true), (true, false)] {
        let name = format!("mount-{covered}-{setting}");
        let more = format!("--config.enable_writeback_cache={setting}");
        let path = cluster.mount_again_with(&name, &[&more]);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path.join(&name))
            .expect("create");
        file.write_all(&[1; 8192]).expect("write");
        file.sync_all().expect("fsync");
        let page = Mapped::new(&file);
        page.fill(2);
        if covered {
            let none = None::<&std::ffi::CStr>;
            rustix::mount::mount("cover", &path, "tmpfs", rustix::mount::MountFlags::empty(), none)
                .expect("mount");
        }
        cluster.stop_mount(&path);
        if covered {
            use rustix::mount::{UnmountFlags, unmount};
            unmount(&path, UnmountFlags::empty()).expect("unmount the cover");
            unmount(&path, UnmountFlags::DETACH).expect("unmount the dead one");
        }
        let text = std::fs::read(cluster.mount().join(&name)).expect("read");
        assert_eq!(text.len(), 8192, "{name}");
        assert!(text[..4096].iter().all(|byte| *byte == 2), "{name}: the page is lost");
        assert!(text[4096..].iter().all(|byte| *byte == 1), "{name}");
        drop((page, file));
    }
    cluster.down();
}

/// Programs that go on using the mount do not keep it from ending, and lose nothing that was acknowledged by fsync.
#[test]
fn a_busy_mount_stops() {
    let mut cluster = Cluster::start(&[]);
    let path = cluster.mount_again("busy");
    let file = path.join("file");
    std::fs::write(&file, vec![1; 1 << 20]).expect("write");
    let load: Vec<_> = (0..3)
        .map(|_| {
            let file = file.clone();
            std::thread::spawn(move || {
                let mut rounds = 0_u64;
                // Until its mount is gone.
                while let Ok(mut file) = OpenOptions::new().append(true).open(&file)
                    && file.write_all(b"more").and_then(|()| file.sync_all()).is_ok()
                {
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    wait_until("some load", || file.metadata().is_ok_and(|file| file.len() > 1 << 20));
    cluster.stop_mount(&path);
    let rounds: u64 = load.into_iter().map(|load| load.join().expect("load")).sum();
    let length = std::fs::read(cluster.mount().join("file")).expect("read").len() as u64;
    assert!(length >= (1 << 20) + 4 * rounds, "{length} bytes after {rounds} appends");
    cluster.down();
}

//! Waiting on live mounts: the mix holds while it changes, nothing spins at 1, nothing wakes when idle.

mod common;

use common::memfs::{MemFs, Options};
use common::{can_mount, eventually};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use xfuse::stats::WaitStats;
use xfuse::{InitConfig, Mix, Session, Transport, WaitPolicy};

/// The tests look at threads of the process, so they run one after the other.
static ALONE: Mutex<()> = Mutex::new(());

const CHANNELS: usize = 2;

struct Mount {
    session: Session,
    dir: tempfile::TempDir,
}

impl Mount {
    fn new(mix: Mix) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fs = MemFs::new(Options { direct_io: true, ttl: Duration::from_secs(600) });
        let init = InitConfig::default();
        let session = Session::builder(fs)
            .init(init)
            .transport(Transport::Classic)
            .channels(CHANNELS)
            .wait(WaitPolicy { mix, cpu_budget: 1.0, ..WaitPolicy::default() })
            .mount(dir.path())
            .unwrap();
        std::fs::write(dir.path().join("f"), vec![7; 8192]).unwrap();
        Mount { session, dir }
    }

    /// Reads in a closed loop; returns what the channels counted meanwhile.
    fn reads(&self, count: usize) -> WaitStats {
        let file = File::open(self.dir.path().join("f")).unwrap();
        // Requests of the open and of earlier closes are through.
        self.settle();
        let before = self.counters();
        let mut page = [0; 4096];
        for _ in 0..count {
            file.read_exact_at(&mut page, 4096).unwrap();
            assert_eq!(page[17], 7);
        }
        let after = self.counters();
        WaitStats {
            req_fuse: after.req_fuse - before.req_fuse,
            req_xfuse: after.req_xfuse - before.req_xfuse,
            spin_hit: after.spin_hit - before.spin_hit,
            spin_expired: after.spin_expired - before.spin_expired,
            blocked: after.blocked - before.blocked,
            spin_ns: after.spin_ns - before.spin_ns,
            block_ns: after.block_ns - before.block_ns,
            wakes: after.wakes - before.wakes,
            window_ns: after.window_ns,
        }
    }

    fn counters(&self) -> WaitStats {
        WaitStats::sum(&self.session.stats().snapshot().channels)
    }

    fn settle(&self) {
        let mut last = None;
        eventually("quiet channels", || {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.counters();
            last.replace((now.req_fuse, now.req_xfuse)) == Some((now.req_fuse, now.req_xfuse))
        });
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.session.unmount();
        self.session.wait();
    }
}

#[test]
fn the_share_follows_the_mix_while_it_changes() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !can_mount() {
        return;
    }
    let mount = Mount::new(Mix::FUSE);
    let handle = mount.session.wait_handle();
    for share in [1.0, 0.25, 0.0, 0.75, 0.5, 1.0] {
        handle.set_mix(Mix::Fixed(share));
        // Each channel may still be in a wait that was labelled before the change.
        mount.reads(200);
        let seen = mount.reads(1000);
        let requests = seen.req_fuse + seen.req_xfuse;
        let error = (seen.req_fuse as f64 - share * requests as f64).abs();
        println!("mix {share}: {seen:?}");
        assert!(requests >= 1000, "{requests}");
        // A batch is one request; each channel has its own error at both ends of the measurement.
        assert!(error <= 2.0 * CHANNELS as f64 + 2.0, "share {share}: {} of {requests}", seen.req_fuse);
        if share == 1.0 {
            assert_eq!((seen.spin_ns, seen.spin_hit, seen.spin_expired), (0, 0, 0));
        }
    }
}

/// A single caller must not always wait for the same thread to go to sleep first.
#[test]
fn channels_whose_handlers_answer_at_once_take_turns() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !can_mount() {
        return;
    }
    let mount = Mount::new(Mix::FUSE);
    let served = || -> Vec<u64> {
        mount.session.stats().snapshot().channels.iter().map(|channel| channel.req_fuse).collect()
    };
    let before = served();
    eventually("all channels to serve", || {
        mount.reads(1000);
        let counts: Vec<u64> = served().iter().zip(&before).map(|(after, before)| after - before).collect();
        println!("{counts:?}");
        counts.len() == CHANNELS && counts.iter().all(|count| *count >= 300)
    });
}

#[test]
fn the_automatic_mix_serves_and_stays_in_range() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !can_mount() {
        return;
    }
    let mount = Mount::new(Mix::Auto);
    let handle = mount.session.wait_handle();
    for _ in 0..5 {
        let seen = mount.reads(2000);
        println!("auto at {}, wake {:?}: {seen:?}", handle.share(), handle.wake_cost());
        assert!((0.0..=1.0).contains(&handle.share()));
        assert_eq!(handle.mix(), Mix::Auto);
    }
}

#[test]
fn many_callers_with_spinning() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !can_mount() {
        return;
    }
    let mount = Mount::new(Mix::Fixed(0.0));
    mount.session.wait_handle().set_max_window(Duration::from_micros(200));
    let path = mount.dir.path().join("f");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut page = [0; 4096];
                for round in 0..300 {
                    let file = File::open(&path).unwrap();
                    file.read_exact_at(&mut page, 0).unwrap();
                    if round % 50 == 0 {
                        std::thread::sleep(Duration::from_millis(7));
                    }
                }
            });
        }
    });
    let snapshot = mount.session.stats().snapshot();
    assert_eq!((snapshot.panics, snapshot.malformed, snapshot.refused_replies), (0, 0, 0));
    println!("{:?}", snapshot.channels);
}

/// Channels settle, leave, step aside and come back all the time; no request is forgotten meanwhile.
#[test]
fn no_caller_stands_while_the_mix_changes() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !can_mount() {
        return;
    }
    let mount = Mount::new(Mix::Auto);
    let handle = mount.session.wait_handle();
    handle.set_max_window(Duration::from_micros(200));
    let file = File::open(mount.dir.path().join("f")).unwrap();
    let (stop, counts) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 4]);
    let stood = std::thread::scope(|scope| {
        let call = |caller: usize| {
            let count = &counts[caller];
            while !stop.load(Relaxed) && file.read_exact_at(&mut [0; 4096], 4096).is_ok() {
                // From one caller at a time to all of them.
                if (count.fetch_add(1, Relaxed) >> 6) % 4 < caller as u64 {
                    std::thread::sleep(Duration::from_micros(300 * caller as u64));
                }
            }
        };
        let callers: Vec<_> = (0..counts.len()).map(|caller| scope.spawn(move || call(caller))).collect();
        for mix in [Mix::Auto, Mix::XFUSE, Mix::Fixed(0.5), Mix::FUSE].into_iter().cycle().take(100) {
            handle.set_mix(mix);
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Relaxed);
        let stopped = Instant::now();
        while callers.iter().any(|caller| !caller.is_finished()) {
            if stopped.elapsed() > Duration::from_secs(10) {
                // Or they would never end.
                let _ = mount.session.abort();
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    });
    println!("{counts:?} {:?}", mount.counters());
    assert!(!stood && counts.iter().all(|count| count.load(Relaxed) > 50), "{counts:?}");
}

/// Times the channel threads of this process gave up the CPU by themselves.
fn waits_of_channels() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok())
        .filter(|status| status.starts_with("Name:\tfuse-"))
        .filter_map(|status| {
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .sum()
}

#[test]
fn an_idle_mount_does_not_wake_up() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !can_mount() {
        return;
    }
    let mount = Mount::new(Mix::XFUSE);
    mount.reads(1000);
    // After the last request, a channel that stepped aside takes some milliseconds to come back. What else looks at
    // all mounts of the machine wakes the channels too, so quiet seconds are waited for.
    eventually("a second without wake-ups", || {
        let before = waits_of_channels();
        std::thread::sleep(Duration::from_secs(1));
        waits_of_channels() == before
    });
}

/// A child closes the files it has inherited while it executes another program, and waits for the mount then. Whoever
/// serves must not wait for the child.
#[test]
fn callers_that_execute_programs_are_served() {
    if !can_mount() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mount = Mount::new(Mix::XFUSE);
    let file = File::open(mount.dir.path().join("f")).unwrap();
    let (done, outcome) = std::sync::mpsc::channel();
    let children = std::thread::spawn(move || {
        for _ in 0..500 {
            assert!(std::process::Command::new("true").status().unwrap().success());
        }
        drop(file);
        done.send(()).unwrap();
    });
    let served = outcome.recv_timeout(Duration::from_secs(60));
    if served.is_err() {
        mount.session.abort().unwrap();
    }
    children.join().unwrap();
    assert!(served.is_ok(), "the mount hangs");
    assert!(mount.counters().req_xfuse > 500, "each child closed the file");
}

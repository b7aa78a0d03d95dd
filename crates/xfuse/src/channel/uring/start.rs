//! Bringing the queues of a connection up, or back down to classic while that is still possible.
//!
//! Rings are made before INIT is answered, since what they need may be missing. After INIT, one entry is registered in
//! every queue. The kernel begins when the last queue has one; until then it holds back all requests. If a queue fails,
//! a registration that cannot be right makes the kernel return to classic and let the requests go.

use super::choice;
use super::place::Place;
use super::queue::Queue;
use crate::init::Negotiated;
use crate::session::STACK;
use rustix::fd::OwnedFd;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// Most entries of a queue.
const MAX_DEPTH: u16 = 64;
/// Smallest payload the kernel accepts.
const MIN_PAYLOAD: usize = 8192;

type Job = Box<dyn FnOnce() + Send>;

/// A thread with a queue, which does what it is told: a queue belongs to the thread that registers its entries.
pub(crate) struct Worker {
    pub(crate) queue: Arc<Queue>,
    jobs: mpsc::Sender<Job>,
    pub(crate) thread: JoinHandle<()>,
}

impl Worker {
    /// Runs something on the thread, after what it was told before. The thread ends when the worker is dropped.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        // A thread that has ended drops the job, which its result channel tells.
        let _ = self.jobs.send(Box::new(job));
    }

    fn ask<T: Send + 'static>(&self, question: impl FnOnce(&Queue) -> T + Send + 'static) -> Option<T> {
        let (answer, result) = mpsc::sync_channel(1);
        let queue = self.queue.clone();
        self.run(move || {
            let _ = answer.send(question(&queue));
        });
        result.recv().ok()
    }
}

/// CPUs that the kernel has queues for.
pub(crate) fn possible_cpus() -> io::Result<u16> {
    let all = cpus("/sys/devices/system/cpu/possible")?;
    u16::try_from(all.len()).map_err(io::Error::other)
}

/// CPUs that requests can come from at present.
fn online_cpus() -> io::Result<Vec<u16>> {
    cpus("/sys/devices/system/cpu/online")
}

fn cpus(list: &str) -> io::Result<Vec<u16>> {
    let text = std::fs::read_to_string(list)?;
    parse_cpus(&text).ok_or_else(|| io::Error::other(format!("{list}: no list of CPUs")))
}

/// The CPUs in a list like `0-3,8`.
fn parse_cpus(text: &str) -> Option<Vec<u16>> {
    let mut all = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        if last < first {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// Makes a thread with a ring for every queue, `polled` by the kernel or not. Nothing of the connection has changed if this
/// fails.
pub(crate) fn prepare(
    device: &Arc<OwnedFd>,
    depth: Option<u16>,
    polled: bool,
) -> Result<Vec<Worker>, String> {
    let depth = depth.unwrap_or(choice::DEPTH).clamp(1, MAX_DEPTH);
    let count = possible_cpus().map_err(|error| error.to_string())?;
    (0..count).map(|qid| worker(device, qid, depth, polled)).collect()
}

fn worker(device: &Arc<OwnedFd>, qid: u16, depth: u16, polled: bool) -> Result<Worker, String> {
    let (jobs, inbox) = mpsc::channel::<Job>();
    let (made, result) = mpsc::sync_channel(1);
    let device = device.clone();
    let main = move || {
        let _ = made.send(match polled {
            false => Queue::new(device, qid, depth, Place::pin(qid)),
            true => Queue::polled(device, qid, depth, Place::beside(qid)),
        });
        while let Ok(job) = inbox.recv() {
            job();
        }
    };
    let thread = std::thread::Builder::new().name(format!("fuse-q{qid}")).stack_size(STACK).spawn(main);
    let thread = thread.map_err(|error| format!("thread of queue {qid}: {error}"))?;
    let queue = result.recv().map_err(|_| format!("thread of queue {qid} ended"))?;
    let queue = queue.map_err(|error| format!("io_uring for queue {qid}: {error}"))?;
    Ok(Worker { queue, jobs, thread })
}

/// Registers the entries. After an error the connection is a classic one. `fault` makes the last queue fail, for tests.
pub(crate) fn register(
    workers: &[Worker],
    negotiated: &Negotiated,
    wanted: Option<u16>,
    fault: bool,
) -> Result<(), String> {
    let pages = negotiated.max_pages as usize * crate::init::PAGE_SIZE as usize;
    let payload = MIN_PAYLOAD.max(negotiated.max_write as usize).max(pages);
    let mut failed = None;
    for (index, worker) in workers.iter().enumerate() {
        if fault && index + 1 == workers.len() {
            failed = Some("a test wants it to fail".to_owned());
            break;
        }
        let result = worker.ask(move |queue| queue.register(payload));
        let error = match result {
            Some(Ok(())) => continue,
            Some(Err(error)) => error.to_string(),
            None => "its thread ended".to_owned(),
        };
        failed = Some(format!("registering with queue {}: {error}", worker.queue.qid()));
        break;
    }
    let Some(reason) = failed else {
        let online = online_cpus().unwrap_or_default();
        let depth = wanted.unwrap_or_else(|| choice::depth(online.len(), payload));
        // The queue of a CPU that may never be there gets no more than it must have, unless the number was set.
        let is_used = |worker: &Worker| wanted.is_some() || online.contains(&worker.queue.qid());
        for worker in workers.iter().filter(|worker| is_used(worker)) {
            worker.run({
                let queue = worker.queue.clone();
                move || more_entries(&queue, payload, depth)
            });
        }
        return Ok(());
    };
    let revoked = workers.first().and_then(|worker| worker.ask(Queue::revoke));
    if !matches!(revoked, Some(Ok(()))) {
        tracing::error!(?revoked, "the kernel may not have returned to the classic transport");
    }
    Err(reason)
}

/// Fewer entries than wanted are enough.
fn more_entries(queue: &Queue, payload: usize, depth: u16) {
    for have in 1..depth.min(MAX_DEPTH) {
        if let Err(error) = queue.register(payload) {
            tracing::warn!(qid = queue.qid(), have, %error, "a queue has fewer entries than wanted");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "looks at the system")]
    fn cpu_lists_are_read() {
        assert_eq!(parse_cpus("0-1\n"), Some(vec![0, 1]));
        assert_eq!(parse_cpus("0"), Some(vec![0]));
        assert_eq!(parse_cpus("0-2,8,10-11"), Some(vec![0, 1, 2, 8, 10, 11]));
        for bad in ["", "a", "3-1", "0-65536"] {
            assert_eq!(parse_cpus(bad), None, "{bad}");
        }
        let online = online_cpus().unwrap().len();
        assert!(online > 0 && usize::from(possible_cpus().unwrap()) >= online);
    }
}

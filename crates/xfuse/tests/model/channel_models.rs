//! Channels that follow the rules of `channel/classic.rs` with the real [`Hot`], over a device that wakes who watches it:
//! every request is served, and every channel learns of the end.

use crate::check;
use crate::hot::Hot;
use crate::sync::{Mutex, let_timers_fire};
use loom::future::block_on;
use loom::thread;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// The kernel's list of requests, and an edge-triggered registration for each channel.
#[derive(Default)]
struct Device(Mutex<Connection>);

#[derive(Default)]
struct Connection {
    requests: u32,
    gone: bool,
    /// Who waits for the last request to be served.
    callers: Option<Waker>,
    watches: [Option<Watch>; 2],
}

#[derive(Default)]
struct Watch {
    edge: bool,
    task: Option<Waker>,
}

enum Step {
    Request,
    Empty,
    Gone,
}

impl Device {
    fn tell(&self, change: impl FnOnce(&mut Connection)) {
        let woken: Vec<_> = {
            let mut connection = self.0.lock();
            change(&mut connection);
            let watches = connection.watches.iter_mut().flatten();
            watches
                .filter_map(|watch| (std::mem::replace(&mut watch.edge, true), watch.task.take()).1)
                .collect()
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Registering looks at what is there already.
    fn watch(&self, channel: usize) {
        let mut connection = self.0.lock();
        let edge = connection.requests > 0 || connection.gone;
        connection.watches[channel].get_or_insert(Watch { edge, task: None });
    }

    fn unwatch(&self, channel: usize) {
        self.0.lock().watches[channel] = None;
    }

    /// Waits for an edge, and takes it.
    async fn edge(&self, channel: usize) {
        poll_fn(|task| {
            let mut connection = self.0.lock();
            let watch = connection.watches[channel].as_mut().expect("registered");
            if std::mem::take(&mut watch.edge) {
                return Poll::Ready(());
            }
            watch.task = Some(task.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn read(&self) -> Step {
        let mut connection = self.0.lock();
        match connection.requests {
            _ if connection.gone => Step::Gone,
            0 => Step::Empty,
            _ => {
                connection.requests -= 1;
                if connection.requests == 0 {
                    connection.callers.take().into_iter().for_each(Waker::wake);
                }
                Step::Request
            }
        }
    }

    /// Waits until all requests are served.
    async fn served(&self) {
        poll_fn(|task| {
            let mut connection = self.0.lock();
            if connection.requests == 0 {
                return Poll::Ready(());
            }
            connection.callers = Some(task.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Serves until the end, and settles on the place with the first request that it waited for. Returns how many requests
/// it served. `spins` makes it look for a request before it blocks.
fn serve(device: &Device, hot: &Hot, channel: usize, spins: bool) -> u32 {
    let mut served = 0;
    loop {
        if spins && hot.take(channel) {
            match device.read() {
                Step::Gone => return served,
                Step::Request => {
                    served += 1;
                    hot.settle(channel);
                    continue;
                }
                Step::Empty => hot.leave(channel),
            }
        }
        if hot.is_other(channel) {
            device.unwatch(channel);
            block_on(hot.while_other(channel));
        }
        device.watch(channel);
        block_on(device.edge(channel));
        loop {
            match device.read() {
                Step::Gone => return served,
                Step::Empty => break,
                Step::Request => {
                    served += 1;
                    if hot.take(channel) {
                        hot.settle(channel);
                    }
                }
            }
        }
    }
}

fn all_is_served(preemptions: usize, requests: u32, spins: bool) {
    let_timers_fire(true);
    check(preemptions, move || {
        let (device, hot) = (Arc::new(Device::default()), Arc::new(Hot::default()));
        let channels = [0, 1].map(|channel| {
            let (device, hot) = (device.clone(), hot.clone());
            thread::spawn(move || serve(&device, &hot, channel, spins && channel == 1))
        });
        (0..requests).for_each(|_| device.tell(|connection| connection.requests += 1));
        block_on(device.served());
        device.tell(|connection| connection.gone = true);
        let served: u32 = channels.into_iter().map(|channel| channel.join().unwrap()).sum();
        assert_eq!(served, requests);
    });
}

#[test]
fn blocking_channels_serve_all_requests() {
    all_is_served(2, 2, false);
}

#[test]
fn a_spinning_channel_beside_a_blocking_one() {
    all_is_served(1, 2, true);
}

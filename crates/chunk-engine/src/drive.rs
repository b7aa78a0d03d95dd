//! Updates that go on when their caller goes away.
//!
//! An update writes to places of the disk it has taken. Were it dropped half-way, the kernel might still be writing
//! there when the place is given to another. So a dropped update is handed to the engine's background task, which
//! brings it to its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::engine::Engine;
use crate::error::Result;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An update under way.
pub(crate) struct Driven<T: Send + 'static> {
    engine: Arc<Engine>,
    update: Option<Boxed<Result<T>>>,
}

impl<T: Send + 'static> Driven<T> {
    pub(crate) fn new(
        engine: &Arc<Engine>,
        update: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Self {
        Driven { engine: Arc::clone(engine), update: Some(Box::pin(update)) }
    }
}

impl<T: Send + 'static> Future for Driven<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let update = self.update.as_mut().expect("a future is not polled after it was ready");
        let result = std::task::ready!(update.as_mut().poll(cx));
        self.update = None;
        Poll::Ready(result)
    }
}

impl<T: Send + 'static> Drop for Driven<T> {
    fn drop(&mut self) {
        if let Some(update) = self.update.take() {
            self.engine.orphans.adopt(Box::pin(async move { drop(update.await) }));
        }
    }
}

/// Updates whose callers went away.
#[derive(Default)]
pub(crate) struct Orphans {
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Whether somebody looks after them.
    tended: bool,
    updates: Vec<Boxed<()>>,
    tender: Option<Waker>,
}

impl Orphans {
    fn adopt(&self, update: Boxed<()>) {
        let mut shared = self.shared.lock();
        if !shared.tended {
            // The chunk stays busy and its places out of use until the engine is opened again.
            drop(shared);
            drop(update);
            return;
        }
        shared.updates.push(update);
        let tender = shared.tender.take();
        drop(shared);
        tender.into_iter().for_each(Waker::wake);
    }

    /// Looks after orphans until the guard is dropped.
    pub(crate) fn tend(&self) -> Tending<'_> {
        self.shared.lock().tended = true;
        Tending { orphans: self, mine: Vec::new() }
    }
}

/// Polls orphans.
pub(crate) struct Tending<'a> {
    orphans: &'a Orphans,
    mine: Vec<Boxed<()>>,
}

impl Tending<'_> {
    /// Polls all orphans; the task is woken when another comes.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        {
            let mut shared = self.orphans.shared.lock();
            self.mine.append(&mut shared.updates);
            shared.tender = Some(cx.waker().clone());
        }
        self.mine.retain_mut(|update| update.as_mut().poll(cx).is_pending());
    }

    /// Whether all are done.
    pub(crate) fn is_idle(&self) -> bool {
        self.mine.is_empty()
    }
}

impl Drop for Tending<'_> {
    fn drop(&mut self) {
        let left = {
            let mut shared = self.orphans.shared.lock();
            shared.tended = false;
            std::mem::take(&mut shared.updates)
        };
        drop(left);
    }
}

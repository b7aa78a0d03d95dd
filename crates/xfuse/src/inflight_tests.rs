//! Requests in flight.

use crate::inflight::*;

#[tokio::test]
async fn interrupt_reaches_only_its_request() {
    let table = Inflight::new(2);
    let (a, b) = (table.acquire().await, table.acquire().await);
    a.assign(4, 1);
    b.assign(6, 1);
    assert!(table.interrupt(6));
    assert!(!a.is_interrupted() && b.is_interrupted());
    b.interrupted().await;
    assert!(!table.interrupt(8));
    drop(b);
    assert!(!table.interrupt(6), "a finished request cannot be interrupted");
}

#[tokio::test]
async fn acquire_waits_for_a_release() {
    let table = Inflight::new(1);
    let guard = table.acquire().await;
    let waiter = tokio::spawn({
        let table = table.clone();
        async move { drop(table.acquire().await) }
    });
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished());
    drop(guard);
    waiter.await.unwrap();
    table.drained().await;
}

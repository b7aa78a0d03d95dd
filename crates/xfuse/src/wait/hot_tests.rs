//! The place of the channel that serves alone.

use super::hot::*;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use tokio::time::{Duration, Instant, sleep};

#[tokio::test(start_paused = true)]
async fn others_wait_while_one_polls_and_no_longer() {
    let hot = Hot::default();
    assert!(hot.take(0) && hot.take(1) && hot.take(1), "nobody has settled");
    assert!(!hot.is_other(0));
    (0..SETTLED).for_each(|_| hot.hit(1));
    assert!(!hot.take(0));
    assert!(hot.is_other(0) && !hot.is_other(1));
    hot.while_other(1).await;
    // The holder has stopped polling: its place is free after one look.
    hot.while_other(0).await;
    assert!(hot.take(0));
    (0..SETTLED).for_each(|_| hot.hit(0));
    let polling = async {
        for _ in 0..20 {
            tokio::time::sleep(LOOK_AGAIN / 2).await;
            assert!(hot.take(0));
        }
        hot.leave(0);
    };
    let started = tokio::time::Instant::now();
    tokio::join!(polling, hot.while_other(1));
    assert!(started.elapsed() >= 10 * LOOK_AGAIN, "waited while it polled");
}

#[tokio::test(start_paused = true)]
async fn who_stepped_aside_looks_less_and_less_often_but_never_rarely() {
    const SERVING: Duration = Duration::from_secs(2);
    let hot = Arc::new(Hot::default());
    assert!(hot.take(0));
    hot.settle(0);
    let started = Instant::now();
    let holder = tokio::spawn({
        let hot = hot.clone();
        async move {
            while started.elapsed() < SERVING {
                sleep(Duration::from_millis(1)).await;
                assert!(hot.take(0));
            }
            // From now on a handler keeps its thread busy.
        }
    });
    let mut looks = 0;
    let mut waiting = pin!(hot.while_other(1));
    poll_fn(|task| {
        looks += 1;
        waiting.as_mut().poll(task)
    })
    .await;
    assert!(holder.is_finished() && !hot.is_held_by(0));
    let late = started.elapsed() - SERVING;
    assert!(late <= 2 * LOOK_AT_LAST + LOOK_AGAIN, "{late:?}");
    let most = 6 + SERVING.as_millis() / LOOK_AT_LAST.as_millis();
    assert!(looks <= most, "{looks} looks, where {most} are enough");
}

//! The place of the channel that serves alone.

use super::hot::*;

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

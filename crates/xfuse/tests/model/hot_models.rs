//! The place of the channel that serves alone.

use crate::check;
use crate::hot::Hot;
use crate::sync::let_timers_fire;
use loom::future::block_on;
use loom::thread;
use std::sync::Arc;

/// A place that channel 0 has settled on.
fn settled() -> Arc<Hot> {
    let hot = Arc::new(Hot::default());
    assert!(hot.take(0));
    hot.settle(0);
    assert!(hot.is_other(1) && !hot.is_other(0));
    hot
}

/// Without timers: a notification that is lost shows as a deadlock.
#[test]
fn who_stepped_aside_is_told_when_the_settled_one_leaves() {
    let_timers_fire(false);
    check(4, || {
        let hot = settled();
        let leaver = thread::spawn({
            let hot = hot.clone();
            move || hot.leave(0)
        });
        let comer = thread::spawn({
            let hot = hot.clone();
            move || {
                if hot.take(2) {
                    hot.hit(2);
                }
            }
        });
        block_on(hot.while_other(1));
        assert!(!hot.is_other(1));
        leaver.join().unwrap();
        comer.join().unwrap();
    });
}

/// The same while another channel settles and leaves in its turn.
#[test]
fn who_stepped_aside_outlasts_two_settled_ones() {
    let_timers_fire(false);
    check(3, || {
        let hot = settled();
        let leaver = thread::spawn({
            let hot = hot.clone();
            move || hot.leave(0)
        });
        let comer = thread::spawn({
            let hot = hot.clone();
            move || {
                if hot.take(2) {
                    hot.settle(2);
                    hot.leave(2);
                }
            }
        });
        block_on(hot.while_other(1));
        leaver.join().unwrap();
        comer.join().unwrap();
        assert!(!hot.is_other(1));
    });
}

/// Whoever finds the place still his after settling keeps it: no other takes or settles on it.
#[test]
fn one_settles_at_most_and_is_not_displaced() {
    check(4, || {
        let hot = Arc::new(Hot::default());
        let strive = |channel: usize| {
            let hot = hot.clone();
            move || {
                if !hot.take(channel) {
                    return false;
                }
                hot.settle(channel);
                let settled = hot.is_held_by(channel);
                assert!(!settled || hot.take(channel), "a settled channel lost its place");
                settled
            }
        };
        let (first, second) = (thread::spawn(strive(0)), thread::spawn(strive(1)));
        let settled = [first.join().unwrap(), second.join().unwrap()];
        assert_eq!(settled.iter().filter(|settled| **settled).count(), 1, "{settled:?}");
        for (channel, settled) in settled.into_iter().enumerate() {
            assert_eq!((hot.is_held_by(channel), hot.is_other(channel)), (settled, !settled));
        }
    });
}

/// What one who has lost the place does for it counts neither for the next nor for nobody.
fn former(act: fn(&Hot), displace: fn(&Hot) -> bool) {
    check(3, move || {
        let hot = Arc::new(Hot::default());
        assert!(hot.take(0));
        let former = thread::spawn({
            let hot = hot.clone();
            move || act(&hot)
        });
        let displaced = displace(&hot);
        former.join().unwrap();
        assert_eq!(hot.is_held_by(0), !displaced, "taken from who had settled");
        assert!(!hot.is_other(0), "who came has not settled");
        assert_eq!(hot.is_other(2), !displaced);
    });
}

#[test]
fn hits_belong_to_their_holder() {
    former(|hot| (0..16).for_each(|_| hot.hit(0)), |hot| hot.take(1));
}

#[test]
fn settling_belongs_to_its_holder() {
    former(|hot| hot.settle(0), |hot| hot.take(1));
}

/// As the others do it when the holder seems to be gone.
#[test]
fn nobody_settles_on_a_place_that_was_left() {
    former(
        |hot| hot.settle(0),
        |hot| {
            hot.leave(0);
            true
        },
    );
}

/// With timers: a settled channel that serves no more, without ever leaving, keeps nobody from watching again.
#[test]
fn who_stepped_aside_comes_back_when_the_settled_one_is_gone() {
    let_timers_fire(true);
    check(3, || {
        let hot = settled();
        let last_request = thread::spawn({
            let hot = hot.clone();
            move || hot.take(0)
        });
        let other = thread::spawn({
            let hot = hot.clone();
            move || block_on(hot.while_other(2))
        });
        block_on(hot.while_other(1));
        other.join().unwrap();
        last_request.join().unwrap();
    });
}

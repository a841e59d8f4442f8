//! Who has gone silent, by the monotonic clock alone, and forgiving towards the hub's own pauses.

use std::sync::Arc;
use std::time::Duration;

use registry_core::{CloseReason, ManualClock, Registry};

use super::{Numbers, add, claim, registry};

/// Lets time pass with a sweep every second, as a hub does. How many sessions ended.
fn run(registry: &Registry<Numbers>, hand: &ManualClock, seconds: u64) -> usize {
    (0..seconds)
        .map(|_| {
            hand.advance(Duration::from_secs(1));
            registry.expire().len()
        })
        .sum()
}

#[test]
fn a_silent_session_ends_and_a_speaking_one_stays() {
    let (registry, hand) = registry();
    let (silent, speaking) = (add(&registry, "silent", "u"), add(&registry, "speaking", "u"));
    let old = silent.attach(claim(1), 1).unwrap().session;
    let kept = speaking.attach(claim(2), 1).unwrap().session;
    registry.expire();
    for second in 1..=15 {
        assert_eq!(run(&registry, &hand, 1), 0, "at second {second}");
        speaking.touch(kept.epoch()).unwrap();
    }
    hand.advance(Duration::from_secs(1));
    let expired = registry.expire();
    assert_eq!(expired.len(), 1);
    assert!(Arc::ptr_eq(&expired[0].node, &silent));
    assert_eq!(expired[0].epoch, old.epoch());
    assert_eq!(old.outbox().closed(), Some(CloseReason::LeaseExpired));
    assert!(!silent.is_online());
    assert!(silent.touch(old.epoch()).is_err());
    assert!(speaking.is_online());
    assert!(registry.expire().is_empty(), "it ends once");
    assert!(silent.attach(claim(1), 1).is_ok());
    assert!(silent.is_online());
}

#[test]
fn the_wall_clock_decides_nothing() {
    let (registry, hand) = registry();
    let node = add(&registry, "n", "u");
    let session = node.attach(claim(1), 1).unwrap().session;
    run(&registry, &hand, 10);
    hand.set_unix_ms(1_000_000_000_000);
    assert_eq!(run(&registry, &hand, 5), 0, "a jump ahead is not a silence");
    node.touch(session.epoch()).unwrap();
    assert_eq!(node.last_seen_unix_ms(), 1_000_000_005_000);
    hand.set_unix_ms(5);
    assert_eq!(run(&registry, &hand, 15), 0);
    assert_eq!(run(&registry, &hand, 1), 1, "a jump back is not a sign of life");
}

#[test]
fn a_hub_that_stood_still_blames_nobody() {
    let (registry, hand) = registry();
    let (alive, dead) = (add(&registry, "alive", "u"), add(&registry, "dead", "u"));
    let session = alive.attach(claim(1), 1).unwrap().session;
    dead.attach(claim(2), 1).unwrap();
    run(&registry, &hand, 5);
    // Stopped for two minutes: the heartbeats wait unread in the sockets.
    hand.advance(Duration::from_secs(120));
    assert!(registry.expire().is_empty());
    assert_eq!(run(&registry, &hand, 4), 0);
    alive.touch(session.epoch()).unwrap();
    assert_eq!(run(&registry, &hand, 14), 1, "the one that stays silent ends");
    assert!(alive.is_online() && !dead.is_online());
}

//! Fencing against disconnect, heartbeat, expiry and removal.

use std::sync::Arc;
use std::time::Duration;

use shuttle::thread;

use super::{Numbers, add, claim, registry};
use crate::{AttachError, CloseReason, SessionEpoch};

/// The old stream ends while the new one attaches.
pub(super) fn stale_detach() {
    let (registry, _) = registry::<Numbers>();
    let node = add(&registry, "a");
    let old = node.attach(claim(1), 4).unwrap().session;
    let ender = thread::spawn({
        let (node, old) = (Arc::clone(&node), Arc::clone(&old));
        move || node.detach(old.epoch())
    });
    let attached = node.attach(claim(2), 4).unwrap();
    let ended = ender.join().unwrap();
    assert_eq!(attached.displaced.is_some(), !ended, "displaced or detached, and not both");
    assert!(old.is_ended() && !attached.session.is_ended());
    let why = old.outbox().closed();
    assert_eq!(why, Some(if ended { CloseReason::Left } else { CloseReason::Superseded }));
    assert!(node.is_online());
    assert_eq!(node.session().unwrap().epoch(), attached.session.epoch());
    assert_eq!(attached.session.outbox().closed(), None);
}

/// The old stream's heartbeat comes while the new one attaches and reports.
pub(super) fn stale_heartbeat() {
    let (registry, _) = registry::<Numbers>();
    let node = add(&registry, "a");
    let old = node.attach(claim(1), 4).unwrap().session;
    let beater = thread::spawn({
        let node = Arc::clone(&node);
        move || (0..2).map(|_| node.heartbeat(old.epoch(), Arc::new(1)).is_ok()).collect::<Vec<_>>()
    });
    let new = node.attach(claim(2), 4).unwrap().session;
    node.heartbeat(new.epoch(), Arc::new(2)).unwrap();
    assert_eq!(node.stats().as_deref(), Some(&2));
    let beats = beater.join().unwrap();
    assert!(beats[0] || !beats[1], "fenced, and then not: {beats:?}");
    assert_eq!(node.stats().as_deref(), Some(&2), "a stale heartbeat wrote into the successor");
    assert_eq!(node.session().unwrap().epoch(), new.epoch());
}

/// Three streams of one node attach at once, and a reader looks at the node meanwhile.
pub(super) fn takeovers() {
    let (registry, _) = registry::<Numbers>();
    let node = add(&registry, "a");
    let first = node.attach(claim(9), 4).unwrap().session;
    let attachers = [1, 2].map(|agent| {
        let node = Arc::clone(&node);
        thread::spawn(move || node.attach(claim(agent), 4).unwrap())
    });
    // Held all the time: there is always a session to be seen, and epochs only grow.
    let mut seen = SessionEpoch(0);
    for _ in 0..2 {
        assert!(node.is_online());
        let epoch = node.session().expect("a node that was never left").epoch();
        assert!(epoch >= seen);
        seen = epoch;
    }
    let attached = attachers.map(|attacher| attacher.join().unwrap());
    let newest = node.session().unwrap();
    assert_eq!((newest.epoch(), node.epoch()), (SessionEpoch(3), SessionEpoch(3)));
    assert_eq!(first.outbox().closed(), Some(CloseReason::Superseded));
    for attached in attached {
        let wins = attached.session.epoch() == newest.epoch();
        assert_eq!(attached.session.is_ended(), !wins);
        assert_eq!(attached.session.outbox().closed(), (!wins).then_some(CloseReason::Superseded));
    }
}

/// A node is removed while a stream attaches.
pub(super) fn removal() {
    let (registry, _) = registry::<Numbers>();
    let node = add(&registry, "a");
    let attacher = thread::spawn({
        let node = Arc::clone(&node);
        move || node.attach(claim(1), 4)
    });
    registry.remove("a").expect("it is on the roll");
    assert!(!node.is_online() && node.is_removed());
    match attacher.join().unwrap() {
        Ok(attached) => {
            assert!(attached.session.is_ended());
            assert_eq!(attached.session.outbox().closed(), Some(CloseReason::Revoked));
        }
        Err(refused) => assert_eq!(refused, AttachError::Removed),
    }
    assert!(node.session().is_none());
}

/// The lease of a session runs out while it reports, or while another takes over.
pub(super) fn expiry() {
    let (registry, hand) = registry::<Numbers>();
    let node = add(&registry, "a");
    let old = node.attach(claim(1), 4).unwrap().session;
    for _ in 0..20 {
        hand.advance(Duration::from_secs(1));
        assert!(expire(&registry).is_empty() || old.is_ended());
    }
    assert!(old.is_ended(), "20 s of silence are over a lease of 15 s");
    let old = node.attach(claim(1), 4).unwrap().session;
    for _ in 0..15 {
        hand.advance(Duration::from_secs(1));
        assert!(expire(&registry).is_empty());
    }
    hand.advance(Duration::from_millis(1));
    let attacher = thread::spawn({
        let node = Arc::clone(&node);
        move || node.attach(claim(2), 4).unwrap().session
    });
    let expired = expire(&registry);
    let new = attacher.join().unwrap();
    assert!(!new.is_ended() && node.is_online(), "the successor was blamed for its predecessor");
    assert!(old.is_ended());
    assert!(expired.is_empty() || expired == [old.epoch()]);
    stale_seat();
}

/// A session that is over writes into its seat once more, an old time, while its successor sits and a sweep looks.
fn stale_seat() {
    let (registry, hand) = registry::<Numbers>();
    let node = add(&registry, "a");
    // The first sweep has nothing to be late against, and each is a step for every seat: only one is raced.
    hand.advance(Duration::from_secs(16));
    let held = node.attach(claim(2), 4).unwrap().session;
    // Kept to the end: leaving would take the seat out of the sweep's sight.
    let writer = thread::spawn(move || {
        let _ = held.touch_at(0);
        held
    });
    let new = node.attach(claim(3), 4).unwrap().session;
    let old = writer.join().unwrap();
    assert!(expire(&registry).is_empty(), "an old time was found in the successor's seat");
    assert!(old.is_ended() && !new.is_ended());
}

/// Sweeps once; who was ended.
fn expire(registry: &crate::Registry<Numbers>) -> Vec<SessionEpoch> {
    registry.expire().into_iter().map(|expired| expired.epoch).collect()
}

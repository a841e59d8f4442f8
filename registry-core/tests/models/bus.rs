//! Publish against close against prune, against a lagging reader, and against a snapshot.

use std::sync::{Arc, Weak};

use shuttle::thread;

use super::{Numbers, add, drain, receive, registry, user};
use crate::{Fleet, Interest, NodeId, Registry, Restored, SubscribeOptions};

/// One reader leaves, one stays; a publisher and a sweeper find the place of the one that left.
pub(super) fn close_publish_prune() {
    const EVENTS: u64 = 3;
    let (registry, _) = registry::<Numbers>();
    let node = add(&registry, "a");
    let both = || Interest { users: vec![user()], nodes: vec![node.id().clone()] };
    let leaves = registry.subscribe(both(), SubscribeOptions::default());
    let mut stays = registry.subscribe(both(), SubscribeOptions::default());
    let before = registry.bus_stats();
    assert_eq!((before.subscriptions, before.entries), (2, 4));
    let publisher = thread::spawn({
        let (registry, node) = (Arc::clone(&registry), Arc::clone(&node));
        move || (0..EVENTS).map(|event| registry.publish(&node, |_| event) as u64).sum::<u64>()
    });
    let leaver = thread::spawn(move || {
        let mut leaves = leaves;
        let (events, missed, closed) = drain(&mut leaves);
        assert_eq!((missed, closed), (0, None));
        events.len() as u64
    });
    let sweeper = thread::spawn({
        let registry = Arc::clone(&registry);
        move || registry.sweep()
    });
    let (delivered, read) = (publisher.join().unwrap(), leaver.join().unwrap());
    sweeper.join().unwrap();
    let (events, missed, closed) = drain(&mut stays);
    assert_eq!((events, missed, closed), (vec![0, 1, 2], 0, None));
    assert!(delivered >= EVENTS + read && delivered <= 2 * EVENTS, "{delivered} delivered, {read} read");
    registry.sweep();
    let after = registry.bus_stats();
    assert_eq!((after.subscriptions, after.entries, after.pruned_total), (1, 2, 2));
    assert_eq!((after.delivered_total, after.missed_total), (delivered, 0));
    drop(stays);
    registry.sweep();
    let end = registry.bus_stats();
    assert_eq!((end.subscriptions, end.entries, end.pruned_total), (0, 0, 4));
}

/// A queue of one place: the reader takes while publishers push over the oldest.
pub(super) fn nothing_goes_untold() {
    const EACH: u64 = 2;
    let (registry, _) = registry::<Numbers>();
    let nodes = [add(&registry, "a"), add(&registry, "b")];
    let tight = SubscribeOptions { capacity: 1, ..SubscribeOptions::default() };
    let mut subscription = registry.subscribe(Interest::user(user()), tight);
    let publishers = nodes.map(|node| {
        let registry = Arc::clone(&registry);
        thread::spawn(move || (0..EACH).for_each(|event| _ = registry.publish(&node, |_| event)))
    });
    let events = receive(&mut subscription, 2 * EACH);
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
    let stats = registry.bus_stats();
    assert_eq!(events.len() as u64 + subscription.missed_total(), 2 * EACH);
    assert_eq!((stats.delivered_total, stats.missed_total), (2 * EACH, subscription.missed_total()));
    assert_eq!(drain(&mut subscription), (Vec::new(), 0, None));
}

/// Each event carries its rev, so that the snapshot's rev says which of them must come.
pub(super) fn snapshot_then_events() {
    const EVENTS: u64 = 3;
    let (registry, _) = registry::<Numbers>();
    let node = add(&registry, "a");
    // The ring is there before: the race is with the snapshot, not with the first subscriber.
    let earlier = registry.subscribe(Interest::user(user()), SubscribeOptions::default());
    let publisher = thread::spawn({
        let (registry, node) = (Arc::clone(&registry), Arc::clone(&node));
        move || (0..EVENTS).for_each(|_| _ = registry.publish(&node, |rev| rev))
    });
    let (shown, _, mut subscription) = registry.watch(&user(), SubscribeOptions::default(), |_node, rev| rev);
    publisher.join().unwrap();
    let (events, missed, closed) = drain(&mut subscription);
    assert_eq!((missed, closed), (0, None));
    assert_eq!(events, (shown[0] + 1..=EVENTS).collect::<Vec<_>>(), "the snapshot showed rev {}", shown[0]);
    drop(earlier);
}

/// Events whose destructor asks the bus a question, for which it takes the topic's lock.
struct Askers;

impl Fleet for Askers {
    type Event = Asking;
    type Command = ();
    type Meta = ();
    type Stats = ();
}

struct Asking(Weak<Registry<Askers>>);

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(registry) = self.0.upgrade() {
            let _ = registry.position(&user());
        }
    }
}

/// A payload that falls under a lock would take that lock a second time, which shuttle calls a deadlock.
pub(super) fn no_payload_falls_under_a_lock() {
    let (registry, _) = registry::<Askers>();
    let node =
        registry.register(NodeId::new("a").unwrap(), user(), Arc::new(()), Restored::default()).unwrap();
    let tight = || SubscribeOptions { capacity: 1, ..SubscribeOptions::default() };
    // A user who is watched is never forgotten, for which the map would be locked while others run.
    let both = || Interest { users: vec![user()], nodes: vec![node.id().clone()] };
    let leaves = registry.subscribe(both(), tight());
    let stays = registry.subscribe(both(), tight());
    let publisher = thread::spawn({
        let (registry, node) = (Arc::clone(&registry), Arc::clone(&node));
        move || (0..3).for_each(|_| _ = registry.publish(&node, |_| Asking(Arc::downgrade(&registry))))
    });
    let leaver = thread::spawn(move || {
        let mut leaves = leaves;
        let _ = leaves.try_recv();
    });
    let sweeper = thread::spawn({
        let registry = Arc::clone(&registry);
        move || registry.sweep()
    });
    publisher.join().unwrap();
    leaver.join().unwrap();
    sweeper.join().unwrap();
    drop(stays);
}

//! Publish against close against prune, against a lagging reader, and against a snapshot.

use std::sync::{Arc, Weak};
use std::time::Duration;

use shuttle::thread;

use super::{Numbers, add, drain, receive, registry, registry_of_depth, user};
use crate::{Fleet, Interest, NodeId, Received, Registry, Restored, SubscribeOptions};

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

/// A log of one place, shared or its own: the reader takes while publishers push over the oldest.
pub(super) fn nothing_goes_untold() {
    const EACH: u64 = 2;
    for capacity in [None, Some(1)] {
        let (registry, _) = registry_of_depth::<Numbers>(1);
        let nodes = [add(&registry, "a"), add(&registry, "b")];
        let options = SubscribeOptions { capacity, ..SubscribeOptions::default() };
        let mut subscription = registry.subscribe(Interest::user(user()), options);
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
}

/// Events of all classes in a log of one place: plain, state, kept, and again.
struct Classes;

impl Fleet for Classes {
    type Event = u64;
    type Command = ();
    type Meta = ();
    type Stats = ();

    fn coalesce(event: &u64) -> bool {
        event % 3 == 1
    }

    fn keep(event: &u64) -> bool {
        event % 3 == 2
    }
}

/// One reader leaves in the middle of it, one reads on, and one stands still until a sweep ends it.
pub(super) fn accounts_are_exact() {
    const EVENTS: u64 = 5;
    for capacity in [None, Some(1)] {
        let (registry, _) = registry_of_depth::<Classes>(1);
        let node =
            registry.register(NodeId::new("a").unwrap(), user(), Arc::new(()), Restored::default()).unwrap();
        let subscribe = |grace| {
            let options = SubscribeOptions { capacity, grace, ..SubscribeOptions::default() };
            registry.subscribe(Interest::user(user()), options)
        };
        let (mut leaves, mut stays) = (subscribe(Duration::MAX), subscribe(Duration::MAX));
        let stands = subscribe(Duration::ZERO);
        let publisher = thread::spawn({
            let (registry, node) = (Arc::clone(&registry), Arc::clone(&node));
            move || (0..EVENTS).map(|event| registry.publish(&node, |_| event) as u64).sum::<u64>()
        });
        let leaver = thread::spawn(move || {
            let mut taken = 0;
            for _ in 0..2 {
                taken += u64::from(matches!(leaves.try_recv(), Ok(Some(Received::Event(_)))));
            }
            taken
        });
        let reader = thread::spawn(move || {
            let mut taken = Vec::new();
            while taken.len() as u64 + stays.missed_total() + stays.coalesced_total() < EVENTS {
                match shuttle::future::block_on(stays.recv()) {
                    Ok(Received::Event(delivery)) => taken.push(delivery.event),
                    Ok(Received::Lagged { missed }) => assert!(missed > 0),
                    Err(closed) => panic!("{closed}"),
                }
            }
            assert!(taken.is_sorted() && taken.contains(&4), "the last state comes: {taken:?}");
            assert!(taken.contains(&2), "an end is not the one that goes: {taken:?}");
            taken.len() as u64
        });
        let sweeper = thread::spawn({
            let registry = Arc::clone(&registry);
            move || registry.sweep()
        });
        let delivered = publisher.join().unwrap();
        let taken = leaver.join().unwrap() + reader.join().unwrap();
        let ended = sweeper.join().unwrap().closed_stagnant;
        drop(stands);
        let stats = registry.bus_stats();
        assert_eq!((stats.subscriptions, stats.closed_stagnant_total), (0, ended as u64));
        let lost = stats.missed_total + stats.coalesced_total + stats.abandoned_total;
        assert_eq!((stats.delivered_total, taken + lost), (delivered, delivered), "{stats:?}");
    }
}

/// The state is changed and then told, so that what the snapshot shows says which events must come: beside an earlier
/// reader, for the first one of all, and with a log of its own.
pub(super) fn snapshot_then_events() {
    const EVENTS: u64 = 3;
    for (capacity, is_first) in [(None, false), (None, true), (Some(8), true)] {
        let (registry, _) = registry::<Numbers>();
        let node = add(&registry, "a");
        let earlier =
            (!is_first).then(|| registry.subscribe(Interest::user(user()), SubscribeOptions::default()));
        let publisher = thread::spawn({
            let (registry, node) = (Arc::clone(&registry), Arc::clone(&node));
            move || {
                for state in 1..=EVENTS {
                    node.set_meta(Arc::new(state));
                    registry.publish(&node, |_| state);
                }
            }
        });
        let options = SubscribeOptions { capacity, ..SubscribeOptions::default() };
        let (shown, _, mut subscription) = registry.watch(&user(), options, |node, rev| (rev, *node.meta()));
        publisher.join().unwrap();
        let [(shown_rev, shown_state)] = shown[..] else { panic!("one node is shown") };
        let mut expected = None;
        let mut rev = shown_rev;
        while let Some(received) = subscription.try_recv().unwrap() {
            let Received::Event(delivery) = received else { panic!("a loss") };
            assert!(delivery.rev > rev, "rev {} after {rev}: twice", delivery.rev);
            assert!(is_first || delivery.rev == rev + 1, "rev {} after {rev}: a hole", delivery.rev);
            rev = delivery.rev;
            let state = expected.unwrap_or_else(|| delivery.event.min(shown_state + 1));
            assert_eq!(delivery.event, state, "a hole after {shown_state}");
            expected = Some(state + 1);
        }
        assert_eq!(expected.unwrap_or(shown_state + 1), EVENTS + 1, "the last state is shown or told");
        assert_eq!(rev, node.rev(), "and so is the last rev");
        drop(earlier);
    }
}

/// Events whose destructor asks the bus a question, for which it takes the topic's lock.
struct Askers;

impl Fleet for Askers {
    type Event = Asking;
    type Command = ();
    type Meta = ();
    type Stats = ();

    /// So that they are remembered for one that lags, and fall when what is remembered does.
    fn keep(_: &Asking) -> bool {
        true
    }
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
    for capacity in [None, Some(1)] {
        let (registry, _) = registry_of_depth::<Askers>(1);
        let node =
            registry.register(NodeId::new("a").unwrap(), user(), Arc::new(()), Restored::default()).unwrap();
        let options = || SubscribeOptions { capacity, grace: Duration::ZERO, ..SubscribeOptions::default() };
        // A user who is watched is never forgotten, for which the map would be locked while others run.
        let both = || Interest { users: vec![user()], nodes: vec![node.id().clone()] };
        let interest = || if capacity.is_some() { both() } else { Interest::user(user()) };
        let leaves = registry.subscribe(interest(), options());
        let stays = registry.subscribe(interest(), options());
        let publisher = thread::spawn({
            let (registry, node) = (Arc::clone(&registry), Arc::clone(&node));
            move || (0..4).for_each(|_| _ = registry.publish(&node, |_| Asking(Arc::downgrade(&registry))))
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
}

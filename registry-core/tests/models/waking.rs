//! The armed flag against the waker: a reader that waits is woken, whatever happens between its looks.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use shuttle::thread;

use super::{Numbers, add, receive, registry, registry_of_depth, user};
use crate::{Closed, Interest, NodeId, Received, SubscribeOptions};

/// A lost wake-up leaves the reader waiting with nobody left to run, which shuttle calls a deadlock.
pub(super) fn woken_by_publishers() {
    const EACH: u64 = 2;
    let (registry, _) = registry::<Numbers>();
    let nodes = [add(&registry, "a"), add(&registry, "b")];
    let mut subscription = registry.subscribe(Interest::user(user()), SubscribeOptions::default());
    let publishers = nodes.map(|node| {
        let registry = Arc::clone(&registry);
        thread::spawn(move || (0..EACH).for_each(|event| _ = registry.publish(&node, |_| event)))
    });
    let mut events = receive(&mut subscription, 2 * EACH);
    events.sort_unstable();
    assert_eq!(events, [0, 0, 1, 1]);
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
}

/// Two readers of one log: one waits for good, the other comes, waits, leaves and comes again, so that places and wakers
/// are freed and taken anew beside the one that stays.
pub(super) fn woken_beside_others() {
    /// So often that the wakers' places are closed up meanwhile.
    const VISITS: usize = 12;
    for interest in [Interest::user(user()), Interest::node(NodeId::new("a").unwrap())] {
        let (registry, _) = registry::<Numbers>();
        let node = add(&registry, "a");
        let mut stays = registry.subscribe(interest.clone(), SubscribeOptions::default());
        let also_stays = registry.subscribe(interest.clone(), SubscribeOptions::default());
        let others = [
            thread::spawn(move || {
                let mut also_stays = also_stays;
                assert_eq!(receive(&mut also_stays, 2), [0, 1]);
            }),
            thread::spawn({
                let registry = Arc::clone(&registry);
                move || {
                    for _ in 0..VISITS {
                        let mut visits = registry.subscribe(interest.clone(), SubscribeOptions::default());
                        let _ = visits.poll_recv(&mut Context::from_waker(Waker::noop()));
                    }
                }
            }),
            thread::spawn({
                let (registry, node) = (Arc::clone(&registry), Arc::clone(&node));
                move || (0..2).for_each(|event| _ = registry.publish(&node, |_| event))
            }),
        ];
        assert_eq!(receive(&mut stays, 2), [0, 1]);
        others.into_iter().for_each(|other| other.join().unwrap());
    }
}

/// A log of its own, which two nodes' topics hand events to.
pub(super) fn woken_through_two_topics() {
    const EACH: u64 = 2;
    let (registry, _) = registry::<Numbers>();
    let nodes = [add(&registry, "a"), add(&registry, "b")];
    let interest =
        Interest { users: Vec::new(), nodes: nodes.iter().map(|node| node.id().clone()).collect() };
    let mut subscription = registry.subscribe(interest, SubscribeOptions::default());
    let publishers = nodes.map(|node| {
        let registry = Arc::clone(&registry);
        thread::spawn(move || (0..EACH).for_each(|event| _ = registry.publish(&node, |_| event)))
    });
    let mut events = receive(&mut subscription, 2 * EACH);
    events.sort_unstable();
    assert_eq!(events, [0, 0, 1, 1]);
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
}

/// The readers of a user's log, of a node's, and one with its own.
pub(super) fn woken_by_the_end() {
    let (registry, _) = registry::<Numbers>();
    let node = add(&registry, "a");
    let own = SubscribeOptions { capacity: Some(4), ..SubscribeOptions::default() };
    let readers = [
        registry.subscribe(Interest::user(user()), SubscribeOptions::default()),
        registry.subscribe(Interest::node(node.id().clone()), SubscribeOptions::default()),
        registry.subscribe(Interest::user(user()), own),
    ];
    let readers = readers.map(|mut subscription| {
        thread::spawn(move || {
            assert_eq!(receive(&mut subscription, 1), [7]);
            let end = shuttle::future::block_on(subscription.recv());
            assert!(matches!(end, Err(Closed::Shutdown)), "{end:?}");
        })
    });
    registry.publish(&node, |_| 7);
    registry.shut_down();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

/// A log of one event, two readers, and sweeps without any grace: whoever is ended is told, and whoever is not gets all.
pub(super) fn woken_by_a_stagnant_end() {
    const EVENTS: u64 = 3;
    for capacity in [None, Some(1)] {
        let (registry, _) = registry_of_depth::<Numbers>(1);
        let node = add(&registry, "a");
        let readers = [0, 1].map(|_| {
            let options = SubscribeOptions { capacity, grace: Duration::ZERO, ..SubscribeOptions::default() };
            let mut subscription = registry.subscribe(Interest::user(user()), options);
            thread::spawn(move || {
                let mut told = 0;
                while told < EVENTS {
                    match shuttle::future::block_on(subscription.recv()) {
                        Ok(Received::Event(_)) => told += 1,
                        Ok(Received::Lagged { missed }) => told += missed,
                        Err(Closed::Stagnant { missed }) => return (told, missed),
                        Err(other) => panic!("{other}"),
                    }
                }
                (told, 0)
            })
        });
        let sweeper = thread::spawn({
            let registry = Arc::clone(&registry);
            move || (0..2).for_each(|_| _ = registry.sweep())
        });
        (0..EVENTS).for_each(|event| _ = registry.publish(&node, |_| event));
        sweeper.join().unwrap();
        for (told, missed) in readers.map(|reader| reader.join().unwrap()) {
            assert!(
                told + missed <= EVENTS && (missed > 0 || told == EVENTS),
                "{told} told, {missed} missed"
            );
        }
    }
}

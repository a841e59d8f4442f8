//! Who gets which events, how often, and in which order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use proptest::prelude::*;
use registry_core::{Closed, Interest, Received, SubscribeOptions, Subscription};

use super::{add, drain, next, node_id, registry, tell, user};

fn options() -> SubscribeOptions {
    SubscribeOptions { capacity: Some(100_000), ..SubscribeOptions::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Any interests over 2 users with 3 nodes each, repeated ones included: everybody gets what they asked for, once.
    #[test]
    fn a_subscriber_gets_what_it_asked_for_exactly_once(
        interests in prop::collection::vec((prop::collection::vec(0..2_u64, 0..3), prop::collection::vec(0..6_u64, 0..5)), 1..6),
        events in prop::collection::vec(0..6_u64, 0..30),
        dropped in prop::collection::vec(any::<bool>(), 6),
    ) {
        let (registry, _) = registry();
        let nodes: Vec<_> = (0..6).map(|i| add(&registry, &format!("n{i}"), &format!("u{}", i / 3))).collect();
        let mut readers: Vec<(Subscription<u64>, Vec<u64>)> = Vec::new();
        for (i, (users, of)) in interests.iter().enumerate() {
            let interest = Interest {
                users: users.iter().map(|u| user(&format!("u{u}"))).collect(),
                nodes: of.iter().map(|n| node_id(&format!("n{n}"))).collect(),
            };
            let wants = (0..6).filter(|n| users.contains(&(n / 3)) || of.contains(n)).collect();
            let subscription = registry.subscribe(interest, options());
            if !dropped[i] {
                readers.push((subscription, wants));
            }
        }
        for (number, node) in events.iter().enumerate() {
            let reached = tell(&registry, &nodes[*node as usize], number as u64);
            prop_assert_eq!(reached, readers.iter().filter(|(_, wants)| wants.contains(node)).count());
        }
        for (mut subscription, wants) in readers {
            let expected: Vec<u64> = (0..events.len()).filter(|i| wants.contains(&events[*i])).map(|i| i as u64).collect();
            prop_assert_eq!(drain(&mut subscription), expected);
        }
    }
}

#[test]
fn all_readers_see_one_order_and_each_node_its_own() {
    const EACH: u64 = 3_000;
    let (registry, _) = registry();
    let nodes: Vec<_> = (0..3).map(|i| add(&registry, &format!("n{i}"), "u")).collect();
    let mut readers: Vec<_> =
        (0..3).map(|_| registry.subscribe(Interest::user(user("u")), options())).collect();
    let mut of_one = registry.subscribe(Interest::node(node_id("n1")), options());
    thread::scope(|scope| {
        for writer in 0..2 {
            let (registry, nodes) = (&registry, &nodes);
            scope.spawn(move || {
                for i in 0..EACH {
                    registry.publish(&nodes[(i % 3) as usize], |rev| rev * 10 + writer);
                }
            });
        }
    });
    let all = drain(&mut readers[0]);
    assert_eq!(all.len() as u64, 2 * EACH);
    for reader in &mut readers[1..] {
        let mut position = 0;
        let mut revs: HashMap<_, u64> = HashMap::new();
        for event in &all {
            let Received::Event(delivery) = next(reader).unwrap() else { panic!("a lag") };
            assert_eq!(delivery.event, *event);
            assert_eq!(delivery.position, position + 1);
            position = delivery.position;
            let rev = revs.entry(delivery.node.clone()).or_default();
            assert_eq!(delivery.rev, *rev + 1);
            assert_eq!(delivery.event / 10, delivery.rev, "built for this rev");
            *rev = delivery.rev;
        }
    }
    let revs: Vec<_> = drain(&mut of_one).iter().map(|event| event / 10).collect();
    assert_eq!(revs, (1..=2 * EACH / 3).collect::<Vec<_>>());
}

#[test]
fn an_event_that_nobody_would_see_is_not_built() {
    let (registry, _) = registry();
    let (a, b) = (add(&registry, "a", "u"), add(&registry, "b", "u"));
    let built = AtomicUsize::new(0);
    let tell = |node| {
        registry.publish(node, |rev| {
            built.fetch_add(1, Ordering::Relaxed);
            rev
        })
    };
    assert_eq!(tell(&a), 0);
    assert_eq!(built.load(Ordering::Relaxed), 0);
    assert_eq!(a.rev(), 1, "it counts all the same");
    let mut reader = registry.subscribe(Interest::node(node_id("a")), options());
    assert_eq!((tell(&a), tell(&b)), (1, 0));
    assert_eq!(built.load(Ordering::Relaxed), 1);
    assert_eq!(drain(&mut reader), [2]);
    drop(reader);
    assert_eq!(tell(&a), 0);
    assert_eq!(tell(&a), 0);
    assert_eq!(built.load(Ordering::Relaxed), 2, "once more, to find the reader gone");
}

#[test]
fn a_reader_may_come_before_its_node_and_stay_over_its_removal() {
    let (registry, _) = registry();
    let mut reader = registry.subscribe(Interest::node(node_id("n")), options());
    let first = add(&registry, "n", "ada");
    assert_eq!(tell(&registry, &first, 1), 1);
    let removed = registry.remove("n").unwrap();
    assert_eq!(tell(&registry, &removed, 2), 1, "the removal itself is told");
    let second = add(&registry, "n", "bob");
    assert!(second.rev() > removed.rev(), "a node that returns does not start over");
    assert_eq!(tell(&registry, &second, 3), 1);
    assert_eq!(drain(&mut reader), [1, 2, 3]);
}

#[test]
fn users_are_apart() {
    let (registry, _) = registry();
    let (a, b) = (add(&registry, "a", "ada"), add(&registry, "b", "bob"));
    let mut ada = registry.subscribe(Interest::user(user("ada")), options());
    tell(&registry, &a, 1);
    tell(&registry, &b, 2);
    assert_eq!(drain(&mut ada), [1]);
}

#[test]
fn the_end_of_the_bus_is_told_after_what_came_before() {
    let (registry, _) = registry();
    let node = add(&registry, "n", "u");
    let mut reader = registry.subscribe(Interest::user(user("u")), options());
    let mut of_node = registry.subscribe(Interest::node(node_id("n")), options());
    tell(&registry, &node, 1);
    registry.shut_down();
    assert_eq!(tell(&registry, &node, 2), 0);
    for reader in [&mut reader, &mut of_node] {
        assert!(matches!(next(reader), Ok(Received::Event(event)) if event.event == 1));
        assert_eq!(next(reader).unwrap_err(), Closed::Shutdown);
        assert_eq!(next(reader).unwrap_err(), Closed::Shutdown);
    }
    let mut late = registry.subscribe(Interest::user(user("u")), options());
    assert_eq!(next(&mut late).unwrap_err(), Closed::Shutdown);
    assert_eq!(tell(&registry, &node, 3), 0, "and revives nothing");
    let stats = registry.bus_stats();
    assert_eq!((stats.subscriptions, stats.rings, stats.topics_active), (0, 0, 0));
}

#[test]
fn a_reader_that_waits_learns_of_the_registrys_end() {
    let (registry, _) = registry();
    let mut reader = registry.subscribe(Interest::user(user("u")), options());
    thread::scope(|scope| {
        let waiting = scope.spawn(move || next(&mut reader).map(|_| ()));
        drop(registry);
        assert_eq!(waiting.join().unwrap(), Err(Closed::Shutdown));
    });
}

#[test]
fn a_waiting_reader_is_woken_once_and_by_the_end_too() {
    let (registry, _) = registry();
    let node = add(&registry, "n", "u");
    let mut reader = registry.subscribe(Interest::user(user("u")), options());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let poll = |reader: &mut Subscription<u64>| reader.poll_recv(&mut Context::from_waker(&waker));
    tell(&registry, &node, 0);
    assert!(poll(&mut reader).is_ready());
    tell(&registry, &node, 1);
    assert_eq!(wakes.count(), 0, "it did not wait");
    assert!(poll(&mut reader).is_ready());
    assert!(poll(&mut reader).is_pending());
    (2..4).for_each(|event| _ = tell(&registry, &node, event));
    assert_eq!(wakes.count(), 1);
    assert!(poll(&mut reader).is_ready() && poll(&mut reader).is_ready());
    assert!(poll(&mut reader).is_pending());
    registry.shut_down();
    assert_eq!(wakes.count(), 2);
    assert!(matches!(poll(&mut reader), Poll::Ready(Err(Closed::Shutdown))));
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wakes {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Each event comes just as its reader goes to wait, and no later one would wake it.
#[test]
fn no_wake_up_is_lost_on_the_way_to_waiting() {
    const EVENTS: u64 = 30_000;
    super::in_time(|| {
        let (registry, _) = registry();
        let node = add(&registry, "n", "u");
        let mut reader = registry.subscribe(Interest::user(user("u")), options());
        let read = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for expected in 1..=EVENTS {
                    let Ok(Received::Event(delivery)) = next(&mut reader) else { panic!("no event") };
                    assert_eq!(delivery.event, expected);
                    read.store(expected, Ordering::Release);
                    // From waiting already to being far from it when the next event comes.
                    (0..expected % 512).for_each(|_| std::hint::spin_loop());
                }
            });
            for event in 1..=EVENTS {
                let mut looks = 0_u32;
                while read.load(Ordering::Acquire) < event - 1 {
                    looks += 1;
                    if looks > 200 { thread::yield_now() } else { std::hint::spin_loop() }
                }
                tell(&registry, &node, event);
            }
        });
    });
}

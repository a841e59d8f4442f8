//! Readers that are gone leave nothing behind.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use registry_core::{
    BusConfig, BusStats, Clock, Fleet, Interest, ManualClock, Node, Received, Registry, RegistryConfig,
    Restored, SubscribeOptions, Subscription, SweepReport,
};

use super::{WAYS, Way, add, drain, node_id, registry, registry_with, tell, user};

fn both(registry: &Registry<super::Numbers>) -> Subscription<u64> {
    let interest = Interest { users: vec![user("u")], nodes: vec![node_id("n")] };
    registry.subscribe(interest, SubscribeOptions::default())
}

#[test]
fn a_thousand_dropped_readers_are_gone_at_the_next_publish() {
    let (registry, _) = registry();
    let node = add(&registry, "n", "u");
    let readers: Vec<_> = (0..1_000).map(|_| both(&registry)).collect();
    let stats = registry.bus_stats();
    assert_eq!((stats.subscriptions, stats.entries, stats.topics_active), (1_000, 2_000, 2));
    assert_eq!(tell(&registry, &node, 1), 1_000);
    drop(readers);
    assert_eq!(registry.bus_stats().entries, 2_000, "leaving costs nothing");
    assert_eq!(tell(&registry, &node, 2), 0);
    let stats = registry.bus_stats();
    assert_eq!(
        (stats.subscriptions, stats.entries, stats.topics_active, stats.pruned_total),
        (0, 0, 0, 2_000)
    );
}

#[test]
fn a_thousand_dropped_readers_are_gone_at_the_next_sweep() {
    let (registry, _) = registry();
    let mut kept = both(&registry);
    drop((0..1_000).map(|_| both(&registry)).collect::<Vec<_>>());
    assert_eq!(registry.sweep(), SweepReport { pruned: 2_000, closed_stagnant: 0, rings_freed: 0 });
    let stats = registry.bus_stats();
    assert_eq!((stats.subscriptions, stats.entries), (1, 2));
    let node = add(&registry, "n", "u");
    assert_eq!(tell(&registry, &node, 7), 1);
    assert_eq!(drain(&mut kept), [7]);
}

#[test]
fn a_thousand_leaked_readers_are_closed_when_they_have_stood_still() {
    for way in WAYS {
        let (registry, hand) = registry_with(way.bus(4));
        let node = add(&registry, "n", "u");
        let options = || SubscribeOptions { grace: Duration::from_secs(60), ..way.options(4) };
        for _ in 0..1_000 {
            std::mem::forget(registry.subscribe(way.interest(), options()));
        }
        let mut kept = registry.subscribe(way.interest(), options());
        (0..5).for_each(|event| assert_eq!(tell(&registry, &node, event), 1_001));
        drain(&mut kept);
        assert_eq!(registry.sweep().closed_stagnant, 0, "found lagging, and given its grace");
        hand.advance(Duration::from_secs(60));
        assert_eq!(registry.sweep().closed_stagnant, 1_000, "{way:?}");
        assert_eq!(tell(&registry, &node, 5), 1);
        assert_eq!(drain(&mut kept), [5]);
        let stats = registry.bus_stats();
        assert_eq!((stats.subscriptions, stats.closed_stagnant_total), (1, 1_000));
        assert_eq!(stats.entries, usize::from(way == Way::Own));
        assert_eq!(stats.missed_total, 1_000 * 5 + 1);
    }
}

/// Events that are pointers, to see which of them are held.
struct Pointers;

impl Fleet for Pointers {
    type Event = Arc<u64>;
    type Command = ();
    type Meta = ();
    type Stats = ();

    fn keep(event: &Arc<u64>) -> bool {
        event.is_multiple_of(3)
    }

    fn coalesce(event: &Arc<u64>) -> bool {
        event.is_multiple_of(2)
    }
}

fn pointers(bus: BusConfig) -> (Registry<Pointers>, ManualClock, Arc<Node<Pointers>>) {
    let (clock, hand) = Clock::manual(0);
    let registry = Registry::new(RegistryConfig { bus, ..RegistryConfig::default() }, clock);
    let node = registry.register(node_id("n"), user("u"), Arc::new(()), Restored::default()).unwrap();
    (registry, hand, node)
}

/// However many stand still, and however long: what they hold together is bounded where they share a log, and for each
/// where they have one of their own; and nothing of it outlives their end.
#[test]
fn readers_that_stand_still_hold_a_bounded_number_of_events() {
    const DEPTH: usize = 8;
    for way in [Way::User, Way::Node] {
        let (registry, hand, node) = pointers(way.bus(DEPTH));
        for _ in 0..100 {
            std::mem::forget(registry.subscribe(way.interest(), way.options(DEPTH)));
        }
        let mut held = Vec::new();
        for number in 0..10_000 {
            let event = Arc::new(number);
            held.push(Arc::downgrade(&event));
            registry.publish(&node, |_| event);
            held.retain(|event| event.strong_count() > 0);
            assert!(held.len() <= 3 * DEPTH, "{} events are held in {way:?}", held.len());
        }
        assert!(held.len() > DEPTH, "kept ones are remembered beside");
        registry.sweep();
        hand.advance(Duration::from_secs(120));
        assert_eq!(registry.sweep().closed_stagnant, 100);
        held.retain(|event| event.strong_count() > 0);
        assert_eq!(
            held.len(),
            if way == Way::User { DEPTH } else { 0 },
            "the ring alone is left, in {way:?}"
        );
    }
}

/// Readers that come to a silent topic, wait, and leave, again and again.
#[test]
fn readers_that_waited_and_left_leave_no_waker_behind() {
    for way in WAYS {
        let (registry, _) = registry_with(way.bus(4));
        add(&registry, "n", "u");
        let token = Arc::new(Silent);
        let waker = Waker::from(Arc::clone(&token));
        let wait = || {
            let mut reader = registry.subscribe(way.interest(), way.options(4));
            assert!(reader.poll_recv(&mut Context::from_waker(&waker)).is_pending());
            reader
        };
        // The next one is there before the one before it leaves, so that there is always one.
        let mut reader = wait();
        for _ in 0..100 {
            let next = wait();
            drop(reader);
            reader = next;
        }
        assert!(Arc::strong_count(&token) <= 4, "{} wakers in {way:?}", Arc::strong_count(&token));
        drop(reader);
        assert_eq!(Arc::strong_count(&token), 2, "the test's own");
    }
}

struct Silent;

impl Wake for Silent {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn few_dead_among_many_living_wait_for_the_sweep_and_cost_no_event() {
    let (registry, _) = registry();
    let node = add(&registry, "n", "u");
    let mut living: Vec<_> = (0..9).map(|_| both(&registry)).collect();
    drop(both(&registry));
    assert_eq!(tell(&registry, &node, 1), 9);
    assert_eq!(registry.bus_stats().entries, 20);
    registry.sweep();
    assert_eq!(registry.bus_stats().entries, 18);
    assert!(living.iter_mut().all(|reader| drain(reader) == [1]));
}

#[test]
fn a_user_and_a_node_that_nobody_watches_leave_nothing() {
    let linger = Duration::from_secs(60);
    let (registry, hand) = registry_with(BusConfig { ring_linger: linger, ..BusConfig::default() });
    for i in 0..100 {
        let interest =
            Interest { users: vec![user(&format!("u{i}"))], nodes: vec![node_id(&format!("n{i}"))] };
        drop(registry.subscribe(interest, SubscribeOptions::default()));
    }
    assert_eq!(registry.bus_stats().rings, 100);
    registry.sweep();
    assert_eq!(registry.bus_stats().entries, 0);
    hand.advance(linger);
    assert_eq!(registry.sweep().rings_freed, 100);
    let BusStats { subscriptions, entries, topics_active, rings, .. } = registry.bus_stats();
    assert_eq!((subscriptions, entries, topics_active, rings), (0, 0, 0, 0));
    assert!(format!("{registry:?}").contains("users: 0"), "{registry:?}");
}

#[test]
fn memory_of_events_ends_with_the_last_reader() {
    for way in WAYS {
        let (registry, hand, node) = pointers(way.bus(100));
        let mut reader = registry.subscribe(way.interest(), way.options(100));
        registry.publish(&node, |_| Arc::new(1));
        let Ok(Some(Received::Event(kept))) = reader.try_recv() else { panic!("no event") };
        let event = Arc::downgrade(&kept.event);
        drop((kept, reader));
        assert_eq!(event.strong_count(), usize::from(way != Way::Node), "in the ring, if there is one");
        registry.sweep();
        hand.advance(Duration::from_secs(60));
        registry.sweep();
        assert_eq!(event.strong_count(), 0);
    }
}

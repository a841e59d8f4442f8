//! Readers that are gone leave nothing behind.

use std::time::Duration;

use registry_core::{BusConfig, BusStats, Interest, SubscribeOptions, Subscription, SweepReport};

use super::{add, drain, node_id, registry, registry_with, tell, user};

fn both(registry: &registry_core::Registry<super::Numbers>) -> Subscription<u64> {
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
    for by_sweep in [false, true] {
        let (registry, hand) = registry();
        let node = add(&registry, "n", "u");
        for _ in 0..1_000 {
            let options = SubscribeOptions {
                capacity: 4,
                grace: Duration::from_secs(60),
                ..SubscribeOptions::default()
            };
            std::mem::forget(registry.subscribe(Interest::user(user("u")), options));
        }
        let mut kept = both(&registry);
        (0..5).for_each(|event| assert_eq!(tell(&registry, &node, event), 1_001));
        drain(&mut kept);
        hand.advance(Duration::from_secs(60));
        if by_sweep {
            assert_eq!(registry.sweep().closed_stagnant, 1_000);
        } else {
            assert_eq!(tell(&registry, &node, 5), 1);
        }
        let stats = registry.bus_stats();
        assert_eq!((stats.subscriptions, stats.closed_stagnant_total, stats.entries), (1, 1_000, 2));
    }
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
    let (registry, hand) = registry();
    let node = add(&registry, "n", "u");
    let mut reader = registry.subscribe(Interest::user(user("u")), SubscribeOptions::default());
    tell(&registry, &node, 1);
    let Ok(Some(registry_core::Received::Event(kept))) = reader.try_recv() else { panic!("no event") };
    let event = std::sync::Arc::downgrade(&kept.event);
    drop((kept, reader));
    assert!(event.upgrade().is_some(), "in the ring");
    registry.sweep();
    hand.advance(Duration::from_secs(60));
    registry.sweep();
    assert!(event.upgrade().is_none());
}

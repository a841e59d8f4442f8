//! A reader that is too slow is told how much it missed, where it missed it.

use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use registry_core::{BusConfig, Closed, Interest, Received, SubscribeOptions};

use super::{add, drain, in_time, next, registry, registry_with, tell, user};

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Publishing and reading in any order: a lag stands exactly where the hole is, and is exactly as large.
    #[test]
    fn every_hole_is_told_where_it_is(
        capacity in 1..6_usize,
        steps in prop::collection::vec(prop::bool::weighted(0.6), 1..200),
    ) {
        let (registry, _) = registry();
        let node = add(&registry, "n", "u");
        let options = SubscribeOptions { capacity, ..SubscribeOptions::default() };
        let mut reader = registry.subscribe(Interest::user(user("u")), options);
        let mut published = 0;
        let mut waiting = std::collections::VecDeque::new();
        let mut expected = 0;
        let read = |waiting: &mut std::collections::VecDeque<u64>, expected: &mut u64, received: Option<Received<u64>>| {
            match received {
                None => assert!(waiting.is_empty()),
                Some(Received::Event(delivery)) => {
                    assert_eq!(*delivery.event, *expected);
                    *expected += 1;
                }
                Some(Received::Lagged { missed }) => {
                    assert!(missed > 0);
                    *expected += missed;
                }
            }
        };
        for publish in steps {
            if publish {
                prop_assert_eq!(tell(&registry, &node, published), 1);
                waiting.push_back(published);
                published += 1;
                if waiting.len() > capacity {
                    waiting.pop_front();
                }
            } else {
                let received = reader.try_recv().unwrap();
                if let Some(Received::Lagged { missed }) = &received {
                    prop_assert_eq!(expected + missed, waiting[0], "the hole ends at the oldest event kept");
                } else if received.is_some() && waiting.front() == Some(&expected) {
                    waiting.pop_front();
                }
                read(&mut waiting, &mut expected, received);
            }
        }
        while let Some(received) = reader.try_recv().unwrap() {
            read(&mut std::collections::VecDeque::new(), &mut expected, Some(received));
        }
        prop_assert_eq!(expected, published, "handed out + missed = published");
        prop_assert_eq!(registry.bus_stats().missed_total, reader.missed_total());
    }
}

#[test]
fn with_many_publishers_nothing_is_lost_unseen() {
    const PUBLISHERS: u64 = 3;
    const EACH: u64 = 30_000;
    in_time(|| {
        let (registry, _) = registry();
        let users = (0..PUBLISHERS).map(|i| user(&format!("u{i}"))).collect();
        let options = SubscribeOptions { capacity: 16, ..SubscribeOptions::default() };
        let mut reader = registry.subscribe(Interest { users, nodes: Vec::new() }, options);
        thread::scope(|scope| {
            for i in 0..PUBLISHERS {
                let registry = &registry;
                let node = add(registry, &format!("n{i}"), &format!("u{i}"));
                scope.spawn(move || {
                    for event in 0..EACH {
                        tell(registry, &node, event * PUBLISHERS + i);
                        if event % 16 == 0 {
                            thread::yield_now();
                        }
                    }
                });
            }
            let (mut handed_out, mut missed) = (0, 0);
            let mut latest = vec![None; PUBLISHERS as usize];
            while handed_out + missed < PUBLISHERS * EACH {
                match next(&mut reader).unwrap() {
                    Received::Event(delivery) => {
                        handed_out += 1;
                        let (event, publisher) = (*delivery.event / PUBLISHERS, *delivery.event % PUBLISHERS);
                        let before = latest[publisher as usize].replace(event);
                        assert!(before < Some(event), "never twice, never back");
                    }
                    Received::Lagged { missed: more } => missed += more,
                }
            }
            assert_eq!(handed_out + missed, PUBLISHERS * EACH);
            assert_eq!(missed, reader.missed_total());
            assert!(reader.is_empty());
        });
        let stats = registry.bus_stats();
        assert_eq!((stats.delivered_total, stats.missed_total), (PUBLISHERS * EACH, reader.missed_total()));
    });
}

#[test]
fn a_queue_is_bounded_by_bytes_as_well() {
    let (registry, _) =
        registry_with(BusConfig { queue_bytes: 10 * size_of::<u64>(), ..BusConfig::default() });
    let node = add(&registry, "n", "u");
    let mut reader = registry.subscribe(Interest::user(user("u")), SubscribeOptions::default());
    (0..25).for_each(|event| _ = tell(&registry, &node, event));
    assert!(matches!(reader.try_recv(), Ok(Some(Received::Lagged { missed: 15 }))));
    assert_eq!(drain(&mut reader), (15..25).collect::<Vec<_>>());
    (25..35).for_each(|event| _ = tell(&registry, &node, event));
    assert_eq!(drain(&mut reader).len(), 10, "reading makes room again");

    let (registry, _) = registry_with(BusConfig { queue_bytes: 1, ..BusConfig::default() });
    let node = add(&registry, "n", "u");
    let mut reader = registry.subscribe(Interest::user(user("u")), SubscribeOptions::default());
    (0..3).for_each(|event| _ = tell(&registry, &node, event));
    assert_eq!(drain(&mut reader), [2], "an event that is larger than the bound still comes");
}

#[test]
fn standing_still_ends_a_subscription_and_its_loss_is_exact() {
    let (registry, hand) = registry();
    let node = add(&registry, "n", "u");
    let options =
        SubscribeOptions { capacity: 4, grace: Duration::from_secs(120), ..SubscribeOptions::default() };
    let mut reader = registry.subscribe(Interest::user(user("u")), options);
    (0..6).for_each(|event| _ = tell(&registry, &node, event));
    assert!(matches!(reader.try_recv(), Ok(Some(Received::Lagged { missed: 2 }))));
    assert!(matches!(reader.try_recv(), Ok(Some(Received::Event(event))) if *event.event == 2));
    // One place is free, so the first of these fits, and the second finds the queue full.
    (6..8).for_each(|event| assert_eq!(tell(&registry, &node, event), 1));
    hand.advance(Duration::from_secs(119));
    assert_eq!(tell(&registry, &node, 8), 1);
    hand.advance(Duration::from_secs(1));
    assert_eq!(tell(&registry, &node, 9), 0, "closed instead");
    assert_eq!(tell(&registry, &node, 10), 0);
    let closed = Closed::Stagnant { missed: 7 };
    assert_eq!(reader.try_recv().unwrap_err(), closed);
    assert_eq!(next(&mut reader).unwrap_err(), closed, "and it stays so");
    assert_eq!(reader.missed_total(), 9);
    let stats = registry.bus_stats();
    assert_eq!((stats.closed_stagnant_total, stats.missed_total, stats.subscriptions), (1, 9, 0));
}

#[test]
fn a_slow_reader_is_not_a_stagnant_one() {
    let (registry, hand) = registry();
    let node = add(&registry, "n", "u");
    let options =
        SubscribeOptions { capacity: 4, grace: Duration::from_secs(120), ..SubscribeOptions::default() };
    let mut reader = registry.subscribe(Interest::user(user("u")), options);
    for _ in 0..50 {
        (0..10).for_each(|event| assert_eq!(tell(&registry, &node, event), 1));
        assert!(reader.try_recv().is_ok());
        hand.advance(Duration::from_secs(100));
        registry.sweep();
    }
    assert_eq!(registry.bus_stats().closed_stagnant_total, 0);
}

#[test]
fn a_stagnant_reader_that_waits_is_woken_by_its_end() {
    // It cannot both wait and be full; the end may still come between its last look and its wait.
    in_time(|| {
        let (registry, _) = registry();
        let node = add(&registry, "n", "u");
        for _ in 0..200 {
            let options =
                SubscribeOptions { capacity: 1, grace: Duration::ZERO, ..SubscribeOptions::default() };
            let mut reader = registry.subscribe(Interest::user(user("u")), options);
            thread::scope(|scope| {
                scope.spawn(|| while tell(&registry, &node, 0) > 0 {});
                while next(&mut reader).is_ok() {}
            });
        }
    });
}

//! A reader that is too slow is told how much it missed, where it missed it.

use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use registry_core::{BusConfig, Closed, Interest, Received, SubscribeOptions, Subscription};

use super::{WAYS, Way, add, drain, in_time, next, registry_with, tell, user};

/// How many events a reader takes in hand at once, at most, while it keeps up.
const BATCH: usize = 64;

/// A reader as it should be: what waits, how much of it was pushed out, and what was taken in hand.
#[derive(Default)]
struct Model {
    published: u64,
    waiting: VecDeque<u64>,
    lost: u64,
    hand: VecDeque<Result<u64, u64>>,
    told: u64,
}

impl Model {
    fn publish(&mut self, capacity: usize) {
        self.waiting.push_back(self.published);
        self.published += 1;
        if self.waiting.len() > capacity {
            self.waiting.pop_front();
            self.lost += 1;
        }
    }

    fn read(&mut self) -> Option<Result<u64, u64>> {
        if self.hand.is_empty() {
            let behind = std::mem::take(&mut self.lost);
            let batch = if behind > 0 { self.waiting.len() } else { BATCH.min(self.waiting.len()) };
            self.hand.extend((behind > 0).then_some(Err(behind)));
            self.hand.extend(self.waiting.drain(..batch).map(Ok));
        }
        let next = self.hand.pop_front()?;
        self.told += next.map_or_else(|missed| missed, |_| 1);
        Some(next)
    }
}

fn read(reader: &mut Subscription<u64>) -> Option<Result<u64, u64>> {
    reader.try_recv().unwrap().map(|received| match received {
        Received::Event(delivery) => Ok(delivery.event),
        Received::Lagged { missed } => Err(missed),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// Two readers that publish and read in any order: a lag stands exactly where the hole is, and is exactly as large.
    #[test]
    fn every_hole_is_told_where_it_is(
        way in prop::sample::select(WAYS.to_vec()),
        capacity in prop_oneof![4 => 1..6_usize, 1 => 60..140_usize],
        steps in prop::collection::vec(prop_oneof![3 => Just(None), 1 => (0..2_usize).prop_map(Some)], 1..400),
    ) {
        let (registry, _) = registry_with(way.bus(capacity));
        let node = add(&registry, "n", "u");
        let mut readers = [0, 1].map(|_| {
            (registry.subscribe(way.interest(), way.options(capacity)), Model::default())
        });
        for step in steps {
            match step {
                None => {
                    prop_assert_eq!(tell(&registry, &node, readers[0].1.published), 2);
                    readers.iter_mut().for_each(|(_, model)| model.publish(capacity));
                }
                Some(which) => {
                    let (reader, model) = &mut readers[which];
                    prop_assert_eq!(read(reader), model.read());
                    prop_assert_eq!(reader.len(), model.waiting.len() + model.hand.iter().filter(|next| next.is_ok()).count());
                }
            }
        }
        for (reader, model) in &mut readers {
            while let Some(next) = model.read() {
                prop_assert_eq!(read(reader), Some(next));
            }
            prop_assert_eq!(read(reader), None);
            prop_assert_eq!(model.told, model.published, "handed out + missed = published");
        }
        let missed: u64 = readers.iter().map(|(reader, _)| reader.missed_total()).sum();
        prop_assert_eq!(registry.bus_stats().missed_total, missed);
        prop_assert_eq!(registry.bus_stats().delivered_total, 2 * readers[0].1.published);
    }
}

#[test]
fn with_many_publishers_nothing_is_lost_unseen() {
    in_time(|| WAYS.into_iter().for_each(many_publishers));
}

fn many_publishers(way: Way) {
    const PUBLISHERS: u64 = 3;
    const EACH: u64 = 15_000;
    const CAPACITY: usize = 16;
    let (registry, _) = registry_with(way.bus(CAPACITY));
    // Events that come in no common order but in that of the log they are read from; in one common order; of one node.
    let node_of = |i| match way {
        Way::Own => (format!("n{i}"), format!("u{i}")),
        Way::User => (format!("n{i}"), "u".to_owned()),
        Way::Node => ("n".to_owned(), "u".to_owned()),
    };
    let interest = match way {
        Way::Own => {
            Interest { users: (0..PUBLISHERS).map(|i| user(&format!("u{i}"))).collect(), nodes: Vec::new() }
        }
        _ => way.interest(),
    };
    let mut reader = registry.subscribe(interest, way.options(CAPACITY));
    thread::scope(|scope| {
        for i in 0..PUBLISHERS {
            let registry = &registry;
            let (id, owner) = node_of(i);
            let node = add(registry, &id, &owner);
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
                    let (event, publisher) = (delivery.event / PUBLISHERS, delivery.event % PUBLISHERS);
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
}

#[test]
fn what_waits_is_bounded_by_bytes_as_well() {
    for way in WAYS {
        let with_bytes = |bytes| match way {
            Way::User => BusConfig { ring_bytes: bytes, ..BusConfig::default() },
            Way::Node | Way::Own => BusConfig { queue_bytes: bytes, ..BusConfig::default() },
        };
        let (registry, _) = registry_with(with_bytes(10 * size_of::<u64>()));
        let node = add(&registry, "n", "u");
        let mut reader = registry.subscribe(way.interest(), way.options(1_000));
        (0..25).for_each(|event| _ = tell(&registry, &node, event));
        assert!(matches!(reader.try_recv(), Ok(Some(Received::Lagged { missed: 15 }))), "{way:?}");
        assert_eq!(drain(&mut reader), (15..25).collect::<Vec<_>>());
        (25..35).for_each(|event| _ = tell(&registry, &node, event));
        assert_eq!(drain(&mut reader).len(), 10, "reading makes room again");

        let (registry, _) = registry_with(with_bytes(1));
        let node = add(&registry, "n", "u");
        let mut reader = registry.subscribe(way.interest(), way.options(1_000));
        (0..3).for_each(|event| _ = tell(&registry, &node, event));
        assert_eq!(drain(&mut reader), [2], "an event that is larger than the bound still comes");
    }
}

#[test]
fn standing_still_ends_a_subscription_and_its_loss_is_exact() {
    for way in WAYS {
        let (registry, hand) = registry_with(way.bus(4));
        let node = add(&registry, "n", "u");
        let options = SubscribeOptions { grace: Duration::from_secs(120), ..way.options(4) };
        let mut reader = registry.subscribe(way.interest(), options);
        (0..6).for_each(|event| _ = tell(&registry, &node, event));
        assert!(matches!(reader.try_recv(), Ok(Some(Received::Lagged { missed: 2 }))));
        assert!(matches!(reader.try_recv(), Ok(Some(Received::Event(event))) if event.event == 2));
        // It has 3 to 5 in hand. The first four of these wait, and the others push them out.
        (6..12).for_each(|event| assert_eq!(tell(&registry, &node, event), 1));
        assert_eq!(registry.sweep().closed_stagnant, 0, "found lagging");
        hand.advance(Duration::from_secs(119));
        assert_eq!(registry.sweep().closed_stagnant, 0);
        assert_eq!(tell(&registry, &node, 12), 1);
        hand.advance(Duration::from_secs(1));
        assert_eq!(registry.sweep().closed_stagnant, 1, "{way:?}");
        assert_eq!(tell(&registry, &node, 13), 0);
        assert_eq!(drain(&mut reader), [3, 4, 5], "what it had in hand is its own");
        let closed = Closed::Stagnant { missed: 7 };
        assert_eq!(reader.try_recv().unwrap_err(), closed);
        assert_eq!(next(&mut reader).unwrap_err(), closed, "and it stays so");
        assert_eq!(reader.missed_total(), 9);
        let stats = registry.bus_stats();
        assert_eq!((stats.closed_stagnant_total, stats.missed_total, stats.subscriptions), (1, 9, 0));
        drop(reader);
        assert_eq!(registry.bus_stats().abandoned_total, 0);
    }
}

#[test]
fn a_slow_reader_is_not_a_stagnant_one() {
    for way in WAYS {
        let (registry, hand) = registry_with(way.bus(4));
        let node = add(&registry, "n", "u");
        let options = SubscribeOptions { grace: Duration::from_secs(120), ..way.options(4) };
        let mut reader = registry.subscribe(way.interest(), options);
        for _ in 0..50 {
            (0..10).for_each(|event| assert_eq!(tell(&registry, &node, event), 1, "{way:?}"));
            assert!(reader.try_recv().is_ok());
            hand.advance(Duration::from_secs(100));
            registry.sweep();
        }
        assert_eq!(registry.bus_stats().closed_stagnant_total, 0);
    }
}

#[test]
fn one_that_lags_and_one_that_waits_in_silence_are_told_apart() {
    for way in WAYS {
        let (registry, hand) = registry_with(way.bus(4));
        let node = add(&registry, "n", "u");
        let options = || SubscribeOptions { grace: Duration::from_secs(10), ..way.options(4) };
        let mut waits = registry.subscribe(way.interest(), options());
        let _full = registry.subscribe(way.interest(), options());
        let _stuck = registry.subscribe(way.interest(), options());
        (0..5).for_each(|event| _ = tell(&registry, &node, event));
        assert_eq!(drain(&mut waits).len(), 4);
        let mut full = registry.subscribe(way.interest(), options());
        (0..4).for_each(|event| _ = tell(&registry, &node, event));
        drain(&mut waits);
        for _ in 0..5 {
            registry.sweep();
            hand.advance(Duration::from_secs(10));
        }
        let stats = registry.bus_stats();
        assert_eq!((stats.closed_stagnant_total, stats.subscriptions), (2, 2), "{way:?}");
        assert_eq!(drain(&mut full).len(), 4, "full, and nothing was pushed out");
        assert!(waits.try_recv().is_ok());
    }
}

#[test]
fn a_stagnant_reader_that_waits_is_woken_by_its_end() {
    // It cannot both wait and lag; the end may still come between its last look and its wait.
    in_time(|| {
        for way in WAYS {
            let (registry, _) = registry_with(way.bus(1));
            let node = add(&registry, "n", "u");
            for _ in 0..100 {
                let options = SubscribeOptions { grace: Duration::ZERO, ..way.options(1) };
                let mut reader = registry.subscribe(way.interest(), options);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        while tell(&registry, &node, 0) > 0 {
                            registry.sweep();
                            tell(&registry, &node, 0);
                        }
                    });
                    while next(&mut reader).is_ok() {}
                });
            }
        }
    });
}

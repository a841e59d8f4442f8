//! What a subscription does when it is full: which events give way, and what its reader is told.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use registry_core::{
    BusConfig, Clock, Closed, Fleet, Interest, ManualClock, Node, OverflowPolicy, Received, Registry,
    RegistryConfig, Restored, SubscribeOptions, Subscription,
};

use super::{DEADLINE, WAYS, Way, in_time, node_id, user};

/// Events that say what they are.
struct Classed;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Said(u64),
    Stats(u64),
    Ended(u64),
}
use Event::{Ended, Said, Stats};

impl Fleet for Classed {
    type Event = Event;
    type Command = ();
    type Meta = ();
    type Stats = ();

    fn coalesce(event: &Event) -> bool {
        matches!(event, Stats(_))
    }

    fn keep(event: &Event) -> bool {
        matches!(event, Ended(_))
    }
}

type Made = (Arc<Registry<Classed>>, ManualClock, [Arc<Node<Classed>>; 2]);

fn fleet(bus: BusConfig) -> Made {
    let (clock, hand) = Clock::manual(1_000_000);
    let registry = Arc::new(Registry::new(RegistryConfig { bus, ..RegistryConfig::default() }, clock));
    let nodes = ["n", "o"]
        .map(|id| registry.register(node_id(id), user("u"), Arc::new(()), Restored::default()).unwrap());
    (registry, hand, nodes)
}

fn subscribe(registry: &Registry<Classed>, capacity: usize, overflow: OverflowPolicy) -> Subscription<Event> {
    let options = SubscribeOptions { capacity: Some(capacity), overflow, ..SubscribeOptions::default() };
    registry.subscribe(Interest::user(user("u")), options)
}

fn tell(registry: &Registry<Classed>, node: &Node<Classed>, events: impl IntoIterator<Item = Event>) {
    events.into_iter().for_each(|event| _ = registry.publish(node, |_| event));
}

/// What comes next, in a form to compare: events, or how many are missing.
fn read(subscription: &mut Subscription<Event>) -> Vec<Result<Event, u64>> {
    let mut seen = Vec::new();
    while let Ok(Some(received)) = subscription.try_recv() {
        seen.push(match received {
            Received::Event(delivery) => Ok(delivery.event),
            Received::Lagged { missed } => Err(missed),
        });
    }
    seen
}

#[test]
fn ends_outlast_whatever_else_waits() {
    for way in WAYS {
        let (registry, _, [node, _]) = fleet(way.bus(4));
        let mut reader = registry.subscribe(way.interest(), way.options(4));
        tell(&registry, &node, [Said(1), Ended(2), Said(3), Ended(4), Said(5), Said(6), Said(7)]);
        assert_eq!(
            read(&mut reader),
            [Err(1), Ok(Ended(2)), Err(1), Ok(Ended(4)), Ok(Said(5)), Ok(Said(6)), Ok(Said(7))],
            "{way:?}"
        );
        assert_eq!((reader.missed_total(), reader.coalesced_total()), (2, 0));

        tell(&registry, &node, (0..5).map(Ended).chain([Said(9)]));
        let seen = read(&mut reader);
        assert_eq!(seen, [Ok(Ended(0)), Ok(Ended(1)), Ok(Ended(2)), Ok(Ended(3)), Ok(Ended(4)), Ok(Said(9))]);
        assert!(reader.is_empty());

        // A flood of nothing but ends: as many are remembered as wait, and of the others it is told.
        tell(&registry, &node, (0..20).map(Ended));
        let seen = read(&mut reader);
        assert_eq!(seen[0], Err(12));
        assert_eq!(seen[1..], (12..20).map(|number| Ok(Ended(number))).collect::<Vec<_>>());
        assert_eq!(registry.bus_stats().missed_total, reader.missed_total());
    }
}

#[test]
fn what_is_remembered_for_one_that_lags_is_not_told_to_one_that_does_not() {
    for way in WAYS {
        let (registry, _, [node, _]) = fleet(way.bus(4));
        let mut lags = registry.subscribe(way.interest(), way.options(4));
        let mut keeps_up = registry.subscribe(way.interest(), way.options(4));
        let mut late = Vec::new();
        for number in 0..34 {
            tell(&registry, &node, [if number % 8 == 3 { Ended(number) } else { Said(number) }]);
            assert_eq!(read(&mut keeps_up).len(), 1);
            if number == 20 {
                late.push(registry.subscribe(way.interest(), way.options(4)));
            }
        }
        let ends = |from| (from..34).filter(|number| number % 8 == 3).map(|number| Ok(Ended(number)));
        let seen: Vec<_> = read(&mut lags).into_iter().filter(|next| matches!(next, Ok(Ended(_)))).collect();
        assert_eq!(seen, ends(3).collect::<Vec<_>>(), "{way:?}");
        let seen: Vec<_> =
            read(&mut late[0]).into_iter().filter(|next| matches!(next, Ok(Ended(_)))).collect();
        assert_eq!(seen, ends(21).collect::<Vec<_>>(), "none from before it came");
        assert_eq!(late[0].missed_total(), 13 - 1 - 4);
    }
}

#[test]
fn of_a_lagging_readers_states_only_the_latest_of_each_node_is_kept() {
    for way in [Way::User, Way::Own] {
        let (registry, _, [a, b]) = fleet(way.bus(4));
        let mut reader = registry.subscribe(way.interest(), way.options(4));
        for i in 0..3 {
            tell(&registry, &a, [Stats(i)]);
        }
        assert_eq!(
            read(&mut reader),
            [Ok(Stats(0)), Ok(Stats(1)), Ok(Stats(2))],
            "it keeps up, so it sees all"
        );
        for i in 0..100 {
            tell(&registry, &a, [Stats(i)]);
            tell(&registry, &b, [Stats(1_000 + i)]);
        }
        tell(&registry, &a, (0..5).map(Said));
        assert_eq!(
            read(&mut reader),
            [Ok(Stats(99)), Ok(Stats(1_099)), Err(1), Ok(Said(1)), Ok(Said(2)), Ok(Said(3)), Ok(Said(4))],
            "no state is missed, in {way:?}"
        );
        assert_eq!((reader.missed_total(), reader.coalesced_total()), (1, 198));
        let stats = registry.bus_stats();
        assert_eq!((stats.delivered_total, stats.missed_total, stats.coalesced_total), (208, 1, 198));
    }
}

#[test]
fn one_that_wants_to_be_closed_gets_what_waits_and_resumes_without_a_hole() {
    let (registry, _, [a, _]) = fleet(Way::Own.bus(0));
    let mut reader = subscribe(&registry, 3, OverflowPolicy::Close);
    tell(&registry, &a, (0..3).map(Said));
    assert_eq!(registry.publish(&a, |_| Said(3)), 0, "it is closed over this one");
    tell(&registry, &a, (4..6).map(Said));
    assert_eq!(read(&mut reader), [Ok(Said(0)), Ok(Said(1)), Ok(Said(2))]);
    assert_eq!(reader.try_recv().unwrap_err(), Closed::Overflowed { missed: 1 });
    assert_eq!(reader.try_recv().unwrap_err(), Closed::Overflowed { missed: 1 });
    let stats = registry.bus_stats();
    assert_eq!((stats.delivered_total, stats.missed_total, stats.closed_overflowed_total), (4, 1, 1));
    let (mut again, _) = registry.resume(&user("u"), reader.position(), SubscribeOptions::default());
    assert_eq!(read(&mut again), [Ok(Said(3)), Ok(Said(4)), Ok(Said(5))]);
}

#[test]
fn one_that_wants_to_be_closed_is_not_closed_over_old_states() {
    let (registry, _, [a, b]) = fleet(Way::Own.bus(0));
    let mut reader = subscribe(&registry, 3, OverflowPolicy::Close);
    tell(&registry, &a, (0..50).map(Stats));
    tell(&registry, &b, (50..100).map(Stats));
    assert_eq!(read(&mut reader), [Ok(Stats(49)), Ok(Stats(99))]);
    assert_eq!(reader.coalesced_total(), 98);
}

#[test]
fn a_publisher_that_waits_loses_nothing_to_a_slow_reader() {
    const EVENTS: u64 = 5_000;
    in_time(|| {
        let (registry, _, [a, _]) = fleet(Way::Own.bus(0));
        let mut reader = subscribe(&registry, 4, OverflowPolicy::Wait { timeout: DEADLINE });
        thread::scope(|scope| {
            scope.spawn(|| tell(&registry, &a, (0..EVENTS).map(Said)));
            let mut expected = 0;
            while expected < EVENTS {
                // As many in its hand, taken before, as may wait.
                assert!(reader.len() <= 8, "{} wait", reader.len());
                let Ok(Some(Received::Event(event))) = reader.recv_timeout(DEADLINE) else {
                    panic!("no event")
                };
                assert_eq!(event.event, Said(expected));
                expected += 1;
            }
        });
        assert_eq!(reader.missed_total(), 0);
    });
}

#[test]
fn waiting_ends_in_time_and_with_the_reader_and_hinders_no_other_publisher() {
    in_time(|| {
        let (registry, hand, [a, b]) = fleet(Way::Own.bus(0));
        let wait = |timeout| OverflowPolicy::Wait { timeout };
        let mut reader = subscribe(&registry, 2, wait(Duration::from_millis(5)));
        tell(&registry, &a, (0..5).map(Said));
        assert_eq!(
            read(&mut reader),
            [Err(3), Ok(Said(3)), Ok(Said(4))],
            "the oldest made room after the time"
        );

        let leaked = subscribe(&registry, 1, wait(Duration::from_millis(5)));
        tell(&registry, &a, (0..2).map(Said));
        registry.sweep();
        hand.advance(Duration::from_secs(121));
        registry.sweep();
        assert_eq!(registry.publish(&a, |_| Said(2)), 1, "one stood still, and is not waited for again");
        assert_eq!(registry.bus_stats().closed_stagnant_total, 1);
        drop((reader, leaked));

        let reader = registry.subscribe(
            Interest::node(node_id("n")),
            SubscribeOptions { capacity: Some(1), overflow: wait(DEADLINE), ..SubscribeOptions::default() },
        );
        tell(&registry, &a, [Said(0)]);
        thread::scope(|scope| {
            let (told, done) = mpsc::channel();
            let registry = &registry;
            let a = &a;
            scope.spawn(move || {
                tell(registry, a, [Said(1)]);
                _ = told.send(());
            });
            assert!(done.recv_timeout(Duration::from_millis(50)).is_err(), "it waits");
            tell(registry, &b, (0..100).map(Said));
            drop(reader);
            done.recv_timeout(DEADLINE).unwrap();
        });
    });
}

#[test]
fn a_batch_is_what_one_by_one_would_be() {
    let (registry, _, [a, _]) = fleet(Way::Own.bus(0));
    let mut reader = subscribe(&registry, 4, OverflowPolicy::DropOldest);
    let mut batch = Vec::new();
    assert_eq!(reader.try_recv_many(&mut batch, 10), Ok(0));
    tell(&registry, &a, (0..4).map(Said));
    assert_eq!(reader.try_recv_many(&mut batch, 3), Ok(3), "no more than was asked for");
    assert_eq!(reader.try_recv_many(&mut batch, 10), Ok(1));
    assert_eq!(reader.position().position, 4);
    tell(&registry, &a, (4..10).map(Said));
    assert_eq!(reader.try_recv_many(&mut batch, 10), Ok(5), "a loss, and four events");
    registry.shut_down();
    assert_eq!(reader.try_recv_many(&mut batch, 10), Err(Closed::Shutdown));
    let seen: Vec<_> = batch
        .iter()
        .map(|received| match received {
            Received::Event(delivery) => Ok(delivery.event),
            Received::Lagged { missed } => Err(*missed),
        })
        .collect();
    assert_eq!(seen[..4], [0, 1, 2, 3].map(|i| Ok(Said(i))));
    assert_eq!(seen[4..], [Err(2), Ok(Said(6)), Ok(Said(7)), Ok(Said(8)), Ok(Said(9))]);
}

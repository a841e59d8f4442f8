//! A reader that was cut off goes on where it was, or is told of the gap.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;
use registry_core::{
    BusConfig, ManualClock, Node, Position, Received, Registry, Resume, SubscribeOptions, Subscription,
    UserId,
};

use super::{Numbers, add, drain, registry_with, tell, user};

const LINGER: Duration = Duration::from_secs(60);

fn config(ring_events: usize) -> BusConfig {
    BusConfig { ring_events, ring_linger: LINGER, incarnation: 100, ..BusConfig::default() }
}

fn options(own: bool) -> SubscribeOptions {
    SubscribeOptions { capacity: own.then_some(1_000), grace: Duration::MAX, ..SubscribeOptions::default() }
}

#[derive(Clone, Debug)]
enum Step {
    Publish,
    Watch {
        own: bool,
    },
    Leave,
    /// Resume from one of the positions seen so far, moved by this much.
    Resume {
        own: bool,
        seen: usize,
        ahead: u64,
        back: u64,
    },
    /// Time passes, with a sweep before and after.
    Wait {
        seconds: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Publish),
        1 => any::<bool>().prop_map(|own| Step::Watch { own }),
        1 => Just(Step::Leave),
        4 => (any::<bool>(), any::<usize>(), 0..3_u64, 0..12_u64).prop_map(|(own, seen, ahead, back)| {
            Step::Resume { own, seen, ahead: ahead / 2, back: back / 2 }
        }),
        1 => (0..70_u64).prop_map(|seconds| Step::Wait { seconds }),
    ];
    prop::collection::vec(step, 1..80)
}

/// The ring as it should be: every event since it was opened, and how many of the newest are kept.
#[derive(Default)]
struct Model {
    position: u64,
    incarnation: u64,
    open: bool,
    opened: u64,
    start: u64,
    ring: VecDeque<(u64, u64)>,
    quiet: Option<u64>,
    now: u64,
}

impl Model {
    fn publish(&mut self, event: u64, ring_events: usize) {
        if self.open {
            self.position += 1;
            self.ring.push_back((self.position, event));
            while self.ring.len() > ring_events {
                self.start = self.ring.pop_front().unwrap().0;
            }
        }
    }

    fn join(&mut self) {
        self.quiet = None;
        if !self.open {
            self.open = true;
            self.incarnation = 100 + self.opened;
            self.opened += 1;
            self.start = self.position;
        }
    }

    fn resume(&self, since: Position) -> (Resume, Vec<u64>) {
        if since.incarnation != self.incarnation || since.position > self.position {
            return (Resume::Gap { missed: None }, Vec::new());
        }
        if since.position < self.start {
            return (Resume::Gap { missed: Some(self.position - since.position) }, Vec::new());
        }
        let events: Vec<_> =
            self.ring.iter().filter(|(at, _)| *at > since.position).map(|(_, e)| *e).collect();
        (Resume::Recovered { replayed: events.len() as u64 }, events)
    }

    /// `gone`: nobody watches. Whether everything about the user is forgotten.
    fn sweep(&mut self, gone: bool) {
        if gone && self.open {
            let since = *self.quiet.get_or_insert(self.now);
            if self.now - since >= LINGER.as_secs() {
                self.open = false;
                self.incarnation = 0;
                self.quiet = None;
                self.ring.clear();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn resuming_gives_exactly_what_was_missed_or_says_so(ring_events in 0..8_usize, steps in steps()) {
        let (registry, hand) = registry_with(config(ring_events));
        let node = add(&registry, "n", "u");
        let ada = user("u");
        let mut model = Model::default();
        // A ring of nothing is one of one event.
        let ring_events = ring_events.max(1);
        // With whether they have a log of their own, and what they should get if nothing is pushed out.
        let mut readers: Vec<(Subscription<u64>, bool, Vec<u64>)> = Vec::new();
        let mut seen = vec![Position::default(), Position { incarnation: 99, position: 0 }];
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Publish => {
                    let event = number as u64;
                    prop_assert_eq!(tell(&registry, &node, event), readers.len());
                    model.publish(event, ring_events);
                    readers.iter_mut().for_each(|(.., expected)| expected.push(event));
                }
                Step::Watch { own } => {
                    let (_, position, reader) = registry.watch(&ada, options(own), |_, _| ());
                    model.join();
                    prop_assert_eq!(position, Position { incarnation: model.incarnation, position: model.position });
                    readers.push((reader, own, Vec::new()));
                }
                Step::Leave => _ = readers.pop(),
                Step::Resume { own, seen: which, ahead, back } => {
                    let mut since = seen[which % seen.len()];
                    since.position = (since.position + ahead).saturating_sub(back);
                    let (reader, resume) = registry.resume(&ada, since, options(own));
                    model.join();
                    let (expected, events) = model.resume(since);
                    prop_assert_eq!(resume, expected);
                    let start = if matches!(resume, Resume::Gap { .. }) { registry.position(&ada) } else { since };
                    prop_assert_eq!(reader.position(), start);
                    readers.push((reader, own, events));
                }
                Step::Wait { seconds } => {
                    registry.sweep();
                    model.sweep(readers.is_empty());
                    hand.advance(Duration::from_secs(seconds));
                    model.now += seconds;
                    registry.sweep();
                    model.sweep(readers.is_empty());
                }
            }
            let position = registry.position(&ada);
            let expected = Position { incarnation: model.incarnation, position: model.position };
            prop_assert_eq!(position, if model.open { expected } else { Position::default() });
            seen.push(position);
        }
        for (mut reader, own, expected) in readers {
            // One that shares the ring is as far behind as the ring is deep, at most.
            let pushed_out = if own { 0 } else { expected.len().saturating_sub(ring_events) };
            prop_assert_eq!(drain(&mut reader), &expected[pushed_out..]);
            prop_assert_eq!(reader.missed_total(), pushed_out as u64);
        }
    }
}

#[test]
fn a_short_cut_is_not_seen_by_the_reader() {
    let (registry, hand) = registry_with(config(100));
    let (node, ada) = (add(&registry, "n", "u"), user("u"));
    for own in [false, true] {
        a_short_cut(own, &registry, &hand, &node, &ada);
    }
}

fn a_short_cut(
    own: bool,
    registry: &Registry<Numbers>,
    hand: &ManualClock,
    node: &Node<Numbers>,
    ada: &UserId,
) {
    let (_, start, mut reader) = registry.watch(ada, options(own), |_, _| ());
    assert_eq!(reader.position(), start);
    (0..3).for_each(|event| _ = tell(registry, node, event));
    assert!(matches!(reader.try_recv(), Ok(Some(Received::Event(event))) if event.event == 0));
    let cut = reader.position();
    drop(reader);
    registry.sweep();
    hand.advance(LINGER - Duration::from_secs(1));
    registry.sweep();
    assert_eq!(tell(registry, node, 3), 0, "kept though nobody is there");
    let (mut reader, resume) = registry.resume(ada, cut, options(own));
    assert_eq!(resume, Resume::Recovered { replayed: 3 });
    tell(registry, node, 4);
    assert_eq!(drain(&mut reader), [1, 2, 3, 4]);
    assert_eq!(reader.position(), registry.position(ada));
}

#[test]
fn a_lagging_reader_can_fetch_what_it_missed_from_the_ring() {
    let (registry, _) = registry_with(config(100));
    let (node, ada) = (add(&registry, "n", "u"), user("u"));
    let options = || SubscribeOptions { capacity: Some(2), ..SubscribeOptions::default() };
    let (_, _, mut reader) = registry.watch(&ada, options(), |_, _| ());
    (0..10).for_each(|event| _ = tell(&registry, &node, event));
    assert!(matches!(reader.try_recv(), Ok(Some(Received::Lagged { missed: 8 }))));
    let (mut reader, resume) = registry.resume(&ada, reader.position(), options());
    assert_eq!(resume, Resume::Recovered { replayed: 10 }, "a replay is not bounded by the queue");
    assert_eq!(drain(&mut reader), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_ring_is_bounded_by_bytes_as_well() {
    let ring_bytes = 5 * size_of::<u64>();
    let (registry, _) = registry_with(BusConfig { ring_bytes, ..config(100) });
    let (node, ada) = (add(&registry, "n", "u"), user("u"));
    let (_, start, _reader) = registry.watch(&ada, SubscribeOptions::default(), |_, _| ());
    (0..8).for_each(|event| _ = tell(&registry, &node, event));
    let (_, resume) = registry.resume(&ada, start, SubscribeOptions::default());
    assert_eq!(resume, Resume::Gap { missed: Some(8) });
    let since = Position { position: start.position + 3, ..start };
    let (mut reader, resume) = registry.resume(&ada, since, SubscribeOptions::default());
    assert_eq!(resume, Resume::Recovered { replayed: 5 });
    assert_eq!(drain(&mut reader), [3, 4, 5, 6, 7]);
}

#[test]
fn a_position_from_another_life_of_the_ring_is_a_gap_of_unknown_size() {
    let (registry, hand) = registry_with(config(100));
    let (node, ada) = (add(&registry, "n", "u"), user("u"));
    let (_, before, reader) = registry.watch(&ada, SubscribeOptions::default(), |_, _| ());
    drop(reader);
    registry.sweep();
    hand.advance(LINGER);
    registry.sweep();
    tell(&registry, &node, 1);
    let (_reader, resume) = registry.resume(&ada, before, SubscribeOptions::default());
    assert_eq!(resume, Resume::Gap { missed: None });
    assert_ne!(registry.position(&ada).incarnation, before.incarnation);
}

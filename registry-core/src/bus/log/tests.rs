//! The log against a naive model: everything that ever came, and a number for each reader.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;

use super::super::Envelope;
use super::*;
use crate::id::{NodeId, UserId};

const NODES: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    Append {
        node: u8,
        class: Class,
        bytes: usize,
    },
    Join,
    /// From this many events back, as one that resumes.
    Rejoin {
        back: u64,
    },
    Read {
        reader: usize,
    },
    /// As one that stood still is ended: its place stays.
    End {
        reader: usize,
    },
    Leave {
        reader: usize,
    },
    Tidy,
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![2 => Just(Class::Plain), 2 => Just(Class::State), 1 => Just(Class::Kept)]
}

fn steps(bytes: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (0..NODES, class(), 0..=bytes).prop_map(|(node, class, bytes)| Step::Append { node, class, bytes }),
        2 => Just(Step::Join),
        1 => (0..20_u64).prop_map(|back| Step::Rejoin { back }),
        6 => (0..8_usize).prop_map(|reader| Step::Read { reader }),
        1 => (0..8_usize).prop_map(|reader| Step::End { reader }),
        1 => (0..8_usize).prop_map(|reader| Step::Leave { reader }),
        1 => Just(Step::Tidy),
    ];
    prop::collection::vec(step, 1..300)
}

fn bounds(bytes: impl Strategy<Value = usize>) -> impl Strategy<Value = Bounds> {
    (prop_oneof![4 => 1..9_usize, 1 => 60..140_usize], bytes)
        .prop_map(|(events, bytes)| Bounds { events, bytes })
}

fn retention() -> impl Strategy<Value = Retention> {
    prop_oneof![Just(Retention::Replay), Just(Retention::UntilRead)]
}

fn delivery(number: u64, node: u8, class: Class, bytes: usize) -> Delivery<u64> {
    Delivery(Arc::new(Envelope {
        position: 0,
        incarnation: 0,
        user: UserId::new("u").unwrap(),
        node: NodeId::new(&format!("n{node}")).unwrap(),
        rev: 0,
        at_unix_ms: 0,
        event: number,
        bytes,
        class,
    }))
}

/// What a reader gets: events by their number, and losses.
type Got = Vec<Result<u64, u64>>;

/// Everything that came; of it the log holds what comes from `base` on.
struct Model {
    bounds: Bounds,
    all: Vec<(u8, Class, usize)>,
    base: usize,
}

struct Reader {
    place: Place,
    /// The number of the next event.
    cursor: usize,
    start: usize,
    is_open: bool,
    handed_out: u64,
    lost: u64,
    coalesced: u64,
}

impl Model {
    fn append(&mut self, node: u8, class: Class, bytes: usize) {
        self.all.push((node, class, bytes));
        let held = |base: usize| &self.all[base..];
        while held(self.base).len() > self.bounds.events
            || (held(self.base).len() > 1
                && held(self.base).iter().map(|(.., bytes)| bytes).sum::<usize>() > self.bounds.bytes)
        {
            self.base += 1;
        }
    }

    /// What is remembered for one that lags of what was pushed out, where no bytes are counted: the last kept events and
    /// the latest states, as many of each as the log holds. Behind it, up to where something of that was dropped.
    fn remembered(&self, cursor: usize) -> (Vec<usize>, usize) {
        let (mut kept, mut states) = (VecDeque::new(), BTreeMap::new());
        let mut forgotten = 0;
        for number in cursor..self.base {
            match self.all[number] {
                (_, Class::Plain, _) => {}
                (_, Class::Kept, _) => kept.push_back(number),
                (node, Class::State, _) => _ = states.insert(node, number),
            }
            if kept.len() > self.bounds.events {
                forgotten = forgotten.max(kept.pop_front().unwrap() + 1);
            }
            if states.len() > self.bounds.events {
                let oldest = *states.values().min().unwrap();
                states.retain(|_, number| *number != oldest);
                forgotten = forgotten.max(oldest + 1);
            }
        }
        let mut numbers: Vec<_> = kept.into_iter().chain(states.into_values()).collect();
        numbers.sort_unstable();
        (numbers, forgotten)
    }

    /// What a look gives: what is handed out, and how many states gave way.
    fn read(&self, cursor: usize) -> (Got, u64) {
        let event = |number: usize| Ok(number as u64);
        if cursor >= self.base {
            let batch = BATCH.min(self.all.len() - cursor);
            return ((cursor..cursor + batch).map(event).collect(), 0);
        }
        let (mut numbers, forgotten) = self.remembered(cursor);
        numbers.extend(self.base..self.all.len());
        let (mut got, mut coalesced, mut at) = (Got::new(), 0, cursor);
        for number in numbers {
            let hole = &self.all[at..number];
            let known = at >= forgotten;
            let lost = hole.iter().filter(|(_, class, _)| !known || *class == Class::Plain).count() as u64;
            got.extend((lost > 0).then_some(Err(lost)));
            coalesced += hole.len() as u64 - lost;
            at = number + 1;
            // A later state of the node is certain to be among what follows.
            let (node, class, _) = self.all[number];
            let is_old = class == Class::State
                && self.all[at..].iter().any(|(other, class, _)| *other == node && *class == Class::State);
            if is_old {
                coalesced += 1;
            } else {
                got.push(event(number));
            }
        }
        (got, coalesced)
    }
}

/// A look as a feed makes it.
fn look(log: &mut Log<u64>, place: Place) -> (Got, u64) {
    let (mut ready, mut waste) = (VecDeque::new(), Vec::new());
    let coalesced = match log.read(place, &mut ready, &mut waste) {
        Taken::Nothing | Taken::Ended => 0,
        Taken::Event(first) => {
            ready.push_front(Received::Event(first));
            0
        }
        Taken::Behind { coalesced } => coalesced + coalesce(&mut ready, &mut waste),
    };
    let got = ready.into_iter().map(|received| match received {
        Received::Event(delivery) => Ok(delivery.event),
        Received::Lagged { missed } => Err(missed),
    });
    (got.collect(), coalesced)
}

/// Plays the steps on the log and on the model. With `exact`, each look must give what the model says; where bytes count,
/// what is remembered depends on what is remembered for others, and only the rules for all must hold.
fn play(bounds: Bounds, retention: Retention, steps: Vec<Step>, exact: bool) {
    let mut log = Log::new(bounds, retention);
    let mut model = Model { bounds, all: Vec::new(), base: 0 };
    let mut readers: Vec<Reader> = Vec::new();
    let mut waste = Vec::new();
    let reader_at = |place, cursor| Reader {
        place,
        cursor,
        start: cursor,
        is_open: true,
        handed_out: 0,
        lost: 0,
        coalesced: 0,
    };
    for step in steps {
        match step {
            Step::Append { node, class, bytes } => {
                log.append(delivery(model.all.len() as u64, node, class, bytes), &mut waste);
                model.append(node, class, bytes);
            }
            Step::Join => readers.push(reader_at(log.join(), model.all.len())),
            Step::Rejoin { back } if retention == Retention::Replay => {
                let from = (model.all.len() as u64).saturating_sub(back);
                let place = log.rejoin(from);
                assert_eq!(place.is_some(), from as usize >= model.base);
                readers.extend(place.map(|place| reader_at(place, from as usize)));
            }
            Step::Read { reader } if reader < readers.len() => {
                let all = model.all.len();
                read(&mut log, &model, &mut readers[reader], exact);
                assert!(readers[reader].cursor <= all);
            }
            Step::End { reader } if reader < readers.len() => {
                let reader = &mut readers[reader];
                let unread = if reader.is_open { model.all.len() - reader.cursor } else { 0 };
                assert_eq!(log.end(reader.place, &mut waste), unread as u64);
                reader.is_open = false;
            }
            Step::Leave { reader } if reader < readers.len() => {
                let reader = readers.remove(reader);
                log.end(reader.place, &mut waste);
                log.vacate(reader.place);
                log.tidy(&mut waste);
            }
            Step::Tidy => {
                log.tidy(&mut waste);
                check_tidy(&log, &model, &readers);
            }
            _ => {}
        }
        waste.clear();
        check(&log, &model, &readers, exact);
    }
    for reader in &mut readers {
        while reader.is_open && reader.cursor < model.all.len() {
            read(&mut log, &model, reader, exact);
        }
        assert_eq!(look(&mut log, reader.place), (Got::new(), 0), "nothing comes twice");
        let accounted = reader.handed_out + reader.lost + reader.coalesced;
        assert_eq!(accounted, (reader.cursor - reader.start) as u64);
    }
}

fn read(log: &mut Log<u64>, model: &Model, reader: &mut Reader, exact: bool) {
    if !reader.is_open {
        assert_eq!(look(log, reader.place), (Got::new(), 0), "an ended one gets nothing more");
        return;
    }
    let (got, coalesced) = look(log, reader.place);
    if exact {
        assert_eq!((&got, coalesced), (&model.read(reader.cursor).0, model.read(reader.cursor).1));
    }
    let lags = reader.cursor < model.base;
    let mut next = reader.cursor as u64;
    for received in &got {
        match received {
            Ok(number) => {
                assert!(*number >= next, "in order, and none of them twice");
                next = number + 1;
                reader.handed_out += 1;
            }
            Err(lost) => reader.lost += lost,
        }
    }
    reader.coalesced += coalesced;
    let taken = if lags { model.all.len() - reader.cursor } else { got.len() };
    reader.cursor += taken;
    let held = model.base..reader.cursor;
    let of_held =
        got.iter().filter(|next| next.is_ok_and(|number| held.contains(&(number as usize)))).count();
    let old_states = held.clone().filter(|number| {
        let (node, class, _) = model.all[*number];
        let later = &model.all[number + 1..reader.cursor];
        class == Class::State
            && later.iter().any(|(other, class, _)| *other == node && *class == Class::State)
    });
    if lags {
        assert_eq!(of_held, held.len() - old_states.count(), "what is here is handed out");
    }
}

/// What must hold after each step.
fn check(log: &Log<u64>, model: &Model, readers: &[Reader], exact: bool) {
    let Bounds { events, bytes } = model.bounds;
    assert!(log.slots.len() <= events);
    assert!(log.bytes <= bytes || log.slots.len() == 1);
    assert_eq!(log.bytes, log.slots.iter().map(|slot| slot.delivery.bytes).sum::<usize>());
    assert_eq!(log.head(), model.all.len() as u64);
    assert_eq!(log.live(), readers.iter().filter(|reader| reader.is_open).count());
    if let Some(tail) = &log.tail {
        let remembered: Vec<_> = tail.from(0).map(|(_, _, delivery)| delivery).collect();
        let count = |class| remembered.iter().filter(|delivery| delivery.class == class).count();
        assert!(count(Class::Kept) <= events && count(Class::State) <= events.min(NODES.into()));
        assert_eq!(count(Class::Plain), 0);
        let pinned: usize = remembered.iter().map(|delivery| delivery.bytes).sum();
        assert!(pinned <= bytes || remembered.len() == 1, "{pinned} bytes are remembered");
    }
    for reader in readers.iter().filter(|reader| reader.is_open) {
        let lags = reader.cursor < model.base;
        assert_eq!(log.stands(reader.place), lags.then_some(reader.cursor as u64));
        if exact {
            let held = model.all.len() - reader.cursor.max(model.base);
            assert_eq!(log.waiting(reader.place), model.remembered(reader.cursor).0.len() + held);
        }
    }
}

/// What must hold after tidying: nothing is held that nobody wants.
fn check_tidy(log: &Log<u64>, model: &Model, readers: &[Reader]) {
    let unread = readers.iter().filter(|reader| reader.is_open).map(|reader| model.all.len() - reader.cursor);
    let unread = unread.max().unwrap_or(0);
    if log.retention == Retention::UntilRead {
        assert_eq!(log.slots.len(), unread.min(model.all.len() - model.base), "what everybody has read goes");
    }
    assert!(log.tail.is_none() || unread > log.slots.len(), "nobody lags, and something is remembered");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn each_reader_gets_exactly_what_the_rules_say(
        bounds in bounds(Just(usize::MAX)),
        retention in retention(),
        steps in steps(1),
    ) {
        play(bounds, retention, steps, true);
    }

    #[test]
    fn every_event_is_accounted_for_where_bytes_are_bounded(
        bounds in bounds(1..40_usize),
        retention in retention(),
        steps in steps(12),
    ) {
        play(bounds, retention, steps, false);
    }

    /// For a reader that wants to be closed rather than to miss something.
    #[test]
    fn what_would_lose_nothing_loses_nothing(
        bounds in bounds(prop_oneof![1..40_usize, Just(usize::MAX)]),
        events in prop::collection::vec((0..NODES, class(), 0..12_usize, prop::bool::weighted(0.1)), 1..100),
    ) {
        let mut log = Log::new(bounds, Retention::UntilRead);
        let place = log.join();
        let mut losses = 0;
        for (number, (node, class, bytes, reads)) in events.into_iter().enumerate() {
            if log.would_lose(bytes) {
                prop_assert!(!log.has_room(bytes));
                break;
            }
            log.append(delivery(number as u64, node, class, bytes), &mut Vec::new());
            if reads {
                losses += look(&mut log, place).0.iter().filter(|next| next.is_err()).count();
            }
        }
        losses += look(&mut log, place).0.iter().filter(|next| next.is_err()).count();
        prop_assert_eq!(losses, 0);
    }
}

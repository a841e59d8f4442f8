//! What waits in one queue, in order, with a hole wherever something was lost: which event gives way to which.
//!
//! Nothing here locks, wakes or drops a payload. While the reader keeps up this is a `VecDeque`. From the first event
//! that finds no room until the reader has taken all, the reader *lags*: of a node's state events only the latest is
//! kept, and plain events give way before kept ones.
//!
//! A channel cannot do this (neither flume's nor crossbeam's looks inside itself), and the lock around it costs less
//! than a channel's inside of the one that orders publishers.

use std::collections::{HashMap, VecDeque};

use super::Delivery;

/// How much of an event's place is its own. Later ones give way first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Gives way last.
    Kept,
    /// Gives way to whatever comes, oldest first.
    Plain,
    /// Like plain, and besides to the next one of its node.
    State,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Events, at least one.
    pub(super) events: usize,
    /// What they pin in memory. A single event may be larger.
    pub(super) bytes: usize,
}

/// What waits for one reader.
pub(super) struct Slots<E> {
    /// Begins with an event: a hole at the front is in `hole`.
    slots: VecDeque<Slot<E>>,
    /// How many of the slots are events.
    waiting: usize,
    /// What they pin in memory.
    bytes: usize,
    /// What is missing before the first slot.
    hole: Hole,
    /// The number of the first slot: numbers stay while indices move.
    base: u64,
    /// Before this number there are only kept events and holes.
    first_to_go: u64,
    /// There while the reader lags: the number of the slot with a node's latest state. By the address of the node's id,
    /// which the event in the slot keeps alive: strangers do not choose it, and it needs no walk through the text.
    #[allow(clippy::box_collection, reason = "one word in the many queues that keep up, instead of six")]
    latest: Option<Box<HashMap<usize, u64>>>,
}

enum Slot<E> {
    Event(Class, Delivery<E>),
    /// This many events were dropped here.
    Lost(u64),
    /// This many gave way to a later one of their node.
    Coalesced(u64),
}

/// What a reader does not get between two events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hole {
    /// Dropped.
    pub(super) lost: u64,
    /// Superseded by a later state of the same node.
    pub(super) coalesced: u64,
}

/// The reader's next thing.
pub(super) struct Popped<E> {
    /// What is missing before it.
    pub(super) hole: Hole,
    /// `None` at the end of what waits, when something is missing there.
    pub(super) delivery: Option<Delivery<E>>,
}

/// Beyond four slots for each event that may wait, and these, holes are merged; that leaves at most three, so it is
/// paid for by as many losses as it visits events.
const SPARE_SLOTS: usize = 64;

/// How many slots an emptied queue keeps allocated: 4 KiB, more than a reader that keeps up needs.
const RETAINED_SLOTS: usize = 256;

impl<E> Slots<E> {
    pub(super) const fn new() -> Self {
        let hole = Hole { lost: 0, coalesced: 0 };
        Self { slots: VecDeque::new(), waiting: 0, bytes: 0, hole, base: 0, first_to_go: 0, latest: None }
    }

    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether there is neither an event nor a loss to be told.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.hole == Hole::default()
    }

    pub(super) const fn has_room(&self, bytes: usize, bounds: &Bounds) -> bool {
        self.waiting < bounds.events && (self.bytes + bytes <= bounds.bytes || self.waiting == 0)
    }

    /// Adds an event at the end, whether or not there is room. Returns what gave way to it as an older state.
    pub(super) fn push(&mut self, delivery: &Delivery<E>) -> Option<Delivery<E>> {
        let superseded = self.supersede(delivery);
        self.append(delivery);
        superseded
    }

    fn append(&mut self, delivery: &Delivery<E>) {
        let class = delivery.0.class;
        if let Some(latest) = &mut self.latest
            && class == Class::State
        {
            latest.insert(key(delivery), self.base + self.slots.len() as u64);
        }
        self.waiting += 1;
        self.bytes += delivery.0.bytes;
        self.slots.push_back(Slot::Event(class, delivery.clone()));
    }

    /// Takes out the state that this event makes worthless, if the reader lags.
    fn supersede(&mut self, delivery: &Delivery<E>) -> Option<Delivery<E>> {
        let latest = self.latest.as_mut()?;
        let older = (delivery.0.class == Class::State).then(|| latest.remove(&key(delivery)))??;
        let superseded = self.vacate(older, Slot::Coalesced(1));
        self.settle_front();
        superseded
    }

    /// Adds an event for which there is no room, in the place of others, or drops it if all others go after it.
    /// `waste` gets what was dropped. Returns how many were lost, and coalesced.
    pub(super) fn push_over(
        &mut self,
        delivery: &Delivery<E>,
        bounds: &Bounds,
        waste: &mut Vec<Delivery<E>>,
    ) -> Hole {
        let mut gone = Hole { coalesced: self.start_lagging(waste), lost: 0 };
        if let Some(superseded) = self.supersede(delivery) {
            gone.coalesced += 1;
            waste.push(superseded);
        }
        // Room first, then the event: so a full deque does not grow, and both happen in one place of its memory.
        while !self.has_room(delivery.0.bytes, bounds) {
            gone.lost += 1;
            match self.drop_first(delivery.0.class == Class::Kept) {
                Some(dropped) => waste.push(dropped),
                None => {
                    self.lose_last(1);
                    return gone;
                }
            }
        }
        self.append(delivery);
        if self.slots.len() > 4 * bounds.events + SPARE_SLOTS {
            self.merge_holes();
        }
        gone
    }

    /// Drops events until there is room for one more. Returns how many were lost, and coalesced.
    pub(super) fn make_room(&mut self, bounds: &Bounds, waste: &mut Vec<Delivery<E>>) -> Hole {
        let mut gone = Hole { coalesced: self.start_lagging(waste), lost: 0 };
        while !self.has_room(0, bounds) {
            waste.extend(self.drop_first(true));
            gone.lost += 1;
        }
        if self.slots.len() > 4 * bounds.events + SPARE_SLOTS {
            self.merge_holes();
        }
        gone
    }

    /// Drops what goes first; `None` if only kept ones wait, and not even the oldest of those may go.
    fn drop_first(&mut self, even_kept: bool) -> Option<Delivery<E>> {
        let start = usize::try_from(self.first_to_go.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let may_go = |slot: &Slot<E>| matches!(slot, Slot::Event(Class::Plain | Class::State, _));
        let found = self.slots.range(start..).position(may_go).map(|offset| start + offset);
        self.first_to_go = self.base + found.unwrap_or(self.slots.len()) as u64;
        // The front is an event, and a kept one, if no other was found.
        let index = found.or(even_kept.then_some(0))?;
        let dropped = self.vacate(self.base + index as u64, Slot::Lost(1));
        self.settle_front();
        dropped
    }

    /// Puts a hole in an event's place.
    fn vacate(&mut self, number: u64, hole: Slot<E>) -> Option<Delivery<E>> {
        let index = usize::try_from(number - self.base).ok()?;
        match std::mem::replace(self.slots.get_mut(index)?, hole) {
            Slot::Event(class, delivery) => {
                self.leaves(class, &delivery, number);
                Some(delivery)
            }
            Slot::Lost(_) | Slot::Coalesced(_) => None,
        }
    }

    /// An event is no longer there; nor is it its node's latest state.
    fn leaves(&mut self, class: Class, delivery: &Delivery<E>, number: u64) {
        self.waiting -= 1;
        self.bytes -= delivery.0.bytes;
        if let Some(latest) = &mut self.latest
            && class == Class::State
            && latest.get(&key(delivery)) == Some(&number)
        {
            latest.remove(&key(delivery));
        }
    }

    /// Moves holes at the front to where the reader finds them.
    fn settle_front(&mut self) {
        loop {
            match self.slots.front() {
                Some(Slot::Lost(count)) => self.hole.lost += count,
                Some(Slot::Coalesced(count)) => self.hole.coalesced += count,
                Some(Slot::Event(..)) | None => return,
            }
            self.slots.pop_front();
            self.base += 1;
        }
    }

    /// The reader's next event, or what is missing at the end.
    pub(super) fn pop(&mut self) -> Option<Popped<E>> {
        if self.is_empty() {
            return None;
        }
        let hole = std::mem::take(&mut self.hole);
        let delivery = match self.slots.pop_front() {
            Some(Slot::Event(class, delivery)) => {
                self.leaves(class, &delivery, self.base);
                self.base += 1;
                Some(delivery)
            }
            _ => None,
        };
        self.settle_front();
        if self.slots.is_empty() {
            self.latest = None;
            if self.slots.capacity() > RETAINED_SLOTS {
                self.slots = VecDeque::new();
            }
        }
        Some(Popped { hole, delivery })
    }

    /// Swaps all that waits for an empty deque, in O(1), if the reader keeps up; false if it has to pop.
    pub(super) fn take_all(&mut self, spare: &mut Batch<E>) -> bool {
        if self.latest.is_some() || self.hole != Hole::default() {
            return false;
        }
        debug_assert!(spare.0.is_empty(), "a batch is read before the next is taken");
        std::mem::swap(&mut self.slots, &mut spare.0);
        self.base += self.waiting as u64;
        (self.waiting, self.bytes) = (0, 0);
        true
    }

    /// Drops everything, as `Lost` if it is to be counted. Returns how many were dropped.
    pub(super) fn clear(&mut self, waste: &mut Vec<Delivery<E>>) -> u64 {
        let waited = self.waiting as u64;
        for slot in std::mem::take(&mut self.slots) {
            self.base += 1;
            match slot {
                Slot::Event(_, delivery) => waste.push(delivery),
                Slot::Lost(count) => self.hole.lost += count,
                Slot::Coalesced(count) => self.hole.coalesced += count,
            }
        }
        (self.waiting, self.bytes, self.latest) = (0, 0, None);
        waited
    }

    /// Notes that events are missing at the end.
    pub(super) fn lose_last(&mut self, count: u64) {
        self.slots.push_back(Slot::Lost(count));
        self.settle_front();
    }

    /// From here on a node's states give way to later ones; so do those that wait. Returns how many did. O(waiting), once
    /// until the reader has taken all.
    pub(super) fn start_lagging(&mut self, waste: &mut Vec<Delivery<E>>) -> u64 {
        if self.latest.is_some() {
            return 0;
        }
        self.latest = Some(Box::default());
        let mut coalesced = 0;
        for index in 0..self.slots.len() {
            let Some(Slot::Event(Class::State, delivery)) = self.slots.get(index) else { continue };
            let key = key(delivery);
            let older = self.latest.as_mut().and_then(|latest| latest.insert(key, self.base + index as u64));
            if let Some(superseded) = older.and_then(|number| self.vacate(number, Slot::Coalesced(1))) {
                coalesced += 1;
                waste.push(superseded);
            }
        }
        self.settle_front();
        coalesced
    }

    /// Leaves at most one loss and one coalescence between two events.
    fn merge_holes(&mut self) {
        let mut merged = VecDeque::with_capacity(3 * self.waiting + 2);
        let mut hole = Hole::default();
        for slot in self.slots.drain(..) {
            match slot {
                Slot::Lost(count) => hole.lost += count,
                Slot::Coalesced(count) => hole.coalesced += count,
                Slot::Event(class, delivery) => {
                    flush(&mut hole, &mut merged);
                    if let Some(latest) = &mut self.latest
                        && class == Class::State
                    {
                        latest.insert(key(&delivery), self.base + merged.len() as u64);
                    }
                    merged.push_back(Slot::Event(class, delivery));
                }
            }
        }
        flush(&mut hole, &mut merged);
        self.slots = merged;
        self.first_to_go = self.base;
    }
}

fn flush<E>(hole: &mut Hole, into: &mut VecDeque<Slot<E>>) {
    let Hole { lost, coalesced } = std::mem::take(hole);
    if coalesced > 0 {
        into.push_back(Slot::Coalesced(coalesced));
    }
    if lost > 0 {
        into.push_back(Slot::Lost(lost));
    }
}

fn key<E>(delivery: &Delivery<E>) -> usize {
    delivery.0.node.as_str().as_ptr().addr()
}

/// Events that were taken together. There are no holes between them.
pub(super) struct Batch<E>(VecDeque<Slot<E>>);

impl<E> Batch<E> {
    pub(super) const fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Delivery<E>> {
        self.0.drain(..).filter_map(|slot| match slot {
            Slot::Event(_, delivery) => Some(delivery),
            Slot::Lost(_) | Slot::Coalesced(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::Envelope;
    use super::*;
    use crate::id::{NodeId, UserId};

    /// The same rules over a plain list: everything is looked for, nothing is remembered.
    #[derive(Default)]
    struct Naive {
        waiting: Vec<Event>,
        /// The numbers of the events that were dropped, and of those that gave way to a later state.
        lost: Vec<u64>,
        coalesced: Vec<u64>,
        lagging: bool,
        read_to: u64,
    }

    #[derive(Clone, Copy)]
    struct Event {
        number: u64,
        class: Class,
        node: usize,
        bytes: usize,
    }

    impl Naive {
        fn fits(&self, bounds: &Bounds) -> bool {
            let bytes: usize = self.waiting.iter().map(|event| event.bytes).sum();
            self.waiting.len() <= bounds.events && (bytes <= bounds.bytes || self.waiting.len() <= 1)
        }

        fn push(&mut self, event: Event, bounds: &Bounds) {
            self.waiting.push(event);
            self.lagging |= !self.fits(bounds);
            if self.lagging {
                let all = self.waiting.clone();
                self.waiting.retain(|old| {
                    let newer = |new: &Event| new.number > old.number && new.node == old.node;
                    let superseded = old.class == Class::State
                        && all.iter().any(|new| new.class == Class::State && newer(new));
                    if superseded {
                        self.coalesced.push(old.number);
                    }
                    !superseded
                });
            }
            while !self.fits(bounds) {
                let first = self.waiting.iter().position(|event| event.class != Class::Kept).unwrap_or(0);
                self.lost.push(self.waiting.remove(first).number);
            }
        }

        /// The number of the next event, and the hole before it.
        fn pop(&mut self, published: u64) -> Option<(Hole, Option<u64>)> {
            let next = (!self.waiting.is_empty()).then(|| self.waiting.remove(0).number);
            let until = next.unwrap_or(published);
            let among =
                |gone: &[u64]| gone.iter().filter(|at| (self.read_to..until).contains(at)).count() as u64;
            let hole = Hole { lost: among(&self.lost), coalesced: among(&self.coalesced) };
            self.lagging &= !self.waiting.is_empty();
            if next.is_none() && hole == Hole::default() {
                return None;
            }
            self.read_to = next.map_or(published, |number| number + 1);
            Some((hole, next))
        }
    }

    fn class() -> impl Strategy<Value = Class> {
        prop_oneof![Just(Class::Plain), Just(Class::State), Just(Class::Kept)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

        /// Small bounds and long runs without a read, so that holes are merged; and runs that read all.
        #[test]
        fn what_gives_way_is_what_the_rules_say(
            events in 1..8_usize,
            bytes in 1..40_usize,
            steps in prop::collection::vec(
                (prop::bool::weighted(0.85), class(), 0..4_usize, 0..6_usize, any::<bool>()), 1..700),
        ) {
            let bounds = Bounds { events, bytes };
            let user = UserId::new("u").unwrap();
            let nodes: Vec<_> = (0..4).map(|i| NodeId::new(&format!("n{i}")).unwrap()).collect();
            let (mut slots, mut naive, mut waste) = (Slots::new(), Naive::default(), Vec::new());
            let (mut published, mut gone) = (0, Hole::default());
            for (publish, class, node, bytes, all) in steps {
                if publish {
                    let event = Arc::new(published);
                    let (user, node_id) = (user.clone(), nodes[node].clone());
                    let delivery = Delivery(Arc::new(Envelope {
                        position: 0, incarnation: 0, user, node: node_id, rev: 0, at_unix_ms: 0, event, bytes, class,
                    }));
                    if slots.has_room(bytes, &bounds) {
                        gone.coalesced += slots.push(&delivery).iter().len() as u64;
                    } else {
                        let more = slots.push_over(&delivery, &bounds, &mut waste);
                        gone.lost += more.lost;
                        gone.coalesced += more.coalesced;
                    }
                    naive.push(Event { number: published, class, node, bytes }, &bounds);
                    published += 1;
                } else if all && naive.lost.is_empty() && naive.coalesced.is_empty() {
                    let mut batch = Batch::new();
                    prop_assert!(slots.take_all(&mut batch), "nothing was ever missing");
                    for delivery in batch.drain() {
                        let number = Some(*delivery.event);
                        prop_assert_eq!(naive.pop(published).unwrap(), (Hole::default(), number));
                    }
                } else {
                    let popped = slots.pop().map(|next| (next.hole, next.delivery.map(|event| *event.event)));
                    prop_assert_eq!(popped, naive.pop(published));
                }
                prop_assert_eq!(slots.waiting(), naive.waiting.len());
                prop_assert_eq!(slots.bytes, naive.waiting.iter().map(|event| event.bytes).sum::<usize>());
                prop_assert!(slots.slots.len() <= 4 * events + SPARE_SLOTS);
                prop_assert!(slots.latest.as_ref().is_none_or(|latest| latest.len() <= slots.waiting()));
            }
            let counted = (gone.lost, gone.coalesced);
            prop_assert_eq!(counted, (naive.lost.len() as u64, naive.coalesced.len() as u64));
        }
    }
}

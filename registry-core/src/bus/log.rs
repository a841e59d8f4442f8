//! What a feed holds: events in order, a cursor for each reader, and what gives way where there is no room.
//!
//! Pure: nothing here locks, wakes or drops a payload. Readers share the log, so what an event costs does not depend on
//! how many read it, nor on how many of them stand still: a reader that is behind is nothing but a low number.
//!
//! An event that is pushed out although somebody has not read it goes by its class. A plain one is lost to those; a
//! state is remembered until the next one of its node is pushed out; a kept one stays. What is remembered so is the
//! log's *tail*: there only while a reader lags, bounded like the log itself, and shared like it.

use std::collections::{HashSet, VecDeque};

use super::tail::Tail;
use super::{Delivery, Received};

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

/// How much a log holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Events, at least one.
    pub(super) events: usize,
    /// What they pin in memory. A single event may be larger.
    pub(super) bytes: usize,
}

/// Whether a log outlives its reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retention {
    /// All that the bounds allow stays, to be replayed.
    Replay,
    /// What everybody has read goes.
    UntilRead,
}

/// How many events that everybody has read may stay until somebody looks: looking visits all readers.
const READ_EVENTS: usize = 64;

/// How many bytes of them.
const READ_BYTES: usize = 256 * 1024;

/// How many deliveries a reader takes at once: enough that the lock costs each next to nothing, few enough that a
/// publisher behind it does not wait for more than a microsecond.
const BATCH: usize = 64;

/// How many slots an emptied log keeps allocated: 4 KiB.
const RETAINED_SLOTS: usize = 256;

/// Events in order, and who has read how far.
pub(super) struct Log<E> {
    slots: VecDeque<Slot<E>>,
    /// The index of the first slot: indices only grow.
    base: u64,
    /// How many plain events came, ever.
    plain: u64,
    bytes: usize,
    bounds: Bounds,
    retention: Retention,
    /// What is remembered for readers that lag.
    tail: Option<Box<Tail<E>>>,
    readers: Vec<Reader>,
    vacant: Vec<u32>,
    /// Readers that still read.
    live: usize,
    /// No cursor is lower.
    slowest: u64,
    /// From which index on it is worth looking for the slowest again.
    look_again: u64,
    /// From how many slots and bytes on it is worth looking for what everybody has read.
    trim_events: usize,
    trim_bytes: usize,
}

struct Slot<E> {
    delivery: Delivery<E>,
    /// How many plain events came before it.
    plain_before: u64,
}

struct Reader {
    /// The index of the next event.
    cursor: u64,
    /// How many plain events came before that.
    plain: u64,
    /// Where its waker is: in which round of waiting, and the index there.
    armed: (u64, u32),
    /// Whether it takes part: not after its end.
    is_live: bool,
}

/// In no round of waiting: the first is 0.
const NOT_ARMED: (u64, u32) = (u64::MAX, 0);

/// What is missing between two events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hole {
    /// Dropped.
    pub(super) lost: u64,
    /// Superseded by a later state of the same node.
    pub(super) coalesced: u64,
}

/// What a reader found.
pub(super) enum Taken<E> {
    Nothing,
    /// Nothing, and it takes part no more.
    Ended,
    /// An event, and maybe more of them.
    Event(Delivery<E>),
    /// It lagged: all there is stands in its hand.
    Behind {
        coalesced: u64,
    },
}

/// A reader's number within its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl<E> Log<E> {
    pub(super) const fn new(bounds: Bounds, retention: Retention) -> Self {
        Self {
            slots: VecDeque::new(),
            base: 0,
            plain: 0,
            bytes: 0,
            bounds,
            retention,
            tail: None,
            readers: Vec::new(),
            vacant: Vec::new(),
            live: 0,
            slowest: 0,
            look_again: 0,
            trim_events: READ_EVENTS,
            trim_bytes: READ_BYTES,
        }
    }

    /// The index of the next event.
    pub(super) fn head(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// How many readers there are.
    pub(super) const fn live(&self) -> usize {
        self.live
    }

    /// A new reader of what comes from now on.
    pub(super) fn join(&mut self) -> Place {
        let (cursor, plain) = (self.head(), self.plain);
        self.join_at(cursor, plain)
    }

    /// A new reader of what comes from this index on, if all of that is still here.
    pub(super) fn rejoin(&mut self, cursor: u64) -> Option<Place> {
        let skip = usize::try_from(cursor.checked_sub(self.base)?).ok()?;
        if skip > self.slots.len() {
            return None;
        }
        let plain = self.slots.get(skip).map_or(self.plain, |slot| slot.plain_before);
        Some(self.join_at(cursor, plain))
    }

    fn join_at(&mut self, cursor: u64, plain: u64) -> Place {
        let reader = Reader { cursor, plain, armed: NOT_ARMED, is_live: true };
        self.slowest = if self.live == 0 { cursor } else { self.slowest.min(cursor) };
        self.live += 1;
        match self.vacant.pop() {
            Some(place) => {
                self.readers[place as usize] = reader;
                Place(place)
            }
            None => {
                self.readers.push(reader);
                Place(
                    u32::try_from(self.readers.len() - 1).expect("no more readers than memory has room for"),
                )
            }
        }
    }

    /// A reader reads no further. Its place stays taken until it is [vacated](Self::vacate). How many events it leaves.
    pub(super) fn end(&mut self, place: Place, waste: &mut Vec<Delivery<E>>) -> u64 {
        let head = self.head();
        let Some(reader) = self.readers.get_mut(place.index()).filter(|reader| reader.is_live) else {
            return 0;
        };
        reader.is_live = false;
        let (cursor, unread) = (reader.cursor, head - reader.cursor);
        self.live -= 1;
        // What the others still want is looked for only where this one was what held something back: they may be many.
        if self.live == 0 || (self.tail.is_some() && cursor < self.base) {
            self.tidy(waste);
        }
        unread
    }

    /// Gives an ended reader's place to others.
    pub(super) fn vacate(&mut self, place: Place) {
        self.vacant.push(place.0);
        if self.vacant.len() == self.readers.len() {
            (self.readers, self.vacant) = (Vec::new(), Vec::new());
        }
    }

    /// Whether one more event pushes nothing out that its reader has not read. For a log with one reader.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.slots.len() < self.bounds.events
            && (self.bytes + bytes <= self.bounds.bytes || self.slots.is_empty())
    }

    /// Whether one more event would cost the reader an event, and not only a state that a later one replaces. One event
    /// may push out many, where they are small and it is large.
    pub(super) fn would_lose(&self, bytes: usize) -> bool {
        let (mut events, mut pinned) = (self.slots.len() + 1, self.bytes.saturating_add(bytes));
        let (mut kept, mut states, mut remembered) = (0, 0, 0);
        for Slot { delivery, .. } in &self.slots {
            if events <= self.bounds.events && pinned <= self.bounds.bytes {
                break;
            }
            match delivery.class {
                Class::Plain => return true,
                Class::Kept => kept += 1,
                Class::State => states += 1,
            }
            events -= 1;
            pinned -= delivery.bytes;
            remembered += delivery.bytes;
        }
        match &self.tail {
            Some(tail) => kept + states > 0 && !tail.has_room(kept, states, remembered, &self.bounds),
            None => remembered > self.bounds.bytes,
        }
    }

    /// Adds an event at the end; `waste` gets what is pushed out for it and remembered for nobody.
    pub(super) fn append(&mut self, delivery: Delivery<E>, waste: &mut Vec<Delivery<E>>) {
        let plain_before = self.plain;
        self.plain += u64::from(delivery.class == Class::Plain);
        if self.live == 0 && self.retention == Retention::UntilRead {
            self.base += 1;
            waste.push(delivery);
            return;
        }
        self.bytes = self.bytes.saturating_add(delivery.bytes);
        self.slots.push_back(Slot { delivery, plain_before });
        while self.is_over() {
            self.push_out(waste);
        }
        if self.retention == Retention::UntilRead
            && (self.slots.len() >= self.trim_events || self.bytes >= self.trim_bytes)
        {
            self.look();
            self.trim(waste);
        }
    }

    fn is_over(&self) -> bool {
        let too_many = self.slots.len() > self.bounds.events;
        too_many || (self.bytes > self.bounds.bytes && self.slots.len() > 1)
    }

    fn push_out(&mut self, waste: &mut Vec<Delivery<E>>) {
        let Some(slot) = self.pop_front() else { return };
        let index = self.base - 1;
        if self.is_unread(index) {
            let tail = self.tail.get_or_insert_with(Box::default);
            tail.take(index, slot.plain_before, slot.delivery, &self.bounds, waste);
        } else {
            waste.push(slot.delivery);
        }
    }

    fn pop_front(&mut self) -> Option<Slot<E>> {
        let slot = self.slots.pop_front()?;
        self.base += 1;
        self.bytes -= slot.delivery.bytes;
        Some(slot)
    }

    /// Whether a reader may still want the event that was pushed out last. Exact while nobody lags; while somebody does,
    /// looking at all readers for each event would be their weight on the publisher, so it is done now and then.
    fn is_unread(&mut self, index: u64) -> bool {
        if self.live == 0 || index < self.slowest {
            return false;
        }
        if self.tail.is_none() || index >= self.look_again {
            self.look();
            self.look_again = index + self.live.max(READ_EVENTS) as u64;
        }
        index >= self.slowest
    }

    /// Finds the slowest reader. If it does not lag, nothing needs to be remembered.
    fn look(&mut self) {
        let cursors = self.readers.iter().filter(|reader| reader.is_live).map(|reader| reader.cursor);
        self.slowest = cursors.min().unwrap_or_else(|| self.head());
    }

    /// Drops what everybody has read.
    fn trim(&mut self, waste: &mut Vec<Delivery<E>>) {
        while self.base < self.slowest
            && let Some(slot) = self.pop_front()
        {
            waste.push(slot.delivery);
        }
        self.trim_events = self.slots.len() + READ_EVENTS.max(self.live);
        self.trim_bytes = self.bytes.saturating_add(READ_BYTES);
        if self.slots.is_empty() && self.slots.capacity() > RETAINED_SLOTS {
            self.slots = VecDeque::new();
        }
    }

    /// What a reader takes next: the first thing, and what comes with it appended to `ready`, losses where they are.
    ///
    /// One that keeps up takes a batch. One that lags takes all there is, so that of each node's states it gets only the
    /// latest; see [`coalesce`].
    pub(super) fn read(
        &mut self,
        place: Place,
        ready: &mut VecDeque<Received<E>>,
        waste: &mut Vec<Delivery<E>>,
    ) -> Taken<E> {
        let head = self.head();
        let Some(reader) = self.readers.get_mut(place.index()).filter(|reader| reader.is_live) else {
            return Taken::Ended;
        };
        if reader.cursor == head {
            return Taken::Nothing;
        }
        if reader.cursor < self.base {
            return self.read_behind(place, ready, waste);
        }
        let from = usize::try_from(reader.cursor - self.base).unwrap_or(usize::MAX);
        let to = self.slots.len().min(from + BATCH);
        reader.cursor = self.base + to as u64;
        reader.plain = self.slots.get(to).map_or(self.plain, |slot| slot.plain_before);
        if self.live == 1 && self.retention == Retention::UntilRead {
            return self.move_out(from, to, ready, waste);
        }
        let first = self.slots[from].delivery.clone();
        if to > from + 1 {
            let rest = self.slots.range(from + 1..to);
            ready.extend(rest.map(|slot| Received::Event(slot.delivery.clone())));
        }
        Taken::Event(first)
    }

    /// Nobody else wants them: they are moved, and their pointers not counted up and down.
    fn move_out(
        &mut self,
        from: usize,
        to: usize,
        ready: &mut VecDeque<Received<E>>,
        waste: &mut Vec<Delivery<E>>,
    ) -> Taken<E> {
        self.slowest = self.base + to as u64;
        for _ in 0..from {
            waste.extend(self.pop_front().map(|slot| slot.delivery));
        }
        let first = self.pop_front();
        for _ in from + 1..to {
            ready.extend(self.pop_front().map(|slot| Received::Event(slot.delivery)));
        }
        if self.slots.is_empty() && self.slots.capacity() > RETAINED_SLOTS {
            self.slots = VecDeque::new();
        }
        first.map_or(Taken::Nothing, |slot| Taken::Event(slot.delivery))
    }

    /// All there is, for one that lags.
    #[cold]
    fn read_behind(
        &mut self,
        place: Place,
        ready: &mut VecDeque<Received<E>>,
        waste: &mut Vec<Delivery<E>>,
    ) -> Taken<E> {
        let reader = &mut self.readers[place.index()];
        let forgotten = self.tail.as_ref().map_or(0, |tail| tail.forgotten());
        let mut at = (reader.cursor, reader.plain);
        let mut coalesced = 0;
        let mut tell = |hole: Hole, ready: &mut VecDeque<Received<E>>| {
            coalesced += hole.coalesced;
            if hole.lost > 0 {
                ready.push_back(Received::Lagged { missed: hole.lost });
            }
        };
        for (index, plain, delivery) in self.tail.iter().flat_map(|tail| tail.from(reader.cursor)) {
            tell(hole(at, (index, plain), forgotten), ready);
            ready.push_back(Received::Event(delivery.clone()));
            at = (index + 1, plain + u64::from(delivery.class == Class::Plain));
        }
        let plain = self.slots.front().map_or(self.plain, |slot| slot.plain_before);
        tell(hole(at, (self.base, plain), forgotten), ready);
        ready.extend(self.slots.iter().map(|slot| Received::Event(slot.delivery.clone())));
        (reader.cursor, reader.plain) = (self.base + self.slots.len() as u64, self.plain);
        self.tidy(waste);
        Taken::Behind { coalesced }
    }

    /// The places of those who read, or did.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> + use<E> {
        (0..self.readers.len() as u32).map(Place)
    }

    /// The events from an index on, if all of them are here.
    pub(super) fn after(&self, index: u64) -> Option<impl Iterator<Item = &Delivery<E>>> {
        let skip = usize::try_from(index.checked_sub(self.base)?).ok()?;
        (skip <= self.slots.len()).then(|| self.slots.range(skip..).map(|slot| &slot.delivery))
    }

    /// How many events wait for a reader: those that are here. What it has lost is not counted.
    pub(super) fn waiting(&self, place: Place) -> usize {
        let cursor = self.readers[place.index()].cursor;
        let remembered = self.tail.as_ref().map_or(0, |tail| tail.from(cursor).count());
        remembered + usize::try_from(self.head() - cursor.max(self.base)).unwrap_or(usize::MAX)
    }

    /// Where a reader stands, if it lags.
    pub(super) fn stands(&self, place: Place) -> Option<u64> {
        let reader = &self.readers[place.index()];
        (reader.is_live && reader.cursor < self.base).then_some(reader.cursor)
    }

    /// Where a reader's waker was left.
    pub(super) fn armed(&mut self, place: Place) -> &mut (u64, u32) {
        &mut self.readers[place.index()].armed
    }

    /// Drops what is remembered for nobody, and what everybody has read. Visits all readers.
    pub(super) fn tidy(&mut self, waste: &mut Vec<Delivery<E>>) {
        self.look();
        if self.slowest >= self.base
            && let Some(tail) = self.tail.take()
        {
            tail.into_waste(waste);
        }
        if self.retention == Retention::UntilRead {
            self.trim(waste);
        }
    }

    /// Drops everything that is held.
    pub(super) fn clear(&mut self, waste: &mut Vec<Delivery<E>>) {
        if let Some(tail) = self.tail.take() {
            tail.into_waste(waste);
        }
        self.base = self.head();
        self.bytes = 0;
        waste.extend(std::mem::take(&mut self.slots).into_iter().map(|slot| slot.delivery));
    }
}

/// What is missing between a reader and an event, both as index and plain events before it. Of what lies before
/// `forgotten`, nobody knows any more what it was.
fn hole(reader: (u64, u64), next: (u64, u64), forgotten: u64) -> Hole {
    let missing = next.0 - reader.0;
    let lost = if reader.0 < forgotten { missing } else { next.1 - reader.1 };
    Hole { lost, coalesced: missing - lost }
}

/// Leaves of each node's states only the latest. Returns how many went.
pub(super) fn coalesce<E>(ready: &mut VecDeque<Received<E>>, waste: &mut Vec<Delivery<E>>) -> u64 {
    let mut seen = HashSet::new();
    let before = ready.len();
    let mut kept = VecDeque::with_capacity(before);
    for received in ready.drain(..).rev() {
        match received {
            Received::Event(delivery)
                if delivery.class == Class::State && !seen.insert(delivery.node.clone()) =>
            {
                waste.push(delivery);
            }
            received => kept.push_front(received),
        }
    }
    *ready = kept;
    (before - ready.len()) as u64
}

#[cfg(test)]
mod tests;

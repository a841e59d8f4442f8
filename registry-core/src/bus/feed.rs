//! What a subscription reads: a log behind one lock, with the wakers of those who wait for more.
//!
//! There is one for each watched user and each watched node, shared by all who read it as it is; and one for each
//! subscription that wants something of its own (several topics, a depth, a policy). Those of the second kind *follow*
//! topics: a topic holds them weakly and hands them what it gets.
//!
//! Publisher and reader share one short critical section: log, wakers and end change together. So "look, then wait" is
//! one step, which no wake-up can slip through, and a reader that does not wait costs a publisher nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::list::List;
use super::log::{Bounds, Log, Place, Retention, Taken, coalesce};
use super::{After, Counters, Delivery, OverflowPolicy, Received, Shared};
use crate::clock::Clock;

/// Up to how many wakers are moved one by one, and their list kept; more of them leave with their list.
const FEW_WAKERS: usize = 4;

/// A log and those who read it.
pub(crate) struct Feed<E> {
    pub(super) state: Mutex<State<E>>,
    /// Orders followers in a topic's list.
    id: u64,
    /// Of the one reader that a feed of its own has.
    overflow: OverflowPolicy,
    /// Where publishers wait for room, if the subscription asks for that.
    room: Condvar,
    /// How many sweeps found a reader lagging. On a line of its own: readers look at it for each event in their hand.
    asked: CachePadded<AtomicU64>,
    counters: Arc<Counters>,
}

pub(super) struct State<E> {
    pub(super) log: Log<E>,
    /// Those who follow this feed with one of their own; for topics.
    pub(super) followers: List<E>,
    seats: Vec<Seat>,
    waiting: Waiting,
    closed: bool,
    /// How many publishers wait for room.
    publishers: usize,
    /// Which life of a user's replay ring this is; 0 while there is none.
    pub(super) incarnation: u64,
    /// Since when a sweep found nobody at a user's ring, in monotonic milliseconds.
    pub(super) quiet_since_ms: Option<u64>,
}

/// What a feed knows of a reader besides its cursor; by its place in the log.
struct Seat {
    end: End,
    grace_ms: u64,
    /// Where it was found lagging, and when, in monotonic milliseconds.
    stood: Option<(u64, u64)>,
}

/// The wakers of the readers that wait. A publisher takes all of them at once; that ends the round.
#[derive(Default)]
struct Waiting {
    round: u64,
    wakers: Vec<Option<Waker>>,
}

/// Why a reader gets nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Open,
    Stagnant {
        /// What it had not read.
        missed: u64,
    },
    Overflowed {
        /// What it was closed over.
        missed: u64,
    },
    Shutdown,
}

/// What a reader is given at a look.
pub(super) enum Look<E> {
    /// The first thing; more may stand in its hand.
    Event(Delivery<E>),
    /// What it had missed, and all there was, is in its hand; this many states gave way to later ones.
    Behind { coalesced: u64 },
    /// Nothing, and its waker was left, if it had brought one.
    Nothing,
    /// Nothing any more.
    Ended(End),
}

impl<E> Feed<E> {
    /// A feed that many read.
    pub(super) fn shared(bounds: Bounds, retention: Retention, shared: &Shared) -> Arc<Self> {
        Arc::new(Self::new(0, bounds, retention, OverflowPolicy::DropOldest, shared))
    }

    /// A feed for one reader.
    pub(super) fn own(bounds: Bounds, overflow: OverflowPolicy, shared: &Shared) -> Arc<Self> {
        Arc::new(Self::new(shared.next_subscription(), bounds, Retention::UntilRead, overflow, shared))
    }

    fn new(id: u64, bounds: Bounds, retention: Retention, overflow: OverflowPolicy, shared: &Shared) -> Self {
        let state = State {
            log: Log::new(bounds, retention),
            followers: List::new(),
            seats: Vec::new(),
            waiting: Waiting::default(),
            closed: false,
            publishers: 0,
            incarnation: 0,
            quiet_since_ms: None,
        };
        let counters = Arc::clone(&shared.counters);
        Self {
            state: Mutex::new(state),
            id,
            overflow,
            room: Condvar::new(),
            asked: CachePadded::default(),
            counters,
        }
    }

    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// A reader of what comes from now on.
    pub(super) fn join(&self, grace: Duration) -> Place {
        let mut state = self.state.lock();
        state.join(grace, &self.counters)
    }

    /// What waits for a reader: the first thing, and what comes with it in `ready`. If nothing does, its waker is left to
    /// be woken by what comes next, in the same step; `waker` gets back the one that stood there.
    pub(super) fn read(
        &self,
        place: Place,
        ready: &mut VecDeque<Received<E>>,
        waker: Option<&mut Option<Waker>>,
        waste: &mut Vec<Delivery<E>>,
    ) -> Look<E> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let coalesced = match state.log.read(place, ready, waste) {
            Taken::Event(delivery) => {
                self.was_read(guard);
                return Look::Event(delivery);
            }
            Taken::Nothing if !state.closed => {
                if let Some(waker) = waker {
                    state.arm(place, waker);
                }
                return Look::Nothing;
            }
            Taken::Nothing | Taken::Ended => return Look::Ended(state.seats[place.index()].end),
            Taken::Behind { coalesced } => coalesced,
        };
        self.was_read(guard);
        let coalesced = coalesced + coalesce(ready, waste);
        self.counters.coalesced.fetch_add(coalesced, Ordering::Relaxed);
        let missed = ready.iter().map(|received| match received {
            Received::Event(_) => 0,
            Received::Lagged { missed } => *missed,
        });
        self.counters.missed.fetch_add(missed.sum(), Ordering::Relaxed);
        Look::Behind { coalesced }
    }

    /// Publishers that wait learn of the room, after the lock.
    fn was_read(&self, state: MutexGuard<'_, State<E>>) {
        let waiting = state.publishers > 0;
        drop(state);
        if waiting {
            self.room.notify_all();
        }
    }

    /// The reader took something out of its hand, which moves no cursor: if a sweep found it lagging since it last said
    /// so, it says that it lives.
    #[inline]
    pub(super) fn was_handed_out(&self, place: Place, answered: &mut u64) {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked != *answered {
            *answered = asked;
            self.answer(place);
        }
    }

    #[cold]
    #[inline(never)]
    fn answer(&self, place: Place) {
        self.state.lock().seats[place.index()].stood = None;
    }

    /// The reader is gone, with this many events in its hand.
    pub(super) fn leave(&self, place: Place, in_hand: u64, after: &mut After<E>) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let unread = state.log.end(place, &mut after.waste);
        let waker = state.armed(place).and_then(Option::take);
        if std::mem::replace(&mut state.seats[place.index()].end, End::Shutdown) == End::Open {
            self.counters.subscriptions.fetch_sub(1, Ordering::Relaxed);
        }
        state.log.vacate(place);
        // A feed of its own ends with its reader.
        state.closed |= self.id != 0;
        if state.closed && state.log.live() == 0 {
            state.log.clear(&mut after.waste);
        }
        self.was_read(guard);
        drop(waker);
        self.counters.abandoned.fetch_add(unread + in_hand, Ordering::Relaxed);
    }

    /// How many events wait for a reader.
    pub(super) fn waiting(&self, place: Place) -> usize {
        let state = self.state.lock();
        if state.seats[place.index()].end == End::Open { state.log.waiting(place) } else { 0 }
    }

    /// Whether publishers wait for this reader.
    pub(super) const fn is_patient(&self) -> bool {
        matches!(self.overflow, OverflowPolicy::Wait { .. })
    }

    /// The followers whose readers are waited for, and whether there are any.
    pub(super) fn patient_followers(&self, any: &AtomicBool) -> Vec<Arc<Self>> {
        let state = self.state.lock();
        let patient = state.followers.patient();
        any.store(!patient.is_empty(), Ordering::Release);
        patient
    }

    /// Hands one event to the one reader of a feed of its own. Whether it took it, and whether it takes more.
    pub(super) fn follow(&self, delivery: &Delivery<E>, after: &mut After<E>) -> Outcome {
        let mut state = self.state.lock();
        if state.closed || state.log.live() == 0 {
            return Outcome::Dead;
        }
        if self.overflow == OverflowPolicy::Close && state.log.would_lose(delivery.bytes) {
            self.counters.closed_overflowed.fetch_add(1, Ordering::Relaxed);
            state.closed = true;
            for seat in state.seats.iter_mut().filter(|seat| seat.end == End::Open) {
                seat.end = End::Overflowed { missed: 1 };
                self.counters.subscriptions.fetch_sub(1, Ordering::Relaxed);
            }
            self.counters.missed.fetch_add(1, Ordering::Relaxed);
            state.waiting.take_into(after);
            return Outcome::Closed;
        }
        state.push(delivery.clone(), after);
        Outcome::Alive
    }

    /// Waits until there is room, at most for the subscription's own timeout from when `timer` was started. Called under
    /// no lock.
    pub(crate) fn wait_for_room(&self, timer: &Clock) {
        let OverflowPolicy::Wait { timeout } = self.overflow else { return };
        let mut state = self.state.lock();
        let left = timeout.saturating_sub(timer.monotonic());
        if left.is_zero() || !state.is_full() {
            return;
        }
        state.publishers += 1;
        self.room.wait_while_for(&mut state, |state| state.is_full(), left);
        state.publishers -= 1;
    }

    /// Ends readers that lagged for their grace without reading, and drops what nobody needs. How many were ended.
    pub(super) fn sweep(&self, now_ms: u64, after: &mut After<E>) -> usize {
        let mut state = self.state.lock();
        let ended = state.sweep(now_ms, &self.counters, after);
        self.ask(&state);
        if ended > 0 {
            self.was_read(state);
        }
        ended
    }

    /// Wants a sign of life of those who were found lagging.
    pub(super) fn ask(&self, state: &State<E>) {
        if state.seats.iter().any(|seat| seat.end == End::Open && seat.stood.is_some()) {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends all readers; they still get what waits.
    pub(super) fn close(&self, after: &mut After<E>) {
        let mut state = self.state.lock();
        state.close(&self.counters, after);
        self.was_read(state);
    }

    /// Whether it takes more.
    pub(super) fn is_open(&self) -> bool {
        let state = self.state.lock();
        !state.closed && state.log.live() > 0
    }
}

/// What became of one event or look at a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It lives.
    Alive,
    /// It was closed before: its entry is to be pruned.
    Dead,
    /// It was closed now, over this very event.
    Closed,
}

impl<E> State<E> {
    pub(super) fn join(&mut self, grace: Duration, counters: &Counters) -> Place {
        let place = self.log.join();
        self.seat_at(place, grace, counters);
        place
    }

    /// A reader from an index on; `None` if not all from there is still here.
    pub(super) fn rejoin(&mut self, index: u64, grace: Duration, counters: &Counters) -> Option<Place> {
        let place = self.log.rejoin(index)?;
        self.seat_at(place, grace, counters);
        Some(place)
    }

    fn seat_at(&mut self, place: Place, grace: Duration, counters: &Counters) {
        let end = if self.closed { End::Shutdown } else { End::Open };
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let seat = Seat { end, grace_ms, stood: None };
        match self.seats.get_mut(place.index()) {
            Some(free) => *free = seat,
            None => self.seats.push(seat),
        }
        if end == End::Open {
            counters.subscriptions.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where a reader's waker stands in this round, if it does.
    fn armed(&mut self, place: Place) -> Option<&mut Option<Waker>> {
        let (round, at) = *self.log.armed(place);
        self.waiting.wakers.get_mut(at as usize).filter(|_| round == self.waiting.round)
    }

    fn arm(&mut self, place: Place, waker: &mut Option<Waker>) {
        if let Some(armed) = self.armed(place) {
            std::mem::swap(armed, waker);
            return;
        }
        if self.waiting.wakers.len() > FEW_WAKERS + 2 * self.seats.len() {
            self.close_ranks();
        }
        let at = u32::try_from(self.waiting.wakers.len()).expect("no more wakers than readers");
        *self.log.armed(place) = (self.waiting.round, at);
        self.waiting.wakers.push(waker.take());
    }

    /// Where readers come, wait and leave and no event ends the round, the places of their wakers would add up.
    #[cold]
    fn close_ranks(&mut self) {
        let mut wakers = Vec::with_capacity(self.log.live());
        for place in self.log.places() {
            if let Some(waker) = self.armed(place).and_then(Option::take) {
                // Of the next round, so that the places of those who left are nobody's.
                *self.log.armed(place) = (self.waiting.round + 1, wakers.len() as u32);
                wakers.push(Some(waker));
            }
        }
        self.waiting.round += 1;
        self.waiting.wakers = wakers;
    }

    /// Adds an event and takes everybody's waker. How many readers it is for.
    pub(super) fn push(&mut self, delivery: Delivery<E>, after: &mut After<E>) -> usize {
        if self.closed {
            after.waste.push(delivery);
            return 0;
        }
        self.log.append(delivery, &mut after.waste);
        self.waiting.take_into(after);
        self.log.live()
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    fn is_full(&self) -> bool {
        !self.closed && self.log.live() > 0 && !self.log.has_room(0)
    }

    pub(super) fn is_watched(&self) -> bool {
        !self.closed && (self.log.live() > 0 || !self.followers.is_empty())
    }

    pub(super) fn sweep(&mut self, now_ms: u64, counters: &Counters, after: &mut After<E>) -> usize {
        let mut ended = 0;
        for place in self.log.places() {
            let seat = &mut self.seats[place.index()];
            let stands = self.log.stands(place);
            let stood = stands.and_then(|at| Some((at, seat.stood.filter(|stood| stood.0 == at)?.1)));
            seat.stood = stood.or(stands.map(|at| (at, now_ms)));
            let is_over =
                seat.stood.is_some_and(|(_, since_ms)| now_ms.saturating_sub(since_ms) >= seat.grace_ms);
            if seat.end == End::Open && is_over {
                let missed = self.log.end(place, &mut after.waste);
                seat.end = End::Stagnant { missed };
                counters.missed.fetch_add(missed, Ordering::Relaxed);
                counters.closed_stagnant.fetch_add(1, Ordering::Relaxed);
                counters.subscriptions.fetch_sub(1, Ordering::Relaxed);
                ended += 1;
            }
        }
        self.log.tidy(&mut after.waste);
        // All of them: who was ended is not told apart here, and the others look once for nothing.
        if ended > 0 {
            self.waiting.take_into(after);
        }
        ended
    }

    pub(super) fn close(&mut self, counters: &Counters, after: &mut After<E>) {
        self.closed = true;
        for seat in self.seats.iter_mut().filter(|seat| seat.end == End::Open) {
            seat.end = End::Shutdown;
            counters.subscriptions.fetch_sub(1, Ordering::Relaxed);
        }
        self.waiting.take_into(after);
    }
}

impl Waiting {
    fn take_into<E>(&mut self, after: &mut After<E>) {
        if self.wakers.is_empty() {
            return;
        }
        self.round += 1;
        if self.wakers.len() <= FEW_WAKERS {
            self.wakers.drain(..).flatten().for_each(|waker| after.wake(waker));
        } else {
            let room = Vec::with_capacity(self.wakers.len());
            after.wake_all(std::mem::replace(&mut self.wakers, room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::BusConfig;

    #[test]
    fn readers_that_wait_and_leave_do_not_add_up_where_no_event_comes() {
        let shared = Shared::new(BusConfig::default(), Clock::manual(0).0);
        let bounds = Bounds { events: 4, bytes: 4 };
        let feed = Feed::<u64>::shared(bounds, Retention::UntilRead, &shared);
        let wait = |place| {
            let mut waker = Some(Waker::noop().clone());
            let look = feed.read(place, &mut VecDeque::new(), Some(&mut waker), &mut Vec::new());
            assert!(matches!(look, Look::Nothing));
        };
        let mut place = feed.join(Duration::MAX);
        wait(place);
        for _ in 0..1_000 {
            let next = feed.join(Duration::MAX);
            wait(next);
            feed.leave(place, 0, &mut After::new());
            place = next;
            assert!(feed.state.lock().waiting.wakers.len() <= 2 * FEW_WAKERS + 2);
        }
        let mut state = feed.state.lock();
        assert!(state.armed(place).is_some_and(|waker| waker.is_some()), "the one that waits is still there");
    }
}

//! One subscription's queue: what waits behind one lock, what happens when it is full, and when it ends.
//!
//! Publisher and reader share one short critical section: the slots, the reader's waker and the end are changed
//! together. So a reader that does not wait costs a publisher no second lock and no flag, and "look, then wait" is one
//! step, which no wake-up can slip through.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::slots::{Batch, Bounds, Popped, Slots};
use super::{After, Counters, Delivery, OverflowPolicy, Shared, SubscribeOptions};
use crate::clock::Clock;

/// The queue between publishers and one subscription. The handle that the reader has owns it; the bus holds it weakly.
pub(crate) struct Queue<E> {
    state: Mutex<State<E>>,
    id: u64,
    bounds: Bounds,
    overflow: OverflowPolicy,
    grace_ms: u64,
    /// Where publishers wait for room, if the subscription asks for that.
    room: Condvar,
    counters: Arc<Counters>,
}

struct State<E> {
    slots: Slots<E>,
    /// The reader's, while it waits.
    waker: Option<Waker>,
    end: End,
    /// How often the reader took something: tells a slow reader from one that stands still.
    reads: u64,
    /// Since when, and at which count of reads, the queue was found full.
    full: Option<Full>,
    /// How many publishers wait for room.
    publishers: usize,
}

#[derive(Clone, Copy)]
struct Full {
    since_ms: u64,
    reads: u64,
}

/// Why a queue takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Open,
    Stagnant,
    Overflowed,
    Shutdown,
    Dropped,
}

/// What became of one push or check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The queue lives.
    Alive,
    /// It was closed before: its entry is to be pruned.
    Dead,
    /// It was closed now, over this very event.
    Closed,
}

impl<E> Queue<E> {
    pub(super) fn new(id: u64, options: &SubscribeOptions, shared: &Shared) -> Self {
        let counters = Arc::clone(&shared.counters);
        counters.subscriptions.fetch_add(1, Ordering::Relaxed);
        let state =
            State { slots: Slots::new(), waker: None, end: End::Open, reads: 0, full: None, publishers: 0 };
        Self {
            state: Mutex::new(state),
            id,
            bounds: Bounds { events: options.capacity.max(1), bytes: shared.config.queue_bytes },
            overflow: options.overflow,
            grace_ms: u64::try_from(options.grace.as_millis()).unwrap_or(u64::MAX),
            room: Condvar::new(),
            counters,
        }
    }

    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// Hands over one event. Called under topic locks: only moves pointers, the rest goes to `after`.
    pub(super) fn push(&self, delivery: &Delivery<E>, clock: &Clock, after: &mut After<E>) -> Outcome {
        let mut state = self.state.lock();
        if state.end != End::Open {
            return Outcome::Dead;
        }
        let mut outcome = Outcome::Alive;
        if state.slots.has_room(delivery.0.bytes, &self.bounds) || self.is_patient() {
            after.keep_superseded(state.slots.push(delivery));
        } else {
            outcome = self.overflow(&mut state, delivery, clock, after);
        }
        let waker = state.waker.take();
        drop(state);
        after.wake(waker);
        outcome
    }

    #[cold]
    fn overflow(
        &self,
        state: &mut State<E>,
        delivery: &Delivery<E>,
        clock: &Clock,
        after: &mut After<E>,
    ) -> Outcome {
        let end = match self.overflow {
            OverflowPolicy::Close => {
                after.coalesced += state.slots.start_lagging(&mut after.waste);
                if state.slots.has_room(delivery.0.bytes, &self.bounds) {
                    after.keep_superseded(state.slots.push(delivery));
                    return Outcome::Alive;
                }
                End::Overflowed
            }
            _ if self.stands_still(state, after.now_ms(clock)) => End::Stagnant,
            _ => {
                let gone = state.slots.push_over(delivery, &self.bounds, &mut after.waste);
                after.missed += gone.lost;
                after.coalesced += gone.coalesced;
                return Outcome::Alive;
            }
        };
        after.missed += 1;
        self.finish(state, end, after);
        state.slots.lose_last(1);
        Outcome::Closed
    }

    /// Whether publishers wait for this reader.
    pub(super) const fn is_patient(&self) -> bool {
        matches!(self.overflow, OverflowPolicy::Wait { .. })
    }

    /// Waits until there is room, at most for the subscription's own timeout from when `timer` was started; then makes
    /// room as for every other subscription, or closes a stagnant one. Called under no lock.
    pub(crate) fn wait_for_room(&self, timer: &Clock, clock: &Clock, after: &mut After<E>) {
        let OverflowPolicy::Wait { timeout } = self.overflow else { return };
        let mut state = self.state.lock();
        while state.end == End::Open && !state.slots.has_room(0, &self.bounds) {
            let left = timeout.saturating_sub(timer.monotonic());
            if !left.is_zero() {
                self.wait(&mut state, left);
            } else if self.stands_still(&mut state, after.now_ms(clock)) {
                self.finish(&mut state, End::Stagnant, after);
            } else {
                let gone = state.slots.make_room(&self.bounds, &mut after.waste);
                after.missed += gone.lost;
                after.coalesced += gone.coalesced;
            }
        }
    }

    fn wait(&self, state: &mut MutexGuard<'_, State<E>>, timeout: Duration) {
        state.publishers += 1;
        let full = |state: &mut State<E>| state.end == End::Open && !state.slots.has_room(0, &self.bounds);
        self.room.wait_while_for(state, full, timeout);
        state.publishers -= 1;
    }

    /// Closes the queue if it has been full and unread for its grace. For topics where nothing is published.
    pub(super) fn check(&self, clock: &Clock, after: &mut After<E>) -> Outcome {
        let mut state = self.state.lock();
        if state.end != End::Open {
            return Outcome::Dead;
        }
        let unread = state.full.is_some_and(|full| full.reads == state.reads);
        let full = unread || state.slots.waiting() >= self.bounds.events;
        if full && self.stands_still(&mut state, after.now_ms(clock)) {
            self.finish(&mut state, End::Stagnant, after);
            return Outcome::Closed;
        }
        Outcome::Alive
    }

    /// The queue is full: has it been so, without a single read, for its grace?
    fn stands_still(&self, state: &mut State<E>, now_ms: u64) -> bool {
        match state.full {
            Some(full) if full.reads == state.reads => now_ms.saturating_sub(full.since_ms) >= self.grace_ms,
            _ => {
                state.full = Some(Full { since_ms: now_ms, reads: state.reads });
                false
            }
        }
    }

    /// Closes the queue if it is open. A reader still gets what waits, except when it was stagnant.
    pub(super) fn close(&self, end: End, after: &mut After<E>) {
        let mut state = self.state.lock();
        if state.end == End::Open {
            self.finish(&mut state, end, after);
        }
    }

    fn finish(&self, state: &mut State<E>, end: End, after: &mut After<E>) {
        state.end = end;
        self.counters.subscriptions.fetch_sub(1, Ordering::Relaxed);
        match end {
            End::Stagnant => {
                self.counters.closed_stagnant.fetch_add(1, Ordering::Relaxed);
                let unread = state.slots.clear(&mut after.waste);
                state.slots.lose_last(unread);
                after.missed += unread;
            }
            End::Overflowed => _ = self.counters.closed_overflowed.fetch_add(1, Ordering::Relaxed),
            End::Open | End::Shutdown | End::Dropped => {}
        }
        if state.publishers > 0 {
            self.room.notify_all();
        }
        after.wake(state.waker.take());
    }

    /// The reader is gone, maybe with an event in its hand: ends the queue and gives up what is left in it.
    pub(super) fn abandon(&self, with_one: bool, after: &mut After<E>) {
        self.close(End::Dropped, after);
        let mut state = self.state.lock();
        let unread = state.slots.clear(&mut after.waste);
        let waker = state.waker.take();
        drop(state);
        drop(waker);
        self.counters.abandoned.fetch_add(unread + u64::from(with_one), Ordering::Relaxed);
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.lock().end == End::Open
    }

    /// The reader's side: the next event or loss, and whether the queue had ended by then. One reader at a time.
    pub(super) fn pop(&self) -> (Option<Popped<E>>, End) {
        let mut state = self.state.lock();
        let popped = state.slots.pop();
        let end = state.end;
        if popped.is_some() {
            self.was_read(state, 1);
        }
        (popped, end)
    }

    /// Takes all that waits into an empty batch, if that is no more than `limit` and nothing is missing before or in it.
    /// Otherwise it has to be popped.
    pub(super) fn take_all(&self, batch: &mut Batch<E>, limit: usize) -> bool {
        let mut state = self.state.lock();
        let taken = state.slots.waiting();
        if taken == 0 || taken > limit || !state.slots.take_all(batch) {
            return false;
        }
        self.was_read(state, taken);
        true
    }

    /// Publishers that wait learn of the room, after the lock.
    fn was_read(&self, mut state: MutexGuard<'_, State<E>>, taken: usize) {
        state.reads += taken as u64;
        let waiting = state.publishers > 0;
        drop(state);
        if waiting {
            self.room.notify_all();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().slots.waiting()
    }

    /// Leaves the reader's waker to be woken by what comes next; false when there is something already.
    pub(super) fn arm(&self, waker: &Waker) -> bool {
        // Cloning and dropping a waker runs code of the runtime's: not under the lock.
        let mut waker = Some(waker.clone());
        let mut state = self.state.lock();
        let waits = state.end == End::Open && state.slots.is_empty();
        if waits {
            std::mem::swap(&mut state.waker, &mut waker);
        }
        drop(state);
        drop(waker);
        waits
    }
}

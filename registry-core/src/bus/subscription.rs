//! The reader's end of the bus: a subscription, what it hands out, and how it ends.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use thiserror::Error;

use super::queue::End;
use super::slots::{Batch, Popped};
use super::{After, Delivery, Position, Queue, Shared, SubscribeOptions};
use crate::clock::Clock;
use crate::id::NodeId;

/// A reader's place on the bus. Dropping it is all that leaving takes: the bus holds only a weak reference.
pub struct Subscription<E> {
    queue: Arc<Queue<E>>,
    /// Replayed events, before everything in the queue.
    backlog: VecDeque<Delivery<E>>,
    /// The event behind a hole that was just told.
    held: Option<Delivery<E>>,
    position: Position,
    missed_total: u64,
    coalesced_total: u64,
    /// The room that batches are taken into.
    batch: Batch<E>,
    floors: Option<Floors>,
    closed: Option<Closed>,
}

/// What a subscription hands out.
#[derive(Debug)]
pub enum Received<E> {
    /// An event.
    Event(Delivery<E>),
    /// The reader was too slow: this many events are missing before the next one.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// Why a subscription is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Closed {
    /// It was full and not read at all for its grace.
    #[error(
        "closed: nothing was read for too long, {missed} events were missed; subscribe again and take a snapshot"
    )]
    Stagnant {
        /// How many events it did not hand out and has not told of.
        missed: u64,
    },
    /// It was full when one more event came, and had asked to be closed then. What waited was still handed out.
    #[error("closed: events came faster than they were read; resume after the last one")]
    Overflowed {
        /// How many events it did not hand out and has not told of.
        missed: u64,
    },
    /// The bus is gone. What had been delivered before was still handed out.
    #[error("closed: the hub is shutting down")]
    Shutdown,
}

/// What a snapshot already shows: events up to these revs are dropped, until the position where all of them have passed.
struct Floors {
    revs: HashMap<NodeId, u64>,
    until: u64,
}

impl<E> Subscription<E> {
    pub(crate) fn new(shared: &Shared, options: &SubscribeOptions) -> Self {
        Self {
            queue: Arc::new(Queue::new(shared.next_subscription(), options, shared)),
            backlog: VecDeque::new(),
            held: None,
            position: Position::default(),
            missed_total: 0,
            coalesced_total: 0,
            batch: Batch::new(),
            floors: None,
            closed: None,
        }
    }

    pub(crate) const fn queue(&self) -> &Arc<Queue<E>> {
        &self.queue
    }

    /// Where it starts: after this position, with these events.
    pub(crate) fn start(&mut self, position: Position, backlog: VecDeque<Delivery<E>>) {
        self.position = position;
        self.backlog = backlog;
    }

    /// Leaves out what a snapshot shows: events of these nodes with a rev no higher than this, up to position `until`.
    pub(crate) fn set_floors(&mut self, revs: HashMap<NodeId, u64>, until: u64) {
        self.floors = Some(Floors { revs, until });
    }

    /// Closes it as the bus would.
    pub(crate) fn shut_down(&self) {
        self.queue.close(End::Shutdown, &mut After::new());
    }

    /// The next event or loss, if there is one now.
    ///
    /// # Errors
    /// [`Closed`], on every call from then on.
    pub fn try_recv(&mut self) -> Result<Option<Received<E>>, Closed> {
        if let Some(delivery) = self.backlog.pop_front().or_else(|| self.held.take()) {
            return Ok(Some(self.hand_out(delivery)));
        }
        if let Some(closed) = self.closed {
            return Err(closed);
        }
        loop {
            let (popped, end) = self.queue.pop();
            let Some(Popped { hole, delivery }) = popped else {
                return self.at_end(end, 0).map_or(Ok(None), Err);
            };
            self.coalesced_total += hole.coalesced;
            self.missed_total += hole.lost;
            let missed = hole.lost;
            match delivery {
                None if matches!(end, End::Stagnant | End::Overflowed) => {
                    return self.at_end(end, missed).map_or(Ok(None), Err);
                }
                None if missed > 0 => return Ok(Some(Received::Lagged { missed })),
                None => {}
                Some(delivery) => {
                    let shown = self.is_shown(&delivery);
                    if missed > 0 {
                        self.held = (!shown).then_some(delivery);
                        return Ok(Some(Received::Lagged { missed }));
                    }
                    if !shown {
                        return Ok(Some(self.hand_out(delivery)));
                    }
                }
            }
        }
    }

    /// Appends all that waits to `out`, at most `limit`, and returns how many that were. One lock for all of them while
    /// the reader keeps up: several times cheaper than one by one.
    ///
    /// # Errors
    /// [`Closed`], on every call from then on.
    pub fn try_recv_many(&mut self, out: &mut Vec<Received<E>>, limit: usize) -> Result<usize, Closed> {
        let before = out.len();
        let plain = self.backlog.is_empty() && self.held.is_none() && self.floors.is_none();
        if plain && self.queue.take_all(&mut self.batch, limit) {
            out.extend(self.batch.drain().map(Received::Event));
            if let Some(Received::Event(last)) = out.last() {
                self.position = last.resume_position();
            }
            return Ok(out.len() - before);
        }
        while out.len() - before < limit {
            match self.try_recv() {
                Ok(Some(received)) => out.push(received),
                Ok(None) => break,
                // What came before is handed out first; the end comes again.
                Err(_) if out.len() > before => break,
                Err(closed) => return Err(closed),
            }
        }
        Ok(out.len() - before)
    }

    /// Waits until something comes, and appends it and what else waits to `out`, at most `limit` (at least one). Dropping
    /// the future loses nothing.
    ///
    /// # Errors
    /// [`Closed`], on every call from then on.
    pub fn recv_many(
        &mut self,
        out: &mut Vec<Received<E>>,
        limit: usize,
    ) -> impl Future<Output = Result<usize, Closed>> + Send
    where
        E: Send + Sync,
    {
        poll_fn(move |cx| self.poll_recv_many(cx, out, limit))
    }

    /// [`recv_many`](Subscription::recv_many) for hand-written futures.
    pub fn poll_recv_many(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received<E>>,
        limit: usize,
    ) -> Poll<Result<usize, Closed>> {
        loop {
            match self.try_recv_many(out, limit.max(1)) {
                Ok(0) if self.queue.arm(cx.waker()) => return Poll::Pending,
                Ok(0) => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn hand_out(&mut self, delivery: Delivery<E>) -> Received<E> {
        self.position = delivery.resume_position();
        Received::Event(delivery)
    }

    /// Waits for the next event or loss. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Closed`], on every call from then on.
    pub fn recv(&mut self) -> impl Future<Output = Result<Received<E>, Closed>> + Send + '_
    where
        E: Send + Sync,
    {
        poll_fn(|cx| self.poll_recv(cx))
    }

    /// [`recv`](Subscription::recv) for hand-written futures.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received<E>, Closed>> {
        loop {
            if let Some(received) = self.try_recv().transpose() {
                return Poll::Ready(received);
            }
            if self.queue.arm(cx.waker()) {
                return Poll::Pending;
            }
        }
    }

    /// Blocks the thread until the next event or loss, at most for `timeout`; `None` when that is over.
    ///
    /// # Errors
    /// [`Closed`], on every call from then on.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Received<E>>, Closed> {
        if let Some(received) = self.try_recv()? {
            return Ok(Some(received));
        }
        // A thread really waits, so real time counts, whatever clock the bus was given.
        let timer = Clock::system();
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        loop {
            if let Poll::Ready(received) = self.poll_recv(&mut Context::from_waker(&waker)) {
                return received.map(Some);
            }
            let Some(left) = timeout.checked_sub(timer.monotonic()).filter(|left| !left.is_zero()) else {
                return Ok(None);
            };
            bell.wait(left);
        }
    }

    /// Where the reader is, to resume from: at the last event that it was handed, and before the first where it
    /// started. Means nothing for a subscription to several users, and nothing can be resumed while its incarnation
    /// is 0.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// How many events this reader was told it missed.
    #[must_use]
    pub const fn missed_total(&self) -> u64 {
        self.missed_total
    }

    /// How many state events gave way to a later one of their node before this reader came to them.
    #[must_use]
    pub const fn coalesced_total(&self) -> u64 {
        self.coalesced_total
    }

    /// How many events wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.backlog.len() + usize::from(self.held.is_some()) + self.queue.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The queue is empty: was that all? `missed` events at its end were not told of.
    const fn at_end(&mut self, end: End, missed: u64) -> Option<Closed> {
        self.closed = match end {
            End::Open => None,
            End::Stagnant => Some(Closed::Stagnant { missed }),
            End::Overflowed => Some(Closed::Overflowed { missed }),
            End::Shutdown | End::Dropped => Some(Closed::Shutdown),
        };
        self.closed
    }

    /// Whether the snapshot shows this event already.
    fn is_shown(&mut self, delivery: &Delivery<E>) -> bool {
        let Some(floors) = &self.floors else { return false };
        if delivery.position > floors.until {
            self.floors = None;
            return false;
        }
        floors.revs.get(&delivery.node).is_some_and(|rev| delivery.rev <= *rev)
    }
}

impl<E> Drop for Subscription<E> {
    fn drop(&mut self) {
        let mut after = After::new();
        // Also when another closed it before, so that the bus never holds a payload's last pointer.
        self.queue.abandon(self.held.is_some(), &mut after);
    }
}

impl<E> fmt::Debug for Subscription<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("id", &self.queue.id())
            .field("waiting", &self.len())
            .field("missed_total", &self.missed_total)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// Wakes a thread that blocks on a subscription.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    condvar: Condvar,
}

impl Bell {
    fn wait(&self, timeout: Duration) {
        let mut rung = self.rung.lock();
        self.condvar.wait_while_for(&mut rung, |rung| !*rung, timeout);
        *rung = false;
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock() = true;
        self.condvar.notify_one();
    }
}

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
    /// The number of the queue's next item, if nothing is lost.
    expected: u64,
    position: Position,
    missed_total: u64,
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
            expected: 0,
            position: Position::default(),
            missed_total: 0,
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
            // Before the pop: what was pushed before the end is still handed out.
            let end = self.queue.end();
            let Some((number, delivery)) = self.queue.pop() else {
                return self.at_end(end).map_or(Ok(None), Err);
            };
            let missed = number - self.expected;
            self.expected = number + 1;
            let shown = self.is_shown(&delivery);
            if missed > 0 {
                self.missed_total += missed;
                self.held = (!shown).then_some(delivery);
                return Ok(Some(Received::Lagged { missed }));
            }
            if !shown {
                return Ok(Some(self.hand_out(delivery)));
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
        if let Some(received) = self.try_recv().transpose() {
            return Poll::Ready(received);
        }
        self.queue.arm(cx.waker());
        self.try_recv().transpose().map_or(Poll::Pending, Poll::Ready)
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

    /// The queue is empty: was that all?
    fn at_end(&mut self, end: End) -> Option<Closed> {
        self.closed = match end {
            End::Open => None,
            End::Stagnant => {
                let missed = self.queue.meant() - self.expected;
                self.missed_total += missed;
                Some(Closed::Stagnant { missed })
            }
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
        self.queue.close(End::Dropped, &mut after);
        // Closed before by another: what it left is dropped here, so that the bus never holds a payload's last pointer.
        self.queue.clear(&mut after);
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

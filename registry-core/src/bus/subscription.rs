//! The reader's end of the bus: a subscription, what it hands out, and how it ends.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use thiserror::Error;

use super::feed::{End, Feed, Look};
use super::log::{Bounds, Place};
use super::topic::Joined;
use super::{After, Delivery, Position, Shared, SubscribeOptions};
use crate::clock::Clock;
use crate::id::NodeId;

/// A reader's place on the bus. Dropping it is all that leaving takes.
pub struct Subscription<E> {
    feed: Arc<Feed<E>>,
    place: Place,
    /// What was taken from the feed and not handed out yet.
    ready: VecDeque<Received<E>>,
    /// Up to which sweep's question it has said that it lives.
    answered: u64,
    position: Position,
    missed_total: u64,
    coalesced_total: u64,
    floors: Option<Box<Floors>>,
    closed: Option<Closed>,
    /// A waker that was cloned and not needed.
    waker: Option<Waker>,
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
    /// On a feed that it shares with others.
    pub(crate) fn shared(joined: Joined<E>) -> Self {
        Self::on(joined.feed, joined.place, joined.position)
    }

    /// On a feed of its own, which follows nothing yet.
    pub(crate) fn own(shared: &Shared, options: &SubscribeOptions) -> Self {
        let events = options.capacity.unwrap_or(shared.config.queue_events).max(1);
        let bounds = Bounds { events, bytes: shared.config.queue_bytes };
        let feed = Feed::own(bounds, options.overflow, shared);
        let place = feed.join(options.grace);
        Self::on(feed, place, Position::default())
    }

    const fn on(feed: Arc<Feed<E>>, place: Place, position: Position) -> Self {
        Self {
            feed,
            place,
            ready: VecDeque::new(),
            answered: 0,
            position,
            missed_total: 0,
            coalesced_total: 0,
            floors: None,
            closed: None,
            waker: None,
        }
    }

    pub(crate) const fn feed(&self) -> &Arc<Feed<E>> {
        &self.feed
    }

    /// Where it starts: after this position, with these events.
    pub(crate) fn start(&mut self, position: Position, backlog: Vec<Delivery<E>>) {
        self.position = position;
        self.ready = backlog.into_iter().map(Received::Event).collect();
    }

    /// Leaves out what a snapshot shows: events of these nodes with a rev no higher than this, up to position `until`.
    pub(crate) fn set_floors(&mut self, revs: HashMap<NodeId, u64>, until: u64) {
        self.floors = Some(Box::new(Floors { revs, until }));
    }

    /// Closes it as the bus would.
    pub(crate) fn shut_down(&self) {
        self.feed.close(&mut After::new());
    }

    /// The next event or loss, if there is one now.
    ///
    /// # Errors
    /// [`Closed`], on every call from then on.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<Received<E>>, Closed> {
        match self.next(false) {
            Poll::Ready(received) => received.map(Some),
            Poll::Pending => Ok(None),
        }
    }

    /// The next thing. If there is none, and that is wanted, the kept waker is left to be woken by what comes.
    fn next(&mut self, leave_waker: bool) -> Poll<Result<Received<E>, Closed>> {
        loop {
            while let Some(received) = self.ready.pop_front() {
                self.feed.was_handed_out(self.place, &mut self.answered);
                if let Some(received) = self.hand_out(received) {
                    return Poll::Ready(Ok(received));
                }
            }
            if let Some(closed) = self.closed {
                return Poll::Ready(Err(closed));
            }
            let waker = if leave_waker { Some(&mut self.waker) } else { None };
            // Declared before the look takes a lock, dropped after it.
            let mut waste = Vec::new();
            match self.feed.read(self.place, &mut self.ready, waker, &mut waste) {
                Look::Event(delivery) => {
                    if let Some(received) = self.hand_out(Received::Event(delivery)) {
                        return Poll::Ready(Ok(received));
                    }
                }
                Look::Behind { coalesced } => self.coalesced_total += coalesced,
                Look::Nothing => return Poll::Pending,
                Look::Ended(end) => self.ended(end),
            }
        }
    }

    const fn ended(&mut self, end: End) {
        self.closed = Some(match end {
            End::Stagnant { missed } => {
                self.missed_total += missed;
                Closed::Stagnant { missed }
            }
            End::Overflowed { missed } => {
                self.missed_total += missed;
                Closed::Overflowed { missed }
            }
            End::Open | End::Shutdown => Closed::Shutdown,
        });
    }

    /// What becomes of something in hand; `None` for an event that the snapshot shows.
    #[inline]
    fn hand_out(&mut self, received: Received<E>) -> Option<Received<E>> {
        if self.floors.is_some()
            && let Received::Event(delivery) = &received
            && self.is_shown(delivery)
        {
            return None;
        }
        self.note(&received);
        Some(received)
    }

    #[inline]
    fn note(&mut self, received: &Received<E>) {
        match received {
            Received::Event(delivery) => self.position = delivery.resume_position(),
            Received::Lagged { missed } => self.missed_total += missed,
        }
    }

    /// Appends all that waits to `out`, at most `limit`, and returns how many that were.
    ///
    /// # Errors
    /// [`Closed`], on every call from then on.
    pub fn try_recv_many(&mut self, out: &mut Vec<Received<E>>, limit: usize) -> Result<usize, Closed> {
        let before = out.len();
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
        let before = out.len();
        match self.poll_recv(cx) {
            Poll::Ready(Ok(first)) => out.push(first),
            Poll::Ready(Err(closed)) => return Poll::Ready(Err(closed)),
            Poll::Pending => return Poll::Pending,
        }
        // An end comes again at the next call.
        let _ = self.try_recv_many(out, limit.saturating_sub(1));
        Poll::Ready(Ok(out.len() - before))
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
    #[inline]
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received<E>, Closed>> {
        // What most calls find in a burst: something in hand that is to be handed out as it is.
        if self.floors.is_none()
            && let Some(received) = self.ready.pop_front()
        {
            self.feed.was_handed_out(self.place, &mut self.answered);
            self.note(&received);
            return Poll::Ready(Ok(received));
        }
        self.poll_feed(cx)
    }

    fn poll_feed(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received<E>, Closed>> {
        // Cloning a waker runs code of the runtime's: before the lock. What is not needed now is kept for later.
        if !self.waker.as_ref().is_some_and(|kept| kept.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        self.next(true)
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
        self.in_hand() + self.feed.waiting(self.place)
    }

    fn in_hand(&self) -> usize {
        self.ready.iter().filter(|received| matches!(received, Received::Event(_))).count()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the snapshot shows this event already.
    #[cold]
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
        self.feed.leave(self.place, self.in_hand() as u64, &mut after);
    }
}

impl<E> fmt::Debug for Subscription<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
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

//! Commands that wait for one node: a bounded queue with a reason for its end.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// The commands that wait for one session of a node, in order. Any thread pushes; one consumer, the session's stream,
/// takes.
///
/// Bounded: a full outbox refuses, it never drops and never makes the pusher wait. Memory is taken as it fills.
pub struct Outbox<C> {
    capacity: usize,
    state: Mutex<State<C>>,
}

struct State<C> {
    queue: VecDeque<C>,
    closed: Option<CloseReason>,
    /// The consumer, while it waits.
    waiter: Option<Waker>,
}

/// Why an outbox takes nothing more: what the session's stream tells its node before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// A newer session of the same node took over.
    Superseded,
    /// The hub is going down and the node should come back. What waits is still delivered.
    Draining,
    /// The node was removed from the roll.
    Revoked,
    /// The node was silent for longer than its lease.
    LeaseExpired,
    /// The node does not take its commands fast enough.
    Overloaded,
    /// The node's stream ended by itself.
    Left,
}

impl CloseReason {
    /// The reason's name in JSON, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::Draining => "draining",
            Self::Revoked => "revoked",
            Self::LeaseExpired => "lease_expired",
            Self::Overloaded => "overloaded",
            Self::Left => "left",
        }
    }
}

/// A command that the outbox did not take, given back.
pub enum OutboxError<C> {
    /// As many wait as may wait: try later, or give up on the session.
    Full(C),
    /// The session is over.
    Closed(C),
}

impl<C> Outbox<C> {
    /// An empty outbox for at most `capacity` commands (at least one).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let state = State { queue: VecDeque::new(), closed: None, waiter: None };
        Self { capacity: capacity.max(1), state: Mutex::new(state) }
    }

    /// Adds a command at the end. O(1); never waits for the consumer.
    ///
    /// # Errors
    /// [`OutboxError::Full`] or [`OutboxError::Closed`], with the command.
    pub fn try_push(&self, command: C) -> Result<(), OutboxError<C>> {
        let waiter = {
            let mut state = self.state.lock();
            if state.closed.is_some() {
                return Err(OutboxError::Closed(command));
            }
            if state.queue.len() >= self.capacity {
                return Err(OutboxError::Full(command));
            }
            state.queue.push_back(command);
            state.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
        Ok(())
    }

    /// Waits for the next command; `None` once the outbox is closed (after what waits, when it is draining).
    ///
    /// Dropping the future loses nothing. One consumer at a time: a second one that waits beside the first would take
    /// the first one's wake-ups.
    pub fn next(&self) -> impl Future<Output = Option<C>> + Send + '_
    where
        C: Send,
    {
        poll_fn(|cx| self.poll_next(cx))
    }

    /// [`next`](Outbox::next) for hand-written futures.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<C>> {
        loop {
            if let Some(done) = self.take() {
                return Poll::Ready(done);
            }
            // Cloning and dropping a waker runs code of the runtime's: not under the lock.
            let mut waker = Some(cx.waker().clone());
            let mut state = self.state.lock();
            if state.queue.is_empty() && state.closed.is_none() {
                std::mem::swap(&mut state.waiter, &mut waker);
                drop(state);
                return Poll::Pending;
            }
        }
    }

    /// Ends the outbox. What waits is dropped, unless it is [`Draining`](CloseReason::Draining). The first reason stays,
    /// except that a harder one takes the place of `Draining`.
    ///
    /// Returns whether the reason was taken.
    pub fn close(&self, reason: CloseReason) -> bool {
        let (dropped, waiter) = {
            let mut state = self.state.lock();
            let repeated = reason == CloseReason::Draining && state.closed.is_some();
            let settled = state.closed.is_some_and(|earlier| earlier != CloseReason::Draining);
            if repeated || settled {
                return false;
            }
            state.closed = Some(reason);
            let keep = reason == CloseReason::Draining;
            let dropped = if keep { VecDeque::new() } else { std::mem::take(&mut state.queue) };
            (dropped, state.waiter.take())
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
        drop(dropped);
        true
    }

    /// Why the outbox is closed; `None` while it is open.
    #[must_use]
    pub fn closed(&self) -> Option<CloseReason> {
        self.state.lock().closed
    }

    /// How many commands wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many may wait.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// The next command, or `Some(None)` at the end, or `None` when there is nothing yet.
    fn take(&self) -> Option<Option<C>> {
        let mut state = self.state.lock();
        match state.queue.pop_front() {
            Some(command) => Some(Some(command)),
            None => state.closed.map(|_| None),
        }
    }
}

impl<C> fmt::Debug for Outbox<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, closed) = {
            let state = self.state.lock();
            (state.queue.len(), state.closed)
        };
        f.debug_struct("Outbox")
            .field("len", &len)
            .field("capacity", &self.capacity)
            .field("closed", &closed)
            .finish()
    }
}

impl<C> OutboxError<C> {
    /// The command that was not taken.
    pub fn into_inner(self) -> C {
        match self {
            Self::Full(command) | Self::Closed(command) => command,
        }
    }
}

impl<C> fmt::Debug for OutboxError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

impl<C> fmt::Display for OutboxError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "too many commands wait for this node, try again later",
            Self::Closed(_) => "the node's session is over, wait for it to attach again",
        })
    }
}

impl<C> std::error::Error for OutboxError<C> {}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll<C: Send>(outbox: &Outbox<C>, wakes: &Arc<Wakes>) -> Poll<Option<C>> {
        let waker = Waker::from(Arc::clone(wakes));
        pin!(outbox.next()).as_mut().poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn commands_come_in_order_and_a_full_outbox_gives_them_back() {
        let outbox = Outbox::new(2);
        outbox.try_push(1).unwrap();
        outbox.try_push(2).unwrap();
        assert!(matches!(outbox.try_push(3), Err(OutboxError::Full(3))));
        let wakes = Arc::default();
        assert_eq!(poll(&outbox, &wakes), Poll::Ready(Some(1)));
        outbox.try_push(3).unwrap();
        assert_eq!(poll(&outbox, &wakes), Poll::Ready(Some(2)));
        assert_eq!(poll(&outbox, &wakes), Poll::Ready(Some(3)));
        assert_eq!(poll(&outbox, &wakes), Poll::Pending);
    }

    #[test]
    fn a_waiting_consumer_is_woken_once_by_a_push_and_by_the_end() {
        let outbox = Outbox::new(4);
        let wakes = Arc::default();
        assert_eq!(poll(&outbox, &wakes), Poll::Pending);
        outbox.try_push(1).unwrap();
        outbox.try_push(2).unwrap();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&outbox, &wakes), Poll::Ready(Some(1)));
        assert_eq!(poll(&outbox, &wakes), Poll::Ready(Some(2)));
        assert_eq!(poll(&outbox, &wakes), Poll::Pending);
        assert!(outbox.close(CloseReason::Left));
        assert_eq!(wakes.0.load(Ordering::SeqCst), 2);
        assert_eq!(poll(&outbox, &wakes), Poll::Ready(None));
    }

    #[test]
    fn draining_delivers_what_waits_and_a_harder_reason_drops_it() {
        let outbox = Outbox::new(4);
        let wakes = Arc::default();
        outbox.try_push(1).unwrap();
        outbox.try_push(2).unwrap();
        assert!(outbox.close(CloseReason::Draining));
        assert!(matches!(outbox.try_push(3), Err(OutboxError::Closed(3))));
        assert_eq!(poll(&outbox, &wakes), Poll::Ready(Some(1)));
        assert!(outbox.close(CloseReason::Superseded));
        assert!(!outbox.close(CloseReason::Revoked));
        assert!(!outbox.close(CloseReason::Draining));
        assert_eq!(outbox.closed(), Some(CloseReason::Superseded));
        assert_eq!(poll(&outbox, &wakes), Poll::Ready(None));
    }

    #[test]
    fn a_command_whose_destructor_uses_the_outbox_does_not_deadlock() {
        struct Nosy(Arc<Outbox<Nosy>>);
        impl Drop for Nosy {
            fn drop(&mut self) {
                assert!(self.0.closed().is_some());
            }
        }
        let outbox = Arc::new(Outbox::new(1));
        assert!(outbox.try_push(Nosy(Arc::clone(&outbox))).is_ok());
        assert!(outbox.close(CloseReason::Overloaded));
        assert_eq!(outbox.len(), 0);
    }
}

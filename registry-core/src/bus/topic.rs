//! The two kinds of topic: all nodes of a user, with an order and a replay ring; and one node, a list beside it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::list::{self, List};
use super::queue::Queue;
use super::ring::Ring;
use super::{After, Class, Delivery, Envelope, Position, Resume, Shared};
use crate::id::{NodeId, UserId};

/// All nodes of one user. Its lock is the order of the user's events.
pub(crate) struct UserTopic<E> {
    /// Whether there is a ring, to be seen without the lock. There is one while anybody watches the user, and for a
    /// while after.
    watched: AtomicBool,
    /// Whether a subscriber may be on the list whose readers are waited for.
    waited_for: AtomicBool,
    state: Mutex<State<E>>,
}

struct State<E> {
    position: u64,
    /// The ring's; 0 without one.
    incarnation: u64,
    ring: Option<Ring<E>>,
    list: List<E>,
    /// Since when a sweep found nobody watching.
    quiet_since_ms: Option<u64>,
}

/// One node. Its list is taken under the owner's topic lock, and so shares its order.
pub(crate) struct NodeTopic<E> {
    watched: AtomicBool,
    /// As in [`UserTopic`].
    waited_for: AtomicBool,
    list: Mutex<List<E>>,
}

/// An event before it has its position.
pub(crate) struct Draft<E> {
    pub(crate) user: UserId,
    pub(crate) node: NodeId,
    pub(crate) rev: u64,
    pub(crate) at_unix_ms: u64,
    pub(crate) event: Arc<E>,
    pub(crate) bytes: usize,
    pub(crate) class: Class,
}

/// What a resumed reader is given.
pub(crate) struct Resumed<E> {
    pub(crate) resume: Resume,
    /// Where the reader goes on.
    pub(crate) position: Position,
    pub(crate) backlog: VecDeque<Delivery<E>>,
}

/// What a sweep did to one topic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Swept {
    pub(crate) pruned: usize,
    pub(crate) closed_stagnant: usize,
    pub(crate) ring_freed: bool,
    /// Nobody watches and nothing is kept: the topic may go.
    pub(crate) idle: bool,
}

impl<E> UserTopic<E> {
    pub(crate) const fn new() -> Self {
        let state =
            State { position: 0, incarnation: 0, ring: None, list: List::new(), quiet_since_ms: None };
        Self { watched: AtomicBool::new(false), waited_for: AtomicBool::new(false), state: Mutex::new(state) }
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.waited_for.load(Ordering::Acquire)
    }

    /// The subscribers whose readers are waited for.
    pub(crate) fn waited_for(&self) -> Vec<Arc<Queue<E>>> {
        let state = self.state.lock();
        let patient = state.list.patient();
        self.waited_for.store(!patient.is_empty(), Ordering::Release);
        patient
    }

    /// Whether nobody watches and nothing is kept.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.ring.is_none() && state.list.is_empty()
    }

    pub(crate) fn has_subscribers(&self) -> bool {
        !self.state.lock().list.is_empty()
    }

    /// Gives an event its position and hands it to everybody who watches the user or the node. How many took it.
    pub(crate) fn publish(
        &self,
        node: Option<&NodeTopic<E>>,
        draft: Draft<E>,
        shared: &Shared,
        after: &mut After<E>,
    ) -> usize {
        let Draft { user, node: node_id, rev, at_unix_ms, event, bytes, class } = draft;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.position += 1;
        let (position, incarnation) = (state.position, state.incarnation);
        let envelope =
            Envelope { position, incarnation, user, node: node_id, rev, at_unix_ms, event, bytes, class };
        let delivery = Delivery(Arc::new(envelope));
        if let Some(ring) = &mut state.ring {
            ring.push(delivery.clone(), after);
        }
        let reached = match node.filter(|topic| topic.is_watched()) {
            Some(topic) => {
                let mut list = topic.list.lock();
                let reached = list::deliver(&mut state.list, Some(&mut list), &delivery, shared, after);
                if list.is_empty() {
                    topic.watched.store(false, Ordering::Release);
                }
                reached
            }
            None => list::deliver(&mut state.list, None, &delivery, shared, after),
        };
        after.own = Some(delivery);
        reached
    }

    /// Adds a subscriber. Returns the position it starts after.
    pub(crate) fn join(&self, queue: &Arc<Queue<E>>, shared: &Shared) -> Position {
        let mut state = self.state.lock();
        self.open_ring(&mut state, shared);
        state.list.add(queue, &shared.counters);
        self.waited_for.fetch_or(queue.is_patient(), Ordering::Release);
        Position { incarnation: state.incarnation, position: state.position }
    }

    /// Adds a subscriber that has seen everything up to `since`.
    pub(crate) fn rejoin(&self, queue: &Arc<Queue<E>>, since: Position, shared: &Shared) -> Resumed<E> {
        let mut state = self.state.lock();
        self.open_ring(&mut state, shared);
        state.list.add(queue, &shared.counters);
        self.waited_for.fetch_or(queue.is_patient(), Ordering::Release);
        let known = since.incarnation == state.incarnation && since.position <= state.position;
        let kept = state.ring.as_ref().filter(|_| known).and_then(|ring| ring.after(since.position));
        match kept {
            Some(backlog) => {
                let replayed = backlog.len() as u64;
                Resumed { resume: Resume::Recovered { replayed }, position: since, backlog }
            }
            None => {
                let missed = known.then(|| state.position - since.position);
                let position = Position { incarnation: state.incarnation, position: state.position };
                Resumed { resume: Resume::Gap { missed }, position, backlog: VecDeque::new() }
            }
        }
    }

    fn open_ring(&self, state: &mut State<E>, shared: &Shared) {
        state.quiet_since_ms = None;
        if state.ring.is_none() {
            // Events went by unrecorded before: positions from then must not look resumable.
            state.incarnation = shared.next_incarnation();
            let config = &shared.config;
            state.ring = Some(Ring::new(state.position, config.ring_events, config.ring_bytes));
            shared.counters.rings.fetch_add(1, Ordering::Relaxed);
            self.watched.store(true, Ordering::Release);
        }
    }

    /// The newest event's position; incarnation 0 while there is no ring.
    pub(crate) fn position(&self) -> Position {
        let state = self.state.lock();
        match state.ring {
            Some(_) => Position { incarnation: state.incarnation, position: state.position },
            None => Position::default(),
        }
    }

    /// Frees the dead, closes the stagnant, and lets go of a ring that nobody needed for its linger.
    pub(crate) fn sweep(&self, shared: &Shared, after: &mut After<E>) -> Swept {
        let mut state = self.state.lock();
        let (pruned, closed_stagnant) = state.list.sweep(shared, after);
        let mut ring_freed = false;
        if state.list.is_empty() && state.ring.is_some() {
            let now_ms = shared.clock.monotonic_ms();
            let since_ms = *state.quiet_since_ms.get_or_insert(now_ms);
            let linger_ms = u64::try_from(shared.config.ring_linger.as_millis()).unwrap_or(u64::MAX);
            if now_ms.saturating_sub(since_ms) >= linger_ms {
                self.free_ring(&mut state, shared, after);
                ring_freed = true;
            }
        }
        let idle = state.list.is_empty() && state.ring.is_none();
        Swept { pruned, closed_stagnant, ring_freed, idle }
    }

    fn free_ring(&self, state: &mut State<E>, shared: &Shared, after: &mut After<E>) {
        if let Some(ring) = state.ring.take() {
            ring.into_waste(after);
            shared.counters.rings.fetch_sub(1, Ordering::Relaxed);
        }
        state.incarnation = 0;
        state.quiet_since_ms = None;
        self.watched.store(false, Ordering::Release);
    }

    /// Closes every subscription and frees the ring.
    pub(crate) fn close(&self, shared: &Shared, after: &mut After<E>) {
        let mut state = self.state.lock();
        state.list.close(shared, after);
        self.free_ring(&mut state, shared, after);
    }
}

impl<E> NodeTopic<E> {
    pub(crate) const fn new() -> Self {
        Self {
            watched: AtomicBool::new(false),
            waited_for: AtomicBool::new(false),
            list: Mutex::new(List::new()),
        }
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.waited_for.load(Ordering::Acquire)
    }

    /// The subscribers whose readers are waited for.
    pub(crate) fn waited_for(&self) -> Vec<Arc<Queue<E>>> {
        let list = self.list.lock();
        let patient = list.patient();
        self.waited_for.store(!patient.is_empty(), Ordering::Release);
        patient
    }

    /// Adds a subscriber.
    pub(crate) fn join(&self, queue: &Arc<Queue<E>>, shared: &Shared) {
        let mut list = self.list.lock();
        list.add(queue, &shared.counters);
        self.waited_for.fetch_or(queue.is_patient(), Ordering::Release);
        self.watched.store(true, Ordering::Release);
    }

    /// Frees the dead and closes the stagnant.
    pub(crate) fn sweep(&self, shared: &Shared, after: &mut After<E>) -> Swept {
        let mut list = self.list.lock();
        let (pruned, closed_stagnant) = list.sweep(shared, after);
        self.watched.store(!list.is_empty(), Ordering::Release);
        Swept { pruned, closed_stagnant, ring_freed: false, idle: list.is_empty() }
    }

    /// Closes every subscription.
    pub(crate) fn close(&self, shared: &Shared, after: &mut After<E>) {
        let mut list = self.list.lock();
        list.close(shared, after);
        self.watched.store(false, Ordering::Release);
    }
}

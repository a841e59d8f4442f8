//! The two kinds of topic: all nodes of a user, with an order and a replay ring; and one node, beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::MutexGuard;

use super::feed::{Feed, State};
use super::list;
use super::log::{Bounds, Class, Place, Retention};
use super::{After, Delivery, Envelope, Position, Resume, Shared};
use crate::id::{NodeId, UserId};

/// All nodes of one user. The lock of its feed is the order of the user's events, and an event's index in its log is
/// its position.
pub(crate) struct UserTopic<E> {
    /// Whether there is a ring, to be seen without the lock. There is one while anybody watches the user, and for a
    /// while after.
    watched: AtomicBool,
    /// Whether a follower may be there whose reader is waited for.
    waited_for: AtomicBool,
    feed: Arc<Feed<E>>,
}

/// One node.
pub(crate) struct NodeTopic<E> {
    watched: AtomicBool,
    /// Whether it has followers. Only for them the order among a user's nodes counts.
    followed: AtomicBool,
    waited_for: AtomicBool,
    feed: Arc<Feed<E>>,
}

/// An event before it has its position.
pub(crate) struct Draft<'a, E> {
    pub(crate) user: &'a UserId,
    pub(crate) node: &'a NodeId,
    pub(crate) rev: u64,
    pub(crate) at_unix_ms: u64,
    pub(crate) event: E,
    pub(crate) bytes: usize,
    pub(crate) class: Class,
}

/// A reader's place on a shared feed, and where it starts.
pub(crate) struct Joined<E> {
    pub(crate) feed: Arc<Feed<E>>,
    pub(super) place: Place,
    pub(crate) position: Position,
}

/// What a resumed reader is given.
pub(crate) struct Resumed<E> {
    pub(crate) resume: Resume,
    /// Where the reader goes on.
    pub(crate) position: Position,
    /// What it missed; empty for one that finds it on the shared feed.
    pub(crate) backlog: Vec<Delivery<E>>,
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

/// Hands an event to everybody who watches the user or the node, to each once. How many took it.
///
/// Locks: the user's feed, then the node's, then followers' one by one; only the node's where only that is watched.
pub(crate) fn publish<E>(
    user: &UserTopic<E>,
    node: Option<&NodeTopic<E>>,
    draft: Draft<'_, E>,
    shared: &Shared,
    after: &mut After<E>,
) -> usize {
    let node = node.filter(|topic| topic.is_watched());
    let mut reached = 0;
    let in_order = user.is_watched() || node.is_some_and(|topic| topic.followed.load(Ordering::Acquire));
    if in_order {
        let mut of_user = user.feed.state.lock();
        let of_user = &mut *of_user;
        let delivery = if of_user.incarnation == 0 {
            draft.at(Position::default())
        } else {
            let position = Position { incarnation: of_user.incarnation, position: of_user.log.head() + 1 };
            let delivery = draft.at(position);
            reached += of_user.push(delivery.clone(), after);
            delivery
        };
        match node {
            Some(topic) => {
                let mut of_node = topic.feed.state.lock();
                let of_node = &mut *of_node;
                reached += of_node.push(delivery.clone(), after);
                let followers = Some(&mut of_node.followers);
                reached += list::deliver(&mut of_user.followers, followers, &delivery, shared, after);
                topic.note(of_node);
            }
            None => reached += list::deliver(&mut of_user.followers, None, &delivery, shared, after),
        }
        after.own = Some(delivery);
    } else if let Some(topic) = node {
        let delivery = draft.at(Position::default());
        let mut of_node = topic.feed.state.lock();
        if of_node.log.live() > 0 {
            reached = of_node.push(delivery, after);
        } else {
            topic.note(&of_node);
            after.own = Some(delivery);
        }
    }
    if reached > 0 {
        shared.counters.delivered.fetch_add(reached as u64, Ordering::Relaxed);
    }
    reached
}

impl<E> Draft<'_, E> {
    #[inline]
    fn at(self, Position { incarnation, position }: Position) -> Delivery<E> {
        let Self { user, node, rev, at_unix_ms, event, bytes, class } = self;
        // Copied where they stay, and not on the way there: a fifth of what an event for one reader takes.
        let (user, node) = (user.clone(), node.clone());
        Delivery(Arc::new(Envelope {
            position,
            incarnation,
            user,
            node,
            rev,
            at_unix_ms,
            event,
            bytes,
            class,
        }))
    }
}

impl<E> UserTopic<E> {
    pub(crate) fn new(shared: &Shared) -> Self {
        let bounds = Bounds { events: shared.config.ring_events.max(1), bytes: shared.config.ring_bytes };
        Self {
            watched: AtomicBool::new(false),
            waited_for: AtomicBool::new(false),
            feed: Feed::shared(bounds, Retention::Replay, shared),
        }
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.waited_for.load(Ordering::Acquire)
    }

    /// The followers whose readers are waited for.
    pub(crate) fn waited_for(&self) -> Vec<Arc<Feed<E>>> {
        self.feed.patient_followers(&self.waited_for)
    }

    /// Whether nobody watches and nothing is kept.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.feed.state.lock();
        state.incarnation == 0 && !state.is_watched()
    }

    pub(crate) fn has_subscribers(&self) -> bool {
        self.feed.state.lock().is_watched()
    }

    /// A reader of the user's own feed, from now on.
    pub(crate) fn join(&self, grace: Duration, shared: &Shared) -> Joined<E> {
        let mut state = self.open_ring(shared);
        let place = state.join(grace, &shared.counters);
        Joined { feed: Arc::clone(&self.feed), place, position: state.position() }
    }

    /// A reader of the user's own feed that has seen everything up to `since`.
    pub(crate) fn rejoin(&self, since: Position, grace: Duration, shared: &Shared) -> (Joined<E>, Resume) {
        let mut state = self.open_ring(shared);
        let now = state.position();
        let is_known = since.incarnation == now.incarnation && since.position <= now.position;
        let found = is_known.then(|| state.rejoin(since.position, grace, &shared.counters)).flatten();
        let (place, position, resume) = match found {
            Some(place) => {
                let replayed = now.position - since.position;
                shared.counters.delivered.fetch_add(replayed, Ordering::Relaxed);
                (place, since, Resume::Recovered { replayed })
            }
            None => {
                let missed = is_known.then(|| now.position - since.position);
                (state.join(grace, &shared.counters), now, Resume::Gap { missed })
            }
        };
        (Joined { feed: Arc::clone(&self.feed), place, position }, resume)
    }

    /// A follower, from now on. Returns the position it starts after.
    pub(crate) fn follow(&self, feed: &Arc<Feed<E>>, shared: &Shared) -> Position {
        let mut state = self.open_ring(shared);
        state.followers.add(feed, &shared.counters);
        self.waited_for.fetch_or(feed.is_patient(), Ordering::Release);
        state.position()
    }

    /// A follower that has seen everything up to `since`.
    pub(crate) fn refollow(&self, feed: &Arc<Feed<E>>, since: Position, shared: &Shared) -> Resumed<E> {
        let mut state = self.open_ring(shared);
        state.followers.add(feed, &shared.counters);
        self.waited_for.fetch_or(feed.is_patient(), Ordering::Release);
        let now = state.position();
        let is_known = since.incarnation == now.incarnation && since.position <= now.position;
        let found = if is_known { state.log.after(since.position) } else { None };
        match found {
            Some(events) => {
                let backlog: Vec<_> = events.cloned().collect();
                shared.counters.delivered.fetch_add(backlog.len() as u64, Ordering::Relaxed);
                let resume = Resume::Recovered { replayed: backlog.len() as u64 };
                Resumed { resume, position: since, backlog }
            }
            None => {
                let missed = is_known.then(|| now.position - since.position);
                Resumed { resume: Resume::Gap { missed }, position: now, backlog: Vec::new() }
            }
        }
    }

    fn open_ring(&self, shared: &Shared) -> MutexGuard<'_, State<E>> {
        let mut state = self.feed.state.lock();
        state.quiet_since_ms = None;
        if state.incarnation == 0 && !state.is_closed() {
            // Events went by unrecorded before: positions from then must not look resumable.
            state.incarnation = shared.next_incarnation();
            shared.counters.rings.fetch_add(1, Ordering::Relaxed);
            self.watched.store(true, Ordering::Release);
        }
        state
    }

    /// The newest event's position; incarnation 0 while there is no ring.
    pub(crate) fn position(&self) -> Position {
        let state = self.feed.state.lock();
        if state.incarnation == 0 { Position::default() } else { state.position() }
    }

    /// Frees the dead, ends the stagnant, and lets go of a ring that nobody needed for its linger.
    pub(crate) fn sweep(&self, shared: &Shared, after: &mut After<E>) -> Swept {
        let now_ms = shared.clock.monotonic_ms();
        let mut state = self.feed.state.lock();
        let ended = state.sweep(now_ms, &shared.counters, after);
        self.feed.ask(&state);
        let (pruned, closed) = state.followers.sweep(now_ms, shared, after);
        let mut ring_freed = false;
        if !state.is_watched() && state.incarnation != 0 {
            let since_ms = *state.quiet_since_ms.get_or_insert(now_ms);
            let linger_ms = u64::try_from(shared.config.ring_linger.as_millis()).unwrap_or(u64::MAX);
            if now_ms.saturating_sub(since_ms) >= linger_ms {
                self.free_ring(&mut state, shared, after);
                ring_freed = true;
            }
        }
        let idle = state.incarnation == 0 && !state.is_watched();
        Swept { pruned, closed_stagnant: ended + closed, ring_freed, idle }
    }

    fn free_ring(&self, state: &mut State<E>, shared: &Shared, after: &mut After<E>) {
        if state.incarnation != 0 {
            shared.counters.rings.fetch_sub(1, Ordering::Relaxed);
        }
        state.incarnation = 0;
        state.quiet_since_ms = None;
        self.watched.store(false, Ordering::Release);
        if state.log.live() == 0 {
            state.log.clear(&mut after.waste);
        }
    }

    /// Ends every subscription; the ring goes with the last of them.
    pub(crate) fn close(&self, shared: &Shared, after: &mut After<E>) {
        let mut state = self.feed.state.lock();
        state.followers.close(shared, after);
        state.close(&shared.counters, after);
        self.free_ring(&mut state, shared, after);
    }
}

impl<E> State<E> {
    fn position(&self) -> Position {
        Position { incarnation: self.incarnation, position: self.log.head() }
    }
}

impl<E> NodeTopic<E> {
    pub(crate) fn new(shared: &Shared) -> Self {
        let bounds = Bounds { events: shared.config.queue_events.max(1), bytes: shared.config.queue_bytes };
        Self {
            watched: AtomicBool::new(false),
            followed: AtomicBool::new(false),
            waited_for: AtomicBool::new(false),
            feed: Feed::shared(bounds, Retention::UntilRead, shared),
        }
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.waited_for.load(Ordering::Acquire)
    }

    /// The followers whose readers are waited for.
    pub(crate) fn waited_for(&self) -> Vec<Arc<Feed<E>>> {
        self.feed.patient_followers(&self.waited_for)
    }

    /// A reader of the node's own feed.
    pub(crate) fn join(&self, grace: Duration, shared: &Shared) -> Joined<E> {
        let mut state = self.feed.state.lock();
        let place = state.join(grace, &shared.counters);
        self.note(&state);
        Joined { feed: Arc::clone(&self.feed), place, position: Position::default() }
    }

    /// A follower.
    pub(crate) fn follow(&self, feed: &Arc<Feed<E>>, shared: &Shared) {
        let mut state = self.feed.state.lock();
        state.followers.add(feed, &shared.counters);
        self.waited_for.fetch_or(feed.is_patient(), Ordering::Release);
        self.note(&state);
    }

    /// What can be seen of it without the lock.
    fn note(&self, state: &State<E>) {
        self.followed.store(!state.followers.is_empty(), Ordering::Release);
        self.watched.store(state.is_watched(), Ordering::Release);
    }

    /// Frees the dead and ends the stagnant.
    pub(crate) fn sweep(&self, shared: &Shared, after: &mut After<E>) -> Swept {
        let now_ms = shared.clock.monotonic_ms();
        let mut state = self.feed.state.lock();
        let ended = state.sweep(now_ms, &shared.counters, after);
        self.feed.ask(&state);
        let (pruned, closed) = state.followers.sweep(now_ms, shared, after);
        self.note(&state);
        Swept { pruned, closed_stagnant: ended + closed, ring_freed: false, idle: !state.is_watched() }
    }

    /// Ends every subscription.
    pub(crate) fn close(&self, shared: &Shared, after: &mut After<E>) {
        let mut state = self.feed.state.lock();
        state.followers.close(shared, after);
        state.close(&shared.counters, after);
        self.note(&state);
    }
}

//! The event bus: who watches what, in which order events come, and how a reader that was cut off comes back.
//!
//! A user's events stand in one log, behind one lock that orders them: the replay ring. All who watch the user read
//! from it, each at a cursor of its own, so an event is stored once and a publisher's work is to append it and to wake
//! who waits. A watched node has a log beside. Subscriptions that want more than that have a log of their own, to which
//! topics hold weak references. Payloads are dropped and wakers woken after the locks are released; see `After`.
//!
//! Why not a channel for each reader: in a trial of the bare shapes, with 1,000 reading tasks on one thread, an event
//! cost each of them 50 ns through such a log, 72 through tokio's broadcast, 77 through its mpsc and 135 through flume's
//! storage with a waker beside it; in bursts of 32 it was 10, 29, 49 and 49 ns (medians of one run; what the whole bus
//! takes stands in `benches/README.md`). And no channel lets one look inside, which it takes to keep the end of a task
//! and let an old load average go.

mod feed;
mod list;
mod log;
mod subscription;
mod tail;
mod topic;

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use thiserror::Error;

pub(crate) use self::log::Class;
pub use self::subscription::{Closed, Received, Subscription};
pub(crate) use self::topic::{Draft, NodeTopic, Swept, UserTopic, publish};
use crate::clock::Clock;
use crate::id::{NodeId, UserId};

/// How many events of a user can be replayed by default: a few seconds of a busy fleet, a pointer each.
pub const DEFAULT_RING_EVENTS: usize = 4096;

/// How much memory a user's replay ring may pin by default, in bytes, as told by `Fleet::event_bytes`. All who watch the
/// user share it, however far behind they are.
pub const DEFAULT_RING_BYTES: usize = 16 * 1024 * 1024;

/// How much memory the events of one node, or those that wait in a subscription of its own depth, may pin by default, in
/// bytes: a slow viewer of a busy terminal holds no more than this.
pub const DEFAULT_QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// How long a replay ring outlives its last subscriber by default: longer than a page reload or a proxy's reconnect.
pub const DEFAULT_RING_LINGER: Duration = Duration::from_secs(60);

/// How many events wait for a slow reader of a node, or of several topics, by default, before the oldest is dropped.
pub const DEFAULT_QUEUE_EVENTS: usize = 1024;

/// How long a subscription may be full without being read at all by default, before it is closed.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(120);

/// The bus's settings.
#[derive(Clone, Debug)]
pub struct BusConfig {
    /// The most events that a user's replay ring holds, at least one; and so how far those who read it may be behind.
    pub ring_events: usize,
    /// The most bytes that a user's replay ring pins.
    pub ring_bytes: usize,
    /// The most events that wait for the readers of one node, and for a subscription that does not say how many.
    pub queue_events: usize,
    /// The most bytes that those pin; beyond that the oldest is dropped as well.
    pub queue_bytes: usize,
    /// How long a ring outlives its user's last subscriber.
    pub ring_linger: Duration,
    /// Where incarnations count from. Random, so that positions of another hub, or of an earlier life of this one, are
    /// recognised as foreign.
    pub incarnation: u64,
}

impl Default for BusConfig {
    fn default() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self {
            ring_events: DEFAULT_RING_EVENTS,
            ring_bytes: DEFAULT_RING_BYTES,
            queue_events: DEFAULT_QUEUE_EVENTS,
            queue_bytes: DEFAULT_QUEUE_BYTES,
            ring_linger: DEFAULT_RING_LINGER,
            // The standard library's own random seed: a fixed default would make two hubs' positions look alike.
            incarnation: RandomState::new().hash_one(0_u8),
        }
    }
}

/// What a subscription is for: all events of some users, and of some nodes. An event that matches twice comes once.
#[derive(Clone, Debug, Default)]
pub struct Interest {
    /// Users, whether or not they have nodes yet.
    pub users: Vec<UserId>,
    /// Nodes, whether or not they are on the roll yet. Whoever subscribes must have the right to see them.
    pub nodes: Vec<NodeId>,
}

impl Interest {
    /// All events of one user.
    #[must_use]
    pub fn user(user: UserId) -> Self {
        Self { users: vec![user], nodes: Vec::new() }
    }

    /// All events of one node.
    #[must_use]
    pub fn node(node: NodeId) -> Self {
        Self { users: Vec::new(), nodes: vec![node] }
    }
}

/// How much a subscription holds, and how long it may stand still.
#[derive(Clone, Debug)]
pub struct SubscribeOptions {
    /// The most events that wait, at least one. With `None` the reader of one user reads from that user's replay ring, as
    /// deep as it is, and the reader of one node from what all readers of it share: that costs a publisher next to
    /// nothing, however many they are. With a number, or for several topics, the subscription holds what waits itself.
    pub capacity: Option<usize>,
    /// How long it may lag without reading at all before it is closed as stagnant; seen by [`Registry::sweep`].
    ///
    /// [`Registry::sweep`]: crate::Registry::sweep
    pub grace: Duration,
    /// What happens to an event that finds it full. Anything but dropping takes a subscription that holds what waits
    /// itself.
    pub overflow: OverflowPolicy,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self { capacity: None, grace: DEFAULT_GRACE, overflow: OverflowPolicy::default() }
    }
}

/// What happens to an event that finds a subscription full.
///
/// A reader *lags* once something was pushed out that it had not read, until it has read all that waits. Of what is
/// pushed out, events of [`Fleet::keep`](crate::Fleet::keep) wait on, at most as many as the subscription may hold
/// otherwise, and so does the latest state event of each node; see [`Fleet::coalesce`](crate::Fleet::coalesce). Of the
/// states that wait for a reader that lags it gets only each node's latest; the others count as coalesced, not as
/// missed. What waits for one that lags is therefore at most three times what may wait for one that does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverflowPolicy {
    /// The oldest event makes room, and the reader is told how many it missed, where it missed them.
    #[default]
    DropOldest,
    /// The subscription is closed: the reader gets what waits, and then [`Closed::Overflowed`]. For readers that would
    /// rather resume than have a hole; nothing gives way but older states.
    Close,
    /// The publisher waits for room; when it has waited long enough, the oldest makes room after all.
    ///
    /// For publishers on plain threads in the same process only: a publisher that runs on an async executor would block
    /// it, and one that is the reader itself waits for nothing but the timeout. It waits under no lock, so others publish
    /// meanwhile; each thread that publishes at the same moment may add one event beyond the capacity.
    Wait {
        /// The longest that one publish waits for this subscription, all of its waiting together.
        timeout: Duration,
    },
}

/// A place in a user's events. As text `incarnation.position`, which is what a client resumes with.
///
/// Positions are exact only within one incarnation: the life of one replay ring of one hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which life of which ring; 0 for none, which nothing can be resumed from.
    pub incarnation: u64,
    /// How many events came before it, itself included.
    pub position: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.position)
    }
}

/// Text that is not a [`Position`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a position is two decimal numbers with a dot between them, as it came with an event")]
pub struct PositionError;

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let number = |part: &str| {
            let canonical =
                part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
            if canonical { part.parse().ok() } else { None }
        };
        let (incarnation, position) = text.split_once('.').ok_or(PositionError)?;
        match (number(incarnation), number(position)) {
            (Some(incarnation), Some(position)) => Ok(Self { incarnation, position }),
            _ => Err(PositionError),
        }
    }
}

/// How a resume went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Nothing was lost: the events after the position come first, then what follows.
    Recovered {
        /// How many come again.
        replayed: u64,
    },
    /// The subscription starts from now; take a snapshot.
    Gap {
        /// How many events were missed; `None` when nobody can know.
        missed: Option<u64>,
    },
}

/// One event on its way to one reader. Cloning copies a pointer: all readers share one [`Envelope`].
pub struct Delivery<E>(Arc<Envelope<E>>);

/// An event and where it stands.
#[derive(Debug)]
pub struct Envelope<E> {
    /// Its place among its user's events.
    pub position: u64,
    /// The incarnation that the place belongs to; 0 when there was no ring, and nothing can be resumed from it.
    pub incarnation: u64,
    /// Whose node it is.
    pub user: UserId,
    /// The node.
    pub node: NodeId,
    /// The node's revision: higher for later events of the node.
    pub rev: u64,
    /// When it was published, by the wall clock, in milliseconds since the Unix epoch: for people, not for order.
    pub at_unix_ms: u64,
    /// What happened.
    pub event: E,
    /// What it pins in memory, in bytes.
    pub(crate) bytes: usize,
    /// What goes first where there is no room.
    pub(crate) class: Class,
}

impl<E> Delivery<E> {
    /// What a reader resumes with after this event.
    #[must_use]
    pub fn resume_position(&self) -> Position {
        Position { incarnation: self.incarnation, position: self.position }
    }
}

impl<E> Deref for Delivery<E> {
    type Target = Envelope<E>;

    fn deref(&self) -> &Envelope<E> {
        &self.0
    }
}

impl<E> Clone for Delivery<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E: fmt::Debug> fmt::Debug for Delivery<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the bus did so far, and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusStats {
    /// Subscriptions that are neither dropped nor closed.
    pub subscriptions: usize,
    /// Places in topics' lists, dead ones included until they are pruned. A subscription that holds what waits itself has
    /// one for each of its users and nodes; one that shares has none.
    pub entries: usize,
    /// Users and nodes that somebody watches.
    pub topics_active: usize,
    /// Replay rings, the lingering ones included.
    pub rings: usize,
    /// Events meant for a subscription, one for each. When nothing waits any more, this is what was handed out, missed,
    /// coalesced and abandoned, together; and what was left out because a snapshot had shown it.
    pub delivered_total: u64,
    /// Events that were pushed out before a reader came to them, counted when it does.
    pub missed_total: u64,
    /// State events that gave way to a later one of their node because the reader lagged, counted likewise.
    pub coalesced_total: u64,
    /// Events that still waited when their reader left.
    pub abandoned_total: u64,
    /// Subscriptions closed because they stood still.
    pub closed_stagnant_total: u64,
    /// Subscriptions closed because they were full and had asked for that.
    pub closed_overflowed_total: u64,
    /// Places freed whose subscription was dropped or closed.
    pub pruned_total: u64,
}

/// What a sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Places freed in subscriber lists.
    pub pruned: usize,
    /// Subscriptions closed because they stood still.
    pub closed_stagnant: usize,
    /// Replay rings freed.
    pub rings_freed: usize,
}

/// What all topics of a bus share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: BusConfig,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) shut_down: AtomicBool,
    next_subscription: AtomicU64,
    next_incarnation: AtomicU64,
}

/// The numbers behind [`BusStats`]; each on a cache line of its own where publishers write.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) delivered: CachePadded<AtomicU64>,
    pub(crate) missed: CachePadded<AtomicU64>,
    pub(crate) coalesced: AtomicU64,
    pub(crate) abandoned: AtomicU64,
    pub(crate) closed_stagnant: AtomicU64,
    pub(crate) closed_overflowed: AtomicU64,
    pub(crate) pruned: AtomicU64,
    pub(crate) entries: AtomicUsize,
    pub(crate) subscriptions: AtomicUsize,
    pub(crate) rings: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(config: BusConfig, clock: Clock) -> Self {
        Self {
            next_incarnation: AtomicU64::new(config.incarnation),
            next_subscription: AtomicU64::new(0),
            shut_down: AtomicBool::new(false),
            counters: Arc::default(),
            config,
            clock,
        }
    }

    /// A number for a new subscription; later ones are higher.
    fn next_subscription(&self) -> u64 {
        self.next_subscription.fetch_add(1, Ordering::Relaxed)
    }

    /// A number for a new ring, unlike all others of this bus and, most likely, of any. Never 0.
    fn next_incarnation(&self) -> u64 {
        loop {
            let incarnation = self.next_incarnation.fetch_add(1, Ordering::Relaxed);
            if incarnation != 0 {
                return incarnation;
            }
        }
    }
}

/// What must wait until the locks are released: wakers to wake, then payloads to drop. Either may run any code, also
/// code that publishes. Declared before the guards, it does its work by being dropped after them.
///
/// The first waker and the publisher's own event stand inline: an event for one reader allocates nothing here.
pub(crate) struct After<E> {
    waker: Option<Waker>,
    wakers: Vec<Option<Waker>>,
    /// The publisher's own pointer: it may be the last one.
    own: Option<Delivery<E>>,
    pub(crate) waste: Vec<Delivery<E>>,
}

impl<E> After<E> {
    pub(crate) const fn new() -> Self {
        Self { waker: None, wakers: Vec::new(), own: None, waste: Vec::new() }
    }

    fn wake(&mut self, waker: Waker) {
        match self.waker {
            None => self.waker = Some(waker),
            Some(_) => self.wakers.push(Some(waker)),
        }
    }

    fn wake_all(&mut self, mut wakers: Vec<Option<Waker>>) {
        if self.wakers.is_empty() {
            self.wakers = wakers;
        } else {
            self.wakers.append(&mut wakers);
        }
    }
}

impl<E> Drop for After<E> {
    #[inline]
    fn drop(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        // Most events wake nobody or one reader, and an iterator over nothing is not free.
        if !self.wakers.is_empty() {
            std::mem::take(&mut self.wakers).into_iter().flatten().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_only_what_they_write() {
        let position = Position { incarnation: 17, position: 4 };
        assert_eq!(position.to_string(), "17.4");
        assert_eq!("17.4".parse(), Ok(position));
        for bad in
            ["", ".", "1", "1.", ".1", "1.2.3", "+1.2", "01.2", "1:2", " 1.2", "18446744073709551616.1"]
        {
            assert_eq!(bad.parse::<Position>(), Err(PositionError), "{bad}");
        }
    }

    #[test]
    fn no_incarnation_is_zero_and_none_comes_twice() {
        let (clock, _) = Clock::manual(0);
        let config = BusConfig { incarnation: u64::MAX, ..BusConfig::default() };
        let shared = Shared::new(config, clock);
        assert_eq!(shared.next_incarnation(), u64::MAX);
        assert_eq!(shared.next_incarnation(), 1);
        assert_eq!(shared.next_incarnation(), 2);
    }
}

//! One node of the roll: its identity, its hot state, and the session that holds it.

mod session;
mod slot;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

pub use self::session::Session;
use self::slot::Slot;
pub use self::slot::{CLONE_RETURNS, CLONE_WINDOW, MAX_EPOCH_LEAD};
use crate::bus::{NodeTopic, UserTopic};
use crate::error::{AttachError, Fenced};
use crate::fleet::Fleet;
use crate::id::{Boot, BootId, NodeId, SessionEpoch, UserId};
use crate::lease::{Seats, Verdict};
use crate::outbox::CloseReason;

/// A machine in the fleet, as this hub knows it. Lives in the registry; hold the `Arc` and skip the map.
// In this order, because what a lookup, a list, a mark and a publication touch then lies beside the count of the handles
// that they copy.
#[repr(C)]
pub struct Node<F: Fleet> {
    id: NodeId,
    pub(crate) dirty: AtomicBool,
    /// Whether the slot is held, to be read without its lock. Not asked of the newest session: between its load and
    /// the question, that one may have been taken over.
    online: AtomicBool,
    removed: AtomicBool,
    /// Held from the new rev to the last queue: one node's events keep their order.
    pub(crate) publishing: Mutex<()>,
    /// The session that holds it; none while it is offline. Changed only under `slot`.
    latest: ArcSwapOption<Session<F>>,
    rev: AtomicU64,
    pub(crate) user_topic: Arc<UserTopic<F::Event>>,
    /// Exists from the first subscription to this node on.
    pub(crate) topic: OnceLock<Arc<NodeTopic<F::Event>>>,
    meta: ArcSwap<F::Meta>,
    user: UserId,
    seats: Arc<Seats>,
    /// The highest epoch granted: the slot's, to be read without its lock.
    epoch: AtomicU64,
    /// Until when the identity counts as cloned, in monotonic milliseconds.
    cloned_until_ms: AtomicU64,
    /// What the last session left behind, or the store knew before the first: shown while it is offline.
    rest: Rest<F>,
    slot: Mutex<Slot>,
}

/// What is known of a node that no session holds. Written under its `slot`, before the session goes.
struct Rest<F: Fleet> {
    stats: ArcSwapOption<F::Stats>,
    last_seen_unix_ms: AtomicU64,
    attached_at_unix_ms: AtomicU64,
    /// Since when nobody holds it, in monotonic milliseconds.
    since_ms: AtomicU64,
}

/// A session that was ended under the slot's lock, with what must be dropped after it.
struct Ended<F: Fleet> {
    session: Arc<Session<F>>,
    _stats: Option<Arc<F::Stats>>,
}

/// What a store remembers of a node from an earlier life of the hub. All zero for a node that is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The highest session epoch ever granted.
    pub epoch: SessionEpoch,
    /// When it was last heard, in milliseconds since the Unix epoch.
    pub last_seen_unix_ms: u64,
    /// When its newest session was attached, in milliseconds since the Unix epoch.
    pub attached_at_unix_ms: u64,
}

/// What a node says when it attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The last epoch it was granted, as it remembers.
    pub last_epoch: SessionEpoch,
    /// The run of its agent.
    pub boot: Boot,
    /// What tells that run from a copy of it.
    pub boot_id: BootId,
}

/// A granted attachment.
pub struct Attached<F: Fleet> {
    /// The new session.
    pub session: Arc<Session<F>>,
    /// The session that held the node until now; its outbox is closed as superseded.
    pub displaced: Option<Arc<Session<F>>>,
    /// Whether two live agents seem to share this identity.
    pub clone_suspected: bool,
}

/// What a node is built around; its own fields are made in [`Node::new`].
pub(crate) struct Seed<F: Fleet> {
    pub(crate) id: NodeId,
    pub(crate) user: UserId,
    pub(crate) meta: Arc<F::Meta>,
    pub(crate) restored: Restored,
    pub(crate) seats: Arc<Seats>,
    pub(crate) rev: u64,
    pub(crate) user_topic: Arc<UserTopic<F::Event>>,
    pub(crate) topic: Option<Arc<NodeTopic<F::Event>>>,
}

impl<F: Fleet> Node<F> {
    pub(crate) fn new(seed: Seed<F>) -> Self {
        let topic = OnceLock::new();
        if let Some(waiting) = seed.topic {
            let _ = topic.set(waiting);
        }
        Self {
            id: seed.id,
            user: seed.user,
            meta: ArcSwap::new(seed.meta),
            latest: ArcSwapOption::empty(),
            slot: Mutex::new(Slot::new(seed.restored.epoch)),
            online: AtomicBool::new(false),
            epoch: AtomicU64::new(seed.restored.epoch.0),
            rest: Rest {
                stats: ArcSwapOption::empty(),
                last_seen_unix_ms: AtomicU64::new(seed.restored.last_seen_unix_ms),
                attached_at_unix_ms: AtomicU64::new(seed.restored.attached_at_unix_ms),
                since_ms: AtomicU64::new(seed.seats.clock().monotonic_ms()),
            },
            seats: seed.seats,
            cloned_until_ms: AtomicU64::new(0),
            removed: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
            rev: AtomicU64::new(seed.rev),
            publishing: Mutex::new(()),
            user_topic: seed.user_topic,
            topic,
        }
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> &NodeId {
        &self.id
    }

    /// Whose it is.
    #[must_use]
    pub const fn user(&self) -> &UserId {
        &self.user
    }

    /// What it last said of itself.
    #[must_use]
    pub fn meta(&self) -> Arc<F::Meta> {
        self.meta.load_full()
    }

    /// Replaces what it says of itself. Publish afterwards, so that watchers see it.
    pub fn set_meta(&self, meta: Arc<F::Meta>) {
        self.meta.store(meta);
    }

    /// What its last heartbeat said; `None` before the first in this hub's life.
    #[must_use]
    pub fn stats(&self) -> Option<Arc<F::Stats>> {
        match self.latest.load().as_ref() {
            Some(session) => session.stats(),
            None => self.rest.stats.load_full(),
        }
    }

    /// The highest session epoch ever granted to it.
    #[must_use]
    pub fn epoch(&self) -> SessionEpoch {
        SessionEpoch(self.epoch.load(Ordering::Acquire))
    }

    /// When it was last heard, in milliseconds since the Unix epoch; 0 for never. While it is attached this follows
    /// the wall clock where somebody sets that.
    #[must_use]
    pub fn last_seen_unix_ms(&self) -> u64 {
        let latest = self.latest.load();
        let live = latest.as_ref().and_then(|session| session.seen_unix_ms(&self.seats));
        live.unwrap_or_else(|| self.rest.last_seen_unix_ms.load(Ordering::Acquire))
    }

    /// When its newest session was attached, in milliseconds since the Unix epoch; 0 for never.
    #[must_use]
    pub fn attached_at_unix_ms(&self) -> u64 {
        match self.latest.load().as_ref() {
            Some(session) => session.attached_at_unix_ms(),
            None => self.rest.attached_at_unix_ms.load(Ordering::Acquire),
        }
    }

    /// Whether a session holds it.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }

    /// Whether it was taken off the roll. Handles outlive that; nothing can attach to them.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// How often it was published, counted so that a node's later events always have the higher number, also over
    /// its removal and return.
    #[must_use]
    pub fn rev(&self) -> u64 {
        self.rev.load(Ordering::Acquire)
    }

    /// The session that holds it.
    #[must_use]
    pub fn session(&self) -> Option<Arc<Session<F>>> {
        while self.is_online() {
            // Ended and yet online: a newer one is there by now.
            if let Some(session) = self.latest.load_full().filter(|session| !session.is_ended()) {
                return Some(session);
            }
        }
        None
    }

    /// Whether two live agents seem to share this identity: [`CLONE_RETURNS`] displaced agents took over again within
    /// [`CLONE_WINDOW`], and the last of that is no longer ago than the window.
    #[must_use]
    pub fn clone_suspected(&self) -> bool {
        self.cloned_until_ms.load(Ordering::Acquire) > self.seats.clock().monotonic_ms()
    }

    /// Gives the node to a new session, over the one that holds it: that one's outbox is closed as
    /// [`Superseded`](CloseReason::Superseded), and from here on nothing it does has any effect.
    ///
    /// # Errors
    /// [`AttachError::ImplausibleEpoch`] when the claim is over [`MAX_EPOCH_LEAD`] above what is known;
    /// [`AttachError::Removed`] when the node is no longer on the roll. Neither changes anything.
    pub fn attach(&self, claim: Claim, outbox_capacity: usize) -> Result<Attached<F>, AttachError> {
        self.seats.note_wall_clock();
        let now_ms = self.seats.clock().monotonic_ms();
        let now_unix_ms = self.seats.clock().unix_ms();
        // Outlives the guard: the last handle on an old session must not fall under the lock.
        let previous;
        let (session, displaced) = {
            let mut slot = self.slot.lock();
            let grant = slot.attach(&claim, now_ms)?;
            previous = self.latest.load_full();
            let stats = self.stats();
            let seat = self.seats.take(&self.id, now_ms);
            let session =
                Arc::new(Session::new(grant.epoch, &claim, outbox_capacity, stats, seat, now_unix_ms));
            self.epoch.store(grant.epoch.0, Ordering::Release);
            self.cloned_until_ms.store(grant.cloned_until_ms, Ordering::Release);
            // The new one before the old one's end: whoever finds the newest ended while online finds another.
            self.latest.store(Some(Arc::clone(&session)));
            self.online.store(true, Ordering::Release);
            let displaced = previous.as_ref().filter(|old| Some(old.epoch()) == grant.displaced).cloned();
            if let Some(old) = &displaced {
                old.end();
            }
            (session, displaced)
        };
        if let Some(old) = &displaced {
            old.outbox().close(CloseReason::Superseded);
        }
        Ok(Attached { session, displaced, clone_suspected: self.clone_suspected() })
    }

    /// Ends the session `epoch`, whose stream is over. False, and nothing changed, when another session holds the node
    /// by now.
    pub fn detach(&self, epoch: SessionEpoch) -> bool {
        let ended = {
            let mut slot = self.slot.lock();
            if !slot.detach(epoch) {
                return false;
            }
            self.end_latest()
        };
        close(ended.as_ref(), CloseReason::Left)
    }

    /// Takes a heartbeat of the session `epoch`: [`Session::heartbeat_at`], now. No lock: one clock reading, one look at
    /// who holds the node, one store and one swap. Whoever has the session at hand saves the look.
    ///
    /// # Errors
    /// [`Fenced`] when that session does not hold the node.
    pub fn heartbeat(&self, epoch: SessionEpoch, stats: Arc<F::Stats>) -> Result<(), Fenced> {
        self.holding(epoch, |session, now_ms| session.heartbeat_at(stats, now_ms))
    }

    /// Notes that something was heard of the session `epoch`: [`Session::touch_at`], now.
    ///
    /// # Errors
    /// [`Fenced`] when that session does not hold the node.
    pub fn touch(&self, epoch: SessionEpoch) -> Result<(), Fenced> {
        self.holding(epoch, Session::touch_at)
    }

    fn holding(
        &self,
        epoch: SessionEpoch,
        act: impl FnOnce(&Session<F>, u64) -> Result<(), Fenced>,
    ) -> Result<(), Fenced> {
        match self.latest.load().as_ref() {
            Some(session) if session.epoch() == epoch => act(session, self.seats.clock().monotonic_ms()),
            _ => Err(Fenced { epoch }),
        }
    }

    /// The session's epoch, if it is attached and the lease calls it silent. No lock.
    pub(crate) fn silent(&self, lease: &Verdict) -> Option<SessionEpoch> {
        let latest = self.latest.load();
        let session = latest.as_ref()?;
        let over = session.heard_ms().is_some_and(|heard_ms| lease.is_over(heard_ms));
        (over && !session.is_ended()).then(|| session.epoch())
    }

    /// Ends the session `epoch` if it holds the node and is still silent.
    pub(crate) fn expire(&self, epoch: SessionEpoch, lease: &Verdict) -> bool {
        let ended = {
            let mut slot = self.slot.lock();
            if self.silent(lease) != Some(epoch) || !slot.detach(epoch) {
                return false;
            }
            self.end_latest()
        };
        close(ended.as_ref(), CloseReason::LeaseExpired)
    }

    /// Ends whatever holds the node, for good.
    pub(crate) fn mark_removed(&self) {
        let ended = {
            let mut slot = self.slot.lock();
            self.removed.store(true, Ordering::Release);
            if slot.remove().is_none() {
                return;
            }
            self.end_latest()
        };
        close(ended.as_ref(), CloseReason::Revoked);
    }

    /// Whether nobody has held it since before this monotonic time. No lock, and so only a first look.
    pub(crate) fn is_offline_since(&self, before_ms: u64) -> bool {
        !self.is_online() && self.rest.since_ms.load(Ordering::Acquire) < before_ms
    }

    /// Removes it, for good, if nobody has held it since before this monotonic time.
    pub(crate) fn retire(&self, before_ms: u64) -> bool {
        let mut slot = self.slot.lock();
        if !self.is_offline_since(before_ms) {
            return false;
        }
        self.removed.store(true, Ordering::Release);
        let held = slot.remove();
        debug_assert!(held.is_none(), "an offline node is held by nobody");
        true
    }

    /// Called under the slot's lock; the caller closes the outbox after it.
    fn end_latest(&self) -> Option<Ended<F>> {
        self.rest.since_ms.store(self.seats.clock().monotonic_ms(), Ordering::Release);
        self.online.store(false, Ordering::Release);
        let session = self.latest.load_full()?;
        if let Some(heard_ms) = session.end() {
            self.rest.last_seen_unix_ms.store(self.seats.unix_ms(heard_ms), Ordering::Release);
        }
        self.rest.attached_at_unix_ms.store(session.attached_at_unix_ms(), Ordering::Release);
        let stats = self.rest.stats.swap(session.stats());
        // Its memory and its seat are free as soon as its stream and the heartbeats under way let go of it.
        self.latest.store(None);
        Some(Ended { session, _stats: stats })
    }

    /// Whether anybody would see an event of this node. Two loads.
    pub(crate) fn is_watched(&self) -> bool {
        self.user_topic.is_watched() || self.topic.get().is_some_and(|topic| topic.is_watched())
    }

    /// Whether a publisher has to wait for a reader. Two loads.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.user_topic.is_waited_for() || self.topic.get().is_some_and(|topic| topic.is_waited_for())
    }

    /// The next rev; under `publishing`, if it is told to anybody.
    ///
    /// Counting and the look at who watches are ordered by this one atomic: either whoever comes to watch reads this rev
    /// in [`rev_seen`](Node::rev_seen), and all that was changed before it, or the count reads what the newcomer did, and
    /// a look after it finds them.
    pub(crate) fn next_rev(&self) -> u64 {
        self.rev.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The rev, read by one who has come to watch; see [`next_rev`](Node::next_rev).
    pub(crate) fn rev_seen(&self) -> u64 {
        self.rev.fetch_add(0, Ordering::AcqRel)
    }
}

fn close<F: Fleet>(ended: Option<&Ended<F>>, reason: CloseReason) -> bool {
    ended.is_some_and(|ended| {
        ended.session.outbox().close(reason);
        true
    })
}

impl<F: Fleet> fmt::Debug for Attached<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached")
            .field("session", &self.session)
            .field("displaced", &self.displaced)
            .field("clone_suspected", &self.clone_suspected)
            .finish()
    }
}

impl<F: Fleet> fmt::Debug for Node<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .field("user", &self.user)
            .field("epoch", &self.epoch())
            .field("online", &self.is_online())
            .field("rev", &self.rev())
            .finish_non_exhaustive()
    }
}

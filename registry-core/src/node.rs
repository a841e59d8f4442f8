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
use crate::clock::Clock;
use crate::error::{AttachError, Fenced};
use crate::fleet::Fleet;
use crate::id::{Boot, BootId, NodeId, SessionEpoch, UserId};
use crate::lease::Verdict;
use crate::outbox::CloseReason;

/// A machine in the fleet, as this hub knows it. Lives in the registry; hold the `Arc` and skip the map.
pub struct Node<F: Fleet> {
    id: NodeId,
    user: UserId,
    clock: Clock,
    meta: ArcSwap<F::Meta>,
    restored: Restored,
    /// The newest session of this hub's life, ended or not. Changed only under `slot`.
    latest: ArcSwapOption<Session<F>>,
    slot: Mutex<Slot>,
    /// Whether the slot is held, to be read without its lock. Not asked of the newest session: between its load and
    /// the question, that one may have been taken over.
    online: AtomicBool,
    /// The highest epoch granted: the slot's, to be read without its lock.
    epoch: AtomicU64,
    /// Until when the identity counts as cloned, in monotonic milliseconds.
    cloned_until_ms: AtomicU64,
    removed: AtomicBool,
    pub(crate) dirty: AtomicBool,
    rev: AtomicU64,
    /// Held from the new rev to the last queue: one node's events keep their order.
    pub(crate) publishing: Mutex<()>,
    pub(crate) user_topic: Arc<UserTopic<F::Event>>,
    /// Exists from the first subscription to this node on.
    pub(crate) topic: OnceLock<Arc<NodeTopic<F::Event>>>,
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
    pub(crate) clock: Clock,
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
            clock: seed.clock,
            meta: ArcSwap::new(seed.meta),
            latest: ArcSwapOption::empty(),
            slot: Mutex::new(Slot::new(seed.restored.epoch)),
            online: AtomicBool::new(false),
            epoch: AtomicU64::new(seed.restored.epoch.0),
            restored: seed.restored,
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
        self.latest.load().as_ref().and_then(|session| session.stats())
    }

    /// The highest session epoch ever granted to it.
    #[must_use]
    pub fn epoch(&self) -> SessionEpoch {
        SessionEpoch(self.epoch.load(Ordering::Acquire))
    }

    /// When it was last heard, in milliseconds since the Unix epoch; 0 for never.
    #[must_use]
    pub fn last_seen_unix_ms(&self) -> u64 {
        self.latest.load().as_ref().map_or(self.restored.last_seen_unix_ms, |session| session.seen_unix_ms())
    }

    /// When its newest session was attached, in milliseconds since the Unix epoch; 0 for never.
    #[must_use]
    pub fn attached_at_unix_ms(&self) -> u64 {
        let latest = self.latest.load();
        latest.as_ref().map_or(self.restored.attached_at_unix_ms, |session| session.attached_at_unix_ms())
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
        self.cloned_until_ms.load(Ordering::Acquire) > self.clock.monotonic_ms()
    }

    /// Gives the node to a new session, over the one that holds it: that one's outbox is closed as
    /// [`Superseded`](CloseReason::Superseded), and from here on nothing it does has any effect.
    ///
    /// # Errors
    /// [`AttachError::ImplausibleEpoch`] when the claim is over [`MAX_EPOCH_LEAD`] above what is known;
    /// [`AttachError::Removed`] when the node is no longer on the roll. Neither changes anything.
    pub fn attach(&self, claim: Claim, outbox_capacity: usize) -> Result<Attached<F>, AttachError> {
        let now_ms = self.clock.monotonic_ms();
        // Outlives the guard: the last handle on an old session must not fall under the lock.
        let previous;
        let (session, displaced) = {
            let mut slot = self.slot.lock();
            let grant = slot.attach(&claim, now_ms)?;
            previous = self.latest.load_full();
            let stats = previous.as_ref().and_then(|old| old.stats());
            let session = Arc::new(Session::new(grant.epoch, &claim, outbox_capacity, stats, &self.clock));
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
        close(ended, CloseReason::Left)
    }

    /// Takes a heartbeat of the session `epoch`. No lock: two clock readings and three stores.
    ///
    /// # Errors
    /// [`Fenced`] when that session does not hold the node.
    pub fn heartbeat(&self, epoch: SessionEpoch, stats: Arc<F::Stats>) -> Result<(), Fenced> {
        self.holding(epoch, |session| {
            session.set_stats(stats);
            session.seen(&self.clock);
        })
    }

    /// Notes that something was heard of the session `epoch`.
    ///
    /// # Errors
    /// [`Fenced`] when that session does not hold the node.
    pub fn touch(&self, epoch: SessionEpoch) -> Result<(), Fenced> {
        self.holding(epoch, |session| session.seen(&self.clock))
    }

    fn holding(&self, epoch: SessionEpoch, act: impl FnOnce(&Session<F>)) -> Result<(), Fenced> {
        match self.latest.load().as_ref() {
            Some(session) if session.epoch() == epoch && !session.is_ended() => {
                act(session);
                Ok(())
            }
            _ => Err(Fenced { epoch }),
        }
    }

    /// The session's epoch, if it is attached and the lease calls it silent. No lock.
    pub(crate) fn silent(&self, lease: &Verdict) -> Option<SessionEpoch> {
        let latest = self.latest.load();
        let session = latest.as_ref()?;
        (!session.is_ended() && lease.is_over(session.seen_monotonic_ms())).then(|| session.epoch())
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
        close(ended, CloseReason::LeaseExpired)
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
        close(ended, CloseReason::Revoked);
    }

    /// Called under the slot's lock; the caller closes the outbox after it.
    fn end_latest(&self) -> Option<Arc<Session<F>>> {
        self.online.store(false, Ordering::Release);
        let latest = self.latest.load_full();
        if let Some(session) = &latest {
            session.end();
        }
        latest
    }

    /// Whether anybody would see an event of this node. Two loads.
    pub(crate) fn is_watched(&self) -> bool {
        self.user_topic.is_watched() || self.topic.get().is_some_and(|topic| topic.is_watched())
    }

    /// The next rev. Called under `publishing`.
    pub(crate) fn next_rev(&self) -> u64 {
        let rev = self.rev.load(Ordering::Relaxed) + 1;
        self.rev.store(rev, Ordering::Release);
        rev
    }
}

fn close<F: Fleet>(session: Option<Arc<Session<F>>>, reason: CloseReason) -> bool {
    session.is_some_and(|session| {
        session.outbox().close(reason);
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

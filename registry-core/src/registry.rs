//! The roll: which nodes there are, whose they are, and who is attached.

mod lists;
mod map;
mod roll;
mod watch;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use thiserror::Error;

pub use self::lists::{MAX_PAGE, MAX_PAGE_SCAN, Page, PageQuery};
use self::map::{Entry, NodeMap};
use self::roll::UserRoll;
use crate::bus::{BusConfig, NodeTopic, Shared};
use crate::clock::Clock;
use crate::dirty::DirtySet;
use crate::fleet::Fleet;
use crate::id::{NodeId, SessionEpoch, UserId};
use crate::lease::{Lease, Seats};
use crate::node::{Node, Restored, Seed};

/// How many shards the map of nodes has by default; the maps of users and topics have a quarter of that. A shard is locked
/// while it grows and while it is listed: of a million nodes that is a thousand at a time, some tens of microseconds.
/// An empty shard costs 128 bytes.
pub const DEFAULT_SHARDS: usize = 1024;

/// How long a session may be silent by default: three heartbeats of 5 s.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(15);

/// How far a removed node's id jumps ahead in revs when it is registered again: more than anybody publishes through
/// handles on the removed one, little enough that u64 holds 2^44 removals.
const REMOVED_REV_LEAD: u64 = 1 << 20;

/// How many times more places than nodes the map of nodes may have after some were forgotten, before it is made smaller:
/// growing again costs, and a map that has just doubled has twice as many.
const SHRINK_FACTOR: usize = 4;

/// From how many places on the map of nodes is worth making smaller: below, its shards are most of it.
const SHRINK_FLOOR: usize = 16_384;

/// A registry's settings.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// How many shards the map of nodes has; rounded up to a power of two.
    pub shards: usize,
    /// How long a session may be silent before [`Registry::expire`] ends it.
    pub lease: Duration,
    /// The event bus's settings.
    pub bus: BusConfig,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self { shards: DEFAULT_SHARDS, lease: DEFAULT_LEASE, bus: BusConfig::default() }
    }
}

/// All nodes of a hub, and the bus that tells about them. Every method may be called from any thread at any time; none
/// waits for a reader, a store or a node.
///
/// No guard of a map ever leaves this module, and nothing is called or dropped under one.
pub struct Registry<F: Fleet> {
    // Locks are taken in this order: nodes, users, node_topics, then what is inside of their values. Ids are chosen by
    // strangers, so the maps hash with the standard keyed hasher; handles keep it off the hot paths.
    nodes: NodeMap<F>,
    users: DashMap<UserId, Arc<UserRoll<F>>, RandomState>,
    /// The topics of nodes that somebody watches, on the roll or not.
    node_topics: DashMap<NodeId, Arc<NodeTopic<F::Event>>, RandomState>,
    bus: Shared,
    dirty: DirtySet<F>,
    seats: Arc<Seats>,
    /// Where the revs of new nodes start: above those of every node ever removed.
    rev_floor: AtomicU64,
    clock: Clock,
}

/// Why a node was not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The id is taken.
    #[error("a node with this id belongs to another user")]
    OtherUser,
}

/// A session that was ended because its node was silent.
pub struct Expired<F: Fleet> {
    /// The node, now detached.
    pub node: Arc<Node<F>>,
    /// The session's number.
    pub epoch: SessionEpoch,
}

impl<F: Fleet> Registry<F> {
    /// An empty registry.
    #[must_use]
    pub fn new(config: RegistryConfig, clock: Clock) -> Self {
        // One shard is no shard: the map wants at least two.
        let shards = config.shards.next_power_of_two().max(2);
        let fewer = (shards / 4).max(2);
        let hasher = RandomState::new();
        Self {
            nodes: NodeMap::new(shards, hasher.clone()),
            users: DashMap::with_hasher_and_shard_amount(hasher.clone(), fewer),
            node_topics: DashMap::with_hasher_and_shard_amount(hasher, fewer),
            bus: Shared::new(config.bus, clock.clone()),
            dirty: DirtySet::new(),
            seats: Arc::new(Seats::new(Lease::new(config.lease), clock.clone())),
            rev_floor: AtomicU64::new(0),
            clock,
        }
    }

    /// Finds a node, or puts it on the roll. `meta` and `restored` are for a new one; a node that is found keeps its
    /// own. O(log n) in the user's nodes.
    ///
    /// # Errors
    /// [`RegisterError::OtherUser`] when the id is on another user's roll.
    pub fn register(
        &self,
        id: NodeId,
        user: UserId,
        meta: Arc<F::Meta>,
        restored: Restored,
    ) -> Result<Arc<Node<F>>, RegisterError> {
        match self.nodes.entry(id) {
            Entry::Occupied(found) if *found.get().user() == user => Ok(Arc::clone(found.get())),
            Entry::Occupied(_) => Err(RegisterError::OtherUser),
            Entry::Vacant(place) => {
                let roll = self.users.entry(user.clone()).or_insert_with(|| UserRoll::new(&self.bus));
                let node = Arc::new(Node::new(Seed {
                    id: place.id().clone(),
                    user,
                    meta,
                    restored,
                    seats: Arc::clone(&self.seats),
                    rev: self.rev_floor.load(Ordering::Acquire),
                    user_topic: Arc::clone(roll.topic()),
                    topic: self.node_topics.get(place.id()).map(|topic| Arc::clone(topic.value())),
                }));
                roll.insert(Arc::clone(&node));
                place.insert(Arc::clone(&node));
                Ok(node)
            }
        }
    }

    /// The node with this id. One map lookup: hold the handle where the node is met often.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Node<F>>> {
        self.nodes.get(id)
    }

    /// Takes a node off the roll: its session is ended as [`Revoked`](crate::CloseReason::Revoked), and handles on it
    /// attach nobody. Publish afterwards through the returned handle, so that watchers see it.
    pub fn remove(&self, id: &str) -> Option<Arc<Node<F>>> {
        let node = self.take_off(id, |_| true)?;
        node.mark_removed();
        Some(node)
    }

    /// Takes the nodes off the roll that have been offline for longer than this, those included that were registered and
    /// never attached; as [`remove`](Registry::remove) does. Only monotonic time counts, and a node that attaches
    /// meanwhile stays. Publish afterwards through the returned handles, so that watchers see it.
    ///
    /// The registry itself never forgets a node: a hub whose nodes live in a database wants all of them on its roll. One
    /// that registers whoever asks calls this now and then, and its memory follows the nodes that are there: what comes
    /// once and never again leaves what `older_than` holds. O(n).
    pub fn forget_offline(&self, older_than: Duration) -> Vec<Arc<Node<F>>> {
        let older_than_ms = u64::try_from(older_than.as_millis()).unwrap_or(u64::MAX);
        let Some(before_ms) = self.clock.monotonic_ms().checked_sub(older_than_ms) else { return Vec::new() };
        let mut nodes = self.nodes();
        nodes.retain(|node| node.is_offline_since(before_ms));
        nodes.retain(|node| {
            // A node that took the place of a forgotten one meanwhile is judged for itself.
            self.take_off(node.id().as_str(), |found| Arc::ptr_eq(found, node) && node.retire(before_ms))
                .is_some()
        });
        if self.nodes.capacity() > self.nodes.len().saturating_mul(SHRINK_FACTOR).max(SHRINK_FLOOR) {
            self.nodes.shrink_to_fit();
            self.users.shrink_to_fit();
        }
        nodes
    }

    fn take_off(&self, id: &str, condition: impl Fn(&Arc<Node<F>>) -> bool) -> Option<Arc<Node<F>>> {
        let node = self.nodes.remove_if(id, |node| {
            if !condition(node) {
                return false;
            }
            if let Some(roll) = self.users.get(node.user()) {
                roll.remove(node.id());
            }
            self.rev_floor.fetch_max(node.rev().saturating_add(REMOVED_REV_LEAD), Ordering::AcqRel);
            true
        })?;
        self.forget_if_idle(node.user());
        Some(node)
    }

    /// How many nodes are on the roll.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether the roll is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Ends every session that was silent for longer than the lease. Call it a few times per lease: a call that comes
    /// later than a third of it counts as the hub's own pause, and every silence that began before is allowed that much
    /// longer. Only monotonic time counts. One pass over eight bytes a session, under no lock, and a lookup for each that
    /// is over.
    pub fn expire(&self) -> Vec<Expired<F>> {
        let verdict = self.seats.judge();
        // By id, and not over the map: what a session lets go of must not be dropped under a shard's lock.
        let silent = self.seats.silent(&verdict);
        silent
            .into_iter()
            .filter_map(|id| {
                let node = self.get(id.as_str())?;
                let epoch = node.silent(&verdict)?;
                node.expire(epoch, &verdict).then_some(Expired { node, epoch })
            })
            .collect()
    }

    /// Notes that a node is to be persisted, after it was changed. O(1), and nothing when it is noted already.
    pub fn mark_dirty(&self, node: &Arc<Node<F>>) {
        self.dirty.mark(node);
    }

    /// Takes the nodes that are to be persisted, each once. Read their state only after this: what changes later is
    /// noted anew.
    #[must_use]
    pub fn take_dirty(&self) -> Vec<Arc<Node<F>>> {
        self.dirty.take()
    }

    /// How many nodes are to be persisted.
    #[must_use]
    pub fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// Lets go of a user who has no nodes, no subscribers and no ring.
    fn forget_if_idle(&self, user: &UserId) {
        // Everything that is added is added under the entry's guard, so an idle roll stays idle in here.
        let forgotten = self.users.remove_if(user, |_, roll| roll.is_idle());
        drop(forgotten);
    }
}

impl<F: Fleet> fmt::Debug for Expired<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expired").field("node", &self.node).field("epoch", &self.epoch).finish()
    }
}

impl<F: Fleet> fmt::Debug for Registry<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("nodes", &self.nodes.len())
            .field("users", &self.users.len())
            .field("bus", &self.bus_stats())
            .finish_non_exhaustive()
    }
}

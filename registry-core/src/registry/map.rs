//! The map of nodes: tables of handles, a lock each, keyed by the nodes' own ids.
//!
//! A general concurrent map keeps a copy of each key, a lookup's additional miss of the cache and forty bytes a node, and
//! has no walk that locks a part of it once. What is left after leaving both out is this little.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;
use parking_lot::{RwLock, RwLockWriteGuard};

use crate::fleet::Fleet;
use crate::id::NodeId;
use crate::node::Node;

/// How many of a hash's highest bits tell entries of one table apart, and so cannot tell shards apart.
const TAG_BITS: u32 = 7;

/// Nodes by id. Nothing is dropped under a shard's lock, and only [`Entry`] holds one beyond a call.
pub(super) struct NodeMap<F: Fleet> {
    shards: Box<[CachePadded<Shard<F>>]>,
    hasher: RandomState,
    len: AtomicUsize,
}

type Shard<F> = RwLock<HashTable<Place<F>>>;

/// A node and its id's hash: a table grows without a look at its nodes, in some microseconds and not in a hundred.
struct Place<F: Fleet> {
    hash: u64,
    node: Arc<Node<F>>,
}

/// The place of an id, locked.
pub(super) enum Entry<'m, F: Fleet> {
    /// The node is here.
    Occupied(Occupied<'m, F>),
    /// No node has the id.
    Vacant(Vacant<'m, F>),
}

/// The place of a node that is here.
pub(super) struct Occupied<'m, F: Fleet> {
    table: RwLockWriteGuard<'m, HashTable<Place<F>>>,
    at: usize,
}

/// The place of a node that is not here.
pub(super) struct Vacant<'m, F: Fleet> {
    table: RwLockWriteGuard<'m, HashTable<Place<F>>>,
    len: &'m AtomicUsize,
    hash: u64,
    id: NodeId,
}

impl<F: Fleet> NodeMap<F> {
    /// An empty map; `shards` is a power of two.
    pub(super) fn new(shards: usize, hasher: RandomState) -> Self {
        debug_assert!(shards.is_power_of_two());
        let shards = (0..shards).map(|_| CachePadded::new(RwLock::new(HashTable::new()))).collect();
        Self { shards, hasher, len: AtomicUsize::new(0) }
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Node<F>>> {
        let hash = self.hash(id.as_bytes());
        let table = self.shard(hash).read();
        table.find(hash, is(hash, id.as_bytes())).map(|place| Arc::clone(&place.node))
    }

    /// Locks the place of an id. No other id's may be asked for meanwhile.
    pub(super) fn entry(&self, id: NodeId) -> Entry<'_, F> {
        let hash = self.hash(id.as_bytes());
        let table = self.shard(hash).write();
        match table.find_bucket_index(hash, is(hash, id.as_bytes())) {
            Some(at) => Entry::Occupied(Occupied { table, at }),
            None => Entry::Vacant(Vacant { table, len: &self.len, hash, id }),
        }
    }

    /// Takes a node out if the condition, asked under the lock, agrees.
    pub(super) fn remove_if(
        &self,
        id: &str,
        condition: impl FnOnce(&Arc<Node<F>>) -> bool,
    ) -> Option<Arc<Node<F>>> {
        let hash = self.hash(id.as_bytes());
        let mut table = self.shard(hash).write();
        let found = table.find_entry(hash, is(hash, id.as_bytes())).ok()?;
        if !condition(&found.get().node) {
            return None;
        }
        self.len.fetch_sub(1, Ordering::Relaxed);
        Some(found.remove().0.node)
    }

    /// Copies all handles, shard by shard, in no order.
    pub(super) fn copy_into(&self, nodes: &mut Vec<Arc<Node<F>>>) {
        for shard in &self.shards {
            // Room is made before the lock, for what may come until then, too.
            let expected = shard.read().len();
            nodes.reserve(expected + expected / 8);
            let table = shard.read();
            // A look at each node first: the processor fetches many at once, but counts references one by one.
            let look = |sum: usize, place: &Place<F>| sum.wrapping_add(Arc::strong_count(&place.node));
            black_box(table.iter().fold(0, look));
            nodes.extend(table.iter().map(|place| Arc::clone(&place.node)));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For how many nodes there is room.
    pub(super) fn capacity(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().capacity()).sum()
    }

    pub(super) fn shrink_to_fit(&self) {
        self.shards.iter().for_each(|shard| shard.write().shrink_to_fit(|place| place.hash));
    }

    fn hash(&self, id: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(id);
        hasher.finish()
    }

    fn shard(&self, hash: u64) -> &Shard<F> {
        let bits = self.shards.len().trailing_zeros();
        // One shard is none of these bits.
        let at = (hash << TAG_BITS).checked_shr(u64::BITS - bits).unwrap_or(0);
        &self.shards[at as usize]
    }
}

impl<F: Fleet> Occupied<'_, F> {
    pub(super) fn get(&self) -> &Arc<Node<F>> {
        let place = self.table.get_bucket(self.at).expect("it was found under this lock");
        &place.node
    }
}

impl<F: Fleet> Vacant<'_, F> {
    pub(super) const fn id(&self) -> &NodeId {
        &self.id
    }

    /// Puts a node with this id here.
    pub(super) fn insert(mut self, node: Arc<Node<F>>) {
        debug_assert!(*node.id() == self.id, "a node is kept under its own id");
        self.table.insert_unique(self.hash, Place { hash: self.hash, node }, |place| place.hash);
        self.len.fetch_add(1, Ordering::Relaxed);
    }
}

fn is<F: Fleet>(hash: u64, id: &[u8]) -> impl Fn(&Place<F>) -> bool {
    move |place| place.hash == hash && place.node.id().as_bytes() == id
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::{Clock, Registry, RegistryConfig, Restored, UserId};

    struct Plain;

    impl Fleet for Plain {
        type Event = ();
        type Command = ();
        type Meta = ();
        type Stats = ();
    }

    fn registry(shards: usize) -> Registry<Plain> {
        let config = RegistryConfig { shards, lease: Duration::from_secs(1), ..RegistryConfig::default() };
        Registry::new(config, Clock::manual(0).0)
    }

    fn node(registry: &Registry<Plain>, id: &str) -> Arc<Node<Plain>> {
        let (id, user) = (NodeId::new(id).unwrap(), UserId::new("u").unwrap());
        registry.register(id, user, Arc::new(()), Restored::default()).unwrap()
    }

    #[test]
    fn ids_with_one_hash_are_told_apart() {
        let others = registry(2);
        let place = Place { hash: 7, node: node(&others, "a") };
        assert!(is(7, b"a")(&place) && !is(7, b"b")(&place) && !is(8, b"a")(&place));
    }

    #[test]
    fn behaves_as_a_sorted_map() {
        for shards in [1, 2, 64] {
            // The nodes are another registry's: this map is looked at alone.
            let (others, map) = (registry(2), NodeMap::new(shards, RandomState::new()));
            let mut model = BTreeMap::new();
            for step in 0..20_000_u64 {
                // Short ids and long ones; a multiplicative step visits them in no order.
                let number = step.wrapping_mul(2_654_435_761) % 700;
                let id = format!("{number}{}", "-long".repeat(number as usize % 9));
                if step % 3 == 0 {
                    let refused = map.remove_if(&id, |_| false);
                    assert!(refused.is_none());
                    let removed = map.remove_if(&id, |found| found.id().as_str() == id);
                    assert_eq!(removed.is_some(), model.remove(&id).is_some());
                } else {
                    match map.entry(NodeId::new(&id).unwrap()) {
                        Entry::Occupied(found) => assert!(Arc::ptr_eq(found.get(), &model[&id])),
                        Entry::Vacant(place) => {
                            let node = node(&others, &id);
                            place.insert(Arc::clone(&node));
                            assert!(model.insert(id.clone(), node).is_none());
                        }
                    }
                }
                let (found, expected) = (map.get(&id), model.get(&id));
                assert_eq!(found.map(|node| Arc::as_ptr(&node)), expected.map(Arc::as_ptr));
                assert_eq!(map.len(), model.len());
            }
            map.shrink_to_fit();
            let mut all = Vec::new();
            map.copy_into(&mut all);
            all.sort_by(|a, b| a.id().cmp(b.id()));
            assert!(all.iter().map(Arc::as_ptr).eq(model.values().map(Arc::as_ptr)));
        }
    }
}

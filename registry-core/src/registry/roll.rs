//! One user's part of the roll: the nodes in order, and the topic that tells about them.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::bus::UserTopic;
use crate::fleet::Fleet;
use crate::id::NodeId;
use crate::node::Node;

/// What the registry keeps per user, while there is a node, a subscriber or a ring.
pub(super) struct UserRoll<F: Fleet> {
    nodes: RwLock<BTreeSet<ById<F>>>,
    topic: Arc<UserTopic<F::Event>>,
}

/// A node that is ordered by its id. A pointer: the id is the node's own.
pub(super) struct ById<F: Fleet>(pub(super) Arc<Node<F>>);

impl<F: Fleet> UserRoll<F> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { nodes: RwLock::default(), topic: Arc::new(UserTopic::new()) })
    }

    pub(super) const fn topic(&self) -> &Arc<UserTopic<F::Event>> {
        &self.topic
    }

    pub(super) fn insert(&self, node: Arc<Node<F>>) {
        self.nodes.write().insert(ById(node));
    }

    /// The caller holds another handle on the node, so that no payload falls under the lock.
    pub(super) fn remove(&self, id: &NodeId) {
        self.nodes.write().remove(id);
    }

    /// Copies the first nodes behind an id. How many.
    pub(super) fn after(&self, after: Option<&NodeId>, count: usize, into: &mut Vec<Arc<Node<F>>>) -> usize {
        self.after_below(after, None, count, into)
    }

    /// Copies the first nodes between two ids. How many.
    pub(super) fn after_below(
        &self,
        after: Option<&NodeId>,
        below: Option<&NodeId>,
        count: usize,
        into: &mut Vec<Arc<Node<F>>>,
    ) -> usize {
        let before = into.len();
        into.reserve(count);
        if after.zip(below).is_some_and(|(after, below)| after >= below) {
            return 0;
        }
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let upper = below.map_or(Bound::Unbounded, Bound::Excluded);
        let nodes = self.nodes.read();
        let wanted = nodes.range::<NodeId, _>((lower, upper)).take(count);
        // A look at each node first: the processor fetches many at once, but counts references one by one.
        black_box(wanted.clone().fold(0_usize, |sum, node| sum.wrapping_add(Arc::strong_count(&node.0))));
        into.extend(wanted.map(|node| Arc::clone(&node.0)));
        into.len() - before
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.read().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.read().is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_empty() && self.topic.is_idle()
    }
}

impl<F: Fleet> ById<F> {
    pub(super) fn id(&self) -> &NodeId {
        self.0.id()
    }
}

impl<F: Fleet> Borrow<NodeId> for ById<F> {
    fn borrow(&self) -> &NodeId {
        self.0.id()
    }
}

impl<F: Fleet> PartialEq for ById<F> {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl<F: Fleet> Eq for ById<F> {}

impl<F: Fleet> PartialOrd for ById<F> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<F: Fleet> Ord for ById<F> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id().cmp(other.id())
    }
}

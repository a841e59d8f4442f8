//! One user's part of the roll: the nodes in order, and the topic that tells about them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::bus::UserTopic;
use crate::fleet::Fleet;
use crate::id::NodeId;
use crate::node::Node;

/// What the registry keeps per user, while there is a node, a subscriber or a ring.
pub(super) struct UserRoll<F: Fleet> {
    nodes: RwLock<BTreeMap<NodeId, Arc<Node<F>>>>,
    topic: Arc<UserTopic<F::Event>>,
}

impl<F: Fleet> UserRoll<F> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { nodes: RwLock::default(), topic: Arc::new(UserTopic::new()) })
    }

    pub(super) const fn topic(&self) -> &Arc<UserTopic<F::Event>> {
        &self.topic
    }

    pub(super) fn insert(&self, node: Arc<Node<F>>) {
        self.nodes.write().insert(node.id().clone(), node);
    }

    /// The caller holds another handle on the node, so that no payload falls under the lock.
    pub(super) fn remove(&self, id: &NodeId) {
        self.nodes.write().remove(id);
    }

    pub(super) fn nodes(&self) -> Vec<Arc<Node<F>>> {
        self.nodes.read().values().cloned().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.read().is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_empty() && self.topic.is_idle()
    }
}

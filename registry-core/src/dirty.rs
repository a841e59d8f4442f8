//! The latest-wins set of nodes that are to be persisted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::fleet::Fleet;
use crate::node::Node;

/// Nodes that changed since they were last taken: each once, however often it changed.
///
/// Bounded by the number of nodes, whatever happens to the store behind the flusher.
pub(crate) struct DirtySet<F: Fleet> {
    nodes: Mutex<Vec<Arc<Node<F>>>>,
}

impl<F: Fleet> DirtySet<F> {
    pub(crate) const fn new() -> Self {
        Self { nodes: Mutex::new(Vec::new()) }
    }

    /// Adds a node, after its change.
    ///
    /// The swap is unconditional: looking first would let the mark pass an older `take` whose reader has not seen the
    /// change, and the change would be lost.
    pub(crate) fn mark(&self, node: &Arc<Node<F>>) {
        if !node.dirty.swap(true, Ordering::AcqRel) {
            self.nodes.lock().push(Arc::clone(node));
        }
    }

    /// Takes all. Marks first, reads later: whatever changes after this is marked anew.
    pub(crate) fn take(&self) -> Vec<Arc<Node<F>>> {
        let taken = std::mem::take(&mut *self.nodes.lock());
        for node in &taken {
            node.dirty.swap(false, Ordering::AcqRel);
        }
        taken
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.lock().len()
    }
}

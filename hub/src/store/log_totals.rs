//! How much of the terminal log is kept, of each node and in all: in memory, so that retention need not ask the store.

use std::collections::HashMap;
use std::ops::AddAssign;

use registry_core::{Frame, NodeId};

/// An amount of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    /// As `Frame::weight` counts.
    pub(super) bytes: u64,
    pub(super) frames: u64,
}

impl Amount {
    /// What one frame adds.
    pub(super) fn of(frame: &Frame) -> Self {
        Self { bytes: frame.weight() as u64, frames: 1 }
    }

    pub(super) fn is_above(self, most: Self) -> bool {
        self.bytes > most.bytes || self.frames > most.frames
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.frames += more.frames;
    }
}

/// What is committed, and what the open transaction makes of it.
#[derive(Debug, Default)]
pub(super) struct Totals {
    nodes: HashMap<NodeId, Amount>,
    committed_bytes: u64,
    /// What the nodes that the open transaction touches have after it.
    open: HashMap<NodeId, Amount>,
    all_bytes: u64,
}

impl Totals {
    /// What the store has of each node.
    pub(super) fn new(nodes: HashMap<NodeId, Amount>) -> Self {
        let all_bytes = nodes.values().map(|amount| amount.bytes).sum();
        Self { nodes, committed_bytes: all_bytes, open: HashMap::new(), all_bytes }
    }

    pub(super) fn all_bytes(&self) -> u64 {
        self.all_bytes
    }

    pub(super) fn of(&self, node: &NodeId) -> Amount {
        self.open.get(node).or_else(|| self.nodes.get(node)).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, node: &NodeId, amount: Amount) {
        let mut sum = self.of(node);
        sum += amount;
        self.all_bytes += amount.bytes;
        self.open.insert(node.clone(), sum);
    }

    pub(super) fn subtract(&mut self, node: &NodeId, amount: Amount) {
        let now = self.of(node);
        self.all_bytes = self.all_bytes.saturating_sub(amount.bytes);
        let rest = Amount {
            bytes: now.bytes.saturating_sub(amount.bytes),
            frames: now.frames.saturating_sub(amount.frames),
        };
        self.open.insert(node.clone(), rest);
    }

    /// Up to `limit` nodes of which more is kept than this.
    pub(super) fn above(&self, most: Amount, limit: usize) -> Vec<NodeId> {
        let is_above = |node: &&NodeId| self.of(node).is_above(most);
        let new = self.open.keys().filter(|node| !self.nodes.contains_key(*node));
        self.nodes.keys().chain(new).filter(is_above).take(limit).cloned().collect()
    }

    /// The open transaction came to nothing.
    pub(super) fn roll_back(&mut self) {
        self.open.clear();
        self.all_bytes = self.committed_bytes;
    }

    /// The open transaction is durable.
    pub(super) fn commit(&mut self) {
        for (node, amount) in self.open.drain() {
            if amount.frames == 0 {
                self.nodes.remove(&node);
            } else {
                self.nodes.insert(node, amount);
            }
        }
        self.committed_bytes = self.all_bytes;
    }
}

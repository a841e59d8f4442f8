//! What a log remembers of the events that it pushed out before a reader came to them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::iter::Peekable;

use super::Delivery;
use super::log::{Bounds, Class};
use crate::id::NodeId;

/// Kept events, and the latest state of each node. Each of the two is bounded by count like the log itself, and both
/// together by its bytes.
pub(super) struct Tail<E> {
    /// By index, which grows.
    kept: VecDeque<Entry<E>>,
    states: BTreeMap<u64, Entry<E>>,
    /// Where a node's state is.
    latest: HashMap<NodeId, u64>,
    bytes: usize,
    /// Before this index, kept events and states were dropped as well.
    forgotten: u64,
}

struct Entry<E> {
    index: u64,
    /// How many plain events came before it.
    plain_before: u64,
    delivery: Delivery<E>,
}

impl<E> Default for Tail<E> {
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            states: BTreeMap::new(),
            latest: HashMap::new(),
            bytes: 0,
            forgotten: 0,
        }
    }
}

impl<E> Tail<E> {
    /// Takes an event that was pushed out of the log.
    pub(super) fn take(
        &mut self,
        index: u64,
        plain_before: u64,
        delivery: Delivery<E>,
        bounds: &Bounds,
        waste: &mut Vec<Delivery<E>>,
    ) {
        if delivery.class == Class::Plain {
            waste.push(delivery);
            return;
        }
        self.bytes = self.bytes.saturating_add(delivery.bytes);
        let entry = Entry { index, plain_before, delivery };
        if entry.delivery.class == Class::Kept {
            self.kept.push_back(entry);
        } else {
            let older = self.latest.insert(entry.delivery.node.clone(), index);
            if let Some(older) = older.and_then(|older| self.states.remove(&older)) {
                self.drop_entry(older, waste);
            }
            self.states.insert(index, entry);
        }
        while self.states.len() > bounds.events || (self.bytes > bounds.bytes && !self.states.is_empty()) {
            let Some((_, oldest)) = self.states.pop_first() else { break };
            self.latest.remove(&oldest.delivery.node);
            self.lose(oldest, waste);
        }
        while self.kept.len() > bounds.events || (self.bytes > bounds.bytes && self.kept.len() > 1) {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.lose(oldest, waste);
        }
    }

    fn lose(&mut self, entry: Entry<E>, waste: &mut Vec<Delivery<E>>) {
        self.forgotten = self.forgotten.max(entry.index + 1);
        self.drop_entry(entry, waste);
    }

    fn drop_entry(&mut self, entry: Entry<E>, waste: &mut Vec<Delivery<E>>) {
        self.bytes -= entry.delivery.bytes;
        waste.push(entry.delivery);
    }

    /// Whether so many more, with so many bytes, cost nothing that is here.
    pub(super) fn has_room(&self, kept: usize, states: usize, bytes: usize, bounds: &Bounds) -> bool {
        self.kept.len() + kept <= bounds.events
            && self.states.len() + states <= bounds.events
            && self.bytes.saturating_add(bytes) <= bounds.bytes
    }

    /// Before this index, not all is here that should be.
    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// What is here from an index on, in order: index, plain events before it, event.
    pub(super) fn from(&self, index: u64) -> impl Iterator<Item = (u64, u64, &Delivery<E>)> {
        let start = self.kept.partition_point(|entry| entry.index < index);
        let merged = Merged {
            kept: self.kept.range(start..).peekable(),
            states: self.states.range(index..).map(|(_, entry)| entry).peekable(),
        };
        merged.map(|entry| (entry.index, entry.plain_before, &entry.delivery))
    }

    pub(super) fn into_waste(self, waste: &mut Vec<Delivery<E>>) {
        waste.extend(self.kept.into_iter().chain(self.states.into_values()).map(|entry| entry.delivery));
    }
}

/// Two iterators over entries by index, as one.
struct Merged<K: Iterator, S: Iterator> {
    kept: Peekable<K>,
    states: Peekable<S>,
}

impl<'a, E: 'a, K, S> Iterator for Merged<K, S>
where
    K: Iterator<Item = &'a Entry<E>>,
    S: Iterator<Item = &'a Entry<E>>,
{
    type Item = &'a Entry<E>;

    fn next(&mut self) -> Option<&'a Entry<E>> {
        match (self.kept.peek(), self.states.peek()) {
            (Some(kept), Some(state)) if kept.index < state.index => self.kept.next(),
            (Some(_), None) => self.kept.next(),
            _ => self.states.next(),
        }
    }
}

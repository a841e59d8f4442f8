//! The maps that a registry could be instead, behind one trait, all with the keyed hasher that ids of strangers need.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use parking_lot::RwLock;

use super::fleet::{Stats, id};

/// What such a map holds of a node.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) seen: AtomicU64,
    pub(crate) stats: ArcSwapOption<Stats>,
}

impl Record {
    /// Notes when it was heard.
    pub(crate) fn touch(&self, now: u64) {
        self.seen.store(now, Ordering::Release);
    }

    /// A heartbeat, once the record is found: the same two stores as ours.
    pub(crate) fn heartbeat(&self, now: u64, stats: Arc<Stats>) {
        self.touch(now);
        self.stats.store(Some(stats));
    }
}

/// A concurrent map from ids to something shared: records, or the very handles that our registry gives.
pub(crate) trait Map<V>: Default + Sync {
    fn find(&self, id: &str) -> Option<Arc<V>>;
    /// Calls `act` on a value in place: no clone of the handle.
    fn with(&self, id: &str, act: impl FnOnce(&V));
    fn put(&self, id: Arc<str>, value: Arc<V>);

    /// The map of a fleet, with the values that are given in its order.
    fn filled(values: impl IntoIterator<Item = Arc<V>>) -> Self {
        let map = Self::default();
        values.into_iter().enumerate().for_each(|(of, value)| map.put(id(of).into(), value));
        map
    }
}

/// Records of so many nodes.
pub(crate) fn records(nodes: usize) -> impl Iterator<Item = Arc<Record>> {
    (0..nodes).map(|_| Arc::default())
}

pub(crate) type Dash<V> = DashMap<Arc<str>, Arc<V>, RandomState>;
pub(crate) type Papaya<V> = papaya::HashMap<Arc<str>, Arc<V>, RandomState>;
pub(crate) type Scc<V> = scc::HashMap<Arc<str>, Arc<V>, RandomState>;
pub(crate) type Locked<V> = RwLock<HashMap<Arc<str>, Arc<V>, RandomState>>;

impl<V: Send + Sync> Map<V> for Dash<V> {
    fn find(&self, id: &str) -> Option<Arc<V>> {
        self.get(id).map(|value| Arc::clone(value.value()))
    }

    fn with(&self, id: &str, act: impl FnOnce(&V)) {
        act(self.get(id).unwrap().value());
    }

    fn put(&self, id: Arc<str>, value: Arc<V>) {
        self.insert(id, value);
    }
}

impl<V: Send + Sync> Map<V> for Papaya<V> {
    fn find(&self, id: &str) -> Option<Arc<V>> {
        self.pin().get(id).cloned()
    }

    fn with(&self, id: &str, act: impl FnOnce(&V)) {
        act(self.pin().get(id).unwrap());
    }

    fn put(&self, id: Arc<str>, value: Arc<V>) {
        self.pin().insert(id, value);
    }
}

impl<V: Send + Sync> Map<V> for Scc<V> {
    fn find(&self, id: &str) -> Option<Arc<V>> {
        self.read_sync(id, |_, value| Arc::clone(value))
    }

    fn with(&self, id: &str, act: impl FnOnce(&V)) {
        self.read_sync(id, |_, value| act(value)).unwrap();
    }

    fn put(&self, id: Arc<str>, value: Arc<V>) {
        let _ = self.insert_sync(id, value);
    }
}

impl<V: Send + Sync> Map<V> for Locked<V> {
    fn find(&self, id: &str) -> Option<Arc<V>> {
        self.read().get(id).cloned()
    }

    fn with(&self, id: &str, act: impl FnOnce(&V)) {
        act(self.read().get(id).unwrap());
    }

    fn put(&self, id: Arc<str>, value: Arc<V>) {
        self.write().insert(id, value);
    }
}

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
    /// A heartbeat, once the record is found: the same two stores as ours.
    pub(crate) fn heartbeat(&self, now: u64, stats: Arc<Stats>) {
        self.stats.store(Some(stats));
        self.seen.store(now, Ordering::Release);
    }
}

/// A concurrent map from ids to records.
pub(crate) trait Map: Default + Sync {
    fn find(&self, id: &str) -> Option<Arc<Record>>;
    /// Calls `act` on a record in place: no clone of the handle.
    fn with(&self, id: &str, act: impl FnOnce(&Record));
    fn put(&self, id: Arc<str>, record: Arc<Record>);

    /// The map of a fleet.
    fn filled(nodes: usize) -> Self {
        let map = Self::default();
        (0..nodes).for_each(|of| map.put(id(of).into(), Arc::default()));
        map
    }
}

pub(crate) type Dash = DashMap<Arc<str>, Arc<Record>, RandomState>;
pub(crate) type Papaya = papaya::HashMap<Arc<str>, Arc<Record>, RandomState>;
pub(crate) type Scc = scc::HashMap<Arc<str>, Arc<Record>, RandomState>;
pub(crate) type Locked = RwLock<HashMap<Arc<str>, Arc<Record>, RandomState>>;

impl Map for Dash {
    fn find(&self, id: &str) -> Option<Arc<Record>> {
        self.get(id).map(|record| Arc::clone(record.value()))
    }

    fn with(&self, id: &str, act: impl FnOnce(&Record)) {
        act(self.get(id).unwrap().value());
    }

    fn put(&self, id: Arc<str>, record: Arc<Record>) {
        self.insert(id, record);
    }
}

impl Map for Papaya {
    fn find(&self, id: &str) -> Option<Arc<Record>> {
        self.pin().get(id).cloned()
    }

    fn with(&self, id: &str, act: impl FnOnce(&Record)) {
        act(self.pin().get(id).unwrap());
    }

    fn put(&self, id: Arc<str>, record: Arc<Record>) {
        self.pin().insert(id, record);
    }
}

impl Map for Scc {
    fn find(&self, id: &str) -> Option<Arc<Record>> {
        self.read_sync(id, |_, record| Arc::clone(record))
    }

    fn with(&self, id: &str, act: impl FnOnce(&Record)) {
        self.read_sync(id, |_, record| act(record)).unwrap();
    }

    fn put(&self, id: Arc<str>, record: Arc<Record>) {
        let _ = self.insert_sync(id, record);
    }
}

impl Map for Locked {
    fn find(&self, id: &str) -> Option<Arc<Record>> {
        self.read().get(id).cloned()
    }

    fn with(&self, id: &str, act: impl FnOnce(&Record)) {
        act(self.read().get(id).unwrap());
    }

    fn put(&self, id: Arc<str>, record: Arc<Record>) {
        self.write().insert(id, record);
    }
}

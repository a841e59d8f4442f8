//! The dirty mark against the flusher. The memory orderings of the same race are in `tests/orderings.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shuttle::thread;

use super::{registry, user};
use crate::{Fleet, NodeId, Registry, Restored};

/// Its metadata is a cell under the scheduler, so that a flush can come between any two steps of a change.
struct Cells;

impl Fleet for Cells {
    type Event = ();
    type Command = ();
    type Meta = AtomicU64;
    type Stats = ();
}

pub(super) fn changes_reach_a_flush() {
    let (registry, _) = registry::<Cells>();
    let id = NodeId::new("n").unwrap();
    let node = registry.register(id, user(), Arc::new(AtomicU64::new(0)), Restored::default()).unwrap();
    let writers = [1, 100].map(|step| {
        let (registry, node) = (Arc::clone(&registry), Arc::clone(&node));
        thread::spawn(move || {
            for _ in 0..2 {
                node.meta().fetch_add(step, Ordering::Relaxed);
                registry.mark_dirty(&node);
            }
        })
    });
    let mut stored = 0;
    let mut flush = |registry: &Registry<Cells>| {
        let taken = registry.take_dirty();
        assert!(taken.len() <= 1, "one node is in it more than once");
        for node in taken {
            stored = node.meta().load(Ordering::Relaxed);
        }
    };
    flush(&registry);
    flush(&registry);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    flush(&registry);
    assert_eq!(stored, 202, "a change was lost");
    assert_eq!(registry.dirty_len(), 0);
}

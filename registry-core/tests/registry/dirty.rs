//! The dirty set: each node once, always its latest state, and no change lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use registry_core::Registry;

use super::{Numbers, add, registry};

#[test]
fn a_node_is_in_it_once_however_often_it_changed() {
    let (registry, _) = registry();
    let (a, b) = (add(&registry, "a", "u"), add(&registry, "b", "u"));
    for _ in 0..5 {
        registry.mark_dirty(&a);
        registry.mark_dirty(&b);
    }
    assert_eq!(registry.dirty_len(), 2);
    assert_eq!(registry.take_dirty().len(), 2);
    assert_eq!(registry.dirty_len(), 0);
    registry.mark_dirty(&b);
    assert!(Arc::ptr_eq(&registry.take_dirty()[0], &b));
}

#[test]
fn no_change_is_lost_between_many_writers_and_the_flusher() {
    const WRITERS: u64 = 3;
    const CHANGES: u64 = 60_000;
    let (registry, _) = registry();
    let nodes: Vec<_> = (0..WRITERS).map(|i| add(&registry, &format!("n{i}"), "u")).collect();
    let running = AtomicUsize::new(WRITERS as usize);
    let mut stored = HashMap::new();
    let flush = |registry: &Registry<Numbers>, stored: &mut HashMap<String, u64>| {
        for node in registry.take_dirty() {
            stored.insert(node.id().to_string(), *node.meta());
        }
    };
    thread::scope(|scope| {
        for node in &nodes {
            let (registry, running) = (&registry, &running);
            scope.spawn(move || {
                for change in 1..=CHANGES {
                    node.set_meta(Arc::new(change));
                    registry.mark_dirty(node);
                }
                running.fetch_sub(1, Ordering::Release);
            });
        }
        while running.load(Ordering::Acquire) > 0 {
            flush(&registry, &mut stored);
        }
    });
    flush(&registry, &mut stored);
    assert_eq!(stored.len(), nodes.len());
    assert!(stored.values().all(|stored| *stored == CHANGES), "{stored:?}");
}

#[test]
fn a_change_that_races_one_flush_is_in_it_or_in_the_next() {
    let (registry, _) = registry();
    let node = add(&registry, "n", "u");
    for round in 1..=20_000 {
        let start = AtomicBool::new(false);
        let seen = thread::scope(|scope| {
            if round % 64 != 0 {
                // Mostly without a thread: the marked-already path on one thread.
                registry.mark_dirty(&node);
                let seen = registry.take_dirty().first().map(|node| *node.meta());
                node.set_meta(Arc::new(round));
                registry.mark_dirty(&node);
                return seen;
            }
            registry.mark_dirty(&node);
            let writer = scope.spawn(|| {
                while !start.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
                node.set_meta(Arc::new(round));
                registry.mark_dirty(&node);
            });
            start.store(true, Ordering::Release);
            let seen = registry.take_dirty().first().map(|node| *node.meta());
            writer.join().unwrap();
            seen
        });
        let later = registry.take_dirty().first().map(|node| *node.meta());
        assert!(seen == Some(round) || later == Some(round), "round {round}: {seen:?}, then {later:?}");
    }
}

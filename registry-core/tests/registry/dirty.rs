//! The dirty set: each node once, always its latest state, and no change lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use registry_core::{Clock, Fleet, Registry, RegistryConfig, Restored};

use super::{Numbers, add, node_id, registry, user};

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

/// Its metadata is a cell that is written with the weakest store there is: only the mark's own ordering protects it.
struct Cells;

impl Fleet for Cells {
    type Event = ();
    type Command = ();
    type Meta = AtomicU64;
    type Stats = ();
}

#[test]
fn a_change_that_races_one_flush_is_in_it_or_in_the_next() {
    const ROUNDS: u64 = 100_000;
    let registry = Registry::<Cells>::new(RegistryConfig::default(), Clock::manual(0).0);
    let cell = Arc::new(AtomicU64::new(0));
    let node = registry.register(node_id("n"), user("u"), Arc::clone(&cell), Restored::default()).unwrap();
    let (started, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let wait_for = |counter: &AtomicU64, round| {
        let mut looks = 0_u32;
        while counter.load(Ordering::Acquire) < round {
            looks += 1;
            if looks > 200 { thread::yield_now() } else { std::hint::spin_loop() }
        }
    };
    let flush = || registry.take_dirty().first().map(|node| node.meta().load(Ordering::Relaxed));
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                wait_for(&started, round);
                cell.store(round, Ordering::Relaxed);
                registry.mark_dirty(&node);
                done.store(round, Ordering::Release);
            }
        });
        let mut lost = 0;
        for round in 1..=ROUNDS {
            registry.mark_dirty(&node);
            started.store(round, Ordering::Release);
            // From right beside the change to well behind it.
            (0..round % 16).for_each(|_| std::hint::spin_loop());
            let seen = flush();
            wait_for(&done, round);
            let later = flush();
            lost += u64::from(seen != Some(round) && later != Some(round));
        }
        assert_eq!(lost, 0);
    });
}

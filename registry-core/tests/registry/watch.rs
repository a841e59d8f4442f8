//! A snapshot and the events after it: nothing lost, nothing doubled, whatever goes on meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use registry_core::{BusConfig, NodeId, Received, Registry, SubscribeOptions, Subscription};

use super::{DEADLINE, Numbers, Over, add, in_time, registry, registry_with, tell, user};

const NODES: u64 = 6;

/// More events than any of these tests publishes.
const FAR_BEHIND: usize = 10_000_000;

fn roomy_registry() -> Arc<Registry<Numbers>> {
    let bus = BusConfig {
        ring_events: FAR_BEHIND,
        ring_bytes: usize::MAX,
        queue_bytes: usize::MAX,
        ..BusConfig::default()
    };
    registry_with(bus).0
}

/// What a reader knows of a node: its rev and its state.
type View = HashMap<NodeId, (u64, u64)>;

fn look(registry: &Registry<Numbers>, own: bool) -> (View, Subscription<u64>) {
    // Every other one reads the user's own ring.
    let capacity = own.then_some(FAR_BEHIND);
    let options = SubscribeOptions { capacity, ..SubscribeOptions::default() };
    let (shown, _, events) =
        registry.watch(&user("u"), options, |node, rev| (node.id().clone(), (rev, *node.meta())));
    (shown.into_iter().collect(), events)
}

/// Takes events over a snapshot until the view shows these revs. Each rev must come exactly once, in order.
fn follow(view: &mut View, events: &mut Subscription<u64>, until: &HashMap<NodeId, u64>) {
    while until.iter().any(|(node, rev)| view.get(node).is_none_or(|(seen, _)| seen < rev)) {
        match events.recv_timeout(DEADLINE).unwrap().expect("a hole: an event did not come") {
            Received::Event(delivery) => {
                let (rev, state) = view.entry(delivery.node.clone()).or_insert((0, 0));
                assert_eq!(delivery.rev, *rev + 1, "a hole or a double at {}", delivery.node);
                (*rev, *state) = (delivery.rev, delivery.event);
            }
            Received::Lagged { missed } => panic!("{missed} missed"),
        }
    }
    assert!(matches!(events.try_recv(), Ok(None)), "something comes twice");
}

#[test]
fn events_over_a_snapshot_give_the_final_state() {
    in_time(|| {
        for _ in 0..20 {
            let registry = roomy_registry();
            // While somebody watches, revs leave nothing out.
            let _earlier = look(&registry, false);
            let nodes: Vec<_> = (0..NODES).map(|i| add(&registry, &format!("n{i}"), "u")).collect();
            let over = Over::default();
            let mut views = Vec::new();
            thread::scope(|scope| {
                let _over = over.set_on_drop();
                for writer in 0..2 {
                    let (registry, nodes, over) = (&registry, &nodes, &over);
                    scope.spawn(move || {
                        let mut change = writer;
                        while !over.is_set() {
                            let node = &nodes[(change / 2 % NODES) as usize];
                            node.set_meta(Arc::new(change));
                            registry.publish(node, |_| *node.meta());
                            change += 2;
                            if change % 64 < 2 {
                                thread::yield_now();
                            }
                        }
                    });
                }
                for number in 0..25 {
                    views.push(look(&registry, number % 2 == 0));
                    thread::yield_now();
                }
            });
            let revs = nodes.iter().map(|node| (node.id().clone(), node.rev())).collect();
            for (mut view, mut events) in views {
                follow(&mut view, &mut events, &revs);
                for node in &nodes {
                    assert_eq!(
                        view[node.id()],
                        (node.rev(), *node.meta()),
                        "the last event shows the latest state"
                    );
                }
            }
        }
    });
}

/// Nobody watches, publishers hurry by, and one comes to watch: what it is not shown it is told.
#[test]
fn the_first_of_all_readers_has_no_hole_either() {
    in_time(|| {
        for round in 0..2_000 {
            let registry = roomy_registry();
            let node = add(&registry, "n", "u");
            let over = Over::default();
            thread::scope(|scope| {
                let _over = over.set_on_drop();
                scope.spawn(|| {
                    let mut state = 0;
                    while !over.is_set() {
                        state += 1;
                        node.set_meta(Arc::new(state));
                        tell(&registry, &node, state);
                    }
                });
                let (view, mut events) = look(&registry, round % 2 == 0);
                let (mut rev, shown) = view[node.id()];
                let mut latest = None;
                for _ in 0..3 {
                    let Ok(Some(Received::Event(event))) = events.recv_timeout(DEADLINE) else {
                        panic!("no event")
                    };
                    assert!(event.rev > rev, "rev {} after {rev}", event.rev);
                    let expected = latest.map_or(event.event.min(shown + 1), |latest| latest + 1);
                    assert_eq!(event.event, expected, "a hole after {shown}");
                    (rev, latest) = (event.rev, Some(event.event));
                }
            });
        }
    });
}

#[test]
fn nodes_that_come_while_a_reader_looks_are_shown_or_told() {
    in_time(|| {
        for _ in 0..100 {
            let registry = roomy_registry();
            let _earlier = look(&registry, false);
            let views: Vec<_> = thread::scope(|scope| {
                let adding = scope.spawn(|| {
                    for i in 0..50 {
                        let node = add(&registry, &format!("n{i}"), "u");
                        tell(&registry, &node, i);
                    }
                });
                let views = (0..10).map(|number| look(&registry, number % 2 == 0)).collect();
                adding.join().unwrap();
                views
            });
            let revs = registry.nodes().iter().map(|node| (node.id().clone(), 1)).collect();
            for (mut view, mut events) in views {
                follow(&mut view, &mut events, &revs);
                assert_eq!(view.len(), 50);
            }
        }
    });
}

#[test]
fn what_the_snapshot_shows_does_not_come_again_and_a_return_is_not_mistaken_for_it() {
    for capacity in [None, Some(100)] {
        what_the_snapshot_shows(SubscribeOptions { capacity, ..SubscribeOptions::default() });
    }
}

fn what_the_snapshot_shows(options: SubscribeOptions) {
    let (registry, _) = registry();
    let node = add(&registry, "n", "u");
    (0..5).for_each(|event| _ = tell(&registry, &node, event));
    // An event published from within the look, for a node that was shown already and for one that was not yet.
    let other = add(&registry, "o", "u");
    let (shown, _, mut events) = registry.watch(&user("u"), options, |shown, rev| {
        if shown.id() == node.id() {
            tell(&registry, &node, 10);
            tell(&registry, &other, 20);
        }
        rev
    });
    assert_eq!(shown, [5, 1]);
    assert_eq!(super::drain(&mut events), [10]);
    registry.remove("n");
    let back = add(&registry, "n", "u");
    tell(&registry, &back, 30);
    assert_eq!(super::drain(&mut events), [30]);
}

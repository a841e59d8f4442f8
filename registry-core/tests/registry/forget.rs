//! Forgetting nodes that are long offline: who is forgotten, who stays, and that memory is only the live ones'.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use registry_core::{AttachError, Restored};

use super::{Over, add, claim, node_id, registry, user};

const OLD: Duration = Duration::from_secs(60);

#[test]
fn only_nodes_that_are_long_offline_are_forgotten() {
    let (registry, hand) = registry();
    let never = add(&registry, "never-attached", "u");
    let (left, held) = (add(&registry, "left", "u"), add(&registry, "held", "u"));
    let leaving = left.attach(claim(1), 1).unwrap().session;
    held.attach(claim(2), 1).unwrap();
    hand.advance(Duration::from_secs(50));
    left.detach(leaving.epoch());
    hand.advance(Duration::from_secs(10));
    assert!(registry.forget_offline(OLD).is_empty(), "not longer than that yet");
    hand.set_unix_ms(9_000_000_000);
    assert!(registry.forget_offline(OLD).is_empty(), "the wall clock decides nothing");
    hand.advance(Duration::from_millis(1));
    let forgotten = registry.forget_offline(OLD);
    assert_eq!(forgotten.len(), 1);
    assert!(Arc::ptr_eq(&forgotten[0], &never));
    assert!(never.is_removed() && registry.get("never-attached").is_none());
    assert_eq!(never.attach(claim(1), 1).unwrap_err(), AttachError::Removed);
    hand.advance(Duration::from_secs(50));
    assert_eq!(registry.forget_offline(OLD).len(), 1, "the one that left");
    hand.advance(Duration::from_secs(1_000));
    assert!(registry.forget_offline(OLD).is_empty());
    assert!(held.is_online());
    assert_eq!((registry.len(), registry.nodes_of(&user("u")).len()), (1, 1));
}

#[test]
fn a_crowd_that_never_returns_leaves_only_what_the_time_holds() {
    let (registry, hand) = registry();
    for wave in 0..40 {
        for number in 0..1_000 {
            add(&registry, &format!("w{wave}-n{number}"), &format!("u{wave}-{}", number % 100));
        }
        hand.advance(Duration::from_secs(30));
        registry.forget_offline(OLD);
        registry.sweep();
        assert!(registry.len() <= 3_000, "{} nodes", registry.len());
        assert!(registry.users().len() <= 300);
    }
    hand.advance(OLD * 2);
    registry.forget_offline(OLD);
    assert!(registry.is_empty() && registry.nodes().is_empty() && registry.users().is_empty());
}

#[test]
fn a_node_attaches_or_is_forgotten_and_never_both() {
    const ROUNDS: u64 = 3_000;
    let (registry, hand) = registry();
    let over = Over::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.is_set() {
                hand.advance(Duration::from_millis(1));
                registry.forget_offline(Duration::ZERO);
            }
        });
        let _over = over.set_on_drop();
        for _ in 0..ROUNDS {
            let node = registry.register(node_id("n"), user("u"), Arc::new(0), Restored::default()).unwrap();
            match node.attach(claim(1), 1) {
                Ok(attached) => {
                    assert!(node.is_online() && !node.is_removed());
                    assert!(Arc::ptr_eq(&registry.get("n").unwrap(), &node), "forgotten while it was held");
                    assert!(node.detach(attached.session.epoch()));
                }
                Err(error) => assert_eq!(error, AttachError::Removed),
            }
        }
    });
}

//! The armed flag against the waker: a reader that waits is woken, whatever happens between its looks.

use std::sync::Arc;

use shuttle::thread;

use super::{Numbers, add, receive, registry, user};
use crate::{Closed, Interest, SubscribeOptions};

/// A lost wake-up leaves the reader waiting with nobody left to run, which shuttle calls a deadlock.
pub(super) fn woken_by_publishers() {
    const EACH: u64 = 2;
    let (registry, _) = registry::<Numbers>();
    let nodes = [add(&registry, "a"), add(&registry, "b")];
    let mut subscription = registry.subscribe(Interest::user(user()), SubscribeOptions::default());
    let publishers = nodes.map(|node| {
        let registry = Arc::clone(&registry);
        thread::spawn(move || (0..EACH).for_each(|event| _ = registry.publish(&node, |_| event)))
    });
    let mut events = receive(&mut subscription, 2 * EACH);
    events.sort_unstable();
    assert_eq!(events, [0, 0, 1, 1]);
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
}

pub(super) fn woken_by_the_end() {
    let (registry, _) = registry::<Numbers>();
    let node = add(&registry, "a");
    let mut subscription = registry.subscribe(Interest::user(user()), SubscribeOptions::default());
    let publisher = thread::spawn({
        let registry = Arc::clone(&registry);
        move || {
            registry.publish(&node, |_| 7);
            registry.shut_down();
        }
    });
    assert_eq!(receive(&mut subscription, 1), [7]);
    let end = shuttle::future::block_on(subscription.recv());
    assert!(matches!(end, Err(Closed::Shutdown)), "{end:?}");
    publisher.join().unwrap();
}

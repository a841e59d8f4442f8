//! Payloads and wakers may run any code, also code that uses the registry: nothing of that happens under a lock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use registry_core::{
    BusConfig, Clock, Fleet, Interest, Received, Registry, RegistryConfig, Restored, SubscribeOptions,
};

use super::{Numbers, add, claim, in_time, node_id, registry, tell, user};

/// Its events publish again when they are dropped, as often as the budget says.
struct Nosy;

struct Meddler {
    registry: Weak<Registry<Nosy>>,
    budget: Arc<AtomicUsize>,
}

impl Fleet for Nosy {
    type Event = Meddler;
    type Command = Meddler;
    type Meta = Meddler;
    type Stats = Meddler;
}

impl Meddler {
    fn new(registry: &Arc<Registry<Nosy>>, budget: &Arc<AtomicUsize>) -> Self {
        Self { registry: Arc::downgrade(registry), budget: Arc::clone(budget) }
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        let spend = |left: usize| left.checked_sub(1);
        if self.budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_err() {
            return;
        }
        let Some(registry) = self.registry.upgrade() else { return };
        // Everything that takes a lock, on the very node and user that the payload comes from.
        let again = || Meddler { registry: Weak::clone(&self.registry), budget: Arc::clone(&self.budget) };
        let meta = Arc::new(again());
        let node = registry.register(node_id("n"), user("u"), meta, Restored::default()).unwrap();
        registry.publish(&node, |_| again());
        let _ = node.attach(claim(1), 1).map(|attached| attached.session.outbox().try_push(again()));
        let _ = node.heartbeat(node.epoch(), Arc::new(again()));
        drop(registry.subscribe(Interest::node(node_id("n")), SubscribeOptions::default()));
        registry.mark_dirty(&node);
        drop(registry.take_dirty());
        registry.sweep();
        registry.expire();
        registry.remove("n");
    }
}

#[test]
fn destructors_that_use_the_registry_do_not_deadlock() {
    in_time(|| {
        let (clock, hand) = Clock::manual(0);
        let bus = BusConfig { ring_events: 2, ring_linger: Duration::ZERO, ..BusConfig::default() };
        let config = RegistryConfig { bus, ..RegistryConfig::default() };
        let registry = Arc::new(Registry::<Nosy>::new(config, clock));
        let budget = Arc::new(AtomicUsize::new(0));
        let spent = |budget: &AtomicUsize, what: &str| assert_eq!(budget.load(Ordering::SeqCst), 0, "{what}");
        for round in 0..20 {
            let meddler = || Meddler::new(&registry, &budget);
            let node =
                registry.register(node_id("n"), user("u"), Arc::new(meddler()), Restored::default()).unwrap();
            let options = || SubscribeOptions {
                capacity: Some(1),
                grace: Duration::from_secs(1),
                ..SubscribeOptions::default()
            };
            let reader = registry.subscribe(Interest::user(user("u")), options());
            let leaked = registry.subscribe(Interest::node(node_id("n")), options());
            (0..4).for_each(|_| _ = registry.publish(&node, |_| meddler()));
            budget.store(3, Ordering::SeqCst);
            registry.publish(&node, |_| meddler());
            spent(&budget, "evicted from a queue and the ring");
            budget.store(1, Ordering::SeqCst);
            drop(reader);
            hand.advance(Duration::from_secs(round));
            registry.sweep();
            budget.store(2, Ordering::SeqCst);
            hand.advance(Duration::from_secs(5));
            registry.sweep();
            drop(leaked);
            let _ = node.attach(claim(2), 1).map(|attached| attached.session.outbox().try_push(meddler()));
            let _ = node.heartbeat(node.epoch(), Arc::new(meddler()));
            budget.store(2, Ordering::SeqCst);
            node.set_meta(Arc::new(meddler()));
            let _ = node.attach(claim(3), 1);
            hand.advance(Duration::from_secs(60));
            registry.expire();
            drop(node);
            budget.store(2, Ordering::SeqCst);
            registry.remove("n");
            budget.store(0, Ordering::SeqCst);
        }
    });
}

#[test]
fn wakers_that_publish_do_not_deadlock() {
    struct Echo {
        registry: Weak<Registry<Numbers>>,
        echoes: AtomicUsize,
    }
    impl Wake for Echo {
        fn wake(self: Arc<Self>) {
            self.echoes.fetch_add(1, Ordering::SeqCst);
            if let Some(registry) = self.registry.upgrade() {
                let node = registry.get("n").unwrap();
                tell(&registry, &node, 2);
                registry.sweep();
            }
        }
    }
    in_time(|| {
        let (registry, _) = registry();
        let node = add(&registry, "n", "u");
        let echo = Arc::new(Echo { registry: Arc::downgrade(&registry), echoes: AtomicUsize::new(0) });
        let waker = Waker::from(Arc::clone(&echo));
        let mut reader = registry.subscribe(Interest::user(user("u")), SubscribeOptions::default());
        assert!(reader.poll_recv(&mut Context::from_waker(&waker)).is_pending());
        tell(&registry, &node, 1);
        assert_eq!(echo.echoes.load(Ordering::SeqCst), 1, "one wake-up per wait");
        for expected in [1, 2] {
            match reader.poll_recv(&mut Context::from_waker(&waker)) {
                Poll::Ready(Ok(Received::Event(event))) => assert_eq!(event.event, expected),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_closure_that_panics_leaves_the_bus_working() {
    let (registry, _) = registry();
    let node = add(&registry, "n", "u");
    let mut reader = registry.subscribe(Interest::user(user("u")), SubscribeOptions::default());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        registry.publish(&node, |_| -> u64 { panic!("the closure's own fault") })
    }));
    assert!(panicked.is_err());
    tell(&registry, &node, 5);
    assert_eq!(super::drain(&mut reader), [5]);
}

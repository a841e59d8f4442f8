//! Nodes and readers come and go under load, and in the end every event is accounted for.
//!
//! `MUSTER_SOAK_SECONDS` makes it as long as wanted; without it, it is short.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use registry_core::{
    BusConfig, Clock, Closed, Fleet, Interest, OverflowPolicy, Received, Registry, RegistryConfig, Restored,
    SubscribeOptions, Subscription,
};

use super::{DEADLINE, Over, node_id, user};

const NODES: u64 = 40;
const USERS: u64 = 4;
/// The readers' settings are drawn from this, so that all policies meet slow and fast readers.
const CAPACITIES: [usize; 3] = [2, 16, 1024];
/// How far behind those may be who share a log: little enough that they lag.
const SHARED_EVENTS: usize = 16;
/// What the long form is asked for with, in seconds.
const SECONDS: &str = "MUSTER_SOAK_SECONDS";

static MADE: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);

/// An event that counts its life.
struct Counted(u64);

impl Counted {
    fn new(number: u64) -> Self {
        MADE.fetch_add(1, Ordering::Relaxed);
        Self(number)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        FREED.fetch_add(1, Ordering::Relaxed);
    }
}

struct Soaked;

impl Fleet for Soaked {
    type Event = Counted;
    type Command = ();
    type Meta = ();
    type Stats = ();

    fn coalesce(event: &Counted) -> bool {
        event.0.is_multiple_of(3)
    }

    fn keep(event: &Counted) -> bool {
        event.0 % 31 == 1
    }
}

/// What readers were told, all together.
#[derive(Default)]
struct Told {
    handed_out: AtomicU64,
    missed: AtomicU64,
    coalesced: AtomicU64,
    subscribed: AtomicU64,
}

impl Told {
    fn take(&self, received: &Received<Counted>) {
        match received {
            Received::Event(_) => self.handed_out.fetch_add(1, Ordering::Relaxed),
            Received::Lagged { missed } => self.missed.fetch_add(*missed, Ordering::Relaxed),
        };
    }
}

/// A generator that is good enough to mix things up, and the same on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn publish(registry: &Registry<Soaked>, dice: &mut Dice) -> u64 {
    let number = dice.roll(NODES);
    let id = node_id(&format!("n{number}"));
    let owner = user(&format!("u{}", number % USERS));
    if dice.roll(50) == 0 {
        registry.remove(id.as_str());
    }
    let node = registry.register(id, owner, Arc::new(()), Restored::default()).unwrap();
    let mut reached = 0;
    for _ in 0..dice.roll(40) {
        let event = dice.roll(1_000);
        reached += registry.publish(&node, |_| Counted::new(event)) as u64;
    }
    reached
}

fn subscribe(registry: &Registry<Soaked>, dice: &mut Dice) -> Subscription<Counted> {
    let overflow = match dice.roll(8) {
        0 => OverflowPolicy::Close,
        1 => OverflowPolicy::Wait { timeout: Duration::from_micros(200) },
        _ => OverflowPolicy::DropOldest,
    };
    let capacity = Some(CAPACITIES[dice.roll(3) as usize]);
    let options = SubscribeOptions { capacity, grace: Duration::from_millis(20), overflow };
    // Half of them read what others read: a user's ring, or what waits for all who watch a node.
    match dice.roll(4) {
        0 => {
            let shared = SubscribeOptions { capacity: None, overflow: OverflowPolicy::DropOldest, ..options };
            return registry.subscribe(Interest::user(user(&format!("u{}", dice.roll(USERS)))), shared);
        }
        1 => {
            let shared = SubscribeOptions { capacity: None, overflow: OverflowPolicy::DropOldest, ..options };
            return registry.subscribe(Interest::node(node_id(&format!("n{}", dice.roll(NODES)))), shared);
        }
        _ => {}
    }
    let mut node = || node_id(&format!("n{}", dice.roll(NODES)));
    let nodes = vec![node(), node()];
    let users = (0..dice.roll(3)).map(|_| user(&format!("u{}", dice.roll(USERS)))).collect();
    registry.subscribe(Interest { users, nodes }, options)
}

/// Reads for a while, in one of several ways, and leaves in the middle of it.
fn read(registry: &Registry<Soaked>, dice: &mut Dice, told: &Told) {
    let mut reader = subscribe(registry, dice);
    told.subscribed.fetch_add(1, Ordering::Relaxed);
    let mut batch = Vec::new();
    let rounds = dice.roll(60);
    for _ in 0..rounds {
        let ended = match dice.roll(4) {
            0 => {
                thread::yield_now();
                None
            }
            1 => {
                batch.clear();
                let ended = reader.try_recv_many(&mut batch, 64).err();
                batch.iter().for_each(|received| told.take(received));
                ended
            }
            2 => reader
                .recv_timeout(Duration::from_micros(300))
                .map(|next| next.iter().for_each(|r| told.take(r)))
                .err(),
            _ => reader.try_recv().map(|next| next.iter().for_each(|r| told.take(r))).err(),
        };
        match ended {
            Some(Closed::Stagnant { missed } | Closed::Overflowed { missed }) => {
                told.missed.fetch_add(missed, Ordering::Relaxed);
                break;
            }
            Some(other) => panic!("closed too soon: {other}"),
            None => {}
        }
    }
    told.coalesced.fetch_add(reader.coalesced_total(), Ordering::Relaxed);
}

#[test]
fn every_event_is_accounted_for() {
    let length = std::env::var(SECONDS)
        .ok()
        .and_then(|text| text.parse().ok())
        .map_or(Duration::from_millis(700), Duration::from_secs);
    let bus = BusConfig {
        ring_linger: Duration::ZERO,
        ring_events: SHARED_EVENTS,
        queue_events: SHARED_EVENTS,
        ..BusConfig::default()
    };
    let config = RegistryConfig { bus, ..RegistryConfig::default() };
    let registry = Registry::<Soaked>::new(config, Clock::system());
    let (told, over, reached) = (Told::default(), Over::default(), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = over.set_on_drop();
        for seed in 0..3 {
            let (registry, told, over, reached) = (&registry, &told, &over, &reached);
            scope.spawn(move || {
                let mut dice = Dice(seed);
                while !over.is_set() {
                    reached.fetch_add(publish(registry, &mut dice), Ordering::Relaxed);
                }
            });
            scope.spawn(move || {
                let mut dice = Dice(seed + 100);
                while !over.is_set() {
                    read(registry, &mut dice, told);
                }
            });
        }
        let clock = Clock::system();
        while clock.monotonic() < length {
            registry.sweep();
            thread::sleep(Duration::from_millis(5));
        }
    });

    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let stats = registry.bus_stats();
    let handed_out = count(&told.handed_out);
    assert!(
        handed_out > 1_000 && stats.missed_total > 1_000 && stats.coalesced_total > 100,
        "it was a soak: {stats:?}"
    );
    assert!(stats.abandoned_total > 100 && stats.closed_overflowed_total > 0, "of every kind: {stats:?}");
    let accounted = handed_out + stats.missed_total + stats.coalesced_total + stats.abandoned_total;
    assert_eq!(stats.delivered_total, accounted, "{stats:?}");
    let refused = stats.delivered_total - count(&reached);
    assert!(refused <= stats.closed_overflowed_total, "{refused}: {stats:?}");
    assert!(count(&told.missed) <= stats.missed_total && count(&told.coalesced) <= stats.coalesced_total);
    assert_eq!(stats.subscriptions, 0);

    // The rings go with their linger, the places with the sweep; what is left is nothing.
    let clock = Clock::system();
    while registry.bus_stats().rings > 0 || registry.bus_stats().entries > 0 {
        assert!(clock.monotonic() < DEADLINE, "{:?}", registry.bus_stats());
        registry.sweep();
    }
    (0..NODES).for_each(|number| _ = registry.remove(&format!("n{number}")));
    registry.sweep();
    assert_eq!((registry.len(), registry.bus_stats().topics_active), (0, 0));
    assert_eq!(count(&MADE), count(&FREED), "events are freed");
    assert!(format!("{registry:?}").contains("users: 0"), "{registry:?}");
}

//! The live core from outside: sessions, leases, the bus and the dirty set, against models and under threads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bus;
mod dirty;
mod fencing;
mod forget;
mod lag;
mod lease;
mod lists;
mod machine;
mod overflow;
mod prune;
mod reentry;
mod resume;
mod soak;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use registry_core::{
    BusConfig, Claim, Clock, Closed, Fleet, Interest, ManualClock, Node, NodeId, Received, Registry,
    RegistryConfig, Restored, SessionEpoch, SubscribeOptions, Subscription, UserId,
};

/// Longer than anything here takes on a busy machine; reached only by a deadlock or a lost wake-up.
const DEADLINE: Duration = Duration::from_secs(60);

/// Events are numbers, and so is everything else.
struct Numbers;

impl Fleet for Numbers {
    type Event = u64;
    type Command = u64;
    type Meta = u64;
    type Stats = u64;
}

/// Where a reader's events wait: in the log of a user or of a node, which all who read it share, or in one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    User,
    Node,
    Own,
}

const WAYS: [Way; 3] = [Way::User, Way::Node, Way::Own];

impl Way {
    /// A bus on which a reader may be this many events behind.
    fn bus(self, events: usize) -> BusConfig {
        let bus = BusConfig { incarnation: 100, ..BusConfig::default() };
        match self {
            Self::User => BusConfig { ring_events: events, ..bus },
            Self::Node => BusConfig { queue_events: events, ..bus },
            Self::Own => bus,
        }
    }

    fn options(self, events: usize) -> SubscribeOptions {
        let capacity = (self == Self::Own).then_some(events);
        SubscribeOptions { capacity, ..SubscribeOptions::default() }
    }

    /// Node "n" of user "u".
    fn interest(self) -> Interest {
        match self {
            Self::User | Self::Own => Interest::user(user("u")),
            Self::Node => Interest::node(node_id("n")),
        }
    }
}

fn registry() -> (Arc<Registry<Numbers>>, ManualClock) {
    registry_with(BusConfig { incarnation: 100, ..BusConfig::default() })
}

fn registry_with(bus: BusConfig) -> (Arc<Registry<Numbers>>, ManualClock) {
    let (clock, hand) = Clock::manual(1_000_000);
    (Arc::new(Registry::new(RegistryConfig { bus, ..RegistryConfig::default() }, clock)), hand)
}

fn node_id(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

fn user(text: &str) -> UserId {
    UserId::new(text).unwrap()
}

fn add(registry: &Registry<Numbers>, node: &str, owner: &str) -> Arc<Node<Numbers>> {
    registry.register(node_id(node), user(owner), Arc::new(0), Restored::default()).unwrap()
}

fn claim(agent: u8) -> Claim {
    Claim { last_epoch: SessionEpoch(0), boot: registry_core::Boot(1), boot_id: [agent; 16] }
}

/// Publishes a number as the event.
fn tell(registry: &Registry<Numbers>, node: &Node<Numbers>, event: u64) -> usize {
    registry.publish(node, |_| event)
}

/// Everything that waits now, lags and the end left out.
fn drain(subscription: &mut Subscription<u64>) -> Vec<u64> {
    let mut events = Vec::new();
    while let Ok(Some(received)) = subscription.try_recv() {
        if let Received::Event(delivery) = received {
            events.push(delivery.event);
        }
    }
    events
}

/// The next thing, which must come.
fn next(subscription: &mut Subscription<u64>) -> Result<Received<u64>, Closed> {
    subscription.recv_timeout(DEADLINE).map(|received| received.expect("nothing came in time"))
}

/// Says that the test is over, also when an assertion fails first: its other threads end then, and the failure shows.
#[derive(Default)]
struct Over(AtomicBool);

struct OverOnDrop<'a>(&'a Over);

impl Over {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set_on_drop(&self) -> OverOnDrop<'_> {
        OverOnDrop(self)
    }
}

impl Drop for OverOnDrop<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a test body that would hang if it were wrong.
fn in_time(body: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    match wait.recv_timeout(DEADLINE) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => thread.join().unwrap(),
    }
}

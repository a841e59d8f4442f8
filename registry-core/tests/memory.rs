//! What a node costs in memory, everything told, counted at the allocator.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(unsafe_code, reason = "an allocator that counts can be written in no other way")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use registry_core::{
    Boot, Claim, Clock, Fleet, NodeId, Registry, RegistryConfig, Restored, SessionEpoch, UserId,
};

/// Bytes asked for and not given back.
static HELD: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call goes to the system's allocator with the caller's own arguments; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `place` came from `alloc` above with this layout, and so from the system's allocator.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Six labels as pairs of numbers of interned texts: keys and values that a fleet repeats are kept once.
struct Meta {
    _labels: [(u32, u32); 6],
}

/// What a heartbeat says.
struct Stats {
    _figures: [f32; 6],
}

struct Interned;

impl Fleet for Interned {
    type Event = ();
    type Command = ();
    type Meta = Meta;
    type Stats = Stats;
}

#[test]
fn a_node_costs_no_more_than_stated() {
    const NODES: usize = 100_000;
    /// Bytes: on the roll and offline; and with a session, its outbox, its place in the table of leases, and stats.
    const MOST: (usize, usize) = (400, 700);

    let registry = Registry::<Interned>::new(RegistryConfig::default(), Clock::manual(0).0);
    let user = UserId::new("u").unwrap();
    let empty = HELD.load(Ordering::Relaxed);
    let per_node = || (HELD.load(Ordering::Relaxed) - empty) / NODES;
    for number in 0..NODES {
        let id = NodeId::new(&format!("node-{number:06}")).unwrap();
        let meta = Arc::new(Meta { _labels: [(1, 2); 6] });
        registry.register(id, user.clone(), meta, Restored::default()).unwrap();
    }
    let registered = per_node();
    for node in registry.nodes() {
        let claim = Claim { last_epoch: SessionEpoch(0), boot: Boot(1), boot_id: [7; 16] };
        let session = node.attach(claim, 64).unwrap().session;
        node.heartbeat(session.epoch(), Arc::new(Stats { _figures: [0.5; 6] })).unwrap();
    }
    let attached = per_node();
    for node in registry.nodes() {
        node.detach(node.epoch());
    }
    let rested = per_node();
    println!(
        "bytes a node: registered {registered}, attached with stats {attached}, offline with stats {rested}"
    );
    assert!(registered <= MOST.0 && rested <= MOST.0, "registered {registered}, offline with stats {rested}");
    assert!(attached <= MOST.1, "attached {attached}");
}

//! What depends on the processor's memory orderings, which shuttle's schedules do not have: the dirty set's own source
//! under loom, which lets a load see every value that the orderings allow. All executions are visited.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "the library's lints are the library's")]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it reports by printing, and fails by panicking"
)]

// The set's source names this and the two modules below: they stand in for what it is used with.
extern crate self as parking_lot;

#[path = "../src/dirty.rs"]
mod dirty;

use std::sync::{Arc, OnceLock, PoisonError};

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

use crate::dirty::DirtySet;
use crate::node::Node;

mod fleet {
    /// Nothing of a fleet matters here.
    pub trait Fleet: 'static {}
}

mod node {
    use std::marker::PhantomData;

    use loom::sync::atomic::{AtomicBool, AtomicU64};

    /// The mark, and a change that it is the mark of.
    pub struct Node<F> {
        pub dirty: AtomicBool,
        pub change: AtomicU64,
        pub fleet: PhantomData<F>,
    }
}

struct Any;

impl fleet::Fleet for Any {}

/// `parking_lot::Mutex` over loom's. Loom's cannot be made in a constant, so it is made at its first use.
pub struct Mutex<T> {
    start: std::sync::Mutex<Option<T>>,
    inner: OnceLock<loom::sync::Mutex<T>>,
}

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Self { start: std::sync::Mutex::new(Some(value)), inner: OnceLock::new() }
    }

    pub fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        let start = || self.start.lock().unwrap_or_else(PoisonError::into_inner).take().expect("taken once");
        self.inner.get_or_init(|| loom::sync::Mutex::new(start())).lock().unwrap()
    }
}

fn main() {
    print!("model orderings/a_change_is_in_the_flush_it_races_or_in_the_next ... ");
    loom::model(changes_reach_a_flush);
    println!("ok");
}

/// The change is written with the weakest store there is: only the mark's own ordering brings it to the flusher. The
/// node is marked already, so that the writer's mark races the flusher's taking of it.
fn changes_reach_a_flush() {
    let node = Arc::new(Node::<Any> {
        dirty: AtomicBool::new(false),
        change: AtomicU64::new(0),
        fleet: std::marker::PhantomData,
    });
    let set = Arc::new(DirtySet::<Any>::new());
    set.mark(&node);
    let writer = thread::spawn({
        let (set, node) = (Arc::clone(&set), Arc::clone(&node));
        move || {
            node.change.store(1, Ordering::Relaxed);
            set.mark(&node);
        }
    });
    let flush = |set: &DirtySet<Any>| set.take().iter().map(|node| node.change.load(Ordering::Relaxed)).max();
    let raced = flush(&set);
    writer.join().unwrap();
    let later = flush(&set);
    assert!(raced == Some(1) || later == Some(1), "lost: {raced:?}, then {later:?}");
}

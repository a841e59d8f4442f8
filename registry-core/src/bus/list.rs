//! The subscribers of one topic: weak references, sorted by subscription, pruned as they die.

use std::cmp::Ordering as Order;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::queue::{End, Outcome, Queue};
use super::{After, Counters, Delivery, Shared};

/// Who watches one topic.
pub(super) struct List<E> {
    /// Sorted by id, so that two lists merge and a subscriber of both is served once.
    entries: Vec<Entry<E>>,
}

struct Entry<E> {
    id: u64,
    queue: Weak<Queue<E>>,
}

/// What one event met on its way through the lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reach {
    /// How many queues took it.
    reached: usize,
    /// How many entries of the first list turned out dead.
    first_dead: usize,
    /// How many of the second.
    second_dead: usize,
}

impl<E> List<E> {
    pub(super) const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a subscriber, unless it is there.
    pub(super) fn add(&mut self, queue: &Arc<Queue<E>>, counters: &Counters) {
        if let Err(at) = self.entries.binary_search_by_key(&queue.id(), |entry| entry.id) {
            self.entries.insert(at, Entry { id: queue.id(), queue: Arc::downgrade(queue) });
            counters.entries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Visits all: frees the dead, closes the stagnant. How many were freed, and closed.
    pub(super) fn sweep(&mut self, shared: &Shared, after: &mut After<E>) -> (usize, usize) {
        let mut closed = 0;
        let pruned = self.retain(shared, |queue| match queue.check(&shared.clock, after) {
            Outcome::Alive => true,
            Outcome::Dead => false,
            Outcome::ClosedStagnant => {
                closed += 1;
                false
            }
        });
        (pruned, closed)
    }

    /// Closes all.
    pub(super) fn close(&mut self, shared: &Shared, after: &mut After<E>) {
        self.retain(shared, |queue| {
            queue.close(End::Shutdown, after);
            false
        });
    }

    /// Rebuilds the list when at least half of it is dead: the work is paid for by the entries that it frees.
    fn prune(&mut self, dead: usize, shared: &Shared) {
        if dead > 0 && dead * 2 >= self.entries.len() {
            self.retain(shared, Queue::is_open);
        }
    }

    fn retain(&mut self, shared: &Shared, mut keep: impl FnMut(&Queue<E>) -> bool) -> usize {
        let before = self.entries.len();
        // A handle upgraded here may be the last: its queue is closed and empty then, and only memory is freed.
        self.entries.retain(|entry| entry.queue.upgrade().is_some_and(|queue| keep(&queue)));
        let pruned = before - self.entries.len();
        if pruned > 0 {
            shared.counters.entries.fetch_sub(pruned, Ordering::Relaxed);
            shared.counters.pruned.fetch_add(pruned as u64, Ordering::Relaxed);
            if self.entries.len() * 4 <= self.entries.capacity() {
                self.entries.shrink_to_fit();
            }
        }
        pruned
    }
}

/// Hands one event to everybody on either list, to each once, and prunes. Returns how many took it.
pub(super) fn deliver<E>(
    first: &mut List<E>,
    second: Option<&mut List<E>>,
    delivery: &Delivery<E>,
    shared: &Shared,
    after: &mut After<E>,
) -> usize {
    let reach = match &second {
        Some(second) => merge(&first.entries, &second.entries, delivery, shared, after),
        None => merge(&first.entries, &[], delivery, shared, after),
    };
    first.prune(reach.first_dead, shared);
    if let Some(second) = second {
        second.prune(reach.second_dead, shared);
    }
    shared.counters.delivered.fetch_add(reach.reached as u64, Ordering::Relaxed);
    reach.reached
}

fn merge<E>(
    mut first: &[Entry<E>],
    mut second: &[Entry<E>],
    delivery: &Delivery<E>,
    shared: &Shared,
    after: &mut After<E>,
) -> Reach {
    let mut reach = Reach::default();
    loop {
        let order = match (first.first(), second.first()) {
            (Some(a), Some(b)) => a.id.cmp(&b.id),
            (Some(_), None) => Order::Less,
            (None, Some(_)) => Order::Greater,
            (None, None) => return reach,
        };
        let entry = if order == Order::Greater { &second[0] } else { &first[0] };
        let alive = entry
            .queue
            .upgrade()
            .is_some_and(|queue| queue.push(delivery, &shared.clock, after) == Outcome::Alive);
        reach.reached += usize::from(alive);
        if order != Order::Greater {
            reach.first_dead += usize::from(!alive);
            first = &first[1..];
        }
        if order != Order::Less {
            reach.second_dead += usize::from(!alive);
            second = &second[1..];
        }
    }
}

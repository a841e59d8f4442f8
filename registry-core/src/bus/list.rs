//! Who follows one topic with a feed of their own: weak references, sorted by subscription, pruned as they die.

use std::cmp::Ordering as Order;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::feed::{Feed, Outcome};
use super::{After, Counters, Delivery, Shared};

/// The followers of one topic.
pub(super) struct List<E> {
    /// Sorted by id, so that two lists merge and a follower of both is served once.
    entries: Vec<Entry<E>>,
}

struct Entry<E> {
    id: u64,
    feed: Weak<Feed<E>>,
}

/// What one event met on its way through the lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reach {
    /// How many feeds took it.
    reached: usize,
    /// How many were closed over it.
    refused: usize,
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

    /// Adds a follower, unless it is there.
    pub(super) fn add(&mut self, feed: &Arc<Feed<E>>, counters: &Counters) {
        if let Err(at) = self.entries.binary_search_by_key(&feed.id(), |entry| entry.id) {
            self.entries.insert(at, Entry { id: feed.id(), feed: Arc::downgrade(feed) });
            counters.entries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Visits all: frees the dead, ends the stagnant. How many were freed, and ended.
    pub(super) fn sweep(&mut self, now_ms: u64, shared: &Shared, after: &mut After<E>) -> (usize, usize) {
        let mut ended = 0;
        let pruned = self.retain(shared, |feed| {
            ended += feed.sweep(now_ms, after);
            feed.is_open()
        });
        (pruned, ended)
    }

    /// Closes all.
    pub(super) fn close(&mut self, shared: &Shared, after: &mut After<E>) {
        self.retain(shared, |feed| {
            feed.close(after);
            false
        });
    }

    /// The feeds whose readers are waited for.
    pub(super) fn patient(&self) -> Vec<Arc<Feed<E>>> {
        self.entries
            .iter()
            .filter_map(|entry| entry.feed.upgrade())
            .filter(|feed| feed.is_patient())
            .collect()
    }

    /// Rebuilds the list when at least half of it is dead: the work is paid for by the entries that it frees.
    fn prune(&mut self, dead: usize, shared: &Shared) {
        if dead > 0 && dead * 2 >= self.entries.len() {
            self.retain(shared, Feed::is_open);
        }
    }

    fn retain(&mut self, shared: &Shared, mut keep: impl FnMut(&Feed<E>) -> bool) -> usize {
        let before = self.entries.len();
        // A handle upgraded here may be the last: its feed was emptied by its reader, and only memory is freed.
        self.entries.retain(|entry| entry.feed.upgrade().is_some_and(|feed| keep(&feed)));
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
    let others: &[Entry<E>] = second.as_ref().map_or(&[], |second| &second.entries);
    if first.entries.is_empty() && others.is_empty() {
        return 0;
    }
    let reach = merge(&first.entries, others, delivery, after);
    first.prune(reach.first_dead, shared);
    if let Some(second) = second {
        second.prune(reach.second_dead, shared);
    }
    if reach.refused > 0 {
        shared.counters.delivered.fetch_add(reach.refused as u64, Ordering::Relaxed);
    }
    reach.reached
}

fn merge<E>(
    mut first: &[Entry<E>],
    mut second: &[Entry<E>],
    delivery: &Delivery<E>,
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
        let outcome = entry.feed.upgrade().map_or(Outcome::Dead, |feed| feed.follow(delivery, after));
        let alive = outcome == Outcome::Alive;
        reach.reached += usize::from(alive);
        reach.refused += usize::from(outcome == Outcome::Closed);
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

//! A user's latest events, kept so that a reader that was cut off for a moment misses none.

use std::collections::VecDeque;

use super::{After, Delivery};

/// The newest events of one user, bounded by count and bytes. Positions in it have no holes.
pub(super) struct Ring<E> {
    events: VecDeque<Delivery<E>>,
    /// The position before the first event held: the earliest that can be resumed from.
    start: u64,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl<E> Ring<E> {
    /// An empty ring whose first event will be the one after `start`.
    pub(super) const fn new(start: u64, max_events: usize, max_bytes: usize) -> Self {
        Self { events: VecDeque::new(), start, bytes: 0, max_events, max_bytes }
    }

    /// Adds the event at the next position, over the oldest ones.
    pub(super) fn push(&mut self, delivery: Delivery<E>, after: &mut After<E>) {
        self.bytes = self.bytes.saturating_add(delivery.bytes);
        self.events.push_back(delivery);
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(oldest.bytes);
            self.start = oldest.position;
            after.waste.push(oldest);
        }
    }

    /// The events after `position`; `None` when some of them are gone.
    pub(super) fn after(&self, position: u64) -> Option<VecDeque<Delivery<E>>> {
        let skip = usize::try_from(position.checked_sub(self.start)?).ok()?;
        (skip <= self.events.len()).then(|| self.events.range(skip..).cloned().collect())
    }

    /// Gives up all events.
    pub(super) fn into_waste(self, after: &mut After<E>) {
        after.waste.extend(self.events);
    }
}

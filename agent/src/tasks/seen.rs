//! The task ids of this boot: the hub repeats a RunTask when it is not sure, and a command must not run twice.

use std::collections::{HashSet, VecDeque};

use registry_core::TaskId;

/// How many ids are remembered: at ten tasks a second almost two hours, far longer than a hub repeats anything.
/// About 3 MiB when full.
const REMEMBERED_IDS: usize = 65_536;

/// The newest ids.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ids: HashSet<TaskId>,
    order: VecDeque<TaskId>,
}

impl Seen {
    /// Remembers an id; false when it was already known.
    pub(super) fn insert(&mut self, id: TaskId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }

    /// Whether an id is known.
    pub(super) fn contains(&self, id: TaskId) -> bool {
        self.ids.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> TaskId {
        TaskId::from_slice(&u128::try_from(n).unwrap().to_be_bytes()).unwrap()
    }

    #[test]
    fn the_newest_are_remembered_and_no_more() {
        let mut seen = Seen::default();
        for n in 0..=REMEMBERED_IDS {
            assert!(seen.insert(id(n)));
        }
        assert!(!seen.insert(id(1)) && seen.contains(id(1)));
        assert!(!seen.contains(id(0)));
        assert_eq!(seen.ids.len(), REMEMBERED_IDS);
    }
}

//! What may happen, and how often.

use std::time::Duration;

use proptest::prelude::*;
use registry_core::{OverflowPolicy, SubscribeOptions};

use super::fleet;
use super::model::Class;
use super::{NODES, USERS};

#[derive(Clone, Debug)]
pub(super) enum Step {
    Fleet(fleet::Step),
    Publish {
        node: usize,
        class: Class,
    },
    Subscribe {
        users: Vec<usize>,
        nodes: Vec<usize>,
        with: With,
    },
    Watch {
        user: usize,
        with: With,
    },
    /// From one of the positions seen so far, moved by this much.
    Resume {
        user: usize,
        seen: usize,
        ahead: u64,
        back: u64,
        with: With,
    },
    Read {
        reader: usize,
        times: usize,
    },
    Leave {
        reader: usize,
    },
    Sweep,
}

/// A subscription's settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct With {
    pub(super) capacity: Option<usize>,
    pub(super) closes: bool,
    pub(super) grace_s: u64,
}

impl With {
    pub(super) fn options(self) -> SubscribeOptions {
        let overflow = if self.closes { OverflowPolicy::Close } else { OverflowPolicy::DropOldest };
        SubscribeOptions { capacity: self.capacity, grace: Duration::from_secs(self.grace_s), overflow }
    }

    pub(super) fn shares(self) -> bool {
        self.capacity.is_none() && !self.closes
    }
}

pub(super) fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    let with = (
        prop_oneof![2 => Just(None), 1 => (1..6_usize).prop_map(Some)],
        prop::bool::weighted(0.15),
        1..100_u64,
    )
        .prop_map(|(capacity, closes, grace_s)| With { capacity, closes, grace_s });
    let some = |of: usize| prop::collection::vec(0..of, 0..3);
    let class = prop_oneof![2 => Just(Class::Plain), 2 => Just(Class::State), 1 => Just(Class::Kept)];
    let step = prop_oneof![
        12 => fleet::step().prop_map(Step::Fleet),
        14 => (0..NODES, class).prop_map(|(node, class)| Step::Publish { node, class }),
        3 => (some(USERS), some(NODES), with.clone())
            .prop_map(|(users, nodes, with)| Step::Subscribe { users, nodes, with }),
        1 => (0..USERS, with.clone()).prop_map(|(user, with)| Step::Watch { user, with }),
        2 => (0..USERS, any::<usize>(), 0..3_u64, 0..10_u64, with)
            .prop_map(|(user, seen, ahead, back, with)| Step::Resume { user, seen, ahead: ahead / 2, back: back / 2, with }),
        8 => (0..12_usize, 1..12_usize).prop_map(|(reader, times)| Step::Read { reader, times }),
        2 => (0..12_usize).prop_map(|reader| Step::Leave { reader }),
        3 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 1..count)
}

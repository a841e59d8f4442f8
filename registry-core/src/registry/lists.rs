//! Lists of nodes: all of them, a user's, and pages by labels and presence; in batches, so that nobody waits for a list.

use std::collections::BinaryHeap;
use std::sync::Arc;

use super::Registry;
use super::roll::{ById, UserRoll};
use crate::fleet::Fleet;
use crate::id::{NodeId, UserId};
use crate::node::Node;
use crate::selector::Selector;

/// The most nodes on one page.
pub const MAX_PAGE: usize = 10_000;

/// The most nodes that one page looks at: a selector that few nodes meet makes short pages, not long calls.
pub const MAX_PAGE_SCAN: usize = 65_536;

/// How many nodes are copied at once while a user's roll is locked to read: some ten microseconds.
const BATCH: usize = 512;

/// From how many nodes a user on, on average, all nodes are listed roll by roll. Rolls lie in order and are read beside
/// others, which is worth a lookup per roll only if the rolls are long.
const LONG_ROLL: usize = 64;

/// Which nodes a page is to show. The default asks for all, [`MAX_PAGE`] at a time.
#[derive(Clone, Debug, Default)]
pub struct PageQuery<'a> {
    /// Only this user's nodes.
    pub user: Option<&'a UserId>,
    /// Only nodes whose labels, as [`Fleet::label`] tells them, meet this.
    pub selector: Option<&'a Selector>,
    /// Only nodes that are online, or only nodes that are not.
    pub online: Option<bool>,
    /// Only nodes behind this id: the [`next`](Page::next) of the page before. It need not be on the roll any more.
    pub after: Option<NodeId>,
    /// The most nodes on the page; 0 for [`MAX_PAGE`], which is also the highest.
    pub limit: usize,
}

/// Some nodes, ordered by id.
pub struct Page<F: Fleet> {
    /// The nodes. They can be fewer than the limit, even none, on a page that is not the last.
    pub nodes: Vec<Arc<Node<F>>>,
    /// Where the next page starts; `None` on the last.
    pub next: Option<NodeId>,
}

impl<F: Fleet> Registry<F> {
    /// All nodes, in no order. A snapshot in parts: a node that comes or goes meanwhile may be in it or not.
    ///
    /// O(n), one pointer copied a node. Long rolls are locked to read, for a batch at a time; where users have few nodes
    /// each, shards of the map are locked one by one, each for its own part: a thousand nodes of a million.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<Node<F>>> {
        let expected = self.nodes.len();
        let mut nodes = Vec::with_capacity(expected + expected / 16 + BATCH);
        if self.users.len().saturating_mul(LONG_ROLL) <= expected {
            let rolls: Vec<_> = self.users.iter().map(|roll| Arc::clone(roll.value())).collect();
            rolls.iter().for_each(|roll| roll.copy_into(&mut nodes));
        } else {
            self.nodes.copy_into(&mut nodes);
        }
        nodes
    }

    /// The nodes of one user, ordered by id, however many other users there are. In batches: a node that comes or goes
    /// meanwhile may be in it or not. O(k), one pointer copied a node.
    #[must_use]
    pub fn nodes_of(&self, user: &UserId) -> Vec<Arc<Node<F>>> {
        let roll = self.users.get(user).map(|roll| Arc::clone(roll.value()));
        let mut nodes = Vec::new();
        if let Some(roll) = roll {
            nodes.reserve(roll.len() + BATCH);
            roll.copy_into(&mut nodes);
        }
        nodes
    }

    /// The users that have nodes, in no order.
    #[must_use]
    pub fn users(&self) -> Vec<UserId> {
        self.users.iter().filter(|roll| !roll.value().is_empty()).map(|roll| roll.key().clone()).collect()
    }

    /// One page of nodes, ordered by id. A node that is on the roll throughout is on exactly one of the pages that follow
    /// one another, and one that comes or goes meanwhile on one or none.
    ///
    /// Labels and presence are looked at under no lock. O(log k + nodes looked at) for one user's nodes; for all users'
    /// O(users) more for each batch. Looks at no more than [`MAX_PAGE_SCAN`] nodes.
    #[must_use]
    pub fn page(&self, query: &PageQuery<'_>) -> Page<F> {
        let limit = if query.limit == 0 { MAX_PAGE } else { query.limit.min(MAX_PAGE) };
        let rolls: Vec<Arc<UserRoll<F>>> = match query.user {
            Some(user) => self.users.get(user).map(|roll| Arc::clone(roll.value())).into_iter().collect(),
            None => self.users.iter().map(|roll| Arc::clone(roll.value())).collect(),
        };
        let mut nodes = Vec::new();
        let mut last = query.after.clone();
        let mut looked_at = 0;
        while looked_at < MAX_PAGE_SCAN {
            let batch = first_after(&rolls, last.as_ref(), BATCH);
            let is_last = batch.len() < BATCH;
            looked_at += batch.len();
            for node in batch {
                if nodes.len() == limit {
                    return Page { nodes, next: last };
                }
                last = Some(node.id().clone());
                if query.admits(&node) {
                    nodes.push(node);
                }
            }
            if is_last {
                return Page { nodes, next: None };
            }
        }
        Page { nodes, next: last }
    }
}

impl PageQuery<'_> {
    fn admits<F: Fleet>(&self, node: &Node<F>) -> bool {
        if self.online.is_some_and(|online| online != node.is_online()) {
            return false;
        }
        let Some(selector) = self.selector.filter(|selector| !selector.selects_all()) else { return true };
        let meta = node.meta();
        selector.matches_by(|key| F::label(&meta, key))
    }
}

/// The first nodes behind an id, of all these rolls together.
fn first_after<F: Fleet>(
    rolls: &[Arc<UserRoll<F>>],
    after: Option<&NodeId>,
    count: usize,
) -> Vec<Arc<Node<F>>> {
    let mut batch = Vec::with_capacity(count);
    if let [roll] = rolls {
        roll.after(after, count, &mut batch);
        return batch;
    }
    // The highest on top, to give way to lower ones of the rolls that follow.
    let mut first: BinaryHeap<ById<F>> = BinaryHeap::with_capacity(count + 1);
    for roll in rolls {
        roll.after_below(
            after,
            first.peek().filter(|_| first.len() == count).map(ById::id),
            count,
            &mut batch,
        );
        for node in batch.drain(..) {
            first.push(ById(node));
            if first.len() > count {
                first.pop();
            }
        }
    }
    first.into_sorted_vec().into_iter().map(|node| node.0).collect()
}

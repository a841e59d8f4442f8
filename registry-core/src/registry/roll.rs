//! One user's part of the roll: the nodes in order, and the topic that tells about them.

use std::cmp::Ordering;
use std::hint::black_box;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::bus::{Shared, UserTopic};
use crate::fleet::Fleet;
use crate::id::NodeId;
use crate::node::Node;

/// How many nodes lie side by side at most: what is moved for one that comes or goes (4 KiB), and what is copied under
/// one lock, some ten microseconds.
pub(super) const RUN: usize = 512;

/// What the registry keeps per user, while there is a node, a subscriber or a ring.
pub(super) struct UserRoll<F: Fleet> {
    nodes: RwLock<Ordered<F>>,
    topic: Arc<UserTopic<F::Event>>,
}

/// Handles ordered by id, in runs: a tree of one level. Eight bytes a node while they come in order, half as much again
/// when they come in none; a walk reads them one beside the other.
struct Ordered<F: Fleet> {
    /// None is empty.
    runs: Vec<Vec<Arc<Node<F>>>>,
    len: usize,
}

/// A node that is ordered by its id. A pointer: the id is the node's own.
pub(super) struct ById<F: Fleet>(pub(super) Arc<Node<F>>);

impl<F: Fleet> UserRoll<F> {
    pub(super) fn new(shared: &Shared) -> Arc<Self> {
        let nodes = RwLock::new(Ordered { runs: Vec::new(), len: 0 });
        Arc::new(Self { nodes, topic: Arc::new(UserTopic::new(shared)) })
    }

    pub(super) const fn topic(&self) -> &Arc<UserTopic<F::Event>> {
        &self.topic
    }

    pub(super) fn insert(&self, node: Arc<Node<F>>) {
        self.nodes.write().insert(node);
    }

    /// The caller holds another handle on the node, so that no payload falls under the lock.
    pub(super) fn remove(&self, id: &NodeId) {
        self.nodes.write().remove(id);
    }

    /// Copies the whole roll, run by run.
    pub(super) fn copy_into(&self, into: &mut Vec<Arc<Node<F>>>) {
        let mut next = 0;
        let mut last: Option<NodeId> = None;
        loop {
            into.reserve(RUN);
            let nodes = self.nodes.read();
            let run = match &last {
                None => nodes.runs.first().map(Vec::as_slice),
                // Where it was left, unless what lies before moved meanwhile.
                Some(last) => match nodes.runs.get(next - 1).and_then(|run| run.last()) {
                    Some(node) if node.id() == last => nodes.runs.get(next).map(Vec::as_slice),
                    _ => {
                        let (run, at) = nodes.behind(last);
                        next = run;
                        nodes.runs.get(run).map(|run| &run[at..])
                    }
                },
            };
            let Some(run) = run else { return };
            next += 1;
            last = run.last().map(|node| node.id().clone());
            copy(run, into);
        }
    }

    /// Copies the first nodes behind an id.
    pub(super) fn after(&self, after: Option<&NodeId>, count: usize, into: &mut Vec<Arc<Node<F>>>) {
        self.after_below(after, None, count, into);
    }

    /// Copies the first nodes between two ids.
    pub(super) fn after_below(
        &self,
        after: Option<&NodeId>,
        below: Option<&NodeId>,
        count: usize,
        into: &mut Vec<Arc<Node<F>>>,
    ) {
        into.reserve(count);
        let mut wanted = count;
        let nodes = self.nodes.read();
        let (first, mut at) = after.map_or((0, 0), |after| nodes.behind(after));
        for run in nodes.runs.iter().skip(first) {
            let run = &run[at..];
            at = 0;
            let run = &run[..run.len().min(wanted)];
            let end = below.map_or(run.len(), |below| run.partition_point(|node| node.id() < below));
            copy(&run[..end], into);
            wanted -= end;
            if wanted == 0 || end < run.len() {
                return;
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.read().len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_empty() && self.topic.is_idle()
    }
}

/// Copies handles under a lock.
fn copy<F: Fleet>(run: &[Arc<Node<F>>], into: &mut Vec<Arc<Node<F>>>) {
    // A look at each node first: the processor fetches many at once, but counts references one by one.
    black_box(run.iter().fold(0_usize, |sum, node| sum.wrapping_add(Arc::strong_count(node))));
    into.extend_from_slice(run);
}

impl<F: Fleet> Ordered<F> {
    fn insert(&mut self, node: Arc<Node<F>>) {
        let (mut run, mut at) = self.behind(node.id());
        if run == self.runs.len() {
            // Behind all: a new run when the last is full, and not two halves, because ids that come in order go on so.
            match self.runs.last() {
                Some(last) if last.len() < RUN => (run, at) = (run - 1, last.len()),
                _ => self.runs.push(Vec::new()),
            }
        } else if self.runs[run].len() == RUN {
            let upper = self.runs[run].split_off(RUN / 2);
            self.runs.insert(run + 1, upper);
            if at > RUN / 2 {
                (run, at) = (run + 1, at - RUN / 2);
            }
        }
        self.runs[run].insert(at, node);
        self.len += 1;
    }

    fn remove(&mut self, id: &NodeId) {
        let run = self.runs.partition_point(|run| run.last().is_some_and(|last| last.id() < id));
        let Some(nodes) = self.runs.get_mut(run) else { return };
        let Ok(at) = nodes.binary_search_by(|node| node.id().cmp(id)) else { return };
        nodes.remove(at);
        self.len -= 1;
        if nodes.is_empty() {
            self.runs.remove(run);
        } else if nodes.len() <= RUN / 4 {
            self.make_smaller(run);
        }
    }

    /// Joins a short run with the one behind it, if that makes no long one; memory follows the nodes that are there.
    fn make_smaller(&mut self, run: usize) {
        if self.runs.get(run + 1).is_some_and(|next| next.len() <= RUN / 4) {
            let next = self.runs.remove(run + 1);
            self.runs[run].extend(next);
        }
        let nodes = &mut self.runs[run];
        if nodes.len() * 4 <= nodes.capacity() {
            nodes.shrink_to(nodes.len() * 2);
        }
    }

    /// Where the first node behind an id is: its run and its place there, or the number of runs when there is none.
    fn behind(&self, id: &NodeId) -> (usize, usize) {
        let run = self.runs.partition_point(|run| run.last().is_some_and(|last| last.id() <= id));
        (run, self.runs.get(run).map_or(0, |nodes| nodes.partition_point(|node| node.id() <= id)))
    }
}

impl<F: Fleet> ById<F> {
    pub(super) fn id(&self) -> &NodeId {
        self.0.id()
    }
}

impl<F: Fleet> PartialEq for ById<F> {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl<F: Fleet> Eq for ById<F> {}

impl<F: Fleet> PartialOrd for ById<F> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<F: Fleet> Ord for ById<F> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id().cmp(other.id())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use super::*;
    use crate::{Clock, Registry, RegistryConfig, Restored, UserId};

    struct Plain;

    impl Fleet for Plain {
        type Event = ();
        type Command = ();
        type Meta = ();
        type Stats = ();
    }

    fn nodes(count: usize) -> Vec<Arc<Node<Plain>>> {
        let registry = Registry::<Plain>::new(RegistryConfig::default(), Clock::manual(0).0);
        let add = |number| {
            let (id, user) = (NodeId::new(&format!("n{number:05}")).unwrap(), UserId::new("u").unwrap());
            registry.register(id, user, Arc::new(()), Restored::default()).unwrap()
        };
        (0..count).map(add).collect()
    }

    fn empty() -> Ordered<Plain> {
        Ordered { runs: Vec::new(), len: 0 }
    }

    /// Everything that must hold between two calls.
    fn check(ordered: &Ordered<Plain>, model: &BTreeMap<NodeId, Arc<Node<Plain>>>) {
        assert!(ordered.runs.iter().all(|run| !run.is_empty() && run.len() <= RUN));
        assert_eq!(ordered.len, model.len());
        let shown = ordered.runs.iter().flatten().map(Arc::as_ptr);
        assert!(shown.eq(model.values().map(Arc::as_ptr)));
    }

    #[test]
    fn runs_behave_as_a_sorted_map() {
        const NODES: usize = 4_000;
        let (nodes, mut ordered, mut model) = (nodes(NODES), empty(), BTreeMap::new());
        // More come than go, then the other way round.
        for step in 0..6 * NODES {
            let node = &nodes[step.wrapping_mul(2_654_435_761) % NODES];
            let goes = if step < 3 * NODES { step % 3 == 0 } else { step % 3 != 0 };
            match (goes, model.contains_key(node.id())) {
                (true, known) => {
                    ordered.remove(node.id());
                    assert_eq!(model.remove(node.id()).is_some(), known);
                }
                (false, false) => {
                    ordered.insert(Arc::clone(node));
                    model.insert(node.id().clone(), Arc::clone(node));
                }
                (false, true) => {}
            }
            let behind = model.range::<NodeId, _>((Bound::Excluded(node.id()), Bound::Unbounded));
            let (run, at) = ordered.behind(node.id());
            let found = ordered.runs.get(run).map(|run| Arc::as_ptr(&run[at]));
            assert_eq!(found, behind.map(|(_, node)| Arc::as_ptr(node)).next());
            if step % 97 == 0 {
                check(&ordered, &model);
            }
        }
        check(&ordered, &model);
    }

    #[test]
    fn a_full_run_takes_a_node_at_every_place() {
        let nodes = nodes(RUN + 2);
        let model: BTreeMap<_, _> = nodes.iter().map(|node| (node.id().clone(), Arc::clone(node))).collect();
        for late in 0..=RUN {
            let mut ordered = empty();
            let others = nodes.iter().enumerate().filter(|(at, _)| *at != late);
            others.for_each(|(_, node)| ordered.insert(Arc::clone(node)));
            assert_eq!(ordered.runs[0].len(), RUN);
            ordered.insert(Arc::clone(&nodes[late]));
            check(&ordered, &model);
        }
    }

    #[test]
    fn memory_follows_the_nodes() {
        const NODES: usize = 20 * RUN;
        let (nodes, mut ordered) = (nodes(NODES), empty());
        nodes.iter().for_each(|node| ordered.insert(Arc::clone(node)));
        assert_eq!(ordered.runs.len(), NODES / RUN, "ids that come in order leave no gaps");
        // One of 64 stays.
        nodes
            .iter()
            .enumerate()
            .filter(|(at, _)| at % 64 != 0)
            .for_each(|(_, node)| ordered.remove(node.id()));
        let places: usize = ordered.runs.iter().map(Vec::capacity).sum();
        assert!(places <= 8 * ordered.len, "{places} places for {} nodes", ordered.len);
        nodes.iter().for_each(|node| ordered.remove(node.id()));
        assert!(ordered.runs.is_empty());
    }
}

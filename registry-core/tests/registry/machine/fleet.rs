//! The naive roll: who is registered, who holds which node, and who was silent for too long.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use registry_core::{
    AttachError, Boot, Claim, CloseReason, Fenced, ManualClock, Node, RegisterError, Registry, Restored,
    Session, SessionEpoch,
};

use super::{Machine, NODES, USERS};
use crate::{node_id, user};

pub(super) const LEASE_MS: u64 = 15_000;

/// How late a sweep of leases may be before it counts as the hub's own pause.
const EXPECTED_MS: u64 = LEASE_MS / 3;

/// How many pauses the core tells apart.
const MAX_PAUSES: usize = 16;

/// Where the revs of nodes go on that come after a removed one.
const REMOVED_REV_LEAD: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Register { node: usize, by_owner: bool },
    Remove { node: usize },
    Attach { handle: usize, agent: u8, last_epoch: u64 },
    Detach { session: usize },
    Heartbeat { session: usize, stats: Option<u64> },
    MarkDirty { handle: usize },
    TakeDirty,
    Wait { ms: u64 },
    Expire,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    // Honest, ahead, and out of all reason.
    let epoch = prop_oneof![6 => 0..40_u64, 1 => Just(1 << 40)];
    prop_oneof![
        4 => (0..NODES, prop::bool::weighted(0.9)).prop_map(|(node, by_owner)| Step::Register { node, by_owner }),
        1 => (0..NODES).prop_map(|node| Step::Remove { node }),
        3 => (0..8_usize, 0..4_u8, epoch).prop_map(|(handle, agent, last_epoch)| Step::Attach { handle, agent, last_epoch }),
        2 => (0..12_usize).prop_map(|session| Step::Detach { session }),
        3 => (0..12_usize, any::<Option<u64>>()).prop_map(|(session, stats)| Step::Heartbeat { session, stats }),
        1 => (0..8_usize).prop_map(|handle| Step::MarkDirty { handle }),
        1 => Just(Step::TakeDirty),
        3 => (0..20_000_u64).prop_map(|ms| Step::Wait { ms }),
        2 => Just(Step::Expire),
    ]
}

/// A node, on the roll or removed.
struct Handle {
    node: Arc<Node<Machine>>,
    index: usize,
    is_removed: bool,
    highest: u64,
    holder: Option<usize>,
    stats: Option<u64>,
    seen_ms: u64,
}

struct Held {
    session: Arc<Session<Machine>>,
    handle: usize,
    end: Option<CloseReason>,
}

#[derive(Default)]
pub(super) struct FleetModel {
    pub(super) now_ms: u64,
    handles: Vec<Handle>,
    sessions: Vec<Held>,
    dirty: BTreeSet<usize>,
    rev_floor: u64,
    last_sweep_ms: Option<u64>,
    /// When late sweeps came, and by how much they were late.
    pauses: Vec<(u64, u64)>,
}

impl FleetModel {
    pub(super) fn on_roll(&self, index: usize) -> Option<Arc<Node<Machine>>> {
        let found = self.handles.iter().find(|handle| handle.index == index && !handle.is_removed)?;
        Some(Arc::clone(&found.node))
    }

    /// Plays a step; the node that it removed.
    pub(super) fn play(
        &mut self,
        registry: &Registry<Machine>,
        hand: &ManualClock,
        step: &Step,
    ) -> Option<(Arc<Node<Machine>>, usize)> {
        match *step {
            Step::Register { node, by_owner } => self.register(registry, node, by_owner),
            Step::Remove { node } => return self.remove(registry, node),
            Step::Attach { handle, agent, last_epoch } if !self.handles.is_empty() => {
                self.attach(handle % self.handles.len(), agent, last_epoch);
            }
            Step::Detach { session } if !self.sessions.is_empty() => {
                let session = session % self.sessions.len();
                let handle = self.sessions[session].handle;
                let holds = self.handles[handle].holder == Some(session);
                let epoch = self.sessions[session].session.epoch();
                assert_eq!(self.handles[handle].node.detach(epoch), holds);
                if holds {
                    self.end(handle, CloseReason::Left);
                }
            }
            Step::Heartbeat { session, stats } if !self.sessions.is_empty() => {
                self.heartbeat(session % self.sessions.len(), stats);
            }
            Step::MarkDirty { handle } if !self.handles.is_empty() => {
                let handle = handle % self.handles.len();
                registry.mark_dirty(&self.handles[handle].node);
                self.dirty.insert(handle);
            }
            Step::TakeDirty => {
                let taken = registry.take_dirty();
                let position = |node: &Arc<Node<Machine>>| {
                    self.handles.iter().position(|handle| Arc::ptr_eq(&handle.node, node)).unwrap()
                };
                assert_eq!(taken.len(), self.dirty.len());
                assert_eq!(
                    taken.iter().map(position).collect::<BTreeSet<_>>(),
                    std::mem::take(&mut self.dirty)
                );
            }
            Step::Wait { ms } => {
                hand.advance(Duration::from_millis(ms));
                self.now_ms += ms;
            }
            Step::Expire => self.expire(registry),
            _ => {}
        }
        None
    }

    fn register(&mut self, registry: &Registry<Machine>, index: usize, by_owner: bool) {
        let owner = if by_owner { index % USERS } else { index % USERS + 1 };
        let id = node_id(&format!("n{index}"));
        let owner = user(&format!("u{owner}"));
        match (self.on_roll(index), by_owner) {
            (None, false) => {}
            (Some(_), false) => {
                let refused = registry.register(id, owner, Arc::new(()), Restored::default());
                assert_eq!(refused.unwrap_err(), RegisterError::OtherUser);
            }
            (found, true) => {
                let node = registry.register(id, owner, Arc::new(()), Restored::default()).unwrap();
                match found {
                    Some(found) => assert!(Arc::ptr_eq(&found, &node)),
                    None => {
                        assert_eq!(node.rev(), self.rev_floor);
                        let new = Handle {
                            node,
                            index,
                            is_removed: false,
                            highest: 0,
                            holder: None,
                            stats: None,
                            seen_ms: 0,
                        };
                        self.handles.push(new);
                    }
                }
            }
        }
    }

    fn remove(&mut self, registry: &Registry<Machine>, index: usize) -> Option<(Arc<Node<Machine>>, usize)> {
        let expected = self.handles.iter().position(|handle| handle.index == index && !handle.is_removed);
        let removed = registry.remove(&format!("n{index}"));
        assert_eq!(removed.is_some(), expected.is_some());
        let handle = expected?;
        self.end(handle, CloseReason::Revoked);
        self.handles[handle].is_removed = true;
        let node = Arc::clone(&self.handles[handle].node);
        self.rev_floor = self.rev_floor.max(node.rev() + REMOVED_REV_LEAD);
        Some((node, index))
    }

    fn attach(&mut self, handle: usize, agent: u8, last_epoch: u64) {
        let new = self.sessions.len();
        let model = &mut self.handles[handle];
        let claim = Claim { last_epoch: SessionEpoch(last_epoch), boot: Boot(1), boot_id: [agent; 16] };
        let attached = model.node.attach(claim, 2);
        let (claimed, known) = (SessionEpoch(last_epoch), SessionEpoch(model.highest));
        let refused = if model.is_removed {
            Some(AttachError::Removed)
        } else {
            let is_plausible = last_epoch.saturating_sub(model.highest) <= 1 << 32;
            (!is_plausible).then_some(AttachError::ImplausibleEpoch { claimed, known })
        };
        let attached = match (attached, refused) {
            (Ok(attached), None) => attached,
            (attached, refused) => return assert_eq!(attached.err(), refused),
        };
        model.highest = model.highest.max(last_epoch) + 1;
        model.seen_ms = self.now_ms;
        assert_eq!(attached.session.epoch(), SessionEpoch(model.highest));
        let old = model.holder.map(|session| self.sessions[session].session.epoch());
        assert_eq!(attached.displaced.map(|session| session.epoch()), old);
        self.end(handle, CloseReason::Superseded);
        self.handles[handle].holder = Some(new);
        self.sessions.push(Held { session: attached.session, handle, end: None });
    }

    fn heartbeat(&mut self, session: usize, stats: Option<u64>) {
        let handle = &mut self.handles[self.sessions[session].handle];
        let epoch = self.sessions[session].session.epoch();
        let holds = handle.holder == Some(session);
        let expected = if holds { Ok(()) } else { Err(Fenced { epoch }) };
        let heard = match stats {
            Some(stats) => handle.node.heartbeat(epoch, Arc::new(stats)),
            None => handle.node.touch(epoch),
        };
        assert_eq!(heard, expected);
        if holds {
            handle.seen_ms = self.now_ms;
            handle.stats = stats.or(handle.stats);
        }
    }

    fn end(&mut self, handle: usize, reason: CloseReason) {
        if let Some(session) = self.handles[handle].holder.take() {
            self.sessions[session].end = Some(reason);
        }
    }

    /// A silence is over its lease when it is longer than that and all the pauses that ended in it.
    fn expire(&mut self, registry: &Registry<Machine>) {
        let now_ms = self.now_ms;
        let late_ms = self.last_sweep_ms.map_or(0, |last_ms| (now_ms - last_ms).saturating_sub(EXPECTED_MS));
        self.last_sweep_ms = Some(now_ms);
        self.pauses.extend((late_ms > 0).then_some((now_ms, late_ms)));
        let is_over = |handle: &Handle| {
            let pauses = self.pauses.iter().filter(|(ended_ms, _)| *ended_ms > handle.seen_ms);
            let allowed_ms = LEASE_MS + pauses.map(|(_, late_ms)| late_ms).sum::<u64>();
            handle.holder.is_some() && now_ms - handle.seen_ms > allowed_ms
        };
        let expected: BTreeSet<usize> =
            (0..self.handles.len()).filter(|at| is_over(&self.handles[*at])).collect();
        let expired = registry.expire();
        let position = |node: &Arc<Node<Machine>>| {
            self.handles.iter().position(|handle| Arc::ptr_eq(&handle.node, node)).unwrap()
        };
        let found: BTreeSet<usize> = expired.iter().map(|expired| position(&expired.node)).collect();
        assert_eq!(found.len(), expired.len());
        assert!(found.is_subset(&expected), "ended before their time");
        assert!(
            found == expected || self.pauses.len() > MAX_PAUSES,
            "forgiven for longer than the pauses were"
        );
        for expired in &expired {
            let holder = self.handles[position(&expired.node)].holder.unwrap();
            assert_eq!(expired.epoch, self.sessions[holder].session.epoch());
        }
        found.into_iter().for_each(|handle| self.end(handle, CloseReason::LeaseExpired));
    }

    pub(super) fn check(&self, registry: &Registry<Machine>) {
        for handle in &self.handles {
            let node = &handle.node;
            assert_eq!(node.is_removed(), handle.is_removed);
            assert_eq!(
                (node.epoch(), node.is_online()),
                (SessionEpoch(handle.highest), handle.holder.is_some())
            );
            let holder = handle.holder.map(|session| self.sessions[session].session.epoch());
            assert_eq!(node.session().map(|session| session.epoch()), holder);
            assert_eq!(node.stats().map(|stats| *stats), handle.stats);
        }
        for Held { session, end, .. } in &self.sessions {
            assert_eq!((session.outbox().closed(), session.is_ended()), (*end, end.is_some()));
        }
        for of in 0..USERS {
            let listed = registry.nodes_of(&user(&format!("u{of}")));
            let expected =
                (0..NODES).filter(|index| index % USERS == of).filter_map(|index| self.on_roll(index));
            assert!(listed.iter().map(Arc::as_ptr).eq(expected.map(|node| Arc::as_ptr(&node))));
        }
        assert_eq!(registry.len(), (0..NODES).filter(|index| self.on_roll(*index).is_some()).count());
        assert_eq!(registry.dirty_len(), self.dirty.len());
    }
}

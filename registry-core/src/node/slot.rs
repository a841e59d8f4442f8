//! Who holds a node: the session slot as a pure state machine, fencing and clone detection included.
//!
//! No clock, no lock, no session object: [`Node`](super::Node) keeps those around it.

use std::collections::VecDeque;
use std::time::Duration;

use super::Claim;
use crate::error::AttachError;
use crate::id::{BootId, SessionEpoch};

/// How far above the stored epoch a node's claim may be. Honest claims are ahead only by what a restored database
/// lost; this much is more attachments than a node makes in a century, and still leaves u64 room for 2^31 such jumps.
pub const MAX_EPOCH_LEAD: u64 = 1 << 32;

/// How often displaced agents must come back and take over again before the identity counts as cloned. Once can be a
/// restart that overlapped its predecessor; twice means that both live on.
pub const CLONE_RETURNS: usize = 2;

/// How long a return counts: longer than an agent's longest wait after being superseded, a few times over.
pub const CLONE_WINDOW: Duration = Duration::from_secs(10 * 60);

/// How many displaced agents are remembered: each further copy of an identity shows in the first few anyway.
const MAX_DISPLACED: usize = 16;

const CLONE_WINDOW_MS: u64 = CLONE_WINDOW.as_millis() as u64;

/// The slot of one node. At most one session holds it; epochs only grow.
#[derive(Debug)]
pub(crate) struct Slot {
    highest: SessionEpoch,
    /// Who holds it, under the highest epoch.
    holder: Option<BootId>,
    removed: bool,
    /// Made at the first takeover: most nodes never see one.
    clones: Option<Box<CloneWatch>>,
}

/// What an attachment was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) epoch: SessionEpoch,
    /// The session that held the slot until now.
    pub(crate) displaced: Option<SessionEpoch>,
    /// Until when, in monotonic milliseconds, the identity counts as cloned; 0 when it does not.
    pub(crate) cloned_until_ms: u64,
}

impl Slot {
    /// An empty slot whose highest epoch so far is `highest`.
    pub(crate) const fn new(highest: SessionEpoch) -> Self {
        Self { highest, holder: None, removed: false, clones: None }
    }

    /// Gives the slot to a new session, over whoever holds it.
    pub(crate) fn attach(&mut self, claim: &Claim, now_ms: u64) -> Result<Grant, AttachError> {
        if self.removed {
            return Err(AttachError::Removed);
        }
        let implausible = AttachError::ImplausibleEpoch { claimed: claim.last_epoch, known: self.highest };
        if claim.last_epoch.0.saturating_sub(self.highest.0) > MAX_EPOCH_LEAD {
            return Err(implausible);
        }
        let next = self.highest.max(claim.last_epoch).0.checked_add(1).ok_or(implausible)?;
        let epoch = SessionEpoch(next);
        let displaced = self.holder.replace(claim.boot_id);
        let before = std::mem::replace(&mut self.highest, epoch);
        if let Some(old) = displaced
            && old != claim.boot_id
        {
            self.clones.get_or_insert_default().takeover(old, claim.boot_id, now_ms);
        }
        let cloned_until_ms = self.clones.as_ref().map_or(0, |clones| clones.until_ms());
        Ok(Grant { epoch, displaced: displaced.map(|_| before), cloned_until_ms })
    }

    /// Empties the slot if `epoch` holds it; otherwise changes nothing.
    pub(crate) fn detach(&mut self, epoch: SessionEpoch) -> bool {
        self.highest == epoch && self.holder.take().is_some()
    }

    /// Empties the slot for good; the session that held it.
    pub(crate) fn remove(&mut self) -> Option<SessionEpoch> {
        self.removed = true;
        self.holder.take().map(|_| self.highest)
    }
}

/// Tells an agent that restarts (a new boot id each time) from two that keep displacing each other.
#[derive(Debug, Default)]
struct CloneWatch {
    /// Boot ids that were displaced by another one, with when, oldest first.
    displaced: VecDeque<(BootId, u64)>,
    /// When displaced agents took over again: the last [`CLONE_RETURNS`], oldest first.
    returns: VecDeque<u64>,
    until_ms: u64,
}

impl CloneWatch {
    /// `new` took the slot from another one, `old`, which was still attached. (The same one does when it comes over a
    /// fresh connection before the hub noticed that the old one was dead.)
    fn takeover(&mut self, old: BootId, new: BootId, now_ms: u64) {
        self.displaced.retain(|(_, at)| now_ms.saturating_sub(*at) <= CLONE_WINDOW_MS);
        let returned = self.displaced.iter().any(|(boot_id, _)| *boot_id == new);
        self.displaced.retain(|(boot_id, _)| *boot_id != old);
        if self.displaced.len() == MAX_DISPLACED {
            self.displaced.pop_front();
        }
        self.displaced.push_back((old, now_ms));
        if !returned {
            return;
        }
        if self.returns.len() == CLONE_RETURNS {
            self.returns.pop_front();
        }
        self.returns.push_back(now_ms);
        let close =
            self.returns.front().is_some_and(|first| now_ms.saturating_sub(*first) <= CLONE_WINDOW_MS);
        if self.returns.len() == CLONE_RETURNS && close {
            self.until_ms = now_ms.saturating_add(CLONE_WINDOW_MS);
        }
    }

    const fn until_ms(&self) -> u64 {
        self.until_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Boot;

    fn claim(boot_id: u8, last_epoch: u64) -> Claim {
        Claim { last_epoch: SessionEpoch(last_epoch), boot: Boot(1), boot_id: [boot_id; 16] }
    }

    #[test]
    fn epochs_grow_from_the_higher_of_stored_and_claimed() {
        let mut slot = Slot::new(SessionEpoch(7));
        assert_eq!(slot.attach(&claim(1, 3), 0).unwrap().epoch, SessionEpoch(8));
        assert_eq!(slot.attach(&claim(1, 40), 0).unwrap().epoch, SessionEpoch(41));
        assert_eq!(slot.attach(&claim(1, 0), 0).unwrap().epoch, SessionEpoch(42));
    }

    #[test]
    fn implausible_epochs_are_refused_and_change_nothing() {
        let mut slot = Slot::new(SessionEpoch(7));
        let held = slot.attach(&claim(1, 0), 0).unwrap().epoch;
        let claimed = SessionEpoch(held.0 + MAX_EPOCH_LEAD + 1);
        let refused = slot.attach(&claim(2, claimed.0), 0);
        assert_eq!(refused, Err(AttachError::ImplausibleEpoch { claimed, known: held }));
        assert!(slot.attach(&claim(2, u64::MAX), 0).is_err());
        assert!(slot.detach(held), "the refused claim displaced the holder");
        assert!(slot.attach(&claim(2, held.0 + MAX_EPOCH_LEAD), 0).is_ok());
    }

    #[test]
    fn the_last_epoch_is_never_passed() {
        let mut slot = Slot::new(SessionEpoch(u64::MAX - 1));
        assert_eq!(slot.attach(&claim(1, 0), 0).unwrap().epoch, SessionEpoch(u64::MAX));
        assert!(matches!(slot.attach(&claim(1, 0), 0), Err(AttachError::ImplausibleEpoch { .. })));
    }

    #[test]
    fn a_removed_slot_takes_nobody() {
        let mut slot = Slot::new(SessionEpoch(0));
        let held = slot.attach(&claim(1, 0), 0).unwrap().epoch;
        assert_eq!(slot.remove(), Some(held));
        assert_eq!(slot.attach(&claim(1, 0), 0), Err(AttachError::Removed));
        assert!(!slot.detach(held));
    }

    #[test]
    fn two_agents_that_displace_each_other_are_a_cloned_identity() {
        let mut slot = Slot::new(SessionEpoch(0));
        let mut cloned = |who, at| slot.attach(&claim(who, 0), at).unwrap().cloned_until_ms > at;
        assert!(!cloned(1, 0));
        assert!(!cloned(2, 1_000));
        assert!(!cloned(1, 2_000), "the first return may be an overlap");
        assert!(cloned(2, 3_000));
        assert!(cloned(1, 4_000));
        assert!(!cloned(1, 4_001 + CLONE_WINDOW_MS), "nobody came back for the whole window");
    }

    #[test]
    fn returns_further_apart_than_the_window_do_not_add_up() {
        let mut slot = Slot::new(SessionEpoch(0));
        let step = CLONE_WINDOW_MS * 3 / 4;
        for (i, who) in [1, 2, 3, 2, 4, 5, 4].into_iter().enumerate() {
            // 2 returns at step 3 and 4 at step 6: three steps apart.
            let at = step * i as u64;
            assert!(slot.attach(&claim(who, 0), at).unwrap().cloned_until_ms <= at);
        }
    }

    #[test]
    fn an_agent_that_restarts_or_reconnects_is_never_suspected() {
        let mut slot = Slot::new(SessionEpoch(0));
        for who in 0..200 {
            // Each run reconnects a few times over a connection that the hub still believes in.
            for _ in 0..3 {
                assert_eq!(slot.attach(&claim(who, 0), u64::from(who)).unwrap().cloned_until_ms, 0);
            }
        }
        assert!(slot.clones.unwrap().displaced.len() <= MAX_DISPLACED);
    }
}

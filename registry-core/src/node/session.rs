//! One authenticated attachment of a node: who it is, what it last said, what waits for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use arc_swap::ArcSwapOption;

use super::Claim;
use crate::error::Fenced;
use crate::fleet::Fleet;
use crate::id::{Boot, BootId, SessionEpoch};
use crate::lease::{Seat, Seats};
use crate::outbox::Outbox;

/// One attachment of a node to this hub.
///
/// What a session hears is kept in the session, not in the node: a stale session that still runs can only ever write
/// into itself, so its successor is safe without a lock on the heartbeat's way.
// In this order, because what a heartbeat touches then lies side by side.
#[repr(C)]
pub struct Session<F: Fleet> {
    ended: AtomicBool,
    seat: Seat,
    stats: ArcSwapOption<F::Stats>,
    epoch: SessionEpoch,
    boot: Boot,
    boot_id: BootId,
    attached_at_unix_ms: u64,
    outbox: Outbox<F::Command>,
}

impl<F: Fleet> Session<F> {
    pub(super) fn new(
        epoch: SessionEpoch,
        claim: &Claim,
        outbox_capacity: usize,
        stats: Option<Arc<F::Stats>>,
        seat: Seat,
        now_unix_ms: u64,
    ) -> Self {
        Self {
            epoch,
            boot: claim.boot,
            boot_id: claim.boot_id,
            attached_at_unix_ms: now_unix_ms,
            outbox: Outbox::new(outbox_capacity),
            ended: AtomicBool::new(false),
            stats: ArcSwapOption::new(stats),
            seat,
        }
    }

    /// Its number: the higher one of a node's sessions is the one that counts.
    #[must_use]
    pub const fn epoch(&self) -> SessionEpoch {
        self.epoch
    }

    /// The run of the agent behind it.
    #[must_use]
    pub const fn boot(&self) -> Boot {
        self.boot
    }

    /// What tells that run from a copy of it.
    #[must_use]
    pub const fn boot_id(&self) -> BootId {
        self.boot_id
    }

    /// When it was attached, in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn attached_at_unix_ms(&self) -> u64 {
        self.attached_at_unix_ms
    }

    /// The commands that wait for it.
    #[must_use]
    pub const fn outbox(&self) -> &Outbox<F::Command> {
        &self.outbox
    }

    /// Whether it no longer holds its node: displaced, detached, expired or removed.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Takes a heartbeat that was read at `now_ms`, in [monotonic](crate::Clock::monotonic_ms) milliseconds of the
    /// registry's own clock: whoever reads many messages at once reads the clock once.
    ///
    /// Lock-free, and reads no clock: one store of the time, one swap of the stats, two looks at the end. Nobody else
    /// writes to what it writes to, so this is as fast under a million sessions as under one.
    ///
    /// # Errors
    /// [`Fenced`] when the session has ended. One that ends meanwhile has either taken the stats or given this error.
    pub fn heartbeat_at(&self, stats: Arc<F::Stats>, now_ms: u64) -> Result<(), Fenced> {
        self.touch_at(now_ms)?;
        // Sequentially consistent, as is the look that follows: either the end sees these stats, or this sees the end.
        self.stats.store(Some(stats));
        if self.ended.load(Ordering::SeqCst) { Err(Fenced { epoch: self.epoch }) } else { Ok(()) }
    }

    /// Notes that something was heard of it at `now_ms`, as in [`heartbeat_at`](Session::heartbeat_at). Lock-free: a
    /// load and a store.
    ///
    /// # Errors
    /// [`Fenced`] when the session has ended.
    pub fn touch_at(&self, now_ms: u64) -> Result<(), Fenced> {
        if self.is_ended() {
            return Err(Fenced { epoch: self.epoch });
        }
        self.seat.heard(now_ms);
        Ok(())
    }

    /// Ends it. When it was last heard, in monotonic milliseconds.
    pub(super) fn end(&self) -> Option<u64> {
        self.ended.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let heard_ms = self.seat.heard_ms();
        self.seat.rest();
        heard_ms
    }

    pub(super) fn stats(&self) -> Option<Arc<F::Stats>> {
        self.stats.load_full()
    }

    /// When it was last heard, in monotonic milliseconds; `None` once it ended.
    pub(super) fn heard_ms(&self) -> Option<u64> {
        self.seat.heard_ms()
    }

    /// When it was last heard, by the wall clock.
    pub(super) fn seen_unix_ms(&self, seats: &Seats) -> Option<u64> {
        self.heard_ms().map(|heard_ms| seats.unix_ms(heard_ms))
    }
}

impl<F: Fleet> fmt::Debug for Session<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("epoch", &self.epoch)
            .field("boot", &self.boot)
            .field("outbox", &self.outbox)
            .field("ended", &self.is_ended())
            .finish_non_exhaustive()
    }
}

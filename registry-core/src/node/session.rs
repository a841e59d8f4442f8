//! One authenticated attachment of a node: who it is, what it last said, what waits for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::Claim;
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::id::{Boot, BootId, SessionEpoch};
use crate::outbox::Outbox;

/// One attachment of a node to this hub.
///
/// What a session hears is kept in the session, not in the node: a stale session that still runs can only ever write
/// into itself, so its successor is safe without a lock on the heartbeat's way.
pub struct Session<F: Fleet> {
    epoch: SessionEpoch,
    boot: Boot,
    boot_id: BootId,
    attached_at_unix_ms: u64,
    outbox: Outbox<F::Command>,
    ended: AtomicBool,
    stats: ArcSwapOption<F::Stats>,
    seen_monotonic_ms: AtomicU64,
    seen_unix_ms: AtomicU64,
}

impl<F: Fleet> Session<F> {
    pub(super) fn new(
        epoch: SessionEpoch,
        claim: &Claim,
        outbox_capacity: usize,
        stats: Option<Arc<F::Stats>>,
        clock: &Clock,
    ) -> Self {
        let now_unix_ms = clock.unix_ms();
        Self {
            epoch,
            boot: claim.boot,
            boot_id: claim.boot_id,
            attached_at_unix_ms: now_unix_ms,
            outbox: Outbox::new(outbox_capacity),
            ended: AtomicBool::new(false),
            stats: ArcSwapOption::new(stats),
            seen_monotonic_ms: AtomicU64::new(clock.monotonic_ms()),
            seen_unix_ms: AtomicU64::new(now_unix_ms),
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

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(super) fn seen(&self, clock: &Clock) {
        self.seen_unix_ms.store(clock.unix_ms(), Ordering::Relaxed);
        self.seen_monotonic_ms.store(clock.monotonic_ms(), Ordering::Release);
    }

    pub(super) fn set_stats(&self, stats: Arc<F::Stats>) {
        self.stats.store(Some(stats));
    }

    pub(super) fn stats(&self) -> Option<Arc<F::Stats>> {
        self.stats.load_full()
    }

    pub(super) fn seen_monotonic_ms(&self) -> u64 {
        self.seen_monotonic_ms.load(Ordering::Acquire)
    }

    pub(super) fn seen_unix_ms(&self) -> u64 {
        self.seen_unix_ms.load(Ordering::Relaxed)
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

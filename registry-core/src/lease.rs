//! Who has gone silent: leases on the monotonic clock, forgiving when the hub itself stood still.

mod seats;

use std::collections::VecDeque;
use std::time::Duration;

pub(crate) use self::seats::{Seat, Seats};

/// How often, as a part of the lease, expiry is expected to be looked for: a node is then found at most a third of the
/// lease late. Longer pauses count as the hub's own, and nobody is blamed for them.
pub const EXPECTED_SWEEPS_PER_LEASE: u32 = 3;

/// How many of the hub's own pauses are told apart; the oldest two become one beyond that.
const MAX_PAUSES: usize = 16;

/// When a session's silence is over its lease. Pure: the caller brings the time, in monotonic milliseconds.
///
/// A hub that was stopped (swapped out, suspended, starved) finds the heartbeats of its pause still unread in its
/// sockets. So when a sweep comes later than expected, every silence that began before it is allowed that much longer.
#[derive(Debug)]
pub(crate) struct Lease {
    lease_ms: u64,
    expected_ms: u64,
    last_sweep_ms: Option<u64>,
    pauses: VecDeque<Pause>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    /// When the late sweep came.
    ended_ms: u64,
    /// By how much it was late.
    late_ms: u64,
}

/// What one sweep decided: which silences are too long.
#[derive(Debug)]
pub(crate) struct Verdict {
    now_ms: u64,
    lease_ms: u64,
    pauses: Vec<Pause>,
}

impl Lease {
    pub(crate) fn new(lease: Duration) -> Self {
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX).max(1);
        let expected_ms = lease_ms / u64::from(EXPECTED_SWEEPS_PER_LEASE);
        Self { lease_ms, expected_ms, last_sweep_ms: None, pauses: VecDeque::new() }
    }

    /// Starts a sweep. The first one has nothing to be late against.
    pub(crate) fn sweep(&mut self, now_ms: u64) -> Verdict {
        let late_ms =
            self.last_sweep_ms.map_or(0, |last| now_ms.saturating_sub(last).saturating_sub(self.expected_ms));
        self.last_sweep_ms = Some(now_ms);
        if late_ms > 0 {
            if self.pauses.len() == MAX_PAUSES
                && let Some(oldest) = self.pauses.pop_front()
                && let Some(second) = self.pauses.front_mut()
            {
                second.late_ms = second.late_ms.saturating_add(oldest.late_ms);
            }
            self.pauses.push_back(Pause { ended_ms: now_ms, late_ms });
        }
        // Whoever was silent since before a pause has used up all its grace by then.
        let forgiven_ms =
            self.pauses.iter().fold(self.lease_ms, |sum, pause| sum.saturating_add(pause.late_ms));
        self.pauses.retain(|pause| now_ms.saturating_sub(pause.ended_ms) <= forgiven_ms);
        Verdict { now_ms, lease_ms: self.lease_ms, pauses: self.pauses.iter().copied().collect() }
    }
}

impl Verdict {
    /// A session heard at this monotonic time or later is not over its lease, whatever else holds.
    pub(crate) const fn suspect_before_ms(&self) -> u64 {
        self.now_ms.saturating_sub(self.lease_ms)
    }

    /// When the sweep began.
    pub(crate) const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Whether a session last heard at `seen_ms` is over its lease.
    pub(crate) fn is_over(&self, seen_ms: u64) -> bool {
        let since = |pause: &&Pause| pause.ended_ms > seen_ms;
        let forgiven = |sum: u64, pause: &Pause| sum.saturating_add(pause.late_ms);
        let allowed_ms = self.pauses.iter().filter(since).fold(self.lease_ms, forgiven);
        self.now_ms.saturating_sub(seen_ms) > allowed_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease::new(Duration::from_millis(15_000))
    }

    #[test]
    fn a_silence_is_over_only_beyond_the_lease() {
        let mut lease = lease();
        for now in (0..=15_000).step_by(1_000) {
            assert!(!lease.sweep(now).is_over(0));
        }
        assert!(lease.sweep(15_001).is_over(0));
    }

    #[test]
    fn a_late_sweep_gives_the_time_back_to_those_it_found_silent() {
        let mut lease = lease();
        lease.sweep(0);
        // 65 s late: the heartbeats of that time are still in the sockets.
        assert!(!lease.sweep(70_000).is_over(0));
        assert!(!lease.sweep(75_000).is_over(0));
        assert!(!lease.sweep(80_000).is_over(0));
        let verdict = lease.sweep(80_001);
        assert!(verdict.is_over(0));
        assert!(!verdict.is_over(70_000), "heard since: its own lease runs");
        lease.sweep(85_000);
        assert!(lease.sweep(85_002).is_over(70_001), "and gets nothing of the pause");
    }

    #[test]
    fn pauses_add_up_and_are_forgotten() {
        let mut lease = lease();
        for i in 0..1_000 {
            assert!(!lease.sweep(i * 10_000).is_over(0) || i > 3);
            assert!(lease.pauses.len() <= MAX_PAUSES);
        }
        let start = 999 * 10_000;
        for i in 1..100_000 {
            lease.sweep(start + i * 1_000);
        }
        assert!(lease.pauses.is_empty());
    }
}

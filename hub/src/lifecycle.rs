//! The hub's phases: starting, ready, draining; the signals that tell everyone; and whether its loops move.

pub(crate) mod systemd;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::error::HubError;

/// Does something to its end also when whoever asked for it goes away in the middle: a request's future is dropped
/// when its connection breaks, and what is committed by then must become known all the same.
pub(crate) async fn to_the_end<T: Send + 'static>(
    act: impl Future<Output = Result<T, HubError>> + Send + 'static,
) -> Result<T, HubError> {
    tokio::spawn(act.in_current_span()).await.unwrap_or_else(|error| Err(HubError::fault(error)))
}

/// A loop whose standing still means that the hub hangs. Only loops that wait for nothing outside of the process: a
/// database that is held up is no reason to start the hub anew.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pulse {
    /// Silent sessions are looked for: takes the registry's locks.
    Leases,
    /// Subscriptions and screens are looked through: takes the bus's locks.
    Sweep,
}

/// Where the hub is in its life. Shared by everything that must know.
#[derive(Debug, Default)]
pub struct Lifecycle {
    ready: AtomicBool,
    draining: CancellationToken,
    /// When each loop went round last, by the monotonic clock.
    beats_ms: [AtomicU64; 2],
}

impl Lifecycle {
    /// True between the end of starting and the begin of draining: new work is welcome.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.draining.is_cancelled()
    }

    /// Says that everything is open and loaded.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Fires when draining begins: streams end, intake stops.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// A loop went round.
    pub(crate) fn beat(&self, pulse: Pulse, now_ms: u64) {
        self.beats_ms[pulse as usize].store(now_ms, Ordering::Release);
    }

    /// When the loop that is furthest behind went round last.
    pub(crate) fn oldest_beat_ms(&self) -> u64 {
        self.beats_ms.iter().map(|beat| beat.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    /// Begins draining. There is no way back.
    pub fn drain(&self) {
        self.draining.cancel();
    }
}

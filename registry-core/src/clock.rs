//! Time as an argument: the machine's own, or one that a test sets.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Where the time comes from. Cloning gives another handle to the same source.
///
/// Two times are told apart: [`monotonic`](Clock::monotonic) never jumps and decides everything (leases, grace,
/// deadlines); [`unix_ms`](Clock::unix_ms) is what people read and may be set back and forth.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System { origin: Instant },
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    monotonic_ms: AtomicU64,
    unix_ms: AtomicU64,
    /// Makes "both at once" one step for [`ManualClock::advance`].
    step: Mutex<()>,
}

impl Clock {
    /// The machine's own clocks.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
    pub fn system() -> Self {
        Self(Source::System { origin: Instant::now() })
    }

    /// A clock that stands still until its [`ManualClock`] moves it.
    #[must_use]
    pub fn manual(unix_ms: u64) -> (Self, ManualClock) {
        let manual = Arc::new(Manual {
            monotonic_ms: AtomicU64::new(0),
            unix_ms: AtomicU64::new(unix_ms),
            step: Mutex::new(()),
        });
        (Self(Source::Manual(Arc::clone(&manual))), ManualClock(manual))
    }

    /// Time since this clock was made. Never goes back, does not jump when the wall clock is set.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System { origin } => Instant::now().saturating_duration_since(*origin),
            Source::Manual(manual) => Duration::from_millis(manual.monotonic_ms.load(Ordering::Acquire)),
        }
    }

    /// [`monotonic`](Clock::monotonic) in whole milliseconds, the form that fits an atomic.
    #[must_use]
    pub fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// Milliseconds since the Unix epoch, as the machine believes; 0 before 1970. On Linux from the clock that the kernel
    /// keeps at hand, up to a tick (1 to 10 ms) behind: a quarter of the time, and it is read for each event.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        match &self.0 {
            Source::System { .. } => system_unix_ms(),
            Source::Manual(manual) => manual.unix_ms.load(Ordering::Acquire),
        }
    }
}

#[cfg(target_os = "linux")]
fn system_unix_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    let ms = now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000);
    u64::try_from(ms).unwrap_or(0)
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
fn system_unix_ms() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.0 {
            Source::System { .. } => "Clock::system",
            Source::Manual(_) => "Clock::manual",
        };
        f.write_str(name)
    }
}

/// The hand that moves a manual [`Clock`].
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Manual>);

impl ManualClock {
    /// Lets time pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        let _step = self.0.step.lock();
        self.0.monotonic_ms.fetch_add(ms, Ordering::AcqRel);
        self.0.unix_ms.fetch_add(ms, Ordering::AcqRel);
    }

    /// Sets the wall clock alone, as an administrator or a time daemon would.
    pub fn set_unix_ms(&self, unix_ms: u64) {
        self.0.unix_ms.store(unix_ms, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_the_wall_clock_leaves_the_monotonic_one_alone() {
        let (clock, hand) = Clock::manual(1_000);
        hand.advance(Duration::from_millis(5));
        hand.set_unix_ms(10);
        assert_eq!(clock.monotonic_ms(), 5);
        assert_eq!(clock.unix_ms(), 10);
    }

    #[test]
    fn the_system_clock_runs() {
        let clock = Clock::system();
        let before = clock.monotonic();
        assert!(clock.monotonic() >= before);
        assert!(clock.unix_ms() > 1_600_000_000_000);
    }
}

//! Waiting for something to become true, with a deadline and a sentence for when it does not.

use std::time::Duration;

use registry_core::Clock;

/// How long anything that should happen soon may take on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A point in time after which waiting makes no sense.
#[derive(Debug)]
pub struct Deadline {
    clock: Clock,
    limit: Duration,
}

impl Deadline {
    /// This long from now.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self { clock: Clock::system(), limit }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.elapsed() >= self.limit
    }

    /// Time since it was set.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clock.monotonic()
    }
}

/// Asks again until there is an answer. Blocks the thread.
///
/// # Panics
/// When there is none within [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::after(PATIENCE);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(!deadline.is_over(), "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Like [`eventually`], for answers that are awaited.
///
/// # Panics
/// When there is none within [`PATIENCE`].
pub async fn eventually_async<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Deadline::after(PATIENCE);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(!deadline.is_over(), "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

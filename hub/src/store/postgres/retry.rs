//! Trying again: how long, how often, and what everybody may know about it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use registry_core::Clock;
use tokio::time::{Instant, sleep, timeout_at};

use super::value::Fault;
use crate::store::StoreError;

/// How long one request is tried for before it is answered as unavailable. A restart or a failover of the database is
/// usually over by then, and nobody who waits for an answer waits longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The same for requests that read everything: a large fleet's nodes, heads and totals at the start.
pub(super) const BULK_PATIENCE: Duration = Duration::from_secs(60);

/// The most that one attempt takes, connecting included. Half of the patience, so that a connection that is dead in
/// silence does not use all of it up.
pub(super) const ATTEMPT: Duration = Duration::from_secs(5);

/// The first and the longest pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A request that has no answer for this long, in milliseconds, is held up.
const HELD_UP_MS: u64 = 1000;

/// How the database has been answering.
#[derive(Clone)]
pub(super) struct Health(Arc<Inner>);

struct Inner {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Requests under way: when they began, and a number to tell them apart.
    under_way: BTreeSet<(u64, u64)>,
    next: u64,
    /// When the first of the requests began that failed since one succeeded.
    failing_since_ms: Option<u64>,
}

impl Health {
    pub(super) fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner { clock, state: Mutex::default() }))
    }

    /// Since when something has been held up, in milliseconds of the monotonic clock.
    pub(super) fn held_up_since_ms(&self) -> Option<u64> {
        let now = self.0.clock.monotonic_ms();
        let state = self.0.state.lock();
        let waiting = state.under_way.first().map(|(began, _)| *began);
        let held_up = waiting.filter(|began| now.saturating_sub(*began) >= HELD_UP_MS);
        state.failing_since_ms.into_iter().chain(held_up).min()
    }

    /// A new request that may take so long.
    pub(super) fn tries(&self, patience: Duration) -> Tries {
        let began_ms = self.0.clock.monotonic_ms();
        let mut state = self.0.state.lock();
        state.next += 1;
        let number = state.next;
        state.under_way.insert((began_ms, number));
        drop(state);
        let end = Instant::now() + patience;
        Tries { health: self.clone(), key: (began_ms, number), patience, end, pause: PAUSE.0 }
    }
}

/// The attempts at one request.
pub(super) struct Tries {
    health: Health,
    key: (u64, u64),
    patience: Duration,
    end: Instant,
    pause: Duration,
}

impl Tries {
    /// One attempt, within its limit.
    pub(super) async fn limited<T>(
        &self,
        attempt: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        // What may take long as a whole may do so in one attempt.
        let limit = if self.patience > PATIENCE { self.patience } else { ATTEMPT };
        let end = self.end.min(Instant::now() + limit);
        timeout_at(end, attempt).await.unwrap_or_else(|_elapsed| Err(Fault::too_slow()))
    }

    /// The database answered, whatever it said.
    pub(super) fn done(&self) {
        let mut state = self.health.0.state.lock();
        let recovered = state.failing_since_ms.take();
        drop(state);
        if let Some(since) = recovered {
            let waited_ms = self.health.0.clock.monotonic_ms().saturating_sub(since);
            tracing::warn!(waited_ms, "the database answers again");
        }
    }

    /// Waits until it is time for the next attempt.
    ///
    /// # Errors
    /// When there is none: the fault is final, or the patience is over.
    pub(super) async fn after(&mut self, fault: Fault) -> Result<(), StoreError> {
        match &fault {
            Fault::Final(_) => {
                self.done();
                return Err(fault.give_up());
            }
            Fault::Again(_) => {}
            Fault::Passing(told) => {
                let first = self.health.0.state.lock().failing_since_ms.replace(self.key.0).is_none();
                if first {
                    tracing::warn!(cause = %told, "the database does not answer; trying again");
                }
            }
        }
        if Instant::now() + self.pause >= self.end {
            return Err(fault.give_up());
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE.1);
        Ok(())
    }
}

impl Drop for Tries {
    fn drop(&mut self) {
        self.health.0.state.lock().under_way.remove(&self.key);
    }
}

/// Does something again until it succeeds, or fails for good.
macro_rules! retried {
    ($database:expr, $patience:expr, $attempt:expr) => {{
        let mut tries = $database.health().tries($patience);
        loop {
            match tries.limited($attempt).await {
                Ok(done) => {
                    tries.done();
                    break Ok(done);
                }
                Err(fault) => {
                    $database.suspect(&fault);
                    if let Err(error) = tries.after(fault).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}
pub(super) use retried;

/// Reads with a connection; again, where that fails for a reason that passes.
macro_rules! reading {
    ($database:expr, $patience:expr, |$connection:ident| $work:expr) => {
        $crate::store::postgres::retry::retried!($database, $patience, async {
            let lent = $database.lend_for_reading().await?;
            let $connection = &*lent;
            let result = $work.await;
            lent.settle(result)
        })
    };
}
pub(super) use reading;

/// Writes in a transaction of its own, once: what was written when the answer was lost is found out, not repeated.
macro_rules! writing {
    ($database:expr, |$transaction:ident| $work:expr) => {{
        let mut doubt = $crate::store::postgres::database::Doubt::default();
        $crate::store::postgres::retry::retried!($database, $crate::store::postgres::retry::PATIENCE, async {
            if let Some(done) = $database.resolve(&mut doubt).await? {
                return Ok(done);
            }
            let begun = $database.begin(&mut doubt).await?;
            let $transaction = &*begun;
            let result = $work.await;
            begun.finish(result, &mut doubt).await
        })
    }};
}
pub(super) use writing;

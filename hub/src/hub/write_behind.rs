//! Writing behind: the latest state of each node goes to the database a moment later, in batches, by one flusher.
//!
//! Nothing waits for it. A node is in it once, however often it changes; while the database is away its latest state
//! stays in the registry, and the memory that this takes does not grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use registry_core::Clock;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::error::HubError;
use crate::fleet::{Node, Registry};
use crate::mesh;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use crate::telemetry::traces::SPANS;

/// How often the latest state of nodes is written: half of what "at most a second behind" allows.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// The longest pause after failures: a database that is back is used again well within ten seconds.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Nodes in one write.
const FLUSH_NODES: usize = 4096;
/// Nodes that are named in the report of what a drain has left; the number of all is in it too.
const NAMED_NODES: usize = 20;

/// The one flusher of a hub.
pub(crate) struct WriteBehind {
    registry: Arc<Registry>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// Taken and not yet written.
    writing: AtomicUsize,
    /// Whatever is not written has changed after this, by the monotonic clock: the begin of the last flush that
    /// succeeded.
    written_until_ms: AtomicU64,
}

/// How far the database is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// Nodes that wait for the next flush.
    pub(crate) waiting: usize,
    /// Nodes in a flush that goes on.
    pub(crate) writing: usize,
    /// How long the oldest of these states has been waiting, at most; 0: nothing waits.
    pub(crate) oldest_ms: u64,
}

impl WriteBehind {
    pub(crate) fn new(
        registry: Arc<Registry>,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        let written_until_ms = AtomicU64::new(clock.monotonic_ms());
        Self { registry, store, metrics, clock, writing: AtomicUsize::new(0), written_until_ms }
    }

    /// Flushes again and again until `stop` fires, then until nothing is left: the drain's deadline ends that.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        let mut failures = 0;
        while stop.run_until_cancelled(tokio::time::sleep(pause_after(failures))).await.is_some() {
            failures = if self.flush(failures).await { 0 } else { failures + 1 };
        }
        // What was marked while this was written needs another round.
        while !(self.flush(failures).await && self.registry.dirty_len() == 0) {
            failures += 1;
            tokio::time::sleep(FLUSH_INTERVAL).await;
        }
    }

    /// How far the database is behind now.
    pub(crate) fn behind(&self) -> Behind {
        let (waiting, writing) = (self.registry.dirty_len(), self.writing.load(Ordering::Acquire));
        let since = self.written_until_ms.load(Ordering::Acquire);
        let oldest_ms =
            if waiting + writing == 0 { 0 } else { self.clock.monotonic_ms().saturating_sub(since) };
        Behind { waiting, writing, oldest_ms }
    }

    /// The names of some of the nodes that wait, for the report of a drain that ran out of time.
    pub(super) fn names_of_some(&self) -> Vec<String> {
        let waiting = self.registry.take_dirty();
        for node in &waiting {
            self.registry.mark_dirty(node);
        }
        waiting.iter().take(NAMED_NODES).map(|node| node.meta().name.clone()).collect()
    }

    /// Writes the latest state of every node that changed; false when some of it could not be written, which is then
    /// marked again.
    async fn flush(&self, failures: u32) -> bool {
        let began_ms = self.clock.monotonic_ms();
        let dirty = self.registry.take_dirty();
        if failures > 0 && !dirty.is_empty() {
            self.metrics.dirty_retries_total.inc();
        }
        self.writing.store(dirty.len(), Ordering::Release);
        let mut left = dirty.as_slice();
        while !left.is_empty() {
            let (batch, rest) = left.split_at(left.len().min(FLUSH_NODES));
            if let Err(error) = self.write(batch).await {
                self.failed(error, left);
                return false;
            }
            left = rest;
            self.writing.store(left.len(), Ordering::Release);
        }
        self.written_until_ms.store(began_ms, Ordering::Release);
        true
    }

    async fn write(&self, batch: &[Arc<Node>]) -> Result<(), StoreError> {
        let rows = batch.iter().map(|node| (node.id().clone(), mesh::live(node))).collect();
        let span = tracing::debug_span!(target: SPANS, "write_behind", nodes = batch.len());
        match self.store.save_live(rows).instrument(span).await {
            Ok(()) => {
                self.metrics.dirty_written_total.inc_by(batch.len() as u64);
                Ok(())
            }
            // The hub is past its end: there is nothing to write to.
            Err(StoreError::Closed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The rest is not tried in this round: it would only wait for the same failure.
    fn failed(&self, error: StoreError, left: &[Arc<Node>]) {
        self.metrics.dirty_flush_failures_total.inc();
        // Marked before the count is taken down: they are never in neither.
        for node in left {
            self.registry.mark_dirty(node);
        }
        self.writing.store(0, Ordering::Release);
        HubError::from(error).log();
    }
}

/// The pause before the next flush: twice as long after each failure in a row.
fn pause_after(failures: u32) -> Duration {
    FLUSH_INTERVAL.saturating_mul(1 << failures.min(8)).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_failures_to_their_bound() {
        let pauses: Vec<_> = (0..6).map(|failures| pause_after(failures).as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
        assert_eq!(pause_after(u32::MAX), MAX_PAUSE);
    }
}

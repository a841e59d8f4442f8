//! Turns: how much is computed at once for those who look at terminals, and how long it takes.

use std::sync::Arc;
use std::time::Duration;

use registry_core::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{HubError, HubResult};
use crate::metrics::{Metrics, ViewLabel};

/// Views that are computed at once; others wait their turn. Each holds a page of the log and its answer: a few MiB.
const MAX_VIEWS: usize = 4;

/// Who may compute when.
#[derive(Clone)]
pub(crate) struct Turns {
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// The right to compute one view, or a piece of one; its end is the computing's.
pub(crate) struct Turn {
    kind: &'static str,
    began: Duration,
    metrics: Arc<Metrics>,
    clock: Clock,
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    pub(crate) fn new(metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_VIEWS)), metrics, clock }
    }

    /// Turns that nobody has.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.permits.available_permits()
    }

    pub(crate) async fn turn(&self, kind: &'static str) -> HubResult<Turn> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(HubError::fault)?;
        let (metrics, clock) = (Arc::clone(&self.metrics), self.clock.clone());
        Ok(Turn { kind, began: clock.monotonic(), metrics, clock, _permit: permit })
    }

    /// Does a bounded piece of work in a turn of its own, away from the threads that connections wait for. Whoever no
    /// longer waits for it keeps the turn busy until it is done all the same.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        kind: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> HubResult<T> {
        let turn = self.turn(kind).await?;
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(HubError::fault)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let took = self.clock.monotonic().saturating_sub(self.began);
        let label = ViewLabel { view: self.kind };
        self.metrics.views_seconds.get_or_create(&label).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_elsewhere_and_keeps_its_turn_when_nobody_waits_for_it() {
        let turns = Turns::new(Metrics::new(), Clock::system());
        let here = std::thread::current().id();
        assert_ne!(turns.compute("text", || std::thread::current().id()).await.unwrap(), here);
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
        let mut waiting = Box::pin(turns.compute("text", move || {
            begun.send(()).unwrap();
            gate.recv()
        }));
        tokio::select! {
            _ = &mut waiting => panic!("it waits for the gate"),
            Some(()) = has_begun.recv() => {}
        }
        drop(waiting);
        assert_eq!(turns.free(), MAX_VIEWS - 1);
        drop(go);
        let _all = turns.permits.acquire_many(MAX_VIEWS as u32).await.unwrap();
    }
}

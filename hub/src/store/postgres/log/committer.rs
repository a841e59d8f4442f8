//! The one task that writes frames: it takes what waits as a group, commits it at once, and answers all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use registry_core::{Clock, NodeId};
use tokio::sync::{mpsc, oneshot};

use super::super::database::Database;
use super::super::retry::{BULK_PATIENCE, reading, writing};
use super::super::value::time;
use super::{append, kept, trim};
use crate::store::log_totals::Totals;
use crate::store::{FrameRun, Retention, StoreError, StoreResult};

/// Jobs that may wait; when there are more, their callers wait. Four full groups: enough to keep the next group ready,
/// few enough that a database which stands still is felt upstream, where the bounds in bytes are.
pub(super) const QUEUE_JOBS: usize = 1024;

/// Jobs in one group, so that the first of them is not kept waiting by a long tail.
const GROUP_JOBS: usize = 256;

/// Bytes in one group: far above where the sync is paid for, and little to hold in memory a few times over.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// One piece of work, with the way back to whoever asked for it.
pub(super) enum Job {
    /// Make these frames durable.
    Append { run: FrameRun, reply: oneshot::Sender<StoreResult<()>> },
    /// Clear a little away; answered with whether there is more.
    Slice { slice: Slice, reply: oneshot::Sender<StoreResult<bool>> },
}

/// What to clear away.
pub(super) enum Slice {
    Erase(NodeId),
    Trim { retention: Retention, now_unix_ms: u64 },
}

/// The task's own.
pub(super) struct Committer {
    database: Arc<Database>,
    totals: Totals,
    /// A commit's fate was never learnt: what is kept has to be asked for.
    stale: bool,
    clock: Clock,
    total_bytes: Arc<AtomicU64>,
}

impl Committer {
    pub(super) fn new(
        database: Arc<Database>,
        totals: Totals,
        clock: Clock,
        total_bytes: Arc<AtomicU64>,
    ) -> Self {
        Self { database, totals, stale: false, clock, total_bytes }
    }

    /// Works until nobody can hand anything in any more, and everything that was is answered.
    pub(super) async fn work(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut held = None;
        // Nobody waits to be let go for longer than one request's patience.
        let mut given_up = None;
        loop {
            let job = match held.take() {
                Some(job) => job,
                None => match queue.recv().await {
                    Some(job) => job,
                    None => return,
                },
            };
            let closing = queue.is_closed();
            match (job, given_up.take().filter(|_| closing)) {
                (job, Some(error)) => {
                    job.refuse(&error);
                    given_up = Some(error);
                }
                (Job::Slice { slice, reply }, None) => {
                    let outcome = self.slice(&slice).await;
                    given_up = outcome.as_ref().err().cloned();
                    // Nobody may be waiting any more; what was done stays done.
                    let _ = reply.send(outcome);
                }
                (Job::Append { run, reply }, None) => {
                    let (runs, replies);
                    (runs, replies, held) = gather(run, reply, &mut queue);
                    let outcome = self.append(&runs).await;
                    given_up = outcome.as_ref().err().cloned();
                    answer(replies, outcome);
                }
            }
        }
    }

    async fn append(&mut self, runs: &[FrameRun]) -> StoreResult<Vec<Option<StoreError>>> {
        self.refresh().await?;
        let stored_at = time(self.clock.unix_ms());
        let totals = &mut self.totals;
        let outcome = writing!(self.database, |client| append::append(client, &mut *totals, runs, stored_at));
        self.settle(outcome)
    }

    async fn slice(&mut self, slice: &Slice) -> StoreResult<bool> {
        self.refresh().await?;
        let totals = &mut self.totals;
        let outcome = match slice {
            Slice::Erase(node) => {
                writing!(self.database, |client| trim::erase(client, &mut *totals, node))
            }
            Slice::Trim { retention, now_unix_ms } => {
                let plan = reading!(self.database, BULK_PATIENCE, |client| trim::plan(
                    client,
                    totals,
                    *retention,
                    *now_unix_ms
                ))?;
                if plan.is_empty() {
                    return Ok(false);
                }
                writing!(self.database, |client| trim::carry_out(client, &mut *totals, &plan))
            }
        };
        self.settle(outcome)
    }

    /// Takes over what the transaction made of the totals, or forgets it.
    fn settle<T>(&mut self, outcome: StoreResult<T>) -> StoreResult<T> {
        match &outcome {
            Ok(_) => self.totals.commit(),
            Err(error) => {
                self.totals.roll_back();
                self.stale |= matches!(error, StoreError::Unavailable(_));
            }
        }
        self.total_bytes.store(self.totals.all_bytes(), Ordering::Relaxed);
        outcome
    }

    async fn refresh(&mut self) -> StoreResult<()> {
        if self.stale {
            self.totals = Totals::new(reading!(self.database, BULK_PATIENCE, |client| kept(client))?);
            self.stale = false;
        }
        Ok(())
    }
}

impl Job {
    fn refuse(self, error: &StoreError) {
        match self {
            Self::Append { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Slice { reply, .. } => drop(reply.send(Err(error.clone()))),
        }
    }
}

type Replies = Vec<oneshot::Sender<StoreResult<()>>>;

/// A group of appends that begins with this one; also the job behind it, when that is another one.
fn gather(
    first: FrameRun,
    reply: oneshot::Sender<StoreResult<()>>,
    queue: &mut mpsc::Receiver<Job>,
) -> (Vec<FrameRun>, Replies, Option<Job>) {
    let weigh = |run: &FrameRun| run.frames.iter().map(|frame| frame.weight()).sum::<usize>();
    let mut bytes = weigh(&first);
    let (mut runs, mut replies) = (vec![first], vec![reply]);
    while runs.len() < GROUP_JOBS && bytes < GROUP_BYTES {
        match queue.try_recv() {
            Ok(Job::Append { run, reply }) => {
                bytes += weigh(&run);
                runs.push(run);
                replies.push(reply);
            }
            Ok(other) => return (runs, replies, Some(other)),
            Err(_) => break,
        }
    }
    (runs, replies, None)
}

/// Tells each what became of its frames: its own fault, or the fate of them all.
fn answer(replies: Replies, outcome: StoreResult<Vec<Option<StoreError>>>) {
    match outcome {
        Ok(refused) => {
            for (reply, refused) in replies.into_iter().zip(refused) {
                let _ = reply.send(refused.map_or(Ok(()), Err));
            }
        }
        Err(error) => {
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

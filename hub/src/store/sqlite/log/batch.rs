//! What the log's writer does with a group: appends joined into rows, clearing away in slices between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use registry_core::{Clock, NodeId};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::super::value::time;
use super::super::writer::Batch;
use super::append::Appender;
use super::trim;
use crate::store::log_totals::Totals;
use crate::store::{FrameRun, Retention, StoreError, StoreResult};

/// One piece of work for the log's writer.
pub(in super::super) enum LogJob {
    /// Make these frames durable.
    Append {
        run: FrameRun,
        /// Why they cannot be, when it is their own fault.
        refused: Option<StoreError>,
        reply: oneshot::Sender<StoreResult<()>>,
    },
    /// Clear a little away.
    Slice {
        slice: Slice,
        /// There is more of it.
        more: bool,
        reply: oneshot::Sender<StoreResult<bool>>,
    },
}

/// What to clear away.
pub(in super::super) enum Slice {
    Erase(NodeId),
    Trim { retention: Retention, now_unix_ms: u64 },
}

/// The log's writer, and what it keeps in memory.
pub(super) struct LogBatch {
    totals: Totals,
    clock: Clock,
    total_bytes: Arc<AtomicU64>,
}

impl LogBatch {
    pub(super) fn new(totals: Totals, clock: Clock, total_bytes: Arc<AtomicU64>) -> Self {
        Self { totals, clock, total_bytes }
    }
}

impl Batch for LogBatch {
    type Job = LogJob;

    fn cost(job: &LogJob) -> usize {
        match job {
            LogJob::Append { run, .. } => run.frames.iter().map(|frame| frame.weight()).sum(),
            // About what a slice frees.
            LogJob::Slice { .. } => 1024 * 1024,
        }
    }

    fn apply(&mut self, connection: &Connection, jobs: &mut [LogJob]) -> rusqlite::Result<()> {
        let totals = &mut self.totals;
        totals.roll_back();
        let mut appender = Appender::new(time(self.clock.unix_ms()));
        for job in jobs {
            match job {
                LogJob::Append { run, refused, .. } => {
                    *refused = appender.append(connection, totals, run)?.err().map(StoreError::from);
                }
                LogJob::Slice { slice, more, .. } => {
                    appender.flush(connection)?;
                    *more = match slice {
                        Slice::Erase(node) => trim::erase(connection, totals, node)?,
                        Slice::Trim { retention, now_unix_ms } => {
                            trim::trim(connection, totals, *retention, *now_unix_ms)?
                        }
                    };
                }
            }
        }
        appender.flush(connection)
    }

    fn committed(&mut self) {
        self.totals.commit();
        self.total_bytes.store(self.totals.all_bytes(), Ordering::Relaxed);
    }

    fn answer(job: LogJob, group: &StoreResult<()>) {
        // Nobody may be waiting any more; what was done stays done.
        match job {
            LogJob::Append { refused, reply, .. } => {
                let _ = reply.send(group.clone().and(refused.map_or(Ok(()), Err)));
            }
            LogJob::Slice { more, reply, .. } => {
                let _ = reply.send(group.clone().map(|()| more));
            }
        }
    }
}

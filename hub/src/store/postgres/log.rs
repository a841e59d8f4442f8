//! The terminal log: frames, joined into rows.

mod append;
mod committer;
mod read;
mod trim;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use deadpool_postgres::ClientWrapper;
use parking_lot::RwLock;
use registry_core::{Clock, Cursor, NodeId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::committer::{Committer, Job, QUEUE_JOBS, Slice};
use super::database::Database;
use super::retry::{BULK_PATIENCE, PATIENCE, reading};
use super::schema::Part;
use super::value::{Fault, node_id, unsigned};
use crate::store::log_totals::{Amount, Totals};
use crate::store::{BootHead, FrameRun, LogPage, Retention, StoreError, StoreResult, TerminalLog};

/// Terminal frames in a PostgreSQL database.
pub struct PostgresTerminalLog {
    database: Arc<Database>,
    /// Gone once the log is closing.
    jobs: RwLock<Option<mpsc::Sender<Job>>>,
    /// Awaited by everybody who closes.
    committer: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    /// Written with each commit.
    total_bytes: Arc<AtomicU64>,
}

impl PostgresTerminalLog {
    /// Connects to the database of this URL, makes or migrates the schema where needed, and takes the lease. Frames age
    /// by `clock`.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for what somebody has to change, [`StoreError::TooNew`] for a database that a newer Muster
    /// made, [`StoreError::InUse`] when another hub has it, [`StoreError::Unavailable`] when it cannot be reached.
    pub async fn open(url: &str, clock: Clock) -> StoreResult<Self> {
        let database = Arc::new(Database::open(url, Part::Terminal, clock.clone()).await?);
        let totals = Totals::new(reading!(database, BULK_PATIENCE, |client| kept(client))?);
        let total_bytes = Arc::new(AtomicU64::new(totals.all_bytes()));
        let (sender, receiver) = mpsc::channel(QUEUE_JOBS);
        let committer = Committer::new(Arc::clone(&database), totals, clock, Arc::clone(&total_bytes));
        let committer = tokio::spawn(committer.work(receiver));
        Ok(Self {
            database,
            jobs: RwLock::new(Some(sender)),
            committer: tokio::sync::Mutex::new(Some(committer)),
            total_bytes,
        })
    }

    /// Hands in a job and waits for its answer. The job is done even if nobody waits any more.
    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<StoreResult<T>>) -> Job) -> StoreResult<T> {
        let sender = self.jobs.read().clone().ok_or(StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        sender.send(job(reply)).await.map_err(|_gone| StoreError::Closed)?;
        drop(sender);
        answer.await.map_err(|error| StoreError::Failed(Arc::new(error)))?
    }

    /// Has a piece of clearing away done between appends; true when there is more of it.
    async fn slice(&self, slice: Slice) -> StoreResult<bool> {
        self.ask(|reply| Job::Slice { slice, reply }).await
    }
}

/// What is kept of each node.
async fn kept(client: &ClientWrapper) -> Result<HashMap<NodeId, Amount>, Fault> {
    let query = "SELECT node, sum(weight)::bigint, sum(frames)::bigint FROM boots GROUP BY node HAVING sum(frames) > 0";
    let rows = client.query(query, &[]).await?;
    let amount = |row| Ok((node_id(row, 0)?, Amount { bytes: unsigned(row, 1)?, frames: unsigned(row, 2)? }));
    rows.iter().map(amount).collect()
}

/// Reads in one snapshot: everything that was committed when it begins, nothing that comes after. A piece that is
/// trimmed between two statements would otherwise be a hole that nobody is told of.
macro_rules! snapshot {
    ($database:expr, |$client:ident| $work:expr) => {
        reading!($database, PATIENCE, |$client| async {
            $client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let result = $work.await;
            $client.batch_execute("COMMIT").await?;
            result
        })
    };
}

#[async_trait]
impl TerminalLog for PostgresTerminalLog {
    async fn heads(&self) -> StoreResult<Vec<BootHead>> {
        reading!(self.database, BULK_PATIENCE, |client| read::heads(client))
    }

    async fn append(&self, run: FrameRun) -> StoreResult<()> {
        self.ask(|reply| Job::Append { run, reply }).await
    }

    async fn read(&self, node: &NodeId, after: Cursor, max_bytes: usize) -> StoreResult<LogPage> {
        snapshot!(self.database, |client| read::page(client, node, after, max_bytes))
    }

    async fn cursor_before_tail(&self, node: &NodeId, bytes: u64) -> StoreResult<Cursor> {
        snapshot!(self.database, |client| read::before_tail(client, node, bytes))
    }

    async fn cursor_at(&self, node: &NodeId, unix_ms: u64) -> StoreResult<Cursor> {
        snapshot!(self.database, |client| read::at(client, node, unix_ms))
    }

    /// In slices, so that others' appends go on in between. A reader may see a part of it gone.
    async fn erase(&self, node: &NodeId) -> StoreResult<()> {
        while self.slice(Slice::Erase(node.clone())).await? {}
        Ok(())
    }

    async fn trim(&self, retention: Retention, now_unix_ms: u64) -> StoreResult<bool> {
        self.slice(Slice::Trim { retention, now_unix_ms }).await
    }

    fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    fn held_up_since_ms(&self) -> Option<u64> {
        self.database.health().held_up_since_ms()
    }

    fn is_superseded(&self) -> bool {
        self.database.is_superseded()
    }

    async fn close(&self) {
        let sender = self.jobs.write().take();
        drop(sender);
        if let Some(committer) = self.committer.lock().await.take()
            && let Err(error) = committer.await
        {
            tracing::error!(%error, "the terminal log's committer ended early");
        }
        self.database.release().await;
    }
}

//! The writer of one file: a thread that commits what waits as one group and answers it when it is durable.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::RwLock;
use registry_core::Clock;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::file::beside;
use super::value::{failed, is_busy};
use crate::store::{StoreError, StoreResult};

/// Jobs that may wait for the writer; when there are more, their callers wait. Four full groups: enough to keep the
/// next group ready, few enough that a locked file is felt upstream, where the bounds in bytes are.
const QUEUE_JOBS: usize = 1024;

/// Jobs in one group, so that the first of them is not kept waiting by a long tail.
const GROUP_JOBS: usize = 256;

/// Bytes in one group, as jobs count themselves: about 10 ms of writing, far above where the sync is paid for.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// The first and the longest pause between two tries on a locked file.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));

/// A wait for a locked file that is worth a line in the log.
const WAIT_WORTH_TELLING: Duration = Duration::from_secs(1);

/// How long a file may stay locked while the store is closing, before what waits is refused.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Groups between two looks at the size of the write-ahead log.
const GROUPS_PER_LOOK: u64 = 64;

/// Readers that overlap without end keep SQLite from starting its write-ahead log anew, and it grows. Past this many
/// bytes the writer holds new commits back until it could be.
const WAL_RESTART_BYTES: u64 = 256 * 1024 * 1024;

/// How long it waits for the readers then.
const WAL_RESTART_PATIENCE: Duration = Duration::from_secs(1);

/// What is done with the jobs of one file.
pub(super) trait Batch: Send + 'static {
    /// One piece of work, with the way back to whoever asked for it.
    type Job: Send + 'static;

    /// About what the job writes, in bytes.
    fn cost(job: &Self::Job) -> usize;

    /// Does the jobs in the transaction that is open. May be called again for the same jobs after all of it was rolled
    /// back, and must then begin from what was committed last.
    ///
    /// # Errors
    /// What fails here fails all jobs; a fault that is a job's own is kept with the job.
    fn apply(&mut self, connection: &Connection, jobs: &mut [Self::Job]) -> rusqlite::Result<()>;

    /// What was applied last is durable now.
    fn committed(&mut self);

    /// Tells whoever asked how it went; `group` is the fate of the transaction.
    fn answer(job: Self::Job, group: &StoreResult<()>);
}

/// How one file's writer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriterStats {
    /// Jobs that wait.
    pub queued_jobs: usize,
    /// Jobs that may wait.
    pub queue_capacity: usize,
    /// Since when another process has had the file locked, in milliseconds of the clock's monotonic time; `None` when
    /// nobody has.
    pub waiting_since_ms: Option<u64>,
    /// Jobs answered.
    pub jobs_total: u64,
    /// Transactions committed.
    pub commits_total: u64,
    /// Transactions that failed for another reason than a lock: disk full, disk broken.
    pub failed_commits_total: u64,
}

/// The asking side of one file's writer.
pub(super) struct Writer<J> {
    /// Gone once the store is closing.
    jobs: RwLock<Option<mpsc::Sender<J>>>,
    shared: Arc<Shared>,
    /// Awaited by everybody who closes.
    thread: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What both sides see.
struct Shared {
    clock: Clock,
    closing: AtomicBool,
    /// [`NOT_WAITING`] or a monotonic time in milliseconds.
    waiting_since_ms: AtomicU64,
    jobs: AtomicU64,
    commits: AtomicU64,
    failed_commits: AtomicU64,
}

const NOT_WAITING: u64 = u64::MAX;

impl<J: Send + 'static> Writer<J> {
    /// Starts the thread.
    pub(super) fn start<B>(
        name: &str,
        path: &Path,
        connection: Connection,
        batch: B,
        clock: Clock,
    ) -> StoreResult<Self>
    where
        B: Batch<Job = J>,
    {
        let (sender, receiver) = mpsc::channel(QUEUE_JOBS);
        let shared = Arc::new(Shared {
            clock,
            closing: AtomicBool::new(false),
            waiting_since_ms: AtomicU64::new(NOT_WAITING),
            jobs: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            failed_commits: AtomicU64::new(0),
        });
        let bench = Bench {
            name: name.to_owned(),
            log: beside(path, "-wal"),
            connection,
            batch,
            shared: Arc::clone(&shared),
            failing: false,
            waited_closing: Duration::ZERO,
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || bench.work(receiver))
            .map_err(failed)?;
        Ok(Self { jobs: RwLock::new(Some(sender)), shared, thread: tokio::sync::Mutex::new(Some(thread)) })
    }

    /// Hands in a job and waits for its answer. The job is done even if nobody waits any more.
    pub(super) async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<StoreResult<T>>) -> J,
    ) -> StoreResult<T> {
        let sender = self.jobs.read().clone().ok_or(StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        sender.send(job(reply)).await.map_err(|_gone| StoreError::Closed)?;
        drop(sender);
        answer.await.map_err(failed)?
    }

    pub(super) fn stats(&self) -> WriterStats {
        let since = self.shared.waiting_since_ms.load(Ordering::Relaxed);
        let queued = self.jobs.read().as_ref().map_or(0, |jobs| jobs.max_capacity() - jobs.capacity());
        WriterStats {
            queued_jobs: queued,
            queue_capacity: QUEUE_JOBS,
            waiting_since_ms: (since != NOT_WAITING).then_some(since),
            jobs_total: self.shared.jobs.load(Ordering::Relaxed),
            commits_total: self.shared.commits.load(Ordering::Relaxed),
            failed_commits_total: self.shared.failed_commits.load(Ordering::Relaxed),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.jobs.read().is_none()
    }

    /// Takes no more jobs.
    pub(super) fn refuse_more(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        let sender = self.jobs.write().take();
        drop(sender);
    }

    /// Takes no more jobs, commits those that wait, and ends.
    pub(super) async fn close(&self) {
        self.refuse_more();
        let mut thread = self.thread.lock().await;
        if let Some(handle) = thread.take()
            && let Ok(Err(_panic)) = tokio::task::spawn_blocking(move || handle.join()).await
        {
            tracing::error!("a database writer had panicked");
        }
    }
}

impl<J> Drop for Writer<J> {
    fn drop(&mut self) {
        // The thread ends by itself when the queue is empty; this keeps it from waiting for a lock for ever.
        self.shared.closing.store(true, Ordering::Relaxed);
    }
}

/// The working side: what the thread owns.
struct Bench<B> {
    name: String,
    /// The write-ahead log.
    log: std::path::PathBuf,
    connection: Connection,
    batch: B,
    shared: Arc<Shared>,
    /// The last commit failed, and that was logged.
    failing: bool,
    /// Time spent on locks since the store began to close.
    waited_closing: Duration,
}

impl<B: Batch> Bench<B> {
    fn work(mut self, mut queue: mpsc::Receiver<B::Job>) {
        let mut group = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            let mut bytes = B::cost(&first);
            group.push(first);
            while group.len() < GROUP_JOBS && bytes < GROUP_BYTES {
                let Ok(next) = queue.try_recv() else { break };
                bytes += B::cost(&next);
                group.push(next);
            }
            let outcome = self.commit(&mut group);
            self.tell_of(&outcome);
            self.shared.jobs.fetch_add(group.len() as u64, Ordering::Relaxed);
            for job in group.drain(..) {
                B::answer(job, &outcome);
            }
            self.keep_log_short();
        }
        if let Err((_connection, error)) = self.connection.close() {
            tracing::warn!(writer = self.name, %error, "the database did not close in good order");
        }
    }

    /// Commits the group, however long the file is locked.
    fn commit(&mut self, group: &mut [B::Job]) -> StoreResult<()> {
        let mut wait = Wait { pause: BACKOFF.0, waited: Duration::ZERO, told: false };
        let outcome = loop {
            match self.attempt(group) {
                Ok(()) => break Ok(()),
                Err(error) if is_busy(&error) && self.may_wait() => self.wait(&mut wait),
                Err(error) => break Err(failed(error)),
            }
        };
        self.shared.waiting_since_ms.store(NOT_WAITING, Ordering::Relaxed);
        if wait.told {
            let waited_ms = u64::try_from(wait.waited.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(writer = self.name, waited_ms, "the database is no longer locked");
        }
        outcome
    }

    /// One transaction, from begin to commit or back to where it began.
    fn attempt(&mut self, group: &mut [B::Job]) -> rusqlite::Result<()> {
        // Rolls back when it is dropped before the commit.
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        self.batch.apply(&transaction, group)?;
        transaction.commit()?;
        self.batch.committed();
        Ok(())
    }

    fn may_wait(&self) -> bool {
        !self.shared.closing.load(Ordering::Relaxed) || self.waited_closing < CLOSE_PATIENCE
    }

    fn wait(&mut self, wait: &mut Wait) {
        if wait.waited.is_zero() {
            self.shared.waiting_since_ms.store(self.shared.clock.monotonic_ms(), Ordering::Relaxed);
        }
        if !wait.told && wait.waited >= WAIT_WORTH_TELLING {
            wait.told = true;
            tracing::warn!(writer = self.name, "the database is locked by another process; waiting for it");
        }
        std::thread::sleep(wait.pause);
        wait.waited += wait.pause;
        if self.shared.closing.load(Ordering::Relaxed) {
            self.waited_closing += wait.pause;
        }
        wait.pause = (wait.pause * 2).min(BACKOFF.1);
    }

    /// Counts, and logs when commits begin to fail and when they work again: not each of them, a full disk makes many.
    fn tell_of(&mut self, outcome: &StoreResult<()>) {
        match outcome {
            Ok(()) => {
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
                if std::mem::take(&mut self.failing) {
                    tracing::warn!(writer = self.name, "commits succeed again");
                }
            }
            Err(error) => {
                self.shared.failed_commits.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(writer = self.name, %error, "commits fail");
                }
            }
        }
    }

    /// Moves everything into the database and starts the write-ahead log anew when it has become too long.
    fn keep_log_short(&self) {
        if !self.shared.commits.load(Ordering::Relaxed).is_multiple_of(GROUPS_PER_LOOK) {
            return;
        }
        let bytes = std::fs::metadata(&self.log).map_or(0, |log| log.len());
        if bytes < WAL_RESTART_BYTES {
            return;
        }
        let restart = || {
            let usual =
                self.connection.pragma_query_value(None, "busy_timeout", |row| row.get::<_, u32>(0))?;
            self.connection.busy_timeout(WAL_RESTART_PATIENCE)?;
            let done =
                self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
            self.connection.busy_timeout(Duration::from_millis(usual.into()))?;
            done
        };
        match restart() {
            Ok(0) => tracing::info!(writer = self.name, bytes, "started the write-ahead log anew"),
            Ok(_) => tracing::warn!(
                writer = self.name,
                bytes,
                "readers keep the write-ahead log from starting anew"
            ),
            Err(error) => {
                tracing::warn!(writer = self.name, bytes, %error, "the write-ahead log cannot start anew");
            }
        }
    }
}

/// One wait for a locked file.
struct Wait {
    pause: Duration,
    /// The pauses so far; the tries between them, each as long as SQLite's own patience, come on top.
    waited: Duration,
    told: bool,
}

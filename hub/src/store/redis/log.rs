//! The log as the hub uses it, and what its committer, watcher and readers share.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use registry_core::{Boot, Clock, Cursor, NodeId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::committer::{Job, QUEUE_JOBS};
use super::keys::Keys;
use super::link::Link;
use super::place::Place;
use super::plan::Append;
use super::state::NodeState;
use super::watcher::Watcher;
use super::{opening, read, scripts};
use crate::store::{BootHead, FrameRun, LogPage, Loss, Retention, StoreError, StoreResult, TerminalLog};

/// Terminal frames on a Redis server.
pub struct RedisTerminalLog {
    shared: Arc<Shared>,
    /// Gone once the log is closing.
    jobs: RwLock<Option<mpsc::Sender<Job>>>,
    /// Awaited by everybody who closes.
    committer: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    watcher: JoinHandle<()>,
}

/// What the parts share.
pub(super) struct Shared {
    pub(super) keys: Keys,
    /// This hub's number: only the highest that stands in the store may write.
    pub(super) fence: String,
    pub(super) clock: Clock,
    /// For the committer alone, so that no page of a reader is before a commit.
    pub(super) write: Link,
    pub(super) read: Link,
    pub(super) roll: Mutex<Roll>,
    /// By node and boot: the last number that is there, and the last that was.
    losses: Mutex<BTreeMap<(NodeId, Boot), (u64, u64)>>,
    /// There are losses to tell.
    lost: Notify,
    /// Since when writes have failed.
    pub(super) writes: Health,
    /// Since when looks have.
    pub(super) looks: Health,
    pub(super) superseded: AtomicBool,
    pub(super) closing: AtomicBool,
}

/// Whether the server does as asked.
pub(super) struct Health {
    /// [`WORKS`](Self::WORKS) or a monotonic time in milliseconds.
    failing_since_ms: AtomicU64,
}

/// Every node's log, as far as it is known.
#[derive(Default)]
pub(super) struct Roll {
    nodes: BTreeMap<NodeId, Arc<NodeState>>,
    total_bytes: u64,
}

impl RedisTerminalLog {
    /// Opens the log that stands under `namespace` on the server that `url` names (`redis://`, `rediss://` or
    /// `unix://`). A hub that had it open before cannot write to it any more. Frames age by `clock`.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for what a person has to change: the URL, the password, the user's permissions, a server that
    /// is too old or a replica. [`StoreError::TooNew`] for keys of a newer Muster; [`StoreError::Unavailable`] when the
    /// server cannot be reached.
    pub async fn open(url: &str, namespace: &str, clock: Clock) -> StoreResult<Self> {
        let (keys, url) = (Keys::new(namespace)?, url.to_owned());
        let parsed = tokio::task::spawn_blocking(move || Place::parse(&url));
        let place = Arc::new(parsed.await.map_err(|error| StoreError::Failed(Arc::new(error)))??);
        let write = Link::for_writing(Arc::clone(&place), clock.clone());
        opening::check_server(&write).await?;
        let fence = opening::claim(&write, &keys, &clock).await?;
        let shared = Arc::new(Shared {
            keys,
            fence: fence.to_string(),
            read: Link::for_reading(place, clock.clone()),
            write,
            clock,
            roll: Mutex::default(),
            losses: Mutex::default(),
            lost: Notify::new(),
            writes: Health::new(),
            looks: Health::new(),
            superseded: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let committer = opening::load(&shared).await?;
        let (jobs, queue) = mpsc::channel(QUEUE_JOBS);
        let watcher = Watcher::new(Arc::clone(&shared), jobs.downgrade());
        Ok(Self {
            shared,
            jobs: RwLock::new(Some(jobs)),
            committer: tokio::sync::Mutex::new(Some(tokio::spawn(committer.work(queue)))),
            watcher: tokio::spawn(watcher.work()),
        })
    }

    /// Hands in a job and waits for its answer. The job is done even if nobody waits any more.
    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<StoreResult<T>>) -> Job) -> StoreResult<T> {
        let jobs = self.jobs.read().clone().ok_or(StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        jobs.send(job(reply)).await.map_err(|_gone| StoreError::Closed)?;
        drop(jobs);
        answer.await.map_err(|_gone| StoreError::Closed)?
    }

    fn check_open(&self) -> StoreResult<()> {
        if self.jobs.read().is_some() { Ok(()) } else { Err(StoreError::Closed) }
    }
}

impl Drop for RedisTerminalLog {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.watcher.abort();
    }
}

#[async_trait]
impl TerminalLog for RedisTerminalLog {
    async fn heads(&self) -> StoreResult<Vec<BootHead>> {
        self.check_open()?;
        let roll = self.shared.roll.lock();
        Ok(roll.iter().flat_map(|(node, state)| state.heads(node)).collect())
    }

    async fn append(&self, run: FrameRun) -> StoreResult<()> {
        self.ask(|reply| Job::Append(Append { run, reply })).await
    }

    async fn read(&self, node: &NodeId, after: Cursor, max_bytes: usize) -> StoreResult<LogPage> {
        self.check_open()?;
        if let Some(page) = read::page(&self.shared, node, after, max_bytes).await? {
            return Ok(page);
        }
        // There should be something, and is not: what is there instead is found out first.
        self.ask(|reply| Job::Look { nodes: vec![node.clone()], reply }).await?;
        let page = read::page(&self.shared, node, after, max_bytes).await?;
        Ok(page.unwrap_or_default())
    }

    async fn cursor_before_tail(&self, node: &NodeId, bytes: u64) -> StoreResult<Cursor> {
        self.check_open()?;
        read::before_tail(&self.shared, node, bytes).await
    }

    async fn cursor_at(&self, node: &NodeId, unix_ms: u64) -> StoreResult<Cursor> {
        self.check_open()?;
        read::at(&self.shared, node, unix_ms).await
    }

    async fn erase(&self, node: &NodeId) -> StoreResult<()> {
        self.ask(|reply| Job::Erase { node: node.clone(), reply }).await
    }

    async fn trim(&self, retention: Retention, now_unix_ms: u64) -> StoreResult<bool> {
        self.ask(|reply| Job::Trim { retention, now_unix_ms, reply }).await
    }

    async fn lost(&self) -> Vec<Loss> {
        loop {
            let told = self.shared.lost.notified();
            let losses = std::mem::take(&mut *self.shared.losses.lock());
            if !losses.is_empty() {
                let loss = |((node, boot), (last_seq, had_seq))| Loss { node, boot, last_seq, had_seq };
                return losses.into_iter().map(loss).collect();
            }
            told.await;
        }
    }

    fn total_bytes(&self) -> u64 {
        self.shared.roll.lock().total_bytes()
    }

    fn held_up_since_ms(&self) -> Option<u64> {
        self.shared.writes.failing_since_ms().into_iter().chain(self.shared.looks.failing_since_ms()).min()
    }

    fn is_superseded(&self) -> bool {
        self.shared.superseded.load(Ordering::Relaxed)
    }

    async fn close(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        let jobs = self.jobs.write().take();
        drop(jobs);
        self.watcher.abort();
        let mut committer = self.committer.lock().await;
        if let Some(committer) = committer.take()
            && let Err(error) = committer.await
        {
            tracing::error!(%error, "the committer of the terminal log had panicked");
        }
    }
}

impl Shared {
    /// Another hub has taken the log over.
    pub(super) fn superseded(&self) -> StoreError {
        if !self.superseded.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "another hub has taken the terminal log over: this one writes nothing to it any more"
            );
        }
        StoreError::Superseded
    }

    pub(super) fn tell_lost(&self, losses: Vec<Loss>) {
        if losses.is_empty() {
            return;
        }
        for loss in &losses {
            let Loss { node, boot, last_seq, had_seq } = loss;
            tracing::warn!(%node, %boot, last_seq, had_seq, "the terminal log has lost frames that were durable");
        }
        let mut waiting = self.losses.lock();
        for Loss { node, boot, last_seq, had_seq } in losses {
            let told = waiting.entry((node, boot)).or_insert((last_seq, had_seq));
            *told = (told.0.min(last_seq), told.1.max(had_seq));
        }
        drop(waiting);
        self.lost.notify_waiters();
    }

    pub(super) async fn claim(&self) -> StoreResult<()> {
        let said: String = self.write.run(&scripts::CLAIM, &[&self.keys.hub], &[&self.fence]).await?;
        if said == "superseded" { Err(self.superseded()) } else { Ok(()) }
    }
}

impl Health {
    const WORKS: u64 = u64::MAX;

    const fn new() -> Self {
        Self { failing_since_ms: AtomicU64::new(Self::WORKS) }
    }

    fn failing_since_ms(&self) -> Option<u64> {
        let since = self.failing_since_ms.load(Ordering::Relaxed);
        (since != Self::WORKS).then_some(since)
    }

    /// Notes how it went. What went wrong is logged when it begins and when it is over: not each time.
    pub(super) fn note(&self, clock: &Clock, outcome: &StoreResult<()>) {
        let Err(error) = outcome else {
            if self.failing_since_ms.swap(Self::WORKS, Ordering::Relaxed) != Self::WORKS {
                tracing::warn!("the terminal log works again");
            }
            return;
        };
        let (works, now) = (Self::WORKS, clock.monotonic_ms());
        if self.failing_since_ms.compare_exchange(works, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!(%error, "the terminal log does not work");
        }
    }
}

impl Roll {
    pub(super) fn knows(&self, node: &NodeId) -> bool {
        self.nodes.contains_key(node)
    }

    pub(super) fn get(&self, node: &NodeId) -> Arc<NodeState> {
        self.nodes.get(node).map(Arc::clone).unwrap_or_default()
    }

    pub(super) fn set(&mut self, node: NodeId, state: NodeState) {
        self.total_bytes += state.amount.bytes;
        let before = if state == NodeState::default() {
            self.nodes.remove(&node)
        } else {
            self.nodes.insert(node, Arc::new(state))
        };
        self.total_bytes -= before.map_or(0, |before| before.amount.bytes);
    }

    pub(super) fn remove(&mut self, node: &NodeId) {
        self.set(node.clone(), NodeState::default());
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &NodeState)> {
        self.nodes.iter().map(|(node, state)| (node, &**state))
    }

    /// Up to `limit` nodes behind one.
    pub(super) fn after(&self, node: Option<&NodeId>, limit: usize) -> Vec<NodeId> {
        let from = node.map_or(Bound::Unbounded, Bound::Excluded);
        self.nodes
            .range::<NodeId, _>((from, Bound::Unbounded))
            .take(limit)
            .map(|(node, _)| node.clone())
            .collect()
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}

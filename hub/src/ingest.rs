//! Frames in: at once to the bus, in group commits to the terminal log, and acks back.
//!
//! Each node has a [`NodeLog`]. Frames that arrive are numbered by their agent already; here they are checked for
//! order, published, kept in memory until they are durable, and then acked. Memory is bounded per node and in all: when
//! a bound is reached the hub drops its own copy, goes on publishing, and asks the agent to send again once there is
//! room. A slow or dead store therefore delays acks and nothing else.
//!
//! A store that comes back with less than was acked (wiped, evicted, put back to an older copy) sets the node's log back to
//! what is there. The agent is asked for the rest: it keeps what was acked for a while, and states a gap for what it has
//! not any more. So what a store loses is written again or told, never passed over.

mod node_log;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::RwLock;
use registry_core::{Boot, BootId, Clock, Cursor, Frame, FrameKind, NodeId};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub use node_log::{NodeLog, Taken};
use tracing::Instrument as _;

use crate::error::{ErrorCode, HubError};
use crate::fleet::{Event, FramesSeen, Node, Registry, Stats};
use crate::metrics::Metrics;
use crate::store::{FrameRun, Loss, StoreError, StoreResult, TerminalLog};
use crate::tasks::book::Book;
use crate::telemetry::traces::SPANS;

/// Frames of one node that wait to be durable: enough for 20 ms of the fastest node, small beside the agent's spool.
pub const PENDING_NODE_BYTES: usize = 8 << 20;
/// Frames of all nodes that wait to be durable.
pub const PENDING_TOTAL_BYTES: usize = 256 << 20;
/// While commits succeed, no more is read from a node than this much before they do: what would have to be dropped and
/// sent again is better left with its agent. A commit's worth for the log to work on, and one to be ready behind it.
const HIGH_WATER_NODE_BYTES: usize = PENDING_NODE_BYTES / 2;
/// The same for all nodes together.
const HIGH_WATER_TOTAL_BYTES: usize = PENDING_TOTAL_BYTES / 2;
/// When no commit succeeds for this long, in milliseconds, the store is held up: then frames are read all the same, so
/// that viewers go on seeing them.
const HELD_UP_MS: u64 = 500;
/// The most that is handed to the log at once: large enough to fill rows, small enough that acks keep coming.
const APPEND_BYTES: usize = 1 << 20;
/// Delays between attempts while the store fails.
const RETRY: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// A boot number may run ahead of the hub's clock by this much, in milliseconds: a node's clock may be a day off.
const MAX_BOOT_LEAD_MS: u64 = 24 * 60 * 60 * 1000;
/// Boots of one node that may wait to be durable: a store that hangs must not let an agent that restarts fill memory.
const MAX_WAITING_BOOTS: usize = 64;
/// Output that is there and has not moved for this long, in milliseconds, is called stalled.
const STALL_MS: u64 = 15_000;

/// Where frames come in. Cloning gives another handle.
#[derive(Clone)]
pub struct Ingest(Arc<Inner>);

struct Inner {
    log: Arc<dyn TerminalLog>,
    registry: Arc<Registry>,
    book: Arc<Book>,
    clock: Clock,
    metrics: Arc<Metrics>,
    nodes: RwLock<HashMap<NodeId, Arc<NodeLog>>>,
    pending_bytes: AtomicUsize,
    /// When the last commit of any node was done.
    last_commit_ms: AtomicU64,
    /// The last commit of some node failed, and that was logged: once, not for each of thousands.
    failing: AtomicBool,
    /// Waits for what the log loses.
    watching: OnceLock<AbortOnDropHandle<()>>,
}

impl Ingest {
    /// Loads the heads of all logs.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn open(
        log: Arc<dyn TerminalLog>,
        registry: Arc<Registry>,
        book: Arc<Book>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> StoreResult<Self> {
        let heads = log.heads().await?;
        let ingest = Self(Arc::new(Inner {
            log,
            registry,
            book,
            clock,
            metrics,
            nodes: RwLock::new(HashMap::new()),
            pending_bytes: AtomicUsize::new(0),
            last_commit_ms: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            watching: OnceLock::new(),
        }));
        for head in heads {
            if let Some(node) = ingest.0.registry.get(head.node.as_str()) {
                ingest.node(&node).restore(&head);
            }
        }
        let watching = tokio::spawn(watch_losses(Arc::downgrade(&ingest.0), Arc::clone(&ingest.0.log)));
        let _ = ingest.0.watching.set(AbortOnDropHandle::new(watching));
        Ok(ingest)
    }

    /// The log of a node, made when first asked for.
    #[must_use]
    pub fn node(&self, node: &Arc<Node>) -> Arc<NodeLog> {
        if let Some(log) = self.0.nodes.read().get(node.id()) {
            return Arc::clone(log);
        }
        let mut nodes = self.0.nodes.write();
        // Asked under the lock: a node that is not removed by now will find its log here when it is erased.
        if node.is_removed() {
            let log = NodeLog::new(Arc::clone(node));
            log.abandon();
            return Arc::new(log);
        }
        Arc::clone(nodes.entry(node.id().clone()).or_insert_with(|| Arc::new(NodeLog::new(Arc::clone(node)))))
    }

    /// The log of a node, if it ever had one.
    #[must_use]
    pub fn find(&self, node: &NodeId) -> Option<Arc<NodeLog>> {
        self.0.nodes.read().get(node).map(Arc::clone)
    }

    /// Grants a run of an agent its number: the one it proposes, or one above all known when that belongs to another
    /// run or to one that is over. Runs that are thereby over and did not say so end in an unknown gap.
    ///
    /// # Errors
    /// [`ErrorCode::ImplausibleBoot`] for numbers more than a day ahead of the hub's clock.
    pub fn grant_boot(&self, node: &Arc<Node>, proposed: Boot, boot_id: BootId) -> Result<Boot, HubError> {
        let now = self.0.clock.unix_ms();
        if proposed.0 == 0 || proposed.0 > now.saturating_add(MAX_BOOT_LEAD_MS) {
            return Err(HubError::new(
                ErrorCode::ImplausibleBoot,
                format!("boot {proposed} is not between 1 and a day ahead of the hub's clock ({now})"),
            ));
        }
        let log = self.node(node);
        if log.waiting_boots() > MAX_WAITING_BOOTS {
            return Err(HubError::new(
                ErrorCode::StoreUnavailable,
                "this node's agent was restarted many times while nothing could be written: try again later",
            ));
        }
        log.watch_from(self.0.clock.monotonic_ms());
        let (boot, marks) = log.grant(proposed, boot_id, now);
        self.0.pending_bytes.fetch_add(marks, Ordering::Relaxed);
        self.kick(&log);
        Ok(boot)
    }

    /// Takes frames as they came from an agent.
    ///
    /// # Errors
    /// [`ErrorCode::ProtocolViolation`] when they leave a hole or are of a boot that the session does not have.
    pub fn take(&self, log: &Arc<NodeLog>, boot: Boot, frames: Vec<Frame>) -> Result<(), HubError> {
        let inner = &self.0;
        inner.metrics.frames_received_total.inc_by(frames.len() as u64);
        // Counted before they are kept: a commit that is under way may free them at once.
        let weight: usize = frames.iter().map(Frame::weight).sum();
        let free = self.free();
        inner.pending_bytes.fetch_add(weight, Ordering::Relaxed);
        let (taken, result) = log.take(boot, frames, free, inner.clock.monotonic_ms());
        inner.pending_bytes.fetch_sub(weight - taken.kept_bytes, Ordering::Relaxed);
        inner.metrics.frames_duplicate_total.inc_by(taken.duplicates);
        inner.metrics.pending_dropped_frames_total.inc_by(taken.dropped);
        if !taken.fresh.is_empty() {
            let bytes: usize = taken.fresh.iter().map(|frame| frame.data_len()).sum();
            inner.metrics.output_received_bytes_total.inc_by(bytes as u64);
            inner.registry.publish(log.node(), |_| {
                Event::Output(Arc::new(FramesSeen { boot, frames: taken.fresh })).into()
            });
        }
        if taken.kept_bytes > 0 {
            self.kick(log);
        }
        result
    }

    /// Whether more should be read from a node now: there is room, or the store is held up and viewers should not be.
    #[must_use]
    pub fn wants_more(&self, log: &NodeLog) -> bool {
        let now = self.0.clock.monotonic_ms();
        let held_up = |since_ms: u64| now.saturating_sub(since_ms) > HELD_UP_MS;
        let (pending, last_commit_ms) = log.backlog();
        let node_wants = pending < HIGH_WATER_NODE_BYTES || held_up(last_commit_ms);
        let total_wants = self.pending_bytes() < HIGH_WATER_TOTAL_BYTES
            || held_up(self.0.last_commit_ms.load(Ordering::Relaxed));
        node_wants && total_wants
    }

    /// The number to ask a node's agent to go back to, if frames were dropped and there is room again. Told once.
    #[must_use]
    pub fn rewind(&self, log: &NodeLog, boot: Boot) -> Option<u64> {
        let next = log.rewind(boot, self.free())?;
        self.0.metrics.rewinds_total.inc();
        Some(next)
    }

    /// Looks at what a heartbeat says of the spool. `Some(true)`: the node's output has just stalled, its Upload should
    /// be reset; `Some(false)`: it moves again; `None`: nothing changed.
    #[must_use]
    pub fn observe_spool(&self, log: &NodeLog, stats: &Stats) -> Option<bool> {
        let waits = stats.spool_bytes > 0 && stats.spool_oldest_ms > STALL_MS;
        let stalled = waits && log.silent_for(self.0.clock.monotonic_ms()) > STALL_MS;
        (log.set_stalled(stalled) != stalled).then_some(stalled)
    }

    /// Bytes that wait to be durable, of all nodes.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.0.pending_bytes.load(Ordering::Relaxed)
    }

    /// Waits until nothing waits to be durable any more.
    pub async fn flushed(&self) {
        let logs: Vec<_> = self.0.nodes.read().values().map(Arc::clone).collect();
        for log in logs {
            log.idle().await;
        }
    }

    /// Forgets a deleted node and erases its log.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn erase(&self, node: &NodeId) -> StoreResult<()> {
        let log = self.0.nodes.write().remove(node);
        if let Some(log) = log {
            let bytes = log.abandon();
            self.0.pending_bytes.fetch_sub(bytes, Ordering::Relaxed);
            log.idle().await;
        }
        self.0.log.erase(node).await
    }

    /// The terminal log itself, for readers.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn TerminalLog> {
        &self.0.log
    }

    fn free(&self) -> usize {
        PENDING_TOTAL_BYTES.saturating_sub(self.pending_bytes())
    }

    fn kick(&self, log: &Arc<NodeLog>) {
        if log.begin_commit(self.0.clock.monotonic_ms()) {
            let (ingest, log) = (self.clone(), Arc::clone(log));
            tokio::spawn(async move { ingest.commit(&log).await });
        }
    }

    /// Makes what waits durable, run by run, until nothing is left. One such task a node at a time.
    async fn commit(&self, log: &Arc<NodeLog>) {
        let inner = &self.0;
        let mut attempt = 0;
        loop {
            let set_back = log.times_set_back();
            let Some(run) = log.next_run(APPEND_BYTES) else { return };
            let (boot, last) = (run.boot, run.frames.last().map(Arc::clone));
            match self.append(run).await {
                Ok(()) => {
                    attempt = 0;
                    inner.failing.store(false, Ordering::Relaxed);
                    if let Some(FrameKind::Gap { reason, .. }) = last.as_deref().map(|frame| &frame.kind) {
                        inner.metrics.gap(reason.as_str());
                    }
                    let now = inner.clock.monotonic_ms();
                    let freed = log.committed(boot, last.as_deref(), set_back, now);
                    inner.last_commit_ms.store(now, Ordering::Relaxed);
                    inner.pending_bytes.fetch_sub(freed, Ordering::Relaxed);
                }
                Err(StoreError::Closed) => {
                    log.end_commit();
                    return;
                }
                Err(error) => {
                    match error {
                        StoreError::Behind { last_seq } => {
                            self.set_back_all(self.0.log.lost().now_or_never().unwrap_or_default());
                            if log.times_set_back() == set_back {
                                self.set_back(log, boot, last_seq);
                            }
                        }
                        error if !inner.failing.swap(true, Ordering::Relaxed) => HubError::from(error).log(),
                        _ => {}
                    }
                    tokio::time::sleep(RETRY[attempt.min(RETRY.len() - 1)]).await;
                    attempt += 1;
                }
            }
        }
    }

    fn set_back_all(&self, losses: Vec<Loss>) {
        for Loss { node, boot, last_seq, had_seq } in losses {
            if let Some(log) = self.find(&node)
                && log.is_set_back_by(boot, last_seq, had_seq)
            {
                self.set_back(&log, boot, last_seq);
            }
        }
    }

    /// Goes on from what the log has of a boot.
    fn set_back(&self, log: &Arc<NodeLog>, boot: Boot, last_seq: u64) {
        let inner = &self.0;
        let set_back = log.set_back(boot, last_seq, inner.clock.unix_ms());
        inner.pending_bytes.fetch_add(set_back.mark_bytes, Ordering::Relaxed);
        inner.pending_bytes.fetch_sub(set_back.freed_bytes, Ordering::Relaxed);
        inner.metrics.log_lost_frames_total.inc_by(set_back.lost_frames);
        inner.metrics.log_rewound_total.inc();
        self.kick(log);
    }

    /// What the frames say of tasks is committed first and the frames after it: should the hub die in between, the
    /// agent sends them again, and a step that was taken already changes nothing.
    async fn append(&self, run: FrameRun) -> StoreResult<()> {
        let began = self.0.clock.monotonic();
        self.0.book.observe(&run).await?;
        let span = tracing::debug_span!(target: SPANS, "log.append", frames = run.frames.len());
        self.0.log.append(run).instrument(span).await?;
        let took = self.0.clock.monotonic().saturating_sub(began);
        self.0.metrics.log_append_seconds.observe(took.as_secs_f64());
        Ok(())
    }
}

/// Sets logs back to what the store has of them, whenever it tells that it has less, until the hub is gone.
async fn watch_losses(ingest: Weak<Inner>, log: Arc<dyn TerminalLog>) {
    loop {
        let losses = log.lost().await;
        let Some(inner) = ingest.upgrade() else { return };
        Ingest(inner).set_back_all(losses);
    }
}

/// What a reader of a node's log must know of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last frame that was published.
    pub published: Cursor,
    /// The last frame that is durable.
    pub durable: Cursor,
}

/// Tells when a [`NodeLog`] moves.
pub type Changes = watch::Receiver<u64>;

//! The spool: numbers every frame and keeps it until the hub has it durably.
//!
//! Writers wait for room (or the oldest output is dropped, by option); one reader, the upload, takes batches from
//! where the hub wants to go on. What is kept and what is sent next is decided in `kept`, which knows no lock.

mod kept;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use registry_core::terminal::MAX_FRAME_DATA_BYTES;
use registry_core::{Boot, Clock, Cursor, Frame, FrameKind, TaskId};
use thiserror::Error;
use tokio::sync::Notify;

use crate::config::SpoolFull;
use kept::Kept;

/// How far frames other than output may exceed the bound, in bytes: the start and end of a task should not wait
/// for the output of others. Some 8,000 such frames.
const SMALL_FRAMES_OVERDRAFT_BYTES: usize = 1024 * 1024;

/// The hub asked for, or acked, a frame that it cannot mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum SpoolError {
    /// Of another run of the agent.
    #[error("the hub speaks of boot {asked}, this is boot {ours}")]
    OtherBoot { asked: Boot, ours: Boot },
    /// Not numbered yet.
    #[error("the hub speaks of frame {asked}, the next to be numbered is {next}")]
    Ahead { asked: u64, next: u64 },
}

/// See the module. Shared by all tasks and the upload.
#[derive(Debug)]
pub(crate) struct Spool {
    clock: Clock,
    max_bytes: usize,
    when_full: SpoolFull,
    /// The largest output of one frame, in bytes: ours, or the hub's if that is lower.
    output_limit: AtomicUsize,
    inner: Mutex<Inner>,
    /// Frames were acked: there may be room.
    acked: Notify,
    /// There may be something to send.
    work: Notify,
}

#[derive(Debug)]
struct Inner {
    boot: Boot,
    kept: Kept,
}

/// What heartbeats tell about the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpoolStatus {
    /// Of frames that are not acked.
    pub(crate) bytes: usize,
    /// The age of the oldest of them.
    pub(crate) oldest_ms: u64,
}

/// Frames of one boot, ready to be sent.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) boot: Boot,
    pub(crate) frames: Vec<Arc<Frame>>,
}

impl Spool {
    /// A spool for output up to `max_bytes` that waits or drops when they are full.
    pub(crate) fn new(max_bytes: usize, when_full: SpoolFull, clock: Clock) -> Self {
        Self {
            clock,
            max_bytes,
            when_full,
            output_limit: AtomicUsize::new(MAX_FRAME_DATA_BYTES),
            inner: Mutex::new(Inner { boot: Boot(0), kept: Kept::new() }),
            acked: Notify::new(),
            work: Notify::new(),
        }
    }

    /// Takes the boot that a Welcome granted. When there are frames under another number, those that are not acked
    /// are numbered anew from 1; returns whether that was so.
    pub(crate) fn adopt(&self, boot: Boot) -> bool {
        let mut inner = self.inner.lock();
        let renumbered = inner.boot != Boot(0) && inner.boot != boot;
        if renumbered {
            inner.kept.renumber();
        }
        inner.boot = boot;
        renumbered
    }

    /// The number of the last frame; 0 for none.
    pub(crate) fn last_seq(&self) -> u64 {
        self.inner.lock().kept.next_seq() - 1
    }

    /// The largest output that one frame should carry now, in bytes.
    pub(crate) fn output_limit(&self) -> usize {
        self.output_limit.load(Ordering::Relaxed)
    }

    /// Takes the hub's limit for the output of one frame; 0 says nothing.
    pub(crate) fn limit_output(&self, hub_limit: usize) {
        let limit = if hub_limit == 0 { MAX_FRAME_DATA_BYTES } else { hub_limit.min(MAX_FRAME_DATA_BYTES) };
        self.output_limit.store(limit, Ordering::Relaxed);
    }

    /// Numbers a frame and keeps it, when there is room: until then this waits, and with it the process whose
    /// output it is. Cancel safe: a frame that was not taken has no number.
    pub(crate) async fn push(&self, task: Option<TaskId>, kind: FrameKind) {
        let mut waiting = kind;
        loop {
            let acked = self.acked.notified();
            tokio::pin!(acked);
            acked.as_mut().enable();
            match self.try_push(task, waiting) {
                Ok(()) => return,
                Err(back) => waiting = back,
            }
            acked.await;
        }
    }

    /// Numbers a frame and keeps it, room or not: for the few that are written when everything ends.
    pub(crate) fn push_now(&self, task: Option<TaskId>, kind: FrameKind) {
        let at = self.clock.unix_ms();
        self.inner.lock().kept.push(at, task, kind);
        self.work.notify_one();
    }

    /// Goes on sending from this frame on. What was acked from there on counts as not acked any more.
    pub(crate) fn resume(&self, next: Cursor) -> Result<(), SpoolError> {
        let mut inner = self.inner.lock();
        inner.check(next)?;
        inner.kept.resume(next.seq.max(1))?;
        drop(inner);
        self.work.notify_one();
        Ok(())
    }

    /// Everything up to this frame is durable at the hub.
    pub(crate) fn ack(&self, through: Cursor) -> Result<(), SpoolError> {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        inner.check(through)?;
        let released = inner.kept.ack(through.seq, now)?;
        drop(inner);
        drop(released);
        self.acked.notify_waiters();
        Ok(())
    }

    /// The next frames to send, about `max_bytes` of them; `None` when everything was sent.
    pub(crate) fn next_batch(&self, max_bytes: usize, max_frames: usize) -> Option<Batch> {
        let at = self.clock.unix_ms();
        let mut inner = self.inner.lock();
        let frames = inner.kept.next_batch(max_bytes, max_frames, at);
        if frames.is_empty() { None } else { Some(Batch { boot: inner.boot, frames }) }
    }

    /// Completes when there may be something to send. For one waiter.
    pub(crate) async fn work(&self) {
        self.work.notified().await;
    }

    /// Completes when every frame is acked.
    pub(crate) async fn drained(&self) {
        loop {
            let acked = self.acked.notified();
            tokio::pin!(acked);
            acked.as_mut().enable();
            if self.inner.lock().kept.all_acked() {
                return;
            }
            acked.await;
        }
    }

    /// How much waits for the hub, and for how long.
    pub(crate) fn status(&self) -> SpoolStatus {
        let now = self.clock.unix_ms();
        let inner = self.inner.lock();
        let oldest_ms = inner.kept.oldest_unacked_at().map_or(0, |at| now.saturating_sub(at));
        SpoolStatus { bytes: inner.kept.unacked_bytes(), oldest_ms }
    }

    fn try_push(&self, task: Option<TaskId>, kind: FrameKind) -> Result<(), FrameKind> {
        let at = self.clock.unix_ms();
        let is_output = matches!(kind, FrameKind::Output { .. });
        let frame_bytes = kept::weight(&kind);
        let limit = if is_output { self.max_bytes } else { self.max_bytes + SMALL_FRAMES_OVERDRAFT_BYTES };
        let mut dropped = Vec::new();
        {
            let mut inner = self.inner.lock();
            if inner.kept.unacked_bytes() + frame_bytes > limit {
                if self.when_full == SpoolFull::Wait {
                    return Err(kind);
                }
                dropped = inner.kept.drop_oldest(self.max_bytes, at);
            }
            inner.kept.push(at, task, kind);
        }
        drop(dropped);
        self.work.notify_one();
        Ok(())
    }
}

impl Inner {
    fn check(&self, cursor: Cursor) -> Result<(), SpoolError> {
        if cursor.boot == self.boot {
            return Ok(());
        }
        Err(SpoolError::OtherBoot { asked: cursor.boot, ours: self.boot })
    }
}

/// How long acked frames are kept, counted from one ack to a later one: while no acks come, the hub may just be
/// finding out that its store came back older, and nothing is given up.
const ACKED_FOR: Duration = Duration::from_secs(5);

/// How many bytes of acked frames are kept at most.
const ACKED_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use registry_core::Stream;

    use super::*;

    fn output(len: usize) -> FrameKind {
        FrameKind::Output { stream: Stream::Stdout, data: Bytes::from(vec![b'x'; len]) }
    }

    fn cursor(seq: u64) -> Cursor {
        Cursor::new(Boot(5), seq)
    }

    fn spool(when_full: SpoolFull) -> Spool {
        let spool = Spool::new(300_000, when_full, Clock::manual(1_000).0);
        assert!(!spool.adopt(Boot(5)));
        spool
    }

    #[tokio::test]
    async fn a_full_spool_makes_the_writer_wait_until_an_ack() {
        let spool = Arc::new(spool(SpoolFull::Wait));
        for _ in 0..4 {
            spool.push(None, output(65_536)).await;
        }
        let writer = tokio::spawn({
            let spool = Arc::clone(&spool);
            async move { spool.push(None, output(65_536)).await }
        });
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        assert!(!writer.is_finished());
        assert_eq!(spool.last_seq(), 4);
        // The end of a task does not wait for output.
        spool.push(None, FrameKind::Started { pid: 1, pty: false }).await;
        spool.ack(cursor(1)).unwrap();
        writer.await.unwrap();
        assert_eq!(spool.last_seq(), 6);
    }

    #[tokio::test]
    async fn a_dropping_spool_never_waits_and_stays_bounded() {
        let spool = spool(SpoolFull::Drop);
        for _ in 0..100 {
            spool.push(None, output(65_536)).await;
            assert!(spool.status().bytes <= 300_000 + 65_536);
        }
        assert_eq!(spool.last_seq(), 100);
    }

    #[tokio::test]
    async fn cursors_that_the_hub_cannot_mean_are_refused() {
        let spool = spool(SpoolFull::Wait);
        spool.push(None, FrameKind::Closed).await;
        assert_eq!(spool.ack(cursor(2)), Err(SpoolError::Ahead { asked: 2, next: 2 }));
        assert_eq!(spool.resume(cursor(3)), Err(SpoolError::Ahead { asked: 3, next: 2 }));
        let other = Cursor::new(Boot(4), 1);
        assert!(matches!(spool.ack(other), Err(SpoolError::OtherBoot { .. })));
        spool.resume(cursor(2)).unwrap();
        spool.ack(cursor(1)).unwrap();
        spool.drained().await;
    }

    #[tokio::test]
    async fn the_status_tells_bytes_and_age() {
        let (clock, hand) = Clock::manual(1_000);
        let spool = Spool::new(300_000, SpoolFull::Wait, clock);
        spool.adopt(Boot(5));
        assert_eq!(spool.status(), SpoolStatus { bytes: 0, oldest_ms: 0 });
        spool.push(None, output(100)).await;
        hand.advance(Duration::from_millis(70));
        assert_eq!(spool.status().oldest_ms, 70);
        assert!(spool.status().bytes >= 100);
        spool.ack(cursor(1)).unwrap();
        assert_eq!(spool.status(), SpoolStatus { bytes: 0, oldest_ms: 0 });
    }
}

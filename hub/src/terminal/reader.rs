//! The state of one reader of one node's log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use registry_core::{Boot, Cursor, Frame, FrameKind, GapReason, NodeId, Received, Subscription, TaskState};
use tokio_util::sync::CancellationToken;

use super::ReadItem;
use crate::error::{ErrorCode, HubError};
use crate::fleet::{Event, FramesSeen, Told};
use crate::ingest::{Changes, NodeLog};
use crate::store::{Store, TaskRow, TerminalLog};
use crate::tasks::book::Book;

/// How much is read from the log at once, in bytes: a few rows.
const PAGE_BYTES: usize = 256 * 1024;
/// How much one item carries, in bytes: well below the largest message.
const ITEM_BYTES: usize = 256 * 1024;
/// A reader that waits for frames to become durable looks again after this long even if it was not told to.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Where tasks are looked up: in the book while they live, in the store afterwards.
pub(super) struct TaskSource {
    pub(super) store: Arc<dyn Store>,
    pub(super) book: Arc<Book>,
}

pub(super) struct Reader {
    log: Arc<NodeLog>,
    store: Arc<dyn TerminalLog>,
    subscription: Option<Subscription<Told>>,
    changes: Changes,
    tasks: TaskSource,
    task: Option<Arc<TaskRow>>,
    draining: CancellationToken,
    /// The last frame that was given or passed over.
    cursor: Cursor,
    out: VecDeque<ReadItem>,
    phase: Phase,
    max_bytes: u64,
    given_bytes: u64,
    /// Read on from here, other than from where the reader is: what was told to be gone may come again.
    resume: Option<Cursor>,
    /// The weight of the item that was queued last.
    item_bytes: usize,
    caught_up: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Reading the log up to what was published.
    Catching,
    /// Taking frames from the bus.
    Live,
    /// The last item was queued.
    Done,
}

impl Reader {
    pub(super) fn new(
        log: Arc<NodeLog>,
        store: Arc<dyn TerminalLog>,
        subscription: Option<Subscription<Told>>,
        tasks: TaskSource,
        task: Option<Arc<TaskRow>>,
        max_bytes: u64,
        draining: CancellationToken,
    ) -> Self {
        let changes = log.changes();
        Self {
            log,
            store,
            subscription,
            changes,
            tasks,
            task,
            draining,
            cursor: Cursor::START,
            out: VecDeque::new(),
            phase: Phase::Catching,
            max_bytes,
            given_bytes: 0,
            resume: None,
            item_bytes: 0,
            caught_up: false,
        }
    }

    /// The items, from a place on (`None`: from the oldest frame kept), but not from before `floor`, where nothing can
    /// be that is wanted.
    pub(super) fn start(
        mut self,
        since: Option<Cursor>,
        floor: Cursor,
    ) -> impl Stream<Item = Result<ReadItem, HubError>> + Send {
        self.cursor = since.unwrap_or(Cursor::START).max(floor);
        let first = Some((self, since.is_none(), true));
        unfold(first, |state| async move {
            let (mut reader, oldest, starting) = state?;
            let step = async {
                if starting {
                    reader.begin(oldest).await?;
                }
                reader.next().await
            };
            match step.await {
                Ok(Some(item)) => Some((Ok(item), Some((reader, false, false)))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Finds the first frame and queues the item that says where it is.
    async fn begin(&mut self, oldest: bool) -> Result<(), HubError> {
        // Taken before the read: what becomes durable in between would count as trimmed.
        let durable = self.log.progress().durable;
        let page = self.store.read(self.node(), self.cursor, 1).await?;
        let kept = page.oldest.unwrap_or(durable);
        let from_the_start = self.cursor.boot == Boot(0) && kept.seq == 0;
        let whole = self.log.lost_after(self.cursor).is_none();
        let recovered = whole && (oldest || from_the_start || kept <= self.cursor);
        if oldest && self.cursor == Cursor::START {
            self.cursor = kept;
        }
        self.out.push_back(ReadItem::Start { recovered, since: self.cursor });
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<ReadItem>, HubError> {
        loop {
            if let Some(item) = self.out.pop_front() {
                return Ok(Some(item));
            }
            match self.phase {
                Phase::Done => return Ok(None),
                Phase::Catching => self.catch_up().await?,
                Phase::Live => self.live().await?,
            }
        }
    }

    /// One step of reading what is there already.
    async fn catch_up(&mut self) -> Result<(), HubError> {
        self.changes.borrow_and_update();
        let durable = self.log.progress().durable;
        let page = self.store.read(self.node(), self.cursor, PAGE_BYTES).await?;
        if let Some(oldest) = page.oldest.filter(|oldest| *oldest > self.cursor) {
            self.state_gap(oldest, GapReason::Retention);
        }
        for (boot, frame) in page.frames {
            self.give(boot, frame);
        }
        if !page.at_head || !self.out.is_empty() {
            return Ok(());
        }
        // At the end of the log and still before what was durable when the read began, and is not known to be lost: all of
        // that was trimmed.
        let durable = durable.min(self.log.progress().durable);
        if self.cursor < durable {
            self.state_gap(durable, GapReason::Retention);
            return Ok(());
        }
        let Some(pending) = self.log.pending_after(self.cursor) else { return Ok(()) };
        for (boot, frame) in pending {
            // Nothing durable lies after the cursor, so the first frame of a newer boot is the next one.
            let next = self.follows(boot, &frame) || (boot > self.cursor.boot && frame.seq == 1);
            if !next {
                // The mark with which a boot ends, in place of frames that were dropped: the log will tell.
                break;
            }
            self.give(boot, frame);
        }
        if self.phase == Phase::Done || !self.out.is_empty() {
            return Ok(());
        }
        if let Some(lost) = self.log.lost_after(self.cursor).filter(|_| !self.will_be_refilled()) {
            self.resume.get_or_insert(self.cursor);
            self.state_gap(lost, GapReason::LogLost);
            return Ok(());
        }
        let published = self.log.progress().published;
        if self.subscription.is_none() {
            self.end(false);
        } else if self.cursor >= published {
            self.present().await?;
        } else {
            self.wait_for_change().await?;
        }
        Ok(())
    }

    /// The reader has everything there is: says so once, ends if its task is over, and goes on live.
    async fn present(&mut self) -> Result<(), HubError> {
        if !self.caught_up {
            self.caught_up = true;
            self.out.push_back(ReadItem::CaughtUp);
        }
        self.phase = Phase::Live;
        let Some(task) = &self.task else { return Ok(()) };
        let now = match self.tasks.book.get(task.id) {
            Some(row) => Some(row),
            None => self.tasks.store.task(task.id).await?.map(Arc::new),
        };
        match now {
            Some(row) => self.end_with(&row),
            None => self.end(false),
        }
        Ok(())
    }

    /// Ends when a task is over and the reader has its last frame, or it has none.
    fn end_with(&mut self, row: &TaskRow) {
        if row.state == TaskState::Ended && row.last.is_none_or(|last| last <= self.cursor) {
            self.end(false);
        }
    }

    async fn live(&mut self) -> Result<(), HubError> {
        let Some(subscription) = &mut self.subscription else {
            self.phase = Phase::Catching;
            return Ok(());
        };
        let received = tokio::select! {
            received = subscription.recv() => received,
            () = self.draining.cancelled() => return Err(HubError::plain(ErrorCode::Draining)),
        };
        match received {
            Ok(Received::Event(delivery)) => match &*delivery.event {
                Event::Output(seen) => self.live_frames(seen),
                Event::Task(row) if self.task.as_ref().is_some_and(|task| task.id == row.id) => {
                    let row = Arc::clone(row);
                    self.end_with(&row);
                }
                Event::Deleted => return Err(deleted()),
                _ => {}
            },
            Ok(Received::Lagged { .. }) => self.phase = Phase::Catching,
            Err(_) => return Err(HubError::plain(ErrorCode::Draining)),
        }
        Ok(())
    }

    /// Takes the frames that are next; sends the reader back to the log when there is a hole before them.
    fn live_frames(&mut self, seen: &FramesSeen) {
        for frame in &seen.frames {
            if frame.cursor(seen.boot) <= self.cursor {
                continue;
            }
            if !self.follows(seen.boot, frame) {
                self.phase = Phase::Catching;
                return;
            }
            self.give(seen.boot, Arc::clone(frame));
        }
    }

    /// True when nothing can lie between the cursor and this frame.
    fn follows(&self, boot: Boot, frame: &Frame) -> bool {
        if boot == self.cursor.boot {
            return frame.seq == self.cursor.seq.saturating_add(1);
        }
        // The first frame of a boot follows the close mark or the unknown gap of the one before, or nothing.
        boot > self.cursor.boot && frame.seq == 1 && self.cursor.seq == u64::MAX
    }

    /// Moves on to a frame, and queues it if it is wanted.
    fn give(&mut self, boot: Boot, frame: Arc<Frame>) {
        if self.phase == Phase::Done {
            return;
        }
        self.cursor = frame.cursor(boot);
        if matches!(frame.kind, FrameKind::Closed) {
            self.cursor.seq = u64::MAX;
        }
        let ends_task = match &self.task {
            Some(task) if frame.task == Some(task.id) => matches!(frame.kind, FrameKind::Ended(_)),
            Some(task) => {
                // Another task's frame; a hole in this task's boot concerns it all the same.
                let elsewhere = task.boot.0 > 0 && task.boot != boot;
                if elsewhere || !matches!(frame.kind, FrameKind::Gap { .. }) {
                    return;
                }
                false
            }
            None => false,
        };
        self.given_bytes += frame.data_len() as u64;
        self.item_bytes += frame.weight();
        match self.out.back_mut() {
            Some(ReadItem::Frames { boot: last, frames })
                if *last == boot && self.item_bytes <= ITEM_BYTES =>
            {
                frames.push(frame);
            }
            _ => {
                self.item_bytes = frame.weight();
                self.out.push_back(ReadItem::Frames { boot, frames: vec![frame] });
            }
        }
        if ends_task {
            self.end(false);
        } else if self.max_bytes > 0 && self.given_bytes >= self.max_bytes {
            self.end(true);
        }
    }

    /// Whether what the log has lost will be here soon, for a reader that can wait: its agent is asked for it.
    fn will_be_refilled(&self) -> bool {
        self.subscription.is_some() && self.log.node().is_online()
    }

    /// Says that everything from the cursor to `to` is gone, and moves there.
    fn state_gap(&mut self, to: Cursor, reason: GapReason) {
        let gap = |seq, last_seq| {
            let kind = FrameKind::Gap { last_seq, reason };
            Arc::new(Frame { seq, at_unix_ms: 0, task: None, kind })
        };
        if self.cursor.boot < to.boot {
            let seen_whole = self.cursor.seq == u64::MAX
                || self.log.durable(self.cursor.boot).is_some_and(|last| last <= self.cursor.seq);
            if self.cursor.boot.0 > 0 && !seen_whole {
                self.give(self.cursor.boot, gap(self.cursor.seq + 1, None));
            }
            self.cursor = Cursor::new(to.boot, 0);
        }
        if to.seq > self.cursor.seq {
            self.give(to.boot, gap(self.cursor.seq + 1, Some(to.seq)));
        }
    }

    fn end(&mut self, truncated: bool) {
        self.phase = Phase::Done;
        let next = self.resume.unwrap_or(self.cursor);
        self.out.push_back(ReadItem::End { next, truncated });
    }

    /// Frames were published that are neither durable nor kept: the hub dropped its copy and will ask for them again.
    /// Waits for that, or for the bus, where they may still be on their way to this reader.
    async fn wait_for_change(&mut self) -> Result<(), HubError> {
        let Some(subscription) = &mut self.subscription else { return Ok(()) };
        tokio::select! {
            received = subscription.recv() => match received {
                Ok(Received::Event(delivery)) => match &*delivery.event {
                    Event::Output(seen) => {
                        self.phase = Phase::Live;
                        self.live_frames(seen);
                        Ok(())
                    }
                    Event::Deleted => Err(deleted()),
                    _ => Ok(()),
                },
                Ok(Received::Lagged { .. }) => Ok(()),
                Err(_) => Err(HubError::plain(ErrorCode::Draining)),
            },
            _ = self.changes.changed() => Ok(()),
            () = tokio::time::sleep(LOOK_AGAIN) => Ok(()),
            () = self.draining.cancelled() => Err(HubError::plain(ErrorCode::Draining)),
        }
    }

    fn node(&self) -> &NodeId {
        self.log.node().id()
    }
}

fn deleted() -> HubError {
    HubError::new(ErrorCode::UnknownNode, "the node was deleted".to_owned())
}

//! One node's frames between arrival and the disk: order, duplicates, bounds, rewinds. Knows no transport.

mod loss;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use registry_core::terminal::tail::Tail;
use registry_core::{Boot, BootId, Cursor, Frame, FrameKind, GapReason};
use tokio::sync::watch;

use super::{Changes, PENDING_NODE_BYTES, Progress};
use crate::error::{ErrorCode, HubError};
use crate::fleet::Node;
use crate::store::{BootHead, FrameRun};

/// Boots whose heads are remembered in memory. Older ones are over for good; the log itself keeps its own.
const REMEMBERED_BOOTS: usize = 16;

/// One node's frames between arrival and the disk.
pub struct NodeLog {
    node: Arc<Node>,
    state: Mutex<State>,
    /// Counts changes of `state` that somebody may wait for.
    changed: watch::Sender<u64>,
    last_frame_ms: AtomicU64,
    /// When the last commit began or was done.
    last_commit_ms: AtomicU64,
    stalled: AtomicBool,
}

#[derive(Default)]
struct State {
    boots: BTreeMap<Boot, Known>,
    /// Runs with frames that are not durable, oldest first; the last one is the current boot's.
    runs: VecDeque<Run>,
    current: Option<Boot>,
    published: Cursor,
    committing: bool,
    abandoned: bool,
    /// How often the store was found to have less than was durable.
    times_set_back: u64,
}

/// What is known of a boot.
#[derive(Clone, Copy)]
struct Known {
    id: BootId,
    durable: u64,
    closed: bool,
    /// The last number that was durable and then was not any more; 0: none.
    lost: u64,
}

/// The frames of one boot that are not durable yet.
struct Run {
    boot: Boot,
    id: BootId,
    /// The last number that is durable or kept here.
    accepted: u64,
    pending: Tail,
    /// `accepted` is the agent's own end of the boot: nothing follows it.
    ended: bool,
    /// Frames after `accepted` were dropped for want of room and must be sent again.
    behind: bool,
    /// The agent was asked to.
    rewind_asked: bool,
    /// The boot must be made known to the log even without a frame.
    announce: bool,
}

/// What became of frames that came in.
#[derive(Debug, Default)]
pub struct Taken {
    /// Seen for the first time, for the bus.
    pub fresh: Vec<Arc<Frame>>,
    /// Bytes added to what waits.
    pub kept_bytes: usize,
    /// Frames that were here already.
    pub duplicates: u64,
    /// Frames not kept for want of room.
    pub dropped: u64,
}

impl NodeLog {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            last_frame_ms: AtomicU64::new(0),
            last_commit_ms: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
        }
    }

    /// Whose log it is.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(super) fn restore(&self, head: &BootHead) {
        let mut state = self.state.lock();
        let known = Known { id: head.boot_id, durable: head.last_seq, closed: head.closed, lost: 0 };
        state.boots.insert(head.boot, known);
        state.published = state.published.max(Cursor::new(head.boot, head.last_seq));
    }

    /// See [`super::Ingest::grant_boot`].
    /// Also returns the bytes of the marks with which other boots were ended.
    pub(super) fn grant(&self, proposed: Boot, id: BootId, now_unix_ms: u64) -> (Boot, usize) {
        let mut state = self.state.lock();
        let boot = match state.boots.last_key_value() {
            // Only the newest is continued: behind a newer one's frames nobody would look for more of an older one.
            // One that said itself that it closed may come back for the ack of that.
            Some((highest, known)) if known.id == id => *highest,
            Some((highest, _)) if proposed <= *highest => Boot(highest.0 + 1),
            _ => proposed,
        };
        if state.current == Some(boot) {
            return (boot, 0);
        }
        let marks = state.close_others(boot, now_unix_ms);
        let known = *state.boots.entry(boot).or_insert(Known { id, durable: 0, closed: false, lost: 0 });
        state.runs.push_back(Run { ended: known.closed, ..Run::new(boot, id, known.durable, true) });
        state.current = Some(boot);
        while state.boots.len() > REMEMBERED_BOOTS {
            state.boots.pop_first();
        }
        (boot, marks)
    }

    /// Checks frames against what is there and keeps those that are new, as far as there is room (`free` bytes beside
    /// the node's own bound). What became of them is told also with an error: [`ErrorCode::ProtocolViolation`], when
    /// nothing of the batch from the offending frame on was taken.
    pub(super) fn take(
        &self,
        boot: Boot,
        frames: Vec<Frame>,
        free: usize,
        now_ms: u64,
    ) -> (Taken, Result<(), HubError>) {
        self.last_frame_ms.store(now_ms, Ordering::Relaxed);
        let mut taken = Taken::default();
        let result = self.take_into(&mut taken, boot, frames, free);
        (taken, result)
    }

    fn take_into(
        &self,
        taken: &mut Taken,
        boot: Boot,
        frames: Vec<Frame>,
        free: usize,
    ) -> Result<(), HubError> {
        let mut state = self.state.lock();
        let State { runs, published, current, abandoned, .. } = &mut *state;
        let run = match runs.back_mut() {
            Some(run) if run.boot == boot && *current == Some(boot) && !*abandoned => run,
            _ => return Err(violation(format!("boot {boot} is not the one granted to this session"))),
        };
        for frame in frames {
            let Some(last) = frame.last_seq() else {
                return Err(violation("a gap without an end can only be stated by a hub".to_owned()));
            };
            if last <= run.accepted {
                taken.duplicates += 1;
                continue;
            }
            if run.ended {
                return Err(violation(format!("frame {} came after the end of its boot", frame.seq)));
            }
            let next = run.accepted + 1;
            if frame.seq < next || (frame.seq > next && !run.behind) {
                return Err(violation(format!("frame {} came where {next} was expected", frame.seq)));
            }
            let frame = Arc::new(frame);
            if Cursor::new(boot, last) > *published {
                *published = Cursor::new(boot, last);
                taken.fresh.push(Arc::clone(&frame));
            }
            let fits_next = frame.seq == next;
            let weight = frame.weight();
            let ends = matches!(frame.kind, FrameKind::Closed);
            if fits_next && taken.kept_bytes + weight <= free && run.pending.push(frame).is_ok() {
                run.accepted = last;
                run.ended = ends;
                run.behind = false;
                taken.kept_bytes += weight;
            } else {
                // The very frame that was asked for found no room again: it has to be asked for once more.
                run.rewind_asked &= !fits_next;
                run.behind = true;
                taken.dropped += 1;
            }
        }
        Ok(())
    }

    /// The number that the current boot's Upload should go on with, when a stream is opened.
    #[must_use]
    pub fn begin_upload(&self, boot: Boot) -> Option<u64> {
        let mut state = self.state.lock();
        let run = state.runs.back_mut().filter(|run| run.boot == boot)?;
        run.rewind_asked = run.behind;
        Some(run.accepted + 1)
    }

    /// The number to ask the agent to go back to, if frames were dropped and there is room again (half of the node's
    /// bound, and that much within `free`). Told once.
    #[must_use]
    pub(super) fn rewind(&self, boot: Boot, free: usize) -> Option<u64> {
        let mut state = self.state.lock();
        let run = state.runs.back_mut().filter(|run| run.boot == boot)?;
        let half = run.pending.max_bytes() / 2;
        let room = run.pending.bytes() <= half && free >= half;
        if !run.behind || run.rewind_asked || !room {
            return None;
        }
        run.rewind_asked = true;
        Some(run.accepted + 1)
    }

    /// True while frames of the current boot are missing here that the agent has to send again.
    #[must_use]
    pub fn is_behind(&self, boot: Boot) -> bool {
        self.state.lock().runs.back().is_some_and(|run| run.boot == boot && run.behind)
    }

    /// The last durable number of a boot; `None` for boots that are not remembered.
    #[must_use]
    pub fn durable(&self, boot: Boot) -> Option<u64> {
        self.state.lock().boots.get(&boot).map(|known| known.durable)
    }

    /// Where the log stands.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let state = self.state.lock();
        Progress { published: state.published, durable: state.durable() }
    }

    /// The place from which on a task given to `boot` now will be seen whole.
    #[must_use]
    pub fn read_from(&self, boot: Boot) -> Cursor {
        let published = self.state.lock().published;
        if published.boot == boot { published } else { Cursor::new(boot, 0) }
    }

    /// Frames after a cursor that are not durable yet. `None`: some frame after the cursor is durable already, read the
    /// log first.
    #[must_use]
    pub fn pending_after(&self, after: Cursor) -> Option<Vec<(Boot, Arc<Frame>)>> {
        let state = self.state.lock();
        if state.durable() > after {
            return None;
        }
        let mut found = Vec::new();
        for run in &state.runs {
            let seq = if run.boot == after.boot { after.seq } else { 0 };
            if run.boot >= after.boot {
                found.extend(
                    run.pending.from(seq.saturating_add(1)).map(|frame| (run.boot, Arc::clone(frame))),
                );
            }
        }
        Some(found)
    }

    /// Tells of every change: frames made durable, room made.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.changed.subscribe()
    }

    /// True while output is there and does not arrive.
    #[must_use]
    pub fn output_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Returns what it was before.
    pub(super) fn set_stalled(&self, stalled: bool) -> bool {
        self.stalled.swap(stalled, Ordering::Relaxed)
    }

    /// Counts silence from here on: a node that was away had no way to send.
    pub(super) fn watch_from(&self, now_ms: u64) {
        self.last_frame_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Milliseconds since the last frame; 0 while the hub itself holds things up.
    pub(super) fn silent_for(&self, now_ms: u64) -> u64 {
        let waits_for_store = self.state.lock().committing;
        if waits_for_store { 0 } else { now_ms.saturating_sub(self.last_frame_ms.load(Ordering::Relaxed)) }
    }

    /// True when the caller is to run the commits now.
    pub(super) fn begin_commit(&self, now_ms: u64) -> bool {
        let mut state = self.state.lock();
        let work = state.runs.iter().any(|run| run.announce || !run.pending.is_empty());
        let begins = work && !std::mem::replace(&mut state.committing, true);
        if begins {
            self.last_commit_ms.store(now_ms, Ordering::Relaxed);
        }
        begins
    }

    /// Boots of which something waits to be durable.
    pub(super) fn waiting_boots(&self) -> usize {
        self.state.lock().runs.iter().filter(|run| !run.is_done()).count()
    }

    /// The weight of the frames that wait to be durable, and since when no commit has begun or been done, in milliseconds
    /// of the monotonic clock.
    pub(super) fn backlog(&self) -> (usize, u64) {
        let bytes = self.state.lock().runs.iter().map(|run| run.pending.bytes()).sum();
        (bytes, self.last_commit_ms.load(Ordering::Relaxed))
    }

    pub(super) fn end_commit(&self) {
        self.state.lock().committing = false;
        self.tell();
    }

    /// The next frames to make durable, up to about `max_bytes`. `None` ends the committing.
    pub(super) fn next_run(&self, max_bytes: usize) -> Option<FrameRun> {
        let mut state = self.state.lock();
        let current = state.current;
        while state.runs.front().is_some_and(|run| run.is_done() && Some(run.boot) != current) {
            state.runs.pop_front();
        }
        let found = state.runs.iter_mut().find(|run| !run.is_done()).map(|run| {
            let mut bytes = 0;
            let within = |frame: &&Arc<Frame>| {
                let room = bytes < max_bytes;
                bytes += frame.weight();
                room
            };
            run.announce = false;
            (run.boot, run.id, run.pending.from(0).take_while(within).map(Arc::clone).collect())
        });
        match found {
            Some((boot, boot_id, frames)) if !state.abandoned => {
                Some(FrameRun { node: self.node.id().clone(), boot, boot_id, frames })
            }
            _ => {
                state.committing = false;
                drop(state);
                self.tell();
                None
            }
        }
    }

    /// Notes that a boot is durable up to a frame (`None`: that it is known at all), and over if that was its end;
    /// returns the bytes that this freed. What was handed in before the log was set back once more is not noted.
    pub(super) fn committed(&self, boot: Boot, last: Option<&Frame>, set_back: u64, now_ms: u64) -> usize {
        self.last_commit_ms.store(now_ms, Ordering::Relaxed);
        let Some(last) = last else { return 0 };
        let ends = matches!(last.kind, FrameKind::Closed | FrameKind::Gap { last_seq: None, .. });
        let mut state = self.state.lock();
        if state.times_set_back != set_back {
            return 0;
        }
        let run = state.runs.iter_mut().find(|run| run.boot == boot);
        let freed = run.map(|run| run.pending.take_through(last.last_seq().unwrap_or(u64::MAX)));
        if let Some(known) = state.boots.get_mut(&boot) {
            known.durable = known.durable.max(last.last_seq().unwrap_or(last.seq));
            known.closed |= ends;
        }
        drop(state);
        self.tell();
        freed.iter().flatten().map(|frame| frame.weight()).sum()
    }

    /// Stops taking and committing; returns the bytes given up.
    pub(super) fn abandon(&self) -> usize {
        let mut state = self.state.lock();
        state.abandoned = true;
        state.current = None;
        let runs = std::mem::take(&mut state.runs);
        drop(state);
        runs.iter().map(|run| run.pending.bytes()).sum()
    }

    /// Waits until no commit is under way and nothing waits for one.
    pub async fn idle(&self) {
        let mut changes = self.changes();
        while self.state.lock().committing {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until nothing of other boots than this one waits for a commit: unlike [`NodeLog::idle`], this comes to an
    /// end also while the current boot never falls silent.
    pub async fn settled(&self, current: Boot) {
        let mut changes = self.changes();
        let waits = |state: &State| {
            state.committing && state.runs.iter().any(|run| run.boot != current && !run.is_done())
        };
        while waits(&self.state.lock()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}

impl State {
    /// The last durable frame of all boots.
    fn durable(&self) -> Cursor {
        let last = self.boots.iter().rev().find(|(_, known)| known.durable > 0);
        last.map_or(Cursor::START, |(boot, known)| Cursor::new(*boot, known.durable))
    }

    /// Ends every open boot but `boot` with an unknown gap: its agent's process did not say that it closed.
    /// Returns the bytes of the marks.
    fn close_others(&mut self, boot: Boot, now_unix_ms: u64) -> usize {
        let mut marks = 0;
        let open: Vec<_> =
            self.boots.iter_mut().filter(|(other, known)| **other != boot && !known.closed).collect();
        for (other, known) in open {
            known.closed = true;
            let other = *other;
            let position = self.runs.iter().position(|run| run.boot == other);
            if position.is_none() {
                self.runs.push_back(Run::new(other, known.id, known.durable, false));
            }
            let Some(run) = self.runs.iter_mut().find(|run| run.boot == other) else { continue };
            if !run.ended {
                let reason =
                    if known.lost > known.durable { GapReason::LogLost } else { GapReason::AgentLost };
                let kind = FrameKind::Gap { last_seq: None, reason };
                let gap = Frame { seq: run.accepted + 1, at_unix_ms: now_unix_ms, task: None, kind };
                // The bound does not apply to a mark of a few bytes: room is made for it.
                let weight = gap.weight();
                if run.pending.push_mark(Arc::new(gap)).is_ok() {
                    marks += weight;
                }
            }
        }
        marks
    }
}

impl Run {
    fn new(boot: Boot, id: BootId, durable: u64, announce: bool) -> Self {
        Self {
            boot,
            id,
            accepted: durable,
            pending: Tail::new(PENDING_NODE_BYTES),
            ended: false,
            behind: false,
            rewind_asked: false,
            announce,
        }
    }

    fn is_done(&self) -> bool {
        !self.announce && self.pending.is_empty()
    }
}

fn violation(detail: String) -> HubError {
    HubError::new(ErrorCode::ProtocolViolation, detail)
}

//! What a node's log does when the store has less of it than was durable: back to what is there, and what cannot come
//! again is stated.

use std::sync::Arc;

use registry_core::terminal::tail::Tail;
use registry_core::{Boot, Cursor, Frame, FrameKind, GapReason};

use super::{NodeLog, PENDING_NODE_BYTES, Run, State};

/// What going back came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::ingest) struct SetBack {
    /// Frames that were durable and are not.
    pub(in crate::ingest) lost_frames: u64,
    /// Bytes that do not wait to be durable any more: the agent sends them again.
    pub(in crate::ingest) freed_bytes: usize,
    /// Bytes of the mark that states what cannot come again.
    pub(in crate::ingest) mark_bytes: usize,
}

impl NodeLog {
    /// How often the log was set back. What was handed to the store before that says nothing about what it has now.
    pub(in crate::ingest) fn times_set_back(&self) -> u64 {
        self.state.lock().times_set_back
    }

    /// Whether a boot of which the store had `had_seq` frames and has `last_seq` has to be set back to that: unless nothing of
    /// it was durable here, or it was set back already and has come further since.
    pub(in crate::ingest) fn is_set_back_by(&self, boot: Boot, last_seq: u64, had_seq: u64) -> bool {
        let state = self.state.lock();
        // While a commit is under way its answer may be older than the loss.
        let concerns =
            |known: &super::Known| (known.durable > last_seq || state.committing) && known.durable <= had_seq;
        state.boots.get(&boot).is_some_and(concerns)
    }

    /// Notes that the store has a boot only up to `last_seq`. The current boot's agent is asked for the rest and answers
    /// with what it still has and a gap for what it has not; of an earlier boot nobody has anything, so that it ends in a gap.
    pub(in crate::ingest) fn set_back(&self, boot: Boot, last_seq: u64, now_unix_ms: u64) -> SetBack {
        let mut state = self.state.lock();
        if state.abandoned {
            return SetBack::default();
        }
        let is_current = state.current == Some(boot);
        let Some(known) = state.boots.get_mut(&boot) else { return SetBack::default() };
        let had_seq = known.durable;
        known.lost = known.lost.max(had_seq);
        known.durable = last_seq;
        // An earlier boot is over as soon as the mark stands.
        known.closed = !is_current;
        let id = known.id;
        state.times_set_back += 1;
        let run = state.run_of(boot, || Run::new(boot, id, last_seq, false));
        let pending = std::mem::replace(&mut run.pending, Tail::new(PENDING_NODE_BYTES));
        run.accepted = last_seq;
        run.ended = !is_current;
        run.behind = is_current;
        run.rewind_asked = false;
        // The store may not know the boot any more: it must, so that its end is stated even if nothing more comes.
        run.announce = true;
        let mut set_back = SetBack {
            lost_frames: had_seq.saturating_sub(last_seq),
            freed_bytes: pending.bytes(),
            mark_bytes: 0,
        };
        if !is_current {
            let kind = FrameKind::Gap { last_seq: None, reason: GapReason::LogLost };
            let mark = Arc::new(Frame { seq: last_seq + 1, at_unix_ms: now_unix_ms, task: None, kind });
            let mark_bytes = mark.weight();
            if run.pending.push_mark(mark).is_ok() {
                set_back.mark_bytes = mark_bytes;
            }
        }
        drop(state);
        self.tell();
        drop(pending);
        set_back
    }

    /// The place up to which frames after the cursor were durable and are not, and may come again; `None`: there are none.
    #[must_use]
    pub fn lost_after(&self, cursor: Cursor) -> Option<Cursor> {
        let state = self.state.lock();
        let lost = state.boots.iter().rev().find(|(_, known)| !known.closed && known.lost > known.durable);
        lost.map(|(boot, known)| Cursor::new(*boot, known.lost)).filter(|lost| *lost > cursor)
    }
}

impl State {
    /// A boot's run, made where it belongs when there is none.
    fn run_of(&mut self, boot: Boot, make: impl FnOnce() -> Run) -> &mut Run {
        let place = self.runs.iter().position(|run| run.boot == boot).unwrap_or_else(|| {
            let place = self.runs.iter().position(|run| run.boot > boot).unwrap_or(self.runs.len());
            self.runs.insert(place, make());
            place
        });
        &mut self.runs[place]
    }
}

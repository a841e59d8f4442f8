//! A node's terminal as a run of frames, and the bounded tail of it that is kept in memory.

pub mod codec;
pub mod commands;
pub mod excerpt;
pub mod safe;
pub mod screen;
pub mod search;
pub mod tail;
pub mod text;

use bytes::Bytes;

use crate::id::{Boot, Cursor, TaskId};
use crate::task::TaskEnd;

/// The most output that one frame carries, in bytes: small enough to interleave tasks fairly, large enough that
/// its header does not count.
pub const MAX_FRAME_DATA_BYTES: usize = 64 * 1024;

/// One record of a node's terminal. Numbered by the agent, never changed after that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its number within its boot, from 1. For a gap: the first number missing.
    pub seq: u64,
    /// When it came into being by the node's clock, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// The task it belongs to; `None` for frames of the node itself.
    pub task: Option<TaskId>,
    /// What happened.
    pub kind: FrameKind,
}

/// What a frame records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// The task's process exists.
    Started {
        /// Process id on the node, also the process group.
        pid: u32,
        /// True on a PTY, false on pipes.
        pty: bool,
    },
    /// Bytes came out, as the process wrote them, cut anywhere.
    Output {
        /// Out of which of its ends.
        stream: Stream,
        /// At most [`MAX_FRAME_DATA_BYTES`].
        data: Bytes,
    },
    /// The PTY has another size: what came before was written for the size before.
    Resized {
        /// Its height.
        rows: u16,
        /// Its width.
        cols: u16,
    },
    /// The task is over.
    Ended(TaskEnd),
    /// Frames that will never come: from this frame's `seq` on.
    Gap {
        /// The last number missing; `None` when the rest of the boot is.
        last_seq: Option<u64>,
        /// Why.
        reason: GapReason,
    },
    /// The agent ended in good order: nothing of this boot follows.
    Closed,
}

/// Which of a task's ends bytes came out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output, on a pipe.
    Stdout,
    /// Standard error, on a pipe.
    Stderr,
    /// The PTY, where both are one.
    Pty,
}

impl Stream {
    /// The stream's name in JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Pty => "pty",
        }
    }
}

/// Why frames are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The agent's spool was full and it was told to drop rather than to make the process wait.
    SpoolFull,
    /// The hub's log came back older than its acks and the agent no longer had the frames.
    LogLost,
    /// The agent's process ended without closing its boot.
    AgentLost,
    /// Trimmed by the hub's retention.
    Retention,
}

impl GapReason {
    /// The reason's name in JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SpoolFull => "spool_full",
            Self::LogLost => "log_lost",
            Self::AgentLost => "agent_lost",
            Self::Retention => "retention",
        }
    }
}

impl Frame {
    /// The last number that this frame stands for: its own, or a gap's end. `None`: the rest of the boot.
    #[must_use]
    pub const fn last_seq(&self) -> Option<u64> {
        match &self.kind {
            FrameKind::Gap { last_seq, .. } => *last_seq,
            _ => Some(self.seq),
        }
    }

    /// This frame's place in the log of a node whose agent's run is `boot`: what a reader who has seen it would
    /// resume with.
    #[must_use]
    pub fn cursor(&self, boot: Boot) -> Cursor {
        Cursor::new(boot, self.last_seq().unwrap_or(u64::MAX))
    }

    /// The output it carries, in bytes; 0 for other kinds.
    #[must_use]
    pub fn data_len(&self) -> usize {
        match &self.kind {
            FrameKind::Output { data, .. } => data.len(),
            _ => 0,
        }
    }

    /// About what the frame costs in memory and in the log, in bytes. Every bound on frames counts this.
    #[must_use]
    pub fn weight(&self) -> usize {
        /// Struct, queue slot and reference count, rounded up.
        const OVERHEAD: usize = 128;
        OVERHEAD
            + match &self.kind {
                FrameKind::Output { data, .. } => data.len(),
                FrameKind::Ended(end) => end.reason.len(),
                _ => 0,
            }
    }
}

//! What every terminal log does alike: whether frames continue their boot, how they are joined into rows, and how pages
//! are made of rows.

use std::sync::Arc;

use bytes::Bytes;
use registry_core::terminal::codec::CodecError;
use registry_core::terminal::{MAX_FRAME_DATA_BYTES, codec};
use registry_core::{Boot, Cursor, Frame, FrameKind};
use thiserror::Error;

use super::log_totals::Amount;
use super::{LogPage, StoreError};

/// About the most data in one row, in bytes. Twice the throughput of a row for each frame of 4 KiB, and still little
/// to read for a reader that wants one frame of it.
pub(super) const ROW_BYTES: usize = 64 * 1024;

/// The greatest boot and seq: above them stand no numbers that anybody counts to, only mistakes.
pub(super) const MAX_NUMBER: u64 = (1 << 62) - 1;

/// A node's newest boots, whose heads are kept although they are over and nothing of them is left: an agent may come
/// back with a frame that was acked before.
pub(super) const BOOTS_KEPT: u32 = 8;

/// Why a run was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Refused {
    #[error("frame {found} does not continue the log, frame {expected} would")]
    NotNext { expected: u64, found: u64 },
    #[error("the run begins after frame {last_seq}, the last that the log has")]
    Behind { last_seq: u64 },
    #[error("the boot ended in the log before this frame")]
    AfterTheEnd,
    #[error("the boot is known as another run of the agent")]
    OtherRun,
    #[error("a boot or a frame's number is above {MAX_NUMBER}")]
    NumberTooLarge,
    #[error("a frame has more than {MAX_FRAME_DATA_BYTES} bytes of output")]
    FrameTooLarge,
}

impl From<Refused> for StoreError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Behind { last_seq } => Self::Behind { last_seq },
            refused => Self::Failed(Arc::new(refused)),
        }
    }
}

/// Where a boot stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) last_seq: u64,
    pub(super) closed: bool,
}

impl Head {
    /// Where the boot stands after these frames, and those of them that are new: an append whose answer was lost comes
    /// again, with more behind it perhaps.
    pub(super) fn follow(self, frames: &[Arc<Frame>]) -> Result<(Self, &[Arc<Frame>]), Refused> {
        if let Some([before, after]) =
            frames.array_windows().find(|[a, b]| end(a).checked_add(1) != Some(b.seq))
        {
            return Err(Refused::NotNext { expected: end(before).saturating_add(1), found: after.seq });
        }
        let is_there = |frame: &&Arc<Frame>| (frame.seq..=self.last_seq).contains(&end(frame));
        let there = frames.iter().take_while(|frame| frame.seq > 0).take_while(is_there).count();
        let new = &frames[there..];
        if there == 0 && !self.closed && new.first().is_some_and(|first| first.seq > self.last_seq + 1) {
            return Err(Refused::Behind { last_seq: self.last_seq });
        }
        Ok((new.iter().try_fold(self, Self::then)?, new))
    }

    fn then(self, frame: &Arc<Frame>) -> Result<Self, Refused> {
        if self.closed {
            return Err(Refused::AfterTheEnd);
        }
        let (expected, last_seq) = (self.last_seq + 1, end(frame));
        if frame.seq != expected || last_seq < frame.seq {
            return Err(Refused::NotNext { expected, found: frame.seq });
        }
        if last_seq > MAX_NUMBER {
            return Err(Refused::NumberTooLarge);
        }
        if frame.data_len() > MAX_FRAME_DATA_BYTES {
            return Err(Refused::FrameTooLarge);
        }
        let closed = matches!(frame.kind, FrameKind::Closed | FrameKind::Gap { last_seq: None, .. });
        Ok(Self { last_seq, closed })
    }
}

/// The last number that a frame stands for; its own where that is the rest of the boot.
fn end(frame: &Frame) -> u64 {
    frame.last_seq().unwrap_or(frame.seq)
}

/// Frames that are stored as one.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) first_seq: u64,
    /// The last number that its last frame stands for; the greatest there is when that is the rest of the boot.
    pub(super) last_seq: u64,
    /// By the node's clock.
    pub(super) first_at_unix_ms: u64,
    pub(super) last_at_unix_ms: u64,
    pub(super) amount: Amount,
    /// Bytes of output alone.
    pub(super) output: u64,
    /// As the codec has it.
    pub(super) data: Vec<u8>,
}

impl Row {
    /// Adds a frame to the row that is being filled; the row before it, when that was full.
    pub(super) fn join(open: &mut Option<Self>, frame: &Frame) -> Option<Self> {
        let full = open.take_if(|row| row.data.len() + frame.weight() > ROW_BYTES);
        let row = open.get_or_insert_with(|| Self {
            first_seq: frame.seq,
            first_at_unix_ms: frame.at_unix_ms,
            ..Self::default()
        });
        codec::encode_into(frame, &mut row.data);
        row.last_seq = frame.last_seq().unwrap_or(u64::MAX);
        row.last_at_unix_ms = frame.at_unix_ms;
        row.output += frame.data_len() as u64;
        row.amount += Amount::of(frame);
        full
    }
}

/// A row that is not what was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum BadRow {
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("the row has {found} frames where it should have {expected}")]
    Count { expected: u64, found: usize },
}

/// The frames of a row that should have so many.
pub(super) fn frames_of(data: Bytes, expected: u64) -> Result<Vec<Frame>, BadRow> {
    let frames = codec::decode_run(data)?;
    if frames.len() as u64 == expected {
        Ok(frames)
    } else {
        Err(BadRow::Count { expected, found: frames.len() })
    }
}

/// A page that is being filled.
pub(super) struct Filling {
    pub(super) page: LogPage,
    after: Cursor,
    bytes: usize,
    max_bytes: usize,
}

impl Filling {
    pub(super) fn new(oldest: Option<Cursor>, after: Cursor, max_bytes: usize) -> Self {
        let page = LogPage { frames: Vec::new(), oldest, at_head: false };
        Self { page, after, bytes: 0, max_bytes }
    }

    /// Nothing more fits; asked before a row is fetched for it.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.max_bytes && !self.page.frames.is_empty()
    }

    /// The number after which frames of a boot are wanted.
    pub(super) fn after_seq(&self, boot: Boot) -> u64 {
        if boot == self.after.boot { self.after.seq } else { 0 }
    }

    /// Takes what is wanted of a row; false when some of it did not fit, and the page is done.
    pub(super) fn take(&mut self, boot: Boot, frames: Vec<Frame>) -> bool {
        let after_seq = self.after_seq(boot);
        for frame in frames {
            if frame.last_seq().unwrap_or(u64::MAX) <= after_seq {
                continue;
            }
            if self.bytes + frame.weight() > self.max_bytes && !self.page.frames.is_empty() {
                return false;
            }
            self.bytes += frame.weight();
            self.page.frames.push((boot, frame.into()));
        }
        true
    }
}

/// The place in a row after which `bytes` of its output follow, or a little more.
pub(super) fn place_before(frames: &[Frame], bytes: u64) -> u64 {
    let mut missing = bytes;
    let first = frames.iter().rev().find(|frame| {
        missing = missing.saturating_sub(frame.data_len() as u64);
        missing == 0
    });
    first.or(frames.first()).map_or(0, |frame| frame.seq.saturating_sub(1))
}

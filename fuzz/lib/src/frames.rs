//! Making frames out of a fuzzer's input: a few steps, gone through again and again, cut them out of the text.

use arbitrary::Arbitrary;
use bytes::Bytes;
use registry_core::{Boot, Frame, FrameKind, GapReason, Stream, TaskEnd, TaskId, TaskOutcome};

/// How many steps there are.
const STEPS: usize = 6;
/// From this length on a step takes all of the text that is left.
const REST: u8 = 250;
/// The most frames that are made: an input that would make more is made slow by that, not interesting.
const MAX_FRAMES: usize = 2048;

/// What the frames are made of. Two bytes a step, so that the text behind them stays readable.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Script {
    steps: [Step; STEPS],
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Step {
    /// From the lowest bits: two for the task, two for the stream, four for the kind.
    what: u8,
    /// How much text goes into it; of other kinds than output their numbers.
    length: u8,
}

impl Script {
    /// The frames with all of `text` as their output.
    pub(crate) fn frames(self, mut text: &[u8]) -> Vec<(Boot, Frame)> {
        let mut frames = Vec::new();
        let (mut boot, mut seq) = (Boot(1), 1);
        let mut steps = self.steps.into_iter().cycle();
        let moves = self.steps.iter().any(|step| step.is_output() && step.length > 0);
        while let Some(step) = steps.next().filter(|_| !text.is_empty() || frames.len() < STEPS) {
            let last = !moves || frames.len() + 1 == MAX_FRAMES;
            let length = if last || step.length >= REST { text.len() } else { step.length.into() };
            let kind = if last { step.output(&mut text, length) } else { step.kind(seq, &mut text, length) };
            let over = matches!(kind, FrameKind::Closed | FrameKind::Gap { last_seq: None, .. });
            let frame = Frame { seq, at_unix_ms: 0, task: step.task(&kind), kind };
            seq = frame.last_seq().map_or(1, |last| last + 1);
            frames.push((boot, frame));
            if over {
                (boot, seq) = (Boot(boot.0 + 1), 1);
            }
        }
        frames
    }
}

impl Step {
    fn is_output(self) -> bool {
        self.what >> 4 < 10
    }

    fn task(self, kind: &FrameKind) -> Option<TaskId> {
        let of_the_node = matches!(kind, FrameKind::Gap { .. } | FrameKind::Closed);
        if of_the_node { None } else { TaskId::from_slice(&[self.what & 3; 16]) }
    }

    fn kind(self, seq: u64, text: &mut &[u8], length: usize) -> FrameKind {
        match self.what >> 4 {
            10 => FrameKind::Started { pid: 1, pty: true },
            11 => FrameKind::Resized { rows: self.length.into(), cols: u16::from(self.length) * 2 },
            12 => FrameKind::Ended(TaskEnd {
                outcome: TaskOutcome::Exited,
                exit_code: Some(self.length.into()),
                signal: None,
                reason: String::new(),
                duration_ms: 1,
            }),
            13 => {
                FrameKind::Gap { last_seq: Some(seq + u64::from(self.length)), reason: GapReason::SpoolFull }
            }
            14 => FrameKind::Gap { last_seq: None, reason: GapReason::AgentLost },
            15 => FrameKind::Closed,
            _ => self.output(text, length),
        }
    }

    fn output(self, text: &mut &[u8], length: usize) -> FrameKind {
        let stream = match self.what >> 2 & 3 {
            0 => Stream::Stdout,
            1 => Stream::Stderr,
            _ => Stream::Pty,
        };
        let (data, rest) = text.split_at(length.min(text.len()));
        *text = rest;
        FrameKind::Output { stream, data: Bytes::copy_from_slice(data) }
    }
}

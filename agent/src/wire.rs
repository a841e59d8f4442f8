//! Frames as the wire has them. Translation only.

use bytes::Bytes;
use muster_proto::v1;
use registry_core::{Boot, Cursor, Frame, FrameKind, GapReason, Stream, TaskEnd, TaskOutcome};

/// A frame as it rides in a batch, for a hub that takes frames of resizes or one that would refuse them. Output is
/// shared, not copied.
pub(crate) fn frame(frame: &Frame, takes_resized: bool) -> v1::Frame {
    use v1::frame::Kind;
    let kind = match &frame.kind {
        FrameKind::Started { pid, pty } => Kind::Started(v1::TaskStarted { pid: *pid, pty: *pty }),
        FrameKind::Output { stream: from, data } => {
            Kind::Output(v1::Output { stream: stream(*from).into(), data: data.clone() })
        }
        FrameKind::Resized { rows, cols } if takes_resized => {
            Kind::Resized(v1::TaskResized { rows: (*rows).into(), cols: (*cols).into() })
        }
        // Nothing, under the frame's number.
        FrameKind::Resized { .. } => {
            Kind::Output(v1::Output { stream: v1::Stream::Pty.into(), data: Bytes::new() })
        }
        FrameKind::Ended(end) => Kind::Ended(ended(end)),
        FrameKind::Gap { last_seq, reason } => {
            Kind::Gap(v1::Gap { last_seq: last_seq.unwrap_or(0), reason: gap_reason(*reason).into() })
        }
        FrameKind::Closed => Kind::Closed(v1::BootClosed {}),
    };
    v1::Frame {
        seq: frame.seq,
        at_unix_ms: frame.at_unix_ms,
        task_id: frame.task.map_or_else(Bytes::new, |task| Bytes::copy_from_slice(task.as_bytes())),
        kind: Some(kind),
    }
}

/// A cursor off the wire; a missing one stands before everything.
pub(crate) fn cursor(cursor: Option<v1::Cursor>) -> Cursor {
    cursor.map_or(Cursor::START, |cursor| Cursor::new(Boot(cursor.boot), cursor.seq))
}

fn ended(end: &TaskEnd) -> v1::TaskEnded {
    v1::TaskEnded {
        outcome: outcome(end.outcome).into(),
        exit_code: end.exit_code,
        signal: end.signal,
        reason: end.reason.clone(),
        duration_ms: end.duration_ms,
    }
}

const fn stream(stream: Stream) -> v1::Stream {
    match stream {
        Stream::Stdout => v1::Stream::Stdout,
        Stream::Stderr => v1::Stream::Stderr,
        Stream::Pty => v1::Stream::Pty,
    }
}

const fn outcome(outcome: TaskOutcome) -> v1::TaskOutcome {
    match outcome {
        TaskOutcome::Exited => v1::TaskOutcome::Exited,
        TaskOutcome::Signaled => v1::TaskOutcome::Signaled,
        TaskOutcome::Cancelled => v1::TaskOutcome::Cancelled,
        TaskOutcome::TimedOut => v1::TaskOutcome::TimedOut,
        TaskOutcome::Rejected => v1::TaskOutcome::Rejected,
        TaskOutcome::FailedToStart => v1::TaskOutcome::FailedToStart,
        TaskOutcome::Expired => v1::TaskOutcome::Expired,
        TaskOutcome::Lost => v1::TaskOutcome::Lost,
    }
}

const fn gap_reason(reason: GapReason) -> v1::GapReason {
    match reason {
        GapReason::SpoolFull => v1::GapReason::SpoolFull,
        GapReason::LogLost => v1::GapReason::LogLost,
        GapReason::AgentLost => v1::GapReason::AgentLost,
        GapReason::Retention => v1::GapReason::Retention,
    }
}

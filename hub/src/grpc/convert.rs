//! Wire messages to our own types and back, both ways, with everything from outside checked.
//!
//! Frames, cursors and what an agent says of itself are here; what people see of nodes, tasks and tokens is in
//! [`views`].

pub mod views;

use muster_proto::MAX_OUTPUT_BYTES;
use muster_proto::v1;
use registry_core::{Boot, Cursor, Frame, FrameKind, GapReason, Stream, TaskEnd, TaskId, TaskOutcome};

use crate::error::{ErrorCode, HubError};
use crate::fleet::{NodeFacts, Stats};

/// The highest frame number, length or time that is taken from outside: half of what the terminal log takes, so that the
/// mark which the hub puts behind a boot's last frame finds its place too. Nobody counts this far.
pub const MAX_NUMBER: u64 = (1 << 61) - 1;

/// The most bytes kept of a reason given by an agent; it is a sentence for people.
pub const MAX_REASON_BYTES: usize = 4 * 1024;

/// The most bytes kept of each fact of a machine.
const MAX_FACT_BYTES: usize = 256;

/// Checks a frame that an agent sent and takes it over, its data without a copy.
///
/// # Errors
/// [`ErrorCode::ProtocolViolation`], saying what is wrong with which frame.
pub fn frame_from_proto(frame: v1::Frame) -> Result<Frame, HubError> {
    let seq = frame.seq;
    let refuse = |what: &str| HubError::new(ErrorCode::ProtocolViolation, format!("frame {seq}: {what}"));
    if seq == 0 || seq > MAX_NUMBER {
        return Err(refuse("its number is not between 1 and 2^61 - 1"));
    }
    let task = match frame.task_id.as_ref() {
        [] => None,
        bytes => Some(TaskId::from_slice(bytes).ok_or_else(|| refuse("its task id has not 16 bytes"))?),
    };
    let kind = match frame.kind.ok_or_else(|| refuse("its kind is missing or unknown"))? {
        v1::frame::Kind::Started(started) => FrameKind::Started { pid: started.pid, pty: started.pty },
        v1::frame::Kind::Output(output) => {
            let stream = stream_from_proto(output.stream).ok_or_else(|| refuse("its stream is unknown"))?;
            if output.data.len() > MAX_OUTPUT_BYTES {
                return Err(refuse("it carries more than 64 KiB of output"));
            }
            FrameKind::Output { stream, data: output.data }
        }
        v1::frame::Kind::Resized(v1::TaskResized { rows, cols }) => {
            let number = |n: u32| u16::try_from(n).ok().filter(|n| *n > 0);
            let size = number(rows).zip(number(cols));
            let (rows, cols) =
                size.ok_or_else(|| refuse("its rows and columns are not between 1 and 65535"))?;
            FrameKind::Resized { rows, cols }
        }
        v1::frame::Kind::Ended(ended) => {
            FrameKind::Ended(end_from_proto(ended).ok_or_else(|| refuse("its outcome is unknown"))?)
        }
        v1::frame::Kind::Gap(gap) => {
            let reason =
                gap_reason_from_proto(gap.reason).ok_or_else(|| refuse("its gap reason is unknown"))?;
            if gap.last_seq != 0 && (gap.last_seq < seq || gap.last_seq > MAX_NUMBER) {
                return Err(refuse("its gap ends before it begins"));
            }
            FrameKind::Gap { last_seq: (gap.last_seq != 0).then_some(gap.last_seq), reason }
        }
        v1::frame::Kind::Closed(v1::BootClosed {}) => FrameKind::Closed,
    };
    let of_the_node = matches!(kind, FrameKind::Gap { .. } | FrameKind::Closed);
    if !of_the_node && task.is_none() {
        return Err(refuse("its kind needs a task and it has none"));
    }
    Ok(Frame { seq, at_unix_ms: frame.at_unix_ms.min(MAX_NUMBER), task, kind })
}

/// A frame for the wire; its data is shared, not copied.
#[must_use]
pub fn frame_to_proto(frame: &Frame) -> v1::Frame {
    let kind = match &frame.kind {
        FrameKind::Started { pid, pty } => v1::frame::Kind::Started(v1::TaskStarted { pid: *pid, pty: *pty }),
        FrameKind::Output { stream, data } => v1::frame::Kind::Output(v1::Output {
            stream: stream_to_proto(*stream).into(),
            data: data.clone(),
        }),
        FrameKind::Resized { rows, cols } => {
            v1::frame::Kind::Resized(v1::TaskResized { rows: (*rows).into(), cols: (*cols).into() })
        }
        FrameKind::Ended(end) => v1::frame::Kind::Ended(v1::TaskEnded {
            outcome: outcome_to_proto(end.outcome).into(),
            exit_code: end.exit_code,
            signal: end.signal,
            reason: end.reason.clone(),
            duration_ms: end.duration_ms,
        }),
        FrameKind::Gap { last_seq, reason } => v1::frame::Kind::Gap(v1::Gap {
            last_seq: last_seq.unwrap_or(0),
            reason: gap_reason_to_proto(*reason).into(),
        }),
        FrameKind::Closed => v1::frame::Kind::Closed(v1::BootClosed {}),
    };
    v1::Frame {
        seq: frame.seq,
        at_unix_ms: frame.at_unix_ms,
        task_id: frame.task.map_or_else(Default::default, |task| task_id_to_proto(&task)),
        kind: Some(kind),
    }
}

/// A task's id as the 16 bytes of the wire.
#[must_use]
pub fn task_id_to_proto(task: &TaskId) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(task.as_bytes())
}

/// A cursor for the wire.
#[must_use]
pub const fn cursor_to_proto(cursor: Cursor) -> v1::Cursor {
    v1::Cursor { boot: cursor.boot.0, seq: cursor.seq }
}

/// A cursor from the wire; every pair of numbers is one.
#[must_use]
pub const fn cursor_from_proto(cursor: v1::Cursor) -> Cursor {
    Cursor::new(Boot(cursor.boot), cursor.seq)
}

/// An outcome for the wire.
#[must_use]
pub const fn outcome_to_proto(outcome: TaskOutcome) -> v1::TaskOutcome {
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

/// What a machine is, cut to what is kept.
#[must_use]
pub fn facts_from_proto(facts: v1::NodeFacts) -> NodeFacts {
    let cut = |text: String| cut(text, MAX_FACT_BYTES);
    NodeFacts {
        hostname: cut(facts.hostname),
        os: cut(facts.os),
        arch: cut(facts.arch),
        kernel: cut(facts.kernel),
        cpus: facts.cpus,
        memory_bytes: facts.memory_bytes,
    }
}

/// What a machine is, for the wire.
#[must_use]
pub fn facts_to_proto(facts: &NodeFacts) -> v1::NodeFacts {
    v1::NodeFacts {
        hostname: facts.hostname.clone(),
        os: facts.os.clone(),
        arch: facts.arch.clone(),
        kernel: facts.kernel.clone(),
        cpus: facts.cpus,
        memory_bytes: facts.memory_bytes,
    }
}

/// A heartbeat's stats. Numbers that are none (JSON has no way to say them) become 0.
#[must_use]
pub fn stats_from_proto(stats: &v1::Stats) -> Stats {
    let finite = |number: f64| if number.is_finite() { number } else { 0.0 };
    Stats {
        cpu_ratio: finite(stats.cpu_ratio),
        memory_used_bytes: stats.memory_used_bytes,
        memory_total_bytes: stats.memory_total_bytes,
        load_1m: finite(stats.load_1m),
        disk_used_bytes: stats.disk_used_bytes,
        disk_total_bytes: stats.disk_total_bytes,
        running_tasks: stats.running_tasks,
        uptime_seconds: stats.uptime_seconds,
        spool_bytes: stats.spool_bytes,
        spool_oldest_ms: stats.spool_oldest_ms,
    }
}

/// Stats for the wire.
#[must_use]
pub fn stats_to_proto(stats: &Stats) -> v1::Stats {
    v1::Stats {
        cpu_ratio: stats.cpu_ratio,
        memory_used_bytes: stats.memory_used_bytes,
        memory_total_bytes: stats.memory_total_bytes,
        load_1m: stats.load_1m,
        disk_used_bytes: stats.disk_used_bytes,
        disk_total_bytes: stats.disk_total_bytes,
        running_tasks: stats.running_tasks,
        uptime_seconds: stats.uptime_seconds,
        spool_bytes: stats.spool_bytes,
        spool_oldest_ms: stats.spool_oldest_ms,
    }
}

/// Cuts a text to at most `max` bytes, between characters.
#[must_use]
pub fn cut(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text
}

fn end_from_proto(ended: v1::TaskEnded) -> Option<TaskEnd> {
    let outcome = match v1::TaskOutcome::try_from(ended.outcome).ok()? {
        v1::TaskOutcome::Unspecified => return None,
        v1::TaskOutcome::Exited => TaskOutcome::Exited,
        v1::TaskOutcome::Signaled => TaskOutcome::Signaled,
        v1::TaskOutcome::Cancelled => TaskOutcome::Cancelled,
        v1::TaskOutcome::TimedOut => TaskOutcome::TimedOut,
        v1::TaskOutcome::Rejected => TaskOutcome::Rejected,
        v1::TaskOutcome::FailedToStart => TaskOutcome::FailedToStart,
        v1::TaskOutcome::Expired => TaskOutcome::Expired,
        v1::TaskOutcome::Lost => TaskOutcome::Lost,
    };
    Some(TaskEnd {
        outcome,
        exit_code: ended.exit_code,
        signal: ended.signal,
        reason: cut(ended.reason, MAX_REASON_BYTES),
        duration_ms: ended.duration_ms.min(MAX_NUMBER),
    })
}

fn stream_from_proto(stream: i32) -> Option<Stream> {
    match v1::Stream::try_from(stream).ok()? {
        v1::Stream::Unspecified => None,
        v1::Stream::Stdout => Some(Stream::Stdout),
        v1::Stream::Stderr => Some(Stream::Stderr),
        v1::Stream::Pty => Some(Stream::Pty),
    }
}

const fn stream_to_proto(stream: Stream) -> v1::Stream {
    match stream {
        Stream::Stdout => v1::Stream::Stdout,
        Stream::Stderr => v1::Stream::Stderr,
        Stream::Pty => v1::Stream::Pty,
    }
}

fn gap_reason_from_proto(reason: i32) -> Option<GapReason> {
    match v1::GapReason::try_from(reason).ok()? {
        v1::GapReason::Unspecified => None,
        v1::GapReason::SpoolFull => Some(GapReason::SpoolFull),
        v1::GapReason::LogLost => Some(GapReason::LogLost),
        v1::GapReason::AgentLost => Some(GapReason::AgentLost),
        v1::GapReason::Retention => Some(GapReason::Retention),
    }
}

const fn gap_reason_to_proto(reason: GapReason) -> v1::GapReason {
    match reason {
        GapReason::SpoolFull => v1::GapReason::SpoolFull,
        GapReason::LogLost => v1::GapReason::LogLost,
        GapReason::AgentLost => v1::GapReason::AgentLost,
        GapReason::Retention => v1::GapReason::Retention,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn any_kind() -> impl Strategy<Value = FrameKind> {
        let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr), Just(Stream::Pty)];
        let reason = prop_oneof![
            Just(GapReason::SpoolFull),
            Just(GapReason::LogLost),
            Just(GapReason::AgentLost),
            Just(GapReason::Retention)
        ];
        let outcome = prop::sample::select(&TaskOutcome::ALL[..]);
        prop_oneof![
            (any::<u32>(), any::<bool>()).prop_map(|(pid, pty)| FrameKind::Started { pid, pty }),
            (stream, prop::collection::vec(any::<u8>(), 0..100))
                .prop_map(|(stream, data)| FrameKind::Output { stream, data: data.into() }),
            (1..=u16::MAX, 1..=u16::MAX).prop_map(|(rows, cols)| FrameKind::Resized { rows, cols }),
            (outcome, any::<Option<u32>>(), any::<Option<u32>>(), ".{0,20}").prop_map(
                |(outcome, exit_code, signal, reason)| {
                    FrameKind::Ended(TaskEnd { outcome, exit_code, signal, reason, duration_ms: 7 })
                }
            ),
            (any::<bool>(), reason)
                .prop_map(|(known, reason)| FrameKind::Gap { last_seq: known.then_some(MAX_NUMBER), reason }),
            Just(FrameKind::Closed),
        ]
    }

    proptest! {
        #[test]
        fn a_frame_comes_back_as_it_went(seq in 1..=MAX_NUMBER, task in any::<[u8; 16]>(), kind in any_kind()) {
            let frame = Frame { seq, at_unix_ms: 9, task: TaskId::from_slice(&task), kind };
            prop_assert_eq!(frame_from_proto(frame_to_proto(&frame)).unwrap(), frame);
        }
    }

    #[test]
    fn frames_that_break_the_rules_are_refused() {
        let good = frame_to_proto(&Frame {
            seq: 5,
            at_unix_ms: 1,
            task: TaskId::from_slice(&[7; 16]),
            kind: FrameKind::Output { stream: Stream::Pty, data: Bytes::from_static(b"x") },
        });
        assert!(frame_from_proto(good.clone()).is_ok());
        let output = |stream: i32, len: usize| {
            Some(v1::frame::Kind::Output(v1::Output { stream, data: vec![0; len].into() }))
        };
        let gap = |last_seq, reason| Some(v1::frame::Kind::Gap(v1::Gap { last_seq, reason }));
        let resized = |rows, cols| Some(v1::frame::Kind::Resized(v1::TaskResized { rows, cols }));
        let bad = [
            v1::Frame { seq: 0, ..good.clone() },
            v1::Frame { seq: u64::MAX, ..good.clone() },
            v1::Frame { task_id: vec![7; 15].into(), ..good.clone() },
            v1::Frame { task_id: Bytes::new(), ..good.clone() },
            v1::Frame { kind: None, ..good.clone() },
            v1::Frame { kind: output(0, 1), ..good.clone() },
            v1::Frame { kind: output(99, 1), ..good.clone() },
            v1::Frame { kind: output(1, MAX_OUTPUT_BYTES + 1), ..good.clone() },
            v1::Frame { kind: gap(4, 1), ..good.clone() },
            v1::Frame { kind: resized(0, 80), ..good.clone() },
            v1::Frame { kind: resized(24, 65_536), ..good.clone() },
            v1::Frame { kind: resized(24, 80), task_id: Bytes::new(), ..good.clone() },
            v1::Frame { kind: gap(u64::MAX, 1), ..good.clone() },
            v1::Frame { kind: gap(5, 0), ..good.clone() },
            v1::Frame { kind: Some(v1::frame::Kind::Ended(v1::TaskEnded::default())), ..good.clone() },
        ];
        for frame in bad {
            let error = frame_from_proto(frame.clone()).expect_err(&format!("{frame:?}"));
            assert_eq!(error.code(), ErrorCode::ProtocolViolation);
        }
        assert!(frame_from_proto(v1::Frame { kind: gap(5, 1), ..good.clone() }).is_ok());
        assert!(frame_from_proto(v1::Frame { kind: output(1, MAX_OUTPUT_BYTES), ..good }).is_ok());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let ended = v1::TaskEnded { outcome: 1, reason: "é".repeat(MAX_REASON_BYTES), ..Default::default() };
        let end = end_from_proto(ended).unwrap();
        assert_eq!(end.reason.len(), MAX_REASON_BYTES);
        assert_eq!(cut("aé".to_owned(), 2), "a");
    }

    #[test]
    fn stats_are_numbers() {
        let stats = stats_from_proto(&v1::Stats {
            cpu_ratio: f64::NAN,
            load_1m: f64::INFINITY,
            ..Default::default()
        });
        assert_eq!((stats.cpu_ratio, stats.load_1m), (0.0, 0.0));
    }
}

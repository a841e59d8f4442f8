//! Runs of frames as bytes for storage: compact, versioned, and read back without copying output.
//!
//! A run is one version byte and then one or more frames; numbers are LEB128 varints in their shortest form.
//!
//! ```text
//! run     version:u8 frame+
//! frame   tag:u8 seq:varint at_unix_ms:varint [task: 16 bytes, if tag & 0x80] body
//! body    1 started   pid:varint pty:u8
//!         2 stdout, 3 stderr, 4 pty      length:varint data
//!         5 ended     outcome:u8 has:u8 [exit_code:varint, if has & 1] [signal:varint, if has & 2]
//!                     duration_ms:varint length:varint reason
//!         6 gap       reason:u8 [last_seq:varint, if reason & 0x80]
//!         7 closed
//!         8 resized   length:varint rows:varint cols:varint
//! ```
//!
//! From 8 on a body says its length first, so that a release can read past the kinds of later ones: to it such a frame
//! is a gap of one. Each frame has exactly one encoding, so that what decodes, but for those, encodes to the same bytes. The numbers in this file are
//! on disk: none may change its meaning; a new layout takes a new version.

use bytes::{Buf, Bytes};
use thiserror::Error;

use super::{Frame, FrameKind, GapReason, Stream};
use crate::id::TaskId;
use crate::task::{TaskEnd, TaskOutcome};

/// The layout that is written. Readers keep understanding every version before it.
pub const VERSION: u8 = 1;

const HAS_TASK: u8 = 0x80;
const STARTED: u8 = 1;
const STDOUT: u8 = 2;
const STDERR: u8 = 3;
const PTY: u8 = 4;
const ENDED: u8 = 5;
const GAP: u8 = 6;
const CLOSED: u8 = 7;
const RESIZED: u8 = 8;
/// Kinds that this release does not know begin here.
const LATER: u8 = 9;

const HAS_EXIT_CODE: u8 = 1;
const HAS_SIGNAL: u8 = 2;
const HAS_LAST_SEQ: u8 = 0x80;

/// Bytes that are not a run of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes end inside a frame, or before the first one.
    #[error("the run ends inside a frame")]
    Truncated,
    /// Written by a newer release.
    #[error("the run has layout {version}, this release reads up to {VERSION}")]
    UnknownVersion {
        /// The version byte.
        version: u8,
    },
    /// A tag, outcome, reason or flag that this layout does not have.
    #[error("{value} is no {what}")]
    UnknownValue {
        /// What it should say.
        what: &'static str,
        /// The byte.
        value: u8,
    },
    /// A number that is too large for its field, or not in its shortest form.
    #[error("a number is out of range or not in its shortest form")]
    BadNumber,
    /// A reason that is not UTF-8.
    #[error("a task's reason is not text")]
    BadText,
}

/// Appends a frame to a run; an empty `out` is begun as a new one. One `out`, one run: runs cannot be joined by
/// joining their bytes.
pub fn encode_into(frame: &Frame, out: &mut Vec<u8>) {
    if out.is_empty() {
        out.push(VERSION);
    }
    out.reserve(frame.weight());
    let task_flag = if frame.task.is_some() { HAS_TASK } else { 0 };
    out.push(tag(&frame.kind) | task_flag);
    put_varint(out, frame.seq);
    put_varint(out, frame.at_unix_ms);
    if let Some(task) = &frame.task {
        out.extend_from_slice(task.as_bytes());
    }
    match &frame.kind {
        FrameKind::Started { pid, pty } => {
            put_varint(out, (*pid).into());
            out.push(u8::from(*pty));
        }
        FrameKind::Output { data, .. } => put_bytes(out, data),
        FrameKind::Resized { rows, cols } => put_size(out, *rows, *cols),
        FrameKind::Ended(end) => put_end(out, end),
        FrameKind::Gap { last_seq, reason } => {
            let known = if last_seq.is_some() { HAS_LAST_SEQ } else { 0 };
            out.push(gap_reason_number(*reason) | known);
            if let Some(last_seq) = last_seq {
                put_varint(out, *last_seq);
            }
        }
        FrameKind::Closed => {}
    }
}

/// Reads a run back. Output is not copied: each frame's data is a slice of `run` and keeps all of it in memory.
///
/// Memory is bounded by the run's length (a frame takes 3 bytes at least). A run that was cut exactly between two
/// frames reads as the shorter run: whoever stores runs keeps their frame count or last number beside them.
///
/// # Errors
/// [`CodecError`] when the bytes are not a run of frames; nothing of it is returned then.
pub fn decode_run(run: Bytes) -> Result<Vec<Frame>, CodecError> {
    let mut reader = Reader { rest: run };
    match reader.u8()? {
        VERSION => {}
        version => return Err(CodecError::UnknownVersion { version }),
    }
    let mut frames = vec![reader.frame()?];
    while !reader.rest.is_empty() {
        frames.push(reader.frame()?);
    }
    Ok(frames)
}

const fn tag(kind: &FrameKind) -> u8 {
    match kind {
        FrameKind::Started { .. } => STARTED,
        FrameKind::Output { stream: Stream::Stdout, .. } => STDOUT,
        FrameKind::Output { stream: Stream::Stderr, .. } => STDERR,
        FrameKind::Output { stream: Stream::Pty, .. } => PTY,
        FrameKind::Resized { .. } => RESIZED,
        FrameKind::Ended(_) => ENDED,
        FrameKind::Gap { .. } => GAP,
        FrameKind::Closed => CLOSED,
    }
}

const fn outcome_number(outcome: TaskOutcome) -> u8 {
    match outcome {
        TaskOutcome::Exited => 1,
        TaskOutcome::Signaled => 2,
        TaskOutcome::Cancelled => 3,
        TaskOutcome::TimedOut => 4,
        TaskOutcome::Rejected => 5,
        TaskOutcome::FailedToStart => 6,
        TaskOutcome::Expired => 7,
        TaskOutcome::Lost => 8,
    }
}

const fn gap_reason_number(reason: GapReason) -> u8 {
    match reason {
        GapReason::SpoolFull => 1,
        GapReason::LogLost => 2,
        GapReason::AgentLost => 3,
        GapReason::Retention => 4,
    }
}

fn put_end(out: &mut Vec<u8>, end: &TaskEnd) {
    let has_exit_code = if end.exit_code.is_some() { HAS_EXIT_CODE } else { 0 };
    let has_signal = if end.signal.is_some() { HAS_SIGNAL } else { 0 };
    out.push(outcome_number(end.outcome));
    out.push(has_exit_code | has_signal);
    for number in [end.exit_code, end.signal].into_iter().flatten() {
        put_varint(out, number.into());
    }
    put_varint(out, end.duration_ms);
    put_bytes(out, end.reason.as_bytes());
}

fn put_size(out: &mut Vec<u8>, rows: u16, cols: u16) {
    let mut body = Vec::with_capacity(6);
    put_varint(&mut body, rows.into());
    put_varint(&mut body, cols.into());
    put_bytes(out, &body);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[allow(clippy::cast_possible_truncation, reason = "the low seven bits are what is meant")]
fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct Reader {
    rest: Bytes,
}

impl Reader {
    fn frame(&mut self) -> Result<Frame, CodecError> {
        let tag = self.u8()?;
        let seq = self.varint()?;
        let at_unix_ms = self.varint()?;
        let task = if tag & HAS_TASK != 0 { TaskId::from_slice(&self.take(16)?) } else { None };
        let kind = match tag & !HAS_TASK {
            STARTED => FrameKind::Started { pid: self.varint_u32()?, pty: self.bool()? },
            STDOUT => FrameKind::Output { stream: Stream::Stdout, data: self.bytes()? },
            STDERR => FrameKind::Output { stream: Stream::Stderr, data: self.bytes()? },
            PTY => FrameKind::Output { stream: Stream::Pty, data: self.bytes()? },
            ENDED => FrameKind::Ended(self.end()?),
            GAP => self.gap()?,
            CLOSED => FrameKind::Closed,
            RESIZED => self.resized()?,
            LATER.. => return self.unknown(seq, at_unix_ms),
            value => return Err(CodecError::UnknownValue { what: "kind of frame", value }),
        };
        Ok(Frame { seq, at_unix_ms, task, kind })
    }

    fn resized(&mut self) -> Result<FrameKind, CodecError> {
        let mut body = Self { rest: self.bytes()? };
        let (rows, cols) = (body.varint_u16()?, body.varint_u16()?);
        if body.rest.is_empty() { Ok(FrameKind::Resized { rows, cols }) } else { Err(CodecError::BadNumber) }
    }

    /// A frame of a kind that came after this release.
    fn unknown(&mut self, seq: u64, at_unix_ms: u64) -> Result<Frame, CodecError> {
        self.bytes()?;
        let kind = FrameKind::Gap { last_seq: Some(seq), reason: GapReason::LogLost };
        Ok(Frame { seq, at_unix_ms, task: None, kind })
    }

    fn end(&mut self) -> Result<TaskEnd, CodecError> {
        let number = self.u8()?;
        let outcome = TaskOutcome::ALL
            .into_iter()
            .find(|outcome| outcome_number(*outcome) == number)
            .ok_or(CodecError::UnknownValue { what: "outcome of a task", value: number })?;
        let has = self.u8()?;
        if has & !(HAS_EXIT_CODE | HAS_SIGNAL) != 0 {
            return Err(CodecError::UnknownValue { what: "set of an end's fields", value: has });
        }
        let exit_code = if has & HAS_EXIT_CODE != 0 { Some(self.varint_u32()?) } else { None };
        let signal = if has & HAS_SIGNAL != 0 { Some(self.varint_u32()?) } else { None };
        let duration_ms = self.varint()?;
        let reason = self.bytes()?;
        let reason = std::str::from_utf8(&reason).map_err(|_| CodecError::BadText)?.to_owned();
        Ok(TaskEnd { outcome, exit_code, signal, reason, duration_ms })
    }

    fn gap(&mut self) -> Result<FrameKind, CodecError> {
        let number = self.u8()?;
        let reason = match number & !HAS_LAST_SEQ {
            1 => GapReason::SpoolFull,
            2 => GapReason::LogLost,
            3 => GapReason::AgentLost,
            4 => GapReason::Retention,
            value => return Err(CodecError::UnknownValue { what: "reason of a gap", value }),
        };
        let last_seq = if number & HAS_LAST_SEQ != 0 { Some(self.varint()?) } else { None };
        Ok(FrameKind::Gap { last_seq, reason })
    }

    fn bytes(&mut self) -> Result<Bytes, CodecError> {
        let len = usize::try_from(self.varint()?).map_err(|_| CodecError::BadNumber)?;
        self.take(len)
    }

    fn take(&mut self, len: usize) -> Result<Bytes, CodecError> {
        if len > self.rest.len() {
            return Err(CodecError::Truncated);
        }
        Ok(self.rest.split_to(len))
    }

    fn u8(&mut self) -> Result<u8, CodecError> {
        self.rest.try_get_u8().map_err(|_| CodecError::Truncated)
    }

    fn bool(&mut self) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(CodecError::UnknownValue { what: "yes or no", value }),
        }
    }

    fn varint_u16(&mut self) -> Result<u16, CodecError> {
        u16::try_from(self.varint()?).map_err(|_| CodecError::BadNumber)
    }

    fn varint_u32(&mut self) -> Result<u32, CodecError> {
        u32::try_from(self.varint()?).map_err(|_| CodecError::BadNumber)
    }

    fn varint(&mut self) -> Result<u64, CodecError> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return Err(CodecError::BadNumber);
            }
            number |= bits << shift;
            if byte < 0x80 {
                let shortest = byte != 0 || shift == 0;
                return if shortest { Ok(number) } else { Err(CodecError::BadNumber) };
            }
        }
        Err(CodecError::BadNumber)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(frames: &[Frame]) -> Bytes {
        let mut out = Vec::new();
        for frame in frames {
            encode_into(frame, &mut out);
        }
        out.into()
    }

    fn one_of_each() -> Vec<Frame> {
        let task = TaskId::from_slice(&[7; 16]);
        let end = TaskEnd {
            outcome: TaskOutcome::Signaled,
            exit_code: Some(3),
            signal: Some(9),
            reason: "út".into(),
            duration_ms: u64::MAX,
        };
        let data = Bytes::from_static(b"out\x1b[m\0");
        let kinds = vec![
            FrameKind::Started { pid: u32::MAX, pty: true },
            FrameKind::Output { stream: Stream::Stdout, data: data.clone() },
            FrameKind::Output { stream: Stream::Stderr, data: Bytes::new() },
            FrameKind::Output { stream: Stream::Pty, data },
            FrameKind::Resized { rows: 50, cols: u16::MAX },
            FrameKind::Ended(end),
            FrameKind::Gap { last_seq: Some(300), reason: GapReason::Retention },
            FrameKind::Gap { last_seq: None, reason: GapReason::LogLost },
            FrameKind::Closed,
        ];
        let frame = |(seq, kind)| Frame { seq, at_unix_ms: 1_763_880_000_000, task, kind };
        (127..).zip(kinds).map(frame).collect()
    }

    /// What is on disk must stay readable: if this fails, the layout changed and needs a new version.
    #[test]
    fn the_bytes_on_disk_are_these() {
        let frame = Frame {
            seq: 300,
            at_unix_ms: 5,
            task: TaskId::from_slice(&[0xAB; 16]),
            kind: FrameKind::Output { stream: Stream::Stderr, data: Bytes::from_static(b"hi") },
        };
        let mut expected = vec![1, 0x83, 0xAC, 0x02, 5];
        expected.extend([0xAB; 16]);
        expected.extend([2, b'h', b'i']);
        assert_eq!(encode(&[frame]), expected);

        let end = FrameKind::Ended(TaskEnd::without_process(TaskOutcome::Lost, "x"));
        let gap = FrameKind::Gap { last_seq: Some(9), reason: GapReason::AgentLost };
        let frame = |kind| Frame { seq: 1, at_unix_ms: 2, task: None, kind };
        let run = encode(&[frame(end), frame(gap), frame(FrameKind::Closed)]);
        assert_eq!(&run[..], [1, 5, 1, 2, 8, 0, 0, 1, b'x', 6, 1, 2, 0x83, 9, 7, 1, 2]);
        let run = encode(&[frame(FrameKind::Resized { rows: 50, cols: 132 })]);
        assert_eq!(&run[..], [1, 8, 1, 2, 3, 50, 0x84, 1]);
    }

    #[test]
    fn kinds_of_later_releases_are_gaps_and_what_follows_is_read() {
        let run = [&[1, 0x80 | 9, 4, 2][..], &[0; 16], &[3, 7, 7, 7, 7, 5, 2]].concat();
        let frame = |seq, kind| Frame { seq, at_unix_ms: 2, task: None, kind };
        let gap = FrameKind::Gap { last_seq: Some(4), reason: GapReason::LogLost };
        assert_eq!(decode_run(run[..22].to_vec().into()), Err(CodecError::Truncated));
        assert_eq!(decode_run(run.into()), Ok(vec![frame(4, gap), frame(5, FrameKind::Closed)]));
    }

    #[test]
    fn output_is_a_slice_of_the_run() {
        let run = encode(&one_of_each());
        let frames = decode_run(run.clone()).unwrap();
        assert_eq!(frames, one_of_each());
        let FrameKind::Output { data, .. } = &frames[1].kind else { panic!("not output") };
        assert!(run.as_ptr_range().contains(&data.as_ptr()));
    }

    #[test]
    fn a_run_cut_anywhere_is_refused_or_is_its_beginning() {
        let frames = one_of_each();
        let ends: Vec<usize> = (1..=frames.len()).map(|n| encode(&frames[..n]).len()).collect();
        let run = encode(&frames);
        for cut in 0..run.len() {
            let read = decode_run(run.slice(..cut));
            match ends.iter().position(|end| *end == cut) {
                Some(n) => assert_eq!(read.unwrap(), frames[..=n]),
                None => assert_eq!(read, Err(CodecError::Truncated), "cut at {cut}"),
            }
        }
    }

    #[test]
    fn what_it_does_not_know_is_refused() {
        let unknown = |what, value| Err(CodecError::UnknownValue { what, value });
        let read = |bytes: &'static [u8]| decode_run(Bytes::from_static(bytes));
        assert_eq!(read(&[2, 7, 1, 1]), Err(CodecError::UnknownVersion { version: 2 }));
        assert_eq!(read(&[1, 0, 1, 1]), unknown("kind of frame", 0));
        assert_eq!(read(&[1, 1, 1, 1, 1, 2]), unknown("yes or no", 2));
        assert_eq!(read(&[1, 8, 1, 1, 3, 50, 80, 0]), Err(CodecError::BadNumber), "more than a size");
        assert_eq!(read(&[1, 8, 1, 1, 1, 50]), Err(CodecError::Truncated), "less than a size");
        assert_eq!(read(&[1, 5, 1, 1, 9, 0]), unknown("outcome of a task", 9));
        assert_eq!(read(&[1, 5, 1, 1, 1, 4]), unknown("set of an end's fields", 4));
        assert_eq!(read(&[1, 6, 1, 1, 0x80]), unknown("reason of a gap", 0));
        assert_eq!(read(&[1, 5, 1, 1, 1, 0, 0, 1, 0xFF]), Err(CodecError::BadText));
    }

    #[test]
    fn numbers_have_one_form_and_fit() {
        let read = |bytes: &'static [u8]| decode_run(Bytes::from_static(bytes));
        assert_eq!(read(&[1, 7, 0x81, 0x00, 1]), Err(CodecError::BadNumber), "longer than needed");
        let max = &[1, 7, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 1];
        assert_eq!(read(max).unwrap()[0].seq, u64::MAX);
        let more = &[1, 7, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02, 1];
        assert_eq!(read(more), Err(CodecError::BadNumber));
        let eleven = &[1, 7, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x81, 0, 1];
        assert_eq!(read(eleven), Err(CodecError::BadNumber));
        let pid = &[1, 1, 1, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F, 1];
        assert_eq!(read(pid), Err(CodecError::BadNumber), "a process id has 32 bits");
        let claims_too_much = &[1, 2, 1, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        assert_eq!(read(claims_too_much), Err(CodecError::Truncated));
    }

    fn any_kind() -> impl Strategy<Value = FrameKind> {
        let data = || prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        let stream = prop::sample::select(vec![Stream::Stdout, Stream::Stderr, Stream::Pty]);
        let outcome = prop::sample::select(TaskOutcome::ALL.to_vec());
        let reasons =
            vec![GapReason::SpoolFull, GapReason::LogLost, GapReason::AgentLost, GapReason::Retention];
        let end = (outcome, any::<Option<u32>>(), any::<Option<u32>>(), ".{0,40}", any::<u64>());
        prop_oneof![
            (any::<u32>(), any::<bool>()).prop_map(|(pid, pty)| FrameKind::Started { pid, pty }),
            (stream, data()).prop_map(|(stream, data)| FrameKind::Output { stream, data }),
            end.prop_map(|(outcome, exit_code, signal, reason, duration_ms)| {
                FrameKind::Ended(TaskEnd { outcome, exit_code, signal, reason, duration_ms })
            }),
            (any::<Option<u64>>(), prop::sample::select(reasons))
                .prop_map(|(last_seq, reason)| FrameKind::Gap { last_seq, reason }),
            any::<(u16, u16)>().prop_map(|(rows, cols)| FrameKind::Resized { rows, cols }),
            Just(FrameKind::Closed),
        ]
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        (any::<u64>(), any::<u64>(), any::<Option<[u8; 16]>>(), any_kind()).prop_map(
            |(seq, at_unix_ms, task, kind)| {
                let task = task.and_then(|bytes| TaskId::from_slice(&bytes));
                Frame { seq, at_unix_ms, task, kind }
            },
        )
    }

    fn stands_for_an_unknown_kind(frame: &Frame) -> bool {
        frame.kind == FrameKind::Gap { last_seq: Some(frame.seq), reason: GapReason::LogLost }
    }

    proptest! {
        #[test]
        fn frames_come_back_as_they_were(frames in prop::collection::vec(any_frame(), 1..12)) {
            prop_assert_eq!(decode_run(encode(&frames)).unwrap(), frames);
        }

        #[test]
        fn hostile_bytes_are_refused_or_have_one_meaning(
            frames in prop::collection::vec(any_frame(), 1..4),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut run = encode(&frames).to_vec();
            for (at, byte) in damage {
                let at = at.index(run.len());
                run[at] = byte;
            }
            if let Ok(read) = decode_run(Bytes::from(run.clone())) {
                let again = encode(&read);
                prop_assert!(again == run || read.iter().any(stands_for_an_unknown_kind));
                prop_assert_eq!(decode_run(again).unwrap(), read);
            }
        }
    }
}

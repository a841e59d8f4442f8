//! What is read back from disk and from people: runs of frames, cursors, positions, ids and selectors.
//!
//! Input: three times the same bytes: as a run of frames, as text, and as what frames are made of.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use registry_core::selector::MAX_SELECTOR_BYTES;
use registry_core::terminal::codec::{decode_run, encode_into};
use registry_core::{
    Boot, Cursor, Frame, FrameKind, GapReason, NodeId, Position, Selector, Stream, TaskEnd, TaskId,
    TaskOutcome, UserId,
};

/// The most frames that are made of one input.
const MAX_FRAMES: usize = 64;

/// Runs the target.
///
/// # Panics
/// When something does not come back as it was.
pub fn run(data: &[u8]) {
    decode(data);
    if let Ok(text) = std::str::from_utf8(data) {
        parse(text);
    }
    // Runs out of bytes at some point: that is the end of the run.
    let (mut u, mut frames) = (Unstructured::new(data), Vec::new());
    while let Some(frame) = any_frame(&mut u).ok().filter(|_| frames.len() < MAX_FRAMES && !u.is_empty()) {
        frames.push(frame);
    }
    come_back(&frames);
}

/// Any bytes: refused, or frames, which have one encoding.
fn decode(data: &[u8]) {
    let Ok(frames) = decode_run(Bytes::copy_from_slice(data)) else { return };
    let encoded = encode(&frames);
    // Kinds of later releases are gaps to this one.
    if encoded != data {
        let is_gap = |frame: &Frame| matches!(frame.kind, FrameKind::Gap { last_seq: Some(last), .. } if last == frame.seq);
        assert!(frames.iter().any(is_gap), "{frames:?} has two encodings");
    }
    assert_eq!(decode_run(encoded.into()).as_ref(), Ok(&frames));
}

/// Any frames: what was written is read.
fn come_back(frames: &[Frame]) {
    if frames.is_empty() {
        return;
    }
    let run = Bytes::from(encode(frames));
    assert_eq!(decode_run(run.clone()).as_deref(), Ok(frames));
    let shorter = run.len() - 1;
    if let Ok(fewer) = decode_run(run.slice(..shorter)) {
        assert!(fewer.len() < frames.len(), "a run that was cut has as many frames");
    }
    for frame in frames {
        same_text(&frame.cursor(Boot(frame.at_unix_ms)));
        frame.task.iter().for_each(same_text);
    }
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut run = Vec::new();
    frames.iter().for_each(|frame| encode_into(frame, &mut run));
    run
}

/// Any text: refused, or something that is written as it was read or is written so from then on.
fn parse(text: &str) {
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text);
    }
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.to_string(), text);
    }
    if let Ok(id) = NodeId::new(text) {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = UserId::new(text) {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(task) = text.parse::<TaskId>() {
        same_text(&task);
        assert_eq!(TaskId::from_slice(task.as_bytes()), Some(task));
    }
    if let Ok(selector) = Selector::parse(text)
        && selector.to_string().len() <= MAX_SELECTOR_BYTES
    {
        same_text(&selector);
    }
}

/// What is written is read as the same.
fn same_text<T: FromStr<Err: Debug> + Display + Debug + PartialEq>(value: &T) {
    let text = value.to_string();
    let read = text.parse::<T>();
    assert!(read.as_ref().is_ok_and(|read| read == value), "{value:?} became {text:?} and that {read:?}");
}

fn any_frame(u: &mut Unstructured<'_>) -> Result<Frame> {
    let task = u.arbitrary::<Option<[u8; 16]>>()?.and_then(|bytes| TaskId::from_slice(&bytes));
    Ok(Frame { seq: any_number(u)?, at_unix_ms: any_number(u)?, task, kind: any_kind(u)? })
}

fn any_kind(u: &mut Unstructured<'_>) -> Result<FrameKind> {
    const STREAMS: [Stream; 3] = [Stream::Stdout, Stream::Stderr, Stream::Pty];
    const REASONS: [GapReason; 4] =
        [GapReason::SpoolFull, GapReason::LogLost, GapReason::AgentLost, GapReason::Retention];
    Ok(match u.int_in_range(0..=5)? {
        0 => FrameKind::Started { pid: u.arbitrary()?, pty: u.arbitrary()? },
        1 => {
            let stream = *u.choose(&STREAMS)?;
            FrameKind::Output { stream, data: Bytes::copy_from_slice(u.arbitrary()?) }
        }
        2 => FrameKind::Resized { rows: u.arbitrary()?, cols: u.arbitrary()? },
        3 => FrameKind::Ended(TaskEnd {
            outcome: *u.choose(&TaskOutcome::ALL)?,
            exit_code: u.arbitrary()?,
            signal: u.arbitrary()?,
            reason: u.arbitrary()?,
            duration_ms: any_number(u)?,
        }),
        4 => FrameKind::Gap { last_seq: u.arbitrary()?, reason: *u.choose(&REASONS)? },
        _ => FrameKind::Closed,
    })
}

/// Of all lengths alike: numbers are written in as many bytes as they need.
fn any_number(u: &mut Unstructured<'_>) -> Result<u64> {
    let bits: u32 = u.int_in_range(0..=63)?;
    Ok(u.arbitrary::<u64>()? >> bits)
}

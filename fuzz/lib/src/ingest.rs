//! Bytes as an agent uploads them, through all of the hub's ways in, to the log and on to who reads it.
//!
//! Input: a byte that chooses the way, three lengths of pieces, then either messages as they stand on the wire, each
//! behind its length, or what an agent makes into messages, which then break in some places.

mod agent;
mod hub;

use std::collections::HashMap;

use arbitrary::Unstructured;
use bytes::Bytes;
use muster_hub::HubError;
use muster_hub::grpc::convert::{frame_from_proto, frame_to_proto};
use muster_proto::v1;
use muster_proto::v1::upload_up::Message as Up;
use prost::Message as _;
use registry_core::ansi::{Stripper, strip};
use registry_core::terminal::text::TextOptions;
use registry_core::{Boot, Frame, FrameKind, Stream, TaskId};

use self::hub::Hub;
use crate::pieces::Cuts;
use crate::text;

/// The run of the agent.
const BOOT: Boot = Boot(1);

/// Runs the target.
///
/// # Panics
/// When the hub takes what it should refuse, refuses what it should take, or readers see anything but what was taken.
pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let (Ok(way), Ok(cuts)) = (u.arbitrary::<u8>(), u.arbitrary::<Cuts<3>>()) else { return };
    let upload = if way.is_multiple_of(2) {
        Bytes::copy_from_slice(u.take_rest())
    } else {
        let Ok(messages) = agent::messages(u) else { return };
        messages
    };
    Hub::with(|hub| {
        let frames = send(hub, upload);
        readers_see(&frames, cuts);
    });
}

/// Sends messages as far as they can be read; returns what is durable in the end.
fn send(hub: &Hub, mut upload: Bytes) -> Vec<Frame> {
    let mut taken = Taken::default();
    let log = hub.begin(BOOT);
    while let Ok(message) = v1::UploadUp::decode_length_delimited(&mut upload) {
        let again = v1::UploadUp::decode(&*message.encode_to_vec());
        assert_eq!(again.as_ref(), Ok(&message), "a message does not come back");
        let Some(Up::Frames(batch)) = message.message else { continue };
        // After an error the agent dials anew and goes on.
        let Ok(frames) = convert(batch.frames) else { continue };
        let expected = taken.take(Boot(batch.boot), &frames);
        assert_eq!(hub.take(&log, Boot(batch.boot), frames).is_ok(), expected);
    }
    let durable = hub.end(&log, BOOT);
    assert_eq!(durable.frames, taken.frames, "what is durable is not what was taken");
    assert_eq!(durable.acked, taken.last, "what is acked is not what was taken");
    durable.frames
}

fn convert(frames: Vec<v1::Frame>) -> Result<Vec<Frame>, HubError> {
    let frames = frames.into_iter().map(frame_from_proto).collect::<Result<Vec<_>, _>>()?;
    for frame in &frames {
        let again = frame_from_proto(frame_to_proto(frame));
        assert_eq!(again.as_ref().ok(), Some(frame), "a frame does not come back");
    }
    Ok(frames)
}

/// What a hub with room has taken, by the contract's words: in order, without holes, each frame once.
#[derive(Default)]
struct Taken {
    frames: Vec<Frame>,
    last: u64,
}

impl Taken {
    /// Takes frames up to the first that breaks the rules; true when there is none.
    fn take(&mut self, boot: Boot, frames: &[Frame]) -> bool {
        if boot != BOOT {
            return false;
        }
        for frame in frames {
            let Some(last) = frame.last_seq() else { return false };
            if last <= self.last {
                continue;
            }
            let closed = self.frames.last().is_some_and(|last| last.kind == FrameKind::Closed);
            if closed || frame.seq != self.last + 1 {
                return false;
            }
            self.last = last;
            self.frames.push(frame.clone());
        }
        true
    }
}

/// The stripper and the text view on frames give what they give on the same bytes in one piece.
fn readers_see(frames: &[Frame], cuts: Cuts<3>) {
    let mut sources: HashMap<(Option<TaskId>, Stream), Source> = HashMap::new();
    for frame in frames {
        if let FrameKind::Output { stream, data } = &frame.kind {
            let source = sources.entry((frame.task, *stream)).or_default();
            source.stripper.feed(data, &mut source.out);
            source.whole.extend_from_slice(data);
        }
    }
    for Source { mut stripper, mut out, whole } in sources.into_values() {
        stripper.finish(&mut out);
        assert!(*out == *strip(&whole), "{} became {}", whole.escape_ascii(), out.escape_ascii());
    }
    let frames: Vec<_> = frames.iter().map(|frame| (BOOT, frame.clone())).collect();
    text::check(TextOptions::default(), &frames, cuts);
}

/// What came out of one end of a task, frame by frame and as a whole.
#[derive(Default)]
struct Source {
    stripper: Stripper,
    out: Vec<u8>,
    whole: Vec<u8>,
}

//! An agent's messages, of which some are not as they should be.

use arbitrary::{Arbitrary, Result, Unstructured};
use bytes::Bytes;
use muster_hub::grpc::convert::frame_to_proto;
use muster_proto::v1;
use muster_proto::v1::upload_up::Message as Up;
use prost::Message as _;

use super::BOOT;
use crate::frames::Script;

#[derive(Arbitrary)]
struct Choices {
    script: Script,
    /// How many frames go into a message.
    batch: u8,
    faults: [Option<Fault>; 4],
}

/// What goes wrong, and how far from the begin.
#[derive(Arbitrary)]
enum Fault {
    /// A frame is sent again.
    Again(u8),
    /// A frame is missing.
    Missing(u8),
    /// Two frames change places.
    Swapped(u8),
    /// A frame has another number.
    Number(u8, u64),
    /// It is of another task.
    Task(u8, [u8; 2]),
    /// A gap's end is elsewhere.
    GapEnd(u8, u64),
    /// A message says another boot.
    Boot(u8, u64),
    /// Bytes on the wire are others.
    Wire(u16, u8),
}

/// Messages of one boot as they stand on the wire, each behind its length.
pub(super) fn messages(mut u: Unstructured<'_>) -> Result<Bytes> {
    let choices = u.arbitrary::<Choices>()?;
    let mut frames: Vec<_> =
        choices.script.frames(u.take_rest()).iter().map(|(_, frame)| frame_to_proto(frame)).collect();
    let faults = || choices.faults.iter().flatten();
    faults().for_each(|fault| fault.in_frames(&mut frames));
    let mut wire = Vec::new();
    for (n, frames) in frames.chunks(usize::from(choices.batch).max(1)).enumerate() {
        let other = faults().find_map(|fault| match fault {
            Fault::Boot(at, boot) if usize::from(*at) == n => Some(*boot),
            _ => None,
        });
        let batch = v1::FrameBatch { boot: other.unwrap_or(BOOT.0), frames: frames.to_vec() };
        let message = v1::UploadUp { message: Some(Up::Frames(batch)) };
        wire.extend_from_slice(&message.encode_length_delimited_to_vec());
    }
    for fault in faults() {
        if let Fault::Wire(at, byte) = fault
            && let Some(place) = wire.get_mut(usize::from(*at))
        {
            *place = *byte;
        }
    }
    Ok(wire.into())
}

impl Fault {
    fn in_frames(&self, frames: &mut Vec<v1::Frame>) {
        let (Self::Again(at)
        | Self::Missing(at)
        | Self::Swapped(at)
        | Self::Number(at, _)
        | Self::Task(at, _)
        | Self::GapEnd(at, _)) = self
        else {
            return;
        };
        let at = usize::from(*at);
        if at >= frames.len() {
            return;
        }
        match self {
            Self::Again(_) => frames.insert(at, frames[at].clone()),
            Self::Missing(_) => drop(frames.remove(at)),
            Self::Swapped(_) => {
                let last = frames.len() - 1;
                frames.swap(at, (at + 1).min(last));
            }
            Self::Number(_, number) => frames[at].seq = *number,
            Self::Task(_, id) => frames[at].task_id = Bytes::copy_from_slice(id),
            Self::GapEnd(_, end) => {
                if let Some(v1::frame::Kind::Gap(gap)) = &mut frames[at].kind {
                    gap.last_seq = *end;
                }
            }
            Self::Boot(..) | Self::Wire(..) => {}
        }
    }
}

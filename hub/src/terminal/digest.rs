//! A task's output in a few kilobytes: its begin, its end, and how much was left out between them.
//!
//! For programs and AI operators that ask "what did it say?": a build log of 50 MB answers with its first lines and
//! its last, the way a person would read it.

use std::collections::VecDeque;

use futures_util::StreamExt as _;
use registry_core::{Cursor, FrameKind};

use super::plain::Plain;
use super::{ReadItem, ReadRequest, ReadSince, Terminal};
use crate::auth::Principal;
use crate::error::HubError;
use crate::store::TaskRow;

/// The size of a digest unless asked otherwise, in bytes of text: about two thousand tokens of a language model.
pub const DEFAULT_DIGEST_BYTES: usize = 8 * 1024;
/// The largest digest, in bytes of text. Who wants more reads the terminal.
pub const MAX_DIGEST_BYTES: usize = 1024 * 1024;

/// What a task said, shortened in the middle. Text is without control sequences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// The begin; all of it when it fits.
    pub head: String,
    /// The end, when something was left out before it or when it does not fit into the head.
    pub tail: String,
    /// Bytes of text between the two that were left out.
    pub omitted_bytes: u64,
    /// Bytes that the task wrote, as it wrote them.
    pub output_bytes: u64,
    /// Nothing of it is missing from the log so far.
    pub complete: bool,
    /// Read on from here; `None` for a task that was never given to its node.
    pub cursor: Option<Cursor>,
}

/// Reads what the log has of a task and shortens it to about `max_bytes`, half of them for each end.
///
/// Costs a pass over the node's log from the task's begin on; memory is `max_bytes` and a page of the log.
///
/// # Errors
/// As [`Terminal::read`].
pub async fn digest(
    terminal: &Terminal,
    principal: &Principal,
    task: &TaskRow,
    max_bytes: usize,
) -> Result<Digest, HubError> {
    let Some(from) = task.read_from else {
        return Ok(Digest { complete: true, ..Digest::default() });
    };
    let request = ReadRequest {
        node: task.node.to_string(),
        since: ReadSince::Cursor(from),
        task: Some(task.id),
        follow: false,
        max_bytes: 0,
    };
    let mut items = terminal.read(principal, request).await?;
    let mut ends = Ends::new(max_bytes.min(MAX_DIGEST_BYTES));
    let (mut plain, mut complete, mut output_bytes, mut cursor) = (Plain::default(), true, 0, from);
    while let Some(item) = items.next().await {
        match item? {
            ReadItem::Start { recovered, .. } => complete &= recovered,
            ReadItem::Frames { frames, .. } => {
                for frame in &frames {
                    match &frame.kind {
                        FrameKind::Output { stream, data } => {
                            output_bytes += data.len() as u64;
                            ends.push(&plain.feed(frame.task, *stream, data));
                        }
                        FrameKind::Gap { .. } => complete = false,
                        _ => {}
                    }
                }
            }
            ReadItem::CaughtUp => {}
            ReadItem::End { next, .. } => cursor = next,
        }
    }
    let (head, tail, omitted_bytes) = ends.finish();
    Ok(Digest { head, tail, omitted_bytes, output_bytes, complete, cursor: Some(cursor) })
}

/// Keeps the two ends of a text that arrives in pieces.
struct Ends {
    head: String,
    head_room: usize,
    tail: VecDeque<u8>,
    tail_room: usize,
    dropped: u64,
}

impl Ends {
    fn new(max_bytes: usize) -> Self {
        let head_room = max_bytes / 2;
        let (head, tail) = (String::new(), VecDeque::new());
        Self { head, head_room, tail, tail_room: max_bytes - head_room, dropped: 0 }
    }

    fn push(&mut self, mut text: &str) {
        if self.head_room > 0 {
            let cut = text.floor_char_boundary(self.head_room);
            self.head.push_str(&text[..cut]);
            // A character that does not fit any more closes the head: what follows must not slip in before it.
            self.head_room = if cut < text.len() { 0 } else { self.head_room - cut };
            text = &text[cut..];
        }
        let kept = &text.as_bytes()[text.len().saturating_sub(self.tail_room)..];
        self.tail.extend(kept);
        let over = self.tail.len().saturating_sub(self.tail_room);
        self.tail.drain(..over);
        self.dropped += (text.len() - kept.len() + over) as u64;
    }

    fn finish(self) -> (String, String, u64) {
        let tail = Vec::from(self.tail);
        // The tail may begin inside a character; those bytes are left out too.
        let begin = tail.iter().take_while(|byte| (0x80..0xc0).contains(*byte)).count();
        let text = String::from_utf8_lossy(&tail[begin..]).into_owned();
        (self.head, text, self.dropped + begin as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(pieces: &[&str], max: usize) -> (String, String, u64) {
        let mut ends = Ends::new(max);
        pieces.iter().for_each(|piece| ends.push(piece));
        ends.finish()
    }

    #[test]
    fn what_fits_is_whole() {
        assert_eq!(ends(&["hel", "lo"], 10), ("hello".into(), String::new(), 0));
        assert_eq!(ends(&["hello", "world"], 10), ("hello".into(), "world".into(), 0));
        assert_eq!(ends(&["0123456789abcdef"], 10), ("01234".into(), "bcdef".into(), 6));
        assert_eq!(ends(&["hello"], 0), (String::new(), String::new(), 5));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_uncounted(text in "[a-zé€😀]{0,60}", pieces in 1usize..6, max in 0usize..80) {
            let chars: Vec<char> = text.chars().collect();
            let pieces: Vec<String> =
                chars.chunks(chars.len() / pieces + 1).map(|piece| piece.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (head, tail, omitted) = ends(&pieces, max);
            prop_assert!(head.len() + tail.len() <= max);
            prop_assert!(text.starts_with(&head));
            prop_assert!(text.ends_with(&tail));
            prop_assert_eq!((head.len() + tail.len()) as u64 + omitted, text.len() as u64);
            if omitted > 0 {
                prop_assert!(head.len() + tail.len() + 8 > max, "used what it had, but for cut characters");
            }
        }
    }
}

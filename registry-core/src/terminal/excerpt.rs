//! A long text in a few kilobytes: its begin, its end, and how much was left out between them.

use std::collections::VecDeque;

use crate::id::Cursor;

/// The two ends of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    /// The begin; all of it when it fits.
    pub head: String,
    /// The end, when something was left out before it or when it does not fit into the head.
    pub tail: String,
    /// Bytes of text between the two that were left out.
    pub omitted_bytes: u64,
    /// Reading on from here shows what was left out; `None` when nothing was.
    pub omitted_after: Option<Cursor>,
    /// About how many tokens of a language model head and tail together are, see [`estimate_tokens`].
    pub estimated_tokens: u64,
}

/// Makes an [`Excerpt`] of a text that arrives in pieces, in memory of about the excerpt's size.
#[derive(Clone, Debug)]
pub struct ExcerptBuilder {
    head: String,
    head_room: usize,
    tail: VecDeque<u8>,
    tail_room: usize,
    omitted_bytes: u64,
    omitted_after: Option<Cursor>,
}

impl ExcerptBuilder {
    /// An excerpt of at most `max_bytes` of text, half of them for each end.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        let head_room = max_bytes / 2;
        Self {
            head: String::new(),
            head_room,
            tail: VecDeque::new(),
            tail_room: max_bytes - head_room,
            omitted_bytes: 0,
            omitted_after: None,
        }
    }

    /// Takes the next piece, which began in the frame at `first`. Line ends are part of it.
    pub fn push(&mut self, mut text: &str, first: Cursor) {
        if self.head_room > 0 {
            let cut = text.floor_char_boundary(self.head_room);
            self.head.push_str(&text[..cut]);
            self.head_room = if cut < text.len() { 0 } else { self.head_room - cut };
            text = &text[cut..];
        }
        if !text.is_empty() && self.omitted_after.is_none() {
            self.omitted_after = Some(Cursor::new(first.boot, first.seq.saturating_sub(1)));
        }
        let kept = &text.as_bytes()[text.len().saturating_sub(self.tail_room)..];
        self.tail.extend(kept);
        let over = self.tail.len().saturating_sub(self.tail_room);
        self.tail.drain(..over);
        self.omitted_bytes += (text.len() - kept.len() + over) as u64;
    }

    /// The excerpt of what was taken.
    #[must_use]
    pub fn finish(self) -> Excerpt {
        let tail = Vec::from(self.tail);
        let begin = tail.iter().take_while(|byte| (0x80..0xc0).contains(*byte)).count();
        let tail = String::from_utf8_lossy(&tail[begin..]).into_owned();
        let omitted_bytes = self.omitted_bytes + begin as u64;
        let estimated_tokens = estimate_tokens(&self.head) + estimate_tokens(&tail);
        let omitted_after = self.omitted_after.filter(|_| omitted_bytes > 0);
        Excerpt { head: self.head, tail, omitted_bytes, omitted_after, estimated_tokens }
    }
}

/// About how many tokens of a language model a text is. An estimate that knows no model: a token for every 4 bytes of
/// ASCII and every 3 of anything else.
#[must_use]
pub fn estimate_tokens(text: &str) -> u64 {
    let ascii = text.bytes().filter(u8::is_ascii).count() as u64;
    let other = text.len() as u64 - ascii;
    ascii.div_ceil(4) + other.div_ceil(3)
}

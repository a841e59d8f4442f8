//! A long text in a few kilobytes: its begin, its end, and how much was left out between them.

use std::collections::VecDeque;

use super::text::LineRef;
use crate::id::Cursor;

/// For a whole line at a cut, this part of an end is given up at most.
const CUT_SHARE: usize = 5;

/// The two ends of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    /// The begin; all of it when it fits.
    pub head: String,
    /// The end, when something was left out before it.
    pub tail: String,
    /// Bytes of text between the two that were left out.
    pub omitted_bytes: u64,
    /// Reading on from here shows what was left out; `None` when nothing was.
    pub omitted_after: Option<Cursor>,
    /// About how many tokens of a language model head and tail together are, see [`estimate_tokens`].
    pub estimated_tokens: u64,
}

/// Makes an [`Excerpt`] of a text that arrives in pieces, in memory of about the excerpt's size.
///
/// ```
/// use registry_core::Cursor;
/// use registry_core::terminal::excerpt::ExcerptBuilder;
/// let mut excerpt = ExcerptBuilder::new(20);
/// for number in 1..=100 {
///     excerpt.push(&format!("line {number}\n"), Cursor::START);
/// }
/// let excerpt = excerpt.finish();
/// assert_eq!((&*excerpt.head, &*excerpt.tail), ("line 1\nlin", "line 100\n"));
/// assert_eq!(excerpt.omitted_bytes, 792 - 19);
/// ```
#[derive(Clone, Debug)]
pub struct ExcerptBuilder {
    head: String,
    head_max: usize,
    /// Nothing goes into the head any more.
    head_closed: bool,
    /// Where the last whole line in the head ends, and the frame of what follows, once that is known.
    line_end: (usize, Option<Cursor>),
    tail: VecDeque<u8>,
    tail_max: usize,
    dropped: u64,
    /// The frame of the first byte behind the head.
    behind_head: Option<Cursor>,
}

impl ExcerptBuilder {
    /// An excerpt of at most `max_bytes` of text, half of them for each end.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        let head_max = max_bytes / 2;
        Self {
            head: String::new(),
            head_max,
            head_closed: false,
            line_end: (0, None),
            tail: VecDeque::new(),
            tail_max: max_bytes - head_max,
            dropped: 0,
            behind_head: None,
        }
    }

    /// Takes the next piece, which began in the frame at `first`. Line ends are part of it.
    pub fn push(&mut self, text: &str, first: Cursor) {
        if text.is_empty() {
            return;
        }
        let rest = if self.head_closed { text } else { self.push_head(text, first) };
        if rest.is_empty() {
            return;
        }
        self.behind_head.get_or_insert(first);
        let kept = &rest.as_bytes()[rest.len().saturating_sub(self.tail_max)..];
        let over = (self.tail.len() + kept.len()).saturating_sub(self.tail_max);
        self.tail.drain(..over);
        self.tail.extend(kept);
        self.dropped += (rest.len() - kept.len() + over) as u64;
    }

    /// Takes the next line of a text view, with its end.
    pub fn push_line(&mut self, line: &LineRef<'_>) {
        self.push(line.text, line.first);
        if line.ended {
            self.push("\n", line.last);
        }
    }

    /// Fills the head; returns what does not fit.
    fn push_head<'t>(&mut self, text: &'t str, first: Cursor) -> &'t str {
        self.line_end.1.get_or_insert(first);
        let cut = text.floor_char_boundary(self.head_max - self.head.len());
        // A character that does not fit closes the head: what follows must not slip in before it.
        self.head_closed = cut < text.len();
        if let Some(end) = memchr::memrchr(b'\n', &text.as_bytes()[..cut]) {
            let next = (end + 1 < text.len()).then_some(first);
            self.line_end = (self.head.len() + end + 1, next);
        }
        self.head.push_str(&text[..cut]);
        &text[cut..]
    }

    /// The excerpt of what was taken.
    #[must_use]
    pub fn finish(self) -> Excerpt {
        let Self { mut head, head_max, line_end: (line_end, next), tail, tail_max, mut dropped, .. } = self;
        let tail = Vec::from(tail);
        let (mut start, mut omitted_after) = (0, None);
        if dropped > 0 {
            omitted_after = self.behind_head;
            if line_end < head.len() && head.len() - line_end <= head_max / CUT_SHARE {
                dropped += (head.len() - line_end) as u64;
                head.truncate(line_end);
                omitted_after = next;
            }
            // It may begin inside a character.
            start = tail.iter().take_while(|byte| (0x80..0xC0).contains(*byte)).count();
            let early = &tail[..tail.len().min(tail_max / CUT_SHARE)];
            start = memchr::memchr(b'\n', early).map_or(start, |end| end + 1);
            dropped += start as u64;
        }
        // What remains is whole characters: nothing is lost here.
        let mut tail = String::from_utf8_lossy(&tail[start..]).into_owned();
        if dropped == 0 {
            head.push_str(&std::mem::take(&mut tail));
        }
        Excerpt {
            estimated_tokens: estimate_tokens(&head) + estimate_tokens(&tail),
            omitted_after: omitted_after.map(|at| Cursor::new(at.boot, at.seq.saturating_sub(1))),
            omitted_bytes: dropped,
            head,
            tail,
        }
    }
}

/// About how many tokens of a language model a text is. An estimate that knows no model: a token for every 4 bytes of
/// ASCII, and for every 3 bytes of anything else.
#[must_use]
pub fn estimate_tokens(text: &str) -> u64 {
    let ascii = text.bytes().filter(u8::is_ascii).count() as u64;
    let other = text.len() as u64 - ascii;
    ascii.div_ceil(4) + other.div_ceil(3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Boot;

    /// The excerpt of pieces of which the first came in frame 1, the second in frame 2, ...
    fn excerpt(pieces: &[&str], max: usize) -> Excerpt {
        let mut builder = ExcerptBuilder::new(max);
        pieces.iter().zip(1..).for_each(|(piece, seq)| builder.push(piece, Cursor::new(Boot(1), seq)));
        builder.finish()
    }

    fn ends(pieces: &[&str], max: usize) -> (String, String, u64, Option<u64>) {
        let Excerpt { head, tail, omitted_bytes, omitted_after, .. } = excerpt(pieces, max);
        (head, tail, omitted_bytes, omitted_after.map(|at| at.seq))
    }

    #[test]
    fn what_fits_is_whole_and_in_one() {
        assert_eq!(ends(&["hel", "lo"], 10), ("hello".into(), String::new(), 0, None));
        assert_eq!(ends(&["hello", "world"], 10), ("helloworld".into(), String::new(), 0, None));
        assert_eq!(ends(&["a\nb\n", "c\nd\ne\n"], 10), ("a\nb\nc\nd\ne\n".into(), String::new(), 0, None));
        assert_eq!(ends(&[], 10), Default::default());
    }

    #[test]
    fn what_does_not_fit_says_where_it_is() {
        assert_eq!(ends(&["0123456789abcdef"], 10), ("01234".into(), "bcdef".into(), 6, Some(0)));
        assert_eq!(ends(&["01234", "56789abc", "def"], 10), ("01234".into(), "bcdef".into(), 6, Some(1)));
        assert_eq!(ends(&["012", "3456789abc", "def"], 10), ("01234".into(), "bcdef".into(), 6, Some(1)));
        assert_eq!(ends(&["hello"], 0), (String::new(), String::new(), 5, Some(0)));
    }

    #[test]
    fn cuts_are_at_line_ends_that_are_near() {
        let (head, tail, omitted, after) = ends(&["0123456\n", "8", "9abcdefghij", "k\nlmnopqrs"], 20);
        assert_eq!((&*head, &*tail, omitted, after), ("0123456\n", "lmnopqrs", 14, Some(1)));
        // Too far away for a whole line.
        let (head, tail, omitted, after) = ends(&["012345\n", "789abcdefghij", "k\nlmnopqr"], 20);
        assert_eq!((&*head, &*tail, omitted, after), ("012345\n789", "jk\nlmnopqr", 9, Some(1)));
        // The line behind the head begins where the head ends.
        let (head, _, _, after) = ends(&["0123456789", "\n", "b", &"x".repeat(99)], 22);
        assert_eq!((&*head, after), ("0123456789\n", Some(2)));
    }

    #[test]
    fn characters_stay_whole() {
        assert_eq!(ends(&["aaé", "xxxxxx", "ébb"], 6), ("aa".into(), "bb".into(), 10, Some(0)));
        assert_eq!(ends(&["é", "a"], 2), (String::new(), "a".into(), 2, Some(0)));
    }

    #[test]
    fn tokens_are_estimated() {
        assert_eq!(estimate_tokens(""), 0);
        assert_eq!(estimate_tokens("four"), 1);
        assert_eq!(estimate_tokens("漢字 and"), 3);
        assert_eq!(excerpt(&["12345678"], 100).estimated_tokens, 2);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_uncounted(
            pieces in prop::collection::vec("([a-z\n]|é|€|😀){0,12}", 0..8),
            max in 0_usize..60,
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let text = pieces.concat();
            let Excerpt { head, tail, omitted_bytes, omitted_after, .. } = excerpt(&pieces, max);
            prop_assert!(head.len() + tail.len() <= max);
            prop_assert!(text.starts_with(&head) && text.ends_with(&tail));
            prop_assert_eq!((head.len() + tail.len()) as u64 + omitted_bytes, text.len() as u64);
            prop_assert_eq!(omitted_after.is_some(), omitted_bytes > 0);
            if let Some(after) = omitted_after {
                let used = head.len() + tail.len();
                prop_assert!(used + 8 + max / CUT_SHARE + 1 > max, "{} of {} are used", used, max);
                let before: usize = pieces[..after.seq as usize].iter().map(|piece| piece.len()).sum();
                let through = before + pieces[after.seq as usize].len();
                prop_assert!(before <= head.len() && head.len() < through, "the first byte left out is there");
            }
        }
    }
}

//! Finding text in a terminal's lines: a substring or a regular expression, in bounded time and size.

use std::ops::{ControlFlow, Range};

use memchr::memmem::Finder;
use regex::{Regex, RegexBuilder};
use thiserror::Error;

use super::Stream;
use super::text::LineRef;
use crate::id::{Cursor, TaskId};

/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// The longest piece of a line that is handed out with a hit, in bytes.
pub const MAX_HIT_BYTES: usize = 512;
/// What a compiled regular expression may take, in bytes: far more than what people write. Its time per byte of text
/// grows with it.
const MAX_REGEX_BYTES: usize = 1024 * 1024;
/// What matching may take besides, in bytes, to be fast.
const MAX_REGEX_CACHE_BYTES: usize = 2 * 1024 * 1024;

/// What to look for, and when to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchOptions {
    /// The text, or the regular expression.
    pub pattern: String,
    /// The pattern is a regular expression (the syntax of the regex crate).
    pub regex: bool,
    /// Upper and lower case are the same.
    pub ignore_case: bool,
    /// Stop after so many hits.
    pub max_hits: usize,
    /// Stop after so many bytes of text.
    pub max_bytes: u64,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self { pattern: String::new(), regex: false, ignore_case: false, max_hits: 100, max_bytes: u64::MAX }
    }
}

/// A pattern that cannot be looked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SearchError {
    /// The pattern is empty.
    #[error("the pattern is empty")]
    Empty,
    /// The pattern is longer than [`MAX_PATTERN_BYTES`], or its regular expression is too large.
    #[error("the pattern is too large")]
    TooLarge,
    /// The pattern is no regular expression.
    #[error("the pattern is no regular expression: {reason}")]
    Invalid {
        /// What is wrong, in one line.
        reason: String,
        /// Where in the pattern, in bytes, if that is known.
        at: Option<usize>,
    },
}

/// A line in which the pattern was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Reading on from here shows the line.
    pub cursor_before: Cursor,
    /// The frame with which the line ended.
    pub cursor: Cursor,
    /// The task that said it.
    pub task: Option<TaskId>,
    /// Out of which of its ends.
    pub stream: Stream,
    /// The line; when it is long, what is around the match, at most [`MAX_HIT_BYTES`].
    pub text: String,
    /// Where in `text` the first match is, in bytes, on characters' bounds.
    pub found: Range<usize>,
    /// `text` is not the whole line.
    pub line_truncated: bool,
}

/// Why a search came to its end before the lines did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// There are as many hits as were wanted.
    Hits,
    /// As many bytes were searched as were allowed.
    Bytes,
}

/// A search on its way: takes lines, keeps hits.
///
/// Its time is linear in the text: no pattern makes the matching go back and forth. A match lies within one line, and
/// of a line that a text view gives in parts, within one part.
#[derive(Clone, Debug)]
pub struct Search {
    matcher: Matcher,
    max_hits: usize,
    max_bytes: u64,
    searched_bytes: u64,
    hits: Vec<Hit>,
}

#[derive(Clone, Debug)]
enum Matcher {
    Text(Box<Finder<'static>>),
    Regex(Regex),
}

impl Search {
    /// Makes the pattern ready.
    ///
    /// # Errors
    /// [`SearchError`] when there is none, or it is too large, or no regular expression.
    pub fn new(options: &SearchOptions) -> Result<Self, SearchError> {
        if options.pattern.is_empty() {
            return Err(SearchError::Empty);
        }
        if options.pattern.len() > MAX_PATTERN_BYTES {
            return Err(SearchError::TooLarge);
        }
        let matcher = match (options.regex, options.ignore_case) {
            (false, false) => Matcher::Text(Box::new(Finder::new(&options.pattern).into_owned())),
            (false, true) => Matcher::Regex(compile(&regex::escape(&options.pattern), true)?),
            (true, ignore_case) => Matcher::Regex(compile(&options.pattern, ignore_case)?),
        };
        let (max_hits, max_bytes) = (options.max_hits, options.max_bytes);
        Ok(Self { matcher, max_hits, max_bytes, searched_bytes: 0, hits: Vec::new() })
    }

    /// Looks at a line. `Break` when the search is over; lines after that are not looked at.
    pub fn line(&mut self, line: &LineRef<'_>) -> ControlFlow<Stopped> {
        if let Some(stopped) = self.stopped() {
            return ControlFlow::Break(stopped);
        }
        self.searched_bytes += line.text.len() as u64;
        if let Some(found) = self.matcher.find(line.text) {
            let shown = around(line.text, &found);
            self.hits.push(Hit {
                cursor_before: Cursor::new(line.first.boot, line.first.seq.saturating_sub(1)),
                cursor: line.last,
                task: line.task,
                stream: line.stream,
                text: line.text[shown.clone()].to_owned(),
                found: found.start - shown.start..found.end.min(shown.end) - shown.start,
                line_truncated: shown.len() < line.text.len(),
            });
        }
        self.stopped().map_or(ControlFlow::Continue(()), ControlFlow::Break)
    }

    /// Why the search is over, if it is.
    #[must_use]
    pub fn stopped(&self) -> Option<Stopped> {
        if self.hits.len() >= self.max_hits {
            Some(Stopped::Hits)
        } else if self.searched_bytes >= self.max_bytes {
            Some(Stopped::Bytes)
        } else {
            None
        }
    }

    /// How many bytes of text were looked at.
    #[must_use]
    pub fn searched_bytes(&self) -> u64 {
        self.searched_bytes
    }

    /// The hits so far, in the order of their lines.
    #[must_use]
    pub fn hits(&self) -> &[Hit] {
        &self.hits
    }

    /// The hits since this was asked last. They no longer count towards the most that are wanted.
    pub fn take_hits(&mut self) -> Vec<Hit> {
        std::mem::take(&mut self.hits)
    }

    /// The hits.
    #[must_use]
    pub fn into_hits(self) -> Vec<Hit> {
        self.hits
    }
}

impl Matcher {
    fn find(&self, text: &str) -> Option<Range<usize>> {
        match self {
            Self::Text(finder) => {
                let start = finder.find(text.as_bytes())?;
                Some(start..start + finder.needle().len())
            }
            Self::Regex(regex) => regex.find(text).map(|found| found.range()),
        }
    }
}

fn compile(pattern: &str, ignore_case: bool) -> Result<Regex, SearchError> {
    if let Err(error) = regex_syntax::Parser::new().parse(pattern) {
        return Err(invalid(&error));
    }
    let built = RegexBuilder::new(pattern)
        .case_insensitive(ignore_case)
        .size_limit(MAX_REGEX_BYTES)
        .dfa_size_limit(MAX_REGEX_CACHE_BYTES)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => SearchError::TooLarge,
        other => SearchError::Invalid { reason: other.to_string().replace('\n', " "), at: None },
    })
}

fn invalid(error: &regex_syntax::Error) -> SearchError {
    let (reason, at) = match error {
        regex_syntax::Error::Parse(error) => (error.kind().to_string(), Some(error.span().start.offset)),
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), Some(error.span().start.offset)),
        other => (other.to_string().replace('\n', " "), None),
    };
    SearchError::Invalid { reason, at }
}

/// What is shown of a line: all of it, or at most [`MAX_HIT_BYTES`] with the match in the middle.
fn around(text: &str, found: &Range<usize>) -> Range<usize> {
    if text.len() <= MAX_HIT_BYTES {
        return 0..text.len();
    }
    let room = MAX_HIT_BYTES.saturating_sub(found.len());
    // A match near the line's end leaves more room before it.
    let before = (room / 2).max(room.saturating_sub(text.len() - found.end));
    let start = text.ceil_char_boundary(found.start.saturating_sub(before));
    start..text.floor_char_boundary((start + MAX_HIT_BYTES).min(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Boot;

    fn options(pattern: &str, regex: bool, ignore_case: bool) -> SearchOptions {
        SearchOptions { pattern: pattern.to_owned(), regex, ignore_case, ..SearchOptions::default() }
    }

    fn line(text: &str, first: u64, last: u64) -> LineRef<'_> {
        let (first, last) = (Cursor::new(Boot(1), first), Cursor::new(Boot(1), last));
        LineRef { text, task: None, stream: Stream::Pty, first, last, ended: true }
    }

    /// What of `text` is found.
    fn found<'t>(options: &SearchOptions, text: &'t str) -> Option<&'t str> {
        let mut search = Search::new(options).unwrap();
        assert_eq!(search.line(&line(text, 1, 1)), ControlFlow::Continue(()));
        search.hits().first().map(|hit| &text[hit.found.clone()])
    }

    #[test]
    fn texts_and_regular_expressions_are_found() {
        let text = "Error: a.b in [x] ÄÖ";
        assert_eq!(found(&options("a.b", false, false), text), Some("a.b"));
        assert_eq!(found(&options("[x]", false, false), text), Some("[x]"));
        assert_eq!(found(&options("error", false, false), text), None);
        assert_eq!(found(&options("error", false, true), text), Some("Error"));
        assert_eq!(found(&options("A.B", false, true), text), Some("a.b"));
        assert_eq!(found(&options("ä", false, true), text), Some("Ä"));
        assert_eq!(found(&options("[a-z]+$", true, false), "one two"), Some("two"));
        assert_eq!(found(&options("[A-Z]{2,}", true, true), "one two"), Some("one"));
        assert_eq!(found(&options("(?i)TWO", true, false), "one two"), Some("two"));
        assert_eq!(found(&options("x*", true, false), "abc"), Some(""));
    }

    #[test]
    fn what_cannot_be_looked_for_is_refused() {
        let refused = |pattern: &str, regex| Search::new(&options(pattern, regex, false)).unwrap_err();
        assert_eq!(refused("", false), SearchError::Empty);
        assert_eq!(refused("", true), SearchError::Empty);
        assert_eq!(refused(&"x".repeat(MAX_PATTERN_BYTES + 1), false), SearchError::TooLarge);
        assert_eq!(refused(r"(\w{1000}){1000}", true), SearchError::TooLarge);
        let SearchError::Invalid { reason, at } = refused("ab(c", true) else { panic!("not invalid") };
        assert_eq!((&*reason, at), ("unclosed group", Some(2)));
        assert!(matches!(refused(r"a\p{Nothing}", true), SearchError::Invalid { at: Some(1), .. }));
        assert!(matches!(refused(&"(".repeat(1000), true), SearchError::Invalid { .. }));
        assert!(Search::new(&options("ab(c", false, true)).is_ok());
    }

    #[test]
    fn hits_say_where_their_lines_are() {
        let mut search = Search::new(&options("b", false, false)).unwrap();
        for (text, at) in [("abc", 3), ("xyz", 5), ("b", 7)] {
            assert_eq!(search.line(&line(text, at, at + 1)), ControlFlow::Continue(()));
        }
        let hits: Vec<_> =
            search.hits().iter().map(|hit| (hit.cursor_before.seq, hit.cursor.seq, &*hit.text)).collect();
        assert_eq!(hits, [(2, 4, "abc"), (6, 8, "b")]);
        assert_eq!(search.searched_bytes(), 7);
    }

    #[test]
    fn a_search_ends_at_its_bounds() {
        let bounded = |max_hits, max_bytes| {
            let options = SearchOptions { max_hits, max_bytes, ..options("a", false, false) };
            let mut search = Search::new(&options).unwrap();
            let looks = (0..5).map(|_| search.line(&line("aaa", 1, 1))).collect::<Vec<_>>();
            let first = looks.iter().position(ControlFlow::is_break);
            (first, search.stopped(), search.hits().len(), search.searched_bytes())
        };
        assert_eq!(bounded(100, 1000), (None, None, 5, 15));
        assert_eq!(bounded(2, 1000), (Some(1), Some(Stopped::Hits), 2, 6));
        assert_eq!(bounded(100, 7), (Some(2), Some(Stopped::Bytes), 3, 9));
        assert_eq!(bounded(0, 7), (Some(0), Some(Stopped::Hits), 0, 0));
    }

    #[test]
    fn long_lines_are_cut_around_the_match() {
        let hit = |text: &str, pattern| {
            let mut search = Search::new(&options(pattern, true, false)).unwrap();
            let _ = search.line(&line(text, 1, 1));
            search.into_hits().remove(0)
        };
        let text = format!("{}needle{}", "é".repeat(1000), "€".repeat(1000));
        let middle = hit(&text, "needle");
        assert!(middle.line_truncated && middle.text.len() <= MAX_HIT_BYTES);
        assert_eq!(&middle.text[middle.found.clone()], "needle");
        assert!(middle.found.start > 240 && middle.text.len() - middle.found.end > 240);
        let end = hit(&text, "€$");
        assert_eq!(end.found.end, end.text.len());
        assert!(end.text.len() > MAX_HIT_BYTES - 4);
        let long = hit(&text, ".*");
        assert_eq!((long.found.start, long.found.end), (0, long.text.len()));
        assert!(!hit("short", "o").line_truncated);
    }

    proptest! {
        #[test]
        fn pieces_of_lines_are_whole_characters(
            before in "([a-z]|é|€|😀){0,400}",
            after in "([a-z]|é|€|😀){0,400}",
        ) {
            let text = format!("{before}#{after}");
            let mut search = Search::new(&options("#", false, false)).unwrap();
            let _ = search.line(&line(&text, 1, 1));
            let hit = &search.hits()[0];
            prop_assert!(text.contains(&hit.text) && hit.text.len() <= MAX_HIT_BYTES);
            prop_assert_eq!(&hit.text[hit.found.clone()], "#");
            prop_assert_eq!(hit.line_truncated, hit.text.len() < text.len());
            prop_assert!(!hit.line_truncated || hit.text.len() + 8 > MAX_HIT_BYTES);
        }
    }
}

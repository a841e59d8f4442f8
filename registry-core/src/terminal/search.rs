//! Finding text in a terminal's lines: a substring or a regular expression, in bounded time and size.

use std::ops::{ControlFlow, Range};

use regex::{Regex, RegexBuilder};
use thiserror::Error;

use super::Stream;
use super::text::LineRef;
use crate::id::{Cursor, TaskId};

/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// The longest piece of a line that is handed out with a hit, in bytes.
pub const MAX_HIT_BYTES: usize = 512;
/// What a compiled regular expression may take, in bytes: a hundred times what people write.
const MAX_REGEX_BYTES: usize = 1024 * 1024;

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
#[derive(Clone, Debug)]
pub struct Search {
    regex: Regex,
    max_hits: usize,
    max_bytes: u64,
    searched_bytes: u64,
    hits: Vec<Hit>,
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
        let pattern = if options.regex { options.pattern.clone() } else { regex::escape(&options.pattern) };
        let regex = RegexBuilder::new(&pattern)
            .case_insensitive(options.ignore_case)
            .size_limit(MAX_REGEX_BYTES)
            .build()
            .map_err(|e| SearchError::Invalid { reason: e.to_string(), at: None })?;
        Ok(Self {
            regex,
            max_hits: options.max_hits,
            max_bytes: options.max_bytes,
            searched_bytes: 0,
            hits: Vec::new(),
        })
    }

    /// Looks at a line. `Break` when the search is over; lines after that are not looked at.
    pub fn line(&mut self, line: &LineRef<'_>) -> ControlFlow<Stopped> {
        if let Some(found) = self.regex.find(line.text) {
            self.hits.push(Hit {
                cursor_before: Cursor::new(line.first.boot, line.first.seq.saturating_sub(1)),
                cursor: line.last,
                task: line.task,
                stream: line.stream,
                text: line.text.to_owned(),
                found: found.range(),
                line_truncated: false,
            });
        }
        self.searched_bytes += line.text.len() as u64;
        match self.stopped() {
            Some(stopped) => ControlFlow::Break(stopped),
            None => ControlFlow::Continue(()),
        }
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

    /// The hits.
    #[must_use]
    pub fn into_hits(self) -> Vec<Hit> {
        self.hits
    }
}

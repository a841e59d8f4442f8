//! Lines of a node's terminals that match a pattern.

use std::ops::ControlFlow;
use std::sync::Arc;

use registry_core::terminal::search::{Hit, Search, SearchError, SearchOptions};
use registry_core::terminal::text::{LineRef, TextOptions, TextView};
use registry_core::{Boot, Cursor, Frame, FrameKind, TaskId};

use super::Range;
use super::scan::{Fold, Stretch};
use crate::auth::{Action, Principal};
use crate::error::{ErrorCode, HubError, HubResult};
use crate::terminal::{ReadSince, Terminal};

/// Hits in one answer unless asked otherwise.
pub const DEFAULT_HITS: usize = 100;
/// The most hits in one answer, of up to half a kilobyte of text each.
pub const MAX_HITS: usize = 1000;
/// Text that one search looks at, in bytes. Less output can become more text: tabs and cursor moves are filled with
/// blanks.
const MAX_TEXT_BYTES: u64 = 64 * 1024 * 1024;
/// How many frames before its begin a search reads, to see whole the lines that end behind it: a longer pause in the
/// middle of a line is rare. At most half of what one search reads, so that it always gets on.
const LOOK_BACK_FRAMES: u64 = 128;
/// Hits beyond those that are wanted that are held before they are only counted: few enough to cost nothing, and so
/// many that making the search anew is seldom.
const MAX_BEYOND: usize = 256;

/// What to look for, and where.
#[derive(Clone, Debug, Default)]
pub struct SearchQuery {
    /// Id or name.
    pub node: String,
    /// A substring, or a regular expression.
    pub pattern: String,
    /// It is a regular expression.
    pub regex: bool,
    /// Large and small letters are the same.
    pub ignore_case: bool,
    /// Only this task's lines.
    pub task: Option<TaskId>,
    /// Where to begin: lines that end, or change, behind it are found.
    pub since: ReadSince,
    /// At most so many hits; 0: [`DEFAULT_HITS`].
    pub max_hits: usize,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Oldest first.
    pub hits: Vec<Hit>,
    /// What was searched.
    pub range: Range,
    /// There may be more after it.
    pub truncated: bool,
    /// Bytes of output that were searched.
    pub searched_bytes: u64,
    /// Hits in the last frame of `range` beyond those that were wanted; nothing that goes on finds them.
    pub omitted_hits: u64,
}

impl Terminal {
    /// Looks for a pattern in the lines of a node's terminals.
    ///
    /// # Errors
    /// `forbidden`, `unknown_node`, `unknown_task`, `invalid_argument` (the pattern is none, or the task is another
    /// node's), `store_unavailable`.
    pub async fn search(&self, principal: &Principal, query: SearchQuery) -> HubResult<Found> {
        let node = self.mesh.resolve(principal, &query.node)?;
        self.auth.authorize(principal, Action::TerminalRead, node.id().as_str())?;
        let max_hits = if query.max_hits == 0 { DEFAULT_HITS } else { query.max_hits.min(MAX_HITS) };
        let options = SearchOptions {
            pattern: query.pattern,
            regex: query.regex,
            ignore_case: query.ignore_case,
            // The bounds are looked at frame by frame, below.
            max_hits: usize::MAX,
            max_bytes: u64::MAX,
        };
        let search = Search::new(&options).map_err(|error| refused(&error))?;
        if let Some(id) = query.task {
            self.task_of(&node, id).await?;
        }
        let _turn = self.views.turn("search").await?;
        let after = match query.since {
            ReadSince::Cursor(cursor) => Some(cursor),
            _ => None,
        };
        let since = after.map_or(query.since, |after| ReadSince::Cursor(look_back(after)));
        let looking = Looking::new(search, query.task, after.unwrap_or(Cursor::START), max_hits);
        let scanned = self.scan(principal, node.id(), Stretch::Onwards(since), looking).await?;
        let mut looking = scanned.fold;
        let read = scanned.range.last.max(looking.after);
        let stopped = looking.stopped.unwrap_or(read);
        looking.finish(stopped, scanned.truncated || stopped < read);
        let last = looking.kept.last_whole().unwrap_or(stopped);
        let range = match after {
            Some(first) => Range { first, last, complete: looking.complete },
            None => Range { last, ..scanned.range },
        };
        Ok(Found {
            range,
            truncated: scanned.truncated || last < read,
            searched_bytes: looking.output_bytes,
            omitted_hits: looking.kept.omitted,
            hits: looking.kept.into_hits(),
        })
    }
}

/// Where reading begins so that lines that are open behind `cursor` are seen from their begin.
fn look_back(cursor: Cursor) -> Cursor {
    match cursor.seq {
        u64::MAX => cursor,
        seq => Cursor::new(cursor.boot, seq.saturating_sub(LOOK_BACK_FRAMES)),
    }
}

/// A search on its way through the log.
///
/// A line belongs to the frame that changed it last, one without an end to the frame in which its source stopped. So
/// each line is found once, wherever a search stops and the next one goes on: what belongs to frames up to there was
/// found, what belongs to later ones will be, whole, because reading begins somewhat earlier.
struct Looking {
    task: Option<TaskId>,
    /// What belongs to frames up to here is not wanted: they are read for the lines that are open behind them.
    after: Cursor,
    text: TextView,
    search: Search,
    kept: Kept,
    output_bytes: u64,
    /// No frame after `after` is missing.
    complete: bool,
    /// The frame behind which there were enough hits, or enough text.
    stopped: Option<Cursor>,
}

impl Looking {
    fn new(search: Search, task: Option<TaskId>, after: Cursor, max_hits: usize) -> Self {
        Self {
            task,
            after,
            // As whoever reads the text of what is there: what was written over is not found.
            text: TextView::new(TextOptions::default()),
            search,
            kept: Kept::new(max_hits),
            output_bytes: 0,
            complete: true,
            stopped: None,
        }
    }

    /// Looks at the lines that are open behind `last`, as they stand. Those that the next search will see end, if there
    /// is `more`, are left to it.
    fn finish(&mut self, last: Cursor, more: bool) {
        let Self { text, search, kept, after, .. } = self;
        let earliest = look_back(last);
        text.finish(|line| match (line.ended, more) {
            (true, _) => look(search, kept, *after, line.last, &line),
            (false, false) => look(search, kept, *after, last, &line),
            (false, true) if line.first <= earliest => look(search, kept, *after, line.last, &line),
            (false, true) => {}
        });
    }
}

impl Fold for Looking {
    fn take(&mut self, boot: Boot, frames: &[Arc<Frame>]) -> ControlFlow<()> {
        for frame in frames {
            let cursor = frame.cursor(boot);
            let wanted = cursor > self.after;
            self.complete &= !(wanted && matches!(frame.kind, FrameKind::Gap { .. }));
            if self.task.is_some() && frame.task.is_some() && frame.task != self.task {
                continue;
            }
            if wanted {
                self.output_bytes += frame.data_len() as u64;
            }
            let Self { text, search, kept, after, .. } = self;
            text.feed(boot, frame, |line| {
                look(search, kept, *after, if line.ended { line.last } else { cursor }, &line);
            });
            if self.kept.is_full() || self.search.searched_bytes() >= MAX_TEXT_BYTES {
                self.stopped = Some(cursor);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

/// Looks at a line that belongs to the frame `of`.
fn look(search: &mut Search, kept: &mut Kept, after: Cursor, of: Cursor, line: &LineRef<'_>) {
    if of > after {
        // It never breaks: it was given no bounds of its own.
        let _ = search.line(line);
        for hit in search.take_hits() {
            kept.push(of, hit);
        }
    }
}

/// The first hits, by the frames to which their lines belong.
struct Kept {
    max: usize,
    hits: Vec<(Cursor, Hit)>,
    /// The frame of the last hit that has room, once a hit had none.
    last: Option<Cursor>,
    /// Hits of that frame that had none.
    omitted: u64,
}

impl Kept {
    fn new(max: usize) -> Self {
        Self { max, hits: Vec::new(), last: None, omitted: 0 }
    }

    fn is_full(&self) -> bool {
        self.hits.len() >= self.max
    }

    fn push(&mut self, of: Cursor, hit: Hit) {
        match self.last {
            Some(last) if of > last => return,
            Some(last) if of == last => self.omitted += 1,
            _ => self.hits.push((of, hit)),
        }
        // Not with each hit, so that sorting costs little.
        if self.hits.len() > 2 * self.max {
            self.cut();
        }
    }

    /// Drops what has no room. Hits of later frames are found by whoever goes on; those of the same one are counted.
    fn cut(&mut self) {
        self.hits.sort_by_key(|(of, _)| *of);
        let Some(&(last, _)) = self.hits.get(self.max).and(self.hits.get(self.max - 1)) else { return };
        if self.last.replace(last) != Some(last) {
            self.omitted = 0;
        }
        self.omitted += self.hits.drain(self.max..).filter(|(of, _)| *of == last).count() as u64;
    }

    /// The frame up to which hits were kept, if not all were.
    fn last_whole(&mut self) -> Option<Cursor> {
        self.cut();
        self.last
    }

    fn into_hits(self) -> Vec<Hit> {
        self.hits.into_iter().map(|(_, hit)| hit).collect()
    }
}

fn refused(error: &SearchError) -> HubError {
    HubError::new(ErrorCode::InvalidArgument, error.to_string()).with("field", "pattern")
}

#[cfg(test)]
mod tests {
    use registry_core::Stream;

    use super::*;

    #[test]
    fn hits_beyond_those_that_are_wanted_are_counted_and_not_kept() {
        let options = SearchOptions { pattern: "^y$".to_owned(), regex: true, ..unbounded() };
        let mut searching = Searching::new(Search::new(&options).unwrap(), 10);
        for text in ["y", "no"].repeat(5_000) {
            let at = Cursor::START;
            let line = LineRef { text, task: None, stream: Stream::Pty, first: at, last: at, ended: true };
            searching.look(&line);
            assert!(searching.beyond.hits().len() <= MAX_BEYOND);
        }
        assert_eq!((searching.search.hits().len(), searching.omitted()), (10, 4_990));
    }

    fn unbounded() -> SearchOptions {
        SearchOptions { max_hits: usize::MAX, max_bytes: u64::MAX, ..SearchOptions::default() }
    }
}

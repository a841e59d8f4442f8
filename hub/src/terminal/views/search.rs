//! Lines of a node's terminals that match a pattern.

use std::ops::ControlFlow;
use std::sync::Arc;

use registry_core::terminal::search::{Hit, Search, SearchError, SearchOptions};
use registry_core::terminal::text::{LineRef, TextOptions, TextView};
use registry_core::{Boot, Cursor, Frame, TaskId};

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
    /// Where to begin.
    pub since: ReadSince,
    /// At most about so many hits; 0: [`DEFAULT_HITS`].
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
    /// Hits in the frames of `range` beyond those that were wanted.
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
        let search = Searching { beyond: search.clone(), search, max_hits };
        if let Some(id) = query.task {
            self.task_of(&node, id).await?;
        }
        let _turn = self.views.turn("search").await?;
        let looking = Looking {
            task: query.task,
            text: TextView::new(TextOptions::follow()),
            search,
            output_bytes: 0,
            stopped: None,
        };
        let scanned = self.scan(principal, node.id(), Stretch::Onwards(query.since), looking).await?;
        let mut looking = scanned.fold;
        looking.finish();
        let last = looking.stopped.unwrap_or(scanned.range.last);
        Ok(Found {
            range: Range { last, ..scanned.range },
            truncated: scanned.truncated || last < scanned.range.last,
            searched_bytes: looking.output_bytes,
            omitted_hits: looking.search.beyond.hits().len() as u64,
            hits: looking.search.search.into_hits(),
        })
    }
}

/// A search on its way through the log.
struct Looking {
    task: Option<TaskId>,
    text: TextView,
    search: Searching,
    output_bytes: u64,
    /// The frame behind which there were enough hits, or enough text.
    stopped: Option<Cursor>,
}

impl Looking {
    /// Lines that are open where the search stops are looked at as they stand; whoever goes on looks at the rest.
    fn finish(&mut self) {
        let search = &mut self.search;
        self.text.finish(|line| search.look(&line));
    }
}

impl Fold for Looking {
    fn take(&mut self, boot: Boot, frames: &[Arc<Frame>]) -> ControlFlow<()> {
        for frame in frames {
            if self.task.is_some() && frame.task.is_some() && frame.task != self.task {
                continue;
            }
            self.output_bytes += frame.data_len() as u64;
            let search = &mut self.search;
            self.text.feed(boot, frame, |line| search.look(&line));
            // A frame is searched whole, so that going on behind it misses nothing.
            if self.search.is_over() {
                self.stopped = Some(frame.cursor(boot));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

/// A search that keeps as many hits as are wanted, and looks through the rest of a frame to count what is beyond them.
struct Searching {
    search: Search,
    beyond: Search,
    max_hits: usize,
}

impl Searching {
    fn look(&mut self, line: &LineRef<'_>) {
        let wanted = self.search.hits().len() < self.max_hits;
        let search = if wanted { &mut self.search } else { &mut self.beyond };
        // It never breaks: it was given no bounds of its own.
        let _ = search.line(line);
    }

    fn is_over(&self) -> bool {
        self.search.hits().len() >= self.max_hits || self.search.searched_bytes() >= MAX_TEXT_BYTES
    }
}

fn refused(error: &SearchError) -> HubError {
    HubError::new(ErrorCode::InvalidArgument, error.to_string()).with("field", "pattern")
}

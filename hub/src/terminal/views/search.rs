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
        let turn = Arc::new(self.views.turn("search").await?);
        let after = match query.since {
            ReadSince::Cursor(cursor) => Some(cursor),
            _ => None,
        };
        let since = after.map_or(query.since, |after| ReadSince::Cursor(look_back(after)));
        let looking = Looking::new(search, query.task, after.unwrap_or(Cursor::START), max_hits);
        let scanned = self.scan(principal, node.id(), Stretch::Onwards(since), &turn, looking).await?;
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
    use bytes::Bytes;
    use proptest::prelude::*;
    use registry_core::Stream;

    use super::*;

    const BOOT: Boot = Boot(7);

    fn frame(seq: u64, stream: Stream, data: &str) -> Arc<Frame> {
        let kind = FrameKind::Output { stream, data: Bytes::copy_from_slice(data.as_bytes()) };
        Arc::new(Frame { seq, at_unix_ms: seq, task: None, kind })
    }

    fn looking(pattern: &str, after: Cursor, max_hits: usize) -> Looking {
        let regex = true;
        let options = SearchOptions { pattern: pattern.to_owned(), regex, ..SearchOptions::default() };
        let options = SearchOptions { max_hits: usize::MAX, ..options };
        Looking::new(Search::new(&options).unwrap(), None, after, max_hits)
    }

    /// Texts of hits in pages of `max_hits`, which also end behind so many frames; and how many were omitted.
    fn pages(frames: &[Arc<Frame>], pattern: &str, max_hits: usize, stretch: usize) -> (Vec<String>, u64) {
        let (mut found, mut omitted, mut after) = (Vec::new(), 0, Cursor::new(BOOT, 0));
        let end = frames.last().map_or(after, |frame| frame.cursor(BOOT));
        while after < end {
            let begin = frames.iter().position(|frame| frame.cursor(BOOT) > look_back(after)).unwrap();
            let new = frames.iter().position(|frame| frame.cursor(BOOT) > after).unwrap();
            let page = &frames[begin..frames.len().min(new + stretch)];
            let mut looking = looking(pattern, after, max_hits);
            let _ = looking.take(BOOT, page);
            let stopped = looking.stopped.unwrap_or(page.last().unwrap().cursor(BOOT));
            looking.finish(stopped, stopped < end);
            let last = looking.kept.last_whole().unwrap_or(stopped);
            assert!(last > after, "it gets on");
            after = last;
            omitted += looking.kept.omitted;
            found.extend(looking.kept.into_hits().into_iter().map(|hit| hit.text));
        }
        (found, omitted)
    }

    #[test]
    fn a_line_that_is_open_where_a_search_stops_is_found_by_the_next_one_and_once() {
        let texts = ["needle-first one\nneedle-fi", "rst two\n", "needle-first three\nneedle-first", " four"];
        for stream in [Stream::Stdout, Stream::Pty] {
            let frames: Vec<_> = (1..).zip(texts).map(|(seq, data)| frame(seq, stream, data)).collect();
            let all = ["one", "two", "three", "four"].map(|n| format!("needle-first {n}"));
            for (max_hits, stretch) in [(1, 9), (2, 9), (9, 1), (9, 2), (9, 9)] {
                let found = pages(&frames, "^needle-first", max_hits, stretch);
                assert_eq!(found, (all.to_vec(), 0), "{max_hits} hits, {stretch} frames, {stream:?}");
            }
        }
    }

    #[test]
    fn a_line_that_stays_open_for_long_is_found_as_it_stood() {
        let mut frames = vec![frame(1, Stream::Pty, "needle $ ")];
        let others = 2 + 3 * LOOK_BACK_FRAMES;
        frames.extend((2..others).map(|seq| frame(seq, Stream::Stdout, "hay\n")));
        frames.push(frame(others, Stream::Pty, "ls\n"));
        let (found, _) = pages(&frames, "needle", 100, 2 * LOOK_BACK_FRAMES as usize);
        assert_eq!(found, ["needle $ "]);
    }

    #[test]
    fn what_was_written_over_is_not_found() {
        let bars = "a: Pulling fs layer\r\nb: Pulling fs layer\r\n\x1b[2Aa: done\x1b[K\r\nb: done\x1b[K\r\n";
        let (found, _) = pages(&[frame(1, Stream::Pty, bars)], "Pulling|done", 100, 9);
        assert_eq!(found, ["a: done", "b: done"]);
    }

    #[test]
    fn hits_without_room_come_later_or_are_counted_and_are_not_kept() {
        let frames: Vec<_> = (1..=3).map(|seq| frame(seq, Stream::Pty, &"y\n".repeat(5_000))).collect();
        let (found, omitted) = pages(&frames, "^y$", 10, 9);
        assert_eq!((found.len(), omitted), (30, 3 * 4_990));
        let mut looking = looking("^y$", Cursor::new(BOOT, 0), 10);
        let _ = looking.take(BOOT, &frames[..1]);
        assert!(looking.kept.hits.len() <= 21, "{} are kept", looking.kept.hits.len());
        // Lines of a PTY are held for long; there is room for the first two frames' all the same.
        let frames: Vec<_> = (1..=5).map(|seq| frame(seq, Stream::Pty, "y\nno\n")).collect();
        assert_eq!(pages(&frames, "^y$", 2, 9), (vec!["y".to_owned(); 5], 0));
    }

    proptest! {
        /// However output is cut into frames, and searches into pages: each line once.
        #[test]
        fn going_on_misses_nothing_and_repeats_nothing(
            cuts in prop::collection::vec((1_usize..12, any::<bool>()), 1..200),
            max_hits in 1_usize..6,
            stretch in 1_usize..9,
        ) {
            let text = |name: &str| (0..60).map(|n| format!("{name} needle {n}\r\nhay\r\n")).collect::<String>();
            let mut rest = [(Stream::Stdout, text("out")), (Stream::Pty, text("pty"))];
            let (mut frames, mut written) = (Vec::new(), [String::new(), String::new()]);
            for (seq, (len, which)) in (1..).zip(cuts) {
                let (stream, text) = &mut rest[usize::from(which)];
                let data: String = text.drain(..len).collect();
                frames.push(frame(seq, *stream, &data));
                written[usize::from(which)].push_str(&data);
            }
            let (mut found, omitted) = pages(&frames, "needle", max_hits, stretch);
            let mut all: Vec<&str> = written.iter().flat_map(|text| text.lines()).map(|line| line.trim_end_matches('\r')).collect();
            all.retain(|line| line.contains("needle"));
            // Lines that nothing ever ends all belong to the last frame.
            let unended = written.iter().filter(|text| !text.ends_with('\n')).count() as u64;
            prop_assert!(omitted <= unended, "{} omitted", omitted);
            all.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found.len() as u64 + omitted, all.len() as u64);
            if omitted == 0 {
                prop_assert_eq!(found, all);
            }
        }
    }
}

//! A terminal's output as lines of text, the way a person would see them: overwritten text gone, progress bars in
//! their last state, no control sequences.

use std::collections::HashMap;

use super::{Frame, FrameKind, Stream};
use crate::ansi::Stripper;
use crate::id::{Boot, Cursor, TaskId};

/// The longest line that is given whole, in bytes; longer ones are given in parts.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// The most lines that one source holds back because they may still be rewritten.
pub const MAX_WINDOW_LINES: usize = 256;

/// How a [`TextView`] holds lines back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// The last lines of each source that are not final yet, because the cursor may move up to them; at most
    /// [`MAX_WINDOW_LINES`]. A source that moves up further than this holds as many lines as that from then on.
    pub window: usize,
}

impl Default for TextOptions {
    /// For reading what is there already: the widest window, because at the end everything is final.
    fn default() -> Self {
        Self { window: MAX_WINDOW_LINES }
    }
}

impl TextOptions {
    /// For following: a line is final as soon as it ends, until its source moves up for the first time.
    #[must_use]
    pub const fn follow() -> Self {
        Self { window: 0 }
    }
}

/// A line, borrowed from the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineRef<'a> {
    /// What it says: printable characters and TAB, at most [`MAX_LINE_BYTES`], no line end.
    pub text: &'a str,
    /// The task that said it.
    pub task: Option<TaskId>,
    /// Out of which of its ends.
    pub stream: Stream,
    /// The frame with which it began.
    pub first: Cursor,
    /// The frame that changed or ended it last.
    pub last: Cursor,
    /// A line end follows. False where a line was cut at [`MAX_LINE_BYTES`] and goes on in the source's next one, and
    /// where its source stopped before the line's end.
    pub ended: bool,
}

impl LineRef<'_> {
    /// The line on its own.
    #[must_use]
    pub fn to_line(&self) -> Line {
        Line {
            text: self.text.to_owned(),
            task: self.task,
            stream: self.stream,
            first: self.first,
            last: self.last,
            ended: self.ended,
        }
    }
}

/// A line on its own; the fields are those of [`LineRef`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it says.
    pub text: String,
    /// The task that said it.
    pub task: Option<TaskId>,
    /// Out of which of its ends.
    pub stream: Stream,
    /// The frame with which it began.
    pub first: Cursor,
    /// The frame that changed or ended it last.
    pub last: Cursor,
    /// A line end follows.
    pub ended: bool,
}

impl Line {
    /// The line as it is handed out by views.
    #[must_use]
    pub fn as_ref(&self) -> LineRef<'_> {
        LineRef {
            text: &self.text,
            task: self.task,
            stream: self.stream,
            first: self.first,
            last: self.last,
            ended: self.ended,
        }
    }
}

/// Turns the frames of a node's log into lines. Each source (a task's stream) has its own; lines never mix.
#[derive(Debug, Default)]
pub struct TextView {
    sources: HashMap<(Option<TaskId>, Stream), Source>,
}

#[derive(Debug)]
struct Source {
    stream: TextStream,
    first: Cursor,
    last: Cursor,
}

impl TextView {
    /// A view that has seen nothing.
    #[must_use]
    pub fn new(_options: TextOptions) -> Self {
        Self::default()
    }

    /// Takes a frame of the run `boot`; lines that are final now go to `lines`, oldest first.
    pub fn feed(&mut self, boot: Boot, frame: &Frame, mut lines: impl FnMut(LineRef<'_>)) {
        match &frame.kind {
            FrameKind::Output { stream, data } => {
                let (task, stream, at) = (frame.task, *stream, frame.cursor(boot));
                let source = self.sources.entry((task, stream)).or_insert_with(|| Source {
                    stream: TextStream::default(),
                    first: at,
                    last: at,
                });
                source.last = at;
                let mut first = source.first;
                source.stream.feed(data, |text, ended| {
                    lines(LineRef { text, task, stream, first, last: at, ended });
                    first = at;
                });
                source.first = first;
            }
            FrameKind::Ended(_) => {
                for stream in [Stream::Stdout, Stream::Stderr, Stream::Pty] {
                    self.end((frame.task, stream), &mut lines);
                }
            }
            FrameKind::Gap { .. } | FrameKind::Closed => self.finish(lines),
            _ => {}
        }
    }

    /// The lines that are not final, as they stand, source by source.
    pub fn open_lines(&self) -> impl Iterator<Item = Line> {
        self.sources.iter().filter(|(_, source)| !source.stream.line.is_empty()).map(
            |(&(task, stream), source)| Line {
                text: source.stream.line.clone(),
                task,
                stream,
                first: source.first,
                last: source.last,
                ended: false,
            },
        )
    }

    /// The frame with which the oldest line that is not final begins: who resumes before it misses nothing.
    #[must_use]
    pub fn oldest_open(&self) -> Option<Cursor> {
        self.sources.values().filter(|source| !source.stream.line.is_empty()).map(|source| source.first).min()
    }

    /// Nothing follows: everything that is open is final.
    pub fn finish(&mut self, mut lines: impl FnMut(LineRef<'_>)) {
        for key in self.sources.keys().copied().collect::<Vec<_>>() {
            self.end(key, &mut lines);
        }
    }

    fn end(&mut self, key: (Option<TaskId>, Stream), lines: &mut impl FnMut(LineRef<'_>)) {
        if let Some(mut source) = self.sources.remove(&key) {
            let (first, last) = (source.first, source.last);
            source.stream.finish(|text, ended| {
                lines(LineRef { text, task: key.0, stream: key.1, first, last, ended });
            });
        }
    }
}

/// The same for one stream of bytes that has no frames.
#[derive(Debug, Default)]
pub struct TextStream {
    stripper: Stripper,
    stripped: Vec<u8>,
    line: String,
}

impl TextStream {
    /// A stream that has seen nothing.
    #[must_use]
    pub fn new(_options: TextOptions) -> Self {
        Self::default()
    }

    /// Takes the next bytes, cut anywhere; gives each line that is final now, and whether a line end follows it.
    pub fn feed(&mut self, input: &[u8], mut lines: impl FnMut(&str, bool)) {
        self.stripped.clear();
        self.stripper.feed(input, &mut self.stripped);
        let text = String::from_utf8_lossy(&self.stripped);
        for piece in text.split_inclusive('\n') {
            self.line.push_str(piece.trim_end_matches(['\n', '\r']));
            if piece.ends_with('\n') {
                lines(&self.line, true);
                self.line.clear();
            }
        }
    }

    /// Nothing follows: everything that is open is final.
    pub fn finish(&mut self, mut lines: impl FnMut(&str, bool)) {
        if !self.line.is_empty() {
            lines(&self.line, false);
            self.line.clear();
        }
    }
}

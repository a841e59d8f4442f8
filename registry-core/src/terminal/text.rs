//! A terminal's output as lines of text, the way a person would see them: overwritten text gone, progress bars in
//! their last state, no control sequences.

mod page;
mod row;

use std::collections::HashMap;

use self::page::{Final, Give, Page};
use super::{Frame, FrameKind, Stream};
use crate::ansi::edits::Editor;
use crate::id::{Boot, Cursor, TaskId};

/// The longest line that is given whole, in bytes; longer ones are given in parts.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// The most lines that one source holds back because they may still be rewritten.
pub const MAX_WINDOW_LINES: usize = 256;
/// What all sources of a view together hold back, in bytes.
pub const MAX_HELD_BYTES: usize = 16 * 1024 * 1024;
/// The most sources that are followed at once. More can only be there when the ends of their tasks were lost.
const MAX_SOURCES: usize = 4096;
/// What is taken apart at once, in bytes: as much as a frame has.
const MAX_PIECE_BYTES: usize = super::MAX_FRAME_DATA_BYTES;

/// How a [`TextView`] holds lines back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// The last lines of each PTY that are not final yet, because the cursor may move up to them; at most
    /// [`MAX_WINDOW_LINES`]. A source that moves up further than this holds as many lines as that, until it has printed
    /// a thousand without moving up again, or its screen is cleared. Pipes begin with none: the lines of a task's stdout
    /// and stderr come in the order in which they ended.
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
///
/// Lines of a source come in order. What a source still may rewrite is held back, see [`TextOptions::window`], at most
/// 128 KiB and a line; all sources together hold at most [`MAX_HELD_BYTES`], those that were silent for longest give
/// way first.
#[derive(Debug, Default)]
pub struct TextView {
    options: TextOptions,
    sources: HashMap<SourceKey, Source>,
    /// What the sources hold.
    held: usize,
    scratch: Scratch,
}

type SourceKey = (Option<TaskId>, Stream);

impl TextView {
    /// A view that has seen nothing.
    #[must_use]
    pub fn new(options: TextOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Takes a frame of the run `boot`; lines that are final now go to `lines`, oldest first.
    ///
    /// The end of a task makes its lines final; a gap, and the end of the run, make all lines final.
    pub fn feed(&mut self, boot: Boot, frame: &Frame, mut lines: impl FnMut(LineRef<'_>)) {
        match &frame.kind {
            FrameKind::Output { stream, data } => {
                self.output((frame.task, *stream), frame.cursor(boot), data, &mut lines);
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

    /// The lines that are not final, as they stand: source by source, the one that spoke last at the end.
    #[must_use]
    pub fn open_lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for key in self.by_silence() {
            if let Some(source) = self.sources.get(&key) {
                source.page.open(|line| lines.push(line.of(key).to_line()));
            }
        }
        lines
    }

    /// The frame with which the oldest line that is not final begins: who resumes before it misses nothing.
    #[must_use]
    pub fn oldest_open(&self) -> Option<Cursor> {
        self.sources.values().filter_map(|source| source.page.oldest()).min()
    }

    /// About what is held back, in bytes.
    #[must_use]
    pub fn approximate_bytes(&self) -> usize {
        self.held
    }

    /// A new view that goes on from here gives the same lines: nothing is held back, no sequence or character is open, and
    /// no cursor's place is remembered.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.sources.values().all(Source::is_fresh)
    }

    /// Goes on with other options, as when a reader has caught up and follows from now on: what they hold back no longer
    /// is final.
    pub fn narrow(&mut self, options: TextOptions, mut lines: impl FnMut(LineRef<'_>)) {
        self.options = options;
        for key in self.by_silence() {
            if let Some(source) = self.sources.get_mut(&key).filter(|_| key.1 == Stream::Pty) {
                source.page.narrow(options.window, &mut |line| lines(line.of(key)));
                let held = std::mem::replace(&mut source.held, source.page.weight());
                self.held = self.held - held + source.held;
            }
        }
    }

    /// Nothing follows: everything that is open is final.
    pub fn finish(&mut self, mut lines: impl FnMut(LineRef<'_>)) {
        for key in self.by_silence() {
            self.end(key, &mut lines);
        }
    }

    fn output(&mut self, key: SourceKey, at: Cursor, data: &[u8], lines: &mut impl FnMut(LineRef<'_>)) {
        if self.held > MAX_HELD_BYTES || self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&key)
        {
            self.make_room(lines);
        }
        // The two pipes of a task keep the order in which their lines ended only if neither holds lines back; and what
        // is written to a pipe seldom moves up.
        let options = if key.1 == Stream::Pty { self.options } else { TextOptions::follow() };
        let source = self.sources.entry(key).or_insert_with(|| Source::new(options));
        source.last = at;
        source.feed(at, data, &mut self.scratch, &mut |line| lines(line.of(key)));
        let held = std::mem::replace(&mut source.held, source.page.weight());
        self.held = self.held - held + source.held;
    }

    /// Ends an eighth of the sources, so that this is seldom done.
    fn make_room(&mut self, lines: &mut impl FnMut(LineRef<'_>)) {
        let keys = self.by_silence();
        for key in &keys[..keys.len().div_ceil(8)] {
            self.end(*key, lines);
        }
    }

    /// The sources, the one that has been silent for longest first.
    fn by_silence(&self) -> Vec<SourceKey> {
        let mut keys: Vec<_> = self.sources.iter().map(|(key, source)| (source.last, *key)).collect();
        keys.sort_unstable_by_key(|(last, _)| *last);
        keys.into_iter().map(|(_, key)| key).collect()
    }

    fn end(&mut self, key: SourceKey, lines: &mut impl FnMut(LineRef<'_>)) {
        if let Some(mut source) = self.sources.remove(&key) {
            self.held -= source.held;
            source.finish(&mut self.scratch, &mut |line| lines(line.of(key)));
        }
    }
}

impl<'a> Final<'a> {
    fn of(self, (task, stream): SourceKey) -> LineRef<'a> {
        let Final { text, first, last, ended } = self;
        LineRef { text, task, stream, first, last, ended }
    }
}

/// The same for one stream of bytes that has no frames.
///
/// ```
/// use registry_core::terminal::text::{TextOptions, TextStream};
/// let (mut stream, mut out) = (TextStream::new(TextOptions::default()), String::new());
/// let mut line = |text: &str, ended: bool| {
///     out.push_str(text);
///     if ended {
///         out.push('\n');
///     }
/// };
/// stream.feed(b" 10%\r 50%\r\x1b[32m100%\x1b[m\r\nlas", &mut line);
/// stream.feed(b"r\x08t", &mut line);
/// stream.finish(&mut line);
/// assert_eq!(out, "100%\nlast");
/// ```
#[derive(Debug)]
pub struct TextStream {
    source: Source,
    scratch: Scratch,
}

impl Default for TextStream {
    fn default() -> Self {
        Self::new(TextOptions::default())
    }
}

impl TextStream {
    /// A stream that has seen nothing.
    #[must_use]
    pub fn new(options: TextOptions) -> Self {
        Self { source: Source::new(options), scratch: Scratch::default() }
    }

    /// Takes the next bytes, cut anywhere; gives each line that is final now, and whether a line end follows it.
    pub fn feed(&mut self, input: &[u8], mut lines: impl FnMut(&str, bool)) {
        let give = &mut |line: Final<'_>| lines(line.text, line.ended);
        self.source.feed(Cursor::START, input, &mut self.scratch, give);
    }

    /// The lines that are not final, as they stand, oldest first.
    pub fn open_lines(&self, mut lines: impl FnMut(&str, bool)) {
        self.source.page.open(|line| lines(line.text, line.ended));
    }

    /// About what is held back, in bytes.
    #[must_use]
    pub fn approximate_bytes(&self) -> usize {
        self.source.page.weight()
    }

    /// Nothing follows: everything that is open is final, and the stream as new.
    pub fn finish(&mut self, mut lines: impl FnMut(&str, bool)) {
        let give = &mut |line: Final<'_>| lines(line.text, line.ended);
        self.source.finish(&mut self.scratch, give);
    }
}

/// One stream of bytes on its way to lines.
#[derive(Debug)]
struct Source {
    editor: Editor,
    page: Page,
    /// The begin of a character whose rest has not come yet; at most 3 bytes.
    partial: Vec<u8>,
    /// The frame that fed it last.
    last: Cursor,
    /// What it holds, as counted by its view.
    held: usize,
}

/// Memory that is used for one piece and then for the next.
#[derive(Debug, Default)]
struct Scratch {
    marked: Vec<u8>,
    lossy: String,
}

impl Source {
    fn new(options: TextOptions) -> Self {
        Self {
            editor: Editor::default(),
            page: Page::new(options.window),
            partial: Vec::new(),
            last: Cursor::START,
            held: 0,
        }
    }

    fn feed(&mut self, at: Cursor, data: &[u8], scratch: &mut Scratch, give: &mut Give<'_>) {
        // What is put together for a piece is a few times its size: a large one is taken in parts.
        for data in data.chunks(MAX_PIECE_BYTES) {
            scratch.marked.clear();
            scratch.marked.append(&mut self.partial);
            let climbs = self.editor.feed(data, &mut scratch.marked);
            let text = decode(&scratch.marked, &mut scratch.lossy, &mut self.partial);
            self.page.feed(at, text, climbs, give);
        }
    }

    fn is_fresh(&self) -> bool {
        self.partial.is_empty() && self.editor.is_fresh() && self.page.is_new()
    }

    fn finish(&mut self, scratch: &mut Scratch, give: &mut Give<'_>) {
        scratch.marked.clear();
        scratch.marked.append(&mut self.partial);
        self.editor.finish(&mut scratch.marked);
        let text = String::from_utf8_lossy(&scratch.marked);
        self.page.feed(self.last, &text, false, give);
        self.page.finish(give);
    }
}

/// The text in `bytes`, with U+FFFD for what is none; the begin of a character at the end goes to `partial`.
fn decode<'a>(bytes: &'a [u8], lossy: &'a mut String, partial: &mut Vec<u8>) -> &'a str {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return text,
        Err(error) => error,
    };
    lossy.clear();
    let mut rest = bytes;
    let mut next = Some(error);
    while let Some(error) = next {
        let (valid, behind) = rest.split_at(error.valid_up_to());
        lossy.push_str(std::str::from_utf8(valid).unwrap_or_default());
        let Some(invalid) = error.error_len() else {
            partial.extend_from_slice(behind);
            return lossy;
        };
        lossy.push(char::REPLACEMENT_CHARACTER);
        rest = &behind[invalid..];
        next = std::str::from_utf8(rest).err();
    }
    lossy.push_str(std::str::from_utf8(rest).unwrap_or_default());
    lossy
}

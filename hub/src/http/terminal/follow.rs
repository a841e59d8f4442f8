//! A terminal followed line by line, as server-sent events.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use std::vec;

use axum::response::sse::Event as Sent;
use futures_util::stream::{self, StreamExt as _};
use registry_core::terminal::text::{Line, LineRef, TextOptions, TextView};
use registry_core::{Boot, Clock, Cursor, Frame, FrameKind, IdError, TaskId};
use serde::Serialize;
use serde_json::json;

use super::super::events::sse;
use super::super::json::frame as frame_json;
use super::super::problem::document;
use super::VIEW;
use super::lines::LineJson;
use crate::error::HubError;
use crate::terminal::views::Turns;
use crate::terminal::{ReadItem, ReadStream};

/// Lines as they stand are sent this often at most: a progress bar moves, and costs ten events a second.
const CURRENT_EVERY: Duration = Duration::from_millis(100);
/// Lines as they stand, of one source in one event: the end of them.
const MAX_CURRENT_LINES: usize = 32;
/// What is sent of a line as it stands, in bytes: more than a screen is wide.
const MAX_CURRENT_BYTES: usize = 1024;
/// Sources whose lines as they stand are sent; the lines of all are sent once they are final.
const MAX_CURRENT_SOURCES: usize = 64;
/// Events are made until there are so many, and then more when these were taken: a reader holds no more than that.
const MAX_BATCH_EVENTS: usize = 1024;
/// Or until they have so many bytes.
const MAX_BATCH_BYTES: usize = 256 * 1024;
/// What an event takes beside its line, in bytes, about.
const EVENT_BYTES: usize = 256;
/// What is made into events at once, in bytes of output. Each byte can be a line, or a tenth of one of a thousand blanks.
const PIECE_BYTES: usize = 1024;

/// Where a follower of lines resumes: after a frame behind which no line was open, passing over the events that came
/// between it and the last one seen. As text: `boot:seq+events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) cursor: Cursor,
    pub(super) events: u64,
}

impl std::str::FromStr for Place {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (cursor, events) = text.split_once('+').unwrap_or((text, "0"));
        match events.parse() {
            Ok(events) => Ok(Self { cursor: cursor.parse()?, events }),
            Err(_) => text.parse().map(|cursor| Self { cursor, events: 0 }),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.events {
            0 => write!(f, "{}", self.cursor),
            events => write!(f, "{}+{events}", self.cursor),
        }
    }
}

/// Lines as server-sent events: `line` once it is final, `current` as lines stand meanwhile, and what is no output as
/// in the raw view. `resumed` is how many events after the begin the reader has seen.
pub(super) fn events(
    items: ReadStream,
    resumed: u64,
    turns: Turns,
    clock: Clock,
) -> impl futures_util::Stream<Item = Result<Sent, Infallible>> + Send + 'static {
    let following = Following {
        items,
        turns,
        events: VecDeque::new(),
        making: Some(Making::new(resumed)),
        next_current: Duration::ZERO,
        clock,
    };
    stream::unfold(following, |mut following| async move {
        let sent = following.next().await?;
        Some((Ok(sent), following))
    })
}

struct Following {
    items: ReadStream,
    turns: Turns,
    /// Made, and not taken yet.
    events: VecDeque<Sent>,
    /// `None` behind the end.
    making: Option<Making>,
    /// When lines as they stand may be sent again, by the monotonic clock.
    next_current: Duration,
    clock: Clock,
}

/// What makes events out of frames. It goes to where that may take time, and comes back.
struct Making {
    text: TextView,
    pieces: Pieces,
    out: Outgoing,
    /// The lines as they stand that were sent last, of each source.
    current: HashMap<(Option<TaskId>, &'static str), Vec<String>>,
    /// Lines may stand otherwise than they were sent.
    moved: bool,
}

/// What is next.
enum Step {
    /// Something that may take time.
    Compute(Work),
    /// To look again.
    Again,
    /// Nothing.
    Over,
}

#[derive(Clone, Copy)]
enum Work {
    /// A batch of events out of the frames that are there.
    Frames,
    /// The lines as they stand.
    Current,
    /// The last events.
    Finish { next: Cursor, truncated: bool },
}

impl Following {
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some(sent) = self.events.pop_front() {
                return Some(sent);
            }
            let mut making = self.making.take()?;
            let work = match self.step(&mut making).await {
                Step::Compute(work) => work,
                Step::Again => {
                    self.making = Some(making);
                    continue;
                }
                Step::Over => continue,
            };
            let over = matches!(work, Work::Finish { .. });
            let made = self.turns.compute(VIEW, move || {
                making.make(work);
                making
            });
            match made.await {
                Ok(mut making) => {
                    self.events = making.out.take();
                    self.making = (!over).then_some(making);
                }
                Err(error) => self.fail(&error),
            }
        }
    }

    async fn step(&mut self, making: &mut Making) -> Step {
        if !making.pieces.is_empty() {
            return Step::Compute(Work::Frames);
        }
        let now = self.clock.monotonic();
        if making.moved && now >= self.next_current {
            self.next_current = now + CURRENT_EVERY;
            return Step::Compute(Work::Current);
        }
        let pause = self.next_current.saturating_sub(now);
        let item = tokio::select! {
            item = self.items.next() => item,
            () = tokio::time::sleep(pause), if making.moved => return Step::Again,
        };
        match item {
            Some(Ok(ReadItem::Start { recovered, since })) => {
                making.out.start(recovered, since);
                let data = json!({ "recovered": recovered, "since": since.to_string() });
                self.events.push_back(sse("start", None, &data));
                Step::Again
            }
            Some(Ok(ReadItem::Frames { boot, frames })) => {
                making.pieces = Pieces { boot, frames: frames.into_iter(), begun: None };
                Step::Compute(Work::Frames)
            }
            Some(Ok(ReadItem::CaughtUp)) => {
                self.events.push_back(sse("caught_up", None, &json!({})));
                Step::Again
            }
            Some(Ok(ReadItem::End { next, truncated })) => Step::Compute(Work::Finish { next, truncated }),
            Some(Err(error)) => {
                self.fail(&error);
                Step::Over
            }
            None => Step::Over,
        }
    }

    fn fail(&mut self, error: &HubError) {
        error.log();
        self.events.push_back(sse("error", None, &document(error)));
    }
}

impl Making {
    fn new(resumed: u64) -> Self {
        Self {
            text: TextView::new(TextOptions::follow()),
            pieces: Pieces::default(),
            out: Outgoing { seen: resumed, ..Outgoing::default() },
            current: HashMap::new(),
            moved: false,
        }
    }

    fn make(&mut self, work: Work) {
        match work {
            Work::Frames => {
                while !self.out.is_full() {
                    let Some((frame, whole)) = self.pieces.next() else { break };
                    self.take(self.pieces.boot, &frame, whole);
                }
            }
            Work::Current => self.show_current(),
            Work::Finish { next, truncated } => {
                let out = &mut self.out;
                self.text.finish(|line| out.line(&line));
                let data = json!({ "next": next.to_string(), "truncated": truncated });
                out.add(sse("end", None, &data), 0);
            }
        }
    }

    /// Takes a frame, or a piece of one; `whole`: nothing of it follows.
    fn take(&mut self, boot: Boot, frame: &Frame, whole: bool) {
        let out = &mut self.out;
        self.text.feed(boot, frame, |line| out.line(&line));
        if matches!(frame.kind, FrameKind::Output { .. }) {
            self.moved = true;
        } else {
            let shown = frame_json(boot, frame);
            out.push(shown.kind, &shown, 0);
            if let Some(task) = frame.task.filter(|_| matches!(frame.kind, FrameKind::Ended(_))) {
                self.current.retain(|(of, _), _| *of != Some(task));
            }
        }
        if whole && self.text.is_fresh() {
            out.seen = out.seen.saturating_sub(out.place.events);
            out.place = Place { cursor: frame.cursor(boot), events: 0 };
        }
    }

    /// Sends the lines as they stand of the sources where that has changed.
    fn show_current(&mut self) {
        self.moved = false;
        let mut standing: HashMap<_, Vec<Line>> = HashMap::new();
        for line in self.text.open_lines() {
            let key = (line.task, line.stream.as_str());
            if standing.len() < MAX_CURRENT_SOURCES || standing.contains_key(&key) {
                standing.entry(key).or_default().push(line);
            }
        }
        self.current.retain(|key, _| standing.contains_key(key));
        for ((task, stream), lines) in standing {
            let shown = &lines[lines.len().saturating_sub(MAX_CURRENT_LINES)..];
            let cut = |line: &Line| line.text[..line.text.floor_char_boundary(MAX_CURRENT_BYTES)].to_owned();
            let texts: Vec<String> = shown.iter().map(cut).collect();
            if self.current.get(&(task, stream)) == Some(&texts) {
                continue;
            }
            let task_id = task.map(|task| task.to_string());
            let data = json!({ "task_id": task_id, "stream": stream, "lines": texts });
            self.out.add(sse("current", None, &data), 0);
            self.current.insert((task, stream), texts);
        }
    }
}

/// Frames that were read, cut into pieces of which few events are made at once.
#[derive(Default)]
struct Pieces {
    boot: Boot,
    frames: vec::IntoIter<Arc<Frame>>,
    /// A frame of which so many bytes were taken.
    begun: Option<(Arc<Frame>, usize)>,
}

impl Pieces {
    fn is_empty(&self) -> bool {
        self.begun.is_none() && self.frames.as_slice().is_empty()
    }

    /// The next piece, and whether its frame ends with it.
    fn next(&mut self) -> Option<(Arc<Frame>, bool)> {
        let (frame, from) = match self.begun.take() {
            Some(begun) => begun,
            None => (self.frames.next()?, 0),
        };
        let FrameKind::Output { stream, data } = &frame.kind else { return Some((frame, true)) };
        let to = data.len().min(from + PIECE_BYTES);
        let whole = to == data.len();
        let kind = FrameKind::Output { stream: *stream, data: data.slice(from..to) };
        let piece = Frame { seq: frame.seq, at_unix_ms: frame.at_unix_ms, task: frame.task, kind };
        self.begun = (!whole).then_some((frame, to));
        Some((Arc::new(piece), whole))
    }
}

/// Events that were made.
#[derive(Default)]
struct Outgoing {
    events: VecDeque<Sent>,
    /// What they come to, in bytes, about.
    bytes: usize,
    place: Place,
    /// Events that the reader had before it resumed, and is not sent again.
    seen: u64,
}

impl Outgoing {
    fn start(&mut self, recovered: bool, since: Cursor) {
        self.place = Place { cursor: since, events: 0 };
        // What is missing cannot be counted: then the reader may be sent a line twice.
        self.seen = if recovered { self.seen } else { 0 };
    }

    fn line(&mut self, line: &LineRef<'_>) {
        self.push("line", &LineJson::new(line), line.text.len());
    }

    /// An event that stands in the log.
    fn push(&mut self, name: &str, data: &impl Serialize, bytes: usize) {
        self.place.events += 1;
        if self.place.events > self.seen {
            self.add(sse(name, Some(self.place.to_string()), data), bytes);
        }
    }

    fn add(&mut self, sent: Sent, bytes: usize) {
        self.bytes += bytes + EVENT_BYTES;
        self.events.push_back(sent);
    }

    fn is_full(&self) -> bool {
        self.events.len() >= MAX_BATCH_EVENTS || self.bytes >= MAX_BATCH_BYTES
    }

    fn take(&mut self) -> VecDeque<Sent> {
        self.bytes = 0;
        std::mem::take(&mut self.events)
    }
}

#[cfg(test)]
mod tests {
    use registry_core::Stream;

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn few_events_are_made_at_once() {
        let output = |seq, data: &[u8]| {
            let kind = FrameKind::Output { stream: Stream::Pty, data: data.to_vec().into() };
            Arc::new(Frame { seq, at_unix_ms: 1, task: None, kind })
        };
        let blanks = b"\x1b[4000Cx\n".repeat(4000);
        for data in [&b"\n".repeat(64 * 1024), &b"0123456789abcde\n".repeat(4096), &blanks] {
            let lines = data.iter().filter(|byte| **byte == b'\n').count();
            let mut making = Making::new(0);
            let frames = vec![output(1, data), output(2, data), output(3, b"no end")];
            making.pieces = Pieces { boot: Boot(1), frames: frames.into_iter(), begun: None };
            let (mut made, mut ids) = (0, 0);
            while !making.pieces.is_empty() {
                making.make(Work::Frames);
                // A piece is made whole.
                assert!(making.out.events.len() <= MAX_BATCH_EVENTS + PIECE_BYTES);
                assert!(making.out.bytes <= 3 * MAX_BATCH_BYTES, "{} bytes", making.out.bytes);
                made += making.out.take().len();
                ids = ids.max(making.out.place.events);
            }
            assert_eq!(made, 2 * lines);
            assert_eq!(making.out.place, Place { cursor: Cursor::new(Boot(1), 2), events: 0 });
            assert!(ids < lines as u64, "the place moves on with each frame behind which nothing is open");
        }
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_has_nothing_made_for_it() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let kind = FrameKind::Output { stream: Stream::Pty, data: b"x\n".repeat(2048).into() };
        let frame = Arc::new(Frame { seq: 1, at_unix_ms: 1, task: None, kind });
        let read = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&read);
        let items = stream::repeat_with(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(ReadItem::Frames { boot: Boot(1), frames: vec![Arc::clone(&frame); 4] })
        });
        let turns = Turns::new(Metrics::new(), Clock::system());
        let mut events = Box::pin(events(Box::pin(items), 0, turns, Clock::system()));
        for taken in 1..=3 * 4 * 2048 {
            assert!(events.next().await.is_some());
            assert!(read.load(Ordering::Relaxed) <= 1 + taken / (4 * 2048));
        }
    }

    #[test]
    fn places_are_read_as_they_are_written() {
        for (text, seq, events) in [("7:3", 3, 0), ("7:3+12", 3, 12)] {
            let place: Place = text.parse().unwrap();
            assert_eq!((place.cursor, place.events), (Cursor::new(Boot(7), seq), events));
            assert_eq!(place.to_string(), text);
        }
        for bad in ["", "7", "7:3+", "7:3+x", "+1", "7:3+1+1", "7:3+-1"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}

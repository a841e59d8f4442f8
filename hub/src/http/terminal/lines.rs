//! A terminal as lines of text: in one JSON document, or followed line by line.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::sse::Event as Sent;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::header::{CONTENT_TYPE, HeaderValue};
use registry_core::terminal::text::{Line, LineRef, TextOptions, TextView};
use registry_core::{Boot, Clock, Cursor, Frame, FrameKind, IdError, Stream, TaskId};
use serde::Serialize;
use serde_json::json;

use super::super::events::sse;
use super::super::json::frame as frame_json;
use super::super::problem::document;
use super::{BoxError, MAX_READ_BYTES, beginning};
use crate::error::{HubError, HubResult};
use crate::terminal::{ReadItem, ReadStream};

/// Lines as they stand are sent this often at most: a progress bar moves, and costs ten events a second.
const CURRENT_EVERY: Duration = Duration::from_millis(100);
/// Lines as they stand, of one source in one event: the end of them.
const MAX_CURRENT_LINES: usize = 32;
/// What is sent of a line as it stands, in bytes: more than a screen is wide.
const MAX_CURRENT_BYTES: usize = 1024;
/// Sources whose lines as they stand are sent; the lines of all are sent once they are final.
const MAX_CURRENT_SOURCES: usize = 64;

/// A line as JSON.
#[derive(Serialize)]
struct LineJson<'a> {
    text: &'a str,
    task_id: Option<String>,
    stream: &'static str,
    first: String,
    last: String,
    ended: bool,
}

/// How a line as JSON begins, before its text.
const LINE_BEGIN: &[u8] = b"{\"text\":";

impl<'a> LineJson<'a> {
    fn new(line: &LineRef<'a>) -> Self {
        Self {
            text: line.text,
            task_id: line.task.map(|task| task.to_string()),
            stream: line.stream.as_str(),
            first: line.first.to_string(),
            last: line.last.to_string(),
            ended: line.ended,
        }
    }
}

/// Lines as one JSON document, written as they are read, up to the bound of one answer: lines of few bytes, and bytes
/// that move the cursor far, become many times as much.
pub(super) async fn pages(mut items: ReadStream) -> HubResult<Response> {
    let (recovered, since) = beginning(&mut items).await?;
    let head = format!("{{\"recovered\":{recovered},\"first\":\"{since}\",\"lines\":[");
    let pages = Pages {
        items,
        text: TextView::new(TextOptions::default()),
        out: Lines::default(),
        complete: recovered,
        over: false,
    };
    let rest = stream::unfold(pages, |mut pages| async move {
        let chunk = pages.next().await?;
        Some((chunk, pages))
    });
    let head = stream::once(async { Ok(Bytes::from(head)) });
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((headers, Body::from_stream(head.chain(rest))).into_response())
}

struct Pages {
    items: ReadStream,
    text: TextView,
    out: Lines,
    complete: bool,
    over: bool,
}

/// JSON that is being written.
#[derive(Default)]
struct Lines {
    json: Vec<u8>,
    any: bool,
    /// Bytes that were handed over before these.
    written: u64,
    /// What stands behind the text of a line: the same for all that a frame began and ended.
    behind: Vec<u8>,
    /// What that was made for.
    made_for: Option<(Option<TaskId>, Stream, Cursor, Cursor, bool)>,
}

impl Pages {
    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        if self.over {
            return None;
        }
        let stopped = match self.items.next().await? {
            Ok(ReadItem::Frames { boot, frames }) => self.take(boot, &frames),
            Ok(ReadItem::End { next, truncated }) => Some((next, truncated)),
            Ok(ReadItem::Start { .. } | ReadItem::CaughtUp) => None,
            Err(error) => {
                error.log();
                self.over = true;
                return Some(Err(error.into()));
            }
        };
        if let Some((next, truncated)) = stopped {
            self.over = true;
            self.text.finish(|line| self.out.push(&line));
            let end = format!(
                "],\"last\":\"{next}\",\"next\":\"{next}\",\"truncated\":{truncated},\"complete\":{}}}",
                self.complete
            );
            self.out.json.extend_from_slice(end.as_bytes());
        }
        self.out.written += self.out.json.len() as u64;
        Some(Ok(Bytes::from(std::mem::take(&mut self.out.json))))
    }

    /// `Some`: the answer has become as long as one may be, here.
    fn take(&mut self, boot: Boot, frames: &[Arc<Frame>]) -> Option<(Cursor, bool)> {
        for frame in frames {
            self.complete &= !matches!(frame.kind, FrameKind::Gap { .. });
            self.text.feed(boot, frame, |line| self.out.push(&line));
            if self.out.written + self.out.json.len() as u64 >= MAX_READ_BYTES {
                return Some((frame.cursor(boot), true));
            }
        }
        None
    }
}

impl Lines {
    fn push(&mut self, line: &LineRef<'_>) {
        if std::mem::replace(&mut self.any, true) {
            self.json.push(b',');
        }
        let key = (line.task, line.stream, line.first, line.last, line.ended);
        if self.made_for != Some(key) {
            self.made_for = Some(key);
            self.behind.clear();
            let object = LineJson::new(&LineRef { text: "", ..*line });
            // Into memory, of types that always can be written.
            let _ = serde_json::to_writer(&mut self.behind, &object);
            self.behind.drain(..LINE_BEGIN.len() + 2);
        }
        self.json.extend_from_slice(LINE_BEGIN);
        let _ = serde_json::to_writer(&mut self.json, line.text);
        self.json.extend_from_slice(&self.behind);
    }
}

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
    clock: Clock,
) -> impl futures_util::Stream<Item = Result<Sent, Infallible>> + Send + 'static {
    let following = Following {
        items,
        text: TextView::new(TextOptions::follow()),
        out: Outgoing { events: VecDeque::new(), place: Place::default(), seen: resumed },
        current: HashMap::new(),
        moved: false,
        next_current: Duration::ZERO,
        over: false,
        clock,
    };
    stream::unfold(following, |mut following| async move {
        let sent = following.next().await?;
        Some((Ok(sent), following))
    })
}

struct Following {
    items: ReadStream,
    text: TextView,
    out: Outgoing,
    /// The lines as they stand that were sent last, of each source.
    current: HashMap<(Option<TaskId>, &'static str), Vec<String>>,
    /// Lines may stand otherwise than they were sent.
    moved: bool,
    /// When they may be sent again, by the monotonic clock.
    next_current: Duration,
    over: bool,
    clock: Clock,
}

struct Outgoing {
    events: VecDeque<Sent>,
    place: Place,
    /// Events that the reader had before it resumed, and is not sent again.
    seen: u64,
}

impl Outgoing {
    /// An event that stands in the log.
    fn push(&mut self, name: &str, data: &impl Serialize) {
        self.place.events += 1;
        if self.place.events > self.seen {
            self.events.push_back(sse(name, Some(self.place.to_string()), data));
        }
    }
}

impl Following {
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some(sent) = self.out.events.pop_front() {
                return Some(sent);
            }
            if self.over {
                return None;
            }
            let now = self.clock.monotonic();
            if self.moved && now >= self.next_current {
                self.next_current = now + CURRENT_EVERY;
                self.show_current();
                continue;
            }
            let pause = self.next_current.saturating_sub(now);
            tokio::select! {
                item = self.items.next() => self.take(item),
                () = tokio::time::sleep(pause), if self.moved => {}
            }
        }
    }

    fn take(&mut self, item: Option<Result<ReadItem, HubError>>) {
        let out = &mut self.out;
        match item {
            Some(Ok(ReadItem::Start { recovered, since })) => {
                out.place = Place { cursor: since, events: 0 };
                // What is missing cannot be counted: then the reader may be sent a line twice.
                out.seen = if recovered { out.seen } else { 0 };
                let data = json!({ "recovered": recovered, "since": since.to_string() });
                out.events.push_back(sse("start", None, &data));
            }
            Some(Ok(ReadItem::Frames { boot, frames })) => {
                for frame in &frames {
                    self.take_frame(boot, frame);
                }
            }
            Some(Ok(ReadItem::CaughtUp)) => out.events.push_back(sse("caught_up", None, &json!({}))),
            Some(Ok(ReadItem::End { next, truncated })) => {
                self.text.finish(|line| out.push("line", &LineJson::new(&line)));
                let data = json!({ "next": next.to_string(), "truncated": truncated });
                out.events.push_back(sse("end", None, &data));
                self.over = true;
            }
            Some(Err(error)) => {
                error.log();
                out.events.push_back(sse("error", None, &document(&error)));
                self.over = true;
            }
            None => self.over = true,
        }
    }

    fn take_frame(&mut self, boot: Boot, frame: &Frame) {
        let out = &mut self.out;
        self.text.feed(boot, frame, |line| out.push("line", &LineJson::new(&line)));
        if matches!(frame.kind, FrameKind::Output { .. }) {
            self.moved = true;
        } else {
            let shown = frame_json(boot, frame);
            out.push(shown.kind, &shown);
            if let Some(task) = frame.task.filter(|_| matches!(frame.kind, FrameKind::Ended(_))) {
                self.current.retain(|(of, _), _| *of != Some(task));
            }
        }
        if self.text.oldest_open().is_none() {
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
            self.out.events.push_back(sse("current", None, &data));
            self.current.insert((task, stream), texts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_as_they_would_be_one_by_one() {
        let cursor = |seq| Cursor::new(Boot(7), seq);
        let line = |text, first, ended| LineRef {
            text,
            task: None,
            stream: Stream::Pty,
            first: cursor(first),
            last: cursor(3),
            ended,
        };
        let given = [line("a\t\"b\"", 1, true), line("é", 1, true), line("", 2, true), line("c", 2, false)];
        let mut lines = Lines::default();
        given.iter().for_each(|line| lines.push(line));
        let expected: Vec<_> = given.iter().map(LineJson::new).collect();
        let written = format!("[{}]", String::from_utf8(lines.json).unwrap());
        assert_eq!(written, serde_json::to_string(&expected).unwrap());
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

//! A terminal as lines of text, in one JSON document.

use std::sync::Arc;
use std::vec;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::header::{CONTENT_TYPE, HeaderValue};
use registry_core::terminal::text::{LineRef, TextOptions, TextView};
use registry_core::{Boot, Cursor, Frame, FrameKind, Stream, TaskId};
use serde::Serialize;

use super::{BoxError, MAX_READ_BYTES, VIEW, beginning};
use crate::error::HubResult;
use crate::terminal::views::Turns;
use crate::terminal::{ReadItem, ReadStream};

/// JSON is handed over when it has become so long, in bytes, and what follows is written when that was taken.
const CHUNK_BYTES: usize = 256 * 1024;

/// A line as JSON.
#[derive(Serialize)]
pub(super) struct LineJson<'a> {
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
    pub(super) fn new(line: &LineRef<'a>) -> Self {
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
pub(super) async fn pages(mut items: ReadStream, turns: Turns) -> HubResult<Response> {
    let (recovered, since) = beginning(&mut items).await?;
    let head = format!("{{\"recovered\":{recovered},\"first\":\"{since}\",\"lines\":[");
    let writing = Writing {
        text: TextView::new(TextOptions::default()),
        out: Lines::default(),
        complete: recovered,
        boot: since.boot,
        frames: Vec::new().into_iter(),
    };
    let pages = Pages { items, turns, writing: Some(writing) };
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
    turns: Turns,
    /// `None` behind the end.
    writing: Option<Writing>,
}

/// What makes JSON of frames. It goes to where that may take time, and comes back.
struct Writing {
    text: TextView,
    out: Lines,
    complete: bool,
    boot: Boot,
    /// Read, and not written yet.
    frames: vec::IntoIter<Arc<Frame>>,
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
        let mut writing = self.writing.take()?;
        let mut end = None;
        if writing.frames.as_slice().is_empty() {
            match self.items.next().await? {
                Ok(ReadItem::Frames { boot, frames }) => {
                    (writing.boot, writing.frames) = (boot, frames.into_iter());
                }
                Ok(ReadItem::End { next, truncated }) => end = Some((next, truncated)),
                Ok(ReadItem::Start { .. } | ReadItem::CaughtUp) => {}
                Err(error) => {
                    error.log();
                    return Some(Err(error.into()));
                }
            }
        }
        let written = self.turns.compute(VIEW, move || {
            let over = writing.write(end);
            let json = std::mem::take(&mut writing.out.json);
            ((!over).then_some(writing), json)
        });
        match written.await {
            Ok((writing, json)) => {
                self.writing = writing;
                Some(Ok(Bytes::from(json)))
            }
            Err(error) => {
                error.log();
                Some(Err(error.into()))
            }
        }
    }
}

impl Writing {
    /// Writes what there is, up to the length of a chunk, and the end, if that is here. True: it was.
    fn write(&mut self, end: Option<(Cursor, bool)>) -> bool {
        let end = end.or_else(|| self.take());
        if let Some((next, truncated)) = end {
            self.text.finish(|line| self.out.push(&line));
            let end = format!(
                "],\"last\":\"{next}\",\"next\":\"{next}\",\"truncated\":{truncated},\"complete\":{}}}",
                self.complete
            );
            self.out.json.extend_from_slice(end.as_bytes());
        }
        self.out.written += self.out.json.len() as u64;
        end.is_some()
    }

    /// `Some`: the answer has become as long as one may be, here.
    fn take(&mut self) -> Option<(Cursor, bool)> {
        while self.out.json.len() < CHUNK_BYTES {
            let frame = self.frames.next()?;
            self.complete &= !matches!(frame.kind, FrameKind::Gap { .. });
            self.text.feed(self.boot, &frame, |line| self.out.push(&line));
            if self.out.written + self.out.json.len() as u64 >= MAX_READ_BYTES {
                return Some((frame.cursor(self.boot), true));
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
}

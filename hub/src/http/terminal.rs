//! A node's terminal: as JSON, as bytes, as text, or followed as server-sent events; and its views.

mod follow;
mod lines;
mod negotiate;
mod views;
mod whole;

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::sse::Event as Sent;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use registry_core::{Cursor, TaskId};
use serde::Deserialize;
use serde_json::json;

use self::follow::Place;
use self::negotiate::Representation;
use self::whole::Form;
use super::events::{resume_id, sse};
use super::extract::{Authenticated, Id, Params, parse_duration};
use super::json::frame as frame_json;
use super::problem::document;
use crate::error::{ErrorCode, HubError, HubResult};
use crate::hub::Hub;
use crate::terminal::{ReadItem, ReadRequest, ReadSince, ReadStream};

/// The name of the view that is computed here, as metrics tell it: lines of text, a piece at a time.
const VIEW: &str = "text";
/// Output in one answer unless asked otherwise, in bytes.
const DEFAULT_READ_BYTES: u64 = 1024 * 1024;
/// The most output in one answer, in bytes: all that is kept of a node by default. Streams have no limit.
const MAX_READ_BYTES: u64 = 16 * 1024 * 1024;

/// The query of `GET /v1/nodes/{id}/terminal`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Reading {
    /// Go on after this cursor.
    since: Option<String>,
    /// Or: begin this many bytes of output before the head.
    tail: Option<u64>,
    /// Or: begin at this time: RFC 3339, milliseconds since the Unix epoch, or a length of time ago (`10m`).
    since_time: Option<String>,
    /// Only this task's frames.
    task: Option<String>,
    max_bytes: Option<u64>,
    /// How output is shown; not given: as it was, but as text to who wants `text/plain`.
    view: Option<ViewName>,
    follow: bool,
    /// Of a screen: lines of scrollback before it.
    scrollback_lines: Option<usize>,
    /// Of commands: how many.
    limit: Option<usize>,
    /// Of a search: what to look for.
    q: Option<String>,
    regex: bool,
    ignore_case: bool,
    max_hits: Option<usize>,
}

/// What can be seen of a terminal.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum ViewName {
    /// The frames, with output as it was.
    Raw,
    /// Lines as a person would have seen them.
    Text,
    /// What a task's terminal shows now.
    Screen,
    /// The newest tasks and what they said.
    Commands,
    /// Lines that match a pattern.
    Search,
}

impl ViewName {
    /// What a view can be answered as, best first. A media type does not stand for another view than the one asked for.
    const fn offers(self) -> &'static [Representation] {
        use Representation::{Bytes, Events, Json, Text};
        match self {
            Self::Raw => &[Json, Bytes, Events],
            Self::Text => &[Json, Text, Events],
            Self::Screen => &[Json, Text],
            Self::Commands | Self::Search => &[Json],
        }
    }

    /// The view's name, and the fields of the query that mean something to it.
    const fn takes(self) -> (&'static str, &'static [&'static str]) {
        const READ: &[&str] = &["since", "tail", "since_time", "task", "max_bytes", "follow"];
        match self {
            Self::Raw => ("raw", READ),
            Self::Text => ("text", READ),
            Self::Screen => ("screen", &["task", "scrollback_lines"]),
            Self::Commands => ("commands", &["task", "limit", "max_bytes"]),
            Self::Search => {
                ("search", &["since", "tail", "since_time", "task", "q", "regex", "ignore_case", "max_hits"])
            }
        }
    }
}

/// What a terminal can be answered as when no view is named: then `text/plain` asks for text, and the others for what
/// it was.
const ANY_VIEW: &[Representation] =
    &[Representation::Json, Representation::Bytes, Representation::Text, Representation::Events];

impl Reading {
    fn task(&self) -> HubResult<Option<TaskId>> {
        let parse = |text: &String| {
            text.parse().map_err(|error: registry_core::IdError| HubError::from(error).with("field", "task"))
        };
        self.task.as_ref().map(parse).transpose()
    }

    /// A view that shows how things stand now has no place to begin at, and is not followed.
    fn check(&self, view: ViewName) -> HubResult<()> {
        let place = self.since.is_some() || self.tail.is_some() || self.since_time.is_some();
        let refuse = |field: &'static str, detail: &str| {
            Err(HubError::new(ErrorCode::InvalidArgument, detail).with("field", field))
        };
        match view {
            ViewName::Screen | ViewName::Commands if place => {
                refuse("since", "this view shows how things stand now: leave out since, tail and since_time")
            }
            ViewName::Screen | ViewName::Commands | ViewName::Search if self.follow => {
                refuse("follow", "only the views raw and text can be followed: ask for this one again")
            }
            _ => {
                let (name, takes) = view.takes();
                match self.given().find(|field| !takes.contains(field)) {
                    Some(field) => refuse(field, &format!("the view {name} takes only {}", takes.join(", "))),
                    None => Ok(()),
                }
            }
        }
    }

    /// The fields that say something, but for the view.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        let Self {
            since,
            tail,
            since_time,
            task,
            max_bytes,
            view: _,
            follow,
            scrollback_lines,
            limit,
            q,
            regex,
            ignore_case,
            max_hits,
        } = self;
        let fields = [
            ("since", since.is_some()),
            ("tail", tail.is_some()),
            ("since_time", since_time.is_some()),
            ("task", task.is_some()),
            ("max_bytes", max_bytes.is_some()),
            ("follow", *follow),
            ("scrollback_lines", scrollback_lines.is_some()),
            ("limit", limit.is_some()),
            ("q", q.is_some()),
            ("regex", *regex),
            ("ignore_case", *ignore_case),
            ("max_hits", max_hits.is_some()),
        ];
        fields.into_iter().filter(|(_, given)| *given).map(|(field, _)| field)
    }
}

/// `GET /v1/nodes/{id}/terminal`
pub(super) async fn read(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Id(node): Id,
    Params(reading): Params<Reading>,
    headers: HeaderMap,
) -> HubResult<Response> {
    let view = reading.view.unwrap_or(ViewName::Raw);
    reading.check(view)?;
    let offers = reading.view.map_or(ANY_VIEW, ViewName::offers);
    let representation =
        if reading.follow { Representation::Events } else { negotiate::choose(&headers, offers)? };
    match view {
        ViewName::Raw | ViewName::Text => {}
        ViewName::Screen => return views::screen(&hub, &principal, node, reading, representation).await,
        ViewName::Commands => return views::commands(&hub, &principal, node, reading).await,
        ViewName::Search => {
            let since = since(&hub, None, &reading)?;
            return views::search(&hub, &principal, node, reading, since).await;
        }
    }
    let streams = representation == Representation::Events;
    let resumed = if streams { resumed(view, &headers)? } else { None };
    let request = request(&hub, node, &reading, streams, resumed)?;
    let items = hub.terminal.read(&principal, request).await?;
    match (representation, view) {
        (Representation::Events, ViewName::Text) => {
            let seen = resumed.map_or(0, |place| place.events);
            let events = follow::events(items, seen, hub.terminal.turns(), hub.clock.clone());
            Ok(super::events::stream(events).into_response())
        }
        (Representation::Events, _) => Ok(super::events::stream(events(items)).into_response()),
        (Representation::Json, ViewName::Text) => lines::pages(items, hub.terminal.turns()).await,
        (Representation::Json, _) => pages(items).await,
        (Representation::Bytes, _) => whole::answer(items, Form::Bytes, hub.terminal.turns()).await,
        (Representation::Text, _) => whole::answer(items, Form::text(), hub.terminal.turns()).await,
    }
}

/// Where a reader that was cut off goes on. Ids of the raw view are cursors.
fn resumed(view: ViewName, headers: &HeaderMap) -> HubResult<Option<Place>> {
    let Some(id) = resume_id(headers)? else { return Ok(None) };
    match view {
        ViewName::Text => Ok(Some(id.parse()?)),
        _ => Ok(Some(Place { cursor: id.parse()?, events: 0 })),
    }
}

fn request(
    hub: &Hub,
    node: String,
    reading: &Reading,
    streams: bool,
    resumed: Option<Place>,
) -> HubResult<ReadRequest> {
    let max_bytes = match reading.max_bytes {
        // A stream has no limit unless asked for one.
        None if streams => 0,
        None => DEFAULT_READ_BYTES,
        Some(bytes) if streams => bytes,
        Some(0) => MAX_READ_BYTES,
        Some(bytes) => bytes.min(MAX_READ_BYTES),
    };
    Ok(ReadRequest {
        node,
        since: since(hub, resumed, reading)?,
        task: reading.task()?,
        follow: reading.follow || streams,
        max_bytes,
    })
}

fn since(hub: &Hub, resumed: Option<Place>, reading: &Reading) -> HubResult<ReadSince> {
    // A resuming reader's address still says where it first began.
    if let Some(place) = resumed {
        return Ok(ReadSince::Cursor(place.cursor));
    }
    match (&reading.since, reading.tail, &reading.since_time) {
        (None, None, None) => Ok(ReadSince::Oldest),
        (Some(cursor), None, None) => Ok(ReadSince::Cursor(cursor.parse()?)),
        (None, Some(bytes), None) => Ok(ReadSince::TailBytes(bytes)),
        (None, None, Some(time)) => parse_time(time, hub.clock.unix_ms()).map(ReadSince::UnixMs),
        _ => {
            let detail = "give only one of since, tail and since_time";
            Err(HubError::new(ErrorCode::InvalidArgument, detail).with("field", "since"))
        }
    }
}

/// RFC 3339, milliseconds since the Unix epoch, or a length of time ago.
fn parse_time(text: &str, now_unix_ms: u64) -> HubResult<u64> {
    if let Ok(unix_ms) = text.parse() {
        return Ok(unix_ms);
    }
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if let Some(ago) = parse_duration(text) {
        return Ok(now_unix_ms.saturating_sub(millis(ago)));
    }
    match humantime::parse_rfc3339_weak(text) {
        Ok(time) => Ok(time.duration_since(std::time::UNIX_EPOCH).map_or(0, millis)),
        Err(_) => {
            let detail = "since_time is a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m";
            Err(HubError::new(ErrorCode::InvalidArgument, detail).with("field", "since_time"))
        }
    }
}

/// Frames as server-sent events. The id of each is its cursor.
fn events(items: ReadStream) -> impl Stream<Item = Result<Sent, Infallible>> + Send + 'static {
    items.flat_map(move |item| {
        let sent = match item {
            Ok(ReadItem::Start { recovered, since }) => {
                vec![sse("start", None, &json!({ "recovered": recovered, "since": since.to_string() }))]
            }
            Ok(ReadItem::Frames { boot, frames }) => {
                let frames = frames.iter().map(|frame| {
                    let frame = frame_json(boot, frame);
                    sse(frame.kind, Some(frame.cursor.clone()), &frame)
                });
                frames.collect()
            }
            Ok(ReadItem::CaughtUp) => vec![sse("caught_up", None, &json!({}))],
            Ok(ReadItem::End { next, truncated }) => {
                vec![sse("end", None, &json!({ "next": next.to_string(), "truncated": truncated }))]
            }
            Err(error) => {
                error.log();
                vec![sse("error", None, &document(&error))]
            }
        };
        stream::iter(sent.into_iter().map(Ok))
    })
}

/// Frames as one JSON document, written as they are read: a slow reader slows the reading, and nothing piles up. A
/// failure on the way cuts the answer off, so that nobody takes a part for the whole.
async fn pages(mut items: ReadStream) -> HubResult<Response> {
    let (recovered, since) = beginning(&mut items).await?;
    let head = format!("{{\"recovered\":{recovered},\"since\":\"{since}\",\"frames\":[");
    let mut first = true;
    let rest = items.map(move |item| match item {
        Ok(ReadItem::Frames { boot, frames }) => {
            let mut out = Vec::new();
            for frame in &frames {
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                serde_json::to_writer(&mut out, &frame_json(boot, frame))?;
            }
            Ok(Bytes::from(out))
        }
        Ok(ReadItem::End { next, truncated }) => {
            Ok(Bytes::from(format!("],\"next\":\"{next}\",\"truncated\":{truncated}}}")))
        }
        Ok(ReadItem::Start { .. } | ReadItem::CaughtUp) => Ok(Bytes::new()),
        Err(error) => {
            error.log();
            Err(error.into())
        }
    });
    let head = stream::once(async { Ok(Bytes::from(head)) });
    let chunks: BoxStream<'static, Result<Bytes, BoxError>> = head.chain(rest).boxed();
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], Body::from_stream(chunks))
        .into_response())
}

/// Whether anything is missing before the first frame, and the place before it.
async fn beginning(items: &mut ReadStream) -> HubResult<(bool, Cursor)> {
    match items.next().await {
        Some(Ok(ReadItem::Start { recovered, since })) => Ok((recovered, since)),
        Some(Err(error)) => Err(error),
        _ => Err(HubError::fault("a read began without a start")),
    }
}

/// What a body may fail with.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use registry_core::{Boot, Frame, FrameKind};

    use super::*;
    use crate::terminal::views::Turns;

    /// A log of one line.
    fn items() -> ReadStream {
        let kind = FrameKind::Output { stream: registry_core::Stream::Pty, data: Bytes::from_static(b"x\n") };
        let frames = vec![Arc::new(Frame { seq: 1, at_unix_ms: 1, task: None, kind })];
        Box::pin(stream::iter([
            Ok(ReadItem::Start { recovered: true, since: Cursor::START }),
            Ok(ReadItem::Frames { boot: Boot(1), frames }),
            Ok(ReadItem::End { next: Cursor::new(Boot(1), 1), truncated: false }),
        ]))
    }

    #[tokio::test]
    async fn text_waits_its_turn_and_what_is_raw_does_not() {
        let turns = Turns::new(crate::metrics::Metrics::new(), registry_core::Clock::system());
        let mut taken = Vec::new();
        while let Some(turn) = turns.turn("screen").now_or_never() {
            taken.push(turn.unwrap());
        }
        let body = async |response: HubResult<Response>| {
            axum::body::to_bytes(response.unwrap().into_body(), usize::MAX).await.unwrap()
        };
        assert_eq!(body(whole::answer(items(), Form::Bytes, turns.clone()).await).await, "x\n");
        let mut plain = Box::pin(whole::answer(items(), Form::text(), turns.clone()));
        let mut json = Box::pin(async { body(lines::pages(items(), turns.clone()).await).await });
        let clock = registry_core::Clock::system();
        let mut followed = Box::pin(follow::events(items(), 0, turns.clone(), clock)).skip(1);
        let mut line = Box::pin(followed.next());
        // Nothing else runs here that they could be waiting for.
        for _ in 0..100 {
            assert!((&mut plain).now_or_never().is_none());
            assert!((&mut json).now_or_never().is_none());
            assert!((&mut line).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        drop(taken);
        let (plain, json, line) = tokio::join!(plain, json, line);
        assert_eq!(body(plain).await, "x\n");
        assert!(json.starts_with(b"{\"recovered\":true,\"first\":\"0:0\",\"lines\":[{\"text\":\"x\","));
        assert!(line.is_some());
    }

    #[test]
    fn times() {
        let now = 1_000_000;
        assert_eq!(parse_time("123", now).unwrap(), 123);
        assert_eq!(parse_time("10s", now).unwrap(), 990_000);
        assert_eq!(parse_time("1000h", now).unwrap(), 0, "before the epoch is its begin");
        assert_eq!(parse_time("1970-01-01T00:00:02Z", now).unwrap(), 2_000);
        assert_eq!(parse_time("yesterday", now).unwrap_err().code(), ErrorCode::InvalidArgument);
    }
}

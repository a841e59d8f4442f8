//! A node's terminal: as JSON, as bytes, as text, or followed as server-sent events.

mod negotiate;
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
use serde::Deserialize;
use serde_json::json;

use self::negotiate::Representation;
use super::events::{resume_id, sse};
use super::extract::{Authenticated, Id, Params, parse_duration};
use super::json::View;
use super::problem::document;
use crate::error::{ErrorCode, HubError, HubResult};
use crate::hub::Hub;
use crate::terminal::{ReadItem, ReadRequest, ReadSince, ReadStream};

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
    view: ViewName,
    follow: bool,
}

/// How output is shown.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum ViewName {
    /// As it was.
    #[default]
    Raw,
    /// Without control sequences.
    Text,
}

impl ViewName {
    fn view(self) -> View {
        match self {
            Self::Raw => View::Raw,
            Self::Text => View::Text(Box::default()),
        }
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
    let representation = if reading.follow { Representation::Events } else { negotiate::choose(&headers)? };
    let streams = representation == Representation::Events;
    let view = reading.view;
    let request = request(&hub, node, &reading, streams, &headers)?;
    let items = hub.terminal.read(&principal, request).await?;
    match representation {
        Representation::Events => Ok(super::events::stream(events(items, view.view())).into_response()),
        Representation::Json => pages(items, view.view()).await,
        Representation::Bytes => whole::answer(items, ViewName::Raw.view()).await,
        Representation::Text => whole::answer(items, ViewName::Text.view()).await,
    }
}

fn request(
    hub: &Hub,
    node: String,
    reading: &Reading,
    streams: bool,
    headers: &HeaderMap,
) -> HubResult<ReadRequest> {
    let resumed = if streams { resume_id(headers)? } else { None };
    let max_bytes = match reading.max_bytes {
        // A stream has no limit unless asked for one.
        None if streams => 0,
        None => DEFAULT_READ_BYTES,
        Some(bytes) if streams => bytes,
        Some(0) => MAX_READ_BYTES,
        Some(bytes) => bytes.min(MAX_READ_BYTES),
    };
    let task = reading.task.as_deref().map(|text| {
        text.parse().map_err(|error: registry_core::IdError| HubError::from(error).with("field", "task"))
    });
    Ok(ReadRequest {
        node,
        since: since(hub, resumed, reading)?,
        task: task.transpose()?,
        follow: reading.follow || streams,
        max_bytes,
    })
}

fn since(hub: &Hub, resumed: Option<String>, reading: &Reading) -> HubResult<ReadSince> {
    // A resuming reader's address still says where it first began.
    if let Some(id) = resumed {
        return Ok(ReadSince::Cursor(id.parse()?));
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
fn events(
    items: ReadStream,
    mut view: View,
) -> impl Stream<Item = Result<Sent, Infallible>> + Send + 'static {
    items.flat_map(move |item| {
        let sent = match item {
            Ok(ReadItem::Start { recovered, since }) => {
                vec![sse("start", None, &json!({ "recovered": recovered, "since": since.to_string() }))]
            }
            Ok(ReadItem::Frames { boot, frames }) => {
                let frames = frames.iter().map(|frame| {
                    let frame = view.frame(boot, frame);
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
async fn pages(mut items: ReadStream, mut view: View) -> HubResult<Response> {
    let (recovered, since) = match items.next().await {
        Some(Ok(ReadItem::Start { recovered, since })) => (recovered, since),
        Some(Err(error)) => return Err(error),
        _ => return Err(HubError::fault("a read began without a start")),
    };
    let head = format!("{{\"recovered\":{recovered},\"since\":\"{since}\",\"frames\":[");
    let mut first = true;
    let rest = items.map(move |item| match item {
        Ok(ReadItem::Frames { boot, frames }) => {
            let mut out = Vec::new();
            for frame in &frames {
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                serde_json::to_writer(&mut out, &view.frame(boot, frame))?;
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

/// What a body may fail with.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

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

//! Events as server-sent events. The id of each is its position, so that a browser resumes by itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::ready;
use futures_util::stream::{once, unfold};
use futures_util::{Stream, StreamExt as _};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName};
use registry_core::Position;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Authenticated, Params};
use super::json::{frame, task};
use crate::error::{ErrorCode, HubError, HubResult};
use crate::fleet::Event;
use crate::hub::Hub;
use crate::watch::{WatchItem, WatchRequest};

/// How often a silent stream says that it is alive: below the idle limits of common proxies (30 to 60 s).
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a reader that was cut off waits before it comes back.
const COME_BACK: Duration = Duration::from_secs(2);
/// Sent by readers that resume: the id of the last event seen.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The query of `GET /v1/events`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Watching {
    /// Go on after this position.
    since: Option<String>,
    /// Only these nodes, with commas between them.
    nodes: String,
    /// Also terminal output.
    output: bool,
}

/// `GET /v1/events`
pub(super) async fn watch(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Params(watching): Params<Watching>,
    headers: HeaderMap,
) -> HubResult<Response> {
    let since = resume_id(&headers)?.or(watching.since.filter(|since| !since.is_empty()));
    let since = since.map(|text| text.parse::<Position>());
    let since = since.transpose().map_err(|_| HubError::plain(ErrorCode::InvalidPosition))?;
    let nodes = watching.nodes.split(',').filter(|node| !node.is_empty()).map(str::to_owned).collect();
    let items = hub.watch.events(&principal, &WatchRequest { since, nodes, output: watching.output })?;
    let hello = Bytes::from(format!("retry: {}\n\n", COME_BACK.as_millis()));
    let texts = unfold(items, |mut items| async move {
        let text = match tokio::time::timeout(HEARTBEAT, items.next()).await {
            Ok(item) => text(&item?),
            Err(_) => Bytes::from_static(b":\n\n"),
        };
        Some((text, items))
    });
    let texts = once(ready(hello)).chain(texts).map(Ok::<_, Infallible>);
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(texts)).into_response())
}

/// A stream of server-sent events that tells its reader how to come back, and that it is alive.
pub(super) fn stream<S>(events: S) -> Sse<impl Stream<Item = Result<Sent, Infallible>>>
where
    S: Stream<Item = Result<Sent, Infallible>> + Send + 'static,
{
    let hello = once(async { Ok(Sent::default().retry(COME_BACK)) });
    Sse::new(hello.chain(events)).keep_alive(KeepAlive::new().interval(HEARTBEAT))
}

/// The id that a resuming reader sends. It wins over `since`, which stays in the address when a browser reconnects.
pub(super) fn resume_id(headers: &HeaderMap) -> HubResult<Option<String>> {
    match headers.get(LAST_EVENT_ID).map(|value| value.to_str()) {
        None | Some(Ok("")) => Ok(None),
        Some(Ok(id)) => Ok(Some(id.to_owned())),
        Some(Err(_)) => {
            Err(HubError::new(ErrorCode::InvalidArgument, "the last-event-id header is not an id"))
        }
    }
}

/// One server-sent event: a name, data as JSON, and an id to resume from where there is one.
pub(super) fn sse(name: &str, id: Option<String>, data: &impl serde::Serialize) -> Sent {
    let event = Sent::default().event(name);
    let event = match id {
        Some(id) => event.id(id),
        None => event,
    };
    match event.json_data(data) {
        Ok(event) => event,
        // Ours all have string keys, so this is a defect; the reader is told that something was there.
        Err(error) => {
            HubError::fault(error).log();
            Sent::default().event("error").data("{\"code\":\"internal\"}")
        }
    }
}

/// One item as it is sent. Of an event there is one copy, whoever reads it.
fn text(item: &WatchItem) -> Bytes {
    match item {
        WatchItem::Event(delivery) => delivery.event.text(|event| {
            let (name, key, value) = body(event);
            let position = delivery.resume_position();
            let mut data = json!({
                "position": position.to_string(),
                "node_id": delivery.node.as_str(),
                "at_unix_ms": delivery.at_unix_ms,
            });
            data[key] = value;
            written(name, Some(position), &data)
        }),
        WatchItem::Gap { missed, reason, position } => {
            let data = json!({ "missed": missed, "reason": reason, "position": position.to_string() });
            written("gap", Some(*position), &data)
        }
        WatchItem::CaughtUp { position } => {
            written("caught_up", Some(*position), &json!({ "position": position.to_string() }))
        }
        WatchItem::Closed { reason } => written("closed", None, &json!({ "reason": reason })),
    }
}

/// JSON has no line breaks of its own, so that data is one line.
fn written(name: &str, position: Option<Position>, data: &Value) -> Bytes {
    let id = position.map(|position| format!("id: {position}\n")).unwrap_or_default();
    Bytes::from(format!("event: {name}\n{id}data: {data}\n\n"))
}

/// An event's name, and what it tells under which key.
fn body(event: &Event) -> (&'static str, &'static str, Value) {
    match event {
        Event::Node(view) => ("node", "node", json!(**view)),
        Event::Deleted => ("node_deleted", "deleted", json!(true)),
        Event::Stats(stats) => ("stats", "stats", json!(**stats)),
        Event::Task(row) => ("task", "task", task(row)),
        Event::Output(seen) => {
            let frames: Vec<Value> = seen.frames.iter().map(|one| json!(frame(seen.boot, one))).collect();
            ("output", "output", json!({ "boot": seen.boot.0, "frames": frames }))
        }
    }
}

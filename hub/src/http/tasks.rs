//! Tasks: make, list, show, wait for, cancel, type into, resize.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use registry_core::TaskId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Authenticated, Id, Json, MediaType, Params, duration, parse_json, read_body};
use super::json::{add_said, task};
use crate::auth::Principal;
use crate::error::{ErrorCode, HubError, HubResult};
use crate::hub::Hub;
use crate::store::{TaskRow, TaskSpec};
use crate::tasks::TaskQuery;
use crate::terminal::views::commands::DEFAULT_OUTPUT_BYTES;

/// A retried request with the same key makes one task.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// What runs a `command`.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The body of `POST /v1/tasks`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NewTask {
    node: String,
    argv: Vec<String>,
    /// Instead of `argv`: a line for `sh -c`.
    command: Option<String>,
    env: BTreeMap<String, String>,
    cwd: String,
    pty: Option<Size>,
    stdin: bool,
    #[serde(deserialize_with = "duration")]
    timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    queue_ttl: Option<Duration>,
    interactive: bool,
}

/// A terminal's size.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Size {
    rows: u16,
    cols: u16,
}

/// The query of requests that can wait for a task and tell what it said.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Waiting {
    #[serde(deserialize_with = "duration")]
    wait: Option<Duration>,
    max_bytes: Option<usize>,
}

/// `POST /v1/tasks`: 201 with the task, or with `?wait` 200 with how it went.
pub(super) async fn create(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Params(waiting): Params<Waiting>,
    headers: HeaderMap,
    Json(new): Json<NewTask>,
) -> HubResult<Response> {
    let key = idempotency_key(&headers)?;
    let node = new.node.clone();
    if node.is_empty() {
        return Err(invalid("node", "name the node that the task is for"));
    }
    let created = hub.tasks.create(&principal, &node, new.into_spec()?, key).await?;
    let location = [(LOCATION, format!("/v1/tasks/{}", created.task.id))];
    let answer = tell(&hub, &principal, created.task, &waiting).await?;
    let plain = created.new && waiting.wait.is_none();
    let status = if plain { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, location, Answer(answer)).into_response())
}

/// The query of `GET /v1/tasks`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Listing {
    node: Option<String>,
    active: bool,
    page_size: usize,
    page_token: Option<String>,
}

/// `GET /v1/tasks`
pub(super) async fn list(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Params(listing): Params<Listing>,
) -> HubResult<Answer<Value>> {
    let Listing { node, active, page_size, page_token } = listing;
    let page = hub.tasks.list(&principal, TaskQuery { node, active, page_size, page_token }).await?;
    let tasks: Vec<Value> = page.tasks.iter().map(task).collect();
    Ok(Answer(json!({ "tasks": tasks, "next_page_token": page.next })))
}

/// `GET /v1/tasks/{id}`
pub(super) async fn show(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Id(id): Id,
    Params(waiting): Params<Waiting>,
) -> HubResult<Answer<Value>> {
    let row = hub.tasks.get(&principal, task_id(&id)?, Duration::ZERO).await?;
    tell(&hub, &principal, row, &waiting).await.map(Answer)
}

/// The body of `POST /v1/tasks/{id}/cancel`; may be left out.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cancel {
    #[serde(deserialize_with = "duration")]
    grace: Option<Duration>,
}

/// `POST /v1/tasks/{id}/cancel`
pub(super) async fn cancel(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Id(id): Id,
    Json(cancel): Json<Cancel>,
) -> HubResult<Answer<Value>> {
    let row = hub.tasks.cancel(&principal, task_id(&id)?, cancel.grace.unwrap_or_default()).await?;
    Ok(Answer(task(&row)))
}

/// What `POST /v1/tasks/{id}/stdin` writes: the query beside a body of bytes, or all of it as JSON.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Input {
    offset: Option<u64>,
    text: Option<String>,
    data_base64: Option<String>,
    eof: bool,
}

/// `POST /v1/tasks/{id}/stdin`: answers with the offset for the next write.
pub(super) async fn write_stdin(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Id(id): Id,
    Params(query): Params<Input>,
    request: Request,
) -> HubResult<Answer<Value>> {
    let media_type = MediaType::of(request.headers());
    let body = read_body(request.into_body()).await?;
    let (input, data) = match media_type {
        MediaType::Octets => (query, body),
        MediaType::Json => {
            let input: Input = parse_json(&body)?;
            let data = input.data()?;
            (input, data)
        }
        MediaType::None | MediaType::Other => {
            let detail = "send the input as application/octet-stream with ?offset=N, or as application/json";
            return Err(HubError::new(ErrorCode::UnsupportedMediaType, detail));
        }
    };
    let offset = input.offset.ok_or_else(|| {
        invalid(
            "offset",
            "say how many bytes of input were sent before these (0 at first): it makes a retry safe",
        )
    })?;
    let offset = hub.tasks.write_stdin(&principal, task_id(&id)?, offset, data, input.eof).await?;
    Ok(Answer(json!({ "offset": offset })))
}

/// `POST /v1/tasks/{id}/resize`
pub(super) async fn resize(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Id(id): Id,
    Json(size): Json<Size>,
) -> HubResult<StatusCode> {
    hub.tasks.resize(&principal, task_id(&id)?, size.rows, size.cols).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Waits for a task as asked, and adds what it said where that was asked for.
async fn tell(hub: &Hub, principal: &Principal, row: TaskRow, waiting: &Waiting) -> HubResult<Value> {
    let row = match waiting.wait {
        Some(wait) => wait_for(hub, principal, row.id, wait).await?,
        None => row,
    };
    let mut answer = task(&row);
    if waiting.wait.is_none() && waiting.max_bytes.is_none() {
        return Ok(answer);
    }
    let max_bytes = waiting.max_bytes.unwrap_or(DEFAULT_OUTPUT_BYTES);
    add_said(&mut answer, &hub.terminal.output(principal, &row, max_bytes).await?);
    Ok(answer)
}

/// Waits for a task to end, but not past the hub's own end: then the answer is how it stands, and the caller may ask
/// again.
async fn wait_for(hub: &Hub, principal: &Principal, id: TaskId, wait: Duration) -> HubResult<TaskRow> {
    tokio::select! {
        row = hub.tasks.get(principal, id, wait) => row,
        () = hub.lifecycle.draining().cancelled_owned() => hub.tasks.get(principal, id, Duration::ZERO).await,
    }
}

impl NewTask {
    fn into_spec(self) -> HubResult<TaskSpec> {
        let argv = match (self.command, self.argv.is_empty()) {
            (None, _) => self.argv,
            (Some(command), true) => SHELL.into_iter().map(str::to_owned).chain([command]).collect(),
            (Some(_), false) => return Err(invalid("command", "give argv or command, not both")),
        };
        Ok(TaskSpec {
            argv,
            env: self.env,
            cwd: self.cwd,
            pty: self.pty.map(|size| (size.rows, size.cols)),
            stdin: self.stdin,
            timeout_ms: millis(self.timeout),
            queue_ttl_ms: millis(self.queue_ttl),
            interactive: self.interactive,
        })
    }
}

impl Input {
    fn data(&self) -> HubResult<Bytes> {
        match (&self.text, &self.data_base64) {
            (Some(_), Some(_)) => Err(invalid("text", "give text or data_base64, not both")),
            (Some(text), None) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (None, Some(data)) => match STANDARD.decode(data) {
                Ok(data) => Ok(data.into()),
                Err(error) => Err(invalid("data_base64", &format!("this is not base64: {error}"))),
            },
            (None, None) => Ok(Bytes::new()),
        }
    }
}

fn millis(duration: Option<Duration>) -> u64 {
    duration.map_or(0, |duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn idempotency_key(headers: &HeaderMap) -> HubResult<Option<String>> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(key) => Ok(Some(key.to_owned())),
        Err(_) => Err(invalid("idempotency_key", "an idempotency key is visible ASCII")),
    }
}

fn task_id(text: &str) -> HubResult<TaskId> {
    text.parse().map_err(|error: registry_core::IdError| HubError::from(error).with("field", "task_id"))
}

fn invalid(field: &'static str, detail: &str) -> HubError {
    HubError::new(ErrorCode::InvalidArgument, detail).with("field", field)
}

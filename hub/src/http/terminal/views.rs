//! The views that are one answer: screen, commands, search.

use axum::response::{IntoResponse as _, Response};
use registry_core::terminal::search::Hit;
use serde_json::{Value, json};

use super::super::json::{add_said, cursor, task};
use super::Reading;
use super::negotiate::Representation;
use super::whole::headers;
use crate::auth::Principal;
use crate::error::{HubError, HubResult};
use crate::hub::Hub;
use crate::terminal::ReadSince;
use crate::terminal::views::{
    Command, Commands, CommandsQuery, Found, Range, ScreenQuery, ScreenShown, SearchQuery,
};

pub(super) async fn screen(
    hub: &Hub,
    principal: &Principal,
    node: String,
    reading: Reading,
    representation: Representation,
) -> HubResult<Response> {
    let task = reading.task()?;
    let query = ScreenQuery { node, task, scrollback_lines: reading.scrollback_lines.unwrap_or_default() };
    let shown = hub.terminal.screen(principal, query).await?;
    if representation == Representation::Json {
        return Ok(axum::Json(screen_json(&shown)).into_response());
    }
    let media_type = "text/plain; charset=utf-8";
    let headers = headers(media_type, shown.range.last, shown.range.complete, shown.screen.cut)?;
    let text: String =
        shown.screen.scrollback.iter().chain(&shown.screen.lines).map(|line| format!("{line}\n")).collect();
    Ok((headers, text).into_response())
}

pub(super) async fn commands(
    hub: &Hub,
    principal: &Principal,
    node: String,
    reading: Reading,
) -> HubResult<Response> {
    let query = CommandsQuery {
        node,
        task: reading.task()?,
        limit: reading.limit.unwrap_or_default(),
        max_bytes: reading.max_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
    };
    let commands = hub.terminal.commands(principal, query).await?;
    Ok(axum::Json(commands_json(&commands)).into_response())
}

pub(super) async fn search(
    hub: &Hub,
    principal: &Principal,
    node: String,
    reading: Reading,
    since: ReadSince,
) -> HubResult<Response> {
    let task = reading.task()?;
    let query = SearchQuery {
        node,
        pattern: reading.q.unwrap_or_default(),
        regex: reading.regex,
        ignore_case: reading.ignore_case,
        task,
        since,
        max_hits: reading.max_hits.unwrap_or_default(),
    };
    let found = hub.terminal.search(principal, query).await.map_err(in_query)?;
    Ok(axum::Json(found_json(&found)).into_response())
}

/// The pattern has a shorter name in an address. Of fields of one name the last one is told.
fn in_query(error: HubError) -> HubError {
    let pattern = error.fields().iter().any(|(name, value)| *name == "field" && value == "pattern");
    if pattern { error.with("field", "q") } else { error }
}

fn screen_json(shown: &ScreenShown) -> Value {
    let screen = &shown.screen;
    let more = json!({
        "task": task(&shown.task),
        "rows": screen.rows,
        "cols": screen.cols,
        "lines": screen.lines,
        "scrollback": screen.scrollback,
        "scrollback_omitted": screen.scrollback_omitted,
        "scrollback_full": screen.scrollback_full,
        "cut": screen.cut,
        "skipped": screen.skipped,
        "cursor_row": screen.cursor_row,
        "cursor_col": screen.cursor_col,
        "cursor_visible": screen.cursor_visible,
        "alternate": screen.alternate,
        "title": screen.title,
    });
    with_range(shown.range, screen.cut, more)
}

fn commands_json(commands: &Commands) -> Value {
    let more = json!({
        "commands": commands.commands.iter().map(command_json).collect::<Value>(),
        "more": commands.more,
    });
    with_range(commands.range, false, more)
}

fn command_json(command: &Command) -> Value {
    let mut object = task(&command.task);
    add_said(&mut object, &command.said);
    object["first_read"] = cursor(command.said.first);
    object["last_read"] = cursor(command.said.last);
    object
}

fn found_json(found: &Found) -> Value {
    let hit = |hit: &Hit| {
        json!({
            "cursor": cursor(Some(hit.cursor)),
            "before": cursor(Some(hit.cursor_before)),
            "task_id": hit.task.map(|task| task.to_string()),
            "stream": hit.stream.as_str(),
            "text": hit.text,
            "match_start": hit.found.start,
            "match_end": hit.found.end,
            "line_truncated": hit.line_truncated,
        })
    };
    let more = json!({
        "hits": found.hits.iter().map(hit).collect::<Value>(),
        "searched_bytes": found.searched_bytes,
        "omitted_hits": found.omitted_hits,
    });
    with_range(found.range, found.truncated, more)
}

/// What every view says of what it read, and the view itself.
fn with_range(range: Range, truncated: bool, more: Value) -> Value {
    let mut object = json!({
        "first": cursor(Some(range.first)),
        "last": cursor(Some(range.last)),
        "next": cursor(Some(range.last)),
        "complete": range.complete,
        "truncated": truncated,
    });
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

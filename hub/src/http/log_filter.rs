//! What the hub logs.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Authenticated, Json, duration};
use crate::error::HubResult;
use crate::hub::Hub;
use crate::telemetry::filter::LogFilter;

/// The body of `PUT /v1/log-filter`; without a filter the start's comes back at once.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Change {
    filter: String,
    #[serde(rename = "for", deserialize_with = "duration")]
    time: Option<Duration>,
}

/// `GET /v1/log-filter`
pub(super) async fn show(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
) -> HubResult<Answer<Value>> {
    hub.log_filter.get(&principal).map(|shown| shown_as_json(&shown))
}

/// `PUT /v1/log-filter`
pub(super) async fn change(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Json(change): Json<Change>,
) -> HubResult<Answer<Value>> {
    let shown = hub.log_filter.set(&principal, &change.filter, change.time.unwrap_or_default())?;
    Ok(shown_as_json(&shown))
}

fn shown_as_json(shown: &LogFilter) -> Answer<Value> {
    Answer(json!({
        "filter": shown.filter,
        "start_filter": shown.start,
        "until_unix_ms": shown.until_unix_ms,
    }))
}

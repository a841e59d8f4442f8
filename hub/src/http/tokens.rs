//! Join tokens.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Authenticated, Id, Json, duration};
use super::json::token;
use crate::error::HubResult;
use crate::hub::Hub;

/// The body of `POST /v1/tokens`; all of it may be left out.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NewToken {
    user_id: Option<String>,
    #[serde(deserialize_with = "duration")]
    ttl: Option<Duration>,
    uses: u32,
}

/// `POST /v1/tokens`: the only answer that ever holds the token itself.
pub(super) async fn create(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Json(new): Json<NewToken>,
) -> HubResult<(StatusCode, Answer<Value>)> {
    let ttl = new.ttl.unwrap_or_default();
    let (text, row) = hub.enrolment.create_token(&principal, new.user_id, ttl, new.uses).await?;
    Ok((StatusCode::CREATED, Answer(json!({ "token": text, "view": token(&row) }))))
}

/// `GET /v1/tokens`
pub(super) async fn list(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
) -> HubResult<Answer<Value>> {
    let rows = hub.enrolment.list_tokens(&principal).await?;
    Ok(Answer(json!({ "tokens": rows.iter().map(token).collect::<Vec<_>>() })))
}

/// `DELETE /v1/tokens/{id}`
pub(super) async fn remove(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Id(id): Id,
) -> HubResult<StatusCode> {
    hub.enrolment.delete_token(&principal, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

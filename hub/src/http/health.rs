//! Whether the hub lives, whether it would serve, and what it counts.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::extract::Authenticated;
use crate::auth::Action;
use crate::error::HubResult;
use crate::hub::Hub;
use crate::metrics::METRICS_CONTENT_TYPE;

/// `GET /healthz`: the process answers. Asks nothing of the store, so that a sick database kills no hub.
pub(super) async fn alive() -> &'static str {
    "alive\n"
}

/// `GET /readyz`: new work is welcome.
pub(super) async fn ready(State(hub): State<Arc<Hub>>) -> (StatusCode, &'static str) {
    if hub.lifecycle.ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// `GET /metrics`: how large the fleet is and what it does is nobody else's business, so it needs a credential.
pub(super) async fn metrics(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
) -> HubResult<Response> {
    hub.auth.authorize(&principal, Action::MetricsRead, "metrics")?;
    Ok(([(CONTENT_TYPE, METRICS_CONTENT_TYPE)], hub.metrics.render()).into_response())
}

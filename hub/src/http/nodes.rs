//! Nodes: list, show, delete.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use http::StatusCode;
use registry_core::Selector;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Authenticated, Id, Params};
use crate::error::{ErrorCode, HubError, HubResult};
use crate::hub::Hub;
use crate::mesh::{ListNodes, NodeView};

/// The query of `GET /v1/nodes`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Listing {
    selector: String,
    page_size: usize,
    page_token: Option<String>,
}

/// `GET /v1/nodes`
pub(super) async fn list(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Params(listing): Params<Listing>,
) -> HubResult<Answer<Value>> {
    let selector = Selector::parse(&listing.selector)
        .map_err(|error| HubError::new(ErrorCode::InvalidSelector, error.to_string()).with("at", error.at))?;
    let page_token = listing.page_token.filter(|token| !token.is_empty());
    let query = ListNodes { selector, page_size: listing.page_size, page_token };
    let page = hub.mesh.list(&principal, &query)?;
    let position = page.position.to_string();
    Ok(Answer(json!({ "nodes": page.nodes, "next_page_token": page.next, "position": position })))
}

/// `GET /v1/nodes/{id}`; a name will do.
pub(super) async fn show(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Id(node): Id,
) -> HubResult<Answer<NodeView>> {
    hub.mesh.get(&principal, &node).map(Answer)
}

/// `DELETE /v1/nodes/{id}`
pub(super) async fn remove(
    Authenticated(principal): Authenticated,
    State(hub): State<Arc<Hub>>,
    Id(node): Id,
) -> HubResult<StatusCode> {
    hub.mesh.delete(&principal, &node).await?;
    Ok(StatusCode::NO_CONTENT)
}

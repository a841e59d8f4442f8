//! HTTP: translation between requests and the services, nothing else.
//!
//! One table holds every route; the router is built from it and a test walks it, so that no route can be added that
//! answers without a credential (except the two health probes, which say a word and nothing more).

mod events;
mod extract;
mod guard;
mod health;
mod json;
mod log_filter;
mod nodes;
mod problem;
mod tasks;
mod terminal;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, delete, get, post};

use self::guard::Guard;
use crate::hub::Hub;

/// A path and what answers on it.
type Route = (&'static str, fn() -> MethodRouter<Arc<Hub>>);

/// Every route of the hub.
const ROUTES: &[Route] = &[
    ("/healthz", || get(health::alive)),
    ("/readyz", || get(health::ready)),
    ("/metrics", || get(health::metrics)),
    ("/v1/nodes", || get(nodes::list)),
    ("/v1/nodes/{id}", || get(nodes::show).delete(nodes::remove)),
    ("/v1/nodes/{id}/terminal", || get(terminal::read)),
    ("/v1/tasks", || get(tasks::list).post(tasks::create)),
    ("/v1/tasks/{id}", || get(tasks::show)),
    ("/v1/tasks/{id}/cancel", || post(tasks::cancel)),
    ("/v1/tasks/{id}/stdin", || post(tasks::write_stdin)),
    ("/v1/tasks/{id}/resize", || post(tasks::resize)),
    ("/v1/events", || get(events::watch)),
    ("/v1/tokens", || get(tokens::list).post(tokens::create)),
    ("/v1/tokens/{id}", || delete(tokens::remove)),
    ("/v1/log-filter", || get(log_filter::show).put(log_filter::change)),
];

/// The HTTP side of a hub that listens on `listen`.
pub fn router(hub: &Arc<Hub>, listen: SocketAddr) -> Router {
    let guard = Guard::new(listen, Arc::clone(&hub.metrics));
    let routes = ROUTES.iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods()));
    routes
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(guard, guard::guard))
        .with_state(Arc::clone(hub))
}

/// The paths of every route, for tests and documentation.
pub fn paths() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|(path, _)| *path)
}

//! What stands before every route: whom the request is for and where it comes from, what is counted, and the headers
//! that every answer has.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use http::header::{CACHE_CONTROL, HOST, HeaderName, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{HeaderMap, Method};
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::error::{ErrorCode, HubError, HubResult};
use crate::metrics::Metrics;
use crate::telemetry::traces::SPANS;

/// What the guard knows.
#[derive(Clone)]
pub(super) struct Guard {
    /// The port is on loopback, so that only names of this machine are for us. A web page whose name was pointed at
    /// 127.0.0.1 (DNS rebinding) still sends its own name.
    loopback: bool,
    metrics: Arc<Metrics>,
}

impl Guard {
    pub(super) fn new(listen: SocketAddr, metrics: Arc<Metrics>) -> Self {
        Self { loopback: listen.ip().is_loopback(), metrics }
    }

    fn check(&self, request: &Request) -> HubResult<()> {
        let host = host(request)?;
        if self.loopback && !is_this_machine(host.host()) {
            let detail = format!("this port is for this machine only, not for {host}: use http://localhost");
            return Err(HubError::new(ErrorCode::Forbidden, detail).with("field", "host"));
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        match request.headers().get(ORIGIN) {
            Some(origin) if !reads && !same_origin(origin, &host) => {
                let detail =
                    "a page of another origin may change nothing here: send the request from the hub's own";
                Err(HubError::new(ErrorCode::Forbidden, detail).with("field", "origin"))
            }
            _ => Ok(()),
        }
    }
}

/// Lets a request in or not, turns a panic into an answer, and counts what was answered.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("(none)", MatchedPath::as_str);
    let span = tracing::debug_span!(
        target: SPANS,
        "http",
        otel.name = format!("{} {route}", request.method()),
        otel.kind = "server",
        code = Empty
    );
    let mut response = match guard.check(&request) {
        Ok(()) => AssertUnwindSafe(next.run(request).instrument(span.clone()))
            .catch_unwind()
            .await
            .unwrap_or_else(|_panic| {
                // The panic hook has logged the panic itself.
                HubError::fault("a handler panicked").into_response()
            }),
        Err(error) => error.into_response(),
    };
    let code = response.extensions().get::<ErrorCode>().map_or("ok", |code| code.as_str());
    guard.metrics.request("http", code);
    span.record("code", code);
    harden(response.headers_mut());
    response
}

/// Answers are of the moment and for one reader, and are what they say they are.
fn harden(headers: &mut HeaderMap) {
    const ALWAYS: [(HeaderName, HeaderValue); 2] = [
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    for (name, value) in ALWAYS {
        headers.insert(name, value);
    }
}

fn host(request: &Request) -> HubResult<Authority> {
    let named = request.headers().get(HOST).map(HeaderValue::as_bytes);
    let parsed = match (request.uri().authority(), named) {
        (Some(authority), _) => Some(authority.clone()),
        (None, Some(host)) => Authority::try_from(host).ok(),
        (None, None) => None,
    };
    parsed.ok_or_else(|| {
        HubError::new(ErrorCode::InvalidArgument, "the host header is missing or not a name: send one")
            .with("field", "host")
    })
}

fn is_this_machine(host: &str) -> bool {
    let name = host.to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match address {
        Ok(address) => address.is_loopback(),
        // RFC 6761: localhost and everything below it is this machine.
        Err(_) => name == "localhost" || name.ends_with(".localhost"),
    }
}

fn same_origin(origin: &HeaderValue, host: &Authority) -> bool {
    let Some((scheme, rest)) = origin.to_str().ok().and_then(|text| text.split_once("://")) else {
        return false;
    };
    let usual_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let Ok(origin) = rest.parse::<Authority>() else { return false };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual_port);
    origin.host().eq_ignore_ascii_case(host.host()) && port(&origin) == port(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for good in ["localhost", "LOCALHOST", "app.localhost", "127.0.0.1", "127.8.9.1", "[::1]"] {
            assert!(is_this_machine(good), "{good}");
        }
        for bad in ["example.org", "localhost.example.org", "10.0.0.1", "0.0.0.0", "[::]", "notlocalhost", ""]
        {
            assert!(!is_this_machine(bad), "{bad}");
        }
    }

    #[test]
    fn origins() {
        let host = |text: &str| text.parse::<Authority>().unwrap();
        let same = |origin: &'static str, to: &str| same_origin(&HeaderValue::from_static(origin), &host(to));
        assert!(same("http://localhost:7080", "localhost:7080"));
        assert!(same("http://localhost", "localhost:80"));
        assert!(same("https://hub.example", "hub.example"));
        for bad in [
            "null",
            "http://localhost:81",
            "http://evil.example:7080",
            "file://localhost:7080",
            "localhost:7080",
        ] {
            assert!(!same(bad, "localhost:7080"), "{bad}");
        }
    }
}

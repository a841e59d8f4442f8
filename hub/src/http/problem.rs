//! Errors as RFC 9457 problem documents.

use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, StatusCode, Uri};
use serde_json::{Map, Value, json};

use crate::error::{ErrorCode, HubError};

/// RFC 9457, section 3.
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

impl IntoResponse for HubError {
    /// Renders for HTTP. Logs faults. The code stays with the response, for whoever counts.
    fn into_response(self) -> Response {
        self.log();
        let code = self.code();
        let mut response = (code.http_status(), document(&self).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        if code.http_status() == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if code == ErrorCode::PayloadTooLarge {
            // The rest of the body is not read, so the connection ends; who is not told sends the next request into it.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(after) = self.retry_delay() {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response.extensions_mut().insert(code);
        response
    }
}

/// The problem document of an error.
pub(super) fn document(error: &HubError) -> Value {
    let code = error.code();
    let extra = error.fields().iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
    let mut document: Map<String, Value> = extra.collect();
    if let Some(id) = error.error_id() {
        document.insert("error_id".to_owned(), json!(id.to_string()));
    }
    document.insert("type".to_owned(), json!(format!("urn:muster:error:{code}")));
    document.insert("title".to_owned(), json!(code.title()));
    document.insert("status".to_owned(), json!(code.http_status().as_u16()));
    document.insert("detail".to_owned(), json!(error.detail()));
    document.insert("code".to_owned(), json!(code.as_str()));
    Value::Object(document)
}

pub(super) async fn no_such_route(uri: Uri) -> HubError {
    let path: String = uri.path().chars().take(MAX_SHOWN).collect();
    HubError::new(ErrorCode::NotFound, format!("there is nothing at {path}: check the address"))
}

pub(super) async fn method_not_allowed(method: Method) -> HubError {
    let method: String = method.as_str().chars().take(MAX_SHOWN).collect();
    let advice = ErrorCode::MethodNotAllowed.advice();
    HubError::new(ErrorCode::MethodNotAllowed, format!("{method} is not allowed here: {advice}"))
}

/// How much of a caller's own words an answer repeats, in characters.
const MAX_SHOWN: usize = 200;

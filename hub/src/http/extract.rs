//! What handlers take out of a request, each with its own refusal as a problem document.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, Deserializer, Visitor};

use crate::auth::Principal;
use crate::error::{ErrorCode, HubError, HubResult};
use crate::hub::Hub;

/// The largest body, in bytes. A task's whole specification fits many times over.
pub(super) const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How long a body may take to arrive: 1 MiB over a very slow line.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// Who asks. A handler that takes this answers 401 to everyone without a credential, before it looks at anything else.
pub(super) struct Authenticated(pub(super) Principal);

impl FromRequestParts<Arc<Hub>> for Authenticated {
    type Rejection = HubError;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> HubResult<Self> {
        let authorization = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        hub.auth.authenticate(authorization).map(Self)
    }
}

/// The `{id}` of the path.
pub(super) struct Id(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = HubError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> HubResult<Self> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            Err(rejection) => Err(HubError::new(ErrorCode::InvalidArgument, rejection.body_text())),
        }
    }
}

/// The query string.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = HubError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> HubResult<Self> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => {
                let detail = format!("the query string is not valid: {}", rejection.body_text());
                Err(HubError::new(ErrorCode::InvalidArgument, detail).with("field", "query"))
            }
        }
    }
}

/// A body of JSON. An empty one is taken for `{}` where that makes sense (`T` says what it needs).
pub(super) struct Json<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = HubError;

    async fn from_request(request: Request, _state: &S) -> HubResult<Self> {
        let (parts, body) = request.into_parts();
        let media_type = MediaType::of(&parts.headers);
        let bytes = read_body(body).await?;
        match media_type {
            MediaType::Json => parse_json(&bytes).map(Self),
            MediaType::None if bytes.is_empty() => parse_json(b"{}").map(Self),
            _ => Err(HubError::plain(ErrorCode::UnsupportedMediaType)),
        }
    }
}

/// What a body says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    /// `application/json`, with or without parameters.
    Json,
    /// `application/octet-stream`.
    Octets,
    /// It does not say.
    None,
    /// Anything else.
    Other,
}

impl MediaType {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(CONTENT_TYPE) else { return Self::None };
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Self::Json
        } else if essence.eq_ignore_ascii_case("application/octet-stream") {
            Self::Octets
        } else {
            Self::Other
        }
    }
}

/// Takes a whole body in, within its size and its time.
pub(super) async fn read_body(body: Body) -> HubResult<Bytes> {
    let reading = Limited::new(body, MAX_BODY_BYTES).collect();
    match tokio::time::timeout(BODY_DEADLINE, reading).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let detail = format!("the body has more than {MAX_BODY_BYTES} bytes: send less at once");
            Err(HubError::new(ErrorCode::PayloadTooLarge, detail))
        }
        Ok(Err(_)) => Err(HubError::new(ErrorCode::InvalidArgument, "the body broke off: send it again")),
        Err(_elapsed) => Err(HubError::new(
            ErrorCode::InvalidArgument,
            "the body took longer than 30 s to arrive: send it again",
        )),
    }
}

pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> HubResult<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        // serde_json's message ends with the place: "... at line 1 column 17".
        HubError::new(ErrorCode::InvalidArgument, format!("the body is not the JSON expected: {error}"))
            .with("line", error.line())
            .with("column", error.column())
    })
}

/// A length of time: `"30s"`, `"1h 30m"`, or a number of milliseconds. For `#[serde(deserialize_with)]`.
pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    struct DurationVisitor;

    impl Visitor<'_> for DurationVisitor {
        type Value = Option<Duration>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a length of time such as \"30s\", or milliseconds")
        }

        fn visit_u64<E: serde::de::Error>(self, ms: u64) -> Result<Self::Value, E> {
            Ok(Some(Duration::from_millis(ms)))
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            parse_duration(text)
                .map(Some)
                .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }

    from.deserialize_any(DurationVisitor)
}

/// `30s`, `1h 30m`, or milliseconds.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    match text.parse::<u64>() {
        Ok(ms) => Some(Duration::from_millis(ms)),
        Err(_) => humantime::parse_duration(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug, Default, PartialEq)]
    #[serde(default)]
    struct Times {
        #[serde(deserialize_with = "duration")]
        wait: Option<Duration>,
    }

    #[test]
    fn lengths_of_time() {
        let read = |text: &str| parse_json::<Times>(text.as_bytes()).map(|times| times.wait);
        assert_eq!(read(r#"{"wait":"30s"}"#).unwrap(), Some(Duration::from_secs(30)));
        assert_eq!(read(r#"{"wait":1500}"#).unwrap(), Some(Duration::from_millis(1500)));
        assert_eq!(read(r#"{"wait":"250"}"#).unwrap(), Some(Duration::from_millis(250)));
        assert_eq!(read(r#"{"wait":null}"#).unwrap(), None);
        assert_eq!(read("{}").unwrap(), None);
        for bad in [r#"{"wait":"soon"}"#, r#"{"wait":-1}"#, r#"{"wait":1.5}"#, r#"{"wait":[]}"#] {
            assert_eq!(read(bad).unwrap_err().code(), ErrorCode::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn bad_json_is_told_with_its_place() {
        let error = parse_json::<Times>(b"{\n  \"wait\": }").unwrap_err();
        assert!(error.detail().contains("line 2 column"), "{error}");
    }
}

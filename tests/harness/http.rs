//! The hub's HTTP functions with the administrator's credential, and streams of server-sent events.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::poll::PATIENCE;

/// How long one answer may take: longer than the hub lets a request wait.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// The hub's HTTP functions.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    address: SocketAddr,
    credential: String,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in an answer {}: {:?}", self.status, self.text()))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The status and the stable code of a refusal, after a look at whether it is one as promised: a problem document
    /// with a sentence that says something.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    #[track_caller]
    pub fn refusal(&self) -> (u16, String) {
        let media =
            self.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert!(media.starts_with("application/problem+json"), "{media} {}: {}", self.status, self.text());
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        let code = problem["code"].as_str().unwrap_or_default().to_owned();
        assert_eq!(problem["type"], format!("urn:muster:error:{code}"), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.len() > 10), "no sentence in {problem}");
        (self.status, code)
    }
}

impl Http {
    /// With this credential; an empty one is not sent at all.
    ///
    /// # Panics
    /// When no client can be made.
    #[must_use]
    pub fn new(address: SocketAddr, credential: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        Self { client, address, credential: credential.to_owned() }
    }

    /// The same with another credential, and connections of its own.
    #[must_use]
    pub fn with_credential(&self, credential: &str) -> Self {
        Self::new(self.address, credential)
    }

    /// A request that is still to be sent.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("http://{}{path}", self.address));
        if self.credential.is_empty() { request } else { request.bearer_auth(&self.credential) }
    }

    /// Sends a request.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        self.try_send(request).await.unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn try_send(&self, request: RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.timeout(ANSWER_PATIENCE).send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await? })
    }

    /// GET.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// DELETE.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// POST of JSON.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// The sum of a metric over its labels; 0 when it is not there.
    ///
    /// # Panics
    /// When the hub does not answer.
    pub async fn metric(&self, name: &str) -> f64 {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let rest = if rest.starts_with('{') { rest.split_once('}')?.1 } else { rest };
            rest.strip_prefix(' ')?.trim().parse::<f64>().ok()
        };
        answer.text().lines().filter_map(value).sum()
    }

    /// Opens a stream of server-sent events.
    ///
    /// # Panics
    /// When the hub refuses.
    pub async fn events(&self, path: &str, last_event_id: Option<&str>) -> Events {
        let mut request = self.request(Method::GET, path).header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("no answer: {error:?}"));
        let status = response.status();
        if status != 200 {
            panic!("{path} is refused: {status} {}", response.text().await.unwrap_or_default());
        }
        Events { body: Box::pin(response.bytes_stream()), buffer: Vec::new() }
    }
}

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSent {
    /// What to give as `Last-Event-ID` to go on after it.
    pub id: String,
    /// Its name.
    pub event: String,
    /// Its data.
    pub data: String,
}

impl ServerSent {
    /// Its data as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// A stream of server-sent events. Dropping it cuts the connection.
pub struct Events {
    body: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the stream has ended or was cut.
    ///
    /// # Panics
    /// When nothing comes within [`PATIENCE`].
    pub async fn next(&mut self) -> Option<ServerSent> {
        tokio::time::timeout(PATIENCE, self.next_ever())
            .await
            .unwrap_or_else(|_| panic!("no event came within {PATIENCE:?}"))
    }

    /// The next event, however long it takes.
    pub async fn next_ever(&mut self) -> Option<ServerSent> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let event = parse(&String::from_utf8_lossy(&block));
                // A comment alone is a heartbeat.
                if event != ServerSent::default() {
                    return Some(event);
                }
            }
            self.buffer.extend_from_slice(&self.body.next().await?.ok()?);
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

fn parse(block: &str) -> ServerSent {
    let mut event = ServerSent::default();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut event.id),
            "event" => value.clone_into(&mut event.event),
            "data" if event.data.is_empty() => value.clone_into(&mut event.data),
            "data" => {
                event.data.push('\n');
                event.data.push_str(value);
            }
            _ => {}
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_sent_events_are_read_as_the_standard_has_them() {
        let event = parse("id: 7:1\nevent: output\ndata: a\ndata:b\n: comment\n\n");
        assert_eq!(event, ServerSent { id: "7:1".into(), event: "output".into(), data: "a\nb".into() });
        assert_eq!(parse(": still here\n\n"), ServerSent::default());
    }
}

//! A hub on ports of its own, with clients for both.

use std::time::Duration;

use futures_util::StreamExt as _;
use muster_hub::hub::{Addresses, run};
use muster_hub::{HubConfig, HubError};
use muster_proto::v1::control_service_client::ControlServiceClient;
use registry_core::Clock;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::agent::Agent;

/// Far more than anything here needs, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) addresses: Addresses,
    pub(crate) credential: String,
    http: reqwest::Client,
    shutdown: CancellationToken,
    hub: JoinHandle<Result<(), HubError>>,
    _dir: TempDir,
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    hub: HubConfig,
}

impl World {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let line: Line = clap::Parser::parse_from([
            "hub",
            "--data-dir",
            path,
            "--grpc-listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
        ]);
        let shutdown = CancellationToken::new();
        let (ready, told) = tokio::sync::oneshot::channel();
        let hub = tokio::spawn(run(line.hub, Clock::system(), shutdown.clone(), Some(ready)));
        let addresses = tokio::time::timeout(PATIENCE, told).await.expect("the hub starts").unwrap();
        let credential =
            std::fs::read_to_string(dir.path().join("admin.credential")).unwrap().trim().to_owned();
        let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        Self { addresses, credential, http, shutdown, hub, _dir: dir }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.hub).await.expect("the hub drains").unwrap().unwrap();
    }

    /// Begins draining without waiting for its end.
    pub(crate) fn drain(&self) {
        self.shutdown.cancel();
    }

    /// A request without a credential.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.addresses.http))
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(&self.credential)
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        read(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        read(self.request(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn channel(&self) -> Channel {
        let address = format!("http://{}", self.addresses.grpc);
        Endpoint::from_shared(address).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn control(&self) -> ControlServiceClient<Channel> {
        ControlServiceClient::new(self.channel().await)
    }

    /// A message with the credential.
    pub(crate) fn grpc<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let value = format!("Bearer {}", self.credential).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    }

    /// A node that is attached.
    pub(crate) async fn agent(&self, name: &str) -> Agent {
        let (status, made) = self.post("/v1/tokens", json!({})).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        Agent::start(self.channel().await, made["token"].as_str().unwrap(), name).await
    }

    /// Runs a task to its end and answers with what became of it.
    pub(crate) async fn run(&self, node: &str, argv: &[&str]) -> Value {
        let (status, task) = self.post("/v1/tasks?wait=30s", json!({ "node": node, "argv": argv })).await;
        assert_eq!(status, StatusCode::OK, "{task}");
        task
    }

    pub(crate) async fn events(&self, path: &str, last_event_id: Option<&str>) -> Events {
        let mut request = self.request(Method::GET, path).header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { response: Some(response), text: String::new() }
    }
}

/// Sends a request and reads the answer's JSON; null for an empty one.
pub(crate) async fn read(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect(&text) };
    (status, value)
}

/// A stream of server-sent events.
pub(crate) struct Events {
    response: Option<Response>,
    text: String,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

impl Events {
    /// The next event, comments and hints passed over; `None` at the stream's end.
    pub(crate) async fn next(&mut self) -> Option<Sent> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let sent = parse(block);
                self.text = rest.to_owned();
                if sent.is_some() {
                    return sent;
                }
            }
            let response = self.response.as_mut()?;
            match tokio::time::timeout(PATIENCE, response.chunk()).await.expect("an event comes").unwrap() {
                Some(chunk) => self.text.push_str(std::str::from_utf8(&chunk).unwrap()),
                None => self.response = None,
            }
        }
    }

    /// The next event of this name.
    pub(crate) async fn until(&mut self, name: &str) -> Sent {
        loop {
            let sent = self.next().await.unwrap_or_else(|| panic!("the stream ended without {name}"));
            if sent.name == name {
                return sent;
            }
        }
    }
}

fn parse(block: &str) -> Option<Sent> {
    let field = |name: &str| {
        let lines = block.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(n, _)| *n == name).map(|(_, value)| value.trim_start().to_owned()).next()
    };
    let data = serde_json::from_str(&field("data")?).unwrap();
    Some(Sent { name: field("event").unwrap(), id: field("id"), data })
}

/// All messages of a stream until it ends.
pub(crate) async fn collect<T>(mut stream: tonic::Streaming<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(message) = stream.next().await {
        all.push(message.unwrap());
    }
    all
}

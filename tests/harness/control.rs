//! The hub's gRPC functions with the administrator's credential, without the CLI in between.

use std::net::SocketAddr;
use std::time::Duration;

use muster_proto::v1::control_service_client::ControlServiceClient;
use muster_proto::v1::frame::Kind;
use muster_proto::v1::read_terminal_response::Message as Read;
use muster_proto::v1::{self as pb};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

/// The largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The generated client, with the credential in every call.
pub type Client = ControlServiceClient<InterceptedService<Channel, Bearer>>;

/// The hub's gRPC functions. Cloning shares the connection.
#[derive(Clone, Debug)]
pub struct Control {
    client: Client,
}

/// Puts a credential into every call.
#[derive(Clone, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A connection to the hub's gRPC port that opens at the first call.
///
/// # Panics
/// Never for a socket address.
#[must_use]
pub fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .connect_lazy()
}

/// The stable code of an answer that refused.
#[must_use]
pub fn error_code(status: &Status) -> String {
    status.get_details_error_info().map_or_else(|| format!("(none; {status})"), |info| info.reason)
}

impl Control {
    /// With this credential; an empty one is not sent at all.
    #[must_use]
    pub fn new(address: SocketAddr, credential: &str) -> Self {
        let bearer = (!credential.is_empty()).then(|| format!("Bearer {credential}").parse().expect("ASCII"));
        let client = ControlServiceClient::with_interceptor(channel(address), Bearer(bearer))
            .max_decoding_message_size(MAX_ANSWER_BYTES);
        Self { client }
    }

    /// The generated client.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// One node.
    ///
    /// # Errors
    /// As the hub answers.
    pub async fn node(&self, node: &str) -> Result<pb::NodeView, Status> {
        let request = pb::GetNodeRequest { node: node.to_owned() };
        Ok(self.client().get_node(request).await?.into_inner())
    }

    /// Makes a task without input.
    ///
    /// # Errors
    /// As the hub answers.
    pub async fn task(&self, node: &str, argv: &[&str]) -> Result<pb::TaskView, Status> {
        let argv = argv.iter().map(|&word| word.to_owned()).collect();
        self.task_of(node, pb::TaskSpec { argv, ..pb::TaskSpec::default() }, "").await
    }

    /// Makes a task.
    ///
    /// # Errors
    /// As the hub answers.
    pub async fn task_of(&self, node: &str, spec: pb::TaskSpec, key: &str) -> Result<pb::TaskView, Status> {
        let request = pb::CreateTaskRequest {
            node: node.to_owned(),
            spec: Some(spec),
            idempotency_key: key.to_owned(),
        };
        Ok(self.client().create_task(request).await?.into_inner())
    }

    /// A task as it is now.
    ///
    /// # Errors
    /// As the hub answers.
    pub async fn get(&self, task_id: &str) -> Result<pb::TaskView, Status> {
        let request = pb::GetTaskRequest { task_id: task_id.to_owned(), wait_ms: 0 };
        Ok(self.client().get_task(request).await?.into_inner())
    }

    /// A task once it has ended, through outages of the hub.
    ///
    /// # Panics
    /// When it does not end within [`PATIENCE`](crate::PATIENCE).
    pub async fn ended(&self, task_id: &str) -> pb::TaskView {
        self.in_state(task_id, pb::TaskState::Ended).await
    }

    /// A task once it is in this state.
    ///
    /// # Panics
    /// When it is not within [`PATIENCE`](crate::PATIENCE).
    pub async fn in_state(&self, task_id: &str, state: pb::TaskState) -> pb::TaskView {
        crate::eventually_async(&format!("task {task_id} is {state:?}"), async || {
            self.get(task_id).await.ok().filter(|task| task.state() == state)
        })
        .await
    }

    /// Everything durable of a task, or of the node: the frames with their boots.
    ///
    /// # Errors
    /// As the hub answers.
    pub async fn frames(&self, node: &str, task_id: &str) -> Result<Vec<(u64, pb::Frame)>, Status> {
        let request = pb::ReadTerminalRequest {
            node: node.to_owned(),
            task_id: task_id.to_owned(),
            ..pb::ReadTerminalRequest::default()
        };
        let mut stream = self.client().read_terminal(request).await?.into_inner();
        let mut frames = Vec::new();
        while let Some(message) = stream.message().await? {
            if let Some(Read::Frames(batch)) = message.message {
                frames.extend(batch.frames.into_iter().map(|frame| (batch.boot, frame)));
            }
        }
        Ok(frames)
    }

    /// The output among frames, all streams together.
    #[must_use]
    pub fn output(frames: &[(u64, pb::Frame)]) -> Vec<u8> {
        frames.iter().flat_map(|(_, frame)| output_of(frame)).copied().collect()
    }
}

/// The bytes of a frame; none when it is no output.
#[must_use]
pub fn output_of(frame: &pb::Frame) -> &[u8] {
    match &frame.kind {
        Some(Kind::Output(output)) => &output.data,
        _ => &[],
    }
}

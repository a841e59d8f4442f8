//! The node service: sessions and uploads of agents.

mod session;
mod upload;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use muster_proto::v1;
use muster_proto::v1::node_service_server::NodeService;
use parking_lot::Mutex;
use registry_core::Boot;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::error::{ErrorCode, HubError};
use crate::fleet::Session;
use crate::hub::Hub;
use crate::ingest::NodeLog;

/// How long a stream may take to say who it is: a round trip, generously.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves [`NodeService`].
pub struct NodeApi {
    hub: Arc<Hub>,
    uploads: Arc<Uploads>,
}

/// What may be uploaded, by the nonce that the session was given. Entries die with their sessions.
type Uploads = Mutex<HashMap<[u8; 16], Permit>>;

/// Leave to upload the frames of one session.
#[derive(Clone)]
struct Permit {
    log: Arc<NodeLog>,
    boot: Boot,
    holder: Arc<Session>,
    /// Fires when the session ends.
    session: CancellationToken,
    /// Fires when the stream that uses it now is to be reset.
    stream: CancellationToken,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl NodeApi {
    /// Over a hub.
    #[must_use]
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub, uploads: Arc::default() }
    }
}

#[tonic::async_trait]
impl NodeService for NodeApi {
    type SessionStream = Answers<v1::SessionDown>;
    type UploadStream = Answers<v1::UploadDown>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionUp>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = request.extensions().get::<std::net::SocketAddr>().copied();
        let session = session::SessionStream::new(
            Arc::clone(&self.hub),
            Arc::clone(&self.uploads),
            request.into_inner(),
            peer,
        );
        Ok(Response::new(Box::pin(session.run())))
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadUp>>,
    ) -> Result<Response<Self::UploadStream>, Status> {
        let upload =
            upload::UploadStream::new(Arc::clone(&self.hub), Arc::clone(&self.uploads), request.into_inner());
        Ok(Response::new(Box::pin(upload.run())))
    }
}

/// Reads one message. `Ok(None)`: the peer has gone, in whatever way. Messages that cannot be read are counted.
async fn read<T>(hub: &Hub, from: &mut Streaming<T>) -> Result<Option<T>, HubError> {
    match from.message().await {
        Ok(message) => Ok(message),
        Err(status) => match status.code() {
            Code::OutOfRange => {
                hub.metrics.malformed("grpc");
                Err(HubError::plain(ErrorCode::MessageTooLarge))
            }
            Code::Internal | Code::InvalidArgument | Code::Unimplemented
                if status.message().contains("decod") || status.message().contains("compress") =>
            {
                hub.metrics.malformed("grpc");
                Err(violation("a message could not be decoded"))
            }
            _ => Ok(None),
        },
    }
}

/// Reads the message that a stream must begin with.
async fn read_first<T>(hub: &Hub, from: &mut Streaming<T>) -> Result<Option<T>, HubError> {
    tokio::time::timeout(HELLO_TIMEOUT, read(hub, from))
        .await
        .unwrap_or_else(|_| Err(violation("the stream did not say who it is within 10 seconds")))
}

fn violation(detail: &str) -> HubError {
    HubError::new(ErrorCode::ProtocolViolation, detail.to_owned())
}

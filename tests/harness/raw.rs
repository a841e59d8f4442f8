//! An agent written by hand, message by message: for what a real one never does.

use std::net::SocketAddr;
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use muster_proto::signing;
use muster_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use muster_proto::v1::node_service_client::NodeServiceClient;
use muster_proto::v1::session_down::Message as Down;
use muster_proto::v1::session_up::Message as Up;
use muster_proto::v1::{self as pb};
use registry_core::Clock;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::control::channel;
use crate::hub::TestHub;
use crate::poll::PATIENCE;

/// A node with its key, and nothing that runs.
#[derive(Clone, Debug)]
pub struct RawNode {
    /// Its key.
    pub key: SigningKey,
    /// The id granted to it.
    pub id: String,
    /// The boot that it claims.
    pub boot: u64,
    /// The id of that boot.
    pub boot_id: [u8; 16],
    /// The hub that knows it.
    pub hub: SocketAddr,
}

/// One session of a node, as far as it came.
pub struct RawSession {
    /// What the hub said first.
    pub challenge: pb::Challenge,
    up: mpsc::Sender<pb::SessionUp>,
    down: Streaming<pb::SessionDown>,
    client: NodeServiceClient<Channel>,
}

impl std::fmt::Debug for RawSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawSession").finish_non_exhaustive()
    }
}

/// Trades a token and a key for a node, with a signature by `signer`.
///
/// # Errors
/// As the hub answers.
pub async fn enrol(
    hub: SocketAddr,
    token: &str,
    name: &str,
    key: &SigningKey,
    signer: &SigningKey,
) -> Result<pb::EnrolResponse, Status> {
    let public_key = key.verifying_key().to_bytes();
    let signature = signer.sign(&signing::enrol(token, &public_key)).to_bytes();
    let request = pb::EnrolRequest {
        join_token: token.to_owned(),
        public_key: public_key.to_vec().into(),
        signature: signature.to_vec().into(),
        name: name.to_owned(),
        ..pb::EnrolRequest::default()
    };
    Ok(EnrolmentServiceClient::new(channel(hub)).enrol(request).await?.into_inner())
}

impl RawNode {
    /// A node that has enrolled with a new token.
    ///
    /// # Panics
    /// When the hub refuses.
    pub async fn enrol(hub: &TestHub, name: &str) -> Self {
        let key = SigningKey::from_bytes(&crate::random());
        let token = hub.join_token(&[]);
        let granted = enrol(hub.grpc(), &token, name, &key, &key).await.expect("the hub takes the node in");
        let boot = Clock::system().unix_ms();
        Self { key, id: granted.node_id, boot, boot_id: crate::random(), hub: hub.grpc() }
    }

    /// Opens a session on a connection of its own, up to the hub's challenge.
    ///
    /// # Errors
    /// As the hub answers.
    pub async fn dial(&self) -> Result<RawSession, Status> {
        RawSession::open(self.hub).await
    }

    /// A hello that is as it should be.
    #[must_use]
    pub fn hello(&self, nonce: &[u8]) -> pb::Hello {
        let mut hello = pb::Hello {
            protocol_version: muster_proto::PROTOCOL_VERSION,
            capabilities: vec!["exec".to_owned()],
            agent_version: "by hand".to_owned(),
            node_id: self.id.clone(),
            boot: self.boot,
            boot_id: self.boot_id.to_vec().into(),
            ..pb::Hello::default()
        };
        self.sign(&mut hello, nonce);
        hello
    }

    /// Signs a hello anew, after it was changed.
    pub fn sign(&self, hello: &mut pb::Hello, nonce: &[u8]) {
        let signed = signing::hello(nonce, &hello.node_id, hello.last_epoch, hello.boot, &hello.boot_id);
        hello.signature = self.key.sign(&signed).to_bytes().to_vec().into();
    }

    /// A session with a hello that was changed before it was signed.
    ///
    /// # Errors
    /// As the hub answers.
    pub async fn attach_with(
        &self,
        change: impl FnOnce(&mut pb::Hello),
    ) -> Result<(RawSession, pb::Welcome), Status> {
        let mut session = self.dial().await?;
        let mut hello = self.hello(&session.challenge.nonce);
        change(&mut hello);
        self.sign(&mut hello, &session.challenge.nonce.clone());
        session.send(Up::Hello(hello)).await;
        let welcome = session.welcome().await?;
        Ok((session, welcome))
    }

    /// A session that stands.
    ///
    /// # Errors
    /// As the hub answers.
    pub async fn attach(&self) -> Result<(RawSession, pb::Welcome), Status> {
        self.attach_with(|_| {}).await
    }
}

impl RawSession {
    /// Opens a session as nobody in particular.
    ///
    /// # Errors
    /// As the hub answers.
    ///
    /// # Panics
    /// When the hub does not begin with a challenge.
    pub async fn open(hub: SocketAddr) -> Result<Self, Status> {
        let mut client = NodeServiceClient::new(channel(hub)).max_encoding_message_size(64 << 20);
        let (up, messages) = mpsc::channel(16);
        let mut down = client.session(ReceiverStream::new(messages)).await?.into_inner();
        match next(&mut down).await? {
            Some(Down::Challenge(challenge)) => Ok(Self { challenge, up, down, client }),
            other => panic!("a session began with {other:?}"),
        }
    }

    /// Says something to the hub; that nobody listens any more shows in what comes down.
    pub async fn send(&self, message: Up) {
        let _ = self.up.send(pb::SessionUp { message: Some(message) }).await;
    }

    /// What the hub says next; `None` when it has ended the session in good order.
    ///
    /// # Errors
    /// With which the hub ended it.
    ///
    /// # Panics
    /// When nothing comes within [`PATIENCE`].
    pub async fn next(&mut self) -> Result<Option<Down>, Status> {
        next(&mut self.down).await
    }

    /// The hub's welcome, which must come next.
    ///
    /// # Errors
    /// With which the hub refused.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn welcome(&mut self) -> Result<pb::Welcome, Status> {
        match self.next().await? {
            Some(Down::Welcome(welcome)) => Ok(welcome),
            other => panic!("{other:?} came instead of a welcome"),
        }
    }

    /// Opens an upload on the same connection.
    ///
    /// # Errors
    /// As the hub answers.
    pub async fn upload(
        &mut self,
        first: Vec<pb::UploadUp>,
    ) -> Result<(mpsc::Sender<pb::UploadUp>, Streaming<pb::UploadDown>), Status> {
        let (up, messages) = mpsc::channel(first.len() + 16);
        for message in first {
            let _ = up.send(message).await;
        }
        let down = self.client.upload(ReceiverStream::new(messages)).await?.into_inner();
        Ok((up, down))
    }
}

async fn next(down: &mut Streaming<pb::SessionDown>) -> Result<Option<Down>, Status> {
    let message = tokio::time::timeout(PATIENCE, down.message())
        .await
        .unwrap_or_else(|_| panic!("the hub said nothing for {PATIENCE:?}"));
    Ok(message?.and_then(|message| message.message))
}

/// The first message of an upload.
#[must_use]
pub fn upload_hello(nonce: &[u8]) -> pb::UploadUp {
    let hello = pb::UploadHello { upload_nonce: nonce.to_vec().into() };
    pb::UploadUp { message: Some(pb::upload_up::Message::Hello(hello)) }
}

/// Bytes on a plain connection; whether the other side closes it within [`PATIENCE`].
pub async fn is_cut_off(address: SocketAddr, bytes: &[u8]) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let Ok(mut stream) = tokio::net::TcpStream::connect(address).await else { return true };
    let _ = stream.write_all(bytes).await;
    let mut sink = vec![0; 4096];
    let closed = async { while matches!(stream.read(&mut sink).await, Ok(1..)) {} };
    tokio::time::timeout(PATIENCE.max(Duration::from_secs(1)), closed).await.is_ok()
}

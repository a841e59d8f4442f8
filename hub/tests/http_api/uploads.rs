//! What an agent is told when its streams break and come back, message by message.

use ed25519_dalek::{Signer as _, SigningKey};
use muster_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use muster_proto::v1::node_service_client::NodeServiceClient;
use muster_proto::v1::session_down::Message as Down;
use muster_proto::v1::session_up::Message as Up;
use muster_proto::v1::upload_down::Message as UploadDown;
use muster_proto::v1::upload_up::Message as UploadUp;
use muster_proto::{signing, v1};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::world::{PATIENCE, World};

/// A node that says only what it is told to.
struct Raw {
    client: NodeServiceClient<Channel>,
    key: SigningKey,
    node_id: String,
    boot: u64,
}

/// A session and what keeps it open.
struct Session {
    _up: mpsc::UnboundedSender<v1::SessionUp>,
    _down: Streaming<v1::SessionDown>,
    welcome: v1::Welcome,
}

struct Upload {
    up: mpsc::UnboundedSender<v1::UploadUp>,
    down: Streaming<v1::UploadDown>,
}

impl Raw {
    async fn enrol(world: &World, name: &str) -> Self {
        let (_, made) = world.post("/v1/tokens", json!({})).await;
        let token = made["token"].as_str().unwrap();
        let key = SigningKey::from_bytes(&[42; 32]);
        let public_key = key.verifying_key().to_bytes();
        let request = v1::EnrolRequest {
            join_token: token.to_owned(),
            public_key: public_key.to_vec().into(),
            signature: key.sign(&signing::enrol(token, &public_key)).to_bytes().to_vec().into(),
            name: name.to_owned(),
            ..Default::default()
        };
        let channel = world.channel().await;
        let granted = EnrolmentServiceClient::new(channel.clone()).enrol(request).await.unwrap().into_inner();
        let boot = registry_core::Clock::system().unix_ms();
        Self { client: NodeServiceClient::new(channel), key, node_id: granted.node_id, boot }
    }

    async fn attach(&self, boot: u64, last_epoch: u64) -> Result<Session, Status> {
        let (up, messages) = mpsc::unbounded_channel();
        let mut down =
            self.client.clone().session(UnboundedReceiverStream::new(messages)).await?.into_inner();
        let Some(Down::Challenge(challenge)) = down.message().await?.unwrap().message else { panic!() };
        let boot_id = (boot as u128).to_be_bytes();
        let signed = signing::hello(&challenge.nonce, &self.node_id, last_epoch, boot, &boot_id);
        let hello = v1::Hello {
            protocol_version: 1,
            node_id: self.node_id.clone(),
            signature: self.key.sign(&signed).to_bytes().to_vec().into(),
            last_epoch,
            boot,
            boot_id: boot_id.to_vec().into(),
            ..Default::default()
        };
        up.send(v1::SessionUp { message: Some(Up::Hello(hello)) }).unwrap();
        let Some(Down::Welcome(welcome)) = down.message().await?.unwrap().message else { panic!() };
        Ok(Session { _up: up, _down: down, welcome })
    }

    async fn upload(&self, session: &Session) -> Upload {
        let (up, messages) = mpsc::unbounded_channel();
        let hello = v1::UploadHello { upload_nonce: session.welcome.upload_nonce.clone() };
        up.send(v1::UploadUp { message: Some(UploadUp::Hello(hello)) }).unwrap();
        let messages = UnboundedReceiverStream::new(messages);
        let down = self.client.clone().upload(messages).await.unwrap().into_inner();
        Upload { up, down }
    }
}

impl Upload {
    fn send(&self, boot: u64, seq: u64) {
        let output = v1::Output { stream: v1::Stream::Stdout.into(), data: "x".into() };
        let kind = Some(v1::frame::Kind::Output(output));
        let frame = v1::Frame { seq, at_unix_ms: 1, task_id: vec![7; 16].into(), kind };
        let batch = v1::FrameBatch { boot, frames: vec![frame] };
        self.up.send(v1::UploadUp { message: Some(UploadUp::Frames(batch)) }).unwrap();
    }

    async fn next(&mut self) -> UploadDown {
        let message = tokio::time::timeout(PATIENCE, self.down.message()).await.expect("nothing is said");
        message.unwrap().expect("the upload ended").message.unwrap()
    }
}

fn start(boot: u64, seq: u64) -> UploadDown {
    UploadDown::Start(v1::UploadStart { next: Some(v1::Cursor { boot, seq }) })
}

fn ack(boot: u64, seq: u64) -> UploadDown {
    UploadDown::Ack(v1::Ack { through: Some(v1::Cursor { boot, seq }) })
}

#[tokio::test]
async fn an_ack_that_was_lost_is_given_again() {
    let world = World::start().await;
    let node = Raw::enrol(&world, "one").await;
    let session = node.attach(node.boot, 0).await.unwrap();
    let mut first = node.upload(&session).await;
    assert_eq!(first.next().await, start(node.boot, 1));
    first.send(node.boot, 1);
    assert_eq!(first.next().await, ack(node.boot, 1));
    drop(first);
    // An agent whose spool is full of frames that are durable has nothing to send: the ack must come by itself.
    let mut second = node.upload(&session).await;
    assert_eq!(second.next().await, start(node.boot, 2));
    assert_eq!(second.next().await, ack(node.boot, 1));
    drop((second, session));
    world.stop().await;
}

#[tokio::test]
async fn a_hello_that_is_refused_does_not_end_the_run_that_is_there() {
    let world = World::start().await;
    let node = Raw::enrol(&world, "one").await;
    let session = node.attach(node.boot, 0).await.unwrap();
    let mut upload = node.upload(&session).await;
    assert_eq!(upload.next().await, start(node.boot, 1));
    assert!(node.attach(node.boot + 1, u64::MAX).await.is_err());
    upload.send(node.boot, 1);
    assert_eq!(upload.next().await, ack(node.boot, 1));
    drop((upload, session));
    world.stop().await;
}

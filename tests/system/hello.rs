//! Recorded bytes of agents that are out there: today's hub still understands each of them.
//!
//! The files in `fixtures/` were written once and are never written anew; when the protocol grows, further ones join
//! them. They are messages without what is made for one session alone (ids, nonces, signatures), which the test
//! appends: in protobuf, bytes after bytes are one message.

use std::path::PathBuf;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use ed25519_dalek::Signer as _;
use muster_proto::v1::session_down::Message as Down;
use muster_proto::{signing, v1 as pb};
use muster_tests::control::channel;
use muster_tests::{PATIENCE, RawNode, TestHub, eventually_async};
use prost::Message;
use std::marker::PhantomData;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Status, Streaming};

/// A field that no version of the protocol knows.
const FROM_THE_FUTURE: u32 = 1000;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Bytes go up as they are; messages come down.
struct Recorded<D>(PhantomData<D>);

impl<D: Message + Default + 'static> Codec for Recorded<D> {
    type Encode = Bytes;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }
    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<D: Send + 'static> Encoder for Recorded<D> {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl<D: Message + Default> Decoder for Recorded<D> {
    type Item = D;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        D::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Opens a stream on which recorded bytes are sent.
async fn open<D: Message + Default + 'static>(
    hub: &TestHub,
    method: &'static str,
) -> (mpsc::Sender<Bytes>, Streaming<D>) {
    let (up, messages) = mpsc::channel(16);
    let mut client = tonic::client::Grpc::new(channel(hub.grpc()));
    client.ready().await.unwrap();
    // The hub answers an upload once it has heard something: the answer is awaited later.
    let request = tonic::Request::new(ReceiverStream::new(messages));
    let path = PathAndQuery::from_static(method);
    let answer = client.streaming(request, path, Recorded::<D>(PhantomData)).await.unwrap();
    (up, answer.into_inner())
}

/// A message of one field, as its length-delimited bytes, with a field from the future beside it.
fn wrapped(field: u32, parts: &[&[u8]]) -> Bytes {
    let inner: Vec<u8> = parts.concat();
    let mut out = BytesMut::new();
    prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(inner.len() as u64, &mut out);
    out.put_slice(&inner);
    out.put_slice(&future());
    out.freeze()
}

fn future() -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::string::encode(FROM_THE_FUTURE, &"from the future".to_owned(), &mut out);
    prost::encoding::uint64::encode(FROM_THE_FUTURE + 1, &7, &mut out);
    out
}

async fn next<D: Message + Default + 'static>(down: &mut Streaming<D>) -> D {
    tokio::time::timeout(PATIENCE, down.message()).await.expect("an answer").unwrap().expect("a message")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_the_first_version_is_welcomed_and_what_is_not_known_is_ignored() {
    let hub = TestHub::start();
    let node = RawNode::enrol(&hub, "old-1").await;
    let (session, mut down) = open::<pb::SessionDown>(&hub, "/muster.v1.NodeService/Session").await;
    let Some(Down::Challenge(challenge)) = next(&mut down).await.message else { panic!("no challenge") };
    let signed = signing::hello(&challenge.nonce, &node.id, 0, node.boot, &node.boot_id);
    let made_now = pb::Hello {
        node_id: node.id.clone(),
        signature: node.key.sign(&signed).to_bytes().to_vec().into(),
        boot: node.boot,
        boot_id: node.boot_id.to_vec().into(),
        ..pb::Hello::default()
    };
    let hello = std::fs::read(fixture("hello-v1.bin")).unwrap();
    session.send(wrapped(1, &[&hello, &made_now.encode_to_vec()])).await.unwrap();
    let Some(Down::Welcome(welcome)) = next(&mut down).await.message else { panic!("no welcome") };
    assert_eq!((welcome.protocol_version, welcome.boot), (1, node.boot));

    let heartbeat = std::fs::read(fixture("heartbeat-v1.bin")).unwrap();
    session.send(wrapped(2, &[&heartbeat])).await.unwrap();
    // A kind of message that does not exist yet.
    session.send(wrapped(900, &[b"?"])).await.unwrap();
    let view = eventually_async("the heartbeat is taken", async || {
        hub.control().node("old-1").await.ok().filter(|view| view.stats.is_some())
    })
    .await;
    assert_eq!(view.stats.as_ref().unwrap().cpu_ratio, 0.25);
    assert_eq!(view.agent_version, "muster/0.1.0");
    assert_eq!(view.facts.as_ref().unwrap().hostname, "recorded");
    assert_eq!(view.labels["role"], "web");

    let (upload, mut acks) = open::<pb::UploadDown>(&hub, "/muster.v1.NodeService/Upload").await;
    let nonce = pb::UploadHello { upload_nonce: welcome.upload_nonce };
    upload.send(wrapped(1, &[&nonce.encode_to_vec()])).await.unwrap();
    let frames = std::fs::read(fixture("frames-v1.bin")).unwrap();
    let boot = pb::FrameBatch { boot: welcome.boot, frames: Vec::new() };
    upload.send(wrapped(2, &[&frames, &boot.encode_to_vec()])).await.unwrap();
    loop {
        if let Some(pb::upload_down::Message::Ack(ack)) = next(&mut acks).await.message
            && ack.through.unwrap().seq == 4
        {
            break;
        }
    }
    let ran = hub.muster(&["logs", "old-1", "--view", "raw"]).run().succeeded();
    assert_eq!(ran.stdout_text(), "recorded out\nrecorded err\n");
    assert_eq!(hub.control().node("old-1").await.unwrap().status(), pb::NodeStatus::Online);
}

/// Writes the recorded bytes. To be run by hand, once for each new version of the protocol, never for an old one.
#[test]
#[ignore = "writes the fixtures that the other test reads"]
fn write_the_fixtures() {
    let hello = pb::Hello {
        protocol_version: 1,
        capabilities: ["exec", "pty", "stdin", "time-travel"].map(str::to_owned).to_vec(),
        agent_version: "muster/0.1.0".to_owned(),
        facts: Some(pb::NodeFacts {
            hostname: "recorded".to_owned(),
            os: "linux".to_owned(),
            arch: "x86_64".to_owned(),
            kernel: "6.1.0".to_owned(),
            cpus: 8,
            memory_bytes: 16 << 30,
        }),
        labels: [("role".to_owned(), "web".to_owned())].into(),
        ..pb::Hello::default()
    };
    let stats = pb::Stats {
        cpu_ratio: 0.25,
        memory_used_bytes: 1 << 30,
        memory_total_bytes: 16 << 30,
        load_1m: 0.5,
        ..pb::Stats::default()
    };
    let task_id = Bytes::from_static(b"\x01\x92\0\0\0\0\x70\0\x80\0\0\0\0\0\0\x01");
    let frame = |seq, kind| pb::Frame {
        seq,
        at_unix_ms: 1_700_000_000_000,
        task_id: task_id.clone(),
        kind: Some(kind),
    };
    let output = |stream: pb::Stream, text: &'static str| {
        pb::frame::Kind::Output(pb::Output { stream: stream.into(), data: text.into() })
    };
    let ended = pb::TaskEnded {
        outcome: pb::TaskOutcome::Exited.into(),
        exit_code: Some(0),
        duration_ms: 12,
        ..pb::TaskEnded::default()
    };
    let frames = vec![
        frame(1, pb::frame::Kind::Started(pb::TaskStarted { pid: 4242, pty: false })),
        frame(2, output(pb::Stream::Stdout, "recorded out\n")),
        frame(3, output(pb::Stream::Stderr, "recorded err\n")),
        frame(4, pb::frame::Kind::Ended(ended)),
    ];
    let batch = pb::FrameBatch { boot: 0, frames };
    let heartbeat = pb::Heartbeat { stats: Some(stats) };
    for (name, bytes) in [
        ("hello-v1.bin", hello.encode_to_vec()),
        ("heartbeat-v1.bin", heartbeat.encode_to_vec()),
        ("frames-v1.bin", batch.encode_to_vec()),
    ] {
        assert!(!fixture(name).exists(), "{name} is recorded: it must not change");
        std::fs::write(fixture(name), [bytes, future()].concat()).unwrap();
    }
}

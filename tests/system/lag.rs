//! A reader that stops reading: others notice nothing, and it is told exactly how much it missed.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use muster_proto::v1::control_service_client::ControlServiceClient;
use muster_proto::v1::read_terminal_response::Message as Read;
use muster_proto::v1::session_up::Message as Up;
use muster_proto::v1::upload_up::Message as Upload;
use muster_proto::v1::watch_events_response::Event;
use muster_proto::v1::{self as pb, frame::Kind};
use muster_tests::{PATIENCE, RawNode, TestHub, long_forms, raw};
use tokio::sync::{mpsc, watch};
use tonic::Streaming;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;

/// Output of each frame, in bytes.
const FRAME_BYTES: usize = 1024;
/// Frames on their way to the reader that keeps up: far fewer than a reader may be behind.
const AHEAD: u64 = 200;
/// Frames that are not acked: half of what the hub keeps of one node before it asks for them again.
const UNACKED: u64 = 4000;

/// What a reader was told, up to a position.
#[derive(Debug, Default)]
struct Told {
    events: u64,
    missed: u64,
    gaps: u64,
    /// Frames seen, by number.
    frames: BTreeMap<u64, Bytes>,
    position: String,
}

impl Told {
    fn add(&mut self, message: pb::WatchEventsResponse) {
        self.position = message.position;
        match message.event {
            Some(Event::Gap(gap)) => {
                self.gaps += 1;
                self.missed += gap.missed.expect("a gap within the stream tells its size");
            }
            Some(Event::CaughtUp(_)) | None => {}
            Some(event) => {
                self.events += 1;
                let Event::Output(output) = event else { return };
                for frame in output.frames {
                    if let Some(Kind::Output(bytes)) = frame.kind {
                        let twice = self.frames.insert(frame.seq, bytes.data);
                        assert!(twice.is_none(), "frame {} came twice", frame.seq);
                    }
                }
            }
        }
    }
}

/// A stream of events over a connection that holds little, so that a reader that stands still is soon felt.
async fn subscribe(hub: &TestHub, since: &str) -> Streaming<pb::WatchEventsResponse> {
    let channel = Endpoint::from_shared(format!("http://{}", hub.grpc()))
        .unwrap()
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(64 * 1024)
        .connect()
        .await
        .unwrap();
    let bearer: MetadataValue<Ascii> = format!("Bearer {}", hub.credential()).parse().unwrap();
    let mut request = tonic::Request::new(pb::WatchEventsRequest {
        since: since.to_owned(),
        output: true,
        ..pb::WatchEventsRequest::default()
    });
    request.metadata_mut().insert("authorization", bearer);
    ControlServiceClient::new(channel).watch_events(request).await.unwrap().into_inner()
}

fn batch(boot: u64, seq: u64) -> pb::UploadUp {
    let mut data = format!("frame {seq} ").into_bytes();
    data.resize(FRAME_BYTES, b'.');
    let output = pb::Output { stream: pb::Stream::Stdout.into(), data: data.into() };
    let task_id = Bytes::from_static(&[7; 16]);
    let frame = pb::Frame { seq, task_id, kind: Some(Kind::Output(output)), ..pb::Frame::default() };
    pb::UploadUp { message: Some(Upload::Frames(pb::FrameBatch { boot, frames: vec![frame] })) }
}

/// Sends frames one by one, never far ahead of the reader that keeps up or of the disk, until all are acked.
async fn upload(
    up: mpsc::Sender<pb::UploadUp>,
    mut down: Streaming<pb::UploadDown>,
    boot: u64,
    frames: u64,
    mut seen: watch::Receiver<u64>,
) {
    let mut acked = 0;
    for seq in 1..=frames {
        seen.wait_for(|seen| seq <= seen + AHEAD).await.unwrap();
        while seq > acked + UNACKED {
            acked = next_ack(&mut down).await;
        }
        up.send(batch(boot, seq)).await.unwrap();
    }
    while acked < frames {
        acked = next_ack(&mut down).await;
    }
}

async fn next_ack(down: &mut Streaming<pb::UploadDown>) -> u64 {
    loop {
        match down.message().await.unwrap().expect("the upload goes on").message {
            Some(pb::upload_down::Message::Ack(ack)) => return ack.through.unwrap().seq,
            Some(pb::upload_down::Message::Rewind(rewind)) => panic!("no frame was dropped: {rewind:?}"),
            _ => {}
        }
    }
}

/// Adds what the log has after a place to what is known, with which it must agree.
async fn read_log(hub: &TestHub, since: pb::Cursor, known: &mut BTreeMap<u64, Bytes>) {
    let request = pb::ReadTerminalRequest {
        node: "web-1".to_owned(),
        since: Some(since),
        ..pb::ReadTerminalRequest::default()
    };
    let mut log = hub.control().client().read_terminal(request).await.unwrap().into_inner();
    while let Some(message) = log.message().await.unwrap() {
        match message.message {
            Some(Read::Start(start)) => assert!(start.recovered),
            Some(Read::Frames(batch)) => {
                for frame in batch.frames {
                    let Some(Kind::Output(output)) = frame.kind else { panic!("{frame:?}") };
                    let live = known.entry(frame.seq).or_insert_with(|| output.data.clone());
                    assert_eq!(*live, output.data, "the log and the live view agree on frame {}", frame.seq);
                }
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_reading_is_told_how_many_events_it_missed_and_finds_them_in_the_log() {
    let frames: u64 = if long_forms() { 60_000 } else { 5_000 };
    let hub = TestHub::start_with(&["--log-node-bytes", "200000000"]);
    let node = RawNode::enrol(&hub, "web-1").await;
    let (mut session, welcome) = node.attach().await.unwrap();
    let listed =
        hub.control().client().list_nodes(pb::ListNodesRequest::default()).await.unwrap().into_inner();
    let (mut quick, mut slow) =
        (subscribe(&hub, &listed.position).await, subscribe(&hub, &listed.position).await);

    let (up, down) = session.upload(vec![raw::upload_hello(&welcome.upload_nonce)]).await.unwrap();
    let (seen, progress) = watch::channel(0);
    let uploading = tokio::spawn(upload(up, down, welcome.boot, frames, progress));
    let beating = tokio::spawn(async move {
        loop {
            session.send(Up::Heartbeat(pb::Heartbeat::default())).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });

    // One reads everything as it comes; the other reads nothing meanwhile.
    let mut everything = Told::default();
    while everything.frames.len() as u64 != frames {
        let message = tokio::time::timeout(PATIENCE, quick.message()).await.expect("output goes on").unwrap();
        everything.add(message.expect("the stream goes on"));
        seen.send_replace(everything.frames.len() as u64);
    }
    uploading.await.unwrap();
    assert_eq!((everything.gaps, everything.missed), (0, 0), "the reader that keeps up misses nothing");

    let mut told = Told::default();
    let place = |position: &str| position.rsplit_once('.').unwrap().1.parse::<u64>().unwrap();
    while told.position.is_empty() || place(&told.position) < place(&everything.position) {
        let message = tokio::time::timeout(PATIENCE, slow.message()).await.expect("events go on").unwrap();
        told.add(message.expect("the stream goes on"));
    }
    beating.abort();
    assert!(told.gaps >= 1, "it must have missed something: {} of {} events", told.events, everything.events);
    // Beyond the last common position the slow one may have been told of a heartbeat more.
    let beyond = place(&told.position) - place(&everything.position);
    assert_eq!(told.events + told.missed, everything.events + beyond, "what came and what is missing add up");

    // The hole is in the log, at the cursors that the frames around it tell.
    let first_hole = (1..=frames).find(|seq| !told.frames.contains_key(seq)).expect("a hole");
    read_log(&hub, pb::Cursor { boot: welcome.boot, seq: first_hole - 1 }, &mut told.frames).await;
    assert_eq!(told.frames, everything.frames, "with the log nothing is missing");
    assert!(hub.http().metric("muster_bus_missed_total").await >= told.missed as f64);
}

//! The upload: hands frames to the hub on a stream of their own and takes the acks. Lives as long as its session;
//! when the stream alone breaks, opens another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_proto::v1::node_service_client::NodeServiceClient;
use muster_proto::v1::upload_down::Message as Down;
use muster_proto::v1::upload_up::Message as Up;
use muster_proto::{MAX_MESSAGE_BYTES, v1};
use registry_core::Cursor;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::dial::Backoff;
use crate::session::words;
use crate::spool::{Batch, Spool, SpoolError};
use crate::wire;

/// Batches that wait for the connection. HTTP/2 flow control bounds what is under way; more here would only delay
/// a rewind.
const OUTGOING_BATCHES: usize = 1;

/// A batch is about this large, in bytes: the cost of a message no longer counts, and another stream's message
/// does not wait long behind it.
const BATCH_BYTES: usize = 256 * 1024;

/// And has no more frames than this, so that the hub can take it in one small step.
const BATCH_FRAMES: usize = 512;

/// The least that a hub's limit can lower a batch to, in bytes: one frame has to fit.
const SMALLEST_BATCH_BYTES: usize = 4 * 1024;

/// The word with which a hub says that it takes frames of resizes.
const TAKES_RESIZED: &str = "resized";

/// How long the hub may take to say where to begin.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Pauses between streams of one session.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A stream that stood this long was a real one.
const LASTED: Duration = Duration::from_secs(5);

/// How large batches are, and what may be in them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    bytes: usize,
    takes_resized: bool,
}

impl Limits {
    /// Ours, or the hub's if they are lower: a batch stays at half of the largest message.
    pub(crate) fn of(welcome: &v1::Welcome) -> Self {
        let hub = match usize::try_from(welcome.max_message_bytes) {
            Ok(0) | Err(_) => MAX_MESSAGE_BYTES,
            Ok(bytes) => bytes,
        };
        Self {
            bytes: (hub / 2).clamp(SMALLEST_BATCH_BYTES, BATCH_BYTES),
            takes_resized: welcome.capabilities.iter().any(|word| word == TAKES_RESIZED),
        }
    }
}

/// Uploads until it is dropped.
pub(crate) async fn run(spool: Arc<Spool>, client: NodeServiceClient<Channel>, nonce: Bytes, limits: Limits) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let began = Instant::now();
        let why = match stream(&spool, client.clone(), nonce.clone(), limits).await {
            Ok(()) => "the hub closed it".to_owned(),
            Err(why) => why,
        };
        if began.elapsed() >= LASTED {
            backoff.reset();
        }
        let pause = backoff.next();
        // Often only the first sign that the session is over, which is told where it is noticed.
        tracing::debug!(%why, retry_in = ?pause, "the upload stopped; its frames are kept");
        sleep(pause).await;
    }
}

/// One stream, from its nonce to its end.
async fn stream(
    spool: &Spool,
    mut client: NodeServiceClient<Channel>,
    nonce: Bytes,
    limits: Limits,
) -> Result<(), String> {
    let (up, up_rx) = mpsc::channel(OUTGOING_BATCHES);
    let hello = v1::UploadUp { message: Some(Up::Hello(v1::UploadHello { upload_nonce: nonce })) };
    up.send(hello).await.map_err(|_| "the stream is gone".to_owned())?;
    let start = async {
        let mut down =
            client.upload(ReceiverStream::new(up_rx)).await.map_err(|status| words(&status))?.into_inner();
        match down.message().await.map_err(|status| words(&status))? {
            Some(v1::UploadDown { message: Some(Down::Start(start)) }) => {
                Ok((down, wire::cursor(start.next)))
            }
            _ => Err("the hub did not say where to begin".to_owned()),
        }
    };
    let (mut down, next) =
        timeout(START_TIMEOUT, start).await.map_err(|_| "the hub does not answer".to_owned())??;
    accept(spool.resume(next), next)?;
    tracing::debug!(%next, "uploading");
    let mut idle = false;
    loop {
        tokio::select! {
            received = down.message() => match received.map_err(|status| words(&status))? {
                Some(v1::UploadDown { message: Some(Down::Ack(ack)) }) => {
                    let through = wire::cursor(ack.through);
                    accept(spool.ack(through), through)?;
                }
                Some(v1::UploadDown { message: Some(Down::Rewind(rewind)) }) => {
                    let next = wire::cursor(rewind.next);
                    tracing::debug!(%next, "the hub rewinds");
                    accept(spool.resume(next), next)?;
                    idle = false;
                }
                // Of a later version of the contract.
                Some(_) => {}
                None => return Ok(()),
            },
            permit = up.reserve(), if !idle => {
                let permit = permit.map_err(|_| "the stream is gone".to_owned())?;
                match spool.next_batch(limits.bytes, BATCH_FRAMES) {
                    Some(batch) => permit.send(message(&batch, limits)),
                    None => idle = true,
                }
            }
            () = spool.work(), if idle => idle = false,
        }
    }
}

fn message(batch: &Batch, limits: Limits) -> v1::UploadUp {
    let frames = batch.frames.iter().map(|frame| wire::frame(frame, limits.takes_resized)).collect();
    v1::UploadUp { message: Some(Up::Frames(v1::FrameBatch { boot: batch.boot.0, frames })) }
}

/// A hub that speaks of frames that do not exist is told by the end of the stream.
fn accept(result: Result<(), SpoolError>, cursor: Cursor) -> Result<(), String> {
    result.map_err(|error| {
        tracing::error!(%cursor, %error, "the hub's log and this agent do not agree");
        error.to_string()
    })
}

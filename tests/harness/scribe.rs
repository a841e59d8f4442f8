//! An agent that writes all the time, keeps to the protocol by the letter, and remembers what it was promised: every
//! frame that it made and the highest one that a hub ever acked.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use muster_proto::v1::node_service_client::NodeServiceClient;
use muster_proto::v1::session_down::Message as Down;
use muster_proto::v1::session_up::Message as Up;
use muster_proto::v1::{self as pb, frame::Kind, upload_down, upload_up};
use registry_core::Clock;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::control::channel;
use crate::hub::TestHub;
use crate::raw::{RawNode, upload_hello};

/// Output in each frame: small, as lines of a terminal are.
pub const FRAME_BYTES: usize = 256;
/// How often a frame is made: enough that every moment of a fault meets some on their way, little beside what a hub takes.
const EACH_FRAME: Duration = Duration::from_millis(10);
/// How often a heartbeat is sent: a fault of a few seconds meets hundreds.
const EACH_BEAT: Duration = Duration::from_millis(50);
/// Frames in one message, at most.
const BATCH: u64 = 256;
/// Each step of a handshake. A hub that takes longer is dialled anew.
const STEP: Duration = Duration::from_secs(10);
/// Between two attempts to attach.
const PAUSE: Duration = Duration::from_millis(100);
/// What the protocol has an agent keep of acked frames.
const KEPT_FOR: Duration = Duration::from_secs(5);
const KEPT_FRAMES: u64 = (4 << 20) / FRAME_BYTES as u64;

/// An agent that writes. Dropping it ends it.
#[derive(Debug)]
pub struct Scribe {
    shared: Arc<Shared>,
    running: Vec<JoinHandle<()>>,
}

/// What a scribe made and was promised.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Its node.
    pub node_id: String,
    /// The run that all its frames belong to.
    pub boot: u64,
    /// The output of each frame; the first has the number 1.
    pub frames: Vec<Bytes>,
    /// The highest number that was ever acked.
    pub acked: u64,
    /// How often a hub asked for a frame that it had acked.
    pub taken_back: u64,
    /// The gaps that it had to state, first and last number: asked for frames that it need not keep any more.
    pub gaps: Vec<(u64, u64)>,
    /// What a hub did that it may not do.
    pub violations: Vec<String>,
}

/// Heartbeats on their way: when each was sent, by node and number.
#[derive(Clone, Debug)]
pub struct Beats {
    sent: Arc<Mutex<HashMap<(String, u64), Duration>>>,
    clock: Clock,
}

#[derive(Debug)]
struct Shared {
    node: RawNode,
    clock: Clock,
    beats: Beats,
    state: Mutex<State>,
    /// The last frame that was made.
    made: watch::Sender<u64>,
    quiet: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    written: Written,
    made_at: Vec<Duration>,
    epoch: u64,
    beats: u64,
    /// Acks that are younger than what has to be kept for their sake.
    acks: VecDeque<(u64, Duration)>,
    /// Frames up to here are not kept any more.
    given_up: u64,
}

impl Beats {
    /// No heartbeat yet, by this clock.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { sent: Arc::default(), clock }
    }

    /// How long a heartbeat was on its way, when it is seen for the first time.
    ///
    /// # Panics
    /// When somebody who counts heartbeats has.
    #[must_use]
    pub fn arrived(&self, node_id: &str, number: u64) -> Option<Duration> {
        let sent = self.sent.lock().expect("no one panics").remove(&(node_id.to_owned(), number))?;
        Some(self.clock.monotonic().saturating_sub(sent))
    }

    fn sent(&self, node_id: &str, number: u64) {
        let now = self.clock.monotonic();
        self.sent.lock().expect("no one panics").insert((node_id.to_owned(), number), now);
    }
}

impl Scribe {
    /// Enrols a node and begins to write.
    pub async fn start(hub: &TestHub, name: &str, beats: &Beats) -> Self {
        let node = RawNode::enrol(hub, name).await;
        let written = Written { node_id: node.id.clone(), boot: node.boot, ..Written::default() };
        let shared = Arc::new(Shared {
            node,
            clock: beats.clock.clone(),
            beats: beats.clone(),
            state: Mutex::new(State { written, ..State::default() }),
            made: watch::Sender::new(0),
            quiet: watch::Sender::new(false),
        });
        let running = vec![
            tokio::spawn(Arc::clone(&shared).write()),
            tokio::spawn(Arc::clone(&shared).stay_attached()),
        ];
        Self { shared, running }
    }

    /// The node's id.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.shared.node.id
    }

    /// Makes no further frame; goes on sending those that are not acked.
    pub fn fall_silent(&self) {
        self.shared.quiet.send_replace(true);
    }

    /// The number of the newest frame, and the highest that was acked.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let state = self.shared.state();
        (state.written.frames.len() as u64, state.written.acked)
    }

    /// What it made and was promised so far.
    #[must_use]
    pub fn written(&self) -> Written {
        self.shared.state().written.clone()
    }

    /// How long ago a frame was made, if its content is what was made; `None` when it is not.
    #[must_use]
    pub fn age_of(&self, boot: u64, seq: u64, data: &[u8]) -> Option<Duration> {
        let now = self.shared.clock.monotonic();
        let state = self.shared.state();
        let index = usize::try_from(seq.checked_sub(1)?).ok()?;
        let is_mine = boot == state.written.boot && state.written.frames.get(index)? == data;
        is_mine.then(|| now.saturating_sub(state.made_at[index]))
    }

    /// Another hold on the same scribe that does not end it.
    #[must_use]
    pub fn observer(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), running: Vec::new() }
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.running.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics while holding it")
    }

    /// Makes frames, attached or not, as tasks do.
    async fn write(self: Arc<Self>) {
        let mut ticks = interval(EACH_FRAME);
        // What a busy machine skipped is not made up for: a burst would measure nothing but itself.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*self.quiet.borrow() {
            ticks.tick().await;
            let now = self.clock.monotonic();
            let mut state = self.state();
            let seq = state.written.frames.len() as u64 + 1;
            let mut data = format!("{} {seq} {:?} ", self.node.id, crate::random::<8>()).into_bytes();
            data.resize(FRAME_BYTES - 1, b'.');
            data.push(b'\n');
            state.written.frames.push(data.into());
            state.made_at.push(now);
            drop(state);
            self.made.send_replace(seq);
        }
    }

    async fn stay_attached(self: Arc<Self>) {
        loop {
            // Why a session ended shows in what is missing afterwards, if it does at all.
            let _ = self.attach().await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attach(&self) -> Result<(), Status> {
        let mut client = NodeServiceClient::new(channel(self.node.hub));
        let (up, messages) = mpsc::channel(16);
        let (down, welcome) = step(self.shake(&mut client, &up, messages)).await?;
        let (frames, messages) = mpsc::channel(1);
        let _ = frames.send(upload_hello(&welcome.upload_nonce)).await;
        let upload =
            step(async { Ok(client.upload(ReceiverStream::new(messages)).await?.into_inner()) }).await?;
        self.converse(up, down, frames, upload).await
    }

    async fn shake(
        &self,
        client: &mut NodeServiceClient<tonic::transport::Channel>,
        up: &mpsc::Sender<pb::SessionUp>,
        messages: mpsc::Receiver<pb::SessionUp>,
    ) -> Result<(Streaming<pb::SessionDown>, pb::Welcome), Status> {
        let mut down = client.session(ReceiverStream::new(messages)).await?.into_inner();
        let Some(Down::Challenge(challenge)) = down.message().await?.and_then(|message| message.message)
        else {
            return Err(Status::unavailable("no challenge"));
        };
        let mut hello = self.node.hello(&challenge.nonce);
        {
            let state = self.state();
            hello.last_epoch = state.epoch;
            hello.last_seq = state.written.frames.len() as u64;
        }
        self.node.sign(&mut hello, &challenge.nonce);
        let _ = up.send(pb::SessionUp { message: Some(Up::Hello(hello)) }).await;
        let Some(Down::Welcome(welcome)) = down.message().await?.and_then(|message| message.message) else {
            return Err(Status::unavailable("no welcome"));
        };
        let mut state = self.state();
        if welcome.boot != self.node.boot {
            let boot = self.node.boot;
            state.written.violations.push(format!("boot {boot} was granted again as {}", welcome.boot));
        }
        if welcome.epoch <= state.epoch {
            let epoch = state.epoch;
            state.written.violations.push(format!("epoch {} came after {epoch}", welcome.epoch));
        }
        state.epoch = welcome.epoch;
        drop(state);
        Ok((down, welcome))
    }

    async fn converse(
        &self,
        up: mpsc::Sender<pb::SessionUp>,
        mut down: Streaming<pb::SessionDown>,
        frames: mpsc::Sender<pb::UploadUp>,
        mut upload: Streaming<pb::UploadDown>,
    ) -> Result<(), Status> {
        let gone = || Status::unavailable("the stream is gone");
        let mut beats = interval(EACH_BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut made = self.made.subscribe();
        // Nothing is sent before the hub has said where to begin.
        let mut next = None;
        loop {
            let waits = next.is_some_and(|next| next <= *made.borrow_and_update());
            tokio::select! {
                _ = beats.tick() => self.beat(&up)?,
                message = down.message() => match message?.and_then(|message| message.message) {
                    Some(Down::Farewell(_)) | None => return Ok(()),
                    Some(_) => {}
                },
                message = upload.message() => match message?.and_then(|message| message.message) {
                    Some(upload_down::Message::Start(start)) => next = self.asked_for(start.next),
                    Some(upload_down::Message::Rewind(rewind)) => next = self.asked_for(rewind.next),
                    Some(upload_down::Message::Ack(ack)) => self.acked(ack.through.map_or(0, |cursor| cursor.seq)),
                    None => return Ok(()),
                },
                permit = frames.reserve(), if waits => {
                    let (batch, then) = self.batch(next.unwrap_or(1));
                    permit.map_err(|_| gone())?.send(batch);
                    next = Some(then);
                }
                changed = made.changed(), if !waits => changed.map_err(|_| gone())?,
            }
        }
    }

    /// Sends a heartbeat whose number comes back to all who watch. One that finds the connection stuck is not sent.
    fn beat(&self, up: &mpsc::Sender<pb::SessionUp>) -> Result<(), Status> {
        let number = {
            let mut state = self.state();
            state.beats += 1;
            state.beats
        };
        let stats = pb::Stats { uptime_seconds: number, ..pb::Stats::default() };
        let heartbeat = Up::Heartbeat(pb::Heartbeat { stats: Some(stats) });
        self.beats.sent(&self.node.id, number);
        match up.try_send(pb::SessionUp { message: Some(heartbeat) }) {
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Status::unavailable("the session is gone")),
            _ => Ok(()),
        }
    }

    /// A hub wants frames from this one on. One that it acked is durable, and need not be sent again.
    fn asked_for(&self, next: Option<pb::Cursor>) -> Option<u64> {
        let next = next?.seq;
        let mut state = self.state();
        if next <= state.written.acked {
            state.written.taken_back += 1;
        }
        Some(next)
    }

    fn acked(&self, through: u64) {
        let now = self.clock.monotonic();
        let mut state = self.state();
        let made = state.written.frames.len() as u64;
        if through > made {
            state.written.violations.push(format!("frame {through} was acked and only {made} were made"));
        }
        state.written.acked = state.written.acked.max(through);
        state.acks.push_back((through, now));
        while let Some((through, at)) = state.acks.front().copied()
            && (now.saturating_sub(at) > KEPT_FOR || state.written.acked - through > KEPT_FRAMES)
        {
            state.given_up = state.given_up.max(through);
            state.acks.pop_front();
        }
    }

    /// Frames from this number on, behind a gap if it is not kept any more; and the number that follows them.
    fn batch(&self, from: u64) -> (pb::UploadUp, u64) {
        let mut state = self.state();
        let mut frames = Vec::new();
        let mut next = from.max(1);
        if next <= state.given_up {
            let gap = pb::Gap { last_seq: state.given_up, reason: pb::GapReason::LogLost.into() };
            frames.push(pb::Frame { seq: next, kind: Some(Kind::Gap(gap)), ..pb::Frame::default() });
            let stated = (next, state.given_up);
            state.written.gaps.push(stated);
            next = state.given_up + 1;
        }
        let task_id = Bytes::from_static(&[7; 16]);
        let left = usize::try_from(next - 1)
            .map_or(&[][..], |done| state.written.frames.get(done..).unwrap_or_default());
        let outputs = (next..next + BATCH).zip(left);
        frames.extend(outputs.map(|(seq, data)| {
            let output = pb::Output { stream: pb::Stream::Stdout.into(), data: data.clone() };
            let kind = Some(Kind::Output(output));
            pb::Frame { seq, task_id: task_id.clone(), kind, ..pb::Frame::default() }
        }));
        let then = frames.last().map_or(next, |frame| match &frame.kind {
            Some(Kind::Gap(gap)) => gap.last_seq + 1,
            _ => frame.seq + 1,
        });
        let batch = pb::FrameBatch { boot: self.node.boot, frames };
        (pb::UploadUp { message: Some(upload_up::Message::Frames(batch)) }, then)
    }
}

async fn step<T>(done: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(STEP, done).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("the hub takes too long")))
}

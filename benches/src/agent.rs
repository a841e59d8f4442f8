//! Simulated agents: real keys, real signatures, real streams; only the machine behind them is made up.

pub mod output;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use muster_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use muster_proto::v1::node_service_client::NodeServiceClient;
use muster_proto::v1::session_down::Message as Down;
use muster_proto::v1::session_up::Message as Up;
use muster_proto::v1::{upload_down, upload_up};
use muster_proto::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION, signing, v1};
use registry_core::Clock;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use self::output::Output;

/// Requests to enrol that are under way at once: enough for the hub to commit them in groups.
const ENROL_AT_ONCE: usize = 64;
/// The first and the longest pause between two attempts to attach. The real agent's pauses begin the same and grow to
/// 8 s; the driver's stop at 2 s, so that a measured comeback tells of the hub and not of the agents' patience.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// A session that stood this long was a real one: the next pause is the first again. As the real agent does.
const LASTED: Duration = Duration::from_secs(5);
/// Opening a connection, and each step of the handshake. As the real agent.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 settings of the real agent's connection: windows and frames in bytes, keep-alive.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const HTTP2_FRAME_BYTES: u32 = 64 * 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Heartbeats that wait for the connection.
const OUTGOING_MESSAGES: usize = 4;
/// Batches that wait for the connection, as the real agent has them.
const OUTGOING_BATCHES: usize = 1;

/// What a fleet of simulated agents does, counted by all of them.
#[derive(Debug, Default)]
pub struct Progress {
    /// Sessions that were welcomed.
    pub welcomes: AtomicU64,
    /// Frames that were sent, also those sent again.
    pub sent_frames: AtomicU64,
    /// Bytes of output that the hub acked.
    pub acked_bytes: AtomicU64,
    /// Times that the hub asked to go back.
    pub rewinds: AtomicU64,
    /// Sessions that broke or were refused.
    pub breaks: AtomicU64,
    /// Why the last of them did.
    pub last_break: parking_lot::Mutex<Option<String>>,
}

/// One simulated agent: an enrolled identity and one run (boot) of it.
#[derive(Debug)]
pub struct Agent {
    key: SigningKey,
    node_id: String,
    source: IpAddr,
    boot: u64,
    boot_id: [u8; 16],
    last_epoch: u64,
    /// The last frame that was numbered.
    last_seq: u64,
    /// The task that its output belongs to.
    task_id: Bytes,
}

/// Enrols `count` agents with one join token that has as many uses.
///
/// # Errors
/// Whatever the hub answers.
pub async fn enrol(grpc: &str, token: &str, count: usize, clock: &Clock) -> Result<Vec<Agent>> {
    let channel = Endpoint::from_shared(grpc.to_owned())?.connect().await.context("connect to enrol")?;
    let boot = clock.unix_ms();
    let enrolments = (0..count).map(|index| {
        let client = EnrolmentServiceClient::new(channel.clone());
        let token = token.to_owned();
        async move { Agent::enrol(client, token, index, boot).await }
    });
    iter(enrolments).buffer_unordered(ENROL_AT_ONCE).try_collect().await
}

/// Starts agents, each in a task of its own with its own connection. They go on until the set is dropped.
pub fn start<O: Output + 'static>(
    agents: Vec<Agent>,
    grpc: &str,
    progress: &Arc<Progress>,
    mut output: impl FnMut(usize) -> O,
) -> JoinSet<()> {
    let mut running = JoinSet::new();
    for (index, agent) in agents.into_iter().enumerate() {
        running.spawn(agent.run(grpc.to_owned(), Arc::clone(progress), output(index)));
    }
    running
}

impl Agent {
    async fn enrol(
        mut client: EnrolmentServiceClient<Channel>,
        join_token: String,
        index: usize,
        boot: u64,
    ) -> Result<Self> {
        let key = SigningKey::from_bytes(&random()?);
        let public_key = key.verifying_key().to_bytes();
        let signature = key.sign(&signing::enrol(&join_token, &public_key));
        let request = v1::EnrolRequest {
            join_token,
            public_key: public_key.to_vec().into(),
            signature: signature.to_bytes().to_vec().into(),
            name: format!("load-{index:05}"),
            labels: labels(index),
            facts: Some(facts(index)),
        };
        let enrolled = client.enrol(request).await.context("enrol")?.into_inner();
        // A version and a variant, so that it looks like the UUIDv7 that a hub would have made.
        let mut task_id = random::<16>()?;
        task_id[6] = 0x70 | (task_id[6] & 0x0f);
        task_id[8] = 0x80 | (task_id[8] & 0x3f);
        Ok(Self {
            key,
            node_id: enrolled.node_id,
            source: source_address(index),
            boot,
            boot_id: random()?,
            last_epoch: 0,
            last_seq: 0,
            task_id: task_id.to_vec().into(),
        })
    }

    /// Stays attached as well as it can, for ever.
    async fn run<O: Output>(mut self, grpc: String, progress: Arc<Progress>, mut output: O) {
        let mut pause = PAUSE.0;
        loop {
            let began = Instant::now();
            let why = match self.attach(&grpc, &progress, &mut output).await {
                Ok(never) => match never {},
                Err(why) => why,
            };
            progress.breaks.fetch_add(1, Ordering::Relaxed);
            *progress.last_break.lock() = Some(format!("{why:#}"));
            if began.elapsed() >= LASTED {
                pause = PAUSE.0;
            }
            sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// One connection, from dialling to its end.
    async fn attach(
        &mut self,
        grpc: &str,
        progress: &Progress,
        output: &mut impl Output,
    ) -> Result<std::convert::Infallible> {
        let channel = self.endpoint(grpc)?.connect().await.context("connect")?;
        let client = NodeServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (up, up_rx) = mpsc::channel(OUTGOING_MESSAGES);
        let (down, welcome) =
            timeout(STEP_TIMEOUT, self.shake(client.clone(), &up, up_rx)).await.context("handshake")??;
        (self.last_epoch, self.boot) = (welcome.epoch, welcome.boot);
        progress.welcomes.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            ended = attend(&up, down, &welcome) => ended,
            ended = self.upload(client, welcome.upload_nonce.clone(), progress, output) => ended,
        }
    }

    fn endpoint(&self, grpc: &str) -> Result<Endpoint> {
        Ok(Endpoint::from_shared(grpc.to_owned())?
            .local_address(Some(self.source))
            .connect_timeout(STEP_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(HTTP2_FRAME_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true))
    }

    async fn shake(
        &self,
        mut client: NodeServiceClient<Channel>,
        up: &mpsc::Sender<v1::SessionUp>,
        up_rx: mpsc::Receiver<v1::SessionUp>,
    ) -> Result<(Streaming<v1::SessionDown>, v1::Welcome)> {
        let mut down = client.session(ReceiverStream::new(up_rx)).await?.into_inner();
        let Some(Down::Challenge(challenge)) = receive(&mut down).await? else {
            bail!("the hub did not begin with a challenge");
        };
        send(up, Up::Hello(self.hello(&challenge.nonce))).await?;
        match receive(&mut down).await? {
            Some(Down::Welcome(welcome)) => Ok((down, welcome)),
            other => bail!("the hub answered the hello with {other:?}"),
        }
    }

    fn hello(&self, nonce: &[u8]) -> v1::Hello {
        let signed = signing::hello(nonce, &self.node_id, self.last_epoch, self.boot, &self.boot_id);
        v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            capabilities: vec!["exec".to_owned(), "pty".to_owned(), "stdin".to_owned()],
            agent_version: "muster-load/0".to_owned(),
            node_id: self.node_id.clone(),
            signature: self.key.sign(&signed).to_bytes().to_vec().into(),
            last_epoch: self.last_epoch,
            boot: self.boot,
            boot_id: self.boot_id.to_vec().into(),
            facts: Some(facts(0)),
            labels: labels(0),
            last_seq: self.last_seq,
        }
    }

    /// The upload stream: open for as long as the session, also when there is nothing to say.
    async fn upload(
        &mut self,
        mut client: NodeServiceClient<Channel>,
        nonce: Bytes,
        progress: &Progress,
        output: &mut impl Output,
    ) -> Result<std::convert::Infallible> {
        let (up, up_rx) = mpsc::channel(OUTGOING_BATCHES);
        let hello = upload_up::Message::Hello(v1::UploadHello { upload_nonce: nonce });
        up.send(v1::UploadUp { message: Some(hello) }).await?;
        let mut down = client.upload(ReceiverStream::new(up_rx)).await?.into_inner();
        let Some(upload_down::Message::Start(start)) = down.message().await?.and_then(|down| down.message)
        else {
            bail!("the hub did not say where to begin");
        };
        let mut sent = seq_before(start.next)?;
        let mut acked = sent;
        loop {
            tokio::select! {
                received = down.message() => {
                    let received = received?.ok_or_else(|| anyhow!("the hub closed the upload"))?;
                    match received.message {
                        Some(upload_down::Message::Ack(ack)) => {
                            let through = ack.through.map_or(0, |cursor| cursor.seq);
                            let bytes = through.saturating_sub(acked) * output.frame_bytes();
                            progress.acked_bytes.fetch_add(bytes, Ordering::Relaxed);
                            acked = acked.max(through);
                        }
                        Some(upload_down::Message::Rewind(rewind)) => {
                            progress.rewinds.fetch_add(1, Ordering::Relaxed);
                            sent = seq_before(rewind.next)?;
                        }
                        Some(upload_down::Message::Start(_)) | None => {}
                    }
                }
                outgoing = async { (up.reserve().await, output.batch(sent, acked).await) } => {
                    let (permit, batch) = outgoing;
                    let batch = self.batch(sent, batch);
                    sent += batch.frames.len() as u64;
                    self.last_seq = self.last_seq.max(sent);
                    progress.sent_frames.fetch_add(batch.frames.len() as u64, Ordering::Relaxed);
                    let message = upload_up::Message::Frames(batch);
                    permit.context("the upload is gone")?.send(v1::UploadUp { message: Some(message) });
                }
            }
        }
    }

    fn batch(&self, sent: u64, data: Vec<Bytes>) -> v1::FrameBatch {
        let frame = |(seq, data)| v1::Frame {
            seq,
            at_unix_ms: self.boot,
            task_id: self.task_id.clone(),
            kind: Some(v1::frame::Kind::Output(v1::Output { stream: v1::Stream::Stdout.into(), data })),
        };
        v1::FrameBatch { boot: self.boot, frames: (sent + 1..).zip(data).map(frame).collect() }
    }
}

/// Heartbeats out, commands in (none is expected), until the session ends.
async fn attend(
    up: &mpsc::Sender<v1::SessionUp>,
    mut down: Streaming<v1::SessionDown>,
    welcome: &v1::Welcome,
) -> Result<std::convert::Infallible> {
    let period = Duration::from_millis(welcome.heartbeat_interval_ms.max(1).into());
    // The fleet's heartbeats are spread over the interval, as those of machines that started at their own times.
    let first = Instant::now() + period.mul_f64(rand::random_range(0.0..1.0));
    let mut heartbeats = interval_at(first, period);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = heartbeats.tick() => send(up, Up::Heartbeat(v1::Heartbeat { stats: Some(stats()) })).await?,
            received = receive(&mut down) => match received? {
                Some(Down::Farewell(farewell)) => {
                    sleep(Duration::from_millis(farewell.retry_after_ms.into())).await;
                    bail!("farewell: {:?}", farewell.reason());
                }
                Some(_) => {}
                None => bail!("the hub closed the session"),
            },
        }
    }
}

async fn send(up: &mpsc::Sender<v1::SessionUp>, message: Up) -> Result<()> {
    up.send(v1::SessionUp { message: Some(message) }).await.context("the session is gone")
}

async fn receive(down: &mut Streaming<v1::SessionDown>) -> Result<Option<Down>> {
    Ok(down.message().await?.and_then(|down| down.message))
}

fn seq_before(next: Option<v1::Cursor>) -> Result<u64> {
    next.and_then(|cursor| cursor.seq.checked_sub(1)).context("the hub named no frame to go on with")
}

/// Each agent dials from a loopback address of its own, as machines do: the hub's limits per address then work as
/// they would.
fn source_address(index: usize) -> IpAddr {
    let octet = |number: usize| u8::try_from(number % 250).unwrap_or(0);
    Ipv4Addr::new(127, 1 + octet(index / 62_500), octet(index / 250), 1 + octet(index)).into()
}

fn labels(index: usize) -> std::collections::HashMap<String, String> {
    let role = ["web", "db", "worker", "gpu"][index % 4];
    [("role", role), ("env", "bench")].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn facts(index: usize) -> v1::NodeFacts {
    v1::NodeFacts {
        hostname: format!("load-{index:05}.bench.internal"),
        os: "linux".to_owned(),
        arch: "x86_64".to_owned(),
        kernel: "6.12.0".to_owned(),
        cpus: 8,
        memory_bytes: 32 << 30,
    }
}

fn stats() -> v1::Stats {
    v1::Stats {
        cpu_ratio: rand::random_range(0.0..1.0),
        memory_used_bytes: rand::random_range(1 << 30..32 << 30),
        memory_total_bytes: 32 << 30,
        load_1m: rand::random_range(0.0..8.0),
        disk_used_bytes: 100 << 30,
        disk_total_bytes: 500 << 30,
        running_tasks: 0,
        uptime_seconds: 86_400,
        spool_bytes: 0,
        spool_oldest_ms: 0,
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("the system has no randomness: {error}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_have_addresses_of_their_own() {
        let addresses: std::collections::HashSet<_> = (0..20_000).map(source_address).collect();
        assert_eq!(addresses.len(), 20_000);
        assert!(addresses.iter().all(IpAddr::is_loopback));
        assert!(!addresses.contains(&IpAddr::from(Ipv4Addr::LOCALHOST)));
    }
}

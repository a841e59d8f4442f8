//! One session: Challenge, Hello, Welcome; then heartbeats out and commands in, until it ends.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::Signer;
use muster_proto::v1::node_service_client::NodeServiceClient;
use muster_proto::v1::session_down::Message as Down;
use muster_proto::v1::session_up::Message as Up;
use muster_proto::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION, signing, v1};
use registry_core::Boot;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::agent::Agent;
use crate::dial::chain;
use crate::error::AgentError;
use crate::upload;

/// Messages to the hub that wait for the connection: heartbeats and replies, all small.
const OUTGOING_MESSAGES: usize = 64;

/// Each step of the handshake takes no longer; also how long the hub may leave our messages lying.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait for the hub to close a session that we leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Between heartbeats where the hub names no interval.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(5);

/// What a hub may ask for: not so often that it hurts, not so rarely that it means nothing.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(50);
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(60);

/// How a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// As we wanted.
    Left,
    /// The hub ended it and said why.
    Farewell { reason: v1::FarewellReason, retry_after: Duration },
    /// It broke, or the hub did not let it stand; worth another attempt.
    Broken(String),
    /// Another attempt makes no sense.
    Fatal(AgentError),
}

/// Attaches over this connection and stays until the session ends.
pub(crate) async fn run(agent: &Arc<Agent>, channel: Channel, leave: &CancellationToken) -> Ended {
    let client = NodeServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (up, up_rx) = mpsc::channel(OUTGOING_MESSAGES);
    let stands = tokio::select! {
        stands = handshake(agent, client.clone(), &up, up_rx) => stands,
        () = leave.cancelled() => return Ended::Left,
    };
    let (down, welcome) = match stands {
        Ok(stands) => stands,
        Err(ended) => return ended,
    };
    take(agent, &welcome).await;
    let limits = upload::Limits::of(&welcome);
    let upload = upload::run(Arc::clone(&agent.spool), client, welcome.upload_nonce.clone(), limits);
    let _upload = AbortOnDropHandle::new(tokio::spawn(upload));
    Session { agent, up, down }.attend(&welcome, leave).await
}

type Outgoing = mpsc::Sender<v1::SessionUp>;

async fn handshake(
    agent: &Arc<Agent>,
    mut client: NodeServiceClient<Channel>,
    up: &Outgoing,
    up_rx: mpsc::Receiver<v1::SessionUp>,
) -> Result<(Streaming<v1::SessionDown>, v1::Welcome), Ended> {
    let opened = step(client.session(ReceiverStream::new(up_rx))).await?;
    let mut down = opened.map_err(|status| refused(agent, &status))?.into_inner();
    let challenge = match receive(agent, &mut down).await? {
        Down::Challenge(challenge) => challenge,
        Down::Farewell(farewell) => return Err(said_farewell(&farewell)),
        _ => return Err(Ended::Broken("the hub did not begin with a challenge".to_owned())),
    };
    if challenge.hub_id != agent.identity.hub_id {
        tracing::warn!(
            expected = agent.identity.hub_id,
            found = challenge.hub_id,
            "this is not the hub that this node was enrolled at"
        );
    }
    send(up, Up::Hello(hello(agent, &challenge.nonce))).await.map_err(Ended::Broken)?;
    let welcome = match receive(agent, &mut down).await? {
        Down::Welcome(welcome) => welcome,
        Down::Farewell(farewell) => return Err(said_farewell(&farewell)),
        _ => return Err(Ended::Broken("the hub did not answer the hello with a welcome".to_owned())),
    };
    if welcome.boot == 0 || welcome.protocol_version == 0 || welcome.protocol_version > PROTOCOL_VERSION {
        return Err(Ended::Broken("the hub's welcome makes no sense".to_owned()));
    }
    Ok((down, welcome))
}

fn hello(agent: &Agent, nonce: &[u8]) -> v1::Hello {
    let (boot, last_epoch) = agent.claims();
    let node_id = agent.identity.node_id.clone();
    let signed = signing::hello(nonce, &node_id, last_epoch, boot.0, &agent.boot_id);
    v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        capabilities: agent.capabilities(),
        agent_version: concat!("muster/", env!("CARGO_PKG_VERSION")).to_owned(),
        node_id,
        signature: agent.key.sign(&signed).to_bytes().to_vec().into(),
        last_epoch,
        boot: boot.0,
        boot_id: agent.boot_id.to_vec().into(),
        facts: Some(agent.facts.clone()),
        labels: agent.labels.clone(),
        last_seq: agent.spool.last_seq(),
    }
}

/// Takes over what the Welcome grants, durably first.
async fn take(agent: &Arc<Agent>, welcome: &v1::Welcome) {
    agent.granted(Boot(welcome.boot), welcome.epoch).await;
    agent.spool.limit_output(usize::try_from(welcome.max_output_bytes).unwrap_or(usize::MAX));
    if agent.spool.adopt(Boot(welcome.boot)) {
        tracing::warn!(
            boot = welcome.boot,
            "the hub granted another boot: waiting frames were numbered anew"
        );
    }
    agent.attached();
    tracing::info!(epoch = welcome.epoch, boot = welcome.boot, node = %agent.identity.name, "attached");
}

struct Session<'a> {
    agent: &'a Arc<Agent>,
    up: Outgoing,
    down: Streaming<v1::SessionDown>,
}

impl Session<'_> {
    async fn attend(mut self, welcome: &v1::Welcome, leave: &CancellationToken) -> Ended {
        let mut heartbeats = interval(heartbeat_interval(welcome.heartbeat_interval_ms));
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sent = tokio::select! {
                () = leave.cancelled() => return self.leave().await,
                _ = heartbeats.tick() => {
                    send(&self.up, Up::Heartbeat(v1::Heartbeat { stats: Some(self.agent.stats()) })).await
                }
                received = self.down.message() => match received {
                    Ok(Some(v1::SessionDown { message: Some(Down::Farewell(farewell)) })) => {
                        return said_farewell(&farewell);
                    }
                    Ok(Some(message)) => match self.obey(message) {
                        Some(reply) => send(&self.up, Up::Reply(reply)).await,
                        None => Ok(()),
                    },
                    Ok(None) => return Ended::Broken("the hub closed the session".to_owned()),
                    Err(status) => return Ended::Broken(words(&status)),
                },
            };
            if let Err(why) = sent {
                return Ended::Broken(why);
            }
        }
    }

    /// Carries out a command. The answer, where one is wanted.
    fn obey(&self, message: v1::SessionDown) -> Option<v1::CommandReply> {
        let tasks = &self.agent.tasks;
        let (request_id, stdin_offset, result) = match message.message? {
            Down::Run(run) => {
                tasks.run(run);
                return None;
            }
            Down::Cancel(cancel) => {
                let result = tasks.cancel(&cancel.task_id, cancel.grace_ms, &cancel.reason);
                (cancel.request_id, 0, result)
            }
            Down::Stdin(write) => match tasks.write_stdin(&write) {
                Ok(taken) => (write.request_id, taken, Ok(())),
                Err((error, taken)) => (write.request_id, taken, Err(error)),
            },
            Down::Resize(resize) => {
                let result = tasks.resize(&resize.task_id, resize.size.unwrap_or_default());
                (resize.request_id, 0, result)
            }
            Down::Challenge(_) | Down::Welcome(_) | Down::Farewell(_) => {
                tracing::warn!("the hub sent a message that does not belong here; it was ignored");
                return None;
            }
        };
        if request_id == 0 {
            return None;
        }
        let (error_code, error_message) = match result {
            Ok(()) => (String::new(), String::new()),
            Err(error) => (error.code().to_owned(), error.to_string()),
        };
        Some(v1::CommandReply { request_id, error_code, error_message, stdin_offset })
    }

    /// Says goodbye and lets the hub close, so that it does not have to guess.
    async fn leave(mut self) -> Ended {
        let leaving = Up::Leaving(v1::Leaving { reason: "the agent was stopped".to_owned() });
        let closed = async {
            if send(&self.up, leaving).await.is_ok() {
                drop(self.up);
                while let Ok(Some(_)) = self.down.message().await {}
            }
        };
        let _ = timeout(LEAVE_TIMEOUT, closed).await;
        Ended::Left
    }
}

async fn send(up: &Outgoing, message: Up) -> Result<(), String> {
    let message = v1::SessionUp { message: Some(message) };
    up.send_timeout(message, STEP_TIMEOUT).await.map_err(|error| match error {
        mpsc::error::SendTimeoutError::Timeout(_) => "the hub takes no messages".to_owned(),
        mpsc::error::SendTimeoutError::Closed(_) => "the connection is gone".to_owned(),
    })
}

async fn receive(agent: &Agent, down: &mut Streaming<v1::SessionDown>) -> Result<Down, Ended> {
    match step(down.message()).await? {
        Ok(Some(v1::SessionDown { message: Some(message) })) => Ok(message),
        Ok(Some(_)) => Err(Ended::Broken("the hub sent a message that this agent does not know".to_owned())),
        Ok(None) => Err(Ended::Broken("the hub closed the session before it stood".to_owned())),
        Err(status) => Err(refused(agent, &status)),
    }
}

async fn step<T>(future: impl Future<Output = T>) -> Result<T, Ended> {
    timeout(STEP_TIMEOUT, future).await.map_err(|_| Ended::Broken("the hub does not answer".to_owned()))
}

fn said_farewell(farewell: &v1::Farewell) -> Ended {
    tracing::debug!(reason = farewell.reason().as_str_name(), detail = farewell.detail, "farewell");
    let retry_after = Duration::from_millis(farewell.retry_after_ms.into());
    Ended::Farewell { reason: farewell.reason(), retry_after }
}

/// What a status in the handshake means. A node that the hub has welcomed in this run keeps trying whatever the
/// hub says, because its tasks run and the fault may be the hub's; one that was never welcomed stops, because
/// somebody has to do something.
fn refused(agent: &Agent, status: &Status) -> Ended {
    let code = reason(status);
    let message = status.message().to_owned();
    let fatal = match code.as_str() {
        "unsupported_version" => AgentError::Incompatible(message),
        "unauthenticated" | "invalid_hello" | "implausible_epoch" | "implausible_boot" => {
            AgentError::Refused { code, message }
        }
        _ => return Ended::Broken(words(status)),
    };
    if agent.was_welcomed() { Ended::Broken(fatal.to_string()) } else { Ended::Fatal(fatal) }
}

/// The stable code of a status: the one it carries, or the nearest to its gRPC code.
pub(crate) fn reason(status: &Status) -> String {
    match (status.get_details_error_info(), status.code()) {
        (Some(info), _) if !info.reason.is_empty() => info.reason,
        (_, Code::Unauthenticated) => "unauthenticated".to_owned(),
        (_, Code::Unavailable) => "unavailable".to_owned(),
        (_, code) => format!("{code:?}").to_ascii_lowercase(),
    }
}

/// A status as one line for the log.
pub(crate) fn words(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => chain(cause),
        None => format!("{} ({})", status.message(), reason(status)),
    }
}

fn heartbeat_interval(asked_ms: u32) -> Duration {
    match asked_ms {
        0 => DEFAULT_HEARTBEAT,
        ms => Duration::from_millis(ms.into()).clamp(SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT),
    }
}

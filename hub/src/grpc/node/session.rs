//! One session of one node: challenge, hello, welcome, then heartbeats up and commands down.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use muster_proto::v1::session_down::Message as Down;
use muster_proto::v1::session_up::Message as Up;
use muster_proto::{PROTOCOL_VERSION, signing, v1};
use registry_core::node::MAX_EPOCH_LEAD;
use registry_core::{AttachError, Boot, Claim, CloseReason, SessionEpoch};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::super::convert;
use super::{Permit, Uploads, read, read_first, violation};
use crate::enrolment::{check_labels, is_signed};
use crate::error::{ErrorCode, HubError};
use crate::fleet::{Command, Event, Node, NodeDetail, NodeMeta, Session};
use crate::hub::Hub;
use crate::ingest::NodeLog;
use crate::tasks::CommandAnswer;

/// Commands that one node may be behind. An agent takes each at once; more than this means that it does not.
const OUTBOX_COMMANDS: usize = 1024;
/// What this hub can do beyond the version of the protocol.
const CAPABILITIES: [&str; 4] = ["exec", "pty", "stdin", "resized"];
/// Capabilities that one agent may name, and their length.
const MAX_CAPABILITIES: (usize, usize) = (32, 64);
/// Text about a machine that is kept, in bytes.
const MAX_FACT_BYTES: usize = 253;

pub(super) struct SessionStream {
    hub: Arc<Hub>,
    uploads: Arc<Uploads>,
    up: Streaming<v1::SessionUp>,
    /// For the log.
    peer: String,
    phase: Phase,
}

enum Phase {
    New,
    Challenged([u8; 32]),
    Attached(Attachment),
    Over,
}

/// A session that stands. Dropping it, for whatever reason, detaches it: that and nothing else ends a session.
struct Attachment {
    hub: Arc<Hub>,
    uploads: Arc<Uploads>,
    node: Arc<Node>,
    session: Arc<Session>,
    log: Arc<NodeLog>,
    upload_nonce: [u8; 16],
    ended: CancellationToken,
}

impl SessionStream {
    pub(super) fn new(
        hub: Arc<Hub>,
        uploads: Arc<Uploads>,
        up: Streaming<v1::SessionUp>,
        peer: Option<SocketAddr>,
    ) -> Self {
        let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
        Self { hub, uploads, up, peer, phase: Phase::New }
    }

    /// What goes down the stream. Everything that comes up is handled while this is polled: no task, no channel.
    pub(super) fn run(self) -> impl Stream<Item = Result<v1::SessionDown, Status>> + Send {
        unfold(self, |mut this| async move {
            let answer = match this.next().await {
                Ok(Some(message)) => Ok(v1::SessionDown { message: Some(message) }),
                Ok(None) => return None,
                Err(error) => {
                    this.phase = Phase::Over;
                    this.hub.metrics.session_refused(error.code().as_str());
                    tracing::warn!(
                        peer = this.peer,
                        code = error.code().as_str(),
                        "session refused: {error}"
                    );
                    super::super::answer(&this.hub, Err(error))
                }
            };
            Some((answer, this))
        })
    }

    async fn next(&mut self) -> Result<Option<Down>, HubError> {
        match &mut self.phase {
            Phase::New => {
                let nonce = random()?;
                self.phase = Phase::Challenged(nonce);
                Ok(Some(Down::Challenge(v1::Challenge {
                    nonce: nonce.to_vec().into(),
                    hub_id: self.hub.id.clone(),
                    hub_version: env!("CARGO_PKG_VERSION").to_owned(),
                })))
            }
            Phase::Challenged(nonce) => {
                let nonce = *nonce;
                let Some(message) = read_first(&self.hub, &mut self.up).await? else { return Ok(None) };
                let Some(Up::Hello(hello)) = message.message else {
                    return Err(violation("a session begins with a Hello"));
                };
                let (attachment, welcome) = self.attach(hello, nonce)?;
                self.phase = Phase::Attached(attachment);
                Ok(Some(Down::Welcome(welcome)))
            }
            Phase::Attached(attachment) => {
                let down = attachment.next(&mut self.up).await?;
                if !matches!(down, Some(Down::Run(_) | Down::Cancel(_) | Down::Stdin(_) | Down::Resize(_))) {
                    self.phase = Phase::Over;
                }
                Ok(down)
            }
            Phase::Over => Ok(None),
        }
    }

    /// Everything a hello must pass before the node counts as here. Nothing in it waits for a database.
    fn attach(&self, hello: v1::Hello, nonce: [u8; 32]) -> Result<(Attachment, v1::Welcome), HubError> {
        let hub = &self.hub;
        if hub.lifecycle.draining().is_cancelled() {
            return Err(HubError::plain(ErrorCode::Draining));
        }
        let node = authenticate(hub, &hello, &nonce)?;
        if hello.protocol_version == 0 {
            return Err(HubError::plain(ErrorCode::UnsupportedVersion));
        }
        let boot_id = <[u8; 16]>::try_from(&hello.boot_id[..])
            .map_err(|_| HubError::new(ErrorCode::InvalidHello, "boot_id has 16 bytes".to_owned()))?;
        let labels = hello.labels.into_iter().collect();
        check_labels(&labels)?;
        // Before the grant, which ends the run that was there: a refused hello must change nothing.
        if hello.last_epoch.saturating_sub(node.epoch().0) > MAX_EPOCH_LEAD {
            let (claimed, known) = (SessionEpoch(hello.last_epoch), node.epoch());
            return Err(attach_error(AttachError::ImplausibleEpoch { claimed, known }));
        }
        let boot = hub.ingest.grant_boot(&node, Boot(hello.boot), boot_id)?;
        let claim = Claim { last_epoch: SessionEpoch(hello.last_epoch), boot, boot_id };
        let attached = node.attach(claim, OUTBOX_COMMANDS).map_err(attach_error)?;

        let known = node.meta();
        let detail = NodeDetail {
            facts: hello.facts.map(convert::facts_from_proto).unwrap_or_default(),
            agent_version: convert::cut(hello.agent_version, MAX_FACT_BYTES),
            capabilities: hello
                .capabilities
                .into_iter()
                .take(MAX_CAPABILITIES.0)
                .map(|word| convert::cut(word, MAX_CAPABILITIES.1))
                .collect(),
            boot: boot.0,
            stats: known.detail.stats.clone(),
        };
        node.set_meta(Arc::new(NodeMeta { labels, detail, ..NodeMeta::clone(&known) }));
        let upload_nonce = random()?;
        let attachment = Attachment {
            hub: Arc::clone(hub),
            uploads: Arc::clone(&self.uploads),
            log: hub.ingest.node(&node),
            session: Arc::clone(&attached.session),
            upload_nonce,
            ended: CancellationToken::new(),
            node,
        };
        attachment.enter(attached.displaced.is_some(), attached.clone_suspected, &self.peer);
        // Draining may have gone through the sessions before this one was there.
        if hub.lifecycle.draining().is_cancelled() {
            attached.session.outbox().close(CloseReason::Draining);
        }
        let ms = |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        let welcome = v1::Welcome {
            protocol_version: hello.protocol_version.min(PROTOCOL_VERSION),
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            epoch: attached.session.epoch().0,
            boot: boot.0,
            upload_nonce: upload_nonce.to_vec().into(),
            heartbeat_interval_ms: ms(hub.config.heartbeat_interval),
            lease_ms: ms(hub.config.lease),
            max_message_bytes: u32::try_from(muster_proto::MAX_MESSAGE_BYTES).unwrap_or(u32::MAX),
            max_output_bytes: u32::try_from(muster_proto::MAX_OUTPUT_BYTES).unwrap_or(u32::MAX),
        };
        Ok((attachment, welcome))
    }
}

/// One answer for an unknown node, a deleted one and a wrong signature: whoever does not hold the key learns nothing.
fn authenticate(hub: &Hub, hello: &v1::Hello, nonce: &[u8]) -> Result<Arc<Node>, HubError> {
    let refused = || {
        HubError::new(
            ErrorCode::Unauthenticated,
            "the node is not known here or the signature is not by its key: enrol it anew if it was deleted"
                .to_owned(),
        )
    };
    let node = hub.registry.get(&hello.node_id).ok_or_else(refused)?;
    let message = signing::hello(nonce, &hello.node_id, hello.last_epoch, hello.boot, &hello.boot_id);
    if is_signed(&node.meta().public_key, &message, &hello.signature) { Ok(node) } else { Err(refused()) }
}

impl Attachment {
    /// Makes a new session known to everyone.
    fn enter(&self, displaced: bool, clone_suspected: bool, peer: &str) {
        let hub = &self.hub;
        let permit = Permit {
            log: Arc::clone(&self.log),
            boot: self.session.boot(),
            holder: Arc::clone(&self.session),
            session: self.ended.clone(),
            stream: self.ended.child_token(),
        };
        self.uploads.lock().insert(self.upload_nonce, permit);
        hub.metrics.sessions_attached_total.inc();
        let (node, epoch, boot) = (self.node.id(), self.session.epoch().0, self.session.boot().0);
        let name = &self.node.meta().name;
        tracing::info!(%node, name, epoch, boot, peer, "node attached");
        if displaced {
            hub.metrics.sessions_superseded_total.inc();
            tracing::warn!(%node, name, epoch, peer, "session superseded: a newer session of this node was attached");
        }
        if clone_suspected {
            hub.metrics.clones_suspected_total.inc();
            tracing::warn!(
                %node,
                name,
                "cloned identity suspected: two live agents keep taking this node's session from each other; \
                 stop one, or delete its state folder and enrol it as a node of its own"
            );
        }
        hub.registry.mark_dirty(&self.node);
        hub.mesh.announce(&self.node);
        hub.tasks.on_attach(&self.node, &self.session);
    }

    /// Waits for the next message to send; handles what comes up meanwhile. `None` ends the stream.
    async fn next(&mut self, up: &mut Streaming<v1::SessionUp>) -> Result<Option<Down>, HubError> {
        loop {
            tokio::select! {
                biased;
                command = self.session.outbox().next() => {
                    return Ok(Some(match command {
                        Some(command) => command_to_proto(command),
                        None => self.farewell(),
                    }));
                }
                message = read(&self.hub, up) => match message? {
                    Some(v1::SessionUp { message: Some(message) }) => {
                        if !self.handle(message)? {
                            return Ok(None);
                        }
                    }
                    // A kind of message that this build does not know.
                    Some(v1::SessionUp { message: None }) => {}
                    None => return Ok(None),
                },
            }
        }
    }

    /// False when the agent takes its leave.
    fn handle(&self, message: Up) -> Result<bool, HubError> {
        match message {
            Up::Hello(_) => return Err(violation("a session has one Hello")),
            Up::Leaving(_) => return Ok(false),
            Up::Heartbeat(heartbeat) => self.heartbeat(&heartbeat.stats.unwrap_or_default()),
            Up::Reply(reply) => {
                let answer = CommandAnswer {
                    error_code: reply.error_code,
                    error_message: reply.error_message,
                    stdin_offset: reply.stdin_offset,
                };
                self.hub.tasks.answer(self.node.id(), reply.request_id, answer);
            }
        }
        Ok(true)
    }

    fn heartbeat(&self, stats: &v1::Stats) {
        let stats = Arc::new(convert::stats_from_proto(stats));
        // A superseded session's outbox is closed, so that its stream ends by itself.
        if self.node.heartbeat(self.session.epoch(), Arc::clone(&stats)).is_err() {
            return;
        }
        self.hub.metrics.heartbeats_total.inc();
        self.hub.registry.mark_dirty(&self.node);
        self.hub.registry.publish(&self.node, |_| Event::Stats(Arc::clone(&stats)).into());
        if let Some(stalled) = self.hub.ingest.observe_spool(&self.log, &stats) {
            self.hub.mesh.announce(&self.node);
            if stalled {
                tracing::warn!(node = %self.node.id(), "output stalled: its upload is reset");
                let upload = self.uploads.lock().get(&self.upload_nonce).map(|permit| permit.stream.clone());
                if let Some(upload) = upload {
                    upload.cancel();
                }
            }
        }
    }

    fn farewell(&self) -> Down {
        let (reason, detail, retry_after_ms) = match self.session.outbox().closed() {
            Some(CloseReason::Superseded) => {
                (v1::FarewellReason::Superseded, "a newer session of this node was attached", 5_000)
            }
            Some(CloseReason::Draining) => (v1::FarewellReason::Draining, "the hub shuts down", 200),
            Some(CloseReason::Revoked) => (v1::FarewellReason::Revoked, "the node was deleted", 60_000),
            Some(CloseReason::LeaseExpired) => {
                (v1::FarewellReason::LeaseExpired, "no heartbeat came within the lease", 0)
            }
            Some(CloseReason::Overloaded) => {
                (v1::FarewellReason::Overloaded, "commands were not taken fast enough", 1_000)
            }
            _ => (v1::FarewellReason::Unspecified, "", 0),
        };
        Down::Farewell(v1::Farewell { reason: reason.into(), detail: detail.to_owned(), retry_after_ms })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.ended.cancel();
        let permit = self.uploads.lock().remove(&self.upload_nonce);
        drop(permit);
        let epoch = self.session.epoch();
        // Only the attached session can take its node offline: a superseded one finds its place taken.
        if self.node.detach(epoch) {
            tracing::info!(node = %self.node.id(), epoch = epoch.0, "node detached");
            self.hub.registry.mark_dirty(&self.node);
            self.hub.mesh.announce(&self.node);
        }
    }
}

fn command_to_proto(command: Command) -> Down {
    let size = |rows: u16, cols: u16| v1::TerminalSize { rows: rows.into(), cols: cols.into() };
    match command {
        Command::Run { task, spec } => Down::Run(v1::RunTask {
            task_id: convert::task_id_to_proto(&task),
            argv: spec.argv.clone(),
            env: spec.env.clone().into_iter().collect(),
            cwd: spec.cwd.clone(),
            pty: spec.pty.map(|(rows, cols)| size(rows, cols)),
            stdin: spec.stdin,
            timeout_ms: spec.timeout_ms,
        }),
        Command::Cancel { request, task, grace_ms, reason } => Down::Cancel(v1::CancelTask {
            request_id: request,
            task_id: convert::task_id_to_proto(&task),
            grace_ms,
            reason,
        }),
        Command::Stdin { request, task, offset, data, eof } => Down::Stdin(v1::WriteStdin {
            request_id: request,
            task_id: convert::task_id_to_proto(&task),
            offset,
            data,
            eof,
        }),
        Command::Resize { request, task, rows, cols } => Down::Resize(v1::ResizeTask {
            request_id: request,
            task_id: convert::task_id_to_proto(&task),
            size: Some(size(rows, cols)),
        }),
    }
}

fn attach_error(error: AttachError) -> HubError {
    match error {
        AttachError::ImplausibleEpoch { .. } => HubError::new(ErrorCode::ImplausibleEpoch, error.to_string()),
        _ => HubError::new(ErrorCode::Unauthenticated, error.to_string()),
    }
}

fn random<const N: usize>() -> Result<[u8; N], HubError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| HubError::fault(std::io::Error::other(error.to_string())))?;
    Ok(bytes)
}

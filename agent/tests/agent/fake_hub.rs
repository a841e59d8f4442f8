//! A scripted hub: as strict as the contract, as obedient as the test wants.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{Signature, VerifyingKey};
use futures_util::Stream;
use muster_proto::v1::enrolment_service_server::{EnrolmentService, EnrolmentServiceServer};
use muster_proto::v1::node_service_server::{NodeService, NodeServiceServer};
use muster_proto::{signing, v1};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};
use v1::session_down::Message as Down;
use v1::session_up::Message as Up;

use crate::support::eventually;

pub const TOKEN: &str = "a-join-token";
pub const HUB_ID: &str = "the-hub";
const UPLOAD_NONCE: &[u8] = b"0123456789abcdef";

/// A hub that can be killed and started again on the same port with what it had on disk.
pub struct FakeHub {
    pub addr: SocketAddr,
    pub state: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
}

/// Everything the hub knows, and everything a test can turn.
#[derive(Default)]
pub struct State {
    pub keys: HashMap<String, [u8; 32]>,
    pub enrolments: Vec<v1::EnrolRequest>,
    pub hellos: Vec<v1::Hello>,
    pub heartbeats: Vec<v1::Stats>,
    pub replies: Vec<v1::CommandReply>,
    pub leavings: usize,
    /// The terminal log: frames of each boot.
    pub log: BTreeMap<u64, Vec<v1::Frame>>,
    pub uploads: usize,
    pub rewinds: usize,
    /// Anything that the contract does not allow.
    pub violations: Vec<String>,
    pub epoch: u64,
    /// Do not ack: the store is dead.
    pub hold_acks: bool,
    /// Do not even read frames.
    pub stall_uploads: bool,
    /// Grant this boot instead of the proposed one.
    pub grant_boot: Option<u64>,
    /// Refuse hellos with this reason.
    pub refuse: Option<&'static str>,
    /// Refuse enrolments with this code.
    pub refuse_enrolment: Option<&'static str>,
    pub max_output_bytes: u32,
    /// Be a hub that does not know of frames of resizes.
    pub older: bool,
    session: Option<mpsc::UnboundedSender<Result<v1::SessionDown, Status>>>,
    upload: Option<mpsc::UnboundedSender<Result<v1::UploadDown, Status>>>,
    /// Frames before this one are in flight from before a rewind.
    rewinding_to: Option<u64>,
}

impl FakeHub {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), Arc::default()).await
    }

    async fn start_at(addr: SocketAddr, state: Arc<Mutex<State>>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = Service(Arc::clone(&state));
        let (bound, when_bound) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            tonic::transport::Server::builder()
                .add_service(NodeServiceServer::new(service.clone()).max_decoding_message_size(1024 * 1024))
                .add_service(EnrolmentServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self { addr: when_bound.await.unwrap(), state, runtime: Some(runtime) }
    }

    /// As `kill -9`: connections break in the middle of whatever they carry.
    pub fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
        let mut state = self.state.lock();
        state.session = None;
        state.upload = None;
    }

    pub async fn restart(&mut self) {
        *self = Self::start_at(self.addr, Arc::clone(&self.state)).await;
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Sends a command over the session that stands.
    pub async fn send(&self, message: Down) {
        eventually("a session", || self.state.lock().session.is_some()).await;
        let down = v1::SessionDown { message: Some(message) };
        let _ = self.state.lock().session.as_ref().unwrap().send(Ok(down));
    }

    /// Sends a command with a request id and waits for its reply.
    pub async fn ask(&self, request_id: u64, message: Down) -> v1::CommandReply {
        self.send(message).await;
        let find = || self.state.lock().replies.iter().find(|reply| reply.request_id == request_id).cloned();
        eventually("a reply", || find().is_some()).await;
        find().unwrap()
    }

    pub async fn run(&self, run: v1::RunTask) {
        self.send(Down::Run(run)).await;
    }

    /// Runs a task and waits for its end.
    pub async fn complete(&self, run: v1::RunTask) -> v1::TaskEnded {
        let id = run.task_id.clone();
        self.run(run).await;
        self.end_of(&id).await
    }

    pub async fn end_of(&self, task: &[u8]) -> v1::TaskEnded {
        eventually("the end of a task", || self.ends_of(task).len() == 1).await;
        self.ends_of(task).remove(0)
    }

    pub fn ends_of(&self, task: &[u8]) -> Vec<v1::TaskEnded> {
        let frames = self.frames_of(task);
        frames
            .into_iter()
            .filter_map(|frame| match frame.kind {
                Some(v1::frame::Kind::Ended(ended)) => Some(ended),
                _ => None,
            })
            .collect()
    }

    pub fn frames_of(&self, task: &[u8]) -> Vec<v1::Frame> {
        self.state.lock().log.values().flatten().filter(|frame| frame.task_id == task).cloned().collect()
    }

    pub fn output_of(&self, task: &[u8], from: v1::Stream) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in self.frames_of(task) {
            if let Some(v1::frame::Kind::Output(output)) = frame.kind
                && output.stream() == from
            {
                bytes.extend_from_slice(&output.data);
            }
        }
        bytes
    }

    pub fn text_of(&self, task: &[u8], from: v1::Stream) -> String {
        String::from_utf8_lossy(&self.output_of(task, from)).into_owned()
    }

    /// Acks everything that the log has, for a hub that held its acks.
    pub fn ack_all(&self) {
        let mut state = self.state.lock();
        state.hold_acks = false;
        let Some((boot, frames)) = state.log.last_key_value() else { return };
        let ack = ack(*boot, next_of(frames) - 1);
        if let Some(upload) = &state.upload {
            let _ = upload.send(Ok(ack));
        }
    }

    /// Forgets all frames from `next` on and asks for them again.
    pub fn rewind(&self, next: u64) {
        let mut state = self.state.lock();
        let (boot, frames) = state.log.last_key_value().map(|(b, f)| (*b, f.clone())).unwrap();
        let kept: Vec<_> = frames.into_iter().filter(|frame| frame.seq < next).collect();
        state.log.insert(boot, kept);
        state.rewinding_to = Some(next);
        state.rewinds += 1;
        let rewind = v1::Rewind { next: Some(v1::Cursor { boot, seq: next }) };
        let message = v1::UploadDown { message: Some(v1::upload_down::Message::Rewind(rewind)) };
        state.upload.as_ref().unwrap().send(Ok(message)).unwrap();
    }

    /// Breaks the upload and leaves the session alone.
    pub fn cut_upload(&self) {
        let upload = self.state.lock().upload.take();
        if let Some(upload) = upload {
            let _ = upload.send(Err(Status::unavailable("the test cut the upload")));
        }
    }

    /// Breaks the session, and with it its upload.
    pub fn cut_session(&self) {
        self.cut_upload();
        let session = self.state.lock().session.take();
        if let Some(session) = session {
            let _ = session.send(Err(Status::unavailable("the test cut the session")));
        }
    }

    /// Every number once and in order, in each boot, and nothing that the contract does not allow.
    pub fn assert_sound(&self) {
        let state = self.state.lock();
        assert_eq!(state.violations, Vec::<String>::new());
        for (boot, frames) in &state.log {
            let mut next = 1;
            for frame in frames {
                assert_eq!(frame.seq, next, "boot {boot}");
                next = last_of(frame) + 1;
            }
        }
    }

    pub fn all_frames(&self) -> Vec<v1::Frame> {
        self.state.lock().log.values().flatten().cloned().collect()
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl EnrolmentService for Service {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock();
        if let Some(code) = state.refuse_enrolment {
            return Err(status(tonic::Code::PermissionDenied, code));
        }
        let key: [u8; 32] = request.public_key[..].try_into().unwrap();
        verify(&key, &signing::enrol(&request.join_token, &key), &request.signature);
        assert_eq!(request.join_token, TOKEN);
        let node_id = format!("node-{}", state.keys.len() + 1);
        let name = request.name.clone();
        state.keys.insert(node_id.clone(), key);
        state.enrolments.push(request);
        Ok(Response::new(v1::EnrolResponse { node_id, user_id: "user".into(), name, hub_id: HUB_ID.into() }))
    }
}

#[tonic::async_trait]
impl NodeService for Service {
    type SessionStream = Replies<v1::SessionDown>;
    type UploadStream = Replies<v1::UploadDown>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionUp>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (down, down_rx) = mpsc::unbounded_channel();
        let state = Arc::clone(&self.0);
        tokio::spawn(async move {
            if let Err(status) = attend(&state, request.into_inner(), &down).await {
                let _ = down.send(Err(status));
            }
            let mut state = state.lock();
            if state.session.as_ref().is_some_and(|current| current.same_channel(&down)) {
                state.session = None;
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(down_rx))))
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadUp>>,
    ) -> Result<Response<Self::UploadStream>, Status> {
        let (down, down_rx) = mpsc::unbounded_channel();
        let state = Arc::clone(&self.0);
        tokio::spawn(async move { take_frames(&state, request.into_inner(), down).await });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(down_rx))))
    }
}

async fn attend(
    state: &Mutex<State>,
    mut up: Streaming<v1::SessionUp>,
    down: &mpsc::UnboundedSender<Result<v1::SessionDown, Status>>,
) -> Result<(), Status> {
    let nonce = [7_u8; 32];
    let challenge =
        v1::Challenge { nonce: nonce.to_vec().into(), hub_id: HUB_ID.into(), hub_version: "0".into() };
    let _ = down.send(Ok(v1::SessionDown { message: Some(Down::Challenge(challenge)) }));
    let Some(v1::SessionUp { message: Some(Up::Hello(hello)) }) = up.message().await? else {
        return Err(status(tonic::Code::InvalidArgument, "invalid_hello"));
    };
    {
        let mut state = state.lock();
        if let Some(reason) = state.refuse {
            return Err(status(tonic::Code::Unauthenticated, reason));
        }
        let signed = signing::hello(&nonce, &hello.node_id, hello.last_epoch, hello.boot, &hello.boot_id);
        verify(&state.keys[&hello.node_id], &signed, &hello.signature);
        if hello.last_epoch > state.epoch {
            state.violations.push(format!("claims epoch {}", hello.last_epoch));
        }
        state.epoch += 1;
        let boot = state.grant_boot.take().unwrap_or(hello.boot);
        let welcome = v1::Welcome {
            protocol_version: 1,
            capabilities: if state.older { Vec::new() } else { vec!["resized".to_owned()] },
            epoch: state.epoch,
            boot,
            upload_nonce: UPLOAD_NONCE.into(),
            heartbeat_interval_ms: 100,
            lease_ms: 15_000,
            max_message_bytes: 1024 * 1024,
            max_output_bytes: state.max_output_bytes,
        };
        state.log.entry(boot).or_default();
        state.hellos.push(hello);
        let _ = down.send(Ok(v1::SessionDown { message: Some(Down::Welcome(welcome)) }));
        state.session = Some(down.clone());
    }
    while let Some(message) = up.message().await? {
        let mut state = state.lock();
        match message.message {
            Some(Up::Heartbeat(heartbeat)) => state.heartbeats.push(heartbeat.stats.unwrap()),
            Some(Up::Reply(reply)) => state.replies.push(reply),
            Some(Up::Leaving(_)) => {
                state.leavings += 1;
                return Ok(());
            }
            other => state.violations.push(format!("unexpected {other:?}")),
        }
    }
    Ok(())
}

async fn take_frames(
    state: &Mutex<State>,
    mut up: Streaming<v1::UploadUp>,
    down: mpsc::UnboundedSender<Result<v1::UploadDown, Status>>,
) {
    let Ok(Some(v1::UploadUp { message: Some(v1::upload_up::Message::Hello(hello)) })) = up.message().await
    else {
        return;
    };
    {
        let mut state = state.lock();
        if hello.upload_nonce != UPLOAD_NONCE {
            state.violations.push("wrong upload nonce".into());
        }
        state.uploads += 1;
        state.rewinding_to = None;
        let (boot, frames) = state.log.last_key_value().unwrap();
        let next = Some(v1::Cursor { boot: *boot, seq: next_of(frames) });
        let start = v1::upload_down::Message::Start(v1::UploadStart { next });
        let _ = down.send(Ok(v1::UploadDown { message: Some(start) }));
        if next_of(frames) > 1 && !state.hold_acks {
            let _ = down.send(Ok(ack(*boot, next_of(frames) - 1)));
        }
        state.upload = Some(down.clone());
    }
    loop {
        while state.lock().stall_uploads {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let Ok(Some(message)) = up.message().await else { return };
        let Some(v1::upload_up::Message::Frames(batch)) = message.message else { return };
        let mut state = state.lock();
        if !state.upload.as_ref().is_some_and(|current| current.same_channel(&down)) {
            return;
        }
        state.take(batch);
        if !state.hold_acks
            && let Some((boot, frames)) = state.log.last_key_value()
            && !frames.is_empty()
        {
            let _ = down.send(Ok(ack(*boot, next_of(frames) - 1)));
        }
    }
}

impl State {
    fn take(&mut self, batch: v1::FrameBatch) {
        let (boot, _) = self.log.last_key_value().unwrap();
        if *boot != batch.boot {
            self.violations.push(format!("a batch of boot {}", batch.boot));
            return;
        }
        for frame in batch.frames {
            let frames = self.log.get_mut(&batch.boot).unwrap();
            let next = next_of(frames);
            if let Some(target) = self.rewinding_to {
                if frame.seq != target {
                    continue;
                }
                self.rewinding_to = None;
            }
            if frame.seq != next {
                self.violations.push(format!("frame {} where {next} follows", frame.seq));
                return;
            }
            frames.push(frame);
        }
    }
}

pub fn last_of(frame: &v1::Frame) -> u64 {
    match &frame.kind {
        Some(v1::frame::Kind::Gap(gap)) => gap.last_seq,
        _ => frame.seq,
    }
}

fn next_of(frames: &[v1::Frame]) -> u64 {
    frames.last().map_or(1, |frame| last_of(frame) + 1)
}

fn ack(boot: u64, seq: u64) -> v1::UploadDown {
    let ack = v1::Ack { through: Some(v1::Cursor { boot, seq }) };
    v1::UploadDown { message: Some(v1::upload_down::Message::Ack(ack)) }
}

fn verify(key: &[u8; 32], message: &[u8], signature: &[u8]) {
    let key = VerifyingKey::from_bytes(key).unwrap();
    let signature = Signature::from_slice(signature).unwrap();
    key.verify_strict(message, &signature).unwrap();
}

fn status(code: tonic::Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "muster", HashMap::<String, String>::new());
    Status::with_error_details(code, format!("the test says {reason}"), details)
}

//! A hub for tests: serves one terminal log and one task over real gRPC, and breaks off where it is told to.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt as _};
use muster_proto::v1::control_service_server::{ControlService, ControlServiceServer};
use muster_proto::v1::{self as pb, frame::Kind, read_terminal_response::Message};
use tokio::sync::{Notify, oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::client::Hub;

/// The boot of all frames.
pub(crate) const BOOT: u64 = 7;
/// The one task.
pub(crate) const TASK: &str = "01939c5e-7a3b-7c4d-8e5f-0123456789ab";

/// What happens to a call of ReadTerminal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// Ends the stream after this many frames without a word.
    Silently(usize),
    /// Ends the stream after this many frames with a status, as a proxy would.
    Unavailable(usize),
    /// Fails at once as if nobody were there.
    Down,
    /// Refuses with a code of ours.
    Refuse,
    /// Sends this many frames again that came before.
    Resend(usize),
}

#[derive(Default)]
struct State {
    frames: Vec<pb::Frame>,
    cuts: VecDeque<Cut>,
    reads: Vec<pb::ReadTerminalRequest>,
    task: pb::TaskView,
    created: Vec<pb::CreateTaskRequest>,
    cancelled: usize,
    stdin: Vec<u8>,
    stdin_closed: bool,
    refuse_stdin: usize,
    fail_creates: usize,
}

/// Handles share one hub.
#[derive(Clone)]
pub(crate) struct FakeHub {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

/// A server of a [`FakeHub`], on a runtime of its own: dropping that breaks every connection, as a kill would.
pub(crate) struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Breaks every connection; the port is free again afterwards.
    pub(crate) fn stop(mut self) -> SocketAddr {
        self.end();
        self.address
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl FakeHub {
    pub(crate) fn new(frames: Vec<pb::Frame>) -> Self {
        let task = pb::TaskView {
            task_id: TASK.to_owned(),
            node_id: "n-1".to_owned(),
            state: pb::TaskState::Running.into(),
            ..pb::TaskView::default()
        };
        let state = State { frames, task, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(Notify::new()) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let result = act(&mut self.state.lock().unwrap());
        self.changed.notify_waiters();
        result
    }

    fn see<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap())
    }

    pub(crate) fn cut_next(&self, cuts: impl IntoIterator<Item = Cut>) {
        self.with(|state| state.cuts = cuts.into_iter().collect());
    }

    pub(crate) fn append(&self, frame: pb::Frame) {
        self.with(|state| state.frames.push(frame));
    }

    pub(crate) fn set_task(&self, change: impl FnOnce(&mut pb::TaskView)) {
        self.with(|state| change(&mut state.task));
    }

    /// The next creations of a task succeed, and their answers are lost.
    pub(crate) fn lose_answers(&self, creates: usize) {
        self.with(|state| state.fail_creates = creates);
    }

    /// The next writes to stdin are refused because the buffer is full.
    pub(crate) fn refuse_stdin(&self, writes: usize) {
        self.with(|state| state.refuse_stdin = writes);
    }

    pub(crate) fn reads(&self) -> Vec<pb::ReadTerminalRequest> {
        self.see(|state| state.reads.clone())
    }

    pub(crate) fn created(&self) -> Vec<pb::CreateTaskRequest> {
        self.see(|state| state.created.clone())
    }

    pub(crate) fn cancelled(&self) -> usize {
        self.see(|state| state.cancelled)
    }

    pub(crate) fn stdin(&self) -> (Vec<u8>, bool) {
        self.see(|state| (state.stdin.clone(), state.stdin_closed))
    }

    /// Serves on a free port until the server is dropped.
    pub(crate) fn serve(&self) -> (Hub, Server) {
        self.serve_on("127.0.0.1:0".parse().unwrap())
    }

    /// Serves on this address.
    pub(crate) fn serve_on(&self, address: SocketAddr) -> (Hub, Server) {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = oneshot::channel::<()>();
        let service = ControlServiceServer::new(self.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
                let serving =
                    tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
                tokio::select! {
                    _ = stopping => {}
                    result = serving => result.unwrap(),
                }
            });
        });
        let hub = Hub::at(&format!("http://{address}"), "secret").unwrap();
        (hub, Server { address, stop: Some(stop), thread: Some(thread) })
    }
}

/// A frame of output.
pub(crate) fn output(seq: u64, text: &str) -> pb::Frame {
    stream_output(seq, pb::Stream::Stdout, text.as_bytes())
}

/// A frame of output of this stream.
pub(crate) fn stream_output(seq: u64, stream: pb::Stream, data: &[u8]) -> pb::Frame {
    let data = bytes::Bytes::copy_from_slice(data);
    frame(seq, Kind::Output(pb::Output { stream: stream.into(), data }))
}

/// A gap frame.
pub(crate) fn gap(seq: u64, last_seq: u64) -> pb::Frame {
    frame(seq, Kind::Gap(pb::Gap { last_seq, reason: pb::GapReason::Retention.into() }))
}

/// The frame with which the task starts.
pub(crate) fn started(seq: u64) -> pb::Frame {
    frame(seq, Kind::Started(pb::TaskStarted { pid: 1, pty: false }))
}

/// The frame with which the task ends.
pub(crate) fn ended(seq: u64, ended: pb::TaskEnded) -> pb::Frame {
    frame(seq, Kind::Ended(ended))
}

fn frame(seq: u64, kind: Kind) -> pb::Frame {
    let task_id = uuid::Uuid::parse_str(TASK).unwrap().into_bytes().to_vec().into();
    pb::Frame { seq, at_unix_ms: 1_763_880_000_000 + seq, task_id, kind: Some(kind) }
}

fn refusal(code: Code, reason: &str, message: &str) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, "muster", []))
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The position of a stream and what it was told to do.
struct Reader {
    hub: FakeHub,
    request: pb::ReadTerminalRequest,
    sent: usize,
    next: usize,
    bytes: u64,
    cut: Option<Cut>,
    started: bool,
    caught_up: bool,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<Message, Status>> {
        loop {
            let changed = self.hub.changed.clone();
            let notified = changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.ended {
                return None;
            }
            if !std::mem::replace(&mut self.started, true) {
                return Some(Ok(Message::Start(pb::ReadStart {
                    recovered: true,
                    since: self.request.since,
                })));
            }
            match self.cut {
                Some(Cut::Silently(after)) if self.sent >= after => return None,
                Some(Cut::Unavailable(after)) if self.sent >= after => {
                    return Some(Err(Status::unavailable("cut")));
                }
                _ => {}
            }
            let limited = self.request.max_bytes > 0 && self.bytes >= self.request.max_bytes;
            let frame = self.hub.see(|state| state.frames.get(self.next).cloned()).filter(|_| !limited);
            if let Some(frame) = frame {
                self.next += 1;
                self.sent += 1;
                if let Some(Kind::Output(output)) = &frame.kind {
                    self.bytes += output.data.len() as u64;
                }
                let over = matches!(frame.kind, Some(Kind::Ended(_))) && !self.request.task_id.is_empty();
                self.request.follow &= !over;
                return Some(Ok(Message::Frames(pb::FramesSeen { boot: BOOT, frames: vec![frame] })));
            }
            if self.request.follow && !limited {
                if !std::mem::replace(&mut self.caught_up, true) {
                    return Some(Ok(Message::CaughtUp(pb::CaughtUp {})));
                }
                notified.await;
                continue;
            }
            self.ended = true;
            let seq = self.hub.see(|state| self.next.checked_sub(1).map_or(0, |last| state.frames[last].seq));
            let end = pb::ReadEnd { next: Some(pb::Cursor { boot: BOOT, seq }), truncated: limited };
            return Some(Ok(Message::End(end)));
        }
    }
}

#[tonic::async_trait]
impl ControlService for FakeHub {
    type ReadTerminalStream = Responses<pb::ReadTerminalResponse>;
    type WatchEventsStream = Responses<pb::WatchEventsResponse>;

    async fn read_terminal(
        &self,
        request: Request<pb::ReadTerminalRequest>,
    ) -> Result<Response<Self::ReadTerminalStream>, Status> {
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer secret");
        let request = request.into_inner();
        let cut = self.with(|state| {
            state.reads.push(request.clone());
            state.cuts.pop_front()
        });
        match cut {
            Some(Cut::Down) => return Err(Status::unavailable("down")),
            Some(Cut::Refuse) => {
                return Err(refusal(Code::NotFound, "unknown_node", "there is no such node"));
            }
            _ => {}
        }
        let after = request.since.map_or(0, |since| since.seq);
        let first_new = |state: &State| state.frames.iter().take_while(|frame| frame.seq <= after).count();
        let mut next = self.see(first_new);
        if let Some(Cut::Resend(frames)) = cut {
            next = next.saturating_sub(frames);
        }
        let reader = Reader {
            hub: self.clone(),
            request,
            sent: 0,
            next,
            bytes: 0,
            cut,
            started: false,
            caught_up: false,
            ended: false,
        };
        let responses = futures_util::stream::unfold(reader, |mut reader| async move {
            let message = reader.next().await?;
            Some((message, reader))
        });
        let responses = responses
            .map(|message| message.map(|message| pb::ReadTerminalResponse { message: Some(message) }));
        Ok(Response::new(Box::pin(responses)))
    }

    async fn create_task(
        &self,
        request: Request<pb::CreateTaskRequest>,
    ) -> Result<Response<pb::TaskView>, Status> {
        let request = request.into_inner();
        self.with(|state| {
            state.task.spec = request.spec.clone();
            state.created.push(request);
            if state.fail_creates > 0 {
                state.fail_creates -= 1;
                return Err(Status::unknown("the answer was lost"));
            }
            Ok(Response::new(state.task.clone()))
        })
    }

    async fn get_task(&self, request: Request<pb::GetTaskRequest>) -> Result<Response<pb::TaskView>, Status> {
        let wait = std::time::Duration::from_millis(request.into_inner().wait_ms);
        let over = async {
            loop {
                let notified = self.changed.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                let state = self.state.lock().unwrap().task.state();
                if state == pb::TaskState::Ended {
                    return;
                }
                notified.await;
            }
        };
        let _ = tokio::time::timeout(wait, over).await;
        Ok(Response::new(self.state.lock().unwrap().task.clone()))
    }

    async fn cancel_task(&self, _: Request<pb::CancelTaskRequest>) -> Result<Response<pb::TaskView>, Status> {
        Ok(Response::new(self.with(|state| {
            state.cancelled += 1;
            state.task.clone()
        })))
    }

    async fn write_task_stdin(
        &self,
        request: Request<pb::WriteTaskStdinRequest>,
    ) -> Result<Response<pb::WriteTaskStdinResponse>, Status> {
        let request = request.into_inner();
        self.with(|state| {
            if state.refuse_stdin > 0 && !request.data.is_empty() {
                state.refuse_stdin -= 1;
                return Err(refusal(
                    Code::ResourceExhausted,
                    "stdin_full",
                    "the task does not read its input",
                ));
            }
            let taken = state.stdin.len() as u64;
            if request.offset > taken {
                return Err(refusal(Code::FailedPrecondition, "stdin_gap", "bytes are missing"));
            }
            let known = usize::try_from(taken - request.offset).unwrap().min(request.data.len());
            state.stdin.extend_from_slice(&request.data[known..]);
            state.stdin_closed |= request.eof;
            Ok(Response::new(pb::WriteTaskStdinResponse { offset: state.stdin.len() as u64 }))
        })
    }

    async fn list_nodes(
        &self,
        _: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        Err(Status::unimplemented("not part of this fake"))
    }

    async fn get_node(&self, request: Request<pb::GetNodeRequest>) -> Result<Response<pb::NodeView>, Status> {
        Ok(Response::new(pb::NodeView { name: request.into_inner().node, ..pb::NodeView::default() }))
    }

    async fn delete_node(
        &self,
        _: Request<pb::DeleteNodeRequest>,
    ) -> Result<Response<pb::DeleteNodeResponse>, Status> {
        Err(Status::unimplemented("not part of this fake"))
    }

    async fn watch_events(
        &self,
        _: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        Err(Status::unimplemented("not part of this fake"))
    }

    async fn list_tasks(
        &self,
        _: Request<pb::ListTasksRequest>,
    ) -> Result<Response<pb::ListTasksResponse>, Status> {
        let tasks = vec![self.see(|state| state.task.clone())];
        Ok(Response::new(pb::ListTasksResponse { tasks, next_page_token: String::new() }))
    }

    async fn resize_task(
        &self,
        _: Request<pb::ResizeTaskRequest>,
    ) -> Result<Response<pb::ResizeTaskResponse>, Status> {
        Ok(Response::new(pb::ResizeTaskResponse {}))
    }

    async fn view_screen(
        &self,
        _: Request<pb::ViewScreenRequest>,
    ) -> Result<Response<pb::ViewScreenResponse>, Status> {
        Err(Status::unimplemented("not part of this fake"))
    }

    async fn view_commands(
        &self,
        _: Request<pb::ViewCommandsRequest>,
    ) -> Result<Response<pb::ViewCommandsResponse>, Status> {
        Err(Status::unimplemented("not part of this fake"))
    }

    async fn search_terminal(
        &self,
        _: Request<pb::SearchTerminalRequest>,
    ) -> Result<Response<pb::SearchTerminalResponse>, Status> {
        Err(Status::unimplemented("not part of this fake"))
    }

    async fn create_token(
        &self,
        _: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        Err(Status::unimplemented("not part of this fake"))
    }

    async fn list_tokens(
        &self,
        _: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        Err(Status::unimplemented("not part of this fake"))
    }

    async fn delete_token(
        &self,
        _: Request<pb::DeleteTokenRequest>,
    ) -> Result<Response<pb::DeleteTokenResponse>, Status> {
        Err(Status::unimplemented("not part of this fake"))
    }
    async fn get_log_filter(
        &self,
        _: Request<pb::GetLogFilterRequest>,
    ) -> Result<Response<pb::LogFilterView>, Status> {
        Err(Status::unimplemented("not part of this fake"))
    }

    async fn set_log_filter(
        &self,
        _: Request<pb::SetLogFilterRequest>,
    ) -> Result<Response<pb::LogFilterView>, Status> {
        Err(Status::unimplemented("not part of this fake"))
    }
}

//! A small agent for tests: it enrols, attaches, and "runs" tasks that it makes up.
//!
//! `say TEXT...` writes each text as a frame of its own and exits with 0; `fail N` exits with N; anything else runs until
//! it is cancelled and writes back what is typed into it.

use std::collections::HashMap;

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use futures_util::StreamExt as _;
use muster_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use muster_proto::v1::node_service_client::NodeServiceClient;
use muster_proto::v1::session_down::Message as Down;
use muster_proto::v1::session_up::Message as Up;
use muster_proto::v1::upload_down::Message as UploadDown;
use muster_proto::v1::upload_up::Message as UploadUp;
use muster_proto::{signing, v1};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;

const BOOT_ID: [u8; 16] = [9; 16];

/// An attached agent. Dropping it cuts its streams.
pub(crate) struct Agent {
    pub(crate) node_id: String,
    running: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Agent {
    /// Enrols with a join token, attaches, and serves from then on.
    pub(crate) async fn start(channel: Channel, token: &str, name: &str) -> Self {
        let key = SigningKey::from_bytes(&[name.len() as u8; 32]);
        let public_key = key.verifying_key().to_bytes();
        let request = v1::EnrolRequest {
            join_token: token.to_owned(),
            public_key: Bytes::copy_from_slice(&public_key),
            signature: key.sign(&signing::enrol(token, &public_key)).to_bytes().to_vec().into(),
            name: name.to_owned(),
            labels: HashMap::from([("role".to_owned(), "web".to_owned())]),
            facts: None,
        };
        let node_id =
            EnrolmentServiceClient::new(channel.clone()).enrol(request).await.unwrap().into_inner().node_id;

        let mut client = NodeServiceClient::new(channel);
        let (up, from_us) = mpsc::unbounded_channel();
        let mut down = client.session(UnboundedReceiverStream::new(from_us)).await.unwrap().into_inner();
        let Some(Down::Challenge(challenge)) = down.next().await.unwrap().unwrap().message else { panic!() };
        let boot = registry_core::Clock::system().unix_ms();
        let hello = signing::hello(&challenge.nonce, &node_id, 0, boot, &BOOT_ID);
        let hello = v1::Hello {
            protocol_version: 1,
            capabilities: vec!["exec".to_owned(), "pty".to_owned(), "stdin".to_owned()],
            agent_version: "test".to_owned(),
            node_id: node_id.clone(),
            signature: key.sign(&hello).to_bytes().to_vec().into(),
            boot,
            boot_id: Bytes::copy_from_slice(&BOOT_ID),
            labels: HashMap::from([("role".to_owned(), "web".to_owned())]),
            ..Default::default()
        };
        up.send(v1::SessionUp { message: Some(Up::Hello(hello)) }).unwrap();
        let Some(Down::Welcome(welcome)) = down.next().await.unwrap().unwrap().message else { panic!() };

        let (frames, from_us) = mpsc::unbounded_channel();
        let upload = v1::UploadHello { upload_nonce: welcome.upload_nonce };
        frames.send(v1::UploadUp { message: Some(UploadUp::Hello(upload)) }).unwrap();
        let mut acks = client.upload(UnboundedReceiverStream::new(from_us)).await.unwrap().into_inner();
        let Some(UploadDown::Start(_)) = acks.next().await.unwrap().unwrap().message else { panic!() };
        let mut serving =
            Serving { boot: welcome.boot, seq: 0, up, frames, seen: HashMap::new(), typed: HashMap::new() };
        let running = tokio::spawn(async move {
            loop {
                tokio::select! {
                    down = down.next() => match down {
                        Some(Ok(down)) => serving.take(down.message.unwrap()),
                        _ => return,
                    },
                    // Acks are only read away: this agent never has to send again.
                    ack = acks.next() => if !matches!(ack, Some(Ok(_))) { return },
                }
            }
        });
        Self { node_id, running }
    }
}

struct Serving {
    boot: u64,
    seq: u64,
    up: mpsc::UnboundedSender<v1::SessionUp>,
    frames: mpsc::UnboundedSender<v1::UploadUp>,
    /// The hub repeats an order when it is not sure that it arrived; the agent is who knows. Each task's
    /// output comes out of this end.
    seen: HashMap<Bytes, v1::Stream>,
    /// How much input each running task has taken.
    typed: HashMap<Bytes, u64>,
}

impl Serving {
    fn take(&mut self, command: Down) {
        match command {
            Down::Run(run) => self.run(&run),
            Down::Cancel(cancel) => {
                let code = if self.typed.remove(&cancel.task_id).is_some() { "" } else { "task_not_running" };
                self.reply(cancel.request_id, code, 0);
                if code.is_empty() {
                    self.end(&cancel.task_id, v1::TaskOutcome::Cancelled, None);
                }
            }
            Down::Stdin(stdin) => {
                let Some(typed) = self.typed.get_mut(&stdin.task_id) else {
                    return self.reply(stdin.request_id, "task_not_running", 0);
                };
                if stdin.offset != *typed {
                    return self.reply(stdin.request_id, "stdin_gap", 0);
                }
                *typed += stdin.data.len() as u64;
                let typed = *typed;
                self.output(&stdin.task_id, stdin.data);
                self.reply(stdin.request_id, "", typed);
            }
            Down::Resize(resize) => {
                let size = resize.size.unwrap();
                let text = format!("{}x{}\n", size.rows, size.cols);
                self.output(&resize.task_id, text.into());
                self.reply(resize.request_id, "", 0);
            }
            other => panic!("a session does not say {other:?} here"),
        }
    }

    fn run(&mut self, run: &v1::RunTask) {
        let stream = if run.pty.is_some() { v1::Stream::Pty } else { v1::Stream::Stdout };
        if self.seen.insert(run.task_id.clone(), stream).is_some() {
            return;
        }
        let started = v1::TaskStarted { pid: 7, pty: run.pty.is_some() };
        self.frame(&run.task_id, v1::frame::Kind::Started(started));
        match run.argv[0].as_str() {
            "say" => {
                for text in &run.argv[1..] {
                    self.output(&run.task_id, text.clone().into());
                }
                self.end(&run.task_id, v1::TaskOutcome::Exited, Some(0));
            }
            "fail" => self.end(&run.task_id, v1::TaskOutcome::Exited, Some(run.argv[1].parse().unwrap())),
            _ => _ = self.typed.insert(run.task_id.clone(), 0),
        }
    }

    fn output(&mut self, task: &Bytes, data: Bytes) {
        let stream = self.seen[task].into();
        self.frame(task, v1::frame::Kind::Output(v1::Output { stream, data }));
    }

    fn end(&mut self, task: &Bytes, outcome: v1::TaskOutcome, exit_code: Option<u32>) {
        let ended = v1::TaskEnded { outcome: outcome.into(), exit_code, ..Default::default() };
        self.frame(task, v1::frame::Kind::Ended(ended));
    }

    fn frame(&mut self, task: &Bytes, kind: v1::frame::Kind) {
        self.seq += 1;
        let frame = v1::Frame { seq: self.seq, at_unix_ms: 1, task_id: task.clone(), kind: Some(kind) };
        let batch = v1::FrameBatch { boot: self.boot, frames: vec![frame] };
        let _ = self.frames.send(v1::UploadUp { message: Some(UploadUp::Frames(batch)) });
    }

    fn reply(&self, request_id: u64, error_code: &str, stdin_offset: u64) {
        let error_code = error_code.to_owned();
        let reply = v1::CommandReply { request_id, error_code, stdin_offset, ..Default::default() };
        let _ = self.up.send(v1::SessionUp { message: Some(Up::Reply(reply)) });
    }
}

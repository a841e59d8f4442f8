//! Commands to an agent that want an answer: asked with a number, answered with the same number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use registry_core::{CloseReason, NodeId, OutboxError};
use tokio::sync::oneshot;

use crate::error::{ErrorCode, HubError};
use crate::fleet::{Command, Session};
use crate::metrics::Metrics;

/// How long an agent may take to answer a command: it does so at once, the network may not.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What an agent answered.
#[derive(Clone, Debug, Default)]
pub struct CommandAnswer {
    /// A stable code when it could not do as asked, empty when it could.
    pub error_code: String,
    /// Why, for people.
    pub error_message: String,
    /// For input: how many bytes it has taken in all.
    pub stdin_offset: u64,
}

/// Questions that wait for their answer.
#[derive(Default)]
pub(super) struct Requests {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, (NodeId, oneshot::Sender<CommandAnswer>)>>,
}

impl Requests {
    /// Sends a command and waits for its answer.
    pub(super) async fn ask(
        &self,
        node: &NodeId,
        session: &Session,
        command: impl FnOnce(u64) -> Command,
        metrics: &Metrics,
    ) -> Result<CommandAnswer, HubError> {
        let request = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(request, (node.clone(), sender));
        let _forget = Forget { requests: self, request };
        if !push(session, command(request), metrics) {
            return Err(HubError::new(
                ErrorCode::NodeOffline,
                "the node's session has just ended: try again in a moment".to_owned(),
            ));
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, receiver).await {
            Ok(Ok(answer)) if answer.error_code.is_empty() => Ok(answer),
            Ok(Ok(answer)) => Err(refused(&answer)),
            _ => Err(HubError::plain(ErrorCode::NodeTimeout)),
        }
    }

    pub(super) fn answer(&self, node: &NodeId, request: u64, answer: CommandAnswer) {
        let waiting = {
            let mut waiting = self.waiting.lock();
            match waiting.get(&request) {
                Some((asked, _)) if asked == node => waiting.remove(&request),
                _ => None,
            }
        };
        if let Some((_, sender)) = waiting {
            let _ = sender.send(answer);
        }
    }
}

/// Takes a question back when whoever asked has gone.
struct Forget<'a> {
    requests: &'a Requests,
    request: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let gone = self.requests.waiting.lock().remove(&self.request);
        drop(gone);
    }
}

/// Puts a command into a session's outbox. An agent that lets it fill is told to come back with an empty one.
pub(super) fn push(session: &Session, command: Command, metrics: &Metrics) -> bool {
    match session.outbox().try_push(command) {
        Ok(()) => true,
        Err(OutboxError::Full(_)) => {
            metrics.outbox_full_total.inc();
            session.outbox().close(CloseReason::Overloaded);
            false
        }
        Err(OutboxError::Closed(_)) => false,
    }
}

/// The codes that an agent may answer with; anything else it says is not passed on as ours.
fn refused(answer: &CommandAnswer) -> HubError {
    let code = match answer.error_code.as_str() {
        "unknown_task" | "task_not_running" => ErrorCode::TaskNotRunning,
        "no_stdin" => ErrorCode::NoStdin,
        "stdin_gap" => ErrorCode::StdinGap,
        "stdin_full" => ErrorCode::StdinFull,
        "no_pty" => ErrorCode::NoPty,
        other => {
            let shown: String = other.chars().take(64).collect();
            return HubError::fault(std::io::Error::other(format!("the agent answered {shown:?}")));
        }
    };
    let detail: String = answer.error_message.chars().filter(|c| !c.is_control()).take(500).collect();
    HubError::new(code, detail).with("stdin_offset", answer.stdin_offset)
}

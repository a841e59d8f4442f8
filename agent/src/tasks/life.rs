//! The life of one task, from start to end: one future, so that nothing of it outlives it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use registry_core::{Clock, FrameKind, Stream, TaskEnd, TaskOutcome};
use rustix::process::Signal;
use tokio::io::AsyncRead;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::input::{self, Input};
use super::output::Reader;
use super::process::{Ends, Group, Spec, Started, code_or_signal};
use super::pty;
use crate::orphans::Journal;
use crate::spool::Spool;

/// Between SIGTERM and SIGKILL where nobody says otherwise.
pub(super) const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// How often an ended task's group is looked at while it has its grace.
const GROUP_POLL: Duration = Duration::from_millis(20);

/// Everything that one task needs.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) spec: Spec,
    /// When its time is over.
    pub(super) deadline: Option<Instant>,
    pub(super) orders: watch::Receiver<Option<Order>>,
    pub(super) sizes: watch::Receiver<pty::Size>,
    pub(super) input: Arc<Input>,
    /// Read and wait no more: the agent ends and nobody could keep the rest.
    pub(super) abandoned: CancellationToken,
    pub(super) spool: Arc<Spool>,
    pub(super) journal: Arc<Journal>,
    pub(super) clock: Clock,
}

/// To end the task.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) reason: String,
    pub(super) kill_at: Instant,
}

/// Why Muster ends a task's process.
#[derive(Debug)]
struct Ending {
    outcome: TaskOutcome,
    reason: String,
    kill_at: Instant,
    killed: bool,
}

impl Life {
    /// Runs the task. All its frames are in the spool when this returns.
    pub(super) async fn live(mut self) {
        let ordered = self.orders.borrow_and_update().as_ref().map(|order| order.reason.clone());
        let end = match ordered {
            Some(reason) => TaskEnd::without_process(TaskOutcome::Cancelled, reason),
            None => match self.spec.start() {
                Ok(started) => self.attend(started).await,
                Err(words) => {
                    tracing::info!(task = %self.spec.id, error = %words, "a task failed to start");
                    TaskEnd::without_process(TaskOutcome::FailedToStart, words)
                }
            },
        };
        self.input.close();
        let (task, frame) = (Some(self.spec.id), FrameKind::Ended(end));
        tokio::select! {
            biased;
            () = self.spool.push(task, frame.clone()) => {}
            () = self.abandoned.cancelled() => self.spool.push_now(task, frame),
        }
    }

    /// From the start of the process to its end and the end of its output.
    async fn attend(&mut self, started: Started) -> TaskEnd {
        let Started { mut child, group, ends } = started;
        let began = self.clock.monotonic();
        if let Err(error) = self.journal.record(self.spec.id, group) {
            tracing::warn!(task = %self.spec.id, %error, "cannot note a process group; it would outlive a killed agent");
        }
        let exited = CancellationToken::new();
        let (mut output, mut input) = self.ends(ends, group, &exited);
        let mut complete = None;
        let mut input_over = false;
        let mut ending: Option<Ending> = None;
        let mut orders = self.orders.clone();
        let status = loop {
            let kill_at = ending.as_ref().filter(|ending| !ending.killed).map(|ending| ending.kill_at);
            let deadline = self.deadline.filter(|_| ending.is_none());
            tokio::select! {
                biased;
                status = child.wait() => break status,
                Ok(()) = orders.changed() => {
                    let order = orders.borrow_and_update().clone();
                    if let Some(order) = order {
                        self.begin_ending(&mut ending, TaskOutcome::Cancelled, order, group);
                    }
                }
                () = at(deadline) => {
                    let order = Order { reason: "its time was over".to_owned(), kill_at: Instant::now() + DEFAULT_GRACE };
                    self.begin_ending(&mut ending, TaskOutcome::TimedOut, order, group);
                }
                () = at(kill_at) => {
                    group.signal(Signal::KILL);
                    if let Some(ending) = &mut ending {
                        ending.killed = true;
                    }
                }
                whole = &mut output, if complete.is_none() => complete = Some(whole),
                () = &mut input, if !input_over => input_over = true,
            }
        };
        let duration = self.clock.monotonic().saturating_sub(began);
        exited.cancel();
        drop(input);
        let rest = end_the_rest(group, ending.as_ref());
        let whole = async {
            match complete {
                Some(whole) => whole,
                None => output.await,
            }
        };
        let (whole, ()) = tokio::join!(whole, rest);
        self.journal.forget(self.spec.id);
        verdict(status, ending, whole, duration)
    }

    /// The futures that carry the task's output and input.
    fn ends(
        &self,
        ends: Ends,
        group: Group,
        exited: &CancellationToken,
    ) -> (BoxFuture<'static, bool>, BoxFuture<'static, ()>) {
        let input = Arc::clone(&self.input);
        let mut sizes = None;
        let mut sources: Vec<(Stream, Box<dyn AsyncRead + Send + Unpin>)> = Vec::with_capacity(2);
        let pump: BoxFuture<'static, ()> = match ends {
            Ends::Pipes { stdin, stdout, stderr } => {
                sources.push((Stream::Stdout, Box::new(stdout)));
                sources.push((Stream::Stderr, Box::new(stderr)));
                match stdin {
                    Some(stdin) => Box::pin(async move { input::pump(&input, stdin).await }),
                    None => Box::pin(async {}),
                }
            }
            Ends::Pty { read, write, terminal, size } => {
                sources.push((Stream::Pty, Box::new(read)));
                sizes = Some(pty::Sizes::new(terminal, size, self.sizes.clone()));
                Box::pin(async move { pty::pump(&input, write).await })
            }
        };
        let (task, spool) = (self.spec.id, Arc::clone(&self.spool));
        let (exited, abandoned) = (exited.clone(), self.abandoned.clone());
        let output = async move {
            let started = FrameKind::Started { pid: group.pid(), pty: sizes.is_some() };
            tokio::select! {
                biased;
                () = spool.push(Some(task), started.clone()) => {}
                () = abandoned.cancelled() => spool.push_now(Some(task), started),
            }
            let readers = sources.into_iter().map(|(stream, source)| {
                let reader = Reader { task, stream, exited: exited.clone(), abandoned: abandoned.clone() };
                // A terminal is the only source of its task.
                let (spool, sizes) = (Arc::clone(&spool), sizes.take());
                async move { reader.run(source, sizes, &spool).await }
            });
            join_all(readers).await.into_iter().all(|whole| whole)
        };
        (Box::pin(output), pump)
    }

    /// The first reason counts, the earlier SIGKILL too.
    fn begin_ending(&self, ending: &mut Option<Ending>, outcome: TaskOutcome, order: Order, group: Group) {
        if let Some(ending) = ending {
            ending.kill_at = ending.kill_at.min(order.kill_at);
            return;
        }
        tracing::info!(task = %self.spec.id, outcome = outcome.as_str(), reason = %order.reason, "ending a task");
        group.signal(Signal::TERM);
        if self.spec.pty.is_some() {
            // Interactive shells ignore SIGTERM; a terminal that hangs up is what they end on.
            group.signal(Signal::HUP);
            group.signal(Signal::CONT);
        }
        *ending = Some(Ending { outcome, reason: order.reason, kill_at: order.kill_at, killed: false });
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is left of the group of a task that was to end: it has the rest of the grace, then it is killed. The group
/// of a task that ended by itself is left alone.
async fn end_the_rest(group: Group, ending: Option<&Ending>) {
    let Some(ending) = ending else { return };
    while group.is_alive() {
        if ending.killed || Instant::now() >= ending.kill_at {
            group.signal(Signal::KILL);
            return;
        }
        sleep(GROUP_POLL).await;
    }
}

fn verdict(
    status: std::io::Result<std::process::ExitStatus>,
    ending: Option<Ending>,
    whole: bool,
    duration: Duration,
) -> TaskEnd {
    let (exit_code, signal, error) = match status {
        Ok(status) => {
            let (exit_code, signal) = code_or_signal(status);
            (exit_code, signal, None)
        }
        Err(error) => (None, None, Some(format!("the system does not say how the process ended: {error}"))),
    };
    let (outcome, mut reason) = match (ending, error) {
        (Some(ending), _) => (ending.outcome, ending.reason),
        (None, Some(error)) => (TaskOutcome::Lost, error),
        (None, None) if signal.is_some() => (TaskOutcome::Signaled, String::new()),
        (None, None) => (TaskOutcome::Exited, String::new()),
    };
    if !whole {
        let lost = "its last output was lost: the spool was full when the agent ended";
        reason = if reason.is_empty() { lost.to_owned() } else { format!("{reason}; {lost}") };
    }
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    TaskEnd { outcome, exit_code, signal, reason, duration_ms }
}

/// Completes at that time; never when there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

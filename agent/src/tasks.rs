//! The tasks of this run of the agent: starts them, finds them for commands, ends them all at the end.

mod input;
mod life;
mod output;
pub(crate) mod process;
mod pty;
mod seen;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_proto::v1;
use parking_lot::Mutex;
use registry_core::{Clock, FrameKind, TaskEnd, TaskId, TaskOutcome};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::orphans::Journal;
use crate::spool::Spool;
use input::{EndMeans, Input, InputError};
use life::{DEFAULT_GRACE, Life, Order};
use process::Spec;
use seen::Seen;

/// How long ended tasks' output may take to be read when the agent ends, after their grace.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// How long abandoned tasks may take to write their last frame; they have nothing to wait for.
const LAST_FRAMES: Duration = Duration::from_secs(2);

/// How many refusals may wait for room in the spool; beyond that a task is dropped as if it had not come.
const WAITING_REFUSALS: usize = 1024;

/// The longest reason that goes into a frame, in bytes: reasons come from afar.
const MAX_REASON_BYTES: usize = 1024;

/// Why a command could not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum CommandError {
    #[error("this run of the agent knows no such task")]
    UnknownTask,
    #[error("the task is over")]
    NotRunning,
    #[error("the task was started without an input; start it with stdin")]
    NoStdin,
    #[error("the task runs on pipes and has no terminal size")]
    NoPty,
    #[error(transparent)]
    Input(#[from] InputError),
}

impl CommandError {
    /// The stable word that the contract has for it.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::UnknownTask => "unknown_task",
            Self::NotRunning => "task_not_running",
            Self::NoStdin | Self::Input(InputError::Closed) => "no_stdin",
            Self::NoPty => "no_pty",
            Self::Input(InputError::Gap { .. }) => "stdin_gap",
            Self::Input(InputError::Full) => "stdin_full",
        }
    }
}

/// What applies to all tasks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Nothing runs.
    pub(crate) no_exec: bool,
    pub(crate) max_tasks: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tasks {
    rules: Rules,
    spool: Arc<Spool>,
    journal: Arc<Journal>,
    clock: Clock,
    roll: Mutex<Roll>,
    futures: TaskTracker,
    abandoned: CancellationToken,
    refusals: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Roll {
    running: HashMap<TaskId, Handle>,
    seen: Seen,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// No task is started any more; each is told so.
    Stopping,
    /// The boot is about to be closed: there is no place for a frame any more.
    Over,
}

/// How commands reach a running task.
#[derive(Clone, Debug)]
struct Handle {
    orders: watch::Sender<Option<Order>>,
    /// Only with a PTY.
    size: Option<watch::Sender<pty::Size>>,
    /// Only when it takes input.
    input: Option<Arc<Input>>,
}

impl Tasks {
    pub(crate) fn new(rules: Rules, spool: Arc<Spool>, journal: Arc<Journal>, clock: Clock) -> Self {
        Self {
            rules,
            spool,
            journal,
            clock,
            roll: Mutex::default(),
            futures: TaskTracker::new(),
            abandoned: CancellationToken::new(),
            refusals: Arc::new(Semaphore::new(WAITING_REFUSALS)),
        }
    }

    /// How many run now.
    pub(crate) fn running(&self) -> usize {
        self.roll.lock().running.len()
    }

    /// Starts a task, or refuses it with a frame; a task that was seen before is dropped.
    pub(crate) fn run(self: &Arc<Self>, run: v1::RunTask) {
        let arrived = Instant::now();
        let Some(id) = TaskId::from_slice(&run.task_id) else {
            tracing::warn!("the hub sent a task whose id is not 16 bytes; it was dropped");
            return;
        };
        let Some((life, handle)) = self.prepare(id, run, arrived) else { return };
        if let Err(why) = self.admit(id, &handle) {
            if let Some(why) = why {
                self.refuse(id, why);
            }
            return;
        }
        tracing::info!(task = %id, program = life.spec.argv[0], pty = life.spec.pty.is_some(), "starting a task");
        let tasks = Arc::clone(self);
        self.futures.spawn(async move {
            Box::pin(life.live()).await;
            let handle = tasks.roll.lock().running.remove(&id);
            drop(handle);
        });
    }

    /// SIGTERM to the task's group, SIGKILL after the grace. Asking again can only shorten it.
    pub(crate) fn cancel(&self, task: &[u8], grace_ms: u64, reason: &str) -> Result<(), CommandError> {
        let handle = self.find(task)?;
        let reason = if reason.is_empty() { "cancelled" } else { reason };
        handle.order(reason, grace(grace_ms));
        Ok(())
    }

    /// Bytes for a task's input. Returns how many were taken in all, also with an error.
    pub(crate) fn write_stdin(&self, write: &v1::WriteStdin) -> Result<u64, (CommandError, u64)> {
        let handle = self.find(&write.task_id).map_err(|error| (error, 0))?;
        let input = handle.input.as_ref().ok_or((CommandError::NoStdin, 0))?;
        let data: &Bytes = &write.data;
        input
            .write(write.offset, data, write.eof, handle.end_means())
            .map_err(|error| (error.into(), input.taken()))
    }

    /// A new size for a task's terminal.
    pub(crate) fn resize(&self, task: &[u8], size: v1::TerminalSize) -> Result<(), CommandError> {
        let handle = self.find(task)?;
        let sizes = handle.size.as_ref().ok_or(CommandError::NoPty)?;
        sizes.send_replace(size.into());
        Ok(())
    }

    /// Ends all tasks and takes no more. When this returns, their last frames are in the spool.
    pub(crate) async fn stop(&self, reason: &str) {
        let handles: Vec<Handle> = {
            let mut roll = self.roll.lock();
            roll.phase = Phase::Stopping;
            roll.running.values().cloned().collect()
        };
        for handle in &handles {
            handle.order(reason, DEFAULT_GRACE);
        }
        self.futures.close();
        if timeout(DEFAULT_GRACE + LAST_OUTPUT, self.futures.wait()).await.is_err() {
            self.abandoned.cancel();
        }
        self.roll.lock().phase = Phase::Over;
        if timeout(LAST_FRAMES, self.futures.wait()).await.is_err() {
            tracing::error!(tasks = self.running(), "some tasks could not be ended");
        }
    }

    fn prepare(&self, id: TaskId, run: v1::RunTask, arrived: Instant) -> Option<(Life, Handle)> {
        if run.argv.is_empty() {
            if self.roll.lock().seen.insert(id) {
                self.refuse(id, "the command is empty; give a program to run");
            }
            return None;
        }
        let size = run.pty.map(pty::Size::from);
        let (orders, orders_rx) = watch::channel(None);
        let (sizes, sizes_rx) = watch::channel(size.unwrap_or_else(|| v1::TerminalSize::default().into()));
        let input = Arc::new(Input::default());
        let takes_input = run.stdin || size.is_some();
        let handle =
            Handle { orders, size: size.map(|_| sizes), input: takes_input.then(|| Arc::clone(&input)) };
        let deadline =
            (run.timeout_ms > 0).then(|| arrived.checked_add(Duration::from_millis(run.timeout_ms)));
        let life = Life {
            spec: Spec { id, argv: run.argv, env: run.env, cwd: run.cwd, pty: size, stdin: run.stdin },
            deadline: deadline.flatten(),
            orders: orders_rx,
            sizes: sizes_rx,
            input,
            abandoned: self.abandoned.clone(),
            spool: Arc::clone(&self.spool),
            journal: Arc::clone(&self.journal),
            clock: self.clock.clone(),
        };
        Some((life, handle))
    }

    /// Enters a task into the roll. The error is why not, for people; none for a task that was seen before.
    fn admit(&self, id: TaskId, handle: &Handle) -> Result<(), Option<&'static str>> {
        let mut roll = self.roll.lock();
        if roll.phase == Phase::Over || !roll.seen.insert(id) {
            return Err(None);
        }
        if self.rules.no_exec {
            return Err(Some("this agent was started with --no-exec and runs nothing"));
        }
        if roll.phase == Phase::Stopping {
            return Err(Some("the agent is about to end"));
        }
        if roll.running.len() >= self.rules.max_tasks {
            return Err(Some("the agent runs as many tasks as it may (--max-tasks); try again later"));
        }
        roll.running.insert(id, handle.clone());
        Ok(())
    }

    /// Says that a task is not run. May have to wait for room, which must not hold up other commands.
    fn refuse(&self, id: TaskId, why: &'static str) {
        tracing::info!(task = %id, why, "a task was refused");
        let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() else {
            tracing::warn!(task = %id, "too many refused tasks wait for room in the spool; one was dropped");
            return;
        };
        let (spool, abandoned) = (Arc::clone(&self.spool), self.abandoned.clone());
        self.futures.spawn(async move {
            let end = FrameKind::Ended(TaskEnd::without_process(TaskOutcome::Rejected, why));
            tokio::select! {
                () = spool.push(Some(id), end) => {}
                () = abandoned.cancelled() => {}
            }
            drop(permit);
        });
    }

    fn find(&self, task: &[u8]) -> Result<Handle, CommandError> {
        let id = TaskId::from_slice(task).ok_or(CommandError::UnknownTask)?;
        let roll = self.roll.lock();
        match roll.running.get(&id) {
            Some(handle) => Ok(handle.clone()),
            None if roll.seen.contains(id) => Err(CommandError::NotRunning),
            None => Err(CommandError::UnknownTask),
        }
    }
}

impl Handle {
    fn order(&self, reason: &str, grace: Duration) {
        let now = Instant::now();
        let kill_at = now.checked_add(grace).unwrap_or(now + DEFAULT_GRACE);
        self.orders.send_modify(|order| match order {
            Some(order) => order.kill_at = order.kill_at.min(kill_at),
            None => *order = Some(Order { reason: shorten(reason), kill_at }),
        });
    }

    fn end_means(&self) -> EndMeans {
        if self.size.is_some() { EndMeans::Type(pty::END_OF_FILE) } else { EndMeans::Close }
    }
}

/// 0 says nothing, as everywhere in the contract.
fn grace(grace_ms: u64) -> Duration {
    if grace_ms == 0 { DEFAULT_GRACE } else { Duration::from_millis(grace_ms) }
}

fn shorten(reason: &str) -> String {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

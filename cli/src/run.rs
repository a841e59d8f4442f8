//! Runs one task: asks the hub to create it, shows what it says as it comes, and knows how it ended.

pub(crate) mod printer;

use std::time::Duration;

use muster_proto::v1::{self as pb, frame::Kind};
use registry_core::{Clock, Cursor};
use tokio::sync::watch;

use crate::client::Hub;
use crate::exit::{self, Failure};
use crate::follow::{self, Item, Outage, Reading, Start, Stopped};
use crate::run::printer::Printer;

/// After this time without a sign of the task its user is told what it waits for.
pub(crate) const QUIET_BEFORE_NOTE: Duration = Duration::from_secs(1);
/// How long one question for the task's end waits at the hub.
const END_WAIT: Duration = Duration::from_secs(30);
/// A task that ended without a frame (expired, lost) may still have output on its way: it has this time to come.
const LAST_OUTPUT_GRACE: Duration = Duration::from_secs(2);
/// Pause before a task is read again whose stream ended before the task did.
const READ_AGAIN_PAUSE: Duration = Duration::from_secs(1);

/// How a task ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskEnd {
    pub(crate) outcome: pb::TaskOutcome,
    pub(crate) exit_code: Option<u32>,
    pub(crate) signal: Option<u32>,
    pub(crate) reason: String,
    pub(crate) duration_ms: u64,
    /// The last frame of the task that was seen.
    pub(crate) last: Option<Cursor>,
}

impl TaskEnd {
    pub(crate) fn of_frame(ended: pb::TaskEnded, last: Option<Cursor>) -> Self {
        Self {
            outcome: ended.outcome(),
            exit_code: ended.exit_code,
            signal: ended.signal,
            reason: ended.reason,
            duration_ms: ended.duration_ms,
            last,
        }
    }

    pub(crate) fn of_view(view: &pb::TaskView, last: Option<Cursor>) -> Self {
        Self {
            outcome: view.outcome(),
            exit_code: view.exit_code,
            signal: view.signal,
            reason: view.reason.clone(),
            duration_ms: view.duration_ms,
            last,
        }
    }

    /// The exit code that tells how the command did, after the habits of shells, `timeout` and `ssh`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.outcome {
            pb::TaskOutcome::Exited => {
                self.exit_code.map_or(exit::UNKNOWN, |code| u8::try_from(code).unwrap_or(exit::UNKNOWN))
            }
            pb::TaskOutcome::Signaled => self.signal.map_or(exit::UNKNOWN, exit::signaled),
            pb::TaskOutcome::TimedOut => exit::TIMED_OUT,
            pb::TaskOutcome::Cancelled => self.signal.map_or(exit::INTERRUPTED, exit::signaled),
            pb::TaskOutcome::Rejected => exit::CANNOT_RUN,
            pb::TaskOutcome::FailedToStart if self.is_not_found() => exit::NOT_FOUND,
            pb::TaskOutcome::FailedToStart => exit::CANNOT_RUN,
            pb::TaskOutcome::Expired | pb::TaskOutcome::Lost | pb::TaskOutcome::Unspecified => exit::UNKNOWN,
        }
    }

    /// What has to be said beside the exit code; `None` when the process itself ended as it wanted to.
    pub(crate) fn sentence(&self) -> Option<String> {
        let text = match self.outcome {
            pb::TaskOutcome::Exited => return None,
            pb::TaskOutcome::Signaled => match self.signal {
                Some(signal) => format!("the command was ended by signal {signal}"),
                None => "the command was ended by a signal".to_owned(),
            },
            pb::TaskOutcome::TimedOut => "the command was ended because its deadline passed".to_owned(),
            pb::TaskOutcome::Cancelled => "the command was cancelled".to_owned(),
            pb::TaskOutcome::Rejected => "the node refuses the command, nothing ran".to_owned(),
            pb::TaskOutcome::FailedToStart => "the command could not be started".to_owned(),
            pb::TaskOutcome::Expired => {
                "the command expired: the node did not come to take it in time, nothing ran".to_owned()
            }
            pb::TaskOutcome::Lost => {
                "the command is lost: the agent that had it is gone, and whether it ran to its end is not known"
                    .to_owned()
            }
            pb::TaskOutcome::Unspecified => "the hub does not say how the command ended".to_owned(),
        };
        Some(if self.reason.is_empty() { text } else { format!("{text} ({})", self.reason) })
    }

    fn is_not_found(&self) -> bool {
        let reason = self.reason.to_ascii_lowercase();
        // The folder to run in may be missing too: that is not the program.
        !reason.contains("folder") && (reason.contains("no such file") || reason.contains("not found"))
    }
}

/// One command on one node, as it is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// Node id or name.
    pub(crate) node: String,
    pub(crate) spec: pb::TaskSpec,
    /// How long to wait for a hub that went away.
    pub(crate) patience: Duration,
}

/// Creates the task. It is safe to ask again when the answer was lost: the key makes it one task.
pub(crate) async fn create(hub: &Hub, order: &Order, clock: &Clock) -> Result<pb::TaskView, Failure> {
    let request = pb::CreateTaskRequest {
        node: order.node.clone(),
        spec: Some(order.spec.clone()),
        idempotency_key: new_idempotency_key(),
    };
    let mut outage = Outage::new(order.patience, clock.clone());
    let mut first = true;
    loop {
        let status = match hub.control().create_task(request.clone()).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => status,
        };
        let failure = hub.failure(&status);
        // Where nobody listened from the beginning nothing was lost on the way: the user wants to know now.
        let nobody = first && exit::is_refused_connection(&status);
        if !exit::is_passing(&status) || nobody || !outage.wait().await {
            return Err(failure);
        }
        first = false;
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place where the command line needs something random")]
fn new_idempotency_key() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Shows a task's output until it ends. `started` becomes true when its process exists.
pub(crate) async fn watch(
    hub: &Hub,
    order: &Order,
    task: &pb::TaskView,
    printer: &mut Printer,
    started: &watch::Sender<bool>,
    clock: &Clock,
) -> Result<TaskEnd, Failure> {
    let start = task.read_from.map_or(Start::Oldest, |place| Start::After(follow::cursor(place)));
    let mut watching = Watching { hub, order, task, printer, started, clock, last: None };
    let result = watching.until_end(start).await;
    watching.printer.finish().await?;
    result
}

struct Watching<'a> {
    hub: &'a Hub,
    order: &'a Order,
    task: &'a pb::TaskView,
    printer: &'a mut Printer,
    started: &'a watch::Sender<bool>,
    clock: &'a Clock,
    last: Option<Cursor>,
}

impl Watching<'_> {
    async fn until_end(&mut self, mut start: Start) -> Result<TaskEnd, Failure> {
        loop {
            if let Some(end) = self.read(start).await? {
                return Ok(end);
            }
            // The stream ended before the task did: the hub knows best how it stands.
            let view = state_of(self.hub, self.task).await;
            if let Some(view) = view.filter(|view| view.state() == pb::TaskState::Ended) {
                return Ok(TaskEnd::of_view(&view, self.last));
            }
            tokio::time::sleep(READ_AGAIN_PAUSE).await;
            start = self.last.map_or(start, Start::After);
        }
    }

    /// Reads until the task ended, or the stream did.
    async fn read(&mut self, start: Start) -> Result<Option<TaskEnd>, Failure> {
        let reading = Reading {
            node: self.task.node_id.clone(),
            task_id: Some(self.task.task_id.clone()),
            start,
            follow: true,
            max_bytes: 0,
        };
        let mut items = follow::follow(self.hub, reading, self.order.patience, self.clock);
        let ended_unseen = ended_without_a_frame(self.hub.clone(), self.task.task_id.clone());
        tokio::pin!(ended_unseen);
        let quiet = tokio::time::sleep(QUIET_BEFORE_NOTE);
        tokio::pin!(quiet);
        let mut quiet_over = *self.started.borrow();
        loop {
            tokio::select! {
                biased;
                item = items.recv() => match item {
                    Some(Ok(item)) => if let Some(end) = self.show(item).await? {
                        return Ok(end);
                    },
                    Some(Err(stopped)) => return Err(self.gave_up(stopped)),
                    None => return Ok(None),
                },
                end = &mut ended_unseen => return Ok(Some(TaskEnd { last: self.last, ..end })),
                () = &mut quiet, if !quiet_over => {
                    quiet_over = true;
                    if !*self.started.borrow() {
                        self.explain_silence().await;
                    }
                }
            }
        }
    }

    /// `Some(None)`: the stream is over. `Some(Some(_))`: the task is.
    async fn show(&mut self, item: Item) -> Result<Option<Option<TaskEnd>>, Failure> {
        match item {
            Item::Frame { cursor, frame, .. } => {
                self.last = Some(cursor);
                match frame.kind {
                    Some(Kind::Started(_)) => drop(self.started.send_replace(true)),
                    Some(Kind::Output(output)) => self.printer.output(output.stream(), &output.data).await?,
                    Some(Kind::Ended(ended)) => {
                        return Ok(Some(Some(TaskEnd::of_frame(ended, self.last))));
                    }
                    Some(Kind::Gap(gap)) => {
                        self.printer.interrupted().await?;
                        self.printer.note(&follow::gap_sentence(frame.seq, &gap)).await;
                    }
                    Some(Kind::Resized(_) | Kind::Closed(_)) | None => {}
                }
            }
            Item::CaughtUp => {}
            Item::HubLost(why) => {
                self.printer
                    .note(&format!("the hub is away, the command goes on; trying again: {why}"))
                    .await;
            }
            Item::HubBack => self.printer.note("the hub is back, going on where the output stopped").await,
            Item::End { .. } => return Ok(Some(None)),
        }
        Ok(None)
    }

    /// Nothing has come for a while: tells what the task is waiting for.
    async fn explain_silence(&mut self) {
        if let Some(why) = what_it_waits_for(self.hub, self.task).await {
            self.printer.note(&format!("{why}; Ctrl-C cancels it")).await;
        }
    }

    fn gave_up(&self, stopped: Stopped) -> Failure {
        let task = &self.task.task_id;
        let place = stopped.last.unwrap_or(Cursor::START);
        let node = &self.order.node;
        let how = format!("read on with: muster logs {node} --task {task} --since {place}");
        let message = if stopped.hub_away {
            format!(
                "{}; task {task} may go on all the same; when the hub is back, {how}",
                stopped.failure.message
            )
        } else {
            format!("{}; how task {task} did is not known; {how}", stopped.failure.message)
        };
        Failure { exit: exit::UNKNOWN, message, ..stopped.failure }
    }
}

/// The task as the hub sees it now; `None` when it does not answer.
async fn state_of(hub: &Hub, task: &pb::TaskView) -> Option<pb::TaskView> {
    let request = pb::GetTaskRequest { task_id: task.task_id.clone(), wait_ms: 0 };
    hub.control().get_task(request).await.ok().map(tonic::Response::into_inner)
}

/// How a task ended whose stream is over; without an outcome when the hub does not say.
pub(crate) async fn end_of(hub: &Hub, task: &pb::TaskView) -> TaskEnd {
    state_of(hub, task).await.map(|view| TaskEnd::of_view(&view, None)).unwrap_or_default()
}

/// What a task that has not started waits for, as a sentence; `None` when it does not wait.
pub(crate) async fn what_it_waits_for(hub: &Hub, task: &pb::TaskView) -> Option<String> {
    let view = state_of(hub, task).await.filter(|view| view.state() == pb::TaskState::Queued)?;
    let request = pb::GetNodeRequest { node: view.node_id };
    let node = hub.control().get_node(request).await.ok().map(tonic::Response::into_inner);
    let online = node.is_some_and(|node| node.status() == pb::NodeStatus::Online);
    let why = if online { "its turn" } else { "the node, which is offline" };
    Some(format!("task {} is queued and waits for {why}", task.task_id))
}

/// Waits for a task that ends without a frame of its own, as one that expires does.
pub(crate) async fn ended_without_a_frame(hub: Hub, task_id: String) -> TaskEnd {
    let request = pb::GetTaskRequest { task_id, wait_ms: crate::args::as_ms(END_WAIT) };
    loop {
        match hub.control().get_task(request.clone()).await.map(tonic::Response::into_inner) {
            Ok(view) if view.state() == pb::TaskState::Ended => {
                if view.last.is_some() {
                    // The frame is in the log: it comes, or a gap in its place.
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(LAST_OUTPUT_GRACE).await;
                return TaskEnd::of_view(&view, None);
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(READ_AGAIN_PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::fake::{Cut, FakeHub, TASK, ended, gap, started as start_frame, stream_output};
    use crate::output::console::tests::Captured;

    fn order() -> Order {
        Order { node: "web-1".into(), spec: pb::TaskSpec::default(), patience: Duration::MAX }
    }

    fn exited(code: u32) -> pb::TaskEnded {
        let outcome = pb::TaskOutcome::Exited.into();
        pb::TaskEnded { outcome, exit_code: Some(code), ..pb::TaskEnded::default() }
    }

    async fn run(fake: &FakeHub, order: &Order) -> (Result<TaskEnd, Failure>, String, String) {
        let (hub, _server) = fake.serve();
        let captured = Captured::new();
        let mut printer = Printer::plain(captured.console.clone(), false, false);
        let clock = Clock::system();
        let task = create(&hub, order, &clock).await.unwrap();
        let (started, _) = watch::channel(false);
        let watching = watch(&hub, order, &task, &mut printer, &started, &clock);
        let end = tokio::time::timeout(Duration::from_secs(30), watching).await.unwrap();
        let (stdout, stderr) = captured.texts().await;
        (end, stdout, stderr)
    }

    #[tokio::test]
    async fn output_comes_apart_and_the_exit_code_is_the_commands_own() {
        let fake = FakeHub::new(vec![
            start_frame(1),
            stream_output(2, pb::Stream::Stdout, b"out\xff"),
            stream_output(3, pb::Stream::Stderr, b"err"),
            stream_output(4, pb::Stream::Pty, b"\x1b[1mpty"),
            ended(5, exited(3)),
        ]);
        fake.lose_answers(2);
        fake.cut_next([Cut::Silently(3), Cut::Down, Cut::Resend(1)]);
        let (end, stdout, stderr) = run(&fake, &order()).await;
        let end = end.unwrap();
        assert_eq!(end.exit_code(), 3);
        assert_eq!(end.last.map(|c| c.to_string()).as_deref(), Some("7:5"));
        assert_eq!(stdout, "out\u{fffd}\x1b[1mpty");
        let lines: Vec<&str> = stderr.lines().collect();
        assert!(lines[0].starts_with("errmuster: the hub is away"), "{stderr}");
        assert!(lines[1].starts_with("muster: the hub is back"), "{stderr}");
        assert_eq!(lines.len(), 2, "{stderr}");
        let created = fake.created();
        assert_eq!(created.len(), 3);
        assert!(created.iter().all(|request| request.idempotency_key == created[0].idempotency_key));
    }

    #[tokio::test]
    async fn a_gap_is_told() {
        let fake = FakeHub::new(vec![start_frame(1), gap(2, 4), ended(5, exited(0))]);
        let (end, stdout, stderr) = run(&fake, &order()).await;
        assert_eq!(end.unwrap().exit_code(), 0);
        assert_eq!(stdout, "");
        assert_eq!(stderr, "muster: 3 frames are missing here: older output is no longer kept\n");
    }

    #[tokio::test]
    async fn a_task_that_expires_without_a_frame_ends_too() {
        let fake = FakeHub::new(vec![]);
        fake.set_task(|task| task.state = pb::TaskState::Queued.into());
        let later = fake.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1300)).await;
            later.set_task(|task| {
                task.state = pb::TaskState::Ended.into();
                task.outcome = pb::TaskOutcome::Expired.into();
            });
        });
        let (end, _, stderr) = run(&fake, &order()).await;
        let end = end.unwrap();
        assert_eq!(end.exit_code(), exit::UNKNOWN);
        assert!(end.sentence().is_some_and(|text| text.contains("nothing ran")));
        assert!(
            stderr.contains(&format!("task {TASK} is queued and waits for the node, which is offline")),
            "{stderr}"
        );
    }

    #[tokio::test]
    async fn a_hub_that_stays_away_is_not_taken_for_the_commands_failure() {
        let fake = FakeHub::new(vec![start_frame(1), stream_output(2, pb::Stream::Stdout, b"x")]);
        fake.cut_next([Cut::Silently(2)]);
        let impatient = Order { patience: Duration::ZERO, ..order() };
        let (end, stdout, _) = run(&fake, &impatient).await;
        let failure = end.unwrap_err();
        assert_eq!((failure.exit, stdout.as_str()), (exit::UNKNOWN, "x"));
        let how = format!("muster logs web-1 --task {TASK} --since 7:2");
        assert!(failure.message.contains(&how), "{}", failure.message);
    }

    #[test]
    fn exit_codes_follow_the_habits_of_shells() {
        let end = |outcome, exit_code, signal, reason: &str| {
            TaskEnd { outcome, exit_code, signal, reason: reason.into(), ..TaskEnd::default() }.exit_code()
        };
        assert_eq!(end(pb::TaskOutcome::Exited, Some(42), None, ""), 42);
        assert_eq!(end(pb::TaskOutcome::Exited, None, None, ""), 255);
        assert_eq!(end(pb::TaskOutcome::Signaled, None, Some(9), ""), 137);
        assert_eq!(end(pb::TaskOutcome::TimedOut, None, Some(15), ""), 124);
        assert_eq!(end(pb::TaskOutcome::Cancelled, None, Some(15), ""), 143);
        assert_eq!(end(pb::TaskOutcome::Cancelled, None, None, ""), 130);
        assert_eq!(end(pb::TaskOutcome::Rejected, None, None, "--no-exec"), 126);
        assert_eq!(end(pb::TaskOutcome::FailedToStart, None, None, "Permission denied"), 126);
        assert_eq!(end(pb::TaskOutcome::FailedToStart, None, None, "No such file or directory"), 127);
        assert_eq!(
            end(pb::TaskOutcome::FailedToStart, None, None, "cannot enter the folder /x: No such file"),
            126
        );
        assert_eq!(end(pb::TaskOutcome::Lost, None, None, ""), 255);
        assert_eq!(end(pb::TaskOutcome::Expired, None, None, ""), 255);
    }
}

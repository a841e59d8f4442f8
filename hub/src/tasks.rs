//! The life of a task: written down, given to its node once, followed to its end.

pub mod book;
mod commands;
mod dispatch;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use registry_core::{Clock, NodeId, TaskEnd, TaskId, TaskOutcome, TaskState};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use self::book::Book;
pub use self::commands::CommandAnswer;
use self::commands::Requests;
use tracing::Instrument as _;

use crate::auth::{Action, Auth, Principal};
use crate::error::{ErrorCode, HubError};
use crate::fleet::{Command, Event, Node};
use crate::ingest::Ingest;
use crate::lifecycle::to_the_end;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::store::{
    AuditRow, CreateTaskOutcome, IdempotencyKey, Store, StoreError, TaskFilter, TaskRow, TaskSpec, TaskStep,
};
use crate::telemetry::traces::SPANS;

/// A queued task expires after this long unless it was asked otherwise: whoever waited for it has gone.
pub const DEFAULT_QUEUE_TTL: Duration = Duration::from_secs(5 * 60);
/// The longest that a task may be queued.
pub const MAX_QUEUE_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Tasks of one node that are not over. Beyond it something runs away.
pub const MAX_ACTIVE_PER_NODE: usize = 1024;
/// Arguments, environment and working folder together, in bytes, with one more for the end of each: what Linux takes
/// for one argument, well below its sum.
pub const MAX_SPEC_BYTES: usize = 128 * 1024;
/// The longest that one request may wait for a task.
pub const MAX_WAIT: Duration = Duration::from_secs(600);
/// Between SIGTERM and SIGKILL unless asked otherwise.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);
/// The longest grace: beyond it a cancel is none.
const MAX_GRACE: Duration = Duration::from_secs(3600);
/// The longest idempotency key, in bytes.
const MAX_KEY_BYTES: usize = 255;
/// Tasks in one page unless asked otherwise, and at most.
const PAGE: (usize, usize) = (100, 1000);
/// How often queued tasks are looked at for expiry.
pub(crate) const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);
/// Between attempts to reach a failing store, where nobody waits for the answer.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// Which tasks to list.
#[derive(Clone, Debug, Default)]
pub struct TaskQuery {
    /// Only this node's: id or name.
    pub node: Option<String>,
    /// Only those that are not over.
    pub active: bool,
    /// At most this many; 0: 100.
    pub page_size: usize,
    /// Where the previous page ended.
    pub page_token: Option<String>,
}

/// One page of tasks, newest first.
#[derive(Clone, Debug)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<TaskRow>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<String>,
}

/// What asking for a task came to.
#[derive(Clone, Debug)]
pub struct Creation {
    /// The task.
    pub task: TaskRow,
    /// False: the same request was made before, and this is its task.
    pub new: bool,
}

/// The life of tasks. Cloning gives another handle.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    book: Arc<Book>,
    mesh: Mesh,
    ingest: Ingest,
    auth: Arc<Auth>,
    clock: Clock,
    metrics: Arc<Metrics>,
    requests: Requests,
    /// Nodes whose queue is being given out: one giver a node keeps the order.
    dispatching: Mutex<HashSet<NodeId>>,
}

impl Tasks {
    /// Puts the service together.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        book: Arc<Book>,
        mesh: Mesh,
        ingest: Ingest,
        auth: Arc<Auth>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            book,
            mesh,
            ingest,
            auth,
            clock,
            metrics,
            requests: Requests::default(),
            dispatching: Mutex::default(),
        }))
    }

    /// Writes a task down and gives it to its node as soon as that is online.
    ///
    /// # Errors
    /// `forbidden`, `unknown_node`, `invalid_argument`, `too_many_tasks`, `idempotency_key_reused`,
    /// `store_unavailable`.
    pub async fn create(
        &self,
        principal: &Principal,
        node: &str,
        spec: TaskSpec,
        idempotency_key: Option<String>,
    ) -> Result<Creation, HubError> {
        let inner = &self.0;
        let node = inner.mesh.resolve(principal, node)?;
        inner.auth.authorize(principal, Action::TaskCreate, node.id().as_str())?;
        check_spec(&spec)?;
        if inner.book.of_node(node.id()).len() >= MAX_ACTIVE_PER_NODE {
            return Err(HubError::plain(ErrorCode::TooManyTasks));
        }
        let key = idempotency_key.map(|key| idempotency(principal, node.id(), &spec, key)).transpose()?;
        let row = self.new_row(principal, &node, spec);
        let audit = self.audit(principal, Action::TaskCreate, &row.id.to_string(), &audit_detail(&row));
        let tasks = self.clone();
        to_the_end(async move { tasks.write_down(&node, row, key, audit).await }).await
    }

    async fn write_down(
        &self,
        node: &Arc<Node>,
        row: TaskRow,
        key: Option<IdempotencyKey>,
        audit: AuditRow,
    ) -> Result<Creation, HubError> {
        let inner = &self.0;
        let ttl = row.expires_at_unix_ms - row.created_at_unix_ms;
        let span = tracing::debug_span!(target: SPANS, "store.create_task", task = %row.id);
        match inner.store.create_task(row.clone(), key, audit).instrument(span).await? {
            CreateTaskOutcome::Created => {
                inner.metrics.tasks_created_total.inc();
                let shared = Arc::new(row.clone());
                inner.book.enter(&shared, inner.clock.monotonic_ms().saturating_add(ttl));
                inner.mesh.registry().publish(node, |_| Event::Task(shared).into());
                self.dispatch(node);
                Ok(Creation { task: row, new: true })
            }
            CreateTaskOutcome::Existing(row) => {
                let task = inner.book.get(row.id).map_or(*row, Arc::unwrap_or_clone);
                Ok(Creation { task, new: false })
            }
            CreateTaskOutcome::KeyReused => Err(HubError::plain(ErrorCode::IdempotencyKeyReused)),
        }
    }

    /// A task as it is now, or as it is once it is over or `wait` has passed.
    ///
    /// # Errors
    /// `forbidden`, `unknown_task`, `store_unavailable`.
    pub async fn get(&self, principal: &Principal, id: TaskId, wait: Duration) -> Result<TaskRow, HubError> {
        self.authorize(principal, Action::TaskRead, id)?;
        if let Some(mut changes) = self.0.book.follow(id) {
            let over = changes.wait_for(|row| row.state == TaskState::Ended);
            let _ = tokio::time::timeout(wait.min(MAX_WAIT), over).await;
            let row = Arc::clone(&changes.borrow());
            return Ok(Arc::unwrap_or_clone(row));
        }
        self.0.store.task(id).await?.ok_or_else(|| unknown_task(id))
    }

    /// Tasks, newest first.
    ///
    /// # Errors
    /// `forbidden`, `unknown_node`, `invalid_page_token`, `store_unavailable`.
    pub async fn list(&self, principal: &Principal, query: TaskQuery) -> Result<TaskPage, HubError> {
        self.0.auth.authorize(principal, Action::TaskRead, "tasks")?;
        let node = query.node.map(|node| self.0.mesh.resolve(principal, &node)).transpose()?;
        let before = match query.page_token.filter(|token| !token.is_empty()) {
            Some(token) => Some(token.parse().map_err(|_| HubError::plain(ErrorCode::InvalidPageToken))?),
            None => None,
        };
        let limit = if query.page_size == 0 { PAGE.0 } else { query.page_size.min(PAGE.1) };
        let node = node.map(|node| node.id().clone());
        let filter = TaskFilter { node, active: query.active, before, limit: limit + 1 };
        let mut tasks = self.0.store.tasks(filter).await?;
        let more = tasks.len() > limit;
        tasks.truncate(limit);
        let next = tasks.last().filter(|_| more).map(|row| row.id.to_string());
        Ok(TaskPage { tasks, next })
    }

    /// Ends a task: one that is queued at once, one that runs by SIGTERM and, `grace` later, SIGKILL. Answers when the
    /// agent has taken the order; the task's end shows as its state.
    ///
    /// # Errors
    /// `forbidden`, `unknown_task`, `task_not_running` (it is over), `node_offline`, `node_timeout`,
    /// `store_unavailable`.
    pub async fn cancel(
        &self,
        principal: &Principal,
        id: TaskId,
        grace: Duration,
    ) -> Result<TaskRow, HubError> {
        let mut row = self.control(principal, id).await?;
        let audit = self.audit(principal, Action::TaskControl, &id.to_string(), r#"{"act":"cancel"}"#);
        self.0.store.audit(audit).await?;
        let reason = format!("cancelled by {}", principal.name);
        if row.state == TaskState::Queued {
            let end = TaskEnd::without_process(TaskOutcome::Cancelled, reason.clone());
            let step = TaskStep::EndedIfQueued { end, at_unix_ms: self.0.clock.unix_ms() };
            let book = Arc::clone(&self.0.book);
            let stepped = to_the_end(async move { Ok(book.step(vec![(id, step)]).await?) });
            if let Some(Some(now)) = stepped.await?.pop() {
                row = now;
            }
            if row.state == TaskState::Ended {
                return Ok(Arc::unwrap_or_clone(row));
            }
        }
        // The order to run it may be just behind this one; the agent takes the first of two.
        self.send_again(&row);
        let grace = if grace.is_zero() { DEFAULT_GRACE } else { grace.min(MAX_GRACE) };
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.ask(&row, |request| Command::Cancel { request, task: id, grace_ms, reason }).await?;
        self.get(principal, id, Duration::ZERO).await
    }

    /// Types bytes into a task; answers with the number of bytes that the agent has taken in all. `offset` is the
    /// number of bytes sent before: what is sent twice is typed once.
    ///
    /// # Errors
    /// `forbidden`, `unknown_task`, `task_not_running`, `no_stdin`, `stdin_gap`, `stdin_full`, `node_offline`,
    /// `node_timeout`, `payload_too_large`.
    pub async fn write_stdin(
        &self,
        principal: &Principal,
        id: TaskId,
        offset: u64,
        data: bytes::Bytes,
        eof: bool,
    ) -> Result<u64, HubError> {
        if data.len() > muster_proto::MAX_OUTPUT_BYTES {
            return Err(HubError::new(
                ErrorCode::PayloadTooLarge,
                "one write to a task's input has at most 65536 bytes: send the rest in further ones"
                    .to_owned(),
            ));
        }
        let row = self.control(principal, id).await?;
        let command = |request| Command::Stdin { request, task: id, offset, data, eof };
        Ok(self.ask(&row, command).await?.stdin_offset)
    }

    /// Changes the size of a task's terminal.
    ///
    /// # Errors
    /// `forbidden`, `unknown_task`, `task_not_running`, `no_pty`, `node_offline`, `node_timeout`, `invalid_argument`.
    pub async fn resize(
        &self,
        principal: &Principal,
        id: TaskId,
        rows: u16,
        cols: u16,
    ) -> Result<(), HubError> {
        if rows == 0 || cols == 0 {
            return Err(HubError::new(
                ErrorCode::InvalidArgument,
                "a terminal has at least one row and one column".to_owned(),
            ));
        }
        let row = self.control(principal, id).await?;
        self.ask(&row, |request| Command::Resize { request, task: id, rows, cols }).await.map(drop)
    }

    /// Passes on an agent's answer to a command. Answers of other nodes than the one asked are ignored.
    pub fn answer(&self, node: &NodeId, request: u64, answer: CommandAnswer) {
        self.0.requests.answer(node, request, answer);
    }

    /// Ends queued tasks whose time is over. Called every [`EXPIRY_INTERVAL`].
    ///
    /// # Errors
    /// When the store fails; the next call tries again.
    pub(crate) async fn expire(&self) -> Result<(), StoreError> {
        let now = self.0.clock.unix_ms();
        let end = TaskEnd::without_process(TaskOutcome::Expired, "the node did not take it in time");
        let step = TaskStep::EndedIfQueued { end, at_unix_ms: now };
        let steps = self.0.book.overdue(self.0.clock.monotonic_ms()).into_iter().map(|id| (id, step.clone()));
        self.0.book.step(steps.collect()).await.map(drop)
    }

    async fn ask(
        &self,
        row: &TaskRow,
        command: impl FnOnce(u64) -> Command,
    ) -> Result<CommandAnswer, HubError> {
        let node = self.0.mesh.registry().get(row.node.as_str());
        let session = node.and_then(|node| node.session()).ok_or_else(|| {
            HubError::new(
                ErrorCode::NodeOffline,
                format!("node {} is offline: its tasks go on; try again when it is back", row.node),
            )
        })?;
        self.0.requests.ask(&row.node, &session, command, &self.0.metrics).await
    }

    /// A task that the principal may control and that is not over.
    async fn control(&self, principal: &Principal, id: TaskId) -> Result<Arc<TaskRow>, HubError> {
        self.authorize(principal, Action::TaskControl, id)?;
        if let Some(row) = self.0.book.get(id) {
            return Ok(row);
        }
        match self.0.store.task(id).await? {
            Some(_) => Err(HubError::new(ErrorCode::TaskNotRunning, format!("task {id} is over"))),
            None => Err(unknown_task(id)),
        }
    }

    fn authorize(&self, principal: &Principal, action: Action, id: TaskId) -> Result<(), HubError> {
        self.0.auth.authorize(principal, action, &id.to_string())
    }

    #[allow(clippy::disallowed_methods, reason = "the one place where task ids are minted")]
    fn new_row(&self, principal: &Principal, node: &Node, spec: TaskSpec) -> TaskRow {
        let now = self.0.clock.unix_ms();
        let ttl = match spec.queue_ttl_ms {
            0 => DEFAULT_QUEUE_TTL,
            ms => Duration::from_millis(ms).min(MAX_QUEUE_TTL),
        };
        TaskRow {
            id: TaskId::from_uuid(Uuid::now_v7()),
            node: node.id().clone(),
            spec,
            state: TaskState::Queued,
            end: None,
            created_by: principal.name.clone(),
            created_at_unix_ms: now,
            expires_at_unix_ms: now.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            dispatched_at_unix_ms: 0,
            started_at_unix_ms: 0,
            ended_at_unix_ms: 0,
            boot: registry_core::Boot(0),
            read_from: None,
            first: None,
            last: None,
        }
    }

    fn audit(&self, principal: &Principal, action: Action, resource: &str, detail: &str) -> AuditRow {
        AuditRow {
            at_unix_ms: self.0.clock.unix_ms(),
            principal: principal.name.clone(),
            action: action.as_str().to_owned(),
            resource: resource.to_owned(),
            detail_json: detail.to_owned(),
        }
    }
}

fn unknown_task(id: TaskId) -> HubError {
    HubError::new(ErrorCode::UnknownTask, format!("there is no task {id}: list them with `muster tasks ls`"))
}

/// What the audit log keeps of a task: where and what, not its environment, which often holds secrets.
fn audit_detail(row: &TaskRow) -> String {
    serde_json::json!({ "node": row.node.as_str(), "argv": row.spec.argv, "cwd": row.spec.cwd }).to_string()
}

fn check_spec(spec: &TaskSpec) -> Result<(), HubError> {
    let refuse = |field: &'static str, text: &str| {
        Err(HubError::new(ErrorCode::InvalidArgument, text.to_owned()).with("field", field))
    };
    if spec.argv.first().is_none_or(String::is_empty) {
        return refuse("argv", "a task needs a program to run: argv must not be empty");
    }
    let words = spec.argv.iter().chain(spec.env.keys()).chain(spec.env.values());
    if words.clone().chain([&spec.cwd]).any(|word| word.contains('\0')) {
        return refuse("argv", "arguments, environment and working folder may not contain a NUL character");
    }
    if spec.env.keys().any(|key| key.is_empty() || key.contains('=')) {
        return refuse("env", "the name of an environment variable may not be empty or contain =");
    }
    if words.chain([&spec.cwd]).map(|word| word.len() + 1).sum::<usize>() > MAX_SPEC_BYTES {
        return refuse(
            "argv",
            "arguments, environment and working folder may have 131072 bytes together: use standard input",
        );
    }
    match spec.pty {
        Some((0, _) | (_, 0)) => refuse("pty", "a terminal has at least one row and one column"),
        _ => Ok(()),
    }
}

fn idempotency(
    principal: &Principal,
    node: &NodeId,
    spec: &TaskSpec,
    key: String,
) -> Result<IdempotencyKey, HubError> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(HubError::new(
            ErrorCode::InvalidArgument,
            "an idempotency key is 1 to 255 visible ASCII characters without spaces".to_owned(),
        )
        .with("field", "idempotency_key"));
    }
    let request = serde_json::to_vec(&(node.as_str(), spec)).map_err(HubError::fault)?;
    Ok(IdempotencyKey { scope: principal.name.clone(), key, request_hash: Sha256::digest(request).into() })
}

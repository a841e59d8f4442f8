//! What the hub keeps: the traits that every back end implements, and the rows that pass through them.
//!
//! Two traits, because their promises differ: [`Store`] holds identity, tokens, tasks and the audit log and commits
//! before it answers; [`TerminalLog`] holds frames and answers when a whole group of them is durable.

mod log_rows;
mod log_totals;
mod numbers;
pub mod open;
pub mod postgres;
pub mod redis;
pub mod sqlite;
mod task_steps;
pub mod transfer;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use registry_core::{Boot, BootId, Cursor, Frame, NodeId, SessionEpoch, TaskEnd, TaskId, TaskState, UserId};

/// Why a store did not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The back end failed, or what was asked cannot be done. Nothing of it was stored, as far as the back end told.
    #[error("the store failed: {0}")]
    Failed(Arc<dyn std::error::Error + Send + Sync>),
    /// The database cannot be reached, or does not answer in time. What was asked may have been done; asking again does
    /// no harm.
    #[error("the database cannot be reached: {0}")]
    Unavailable(Arc<dyn std::error::Error + Send + Sync>),
    /// The database answers and will not be used like this: a bad URL, a wrong password, no such database, too old a
    /// server, one that is read-only. Somebody has to change something.
    #[error("{what}")]
    Refused {
        /// What to change, as a sentence without secrets.
        what: String,
        /// What the database said.
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// Another hub uses the database.
    #[error("another hub uses this database: {holder}; stop it, or give this one a database of its own")]
    InUse {
        /// Who, where and since when, as far as it is known.
        holder: String,
    },
    /// Another hub has taken the database over. This one cannot write to it any more.
    #[error("another hub has taken this database over: this one must stop")]
    Superseded,
    /// The terminal log has less of a boot than was appended before: the store was wiped, or put back to an older copy.
    #[error("the terminal log ends at frame {last_seq} of this boot, before these frames")]
    Behind {
        /// The last number that it has; 0: none.
        last_seq: u64,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The database was made by a newer Muster.
    #[error("the database has schema {found}, newer than the {known} that this build knows")]
    TooNew {
        /// Its schema version.
        found: u32,
        /// The newest that this build knows.
        known: u32,
    },
}

impl StoreError {
    /// Whether the same request may succeed later without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// The database says no for a reason that a person has to remove.
    pub(crate) fn refused(what: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), source: None }
    }
}

/// Shorthand for what stores return.
pub type StoreResult<T> = Result<T, StoreError>;

/// A node as it is kept. Identity is written synchronously at enrolment; the rest is written behind.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRow {
    /// The node's id, granted at enrolment.
    pub id: NodeId,
    /// Who owns it.
    pub user: UserId,
    /// Its name, unique within the user.
    pub name: String,
    /// Its Ed25519 public key: the identity itself.
    pub public_key: [u8; 32],
    /// Milliseconds since the Unix epoch.
    pub enrolled_at_unix_ms: u64,
    /// What changes with each session.
    pub live: NodeLive,
}

/// The part of a node's record that is written behind, latest wins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeLive {
    /// The highest session epoch granted.
    pub epoch: SessionEpoch,
    /// When the node was last heard of; 0: never.
    pub last_seen_unix_ms: u64,
    /// When the last session was attached; 0: never.
    pub attached_at_unix_ms: u64,
    /// Labels, from the agent.
    pub labels: BTreeMap<String, String>,
    /// Facts, agent version, capabilities and the last stats as one JSON document.
    pub detail_json: String,
}

/// What enrolling came to.
#[derive(Clone, Debug, PartialEq)]
pub enum EnrolOutcome {
    /// The node exists now, or did already for the same token and key.
    Enrolled(Box<NodeRow>),
    /// No such token, wrong secret, expired or spent. One answer for all.
    InvalidToken,
    /// Another node of this user has the name.
    NameTaken,
}

/// A join token as it is kept: the secret only as a hash.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRow {
    /// The public part.
    pub id: String,
    /// SHA-256 of the secret part.
    pub secret_hash: [u8; 32],
    /// Who will own the nodes.
    pub user: UserId,
    /// Milliseconds since the Unix epoch.
    pub created_at_unix_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub expires_at_unix_ms: u64,
    /// How many nodes may enrol with it.
    pub uses: u32,
    /// How many have.
    pub used: u32,
    /// Who made it.
    pub created_by: String,
}

/// What a task runs. Stored as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TaskSpec {
    /// Program and arguments, no shell in between.
    pub argv: Vec<String>,
    /// Added to the agent's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working folder; empty for the agent's home.
    #[serde(default)]
    pub cwd: String,
    /// On a PTY of this size, rows and columns; otherwise on pipes.
    #[serde(default)]
    pub pty: Option<(u16, u16)>,
    /// Keep standard input open.
    #[serde(default)]
    pub stdin: bool,
    /// End it after it ran for this long. 0: never.
    #[serde(default)]
    pub timeout_ms: u64,
    /// Expire if it was not dispatched for this long. 0: the default.
    #[serde(default)]
    pub queue_ttl_ms: u64,
    /// A shell that `muster attach` comes back to.
    #[serde(default)]
    pub interactive: bool,
}

/// A task as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRow {
    /// Its id.
    pub id: TaskId,
    /// Where it runs.
    pub node: NodeId,
    /// What it runs.
    pub spec: TaskSpec,
    /// Where it is in its life.
    pub state: TaskState,
    /// How it ended, once it has.
    pub end: Option<TaskEnd>,
    /// Who made it.
    pub created_by: String,
    /// Milliseconds since the Unix epoch; 0 where it has not happened.
    pub created_at_unix_ms: u64,
    /// When it expires if it is still queued.
    pub expires_at_unix_ms: u64,
    /// When it was given to the agent.
    pub dispatched_at_unix_ms: u64,
    /// When its process started, by the node's clock.
    pub started_at_unix_ms: u64,
    /// When it ended, by the node's clock where the node ended it.
    pub ended_at_unix_ms: u64,
    /// The run of the agent that it was given to; `Boot(0)`: none.
    pub boot: Boot,
    /// The last frame of its node's log before it was dispatched: read after it to see all of the task.
    pub read_from: Option<Cursor>,
    /// Its first frame.
    pub first: Option<Cursor>,
    /// Its last frame.
    pub last: Option<Cursor>,
}

/// The key under which a client may repeat the making of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Whose key it is: the principal.
    pub scope: String,
    /// The key as the client gave it.
    pub key: String,
    /// SHA-256 of what the client asked for, to tell a retry from a mistake.
    pub request_hash: [u8; 32],
}

/// What making a task came to.
#[derive(Clone, Debug, PartialEq)]
pub enum CreateTaskOutcome {
    /// It is written down.
    Created,
    /// The same request was made before: this is its task.
    Existing(Box<TaskRow>),
    /// The key was used for a different request.
    KeyReused,
}

/// One step of a task's life. Steps that come late (the task is further, or over) change nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskStep {
    /// queued -> dispatched.
    Dispatched {
        /// The run of the agent.
        boot: Boot,
        /// Milliseconds since the Unix epoch.
        at_unix_ms: u64,
        /// The head of the node's log at that moment.
        read_from: Cursor,
    },
    /// queued or dispatched -> running.
    Started {
        /// The `Started` frame.
        first: Cursor,
        /// The frame's time.
        at_unix_ms: u64,
    },
    /// queued -> ended; a task that was given out meanwhile is left alone.
    EndedIfQueued {
        /// How.
        end: TaskEnd,
        /// Milliseconds since the Unix epoch.
        at_unix_ms: u64,
    },
    /// anything but ended -> ended. The first end wins.
    Ended {
        /// How.
        end: TaskEnd,
        /// The `Ended` frame, when the node told.
        last: Option<Cursor>,
        /// Milliseconds since the Unix epoch.
        at_unix_ms: u64,
    },
}

/// Which tasks to list.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// Only this node's.
    pub node: Option<NodeId>,
    /// Only those that are not over.
    pub active: bool,
    /// Only those older than this one (ids sort by age).
    pub before: Option<TaskId>,
    /// At most this many.
    pub limit: usize,
}

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    /// Milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// Who.
    pub principal: String,
    /// What, for example `task.create`.
    pub action: String,
    /// On what: a node, task or token id.
    pub resource: String,
    /// Anything more, as JSON; never a secret.
    pub detail_json: String,
}

/// Identity, credentials, tokens, tasks, audit. Every method that changes something has committed when it returns.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The hub's own id, made at first start.
    async fn hub_id(&self) -> StoreResult<String>;
    /// Every node.
    async fn nodes(&self) -> StoreResult<Vec<NodeRow>>;
    /// Spends one use of a token and inserts the node, in one commit. Checks that the token exists, that
    /// `secret_hash` is its hash, that it is not over at `now_unix_ms` and not spent. Repeated with the same token and
    /// public key it answers with the node made before.
    async fn enrol(
        &self,
        token: &str,
        secret_hash: [u8; 32],
        node: NodeRow,
        audit: AuditRow,
    ) -> StoreResult<EnrolOutcome>;
    /// Writes the live part of some nodes; those that were deleted meanwhile are passed over.
    async fn save_live(&self, nodes: Vec<(NodeId, NodeLive)>) -> StoreResult<()>;
    /// Deletes a node with its tasks. False: there was none.
    async fn delete_node(&self, node: &NodeId, audit: AuditRow) -> StoreResult<bool>;

    /// Writes down a task in state queued.
    async fn create_task(
        &self,
        task: TaskRow,
        key: Option<IdempotencyKey>,
        audit: AuditRow,
    ) -> StoreResult<CreateTaskOutcome>;
    /// Takes steps in the life of tasks, all in one commit. Answers with the tasks as they are now, in the same order,
    /// and whether each step changed anything; `None` for unknown tasks.
    async fn step_tasks(&self, steps: Vec<(TaskId, TaskStep)>) -> StoreResult<Vec<Option<(TaskRow, bool)>>>;
    /// One task.
    async fn task(&self, id: TaskId) -> StoreResult<Option<TaskRow>>;
    /// Some tasks, newest first.
    async fn tasks(&self, filter: TaskFilter) -> StoreResult<Vec<TaskRow>>;
    /// Deletes ended tasks beyond the newest `keep_per_node` of each node, or ended before `before_unix_ms`; and
    /// idempotency keys older than a day. Returns how many tasks went.
    async fn trim_tasks(&self, keep_per_node: u32, before_unix_ms: u64, now_unix_ms: u64)
    -> StoreResult<u64>;

    /// Writes down a join token.
    async fn create_token(&self, token: TokenRow, audit: AuditRow) -> StoreResult<()>;
    /// Every join token, newest first.
    async fn tokens(&self) -> StoreResult<Vec<TokenRow>>;
    /// Deletes a join token. False: there was none.
    async fn delete_token(&self, id: &str, audit: AuditRow) -> StoreResult<bool>;

    /// Adds a line to the audit log.
    async fn audit(&self, row: AuditRow) -> StoreResult<()>;
    /// Since when writing has been held up from outside, by the clock's monotonic time in milliseconds; `None`: it is not.
    fn held_up_since_ms(&self) -> Option<u64>;
    /// True once another hub has taken it over: nothing can be written any more, and the hub has to end.
    fn is_superseded(&self) -> bool {
        false
    }
    /// Commits what is under way and closes. Later calls answer [`StoreError::Closed`].
    async fn close(&self);
}

/// Where one boot of a node's log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootHead {
    /// The node.
    pub node: NodeId,
    /// The run of the agent.
    pub boot: Boot,
    /// Which run it was.
    pub boot_id: BootId,
    /// The last durable number; 0: none.
    pub last_seq: u64,
    /// Nothing more will come: it ended with a close mark or an unknown gap.
    pub closed: bool,
}

/// Consecutive frames of one boot of one node.
#[derive(Clone, Debug)]
pub struct FrameRun {
    /// The node.
    pub node: NodeId,
    /// The run of the agent.
    pub boot: Boot,
    /// Which run it is.
    pub boot_id: BootId,
    /// In order, without holes; the first is the successor of the boot's head.
    pub frames: Vec<Arc<Frame>>,
}

/// A piece of a node's log.
#[derive(Clone, Debug, Default)]
pub struct LogPage {
    /// Frames after the place asked for, in order, over boots.
    pub frames: Vec<(Boot, Arc<Frame>)>,
    /// The first frame still kept, as the cursor before it; `None` when the log is empty. Frames between the place
    /// asked for and this one were trimmed.
    pub oldest: Option<Cursor>,
    /// True when the page reached the end of what is durable.
    pub at_head: bool,
}

/// How much of the terminal log is kept. Whatever is reached first trims the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Bytes a node (as [`Frame::weight`] counts them).
    pub node_bytes: u64,
    /// Frames a node.
    pub node_frames: u64,
    /// Milliseconds.
    pub age_ms: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// Frames of one boot that a log had made durable and has no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The node.
    pub node: NodeId,
    /// The run of the agent.
    pub boot: Boot,
    /// The last number that the log still has; 0: none.
    pub last_seq: u64,
    /// The last that it had.
    pub had_seq: u64,
}

/// Terminal frames.
#[async_trait]
pub trait TerminalLog: Send + Sync + 'static {
    /// Every boot that the log knows.
    async fn heads(&self) -> StoreResult<Vec<BootHead>>;
    /// Makes frames durable, all of them in one commit with whatever else is waiting. Frames that the log has already
    /// are passed over, so that a run whose outcome is unknown can be appended again. A run that leaves a hole after its
    /// boot's head is refused as a whole with [`StoreError::Behind`], any other that does not continue it with
    /// [`StoreError::Failed`]; the others are unharmed.
    async fn append(&self, run: FrameRun) -> StoreResult<()>;
    /// Up to about `max_bytes` (at least one frame, when there is one) of frames after a cursor.
    async fn read(&self, node: &NodeId, after: Cursor, max_bytes: usize) -> StoreResult<LogPage>;
    /// The cursor after which about `bytes` of output stand before the head.
    async fn cursor_before_tail(&self, node: &NodeId, bytes: u64) -> StoreResult<Cursor>;
    /// The cursor after which the frames are not older than this, as far as whole rows tell.
    async fn cursor_at(&self, node: &NodeId, unix_ms: u64) -> StoreResult<Cursor>;
    /// Removes everything of a node.
    async fn erase(&self, node: &NodeId) -> StoreResult<()>;
    /// Trims a little (bounded work); true when there is more to do.
    async fn trim(&self, retention: Retention, now_unix_ms: u64) -> StoreResult<bool>;
    /// Waits until frames that were durable are gone (the store was wiped, or put back to an older copy), and says which.
    /// Each loss is told once, to one caller. Never returns for a store that keeps what it commits. Cancel safe.
    async fn lost(&self) -> Vec<Loss> {
        std::future::pending().await
    }
    /// Bytes kept in all, as retention counts them.
    fn total_bytes(&self) -> u64;
    /// Since when writing has been held up from outside, by the clock's monotonic time in milliseconds; `None`: it is not.
    fn held_up_since_ms(&self) -> Option<u64>;
    /// True once another hub has taken it over: nothing can be written any more, and the hub has to end.
    fn is_superseded(&self) -> bool {
        false
    }
    /// Commits what is under way and closes.
    async fn close(&self);
}

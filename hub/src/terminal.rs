//! Reading a node's terminal: what is durable, what is on its way to the disk, and what comes, as one run of frames.
//!
//! A reader is driven by its cursor alone. It subscribes first, then reads the log up to the last frame that was
//! published, then takes frames from the bus as long as each is the successor of the one before; whatever does not fit
//! (it lagged, the hub dropped its copy, the agent sends again) sends it back to the log. So no reader misses a frame
//! or sees one twice, however slow it is, and a slow one costs the hub no memory.

mod reader;
pub mod views;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use registry_core::{Boot, Cursor, Frame, Interest, SubscribeOptions, TaskId, TaskState};
use tokio_util::sync::CancellationToken;

use self::reader::Reader;
use self::views::Views;
use crate::auth::{Action, Auth, Principal};
use crate::error::{ErrorCode, HubError};
use crate::ingest::Ingest;
use crate::mesh::Mesh;
use crate::store::Store;
use crate::tasks::book::Book;

/// A follower that lags goes back to the log, so its queue being full for long means nothing: ten years.
const NEVER: std::time::Duration = std::time::Duration::from_secs(10 * 365 * 24 * 3600);

/// Where reading begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadSince {
    /// At the oldest frame kept.
    #[default]
    Oldest,
    /// After this frame.
    Cursor(Cursor),
    /// So that about this many bytes of output come before the head.
    TailBytes(u64),
    /// At frames not older than this, in milliseconds since the Unix epoch.
    UnixMs(u64),
}

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct ReadRequest {
    /// Id or name.
    pub node: String,
    /// Where to begin.
    pub since: ReadSince,
    /// Only this task's frames; the stream ends after its last one.
    pub task: Option<TaskId>,
    /// Go on with what comes.
    pub follow: bool,
    /// End after about this many bytes of output; 0: no limit.
    pub max_bytes: u64,
}

/// What a reader is given.
#[derive(Clone, Debug)]
pub enum ReadItem {
    /// First: where reading begins.
    Start {
        /// Nothing is missing between the place asked for and the first frame.
        recovered: bool,
        /// The place.
        since: Cursor,
    },
    /// Frames of one boot, in order.
    Frames {
        /// The run of the agent.
        boot: Boot,
        /// At least one.
        frames: Vec<Arc<Frame>>,
    },
    /// Only with `follow`: everything that is there now was given.
    CaughtUp,
    /// Last, when the stream ends as it should.
    End {
        /// Read on from here.
        next: Cursor,
        /// There is more: `max_bytes` was reached.
        truncated: bool,
    },
}

/// A stream of what is read.
pub type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadItem, HubError>> + Send>>;

/// Reading terminals.
pub struct Terminal {
    mesh: Mesh,
    ingest: Ingest,
    store: Arc<dyn Store>,
    book: Arc<Book>,
    auth: Arc<Auth>,
    draining: CancellationToken,
    views: Views,
}

impl Terminal {
    /// Puts the service together.
    #[must_use]
    pub fn new(
        mesh: Mesh,
        ingest: Ingest,
        store: Arc<dyn Store>,
        book: Arc<Book>,
        auth: Arc<Auth>,
        draining: CancellationToken,
        views: Views,
    ) -> Self {
        Self { mesh, ingest, store, book, auth, draining, views }
    }

    /// Reads a node's log.
    ///
    /// # Errors
    /// `forbidden`, `unknown_node`, `unknown_task`, `invalid_argument` (the task is another node's),
    /// `store_unavailable`; the stream's items fail with `store_unavailable` and `draining`.
    pub async fn read(&self, principal: &Principal, request: ReadRequest) -> Result<ReadStream, HubError> {
        let node = self.mesh.resolve(principal, &request.node)?;
        self.auth.authorize(principal, Action::TerminalRead, node.id().as_str())?;
        let log = self.ingest.node(&node);
        // Taken before the task is looked up: if that is still queued, none of its frames can be before this place.
        let published = log.progress().published;
        let task = match request.task {
            Some(id) => Some(self.task(id).await?),
            None => None,
        };
        if task.as_ref().is_some_and(|task| task.node != *node.id()) {
            return Err(elsewhere());
        }
        let interest = Interest { users: Vec::new(), nodes: vec![node.id().clone()] };
        let options = SubscribeOptions { grace: NEVER, ..SubscribeOptions::default() };
        let subscription = request.follow.then(|| self.mesh.registry().subscribe(interest, options));
        let store = Arc::clone(self.ingest.log());
        let since = match request.since {
            ReadSince::Oldest => None,
            ReadSince::Cursor(cursor) => Some(cursor),
            ReadSince::TailBytes(bytes) => Some(store.cursor_before_tail(node.id(), bytes).await?),
            ReadSince::UnixMs(unix_ms) => Some(store.cursor_at(node.id(), unix_ms).await?),
        };
        let task_floor = task.as_ref().and_then(|task| match task.state {
            TaskState::Queued => Some(published),
            _ => task.read_from,
        });
        let tasks = reader::TaskSource { store: Arc::clone(&self.store), book: Arc::clone(&self.book) };
        let reader =
            Reader::new(log, store, subscription, tasks, task, request.max_bytes, self.draining.clone());
        let floor = task_floor.unwrap_or(Cursor::START);
        Ok(Box::pin(reader.start(since, floor)))
    }

    async fn task(&self, id: TaskId) -> Result<Arc<crate::store::TaskRow>, HubError> {
        if let Some(row) = self.book.get(id) {
            return Ok(row);
        }
        let row = self.store.task(id).await?;
        row.map(Arc::new).ok_or_else(|| {
            HubError::new(
                ErrorCode::UnknownTask,
                format!("there is no task {id}: list them with `muster tasks ls`"),
            )
        })
    }
}

fn elsewhere() -> HubError {
    let detail = "the task belongs to another node: `muster tasks get` says which";
    HubError::new(ErrorCode::InvalidArgument, detail).with("field", "task")
}

//! The book of tasks that are not over: what the store says, in memory, and every step that is taken in it.
//!
//! A step is committed first and known afterwards: memory never runs ahead of the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use registry_core::{Boot, Cursor, FrameKind, NodeId, TaskId, TaskState};
use tokio::sync::watch;

use crate::fleet::{Event, Registry};
use crate::metrics::Metrics;
use crate::store::{FrameRun, Store, StoreResult, TaskFilter, TaskRow, TaskStep};
use crate::telemetry::traces;

/// The tasks that are not over.
pub struct Book {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    active: Mutex<Active>,
}

/// Tasks by node, and each task's node.
#[derive(Default)]
struct Active {
    nodes: HashMap<NodeId, BTreeMap<TaskId, Entry>>,
    of: HashMap<TaskId, NodeId>,
}

#[derive(Clone)]
struct Entry {
    row: watch::Sender<Arc<TaskRow>>,
    /// When it expires if it is still queued, by the monotonic clock, in milliseconds.
    expires_ms: u64,
}

impl Book {
    /// Loads the tasks that are not over.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open(
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
        now_unix_ms: u64,
        now_ms: u64,
    ) -> StoreResult<Self> {
        let filter = TaskFilter { active: true, limit: usize::MAX, ..TaskFilter::default() };
        let rows = store.tasks(filter).await?;
        let book = Self { store, registry, metrics, active: Mutex::default() };
        for row in rows {
            let left = row.expires_at_unix_ms.saturating_sub(now_unix_ms);
            book.enter(&Arc::new(row), now_ms.saturating_add(left));
        }
        Ok(book)
    }

    /// Takes in a task that was just written down.
    pub fn enter(&self, row: &Arc<TaskRow>, expires_ms: u64) {
        let entry = Entry { row: watch::Sender::new(Arc::clone(row)), expires_ms };
        let count = {
            let mut active = self.active.lock();
            active.of.insert(row.id, row.node.clone());
            active.nodes.entry(row.node.clone()).or_default().insert(row.id, entry);
            active.of.len()
        };
        self.metrics.tasks_active.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A task that is not over.
    #[must_use]
    pub fn get(&self, id: TaskId) -> Option<Arc<TaskRow>> {
        self.active.lock().get(id).map(|entry| Arc::clone(&entry.row.borrow()))
    }

    /// Tells of every step of a task that is not over.
    #[must_use]
    pub fn follow(&self, id: TaskId) -> Option<watch::Receiver<Arc<TaskRow>>> {
        self.active.lock().get(id).map(|entry| entry.row.subscribe())
    }

    /// A node's tasks that are not over, oldest first.
    #[must_use]
    pub fn of_node(&self, node: &NodeId) -> Vec<Arc<TaskRow>> {
        let active = self.active.lock();
        let tasks = active.nodes.get(node).into_iter().flat_map(BTreeMap::values);
        tasks.map(|entry| Arc::clone(&entry.row.borrow())).collect()
    }

    /// Queued tasks whose time to be dispatched is over.
    #[must_use]
    pub fn overdue(&self, now_ms: u64) -> Vec<TaskId> {
        let active = self.active.lock();
        let due =
            |entry: &&Entry| entry.expires_ms <= now_ms && entry.row.borrow().state == TaskState::Queued;
        active
            .nodes
            .values()
            .flat_map(BTreeMap::values)
            .filter(due)
            .map(|entry| entry.row.borrow().id)
            .collect()
    }

    /// Takes steps: commits them, then makes them known. Answers with the tasks as they are now.
    ///
    /// # Errors
    /// When the store fails; then no step was taken.
    pub async fn step(&self, steps: Vec<(TaskId, TaskStep)>) -> StoreResult<Vec<Option<Arc<TaskRow>>>> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = steps.iter().map(|(id, _)| *id).collect();
        let mut rows = Vec::with_capacity(steps.len());
        for (id, answer) in ids.into_iter().zip(self.store.step_tasks(steps).await?) {
            let row = answer.map(|(row, _changed)| Arc::new(row));
            match &row {
                // Also a row that this step did not change may be ahead of the book: nobody would take it on otherwise.
                Some(row) => self.know(row),
                // Its node was deleted.
                None => self.forget(id),
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Takes the steps that frames tell of. Frames can only move tasks of their own node.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn observe(&self, run: &FrameRun) -> StoreResult<()> {
        let mut steps = Vec::new();
        for frame in &run.frames {
            let Some(task) = frame.task else { continue };
            let at = Cursor::new(run.boot, frame.seq);
            let step = match &frame.kind {
                FrameKind::Started { .. } => TaskStep::Started { first: at, at_unix_ms: frame.at_unix_ms },
                FrameKind::Ended(end) => {
                    TaskStep::Ended { end: end.clone(), last: Some(at), at_unix_ms: frame.at_unix_ms }
                }
                _ => continue,
            };
            if self.get(task).is_some_and(|row| row.node == run.node) {
                steps.push((task, step));
            }
        }
        self.step(steps).await.map(drop)
    }

    /// Forgets a deleted node's tasks.
    pub fn forget_node(&self, node: &NodeId) {
        let gone = {
            let mut active = self.active.lock();
            let gone = active.nodes.remove(node);
            for id in gone.iter().flat_map(BTreeMap::keys) {
                active.of.remove(id);
            }
            gone
        };
        drop(gone);
    }

    /// A node's tasks that were given to a run of its agent that is over.
    #[must_use]
    pub fn stranded(&self, node: &NodeId, boot: Boot) -> Vec<TaskId> {
        let given = |row: &&Arc<TaskRow>| {
            matches!(row.state, TaskState::Dispatched | TaskState::Running) && row.boot != boot
        };
        self.of_node(node).iter().filter(given).map(|row| row.id).collect()
    }

    fn forget(&self, id: TaskId) {
        let gone = self.active.lock().remove(id);
        // Whoever follows it is woken by this: not under the lock.
        drop(gone);
    }

    fn know(&self, row: &Arc<TaskRow>) {
        let ended = row.state == TaskState::Ended;
        let (entry, count) = {
            let mut active = self.active.lock();
            let forward = active.get(row.id).is_some_and(|entry| entry.row.borrow().state < row.state);
            let entry = match (forward, ended) {
                (false, _) => None,
                (true, true) => active.remove(row.id),
                (true, false) => active.get(row.id).cloned(),
            };
            (entry, active.of.len())
        };
        let Some(entry) = entry else { return };
        entry.row.send_if_modified(|known| {
            let forward = known.state < row.state;
            if forward {
                *known = Arc::clone(row);
            }
            forward
        });
        self.metrics.tasks_active.set(i64::try_from(count).unwrap_or(i64::MAX));
        if let Some(end) = row.end.as_ref().filter(|_| ended) {
            self.metrics.task_ended(end.outcome.as_str());
            traces::task_ended(row);
        }
        if let Some(node) = self.registry.get(row.node.as_str()) {
            // As it is by now: of two steps that are told at once, the later one must be told last.
            self.registry.publish(&node, |_| Event::Task(Arc::clone(&entry.row.borrow())).into());
        }
    }
}

impl Active {
    fn get(&self, id: TaskId) -> Option<&Entry> {
        self.nodes.get(self.of.get(&id)?)?.get(&id)
    }

    fn remove(&mut self, id: TaskId) -> Option<Entry> {
        let node = self.of.remove(&id)?;
        let tasks = self.nodes.get_mut(&node)?;
        let entry = tasks.remove(&id);
        if tasks.is_empty() {
            self.nodes.remove(&node);
        }
        entry
    }
}

//! What was promised, written down outside of the system at the moment that it was promised, and held against what
//! the system says afterwards.

pub mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use muster_proto::v1 as pb;

pub use verdict::Verdict;

/// Promises of a hub. Cloning gives another hold on the same ledger.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

/// Everything that was promised.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Tasks whose making was answered, by id.
    pub tasks: BTreeMap<String, TaskPromise>,
    /// Every command that was asked for, also where no answer came.
    pub commands: BTreeSet<String>,
    /// Join tokens that were answered.
    pub tokens: BTreeSet<String>,
    /// Nodes whose enrolment was answered: names by id.
    pub nodes: BTreeMap<String, String>,
    /// The highest number that was shown as durable, by node and boot.
    pub heads: BTreeMap<(String, u64), u64>,
    /// What was contradicted while it went on.
    pub violations: Vec<String>,
}

/// A task that was answered.
#[derive(Clone, Debug)]
pub struct TaskPromise {
    /// Whose.
    pub node_id: String,
    /// Its idempotency key, which is also the line that its command leaves on the node.
    pub key: String,
    /// What it has to have said if it ran to its end.
    pub says: Says,
    /// Its end, once that was shown.
    pub end: Option<TaskEnd>,
}

/// What a command says.
#[derive(Clone, Debug)]
pub enum Says {
    /// Exactly this.
    Exactly(Vec<u8>),
    /// What it also wrote to this file.
    AsInFile(PathBuf),
}

/// How a task ended, as far as it may never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// The outcome.
    pub outcome: pb::TaskOutcome,
    /// The process's exit code.
    pub exit_code: Option<u32>,
    /// The signal that ended it.
    pub signal: Option<u32>,
}

impl TaskEnd {
    /// Of a task that is over.
    #[must_use]
    pub fn of(task: &pb::TaskView) -> Option<Self> {
        let is_over = task.state() == pb::TaskState::Ended;
        is_over.then(|| Self { outcome: task.outcome(), exit_code: task.exit_code, signal: task.signal })
    }
}

impl Ledger {
    /// A command is about to be asked for.
    pub fn asked(&self, key: &str) {
        self.book().commands.insert(key.to_owned());
    }

    /// The making of a task was answered. The same key must always have the same task.
    pub fn task(&self, task: &pb::TaskView, key: &str, says: Says) {
        let mut book = self.book();
        let promise = TaskPromise { node_id: task.node_id.clone(), key: key.to_owned(), says, end: None };
        let other = book.tasks.iter().find(|(id, known)| known.key == key && **id != task.task_id);
        if let Some((other, _)) = other {
            let what = format!("key {key} made task {other} and then {}", task.task_id);
            book.violations.push(what);
        }
        book.tasks.entry(task.task_id.clone()).or_insert(promise);
    }

    /// A task was shown. Its first end is its last.
    pub fn shown(&self, task: &pb::TaskView) {
        let mut book = self.book();
        let Some(end) = TaskEnd::of(task) else { return };
        let Some(promise) = book.tasks.get_mut(&task.task_id) else { return };
        let first = promise.end.get_or_insert_with(|| end.clone()).clone();
        if first != end {
            book.violations.push(format!("task {} had ended as {first:?} and then as {end:?}", task.task_id));
        }
    }

    /// A join token was answered.
    pub fn token(&self, token_id: &str) {
        self.book().tokens.insert(token_id.to_owned());
    }

    /// An enrolment was answered.
    pub fn node(&self, node_id: &str, name: &str) {
        self.book().nodes.insert(node_id.to_owned(), name.to_owned());
    }

    /// A node was shown: what counts as durable of its log.
    pub fn head(&self, node: &pb::NodeView) {
        if let Some(head) = node.head {
            let mut book = self.book();
            let known = book.heads.entry((node.node_id.clone(), head.boot)).or_default();
            *known = head.seq.max(*known);
        }
    }

    /// Tasks that were answered and not shown as over.
    #[must_use]
    pub fn open_tasks(&self) -> Vec<String> {
        let book = self.book();
        book.tasks.iter().filter(|(_, promise)| promise.end.is_none()).map(|(id, _)| id.clone()).collect()
    }

    /// How much was promised so far: tasks and tokens.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let book = self.book();
        (book.tasks.len(), book.tokens.len())
    }

    /// All of it, as of now.
    #[must_use]
    pub fn copy(&self) -> Book {
        self.book().clone()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().expect("no one panics while writing")
    }
}

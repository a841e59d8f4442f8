//! The rules of a task's life, the same in every store.

use registry_core::{Boot, TaskEnd, TaskState};

use super::{TaskRow, TaskStep};

/// How long a request can be repeated under its key, in milliseconds: a day, longer than any client retries.
pub(super) const IDEMPOTENCY_KEEP_MS: u64 = 24 * 60 * 60 * 1000;

/// Tasks, and as many idempotency keys, that one trim deletes at most; a caller repeats while it deletes any.
pub(super) const TRIM_ROWS: i64 = 1000;

/// Takes one step; false when it comes too late to change anything.
pub(super) fn advance(task: &mut TaskRow, step: &TaskStep) -> bool {
    match step {
        TaskStep::Dispatched { boot, at_unix_ms, read_from } => {
            if task.state != TaskState::Queued {
                return false;
            }
            task.state = TaskState::Dispatched;
            task.boot = *boot;
            task.dispatched_at_unix_ms = *at_unix_ms;
            task.read_from = Some(*read_from);
        }
        TaskStep::Started { first, at_unix_ms } => {
            if !matches!(task.state, TaskState::Queued | TaskState::Dispatched) {
                return false;
            }
            task.state = TaskState::Running;
            task.started_at_unix_ms = *at_unix_ms;
            task.first = Some(*first);
            belongs_to(task, first.boot);
        }
        TaskStep::EndedIfQueued { end, at_unix_ms } => {
            if task.state != TaskState::Queued {
                return false;
            }
            finish(task, end, *at_unix_ms);
        }
        TaskStep::Ended { end, last, at_unix_ms } => {
            if task.state == TaskState::Ended {
                return false;
            }
            finish(task, end, *at_unix_ms);
            task.last = *last;
            if let Some(last) = last {
                belongs_to(task, last.boot);
            }
        }
    }
    true
}

fn finish(task: &mut TaskRow, end: &TaskEnd, at_unix_ms: u64) {
    task.state = TaskState::Ended;
    task.ended_at_unix_ms = at_unix_ms;
    task.end = Some(end.clone());
}

/// A frame may be seen before the dispatch is written down; it says which run has the task.
fn belongs_to(task: &mut TaskRow, boot: Boot) {
    if task.boot == Boot(0) {
        task.boot = boot;
    }
}

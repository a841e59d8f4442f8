//! A node's newest tasks: how they went, and the begin and end of what they said.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use registry_core::terminal::commands::{CommandSummary, CommandsView};
use registry_core::terminal::excerpt::Excerpt;
use registry_core::{Boot, Cursor, Frame, TaskId, TaskState};

use super::Range;
use super::scan::{Fold, Stretch};
use crate::auth::{Action, Principal};
use crate::error::HubResult;
use crate::store::{TaskFilter, TaskRow};
use crate::terminal::Terminal;

/// Tasks in one answer unless asked otherwise.
pub const DEFAULT_COMMANDS: usize = 10;
/// The most tasks in one answer.
pub const MAX_COMMANDS: usize = 100;
/// Text of each task's output in a list of them unless asked otherwise, in bytes: a screenful.
pub const DEFAULT_COMMAND_BYTES: usize = 2 * 1024;
/// The most text of each task's output in a list of them, in bytes. Who wants more asks for one task, or reads on.
pub const MAX_COMMAND_BYTES: usize = 64 * 1024;
/// The most text of a whole list of tasks, in bytes: an answer has to fit into one message.
const MAX_LIST_BYTES: usize = 512 * 1024;
/// Text of one task's output when it is asked for alone and no size is named, in bytes: about two thousand tokens of a
/// language model.
pub const DEFAULT_OUTPUT_BYTES: usize = 8 * 1024;
/// The most text of one task's output, in bytes. Who wants more reads the terminal.
pub const MAX_OUTPUT_BYTES: usize = 1024 * 1024;

/// Which commands.
#[derive(Clone, Debug, Default)]
pub struct CommandsQuery {
    /// Id or name.
    pub node: String,
    /// Only this task.
    pub task: Option<TaskId>,
    /// At most so many; 0: [`DEFAULT_COMMANDS`].
    pub limit: usize,
    /// Text of each, in bytes; `None`: [`DEFAULT_COMMAND_BYTES`].
    pub max_bytes: Option<usize>,
}

/// Commands, newest last.
#[derive(Clone, Debug)]
pub struct Commands {
    /// The commands.
    pub commands: Vec<Command>,
    /// What was read.
    pub range: Range,
    /// There are older ones.
    pub more: bool,
}

/// A task and what it said.
#[derive(Clone, Debug)]
pub struct Command {
    /// The task.
    pub task: TaskRow,
    /// What it said.
    pub said: Said,
}

/// What a task said, as lines of text, shortened in the middle.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Head, tail and what is between them.
    pub excerpt: Excerpt,
    /// Bytes that the task wrote, as it wrote them, as far as they were read.
    pub output_bytes: u64,
    /// Its first frame that was read.
    pub first: Option<Cursor>,
    /// Its last frame that was read.
    pub last: Option<Cursor>,
    /// Nothing of what it has said so far is missing.
    pub complete: bool,
    /// Whoever reads on does so from here; `None` for a task that was never given to its node.
    pub cursor: Option<Cursor>,
}

impl Terminal {
    /// A node's newest tasks, with what they said. One pass over the log, whatever their number.
    ///
    /// # Errors
    /// `forbidden`, `unknown_node`, `unknown_task`, `invalid_argument` (the task is another node's),
    /// `store_unavailable`.
    pub async fn commands(&self, principal: &Principal, query: CommandsQuery) -> HubResult<Commands> {
        let node = self.mesh.resolve(principal, &query.node)?;
        self.auth.authorize(principal, Action::TerminalRead, node.id().as_str())?;
        self.auth.authorize(principal, Action::TaskRead, "tasks")?;
        let limit = if query.limit == 0 { DEFAULT_COMMANDS } else { query.limit.min(MAX_COMMANDS) };
        let mut rows = match query.task {
            Some(id) => vec![self.task_of(&node, id).await?],
            None => {
                let node = Some(node.id().clone());
                self.store.tasks(TaskFilter { node, limit: limit + 1, ..TaskFilter::default() }).await?
            }
        };
        let more = rows.len() > limit;
        rows.truncate(limit);
        rows.reverse();
        let share = MAX_LIST_BYTES / rows.len().max(1);
        let max_bytes = query.max_bytes.unwrap_or(DEFAULT_COMMAND_BYTES).min(MAX_COMMAND_BYTES).min(share);
        let (said, range) = self.said(principal, &mut rows, max_bytes).await?;
        let commands = rows.into_iter().zip(said).map(|(task, said)| Command { task, said }).collect();
        Ok(Commands { commands, range, more })
    }

    /// What one task said, shortened to about `max_bytes`.
    ///
    /// # Errors
    /// `forbidden`, `unknown_node`, `store_unavailable`.
    pub async fn output(&self, principal: &Principal, task: &TaskRow, max_bytes: usize) -> HubResult<Said> {
        let max_bytes = max_bytes.min(MAX_OUTPUT_BYTES);
        let (mut said, _) = self.said(principal, &mut [task.clone()], max_bytes).await?;
        Ok(said.pop().unwrap_or_default())
    }

    /// What each of these tasks of one node said, in their order. Rows that are behind what was read are brought on.
    async fn said(
        &self,
        principal: &Principal,
        rows: &mut [TaskRow],
        max_bytes: usize,
    ) -> HubResult<(Vec<Said>, Range)> {
        let given: Vec<(&TaskRow, Cursor)> =
            rows.iter().filter_map(|row| Some((row, row.read_from?))).collect();
        let nothing = || Said { complete: true, ..Said::default() };
        let Some(from) = given.iter().map(|(_, from)| *from).min() else {
            let range = Range { first: Cursor::START, last: Cursor::START, complete: true };
            return Ok((rows.iter().map(|_| nothing()).collect(), range));
        };
        let turn = Arc::new(self.views.turn("commands").await?);
        let view = CommandsView::of(given.iter().map(|(row, _)| row.id), max_bytes);
        let node = &given[0].0.node;
        let scanned = self.scan(principal, node, Stretch::ToPresent(from), &turn, Summing(view)).await?;
        let mut summaries: HashMap<TaskId, CommandSummary> =
            scanned.fold.0.finish().into_iter().map(|summary| (summary.task, summary)).collect();
        let range = scanned.range;
        let said = |row: &mut TaskRow| {
            let Some(read_from) = row.read_from else { return nothing() };
            let from_its_begin = range.first <= read_from;
            match summaries.remove(&row.id) {
                // Given to its node, and nothing of it has come yet: or what has come is gone.
                None => Said {
                    complete: from_its_begin && range.complete,
                    cursor: Some(range.last),
                    ..Said::default()
                },
                Some(summary) => {
                    bring_on(row, &summary);
                    Said {
                        complete: summary.complete,
                        output_bytes: summary.output_bytes,
                        first: Some(summary.first),
                        last: Some(summary.last),
                        excerpt: summary.output,
                        // Nothing follows the end of a task.
                        cursor: Some(if summary.end.is_some() { summary.last } else { range.last }),
                    }
                }
            }
        };
        Ok((rows.iter_mut().map(said).collect(), range))
    }
}

/// Frames are seen before what they say of tasks is written down.
fn bring_on(row: &mut TaskRow, summary: &CommandSummary) {
    if let Some(at) = summary.started_at_unix_ms.filter(|_| row.first.is_none()) {
        row.state = row.state.max(TaskState::Running);
        (row.first, row.started_at_unix_ms) = (Some(summary.first), at);
    }
    if let Some(end) = summary.end.clone().filter(|_| row.state != TaskState::Ended) {
        row.state = TaskState::Ended;
        (row.end, row.last) = (Some(end), Some(summary.last));
        row.ended_at_unix_ms = summary.ended_at_unix_ms.unwrap_or_default();
    }
}

struct Summing(CommandsView);

impl Fold for Summing {
    fn take(&mut self, boot: Boot, frames: &[Arc<Frame>]) -> ControlFlow<()> {
        for frame in frames {
            self.0.feed(boot, frame);
        }
        if self.0.is_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

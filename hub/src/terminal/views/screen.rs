//! What a task's terminal shows now.

use std::ops::ControlFlow;
use std::sync::Arc;

use registry_core::terminal::screen::{Screen as Shown, ScreenOptions, ScreenView};
use registry_core::{Boot, Frame, FrameKind, TaskId, TaskState};

use super::Range;
use super::scan::{Fold, Stretch};
use super::screens::Screen;
use crate::auth::{Action, Principal};
use crate::error::{ErrorCode, HubError, HubResult};
use crate::fleet::Node;
use crate::store::{TaskFilter, TaskRow};
use crate::terminal::Terminal;

/// Scrollback that a screen keeps, in lines, and that can be had of it.
pub const MAX_SCROLLBACK_LINES: usize = 1_000;
/// The most text in an answer, in bytes: a screen of the largest size and a long scrollback.
const MAX_SHOWN_BYTES: usize = 1024 * 1024;
/// How many of a node's newest tasks are looked at for one with a terminal.
const LOOK_BACK_TASKS: usize = 200;

/// Which screen.
#[derive(Clone, Debug, Default)]
pub struct ScreenQuery {
    /// Node id or name.
    pub node: String,
    /// A task with a PTY; otherwise the newest that runs, or else the newest.
    pub task: Option<TaskId>,
    /// Lines of scrollback before it.
    pub scrollback_lines: usize,
}

/// A screen.
#[derive(Clone, Debug)]
pub struct ScreenShown {
    /// Whose it is.
    pub task: TaskRow,
    /// What was read to draw it.
    pub range: Range,
    /// What it shows.
    pub screen: Shown,
}

impl Terminal {
    /// What a task's terminal shows now.
    ///
    /// # Errors
    /// `forbidden`, `unknown_node`, `unknown_task`, `invalid_argument` (the task is another node's), `no_pty`,
    /// `store_unavailable`.
    pub async fn screen(&self, principal: &Principal, query: ScreenQuery) -> HubResult<ScreenShown> {
        let node = self.mesh.resolve(principal, &query.node)?;
        self.auth.authorize(principal, Action::TerminalRead, node.id().as_str())?;
        self.auth.authorize(principal, Action::TaskRead, "tasks")?;
        let task = match query.task {
            Some(id) => self.task_of(&node, id).await?,
            None => self.newest_on_a_terminal(&node).await?,
        };
        let Some(size) = task.spec.pty else {
            let detail = "the task has no terminal: read what it said with --view text";
            return Err(HubError::new(ErrorCode::NoPty, detail));
        };
        let from = task.read_from.unwrap_or(self.ingest.node(&node).progress().published);
        let seat = self.views.screens.seat(node.id(), task.id, self.views.clock.monotonic_ms());
        let _its_turn = seat.turn.acquire().await.map_err(HubError::fault)?;
        let turn = Arc::new(self.views.turn("screen").await?);
        let new = || Drawing {
            task: task.id,
            screen: Screen {
                view: ScreenView::new(options(size)),
                first: from,
                at: from,
                complete: true,
                over: false,
            },
        };
        // Until it is put back the seat is empty: whoever gives up half-way leaves nothing half-fed behind.
        let mut drawing = seat.take().map_or_else(new, |screen| Drawing { task: task.id, screen });
        if !drawing.screen.over {
            let first = drawing.screen.first;
            let asked = drawing.screen.at;
            let scanned = self.scan(principal, node.id(), Stretch::ToPresent(asked), &turn, drawing).await?;
            drawing = scanned.fold;
            let screen = &mut drawing.screen;
            screen.first = if scanned.shortened { scanned.range.first } else { first };
            screen.complete &= scanned.range.complete;
            screen.at = scanned.range.last;
        }
        let screen = drawing.screen;
        let shown = screen.view.snapshot(query.scrollback_lines.min(MAX_SCROLLBACK_LINES), MAX_SHOWN_BYTES);
        let range = Range { first: screen.first, last: screen.at, complete: screen.complete };
        seat.put(screen);
        Ok(ScreenShown { task, range, screen: shown })
    }

    /// The newest task with a terminal that runs, or else the newest of those that did.
    async fn newest_on_a_terminal(&self, node: &Node) -> HubResult<TaskRow> {
        let on_a_terminal = |row: &TaskRow| row.spec.pty.is_some() && row.read_from.is_some();
        let running = self.book.of_node(node.id());
        let running = running.into_iter().filter(|row| row.state == TaskState::Running && on_a_terminal(row));
        if let Some(row) = running.max_by_key(|row| row.id) {
            return Ok(Arc::unwrap_or_clone(row));
        }
        let filter =
            TaskFilter { node: Some(node.id().clone()), limit: LOOK_BACK_TASKS, ..TaskFilter::default() };
        let newest = self.store.tasks(filter).await?;
        newest.into_iter().find(on_a_terminal).ok_or_else(|| {
            let detail =
                "no task of this node has a terminal: start one with `muster exec -it` or `muster attach`";
            HubError::new(ErrorCode::NoPty, detail)
        })
    }
}

fn options((rows, cols): (u16, u16)) -> ScreenOptions {
    ScreenOptions { rows, cols, scrollback_lines: MAX_SCROLLBACK_LINES }
}

/// A screen that is being fed.
struct Drawing {
    task: TaskId,
    screen: Screen,
}

impl Fold for Drawing {
    fn take(&mut self, _boot: Boot, frames: &[Arc<Frame>]) -> ControlFlow<()> {
        for frame in frames.iter().filter(|frame| frame.task == Some(self.task)) {
            self.screen.view.feed_frame(frame);
            if matches!(frame.kind, FrameKind::Ended(_)) {
                self.screen.over = true;
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

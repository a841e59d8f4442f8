//! Views: what a terminal's bytes come to for a person or a program, computed from a bounded stretch of the log.
//!
//! The computing itself is the core's (`registry_core::terminal`); here is where the frames come from, who may ask, and
//! what it may cost. However large a log is, a view reads at most [`VIEW_SCAN_BYTES`] of it, holds a page of it at a
//! time, computes away from the threads that connections wait for, and says what range of cursors it saw.

pub mod commands;
mod scan;
pub mod screen;
mod screens;
pub mod search;
mod turns;

use std::sync::Arc;

use registry_core::{Clock, Cursor, TaskId};

pub use self::commands::{Command, Commands, CommandsQuery, Said};
pub use self::scan::VIEW_SCAN_BYTES;
pub use self::screen::{ScreenQuery, ScreenShown};
use self::screens::Screens;
pub use self::search::{Found, SearchQuery};
use self::turns::Turn;
pub(crate) use self::turns::Turns;
use super::{Terminal, elsewhere};
use crate::error::HubResult;
use crate::fleet::Node;
use crate::metrics::Metrics;
use crate::store::TaskRow;

/// What a view read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The place before the first frame.
    pub first: Cursor,
    /// The last frame: whoever reads on does so from here.
    pub last: Cursor,
    /// Nothing that belongs in between is missing.
    pub complete: bool,
}

/// What all views share.
pub struct Views {
    turns: Turns,
    screens: Screens,
    clock: Clock,
}

impl Views {
    /// No view yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { turns: Turns::new(metrics, clock.clone()), screens: Screens::default(), clock }
    }

    async fn turn(&self, kind: &'static str) -> HubResult<Turn> {
        self.turns.turn(kind).await
    }
}

impl Terminal {
    /// For whoever makes more of what was read than to hand it on.
    pub(crate) fn turns(&self) -> Turns {
        self.views.turns.clone()
    }

    /// Drops what nobody asked for lately. Called now and then.
    pub(crate) fn sweep(&self) {
        drop(self.views.screens.sweep(self.views.clock.monotonic_ms()));
    }

    /// How many screens are kept, and the bytes that they hold.
    #[must_use]
    pub fn screens(&self) -> (usize, usize) {
        self.views.screens.size()
    }

    /// A task of this node.
    async fn task_of(&self, node: &Node, id: TaskId) -> HubResult<TaskRow> {
        let task = self.task(id).await?;
        if task.node == *node.id() { Ok(Arc::unwrap_or_clone(task)) } else { Err(elsewhere()) }
    }
}

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

use std::sync::Arc;
use std::time::Duration;

use registry_core::{Clock, Cursor, TaskId};
use tokio::sync::{Semaphore, SemaphorePermit};

pub use self::commands::{Command, Commands, CommandsQuery, Said};
pub use self::scan::VIEW_SCAN_BYTES;
pub use self::screen::{ScreenQuery, ScreenShown};
use self::screens::Screens;
pub use self::search::{Found, SearchQuery};
use super::{Terminal, elsewhere};
use crate::error::{HubError, HubResult};
use crate::fleet::Node;
use crate::metrics::{Metrics, ViewLabel};
use crate::store::TaskRow;

/// Views that are computed at once; others wait their turn. Each holds a page of the log and its answer: a few MiB.
const MAX_VIEWS: usize = 4;

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
    turns: Semaphore,
    screens: Screens,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// The right to compute one view; its end is the view's.
struct Turn<'a> {
    kind: &'static str,
    began: Duration,
    views: &'a Views,
    _permit: SemaphorePermit<'a>,
}

impl Views {
    /// No view yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { turns: Semaphore::new(MAX_VIEWS), screens: Screens::default(), metrics, clock }
    }

    async fn turn(&self, kind: &'static str) -> HubResult<Turn<'_>> {
        let permit = self.turns.acquire().await.map_err(HubError::fault)?;
        Ok(Turn { kind, began: self.clock.monotonic(), views: self, _permit: permit })
    }
}

impl Terminal {
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

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let took = self.views.clock.monotonic().saturating_sub(self.began);
        let label = ViewLabel { view: self.kind };
        self.views.metrics.views_seconds.get_or_create(&label).observe(took.as_secs_f64());
    }
}

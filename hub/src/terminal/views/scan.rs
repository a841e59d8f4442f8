//! One bounded pass over a node's log, from a place to what was published when the pass began.

use std::ops::ControlFlow;
use std::sync::Arc;

use futures_util::StreamExt as _;
use registry_core::{Boot, Cursor, Frame, FrameKind, NodeId};

use super::{Range, Turn};
use crate::auth::Principal;
use crate::error::{HubError, HubResult};
use crate::terminal::{ReadItem, ReadRequest, ReadSince, Terminal};

/// What a view reads of a log at most, in bytes of output: as much as is kept of a node by default. More would make an
/// answer wait longer than its reader does.
pub const VIEW_SCAN_BYTES: u64 = 16 * 1024 * 1024;

/// What a pass makes of the frames.
pub(super) trait Fold: Send + 'static {
    /// Takes frames of one boot, in order. It runs on a thread where it may compute. `Break` ends the pass.
    fn take(&mut self, boot: Boot, frames: &[Arc<Frame>]) -> ControlFlow<()>;
}

/// Where a pass begins, and what it does when the log is longer than it may read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stretch {
    /// After a cursor, but not more than [`VIEW_SCAN_BYTES`] before the present: what matters is how things stand now.
    ToPresent(Cursor),
    /// From a place on, for at most [`VIEW_SCAN_BYTES`]: whoever wants more goes on from where it ended.
    Onwards(ReadSince),
}

/// What a pass came to.
pub(super) struct Scanned<F> {
    pub(super) fold: F,
    pub(super) range: Range,
    /// The pass began later than it was asked to, because that is too long ago.
    pub(super) shortened: bool,
    /// There was more.
    pub(super) truncated: bool,
}

impl Terminal {
    /// Hands every frame of a stretch to `fold`, in a turn that lasts until nothing is computed any more.
    pub(super) async fn scan<F: Fold>(
        &self,
        principal: &Principal,
        node: &NodeId,
        stretch: Stretch,
        turn: &Arc<Turn>,
        mut fold: F,
    ) -> HubResult<Scanned<F>> {
        let known = self.mesh.resolve(principal, node.as_str())?;
        // What comes later is not waited for: a node that never stops talking would never be done with.
        let until = self.ingest.node(&known).progress().published;
        let (since, shortened) = match stretch {
            Stretch::Onwards(since) => (since, false),
            Stretch::ToPresent(from) => {
                let earliest = self.ingest.log().cursor_before_tail(node, VIEW_SCAN_BYTES).await?;
                (ReadSince::Cursor(from.max(earliest)), from < earliest)
            }
        };
        let request = ReadRequest { node: node.to_string(), since, ..ReadRequest::default() };
        let mut items = self.read(principal, request).await?;
        let mut range = Range { first: Cursor::START, last: Cursor::START, complete: !shortened };
        let (mut weight, mut truncated) = (0, false);
        while let Some(item) = items.next().await {
            match item? {
                ReadItem::Start { recovered, since } => {
                    (range.first, range.last) = (since, since);
                    range.complete &= recovered;
                }
                ReadItem::Frames { boot, frames } => {
                    weight += frames.iter().map(|frame| frame.weight() as u64).sum::<u64>();
                    range.complete &= !frames.iter().any(|frame| matches!(frame.kind, FrameKind::Gap { .. }));
                    if let Some(last) = frames.last() {
                        range.last = last.cursor(boot);
                    }
                    let flow;
                    (fold, flow) = compute(Arc::clone(turn), fold, boot, frames).await?;
                    let too_long = matches!(stretch, Stretch::Onwards(_)) && weight >= VIEW_SCAN_BYTES;
                    if flow.is_break() || too_long || range.last >= until {
                        truncated = range.last < until;
                        break;
                    }
                }
                ReadItem::CaughtUp => {}
                ReadItem::End { next, .. } => range.last = range.last.max(next),
            }
        }
        Ok(Scanned { fold, range, shortened, truncated })
    }
}

/// One step of a pass, away from the threads that connections wait for. It goes on, in its turn, when nobody waits for
/// it any more.
async fn compute<F: Fold>(
    turn: Arc<Turn>,
    mut fold: F,
    boot: Boot,
    frames: Vec<Arc<Frame>>,
) -> HubResult<(F, ControlFlow<()>)> {
    let step = move || {
        let _turn = turn;
        let flow = fold.take(boot, &frames);
        (fold, flow)
    };
    tokio::task::spawn_blocking(step).await.map_err(HubError::fault)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use registry_core::Clock;
    use tokio::sync::mpsc::UnboundedSender;

    use super::super::Turns;
    use super::*;
    use crate::metrics::Metrics;

    struct Slow(UnboundedSender<()>, Receiver<()>);

    impl Fold for Slow {
        fn take(&mut self, _: Boot, _: &[Arc<Frame>]) -> ControlFlow<()> {
            self.0.send(()).unwrap();
            let _ = self.1.recv();
            ControlFlow::Break(())
        }
    }

    #[tokio::test]
    async fn a_step_that_nobody_waits_for_any_more_keeps_its_turn() {
        let turns = Turns::new(Metrics::new(), Clock::system());
        let free = turns.free();
        let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
        let (go, gate) = channel();
        let turn = Arc::new(turns.turn("search").await.unwrap());
        let mut step = Box::pin(compute(turn, Slow(begun, gate), Boot(1), Vec::new()));
        tokio::select! {
            _ = &mut step => panic!("it waits for the gate"),
            Some(()) = has_begun.recv() => {}
        }
        drop(step);
        assert_eq!(turns.free(), free - 1);
        drop(go);
    }
}

//! A group of appends as what each node's script is to write.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use redis::Cmd;
use registry_core::{Boot, Cursor, NodeId};
use tokio::sync::oneshot;

use super::keys::Keys;
use super::scripts;
use super::state::{BootState, Front, Measures, NodeState, id};
use crate::store::log_rows::{Head, MAX_NUMBER, Refused, Row};
use crate::store::log_totals::Amount;
use crate::store::{FrameRun, StoreError, StoreResult};

/// A run, and the way back to whoever wants it durable.
pub(super) struct Append {
    pub(super) run: FrameRun,
    pub(super) reply: oneshot::Sender<StoreResult<()>>,
}

impl Append {
    pub(super) fn answer(self, outcome: StoreResult<()>) {
        // Nobody may be waiting any more; what was done stays done.
        let _ = self.reply.send(outcome);
    }
}

/// What one node's script is to write.
pub(super) struct NodePlan {
    pub(super) node: NodeId,
    /// As it is known now.
    known: Arc<NodeState>,
    /// As it will be.
    pub(super) next: NodeState,
    rows: BTreeMap<Boot, Rows>,
    /// Boots that get another head.
    touched: BTreeSet<Boot>,
    pub(super) appends: Vec<Append>,
}

#[derive(Default)]
struct Rows {
    full: Vec<Row>,
    open: Option<Row>,
}

/// Joins appends by node, in the order in which they came. Those that cannot be are answered.
pub(super) fn plan(
    appends: impl IntoIterator<Item = Append>,
    known: impl Fn(&NodeId) -> Arc<NodeState>,
) -> Vec<NodePlan> {
    let mut plans: Vec<NodePlan> = Vec::new();
    let mut places = HashMap::new();
    for append in appends {
        let node = &append.run.node;
        let place = *places.entry(node.clone()).or_insert_with(|| {
            plans.push(NodePlan::new(node.clone(), known(node)));
            plans.len() - 1
        });
        match plans[place].add(&append.run) {
            Ok(()) => plans[place].appends.push(append),
            Err(refused) => append.answer(Err(StoreError::from(refused))),
        }
    }
    plans
}

impl NodePlan {
    fn new(node: NodeId, known: Arc<NodeState>) -> Self {
        let next = NodeState::clone(&known);
        Self { node, known, next, rows: BTreeMap::new(), touched: BTreeSet::new(), appends: Vec::new() }
    }

    /// True when everything that was asked for is there already.
    pub(super) fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    fn add(&mut self, run: &FrameRun) -> Result<(), Refused> {
        if run.boot.0 > MAX_NUMBER {
            return Err(Refused::NumberTooLarge);
        }
        let known = self.next.boots.get(&run.boot);
        if known.is_some_and(|known| known.id != run.boot_id) {
            return Err(Refused::OtherRun);
        }
        let start = known.map_or(Head::default(), |known| known.head);
        let (head, new) = start.follow(&run.frames)?;
        if known.is_some() && new.is_empty() {
            return Ok(());
        }
        let rows = self.rows.entry(run.boot).or_default();
        for frame in new {
            rows.full.extend(Row::join(&mut rows.open, frame));
            self.next.amount += Amount::of(frame);
        }
        self.next.boots.insert(run.boot, BootState { id: run.boot_id, head });
        self.touched.insert(run.boot);
        Ok(())
    }

    /// The call that writes it. Rows are stored at `stored_us`.
    pub(super) fn call(&mut self, keys: &Keys, fence: &str, stored_us: u64) -> Cmd {
        let rows = std::mem::take(&mut self.rows);
        let rows: Vec<(Boot, Row)> = rows
            .into_iter()
            .flat_map(|(boot, rows)| rows.full.into_iter().chain(rows.open).map(move |row| (boot, row)))
            .collect();
        let next = &mut self.next;
        let mut goes_back = false;
        for (boot, row) in &rows {
            let before = Cursor::new(*boot, row.first_seq.saturating_sub(1));
            if next.front.is_none_or(|front| before < front.before) {
                next.front = Some(Front { before, stored_us });
            }
            let row_id = Cursor::new(*boot, row.last_seq);
            goes_back |= row_id < self.known.newest;
            next.newest = next.newest.max(row_id);
        }
        next.version += 1;
        next.rows += rows.len() as u64;
        let fields = next.fields(self.touched.iter().copied());

        let script = if goes_back { &scripts::INSERT } else { &scripts::APPEND };
        let data: usize = rows.iter().map(|(_, row)| row.data.len() + 160).sum();
        let mut command = Cmd::with_capacity(16 + fields.len() + rows.len() * 3, 512 + data);
        command.arg("EVALSHA").arg(script.get_hash()).arg(4);
        command.arg(&keys.hub).arg(keys.state(&self.node)).arg(keys.stream(&self.node)).arg(&keys.nodes);
        command.arg(fence).arg(self.known.version).arg(self.known.rows);
        command.arg(self.node.as_str()).arg(fields.len()).arg(&fields);
        for (boot, row) in &rows {
            let row_id = id(Cursor::new(*boot, row.last_seq));
            command.arg(row_id).arg(Measures::of(row, stored_us)).arg(&row.data[..]);
        }
        command
    }
}

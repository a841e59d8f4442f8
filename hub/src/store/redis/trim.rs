//! Clearing away, always from the front of a node's log, a little at a time.

use registry_core::NodeId;

use super::check::{MEASURED_ROWS, measures};
use super::committer::Committer;
use super::scripts;
use super::state::{Measures, NodeState, id};
use crate::store::log_totals::Amount;
use crate::store::{Retention, StoreResult};

/// Nodes cleared away from in one go, each by up to [`MEASURED_ROWS`] rows: two short scripts a node.
const SLICE_NODES: usize = 16;

/// What must go of one node.
struct Excess {
    most: Amount,
    /// Rows stored before this are too old.
    oldest_kept_us: u64,
    /// Bytes that are too many in all.
    bytes_over: u64,
    /// Rows stored after this are not the oldest of all nodes'.
    next_oldest_us: u64,
}

impl Committer {
    /// Clears away a slice of what retention does not keep; true when there is more.
    ///
    /// Whichever node has too much, or begins with the oldest row: its front rows go, so that what is left of a log has no
    /// holes.
    pub(super) async fn trim(&mut self, retention: Retention, now_unix_ms: u64) -> StoreResult<bool> {
        for _ in 0..SLICE_NODES {
            let Some((node, excess)) = self.next_excess(retention, now_unix_ms) else { return Ok(false) };
            if self.doubtful.contains(&node) {
                self.look_at(vec![node.clone()]).await?;
                continue;
            }
            self.trim_node(&node, &excess).await?;
        }
        Ok(self.next_excess(retention, now_unix_ms).is_some())
    }

    fn next_excess(&self, retention: Retention, now_unix_ms: u64) -> Option<(NodeId, Excess)> {
        let roll = self.shared.roll.lock();
        let bytes_over = roll.total_bytes().saturating_sub(retention.total_bytes);
        let mut excess = Excess {
            most: Amount { bytes: retention.node_bytes, frames: retention.node_frames },
            oldest_kept_us: now_unix_ms.saturating_sub(retention.age_ms).saturating_mul(1000),
            bytes_over,
            next_oldest_us: u64::MAX,
        };
        // The two nodes that begin with the oldest rows, and the first that has too much.
        let mut oldest: [Option<(u64, &NodeId)>; 2] = [None, None];
        for (node, state) in roll.iter() {
            let Some(front) = state.front else { continue };
            if state.amount.is_above(excess.most) {
                excess.bytes_over = 0;
                return Some((node.clone(), excess));
            }
            let this = Some((front.stored_us, node));
            if oldest[0].is_none_or(|(stored_us, _)| front.stored_us < stored_us) {
                oldest = [this, oldest[0]];
            } else if oldest[1].is_none_or(|(stored_us, _)| front.stored_us < stored_us) {
                oldest[1] = this;
            }
        }
        let (stored_us, node) = oldest[0]?;
        if stored_us >= excess.oldest_kept_us && bytes_over == 0 {
            return None;
        }
        excess.next_oldest_us = oldest[1].map_or(u64::MAX, |(stored_us, _)| stored_us);
        Some((node.clone(), excess))
    }

    async fn trim_node(&mut self, node: &NodeId, excess: &Excess) -> StoreResult<()> {
        let (write, keys) = (&self.shared.write, &self.shared.keys);
        // One more than may go, to know what the front is then.
        let rows = measures(write, keys, node, "XRANGE", "-", "+", MEASURED_ROWS + 1).await?;
        let known = self.shared.roll.lock().get(node);
        let mut next = NodeState::clone(&known);
        let gone = excess.take_from(&mut next, &rows);
        next.version += 1;
        let boots_gone = next.forget_boots();
        let first_kept = rows.get(gone).map_or(String::new(), |row| id(row.id));

        let fields = next.fields([]);
        let (version, known_rows) = (known.version.to_string(), known.rows.to_string());
        let count = fields.len().to_string();
        let mut args = vec![&*self.shared.fence, &version, &known_rows, &first_kept, &count];
        args.extend(fields.iter().chain(&boots_gone).map(String::as_str));
        let (hash, stream) = (keys.state(node), keys.stream(node));
        let names = [&*keys.hub, &hash, &stream, &keys.nodes];
        // Until it is answered, what is there is not known.
        self.doubtful.insert(node.clone());
        let answer = write.run(&scripts::DROP, &names, &args).await;
        self.checked(node, answer)?;
        self.shared.roll.lock().set(node.clone(), next);
        self.doubtful.remove(node);
        Ok(())
    }
}

impl Excess {
    /// Takes the first rows out as long as they must go; how many did.
    fn take_from(&self, state: &mut NodeState, rows: &[Measures]) -> usize {
        let mut over = self.bytes_over;
        let mut gone = 0;
        for row in rows.iter().take(usize::try_from(MEASURED_ROWS).unwrap_or(usize::MAX)) {
            let too_old = row.stored_us < self.oldest_kept_us;
            let too_much = over > 0 && row.stored_us <= self.next_oldest_us;
            if !state.amount.is_above(self.most) && !too_old && !too_much {
                break;
            }
            over = over.saturating_sub(row.amount.bytes);
            state.amount.bytes = state.amount.bytes.saturating_sub(row.amount.bytes);
            state.amount.frames = state.amount.frames.saturating_sub(row.amount.frames);
            state.rows = state.rows.saturating_sub(1);
            gone += 1;
        }
        state.front = rows.get(gone).map(Measures::front);
        if state.front.is_none() {
            // Should the sums ever claim more than there is, this keeps a trim from asking for ever.
            state.amount = Amount::default();
            state.rows = 0;
        }
        gone
    }
}

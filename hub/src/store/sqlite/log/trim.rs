//! Clearing away, always from the front of a node's log, a little at a time.

use std::collections::BTreeSet;

use registry_core::NodeId;
use rusqlite::{Connection, OptionalExtension, params};

use super::super::records::node_id;
use super::super::value::{number, time, unsigned};
use crate::store::Retention;
use crate::store::log_rows::BOOTS_KEPT;
use crate::store::log_totals::{Amount, Totals};

/// Rows cleared away in one go: up to 4 MiB, a few milliseconds of the writer's time.
const SLICE_ROWS: usize = 64;

/// Clears away a slice of what retention does not keep; true when there is more.
///
/// Whichever row is too old or too much, the front row of its node goes: what is left of a log has no holes.
pub(super) fn trim(
    connection: &Connection,
    totals: &mut Totals,
    retention: Retention,
    now_unix_ms: u64,
) -> rusqlite::Result<bool> {
    let most = Amount { bytes: retention.node_bytes, frames: retention.node_frames };
    // One more than the slice takes, to know whether there is more.
    let mut search = Search {
        above: totals.above(most, SLICE_ROWS + 1),
        most,
        total_bytes: retention.total_bytes,
        oldest_kept: time(now_unix_ms.saturating_sub(retention.age_ms)),
    };
    let mut touched = BTreeSet::new();
    for _ in 0..SLICE_ROWS {
        let Some(node) = search.next(connection, totals)? else { break };
        remove_front(connection, totals, &node)?;
        touched.insert(node);
    }
    for node in touched {
        forget_boots(connection, &node)?;
    }
    Ok(search.next(connection, totals)?.is_some())
}

/// Clears away a slice of a node's log, with the last of it the node's boots; true when there is more.
pub(super) fn erase(connection: &Connection, totals: &mut Totals, node: &NodeId) -> rusqlite::Result<bool> {
    for _ in 0..SLICE_ROWS {
        if !remove_front(connection, totals, node)? {
            connection.prepare_cached("DELETE FROM boots WHERE node = ?1")?.execute([node.as_str()])?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Looks for nodes of which something must go.
struct Search {
    /// Nodes that had too much when the slice began.
    above: Vec<NodeId>,
    most: Amount,
    total_bytes: u64,
    oldest_kept: i64,
}

impl Search {
    fn next(&mut self, connection: &Connection, totals: &Totals) -> rusqlite::Result<Option<NodeId>> {
        while let Some(node) = self.above.last() {
            if totals.of(node).is_above(self.most) {
                return Ok(Some(node.clone()));
            }
            self.above.pop();
        }
        let oldest = connection
            .prepare_cached(
                "SELECT boots.node, chunks.stored_at FROM chunks CROSS JOIN boots ON boots.id = chunks.boot_ref
                 ORDER BY chunks.id LIMIT 1",
            )?
            .query_row([], |row| Ok((node_id(row, 0)?, row.get::<_, i64>(1)?)))
            .optional()?;
        let must_go = |(_, stored_at): &(NodeId, i64)| {
            *stored_at < self.oldest_kept || totals.all_bytes() > self.total_bytes
        };
        Ok(oldest.filter(must_go).map(|(node, _)| node))
    }
}

/// Removes the first row of a node's log; false when there is none.
fn remove_front(connection: &Connection, totals: &mut Totals, node: &NodeId) -> rusqlite::Result<bool> {
    let front = connection
        .prepare_cached(
            "SELECT chunks.id, boots.id, chunks.weight, chunks.frames
             FROM boots CROSS JOIN chunks ON chunks.boot_ref = boots.id
             WHERE boots.node = ?1 AND boots.frames > 0 ORDER BY boots.boot, chunks.first_seq LIMIT 1",
        )?
        .query_row([node.as_str()], |row| {
            let amount = Amount { bytes: unsigned(row, 2)?, frames: unsigned(row, 3)? };
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, amount))
        })
        .optional()?;
    let Some((chunk, boot, amount)) = front else {
        // Should the totals ever claim more than there is, this keeps a trim from asking for ever.
        totals.subtract(node, totals.of(node));
        return Ok(false);
    };
    connection.prepare_cached("DELETE FROM chunks WHERE id = ?1")?.execute([chunk])?;
    connection
        .prepare_cached("UPDATE boots SET weight = weight - ?2, frames = frames - ?3 WHERE id = ?1")?
        .execute(params![boot, number(amount.bytes)?, number(amount.frames)?])?;
    totals.subtract(node, amount);
    Ok(true)
}

/// Forgets the boots of a node that are over, empty and long past.
fn forget_boots(connection: &Connection, node: &NodeId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM boots WHERE node = ?1 AND closed = 1 AND frames = 0 AND boot <
                 (SELECT boot FROM boots WHERE node = ?1 ORDER BY boot DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![node.as_str(), BOOTS_KEPT - 1])
        .map(|_deleted| ())
}

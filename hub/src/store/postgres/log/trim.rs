//! Clearing away, always from the front of a node's log, a little at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use deadpool_postgres::ClientWrapper;
use registry_core::NodeId;
use tokio_postgres::Row;

use super::super::value::{Fault, get, node_id, number, time, unsigned};
use crate::store::Retention;
use crate::store::log_rows::BOOTS_KEPT;
use crate::store::log_totals::{Amount, Totals};

/// Rows cleared away in one go: up to 4 MiB, a few milliseconds of the committer's time.
const SLICE_ROWS: usize = 64;

/// What a trim takes away.
#[derive(Debug, Default)]
pub(super) struct Plan {
    rows: Vec<(NodeId, Front)>,
    /// Nodes of which something is counted and nothing is there.
    empty: Vec<NodeId>,
    /// There will be more to do.
    more: bool,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.empty.is_empty()
    }
}

/// A row at the front of a node's log.
#[derive(Clone, Copy, Debug)]
struct Front {
    chunk: i64,
    boot: i64,
    amount: Amount,
}

/// Looks for a slice of what retention does not keep.
///
/// Whichever row is too old or too much, the front row of its node goes: what is left of a log has no holes. Nobody else
/// adds or removes rows meanwhile.
pub(super) async fn plan(
    client: &ClientWrapper,
    totals: &Totals,
    retention: Retention,
    now_unix_ms: u64,
) -> Result<Plan, Fault> {
    let most = Amount { bytes: retention.node_bytes, frames: retention.node_frames };
    let mut above = totals.above(most, SLICE_ROWS + 1);
    let mut oldest = oldest(client).await?;
    let oldest_kept = time(now_unix_ms.saturating_sub(retention.age_ms));
    let may_go = |row: &Oldest| row.stored_at < oldest_kept || totals.all_bytes() > retention.total_bytes;
    if above.is_empty() && !oldest.front().is_some_and(may_go) {
        return Ok(Plan::default());
    }
    let nodes: BTreeSet<_> = above.iter().chain(oldest.iter().map(|row| &row.node)).cloned().collect();
    let mut fronts = fronts(client, &nodes).await?;

    let mut plan = Plan::default();
    let mut gone = BTreeSet::new();
    let mut left: HashMap<NodeId, Amount> = HashMap::new();
    let mut all_bytes = totals.all_bytes();
    loop {
        let left_of = |node: &NodeId| left.get(node).copied().unwrap_or_else(|| totals.of(node));
        while above.last().is_some_and(|node| !left_of(node).is_above(most)) {
            above.pop();
        }
        while oldest.front().is_some_and(|row| gone.contains(&row.chunk)) {
            oldest.pop_front();
        }
        let must_go = |row: &&Oldest| row.stored_at < oldest_kept || all_bytes > retention.total_bytes;
        let next = above.last().or_else(|| oldest.front().filter(must_go).map(|row| &row.node));
        let Some(node) = next.cloned() else { return Ok(plan) };
        if plan.rows.len() == SLICE_ROWS {
            plan.more = true;
            return Ok(plan);
        }
        let now = left_of(&node);
        let Some(front) = fronts.get_mut(&node).and_then(VecDeque::pop_front) else {
            // Should the totals ever claim more than there is, this keeps a trim from asking for ever.
            all_bytes = all_bytes.saturating_sub(now.bytes);
            left.insert(node.clone(), Amount::default());
            plan.empty.push(node);
            continue;
        };
        let (bytes, frames) = (front.amount.bytes, front.amount.frames);
        all_bytes = all_bytes.saturating_sub(bytes);
        let rest =
            Amount { bytes: now.bytes.saturating_sub(bytes), frames: now.frames.saturating_sub(frames) };
        left.insert(node.clone(), rest);
        gone.insert(front.chunk);
        plan.rows.push((node, front));
    }
}

/// Does what was planned; true when there is more.
pub(super) async fn carry_out(
    client: &ClientWrapper,
    totals: &mut Totals,
    plan: &Plan,
) -> Result<bool, Fault> {
    totals.roll_back();
    remove(client, totals, &plan.rows).await?;
    for node in &plan.empty {
        totals.subtract(node, totals.of(node));
    }
    let touched: BTreeSet<_> = plan.rows.iter().map(|(node, _)| node.as_str()).collect();
    forget_boots(client, &touched.into_iter().collect::<Vec<_>>()).await?;
    Ok(plan.more)
}

/// Clears away a slice of a node's log, with the last of it the node's boots; true when there is more.
pub(super) async fn erase(client: &ClientWrapper, totals: &mut Totals, node: &NodeId) -> Result<bool, Fault> {
    totals.roll_back();
    let rows = fronts(client, &BTreeSet::from([node.clone()])).await?.remove(node).unwrap_or_default();
    let rows: Vec<_> = rows.into_iter().map(|front| (node.clone(), front)).collect();
    remove(client, totals, &rows).await?;
    if rows.len() > SLICE_ROWS {
        return Ok(true);
    }
    let statement = client.prepare_cached("DELETE FROM boots WHERE node = $1").await?;
    client.execute(&statement, &[&node.as_str()]).await?;
    totals.subtract(node, totals.of(node));
    Ok(false)
}

/// One of the oldest rows of all nodes.
struct Oldest {
    chunk: i64,
    node: NodeId,
    stored_at: i64,
}

/// One row more than a slice takes.
async fn oldest(client: &ClientWrapper) -> Result<VecDeque<Oldest>, Fault> {
    let statement = client
        .prepare_cached(
            "SELECT chunks.id, boots.node, chunks.stored_at
             FROM (SELECT id, boot_ref, stored_at FROM chunks ORDER BY id LIMIT $1) AS chunks
             JOIN boots ON boots.id = chunks.boot_ref ORDER BY chunks.id",
        )
        .await?;
    let row = |row: &Row| Ok(Oldest { chunk: get(row, 0)?, node: node_id(row, 1)?, stored_at: get(row, 2)? });
    client.query(&statement, &[&limit()?]).await?.iter().map(row).collect()
}

/// The first rows of these nodes' logs, of each one more than a slice takes.
async fn fronts(
    client: &ClientWrapper,
    nodes: &BTreeSet<NodeId>,
) -> Result<HashMap<NodeId, VecDeque<Front>>, Fault> {
    let names: Vec<_> = nodes.iter().map(NodeId::as_str).collect();
    let statement = client
        .prepare_cached(
            "SELECT wanted.node, front.id, front.boot_ref, front.weight, front.frames
             FROM unnest($1::text[]) AS wanted (node) CROSS JOIN LATERAL (
                 SELECT boots.boot, chunks.first_seq, chunks.id, chunks.boot_ref, chunks.weight, chunks.frames
                 FROM boots JOIN chunks ON chunks.boot_ref = boots.id
                 WHERE boots.node = wanted.node AND boots.frames > 0
                 ORDER BY boots.boot, chunks.first_seq LIMIT $2
             ) AS front ORDER BY front.boot, front.first_seq",
        )
        .await?;
    let mut fronts: HashMap<_, VecDeque<_>> = HashMap::new();
    for row in client.query(&statement, &[&names, &limit()?]).await? {
        let amount = Amount { bytes: unsigned(&row, 3)?, frames: unsigned(&row, 4)? };
        let front = Front { chunk: get(&row, 1)?, boot: get(&row, 2)?, amount };
        fronts.entry(node_id(&row, 0)?).or_default().push_back(front);
    }
    Ok(fronts)
}

async fn remove(client: &ClientWrapper, totals: &mut Totals, rows: &[(NodeId, Front)]) -> Result<(), Fault> {
    let mut boots: BTreeMap<i64, Amount> = BTreeMap::new();
    for (node, front) in rows {
        *boots.entry(front.boot).or_default() += front.amount;
        totals.subtract(node, front.amount);
    }
    let chunks: Vec<_> = rows.iter().map(|(_, front)| front.chunk).collect();
    let delete = client.prepare_cached("DELETE FROM chunks WHERE id = ANY($1)").await?;
    client.execute(&delete, &[&chunks]).await?;
    let ids: Vec<_> = boots.keys().copied().collect();
    let weights = boots.values().map(|amount| number(amount.bytes)).collect::<Result<Vec<_>, _>>()?;
    let frames = boots.values().map(|amount| number(amount.frames)).collect::<Result<Vec<_>, _>>()?;
    let update = client
        .prepare_cached(
            "UPDATE boots SET weight = weight - gone.removed_weight, frames = frames - gone.removed_frames
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS gone (id, removed_weight, removed_frames)
             WHERE boots.id = gone.id",
        )
        .await?;
    client.execute(&update, &[&ids, &weights, &frames]).await?;
    Ok(())
}

/// Forgets the boots of these nodes that are over, empty and long past.
async fn forget_boots(client: &ClientWrapper, nodes: &[&str]) -> Result<(), Fault> {
    let statement = client
        .prepare_cached(
            "DELETE FROM boots USING unnest($1::text[]) AS touched (node)
             WHERE boots.node = touched.node AND closed = 1 AND frames = 0 AND boot <
                 (SELECT boot FROM boots AS newer WHERE newer.node = touched.node
                  ORDER BY boot DESC LIMIT 1 OFFSET $2)",
        )
        .await?;
    client.execute(&statement, &[&nodes, &i64::from(BOOTS_KEPT - 1)]).await?;
    Ok(())
}

fn limit() -> Result<i64, Fault> {
    number(SLICE_ROWS as u64 + 1)
}

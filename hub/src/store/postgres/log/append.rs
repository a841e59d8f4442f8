//! Frames in: checked against their boot's head, joined into rows, a few statements for all of a group.

use std::collections::HashMap;

use deadpool_postgres::ClientWrapper;
use futures_util::future::try_join;
use registry_core::{Boot, BootId, NodeId};

use super::super::value::{Fault, bound, bytes, get, node_id, number, time, unsigned};
use crate::store::log_rows::{Head, MAX_NUMBER, Refused, Row};
use crate::store::log_totals::{Amount, Totals};
use crate::store::{FrameRun, StoreError};

/// Appends what continues its boot's head, and says of each run why it was refused, if it was.
pub(super) async fn append(
    client: &ClientWrapper,
    totals: &mut Totals,
    runs: &[FrameRun],
    stored_at: i64,
) -> Result<Vec<Option<StoreError>>, Fault> {
    totals.roll_back();
    let mut boots = find(client, runs).await?;
    let mut rows = Vec::new();
    let refused =
        runs.iter().map(|run| take(&mut boots, &mut rows, totals, run).err().map(StoreError::from)).collect();
    let mut touched: Vec<_> =
        boots.into_iter().filter(|(_, boot)| boot.is_new() || boot.added.frames > 0).collect();
    create(client, &mut touched).await?;
    let ids: HashMap<_, _> = touched.iter().map(|(key, boot)| (key.clone(), boot.id)).collect();
    for (key, boot) in &mut touched {
        rows.extend(boot.row.take().map(|row| (key.clone(), row)));
    }
    if !rows.is_empty() {
        // One after the other, without waiting in between.
        try_join(insert(client, &ids, &rows, stored_at), update(client, &touched)).await?;
    }
    Ok(refused)
}

type Key = (NodeId, Boot);

/// A boot that the transaction touches.
struct OpenBoot {
    /// Its row's id; `None` until there is one.
    id: Option<i64>,
    boot_id: BootId,
    head: Head,
    /// What was added and not yet counted in its row.
    added: Amount,
    row: Option<Row>,
}

impl OpenBoot {
    fn is_new(&self) -> bool {
        self.id.is_none()
    }
}

/// The boots of these runs that the log knows.
async fn find(client: &ClientWrapper, runs: &[FrameRun]) -> Result<HashMap<Key, OpenBoot>, Fault> {
    let wanted: std::collections::BTreeSet<_> =
        runs.iter().filter(|run| run.boot.0 <= MAX_NUMBER).map(|run| (run.node.as_str(), run.boot)).collect();
    let nodes: Vec<_> = wanted.iter().map(|(node, _)| *node).collect();
    let numbers = wanted.iter().map(|(_, boot)| number(boot.0)).collect::<Result<Vec<_>, _>>()?;
    // Locked: should an earlier attempt's commit still be on its way, it is waited for here.
    let statement = client
        .prepare_cached(
            "SELECT boots.node, boots.boot, boots.id, boots.boot_id, boots.last_seq, boots.closed
             FROM boots JOIN unnest($1::text[], $2::bigint[]) AS wanted (node, boot)
                 ON boots.node = wanted.node AND boots.boot = wanted.boot
             ORDER BY boots.id FOR NO KEY UPDATE OF boots",
        )
        .await?;
    let rows = client.query(&statement, &[&nodes, &numbers]).await?;
    let known = rows.iter().map(|row| {
        let boot = OpenBoot {
            id: Some(get(row, 2)?),
            boot_id: bytes(row, 3)?,
            head: Head { last_seq: unsigned(row, 4)?, closed: get::<i64>(row, 5)? != 0 },
            added: Amount::default(),
            row: None,
        };
        Ok(((node_id(row, 0)?, Boot(unsigned(row, 1)?)), boot))
    });
    known.collect()
}

/// Takes a run that continues its boot's head; one that does not leaves everything as it was.
fn take(
    boots: &mut HashMap<Key, OpenBoot>,
    rows: &mut Vec<(Key, Row)>,
    totals: &mut Totals,
    run: &FrameRun,
) -> Result<(), Refused> {
    if run.boot.0 > MAX_NUMBER {
        return Err(Refused::NumberTooLarge);
    }
    let key = (run.node.clone(), run.boot);
    let known = boots.get(&key);
    if known.is_some_and(|known| known.boot_id != run.boot_id) {
        return Err(Refused::OtherRun);
    }
    let (head, new) = known.map_or(Head::default(), |known| known.head).follow(&run.frames)?;
    let boot = boots.entry(key.clone()).or_insert_with(|| OpenBoot {
        id: None,
        boot_id: run.boot_id,
        head,
        added: Amount::default(),
        row: None,
    });
    let mut added = Amount::default();
    for frame in new {
        rows.extend(Row::join(&mut boot.row, frame).map(|full| (key.clone(), full)));
        added += Amount::of(frame);
    }
    boot.head = head;
    boot.added += added;
    if added.frames > 0 {
        totals.add(&run.node, added);
    }
    Ok(())
}

/// Gives new boots their rows.
async fn create(client: &ClientWrapper, boots: &mut [(Key, OpenBoot)]) -> Result<(), Fault> {
    let new: Vec<_> = boots.iter().filter(|(_, boot)| boot.is_new()).collect();
    if new.is_empty() {
        return Ok(());
    }
    let nodes: Vec<_> = new.iter().map(|((node, _), _)| node.as_str()).collect();
    let numbers = new.iter().map(|((_, boot), _)| number(boot.0)).collect::<Result<Vec<_>, _>>()?;
    let boot_ids: Vec<_> = new.iter().map(|(_, boot)| &boot.boot_id[..]).collect();
    let statement = client
        .prepare_cached(
            "INSERT INTO boots (node, boot, boot_id, last_seq, closed, weight, frames)
             SELECT node, boot, boot_id, 0, 0, 0, 0
             FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS new (node, boot, boot_id)
             ON CONFLICT DO NOTHING RETURNING node, boot, id",
        )
        .await?;
    let rows = client.query(&statement, &[&nodes, &numbers, &boot_ids]).await?;
    if rows.len() < new.len() {
        // An earlier attempt was carried out after all, since its boots were looked for.
        return Err(Fault::came_between());
    }
    let mut ids = HashMap::new();
    for row in &rows {
        ids.insert((node_id(row, 0)?, Boot(unsigned(row, 1)?)), get(row, 2)?);
    }
    for (key, boot) in boots {
        boot.id = boot.id.or_else(|| ids.get(key).copied());
    }
    Ok(())
}

async fn insert(
    client: &ClientWrapper,
    ids: &HashMap<Key, Option<i64>>,
    rows: &[(Key, Row)],
    stored_at: i64,
) -> Result<(), Fault> {
    let refs: Vec<_> = rows.iter().map(|(key, _)| ids.get(key).copied().flatten()).collect();
    let column = |of: fn(&Row) -> i64| rows.iter().map(|(_, row)| of(row)).collect::<Vec<_>>();
    let count =
        |of: fn(&Row) -> u64| rows.iter().map(|(_, row)| number(of(row))).collect::<Result<Vec<_>, _>>();
    let data: Vec<_> = rows.iter().map(|(_, row)| &row.data[..]).collect();
    let statement = client
        .prepare_cached(
            "INSERT INTO chunks
                 (boot_ref, first_seq, last_seq, first_at, last_at, stored_at, weight, frames, output, data)
             SELECT boot_ref, first_seq, last_seq, first_at, last_at, $9, weight, frames, output, data
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                     $7::bigint[], $8::bigint[], $10::bytea[])
                 AS new (boot_ref, first_seq, last_seq, first_at, last_at, weight, frames, output, data)",
        )
        .await?;
    client
        .execute(
            &statement,
            &[
                &refs,
                &count(|row| row.first_seq)?,
                // The rest of the boot is the greatest number there is.
                &column(|row| bound(row.last_seq)),
                &column(|row| time(row.first_at_unix_ms)),
                &column(|row| time(row.last_at_unix_ms)),
                &count(|row| row.amount.bytes)?,
                &count(|row| row.amount.frames)?,
                &count(|row| row.output)?,
                &stored_at,
                &data,
            ],
        )
        .await?;
    Ok(())
}

async fn update(client: &ClientWrapper, boots: &[(Key, OpenBoot)]) -> Result<(), Fault> {
    let ids: Vec<_> = boots.iter().map(|(_, boot)| boot.id).collect();
    let count = |of: fn(&OpenBoot) -> u64| {
        boots.iter().map(|(_, boot)| number(of(boot))).collect::<Result<Vec<_>, _>>()
    };
    let closed: Vec<_> = boots.iter().map(|(_, boot)| i64::from(boot.head.closed)).collect();
    let statement = client
        .prepare_cached(
            "UPDATE boots SET last_seq = now.last_seq, closed = now.closed, weight = weight + now.added_weight,
                 frames = frames + now.added_frames
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
                 AS now (id, last_seq, closed, added_weight, added_frames)
             WHERE boots.id = now.id",
        )
        .await?;
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] = [
        &ids,
        &count(|boot| boot.head.last_seq)?,
        &closed,
        &count(|boot| boot.added.bytes)?,
        &count(|boot| boot.added.frames)?,
    ];
    client.execute(&statement, &values).await?;
    Ok(())
}

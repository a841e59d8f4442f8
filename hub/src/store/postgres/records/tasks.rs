//! Tasks: written down before they are sent, stepped forward, trimmed when they are old.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::ClientWrapper;
use futures_util::future::try_join_all;
use registry_core::{Boot, Cursor, TaskEnd, TaskId, TaskOutcome, TaskState};
use tokio_postgres::Row;

use super::super::value::{Fault, bytes, get, node_id, number, text, time, unsigned, unsigned_32};
use super::add_audit;
use crate::store::task_steps::{IDEMPOTENCY_KEEP_MS, TRIM_ROWS, advance};
use crate::store::{AuditRow, CreateTaskOutcome, IdempotencyKey, TaskFilter, TaskRow, TaskStep};

const COLUMNS: &str = "id, node, spec, state, outcome, exit_code, signal, reason, duration_ms, created_by, created_at,
    expires_at, dispatched_at, started_at, ended_at, boot, read_boot, read_seq, first_boot, first_seq, last_boot,
    last_seq";

/// Writes down a task, unless its key was used before.
pub(super) async fn create(
    client: &ClientWrapper,
    task: &TaskRow,
    key: Option<&IdempotencyKey>,
    audit: &AuditRow,
) -> Result<CreateTaskOutcome, Fault> {
    if let Some(key) = key
        && let Some((hash, id)) = used_for(client, key).await?
    {
        return match one(client, id).await? {
            Some(task) if hash == key.request_hash => Ok(CreateTaskOutcome::Existing(Box::new(task))),
            _ => Ok(CreateTaskOutcome::KeyReused),
        };
    }
    insert(client, task).await?;
    if let Some(key) = key {
        let statement = client
            .prepare_cached(
                "INSERT INTO idempotency (scope, key, request_hash, task, created_at) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT DO NOTHING",
            )
            .await?;
        let created_at = time(task.created_at_unix_ms);
        let (hash, id) = (&key.request_hash[..], task_bytes(&task.id));
        let inserted = client
            .execute(&statement, &[&text(&key.scope), &text(&key.key), &hash, &id, &created_at])
            .await?;
        if inserted == 0 {
            // Somebody asked for the same at the same time: the next attempt answers with their task.
            return Err(Fault::came_between());
        }
    }
    add_audit(client, audit).await?;
    Ok(CreateTaskOutcome::Created)
}

/// Takes steps, in order.
pub(super) async fn step(
    client: &ClientWrapper,
    steps: &[(TaskId, TaskStep)],
) -> Result<Vec<Option<(TaskRow, bool)>>, Fault> {
    let ids: BTreeSet<_> = steps.iter().map(|(id, _)| task_bytes(id)).collect();
    let ids: Vec<_> = ids.into_iter().collect();
    // Locked in the order of their ids, so that two of these cannot wait for each other.
    let query = format!("SELECT {COLUMNS} FROM tasks WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE");
    let statement = client.prepare_cached(&query).await?;
    let mut tasks = BTreeMap::new();
    for row in client.query(&statement, &[&ids]).await? {
        let task = from_row(&row)?;
        tasks.insert(task.id, task);
    }
    let mut changed = BTreeSet::new();
    let mut take = |(id, step): &(TaskId, TaskStep)| {
        let task = tasks.get_mut(id)?;
        let moved = advance(task, step);
        if moved {
            changed.insert(*id);
        }
        Some((task.clone(), moved))
    };
    let taken = steps.iter().map(&mut take).collect();
    let changed = tasks.values().filter(|task| changed.contains(&task.id));
    // Sent one after the other without waiting for answers in between.
    try_join_all(changed.map(|task| update(client, task))).await?;
    Ok(taken)
}

/// One task.
pub(super) async fn one(client: &ClientWrapper, id: TaskId) -> Result<Option<TaskRow>, Fault> {
    let statement = client.prepare_cached(&format!("SELECT {COLUMNS} FROM tasks WHERE id = $1")).await?;
    client.query_opt(&statement, &[&task_bytes(&id)]).await?.as_ref().map(from_row).transpose()
}

/// Some tasks, newest first.
pub(super) async fn some(client: &ClientWrapper, filter: &TaskFilter) -> Result<Vec<TaskRow>, Fault> {
    let mut query = format!("SELECT {COLUMNS} FROM tasks WHERE id < $1");
    if filter.node.is_some() {
        query.push_str(" AND node = $3");
    } else {
        query.push_str(" AND $3::text IS NULL");
    }
    if filter.active {
        query.push_str(" AND state <> 'ended'");
    }
    query.push_str(" ORDER BY id DESC LIMIT $2");
    // Longer than any id with the same beginning: after all of them.
    const AFTER_ALL: &[u8] = &[0xff; 17];
    let before = filter.before.as_ref().map_or(AFTER_ALL, |id| id.as_bytes());
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let node = filter.node.as_ref().map(registry_core::NodeId::as_str);
    let statement = client.prepare_cached(&query).await?;
    client.query(&statement, &[&before, &limit, &node]).await?.iter().map(from_row).collect()
}

/// The ids of ended tasks that a trim may delete, oldest first. A task whose request may still be repeated is not among
/// them: a repeated request would run again.
pub(super) async fn beyond(
    client: &ClientWrapper,
    keep_per_node: u32,
    before_unix_ms: u64,
) -> Result<Vec<Vec<u8>>, Fault> {
    let statement = client
        .prepare_cached(
            "SELECT id FROM (
                 SELECT id, row_number() OVER (PARTITION BY node ORDER BY id DESC) AS place,
                        greatest(ended_at, created_at) AS over_at
                 FROM tasks WHERE state = 'ended'
             ) AS ended
             WHERE (place > $1 OR over_at < $2)
                 AND NOT EXISTS (SELECT 1 FROM idempotency WHERE idempotency.task = ended.id)
             ORDER BY id LIMIT $3",
        )
        .await?;
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&i64::from(keep_per_node), &time(before_unix_ms), &TRIM_ROWS];
    client.query(&statement, &values).await?.iter().map(|row| get(row, 0)).collect()
}

/// Deletes these tasks and the idempotency keys that are over.
pub(super) async fn trim(client: &ClientWrapper, over: &[Vec<u8>], now_unix_ms: u64) -> Result<u64, Fault> {
    let keys = client
        .prepare_cached(
            "DELETE FROM idempotency WHERE (scope, key) IN
                 (SELECT scope, key FROM idempotency WHERE created_at < $1 ORDER BY created_at LIMIT $2)",
        )
        .await?;
    client.execute(&keys, &[&time(now_unix_ms.saturating_sub(IDEMPOTENCY_KEEP_MS)), &TRIM_ROWS]).await?;
    let delete = client
        .prepare_cached(
            "DELETE FROM tasks WHERE id IN
                 (SELECT id FROM tasks WHERE id = ANY($1) AND state = 'ended' ORDER BY id FOR UPDATE)",
        )
        .await?;
    Ok(client.execute(&delete, &[&over]).await?)
}

async fn used_for(client: &ClientWrapper, key: &IdempotencyKey) -> Result<Option<([u8; 32], TaskId)>, Fault> {
    let query = "SELECT request_hash, task FROM idempotency WHERE scope = $1 AND key = $2";
    let statement = client.prepare_cached(query).await?;
    let row = client.query_opt(&statement, &[&text(&key.scope), &text(&key.key)]).await?;
    row.map(|row| Ok((bytes(&row, 0)?, task_id(&row, 1)?))).transpose()
}

async fn insert(client: &ClientWrapper, task: &TaskRow) -> Result<(), Fault> {
    let spec = serde_json::to_string(&task.spec).map_err(Fault::failed)?;
    let statement = client
        .prepare_cached(
            "INSERT INTO tasks (id, node, spec, created_by, created_at, expires_at, state, dispatched_at, started_at,
                 ended_at, boot)
             VALUES ($1, $2, $3, $4, $5, $6, '', 0, 0, 0, 0)",
        )
        .await?;
    client
        .execute(
            &statement,
            &[
                &task_bytes(&task.id),
                &task.node.as_str(),
                &spec,
                &text(&task.created_by),
                &time(task.created_at_unix_ms),
                &time(task.expires_at_unix_ms),
            ],
        )
        .await?;
    update(client, task).await
}

/// Writes everything that steps can change.
async fn update(client: &ClientWrapper, task: &TaskRow) -> Result<(), Fault> {
    let end = task.end.as_ref();
    let boot = |cursor: Option<Cursor>| cursor.map(|cursor| cursor.boot.0.cast_signed());
    let seq = |cursor: Option<Cursor>| cursor.map(|cursor| cursor.seq.cast_signed());
    let statement = client
        .prepare_cached(
            "UPDATE tasks SET state = $2, outcome = $3, exit_code = $4, signal = $5, reason = $6, duration_ms = $7,
                 dispatched_at = $8, started_at = $9, ended_at = $10, boot = $11, read_boot = $12, read_seq = $13,
                 first_boot = $14, first_seq = $15, last_boot = $16, last_seq = $17
             WHERE id = $1",
        )
        .await?;
    client
        .execute(
            &statement,
            &[
                &task_bytes(&task.id),
                &task.state.as_str(),
                &end.map(|end| end.outcome.as_str()),
                &end.and_then(|end| end.exit_code).map(i64::from),
                &end.and_then(|end| end.signal).map(i64::from),
                &end.map(|end| text(&end.reason)),
                &end.map(|end| time(end.duration_ms)),
                &time(task.dispatched_at_unix_ms),
                &time(task.started_at_unix_ms),
                &time(task.ended_at_unix_ms),
                &number(task.boot.0)?,
                &boot(task.read_from),
                &seq(task.read_from),
                &boot(task.first),
                &seq(task.first),
                &boot(task.last),
                &seq(task.last),
            ],
        )
        .await?;
    Ok(())
}

fn from_row(row: &Row) -> Result<TaskRow, Fault> {
    let state: &str = get(row, 3)?;
    let state = TaskState::from_name(state)
        .ok_or_else(|| Fault::bad_column(3, format!("{state:?} is no state of a task")))?;
    Ok(TaskRow {
        id: task_id(row, 0)?,
        node: node_id(row, 1)?,
        spec: serde_json::from_str(get(row, 2)?).map_err(|error| Fault::bad_column(2, error))?,
        state,
        end: end(row)?,
        created_by: get(row, 9)?,
        created_at_unix_ms: unsigned(row, 10)?,
        expires_at_unix_ms: unsigned(row, 11)?,
        dispatched_at_unix_ms: unsigned(row, 12)?,
        started_at_unix_ms: unsigned(row, 13)?,
        ended_at_unix_ms: unsigned(row, 14)?,
        boot: Boot(unsigned(row, 15)?),
        read_from: cursor(row, 16)?,
        first: cursor(row, 18)?,
        last: cursor(row, 20)?,
    })
}

fn end(row: &Row) -> Result<Option<TaskEnd>, Fault> {
    let Some(outcome) = get::<Option<&str>>(row, 4)? else { return Ok(None) };
    let outcome = TaskOutcome::from_name(outcome)
        .ok_or_else(|| Fault::bad_column(4, format!("{outcome:?} is no outcome of a task")))?;
    let optional = |column| match get::<Option<i64>>(row, column)? {
        Some(_) => unsigned_32(row, column).map(Some),
        None => Ok(None),
    };
    Ok(Some(TaskEnd {
        outcome,
        exit_code: optional(5)?,
        signal: optional(6)?,
        reason: get(row, 7)?,
        duration_ms: unsigned(row, 8)?,
    }))
}

fn cursor(row: &Row, column: usize) -> Result<Option<Cursor>, Fault> {
    let (boot, seq): (Option<i64>, Option<i64>) = (get(row, column)?, get(row, column + 1)?);
    Ok(boot.zip(seq).map(|(boot, seq)| Cursor::new(Boot(boot.cast_unsigned()), seq.cast_unsigned())))
}

fn task_id(row: &Row, column: usize) -> Result<TaskId, Fault> {
    TaskId::from_slice(&bytes::<16>(row, column)?)
        .ok_or_else(|| Fault::bad_column(column, "a task id has 16 bytes"))
}

/// An id as a parameter.
fn task_bytes(id: &TaskId) -> &[u8] {
    id.as_bytes()
}

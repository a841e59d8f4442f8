//! Tasks: written down before they are sent, stepped forward, trimmed when they are old.

use registry_core::{Boot, Cursor, TaskEnd, TaskId, TaskOutcome, TaskState};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::value::{bad_column, number, time, unsigned, unsigned_32};
use super::add_audit;
use super::nodes::node_id;
use crate::store::task_steps::{IDEMPOTENCY_KEEP_MS, TRIM_ROWS, advance};
use crate::store::{AuditRow, CreateTaskOutcome, IdempotencyKey, TaskFilter, TaskRow, TaskSpec, TaskStep};

const COLUMNS: &str = "id, node, spec, state, outcome, exit_code, signal, reason, duration_ms, created_by, created_at,
    expires_at, dispatched_at, started_at, ended_at, boot, read_boot, read_seq, first_boot, first_seq, last_boot,
    last_seq";

/// Writes down a task, unless its key was used before.
pub(super) fn create(
    connection: &Connection,
    task: &TaskRow,
    key: Option<&IdempotencyKey>,
    audit: &AuditRow,
) -> rusqlite::Result<CreateTaskOutcome> {
    if let Some(key) = key
        && let Some((hash, id)) = used_for(connection, key)?
    {
        return match one(connection, id)? {
            Some(task) if hash == key.request_hash => Ok(CreateTaskOutcome::Existing(Box::new(task))),
            _ => Ok(CreateTaskOutcome::KeyReused),
        };
    }
    insert(connection, task)?;
    if let Some(key) = key {
        connection
            .prepare_cached(
                "INSERT INTO idempotency (scope, key, request_hash, task, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                key.scope,
                key.key,
                key.request_hash,
                task.id.as_bytes(),
                time(task.created_at_unix_ms)
            ])?;
    }
    add_audit(connection, audit)?;
    Ok(CreateTaskOutcome::Created)
}

/// Takes steps, in order.
pub(super) fn step(
    connection: &Connection,
    steps: &[(TaskId, TaskStep)],
) -> rusqlite::Result<Vec<Option<(TaskRow, bool)>>> {
    steps
        .iter()
        .map(|(id, step)| {
            let Some(mut task) = one(connection, *id)? else { return Ok(None) };
            let changed = advance(&mut task, step);
            if changed {
                update(connection, &task)?;
            }
            Ok(Some((task, changed)))
        })
        .collect()
}

/// One task.
pub(super) fn one(connection: &Connection, id: TaskId) -> rusqlite::Result<Option<TaskRow>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM tasks WHERE id = ?1"))?
        .query_row([id.as_bytes()], from_row)
        .optional()
}

/// Some tasks, newest first.
pub(super) fn some(connection: &Connection, filter: &TaskFilter) -> rusqlite::Result<Vec<TaskRow>> {
    let mut query = format!("SELECT {COLUMNS} FROM tasks WHERE id < ?1");
    if filter.node.is_some() {
        query.push_str(" AND node = ?3");
    } else {
        query.push_str(" AND ?3 IS NULL");
    }
    if filter.active {
        query.push_str(" AND state <> 'ended'");
    }
    query.push_str(" ORDER BY id DESC LIMIT ?2");
    // Longer than any id with the same beginning: after all of them.
    const AFTER_ALL: &[u8] = &[0xff; 17];
    let before = filter.before.as_ref().map_or(AFTER_ALL, |id| id.as_bytes());
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    connection
        .prepare_cached(&query)?
        .query_map(params![before, limit, filter.node.as_ref().map(registry_core::NodeId::as_str)], from_row)?
        .collect()
}

/// Ended tasks that a trim may delete, oldest first. A task whose request may still be repeated is not among them: a
/// repeated request would run again.
pub(super) fn beyond(
    connection: &Connection,
    keep_per_node: u32,
    before_unix_ms: u64,
) -> rusqlite::Result<Vec<TaskId>> {
    connection
        .prepare_cached(
            "SELECT id FROM (
                 SELECT id, row_number() OVER (PARTITION BY node ORDER BY id DESC) AS place,
                        max(ended_at, created_at) AS over_at
                 FROM tasks WHERE state = 'ended'
             )
             WHERE (place > ?1 OR over_at < ?2) AND NOT EXISTS (SELECT 1 FROM idempotency WHERE task = id)
             ORDER BY id LIMIT ?3",
        )?
        .query_map(params![keep_per_node, time(before_unix_ms), TRIM_ROWS], |row| task_id(row, 0))?
        .collect()
}

/// Deletes these tasks and the idempotency keys that are over.
pub(super) fn trim(connection: &Connection, over: &[TaskId], now_unix_ms: u64) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "DELETE FROM idempotency WHERE (scope, key) IN
                 (SELECT scope, key FROM idempotency WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)",
        )?
        .execute(params![time(now_unix_ms.saturating_sub(IDEMPOTENCY_KEEP_MS)), TRIM_ROWS])?;
    let mut delete = connection.prepare_cached("DELETE FROM tasks WHERE id = ?1 AND state = 'ended'")?;
    let mut deleted = 0;
    for id in over {
        deleted += delete.execute([id.as_bytes()])? as u64;
    }
    Ok(deleted)
}

fn used_for(connection: &Connection, key: &IdempotencyKey) -> rusqlite::Result<Option<([u8; 32], TaskId)>> {
    connection
        .prepare_cached("SELECT request_hash, task FROM idempotency WHERE scope = ?1 AND key = ?2")?
        .query_row([&key.scope, &key.key], |row| Ok((row.get(0)?, task_id(row, 1)?)))
        .optional()
}

fn insert(connection: &Connection, task: &TaskRow) -> rusqlite::Result<()> {
    let spec = serde_json::to_string(&task.spec)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    connection
        .prepare_cached(
            "INSERT INTO tasks (id, node, spec, created_by, created_at, expires_at, state, dispatched_at, started_at,
                 ended_at, boot)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, '', 0, 0, 0, 0)",
        )?
        .execute(params![
            task.id.as_bytes(),
            task.node.as_str(),
            spec,
            task.created_by,
            time(task.created_at_unix_ms),
            time(task.expires_at_unix_ms),
        ])?;
    update(connection, task)
}

/// Writes everything that steps can change.
fn update(connection: &Connection, task: &TaskRow) -> rusqlite::Result<()> {
    let end = task.end.as_ref();
    let boot = |cursor: Option<Cursor>| cursor.map(|cursor| cursor.boot.0.cast_signed());
    let seq = |cursor: Option<Cursor>| cursor.map(|cursor| cursor.seq.cast_signed());
    connection
        .prepare_cached(
            "UPDATE tasks SET state = ?2, outcome = ?3, exit_code = ?4, signal = ?5, reason = ?6, duration_ms = ?7,
                 dispatched_at = ?8, started_at = ?9, ended_at = ?10, boot = ?11, read_boot = ?12, read_seq = ?13,
                 first_boot = ?14, first_seq = ?15, last_boot = ?16, last_seq = ?17
             WHERE id = ?1",
        )?
        .execute(params![
            task.id.as_bytes(),
            task.state.as_str(),
            end.map(|end| end.outcome.as_str()),
            end.and_then(|end| end.exit_code),
            end.and_then(|end| end.signal),
            end.map(|end| &end.reason),
            end.map(|end| time(end.duration_ms)),
            time(task.dispatched_at_unix_ms),
            time(task.started_at_unix_ms),
            time(task.ended_at_unix_ms),
            number(task.boot.0)?,
            boot(task.read_from),
            seq(task.read_from),
            boot(task.first),
            seq(task.first),
            boot(task.last),
            seq(task.last),
        ])
        .map(|_updated| ())
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<TaskRow> {
    let spec: String = row.get(2)?;
    let spec: TaskSpec = serde_json::from_str(&spec).map_err(|error| bad_column(2, Type::Text, error))?;
    let state: String = row.get(3)?;
    let state = TaskState::from_name(&state)
        .ok_or_else(|| bad_column(3, Type::Text, format!("{state:?} is no state of a task")))?;
    Ok(TaskRow {
        id: task_id(row, 0)?,
        node: node_id(row, 1)?,
        spec,
        state,
        end: end(row)?,
        created_by: row.get(9)?,
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

fn end(row: &Row<'_>) -> rusqlite::Result<Option<TaskEnd>> {
    let Some(outcome) = row.get::<_, Option<String>>(4)? else { return Ok(None) };
    let outcome = TaskOutcome::from_name(&outcome)
        .ok_or_else(|| bad_column(4, Type::Text, format!("{outcome:?} is no outcome of a task")))?;
    let optional = |column| match row.get::<_, Option<i64>>(column)? {
        Some(_) => unsigned_32(row, column).map(Some),
        None => Ok(None),
    };
    Ok(Some(TaskEnd {
        outcome,
        exit_code: optional(5)?,
        signal: optional(6)?,
        reason: row.get(7)?,
        duration_ms: unsigned(row, 8)?,
    }))
}

fn cursor(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Cursor>> {
    let (boot, seq): (Option<i64>, Option<i64>) = (row.get(column)?, row.get(column + 1)?);
    Ok(boot.zip(seq).map(|(boot, seq)| Cursor::new(Boot(boot.cast_unsigned()), seq.cast_unsigned())))
}

fn task_id(row: &Row<'_>, column: usize) -> rusqlite::Result<TaskId> {
    let bytes: [u8; 16] = row.get(column)?;
    TaskId::from_slice(&bytes).ok_or_else(|| bad_column(column, Type::Blob, "a task id has 16 bytes"))
}

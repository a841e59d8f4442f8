//! Frames out: pages after a cursor, and the cursors to begin at.

use bytes::Bytes;
use registry_core::{Boot, Cursor, Frame, NodeId};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::records::node_id;
use super::super::value::{bad_column, bound, time, unsigned};
use crate::store::log_rows::{Filling, frames_of, place_before};
use crate::store::{BootHead, LogPage};

/// Every boot.
pub(super) fn heads(connection: &Connection) -> rusqlite::Result<Vec<BootHead>> {
    connection
        .prepare_cached("SELECT node, boot, boot_id, last_seq, closed FROM boots ORDER BY node, boot")?
        .query_map([], |row| {
            Ok(BootHead {
                node: node_id(row, 0)?,
                boot: Boot(unsigned(row, 1)?),
                boot_id: row.get(2)?,
                last_seq: unsigned(row, 3)?,
                closed: row.get(4)?,
            })
        })?
        .collect()
}

/// Frames after a cursor, over boots, up to about `max_bytes` and at least one.
pub(super) fn page(
    connection: &Connection,
    node: &NodeId,
    after: Cursor,
    max_bytes: usize,
) -> rusqlite::Result<LogPage> {
    let mut filling = Filling::new(oldest(connection, node)?, after, max_bytes);
    // From the last row that begins at or before the frame that is wanted; of the rows from there on, those that end
    // after the cursor. Each of these has a frame that is wanted.
    let mut statement = connection.prepare_cached(
        "SELECT data, frames FROM chunks
         WHERE boot_ref = ?1 AND last_seq > ?2 AND first_seq >= coalesce(
             (SELECT first_seq FROM chunks WHERE boot_ref = ?1 AND first_seq <= ?2 ORDER BY first_seq DESC LIMIT 1), 0)
         ORDER BY first_seq",
    )?;
    for (id, boot) in boots_from(connection, node, after.boot)? {
        let mut rows = statement.query(params![id, bound(filling.after_seq(boot))])?;
        while let Some(row) = rows.next()? {
            if filling.is_full() || !filling.take(boot, frames(row)?) {
                return Ok(filling.page);
            }
        }
    }
    filling.page.at_head = true;
    Ok(filling.page)
}

/// The cursor after which about `bytes` of output follow.
pub(super) fn before_tail(connection: &Connection, node: &NodeId, bytes: u64) -> rusqlite::Result<Cursor> {
    let mut start = head(connection, node)?;
    let mut missing = bytes;
    let mut statement = connection.prepare_cached(
        "SELECT boots.boot, chunks.first_seq, chunks.output, chunks.id
         FROM boots CROSS JOIN chunks ON chunks.boot_ref = boots.id
         WHERE boots.node = ?1 AND boots.frames > 0 ORDER BY boots.boot DESC, chunks.first_seq DESC",
    )?;
    let mut rows = statement.query([node.as_str()])?;
    while missing > 0
        && let Some(row) = rows.next()?
    {
        let output = unsigned(row, 2)?;
        if output >= missing {
            return inside(connection, row.get(3)?, Boot(unsigned(row, 0)?), missing);
        }
        missing -= output;
        start = before(row)?;
    }
    Ok(start)
}

/// The cursor after which the rows are not older than this.
pub(super) fn at(connection: &Connection, node: &NodeId, unix_ms: u64) -> rusqlite::Result<Cursor> {
    let mut start = head(connection, node)?;
    let mut statement = connection.prepare_cached(
        "SELECT boots.boot, chunks.first_seq, chunks.last_at
         FROM boots CROSS JOIN chunks ON chunks.boot_ref = boots.id
         WHERE boots.node = ?1 AND boots.frames > 0 ORDER BY boots.boot DESC, chunks.first_seq DESC",
    )?;
    let mut rows = statement.query([node.as_str()])?;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(2)? < time(unix_ms) {
            break;
        }
        start = before(row)?;
    }
    Ok(start)
}

/// The place before the first frame that is kept.
fn oldest(connection: &Connection, node: &NodeId) -> rusqlite::Result<Option<Cursor>> {
    connection
        .prepare_cached(
            "SELECT boots.boot, chunks.first_seq FROM boots CROSS JOIN chunks ON chunks.boot_ref = boots.id
             WHERE boots.node = ?1 AND boots.frames > 0 ORDER BY boots.boot, chunks.first_seq LIMIT 1",
        )?
        .query_row([node.as_str()], before)
        .optional()
}

/// The place after the last frame; [`Cursor::START`] where there never was one.
fn head(connection: &Connection, node: &NodeId) -> rusqlite::Result<Cursor> {
    let head = connection
        .prepare_cached(
            "SELECT boot, max(last_seq, coalesce((SELECT max(last_seq) FROM (
                 SELECT last_seq FROM chunks WHERE boot_ref = boots.id ORDER BY first_seq DESC LIMIT 1)), 0))
             FROM boots WHERE node = ?1 ORDER BY boot DESC LIMIT 1",
        )?
        .query_row([node.as_str()], |row| {
            let seq = unsigned(row, 1)?;
            // A gap to the end of the boot ends where its cursor says.
            let seq = if bound(seq) == i64::MAX { u64::MAX } else { seq };
            Ok(Cursor::new(Boot(unsigned(row, 0)?), seq))
        })
        .optional()?;
    Ok(head.unwrap_or_default())
}

/// The place before a row whose boot and first seq are its first columns.
fn before(row: &Row<'_>) -> rusqlite::Result<Cursor> {
    Ok(Cursor::new(Boot(unsigned(row, 0)?), unsigned(row, 1)?.saturating_sub(1)))
}

/// The place in a row after which `bytes` of its output follow, or a little more.
fn inside(connection: &Connection, chunk: i64, boot: Boot, bytes: u64) -> rusqlite::Result<Cursor> {
    let frames = connection
        .prepare_cached("SELECT data, frames FROM chunks WHERE id = ?1")?
        .query_row([chunk], frames)?;
    Ok(Cursor::new(boot, place_before(&frames, bytes)))
}

/// The boots from this one on that have frames, with the ids of their rows.
fn boots_from(connection: &Connection, node: &NodeId, boot: Boot) -> rusqlite::Result<Vec<(i64, Boot)>> {
    connection
        .prepare_cached(
            "SELECT id, boot FROM boots WHERE node = ?1 AND boot >= ?2 AND frames > 0 ORDER BY boot",
        )?
        .query_map(params![node.as_str(), bound(boot.0)], |row| Ok((row.get(0)?, Boot(unsigned(row, 1)?))))?
        .collect()
}

/// The frames of a row whose data and number of frames are its first columns.
fn frames(row: &Row<'_>) -> rusqlite::Result<Vec<Frame>> {
    let data: Vec<u8> = row.get(0)?;
    frames_of(Bytes::from(data), unsigned(row, 1)?).map_err(|error| bad_column(0, Type::Blob, error))
}

//! Frames out: pages after a cursor, and the cursors to begin at.

use std::sync::Arc;

use bytes::Bytes;
use redis::Cmd;
use registry_core::{Boot, Cursor, Frame, FrameKind, GapReason, NodeId};

use super::check::{MEASURED_ROWS, measures};
use super::log::Shared;
use super::state::{Measures, NodeState, id};
use crate::store::log_rows::{Filling, frames_of, place_before};
use crate::store::{LogPage, StoreError, StoreResult};

/// Rows fetched at once: enough that small ones are not asked for one by one.
const FETCHED_ROWS: u64 = 512;

/// And about this many bytes of them.
const FETCHED_BYTES: u64 = 4 * 1024 * 1024;

/// A row as the server gives it.
struct Fetched {
    measures: Measures,
    frames: Vec<Frame>,
}

/// Frames after a cursor, over boots, up to about `max_bytes` and at least one. `None`: there should be some and are not.
pub(super) async fn page(
    shared: &Shared,
    node: &NodeId,
    after: Cursor,
    max_bytes: usize,
) -> StoreResult<Option<LogPage>> {
    // Taken before the rows: what is trimmed meanwhile shows as a hole before the first of them.
    let known = shared.roll.lock().get(node);
    let mut filling = Filling::new(known.front.map(|front| front.before), after, max_bytes);
    let mut last = after;
    loop {
        let count = rows_to_fetch(&known, max_bytes);
        let rows = fetch(shared, node, last, count).await?;
        let at_end = (rows.len() as u64) < count;
        if rows.is_empty() && last == after && known.rows > 0 && known.newest > after {
            return Ok(None);
        }
        for row in rows {
            let boot = row.measures.id.boot;
            let expected = if boot == last.boot { last.seq.saturating_add(1) } else { 1 };
            if row.measures.first_seq > expected {
                if last == after {
                    // Between the place asked for and this row nothing is kept.
                    let before = row.measures.before();
                    filling.page.oldest =
                        Some(filling.page.oldest.map_or(before, |oldest| oldest.max(before)));
                } else if !filling.take(boot, vec![hole(expected, &row.measures)]) {
                    return Ok(Some(filling.page));
                }
            }
            if filling.is_full() || !filling.take(boot, row.frames) {
                return Ok(Some(filling.page));
            }
            last = row.measures.id;
        }
        if at_end {
            filling.page.at_head = true;
            return Ok(Some(filling.page));
        }
        if filling.is_full() {
            return Ok(Some(filling.page));
        }
    }
}

/// Frames in the middle that somebody took out of the store.
fn hole(first_seq: u64, next: &Measures) -> Frame {
    let kind = FrameKind::Gap { last_seq: Some(next.before().seq), reason: GapReason::LogLost };
    Frame { seq: first_seq, at_unix_ms: 0, task: None, kind }
}

/// As many rows as will fill the page, going by their size so far.
fn rows_to_fetch(known: &NodeState, max_bytes: usize) -> u64 {
    let row_bytes = (known.amount.bytes / known.rows.max(1)).max(1);
    let wanted = (max_bytes as u64).min(FETCHED_BYTES);
    (wanted / row_bytes + 1).min(FETCHED_ROWS)
}

async fn fetch(shared: &Shared, node: &NodeId, after: Cursor, count: u64) -> StoreResult<Vec<Fetched>> {
    type Entry = (String, Vec<Bytes>);
    if after == Cursor::new(Boot(u64::MAX), u64::MAX) {
        return Ok(Vec::new());
    }
    let mut command = Cmd::new();
    command.arg("XRANGE").arg(shared.keys.stream(node)).arg(format!("({}", id(after))).arg("+");
    command.arg("COUNT").arg(count);
    let entries: Vec<Entry> = shared.read.ask(command).await?;
    entries.into_iter().map(|(entry, fields)| decode(node, &entry, fields)).collect()
}

fn decode(node: &NodeId, entry: &str, fields: Vec<Bytes>) -> StoreResult<Fetched> {
    let [_, text, _, data] = <[Bytes; 4]>::try_from(fields).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let measures =
        Measures::parse(node, entry, &text).map_err(|error| StoreError::Failed(Arc::new(error)))?;
    let frames =
        frames_of(data, measures.amount.frames).map_err(|error| StoreError::Failed(Arc::new(error)))?;
    Ok(Fetched { measures, frames })
}

/// The cursor after which about `bytes` of output follow.
pub(super) async fn before_tail(shared: &Shared, node: &NodeId, bytes: u64) -> StoreResult<Cursor> {
    let mut missing = bytes;
    let mut start = head(&shared.roll.lock().get(node));
    let mut back = Back::new(shared, node);
    while missing > 0
        && let Some(row) = back.next().await?
    {
        if row.output >= missing {
            let before = Cursor::new(row.id.boot, row.id.seq.saturating_sub(1));
            let found = fetch(shared, node, before, 1).await?;
            let frames = found.first().map_or(&[][..], |row| &row.frames);
            return Ok(Cursor::new(row.id.boot, place_before(frames, missing)));
        }
        missing -= row.output;
        start = row.before();
    }
    Ok(start)
}

/// The cursor after which the rows are not older than this.
pub(super) async fn at(shared: &Shared, node: &NodeId, unix_ms: u64) -> StoreResult<Cursor> {
    let mut start = head(&shared.roll.lock().get(node));
    let mut back = Back::new(shared, node);
    while let Some(row) = back.next().await? {
        if row.last_at_unix_ms < unix_ms {
            break;
        }
        start = row.before();
    }
    Ok(start)
}

/// The place after the last frame; [`Cursor::START`] where there never was one.
fn head(state: &NodeState) -> Cursor {
    let Some((boot, known)) = state.boots.last_key_value() else { return Cursor::START };
    let of_boot = Cursor::new(*boot, known.head.last_seq);
    // A gap to the end of the boot ends where its cursor says.
    if state.newest.boot == *boot { of_boot.max(state.newest) } else { of_boot }
}

/// A node's rows from the last one backwards.
struct Back<'a> {
    shared: &'a Shared,
    node: &'a NodeId,
    /// Of those that were asked for, in order.
    found: Vec<Measures>,
    to: Option<String>,
}

impl<'a> Back<'a> {
    fn new(shared: &'a Shared, node: &'a NodeId) -> Self {
        Self { shared, node, found: Vec::new(), to: Some("+".to_owned()) }
    }

    async fn next(&mut self) -> StoreResult<Option<Measures>> {
        if self.found.is_empty()
            && let Some(to) = self.to.take()
        {
            let Shared { read, keys, .. } = self.shared;
            let mut found = measures(read, keys, self.node, "XREVRANGE", &to, "-", MEASURED_ROWS).await?;
            if found.len() as u64 == MEASURED_ROWS {
                self.to = found.last().map(|row| format!("({}", id(row.id)));
            }
            found.reverse();
            self.found = found;
        }
        Ok(self.found.pop())
    }
}

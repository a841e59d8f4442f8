//! Frames out: pages after a cursor, and the cursors to begin at.

use bytes::Bytes;
use deadpool_postgres::ClientWrapper;
use registry_core::{Boot, Cursor, Frame, NodeId};
use tokio_postgres::Row;

use super::super::value::{Fault, bound, bytes, get, node_id, time, unsigned};
use crate::store::log_rows::{Filling, ROW_BYTES, frames_of, place_before};
use crate::store::{BootHead, LogPage};

/// Rows fetched at a time, at most: up to 4 MiB.
const FETCH_ROWS: usize = 64;

/// Every boot.
pub(super) async fn heads(client: &ClientWrapper) -> Result<Vec<BootHead>, Fault> {
    let query = "SELECT node, boot, boot_id, last_seq, closed FROM boots ORDER BY node, boot";
    let head = |row: &Row| {
        Ok(BootHead {
            node: node_id(row, 0)?,
            boot: Boot(unsigned(row, 1)?),
            boot_id: bytes(row, 2)?,
            last_seq: unsigned(row, 3)?,
            closed: get::<i64>(row, 4)? != 0,
        })
    };
    client.query(query, &[]).await?.iter().map(head).collect()
}

/// Frames after a cursor, over boots, up to about `max_bytes` and at least one.
pub(super) async fn page(
    client: &ClientWrapper,
    node: &NodeId,
    after: Cursor,
    max_bytes: usize,
) -> Result<LogPage, Fault> {
    let mut filling = Filling::new(oldest(client, node).await?, after, max_bytes);
    // From the last row that begins at or before the frame that is wanted; of the rows from there on, those that end
    // after the cursor. Each of these has a frame that is wanted.
    let statement = client
        .prepare_cached(
            "SELECT data, frames, first_seq FROM chunks
             WHERE boot_ref = $1 AND last_seq > $2 AND first_seq > $3 AND first_seq >= coalesce(
                 (SELECT first_seq FROM chunks WHERE boot_ref = $1 AND first_seq <= $2
                  ORDER BY first_seq DESC LIMIT 1), 0)
             ORDER BY first_seq LIMIT $4",
        )
        .await?;
    // As many rows as the page has room for when they are full; more and more when they turn out to be small.
    let mut fetch = (max_bytes / ROW_BYTES + 1).min(FETCH_ROWS);
    for (id, boot) in boots_from(client, node, after.boot).await? {
        let after_seq = bound(filling.after_seq(boot));
        let mut begin_after = -1_i64;
        loop {
            let limit = i64::try_from(fetch).unwrap_or(i64::MAX);
            let rows = client.query(&statement, &[&id, &after_seq, &begin_after, &limit]).await?;
            for row in &rows {
                if filling.is_full() || !filling.take(boot, frames(row)?) {
                    return Ok(filling.page);
                }
            }
            match rows.last() {
                Some(last) if rows.len() == fetch => begin_after = get(last, 2)?,
                _ => break,
            }
            fetch = (fetch * 2).min(FETCH_ROWS);
        }
    }
    filling.page.at_head = true;
    Ok(filling.page)
}

/// The cursor after which about `bytes` of output follow.
pub(super) async fn before_tail(client: &ClientWrapper, node: &NodeId, bytes: u64) -> Result<Cursor, Fault> {
    let mut start = head(client, node).await?;
    let mut missing = bytes;
    let mut rows = Backwards::from_head();
    while missing > 0
        && let Some(row) = rows.next(client, node).await?
    {
        if row.output >= missing {
            let statement = client.prepare_cached("SELECT data, frames FROM chunks WHERE id = $1").await?;
            let frames = frames(&client.query_one(&statement, &[&row.id]).await?)?;
            return Ok(Cursor::new(row.before.boot, place_before(&frames, missing)));
        }
        missing -= row.output;
        start = row.before;
    }
    Ok(start)
}

/// The cursor after which the rows are not older than this.
pub(super) async fn at(client: &ClientWrapper, node: &NodeId, unix_ms: u64) -> Result<Cursor, Fault> {
    let mut start = head(client, node).await?;
    let mut rows = Backwards::from_head();
    while let Some(row) = rows.next(client, node).await? {
        if row.last_at < time(unix_ms) {
            break;
        }
        start = row.before;
    }
    Ok(start)
}

/// A walk from a node's newest row to its oldest, without their frames.
struct Backwards {
    fetched: std::vec::IntoIter<Passed>,
    /// Boot and first seq of the last row that was fetched; `None` when all were.
    place: Option<(i64, i64)>,
}

/// A row on that walk.
struct Passed {
    id: i64,
    before: Cursor,
    output: u64,
    last_at: i64,
}

impl Backwards {
    fn from_head() -> Self {
        Self { fetched: Vec::new().into_iter(), place: Some((i64::MAX, i64::MAX)) }
    }

    async fn next(&mut self, client: &ClientWrapper, node: &NodeId) -> Result<Option<Passed>, Fault> {
        if let Some(row) = self.fetched.next() {
            return Ok(Some(row));
        }
        let Some((boot, first_seq)) = self.place else { return Ok(None) };
        let statement = client
            .prepare_cached(
                "SELECT boots.boot, chunks.first_seq, chunks.output, chunks.id, chunks.last_at
                 FROM boots JOIN chunks ON chunks.boot_ref = boots.id
                 WHERE boots.node = $1 AND boots.frames > 0 AND boots.boot <= $2
                     AND (boots.boot < $2 OR chunks.first_seq < $3)
                 ORDER BY boots.boot DESC, chunks.first_seq DESC LIMIT $4",
            )
            .await?;
        let limit = i64::try_from(FETCH_ROWS).unwrap_or(i64::MAX);
        let rows = client.query(&statement, &[&node.as_str(), &boot, &first_seq, &limit]).await?;
        self.place = match rows.last() {
            Some(last) if rows.len() == FETCH_ROWS => Some((get(last, 0)?, get(last, 1)?)),
            _ => None,
        };
        let passed = |row: &Row| {
            Ok(Passed {
                id: get(row, 3)?,
                before: before(row)?,
                output: unsigned(row, 2)?,
                last_at: get(row, 4)?,
            })
        };
        self.fetched = rows.iter().map(passed).collect::<Result<Vec<_>, Fault>>()?.into_iter();
        Ok(self.fetched.next())
    }
}

/// The place before the first frame that is kept.
async fn oldest(client: &ClientWrapper, node: &NodeId) -> Result<Option<Cursor>, Fault> {
    let statement = client
        .prepare_cached(
            "SELECT boots.boot, chunks.first_seq FROM boots JOIN chunks ON chunks.boot_ref = boots.id
             WHERE boots.node = $1 AND boots.frames > 0 ORDER BY boots.boot, chunks.first_seq LIMIT 1",
        )
        .await?;
    client.query_opt(&statement, &[&node.as_str()]).await?.as_ref().map(before).transpose()
}

/// The place after the last frame; [`Cursor::START`] where there never was one.
async fn head(client: &ClientWrapper, node: &NodeId) -> Result<Cursor, Fault> {
    let statement = client
        .prepare_cached(
            "SELECT boot, greatest(last_seq, (
                 SELECT last_seq FROM chunks WHERE boot_ref = boots.id ORDER BY first_seq DESC LIMIT 1))
             FROM boots WHERE node = $1 ORDER BY boot DESC LIMIT 1",
        )
        .await?;
    let Some(row) = client.query_opt(&statement, &[&node.as_str()]).await? else {
        return Ok(Cursor::default());
    };
    let seq = unsigned(&row, 1)?;
    // A gap to the end of the boot ends where its cursor says.
    let seq = if bound(seq) == i64::MAX { u64::MAX } else { seq };
    Ok(Cursor::new(Boot(unsigned(&row, 0)?), seq))
}

/// The place before a row whose boot and first seq are its first columns.
fn before(row: &Row) -> Result<Cursor, Fault> {
    Ok(Cursor::new(Boot(unsigned(row, 0)?), unsigned(row, 1)?.saturating_sub(1)))
}

/// The boots from this one on that have frames, with the ids of their rows.
async fn boots_from(client: &ClientWrapper, node: &NodeId, boot: Boot) -> Result<Vec<(i64, Boot)>, Fault> {
    let query = "SELECT id, boot FROM boots WHERE node = $1 AND boot >= $2 AND frames > 0 ORDER BY boot";
    let statement = client.prepare_cached(query).await?;
    let rows = client.query(&statement, &[&node.as_str(), &bound(boot.0)]).await?;
    rows.iter().map(|row| Ok((get(row, 0)?, Boot(unsigned(row, 1)?)))).collect()
}

/// The frames of a row whose data and number of frames are its first columns.
fn frames(row: &Row) -> Result<Vec<Frame>, Fault> {
    let data = Bytes::copy_from_slice(get(row, 0)?);
    frames_of(data, unsigned(row, 1)?).map_err(|error| Fault::bad_column(0, error))
}

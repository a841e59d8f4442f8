//! A hub's keys, read for a dump and made from one.
//!
//! Reading takes nothing and claims nothing. What is made stands under the id of the dump's hub, which no hub uses before
//! the records say so; a key `import` beside it names the dump for as long as that lasts. Each node's own hash says which
//! rows are in: they are passed over when an import goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Cmd, Pipeline};
use registry_core::{Boot, Clock, Cursor, NodeId};

use super::check::{Finding, Seen};
use super::keys::Keys;
use super::link::Link;
use super::opening;
use super::place::Place;
use super::scripts;
use super::state::{BootState, Front, NodeState, id, parse_id};
use crate::store::log_rows::Head;
use crate::store::log_totals::Amount;
use crate::store::numbers::time;
use crate::store::transfer::TransferError;
use crate::store::transfer::ends::{LogSource, LogTarget, Origin};
use crate::store::transfer::frames::FrameRow;
use crate::store::{BootHead, StoreError, StoreResult};

/// Rows read at once; they have up to 128 KiB each.
const PAGE_ROWS: u32 = 64;

/// Nodes looked at in one pipeline.
const LOOK_NODES: usize = 128;

/// About how many bytes of rows are written by one call of a script, and by one pipeline of them.
const WRITTEN_BYTES: (usize, usize) = (1024 * 1024, 4 * 1024 * 1024);

/// Calls in one pipeline.
const CALLS: usize = 1000;

/// A hub's keys.
pub(crate) struct Log {
    link: Link,
    keys: Keys,
    nodes: BTreeMap<NodeId, NodeState>,
    /// This import's number, where it is one.
    fence: String,
}

/// Somebody else wrote what this import was about to, or took away what it had written.
#[derive(Debug, thiserror::Error)]
#[error(
    "the terminal log of node {0} in redis was changed while it was imported: delete the keys `muster:*` of this hub \
         and import again"
)]
struct Changed(NodeId);

impl Log {
    pub(crate) async fn read(url: &str, hub_id: &str, clock: &Clock) -> Result<Self, TransferError> {
        let link = Link::for_reading(place(url).await?, clock.clone());
        opening::check_server(&link).await?;
        let mut log = Self { link, keys: Keys::new(hub_id)?, nodes: BTreeMap::new(), fence: String::new() };
        log.look().await?;
        Ok(log)
    }

    pub(crate) async fn make(url: &str, origin: Origin<'_>, clock: &Clock) -> Result<Self, TransferError> {
        let link = Link::for_writing(place(url).await?, clock.clone());
        opening::check_server(&link).await?;
        let keys = Keys::new(origin.hub_id)?;
        let mark = mark(&keys);
        let found: Option<String> = link.ask(command(&["GET", &mark])).await?;
        let taken: u64 = link.ask(command(&["EXISTS", &keys.hub, &keys.layout, &keys.nodes])).await?;
        let redis = link.place().name().to_owned();
        match found {
            Some(dump) if dump == origin.dump => {}
            Some(_) => {
                let what = format!(
                    "redis at {redis} has what an interrupted import of another dump has left: finish that import, or \
                     delete the keys that begin with muster:{{{}}}",
                    origin.hub_id
                );
                return Err(TransferError::refused("target_not_empty", what));
            }
            None if taken > 0 => {
                let what = format!(
                    "redis at {redis} has a terminal log of this hub already: give another server or database number, or \
                     delete the keys that begin with muster:{{{}}}",
                    origin.hub_id
                );
                return Err(TransferError::refused("target_not_empty", what));
            }
            None => link.ask::<()>(command(&["SET", &mark, origin.dump])).await?,
        }
        let fence = opening::claim(&link, &keys, clock).await?.to_string();
        let mut log = Self { link, keys, nodes: BTreeMap::new(), fence };
        log.look().await?;
        Ok(log)
    }

    /// Reads what each node's log is.
    async fn look(&mut self) -> StoreResult<()> {
        let names: Vec<String> = self.link.ask(command(&["SMEMBERS", &self.keys.nodes])).await?;
        let nodes: Vec<NodeId> = names.iter().filter_map(|node| NodeId::new(node).ok()).collect();
        self.nodes.clear();
        for some in nodes.chunks(LOOK_NODES) {
            let mut calls = Pipeline::new();
            for node in some {
                calls.add_command(Seen::ask(&self.keys, node));
            }
            for (node, answer) in some.iter().zip(self.link.send(&calls).await?) {
                let (Finding::Is(state) | Finding::Amend { state, .. }) =
                    Seen::read(&self.link, node, answer?)?.judge(None);
                self.nodes.insert(node.clone(), state);
            }
        }
        Ok(())
    }

    /// The call that writes rows of a node, and the fields of all its boots with the first of them.
    fn call(&mut self, node: &NodeId, rows: &[FrameRow], boots: &[Boot]) -> Cmd {
        let state = self.nodes.entry(node.clone()).or_default();
        let (version, known_rows) = (state.version, state.rows);
        for row in rows {
            let stored_us = stored_us(row);
            if state.front.is_none() {
                let before = Cursor::new(row.boot, row.first_seq.saturating_sub(1));
                state.front = Some(Front { before, stored_us });
            }
            state.newest = Cursor::new(row.boot, row.last_seq);
            state.rows += 1;
            state.amount += Amount { bytes: row.weight, frames: row.frames };
        }
        state.version += 1;
        let fields = state.fields(boots.iter().copied());
        let mut call = Cmd::new();
        call.arg("EVALSHA").arg(scripts::APPEND.get_hash()).arg(4);
        call.arg(&self.keys.hub).arg(self.keys.state(node)).arg(self.keys.stream(node)).arg(&self.keys.nodes);
        call.arg(&self.fence).arg(version).arg(known_rows).arg(node.as_str()).arg(fields.len()).arg(&fields);
        for row in rows {
            call.arg(id(Cursor::new(row.boot, row.last_seq))).arg(measures(row)).arg(&row.data[..]);
        }
        call
    }

    /// Sends calls of scripts, of which each has to be carried out.
    async fn send(&self, calls: &mut Vec<(NodeId, Cmd)>) -> StoreResult<()> {
        if calls.is_empty() {
            return Ok(());
        }
        let (nodes, commands): (Vec<_>, Vec<_>) = calls.drain(..).unzip();
        let mut pipeline = Pipeline::new();
        for command in commands {
            pipeline.add_command(command);
        }
        for (node, answer) in nodes.into_iter().zip(self.link.send(&pipeline).await?) {
            let said: String = redis::from_redis_value(answer?).unwrap_or_default();
            if said != "done" {
                return Err(StoreError::Failed(Arc::new(Changed(node))));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl LogSource for Log {
    async fn heads(&mut self) -> StoreResult<Vec<BootHead>> {
        self.look().await?;
        Ok(self.nodes.iter().flat_map(|(node, state)| state.heads(node)).collect())
    }

    async fn count(&mut self) -> StoreResult<u64> {
        Ok(self.nodes.values().map(|state| state.rows).sum())
    }

    async fn rows(&mut self, node: &NodeId, boot: Boot, after_seq: u64) -> StoreResult<Vec<FrameRow>> {
        type Entry = (String, Vec<Bytes>);
        let (from, to) = (id(Cursor::new(boot, after_seq)), id(Cursor::new(boot, u64::MAX)));
        if after_seq == u64::MAX {
            return Ok(Vec::new());
        }
        let mut command = Cmd::new();
        command.arg("XRANGE").arg(self.keys.stream(node)).arg(format!("({from}")).arg(to);
        command.arg("COUNT").arg(PAGE_ROWS);
        let entries: Vec<Entry> = self.link.ask(command).await?;
        entries.into_iter().map(|(entry, fields)| row(node, &entry, fields)).collect()
    }
}

#[async_trait]
impl LogTarget for Log {
    async fn parts_done(&mut self) -> StoreResult<u32> {
        Ok(0)
    }

    async fn boots(&mut self, _part: u32, boots: Vec<BootHead>) -> StoreResult<()> {
        let mut calls = Vec::new();
        for heads in boots.chunk_by(|a, b| a.node == b.node) {
            let node = &heads[0].node;
            let state = self.nodes.entry(node.clone()).or_default();
            let new: Vec<_> = heads.iter().filter(|head| !state.boots.contains_key(&head.boot)).collect();
            if new.is_empty() {
                continue;
            }
            for head in &new {
                let head_is = Head { last_seq: head.last_seq, closed: head.closed };
                state.boots.insert(head.boot, BootState { id: head.boot_id, head: head_is });
            }
            let numbers: Vec<_> = new.iter().map(|head| head.boot).collect();
            calls.push((node.clone(), self.call(node, &[], &numbers)));
            if calls.len() == CALLS {
                self.send(&mut calls).await?;
            }
        }
        self.send(&mut calls).await
    }

    async fn frames(&mut self, _part: u32, rows: Vec<FrameRow>) -> StoreResult<()> {
        let (mut calls, mut pending) = (Vec::new(), 0);
        for of_node in rows.chunk_by(|a, b| a.node == b.node) {
            let node = &of_node[0].node;
            let newest = self.nodes.get(node).map_or(Cursor::START, |state| state.newest);
            let is_in =
                of_node.iter().take_while(|row| Cursor::new(row.boot, row.last_seq) <= newest).count();
            let mut rest = &of_node[is_in..];
            while !rest.is_empty() {
                let mut size = 0;
                let fits = rest.iter().take_while(|row| {
                    let fits = size < WRITTEN_BYTES.0;
                    size += row.data.len() + 256;
                    fits
                });
                let (now, later) = rest.split_at(fits.count());
                calls.push((node.clone(), self.call(node, now, &[])));
                pending += size;
                if pending >= WRITTEN_BYTES.1 || calls.len() == CALLS {
                    self.send(&mut calls).await?;
                    pending = 0;
                }
                rest = later;
            }
        }
        self.send(&mut calls).await
    }

    async fn finish(&mut self) -> StoreResult<()> {
        Ok(())
    }

    async fn clear(&mut self) -> StoreResult<()> {
        self.link.ask(command(&["DEL", &mark(&self.keys)])).await
    }
}

async fn place(url: &str) -> StoreResult<Arc<Place>> {
    let url = url.to_owned();
    let parsed = tokio::task::spawn_blocking(move || Place::parse(&url)).await;
    Ok(Arc::new(parsed.map_err(|error| StoreError::Failed(Arc::new(error)))??))
}

/// The key that says which dump is imported.
fn mark(keys: &Keys) -> String {
    format!("{}import", keys.hub.strip_suffix("hub").unwrap_or(&keys.hub))
}

fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    command.arg(words);
    command
}

/// When a row was stored, in microseconds: as it was, where it comes from Redis; otherwise within its millisecond, with
/// what order its place gives it there.
fn stored_us(row: &FrameRow) -> u64 {
    let place = row.place.unsigned_abs();
    if place / 1000 == row.stored_at { place } else { row.stored_at.saturating_mul(1000) + place % 1000 }
}

fn measures(row: &FrameRow) -> String {
    let FrameRow { first_seq, frames, weight, output, first_at, last_at, .. } = row;
    format!("{first_seq} {frames} {weight} {output} {first_at} {last_at} {}", stored_us(row))
}

/// A row from an entry of a stream.
fn row(node: &NodeId, entry: &str, fields: Vec<Bytes>) -> StoreResult<FrameRow> {
    let bad = || {
        let what = format!("entry {entry} in the stream of node {node} is not readable");
        StoreError::Failed(Arc::new(std::io::Error::other(what)))
    };
    let [_, measures, _, data] = <[Bytes; 4]>::try_from(fields).map_err(|_| bad())?;
    let text = std::str::from_utf8(&measures).map_err(|_| bad())?;
    let numbers: Option<Vec<u64>> = text.split(' ').map(|number| number.parse().ok()).collect();
    let Some([first_seq, frames, weight, output, first_at, last_at, stored_us]) = numbers.as_deref() else {
        return Err(bad());
    };
    let last = parse_id(entry).ok_or_else(bad)?;
    // As other stores have them: what does not fit is cut down.
    let clipped = |ms: u64| time(ms).unsigned_abs();
    Ok(FrameRow {
        place: time(*stored_us),
        node: node.clone(),
        boot: last.boot,
        first_seq: *first_seq,
        last_seq: last.seq,
        first_at: clipped(*first_at),
        last_at: clipped(*last_at),
        stored_at: stored_us / 1000,
        weight: *weight,
        frames: *frames,
        output: *output,
        data,
    })
}

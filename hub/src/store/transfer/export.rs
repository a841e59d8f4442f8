//! Out of a hub's back ends into a dump.

use std::collections::BTreeSet;
use std::path::Path;

use registry_core::Clock;

use super::dump::{Folder, Manifest, Written};
use super::ends::{LogSource, RecordSource, log_source, record_source};
use super::frames::{FrameRow, head_row};
use super::part::{FORMAT, Filling, Part};
use super::tables::{BOOTS, FRAMES, RECORDS, Table, Value};
use super::{Phase, Places, Progress, Summary, Tell, TransferError, schemas};
use crate::store::BootHead;

/// Writes everything of a hub into the folder `to`, or goes on with what an interrupted export left there. The hub may
/// run. Everything that was durable when the first run of the export began is in the dump.
///
/// # Errors
/// [`TransferError`]: what cannot be read, what cannot be written, a folder that has something else.
pub async fn export(
    places: &Places,
    to: &Path,
    clock: &Clock,
    tell: Tell<'_>,
) -> Result<Summary, TransferError> {
    let began = clock.monotonic();
    let mut records = record_source(places).await?;
    let hub_id = records.hub_id().await?;
    if hub_id.is_empty() {
        return Err(TransferError::refused(
            "config",
            "no hub has ever used this database: there is nothing to export",
        ));
    }
    let mut log = log_source(places, &hub_id, clock).await?;
    let folder = Folder::open(to, &hub_id, clock)?;
    let written = folder.written()?;
    let parts_before = written.parts.len() as u64;
    let mut writing = Writing { folder: &folder, written, filling: Filling::default(), tell, of_rows: 0 };
    writing.of_rows = log.count().await?;
    if writing.written.has_heads {
        writing.of_rows += writing.written.tally.rows();
    } else {
        write_records(&mut writing, &mut *records, &mut *log).await?;
    }
    drop(records);
    if !writing.written.complete {
        write_frames(&mut writing, &mut *log).await?;
    }
    let written = writing.written;
    let (records_schema, terminal_schema) = schemas();
    let manifest = Manifest {
        muster_dump: FORMAT,
        dump: folder.begun.dump.clone(),
        hub_id,
        muster: env!("CARGO_PKG_VERSION").to_owned(),
        records_schema,
        terminal_schema,
        began_at: folder.begun.began_at,
        ended_at: clock.unix_ms(),
        tables: written.tally.infos(),
        parts: written.parts,
    };
    manifest.write(to)?;
    Ok(manifest.summary(&written.tally, parts_before, clock.monotonic().saturating_sub(began)))
}

/// A dump that grows.
struct Writing<'a> {
    folder: &'a Folder,
    written: Written,
    filling: Filling,
    tell: Tell<'a>,
    of_rows: u64,
}

impl Writing<'_> {
    fn row(&mut self, table: &'static Table, row: &[Value]) -> Result<(), TransferError> {
        Table::line(row, &mut self.filling.body);
        self.filling.rows += 1;
        self.cut(table.name, false)
    }

    fn frames(&mut self, row: &FrameRow) -> Result<(), TransferError> {
        let mut record = Vec::with_capacity(row.data.len() + 256);
        row.encode(&mut record);
        self.filling.record(&record);
        self.cut(FRAMES, false)
    }

    /// Makes a part of what there is when it is enough, or the table's last.
    fn cut(&mut self, table: &'static str, last: bool) -> Result<(), TransferError> {
        if !last && !self.filling.is_full() {
            return Ok(());
        }
        let number = u32::try_from(self.written.parts.len() + 1).unwrap_or(u32::MAX);
        let part: Part = self.filling.take(number, table, last);
        let info = part.write(&self.folder.path)?;
        self.written.add(&part, info)
    }

    fn tell(&self, table: &'static str) {
        let tally = &self.written.tally;
        let rows = tally.rows() + self.filling.rows;
        let bytes = tally.bytes() + self.filling.body.len() as u64;
        (self.tell)(Progress { phase: Phase::Export, table, rows, of_rows: self.of_rows.max(rows), bytes });
    }
}

/// The heads first, then the records in one snapshot.
async fn write_records(
    writing: &mut Writing<'_>,
    records: &mut dyn RecordSource,
    log: &mut dyn LogSource,
) -> Result<(), TransferError> {
    let mut heads = log.heads().await?;
    heads.sort_by(|a, b| (a.node.as_str(), a.boot).cmp(&(b.node.as_str(), b.boot)));
    records.begin().await?;
    writing.of_rows += heads.len() as u64;
    for table in &RECORDS {
        writing.of_rows += records.count(table).await?;
    }
    let mut nodes = BTreeSet::new();
    for table in &RECORDS {
        loop {
            let rows = records.next(table).await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                if let ("nodes", Some(Value::Text(id))) = (table.name, row.first()) {
                    nodes.insert(id.clone());
                }
                writing.row(table, row)?;
            }
            writing.tell(table.name);
        }
        writing.cut(table.name, true)?;
    }
    // What is left of a node that was deleted is on its way out.
    heads.retain(|head| nodes.contains(head.node.as_str()));
    for head in &heads {
        writing.row(&BOOTS, &head_row(head))?;
    }
    writing.cut(BOOTS.name, true)
}

/// Every row up to the heads, boot after boot. Where the store has let go of rows since an earlier one of the same node was
/// written, a gap says so.
async fn write_frames(writing: &mut Writing<'_>, log: &mut dyn LogSource) -> Result<(), TransferError> {
    let heads = std::mem::take(&mut writing.written.heads);
    let mut place = writing.written.least_place.min(0);
    let mut before = writing.written.last.take();
    let from = before.as_ref().map_or(0, |row| {
        heads.partition_point(|head| (head.node.as_str(), head.boot) < (row.node.as_str(), row.boot))
    });
    for head in &heads[from..] {
        before = before.filter(|row| row.node == head.node);
        loop {
            let after_seq = end_of(before.as_ref(), head);
            let rows = if after_seq < head.last_seq { page(log, head, after_seq).await? } else { Vec::new() };
            if rows.is_empty() {
                break;
            }
            for row in rows {
                fill_gap(writing, &mut place, before.as_ref(), head, row.first_seq - 1)?;
                writing.frames(&row)?;
                before = Some(row);
            }
            writing.tell(FRAMES);
        }
        fill_gap(writing, &mut place, before.as_ref(), head, head.last_seq)?;
    }
    writing.cut(FRAMES, true)
}

/// Rows of a boot after a number, without those that were not there yet when the heads were read.
async fn page(
    log: &mut dyn LogSource,
    head: &BootHead,
    after_seq: u64,
) -> Result<Vec<FrameRow>, TransferError> {
    let mut rows = log.rows(&head.node, head.boot, after_seq).await?;
    let known = rows.iter().take_while(|row| (1..=head.last_seq).contains(&row.first_seq)).count();
    rows.truncate(known);
    Ok(rows)
}

/// The last number of this boot that is written.
fn end_of(before: Option<&FrameRow>, head: &BootHead) -> u64 {
    before.filter(|row| row.boot == head.boot).map_or(0, |row| row.last_seq)
}

/// Writes what stands for the numbers up to `to` that are not there, where something of the node is written already:
/// before its first row nothing needs to stand.
fn fill_gap(
    writing: &mut Writing<'_>,
    place: &mut i64,
    before: Option<&FrameRow>,
    head: &BootHead,
    to: u64,
) -> Result<(), TransferError> {
    let from = end_of(before, head).saturating_add(1);
    match before {
        Some(row) if from <= to => {
            // Below all places that a store gives: the oldest, as what was there before it.
            *place -= 1;
            let gap = FrameRow::gap(*place, head, from, to, row.stored_at);
            writing.frames(&gap)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

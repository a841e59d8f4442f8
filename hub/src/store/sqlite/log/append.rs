//! Frames in: checked against their boot's head, joined into rows.

use std::collections::HashMap;

use registry_core::{Boot, BootId, Frame, NodeId};
use rusqlite::{Connection, OptionalExtension, params};

use super::super::value::{bound, number, time, unsigned};
use crate::store::FrameRun;
use crate::store::log_rows::{Head, MAX_NUMBER, Refused, Row};
use crate::store::log_totals::{Amount, Totals};

/// Collects the appends of one transaction.
pub(super) struct Appender {
    stored_at: i64,
    boots: HashMap<(NodeId, Boot), OpenBoot>,
}

/// A boot that the transaction touches.
struct OpenBoot {
    /// Its row's id.
    id: i64,
    boot_id: BootId,
    head: Head,
    /// What was added and not yet counted in its row.
    added: Amount,
    row: Option<Row>,
}

impl Appender {
    pub(super) fn new(stored_at: i64) -> Self {
        Self { stored_at, boots: HashMap::new() }
    }

    /// Takes a run that continues its boot's head; one that does not leaves everything as it was.
    pub(super) fn append(
        &mut self,
        connection: &Connection,
        totals: &mut Totals,
        run: &FrameRun,
    ) -> rusqlite::Result<Result<(), Refused>> {
        if run.boot.0 > MAX_NUMBER {
            return Ok(Err(Refused::NumberTooLarge));
        }
        let key = (run.node.clone(), run.boot);
        if !self.boots.contains_key(&key)
            && let Some(known) = find(connection, &run.node, run.boot)?
        {
            self.boots.insert(key.clone(), known);
        }
        let known = self.boots.get(&key);
        if known.is_some_and(|known| known.boot_id != run.boot_id) {
            return Ok(Err(Refused::OtherRun));
        }
        let start = known.map_or(Head::default(), |known| known.head);
        let (head, new) = match start.follow(&run.frames) {
            Ok(followed) => followed,
            Err(refused) => return Ok(Err(refused)),
        };
        let boot = match self.boots.entry(key) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(create(connection, run)?),
        };
        let mut added = Amount::default();
        for frame in new {
            boot.push(connection, frame, self.stored_at)?;
            added += Amount::of(frame);
        }
        boot.head = head;
        if added.frames > 0 {
            totals.add(&run.node, added);
        }
        Ok(Ok(()))
    }

    /// Writes what was collected; the next append begins anew from the file.
    pub(super) fn flush(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut update = connection.prepare_cached(
            "UPDATE boots SET last_seq = ?2, closed = ?3, weight = weight + ?4, frames = frames + ?5 WHERE id = ?1",
        )?;
        for (_, mut boot) in self.boots.drain() {
            if let Some(row) = boot.row.take() {
                boot.write_row(connection, &row, self.stored_at)?;
            }
            if boot.added.frames > 0 {
                update.execute(params![
                    boot.id,
                    number(boot.head.last_seq)?,
                    boot.head.closed,
                    number(boot.added.bytes)?,
                    number(boot.added.frames)?,
                ])?;
            }
        }
        Ok(())
    }
}

impl OpenBoot {
    fn push(&mut self, connection: &Connection, frame: &Frame, stored_at: i64) -> rusqlite::Result<()> {
        self.added += Amount::of(frame);
        match Row::join(&mut self.row, frame) {
            Some(full) => self.write_row(connection, &full, stored_at),
            None => Ok(()),
        }
    }

    fn write_row(&self, connection: &Connection, row: &Row, stored_at: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO chunks
                     (boot_ref, first_seq, last_seq, first_at, last_at, stored_at, weight, frames, output, data)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                self.id,
                number(row.first_seq)?,
                // The rest of the boot is the greatest number there is.
                bound(row.last_seq),
                time(row.first_at_unix_ms),
                time(row.last_at_unix_ms),
                stored_at,
                number(row.amount.bytes)?,
                number(row.amount.frames)?,
                number(row.output)?,
                row.data,
            ])
            .map(|_inserted| ())
    }
}

fn find(connection: &Connection, node: &NodeId, boot: Boot) -> rusqlite::Result<Option<OpenBoot>> {
    connection
        .prepare_cached("SELECT id, boot_id, last_seq, closed FROM boots WHERE node = ?1 AND boot = ?2")?
        .query_row(params![node.as_str(), number(boot.0)?], |row| {
            Ok(OpenBoot {
                id: row.get(0)?,
                boot_id: row.get(1)?,
                head: Head { last_seq: unsigned(row, 2)?, closed: row.get(3)? },
                added: Amount::default(),
                row: None,
            })
        })
        .optional()
}

fn create(connection: &Connection, run: &FrameRun) -> rusqlite::Result<OpenBoot> {
    connection
        .prepare_cached(
            "INSERT INTO boots (node, boot, boot_id, last_seq, closed, weight, frames) VALUES (?1, ?2, ?3, 0, 0, 0, 0)",
        )?
        .execute(params![run.node.as_str(), number(run.boot.0)?, run.boot_id])?;
    Ok(OpenBoot {
        id: connection.last_insert_rowid(),
        boot_id: run.boot_id,
        head: Head::default(),
        added: Amount::default(),
        row: None,
    })
}

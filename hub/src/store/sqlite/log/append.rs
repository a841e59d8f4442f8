//! Frames in: checked against their boot's head, joined into rows.

use std::collections::HashMap;

use registry_core::terminal::{MAX_FRAME_DATA_BYTES, codec};
use registry_core::{Boot, BootId, Frame, FrameKind, NodeId};
use rusqlite::{Connection, OptionalExtension, params};
use thiserror::Error;

use super::super::value::{number, time, unsigned};
use super::totals::{Amount, Totals};
use crate::store::FrameRun;

/// About the most data in one row, in bytes. Twice the throughput of a row for each frame of 4 KiB, and still little
/// to read for a reader that wants one frame of it.
const ROW_BYTES: usize = 64 * 1024;

/// The greatest boot and seq: above them stand no numbers that anybody counts to, only mistakes.
const MAX_NUMBER: u64 = (1 << 62) - 1;

/// Why a run was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Refused {
    #[error("frame {found} does not continue the log, frame {expected} would")]
    NotNext { expected: u64, found: u64 },
    #[error("the boot ended in the log before this frame")]
    AfterTheEnd,
    #[error("the boot is known as another run of the agent")]
    OtherRun,
    #[error("a boot or a frame's number is above {MAX_NUMBER}")]
    NumberTooLarge,
    #[error("a frame has more than {MAX_FRAME_DATA_BYTES} bytes of output")]
    FrameTooLarge,
}

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
    row: Option<OpenRow>,
}

/// Where a boot stands.
#[derive(Clone, Copy)]
struct Head {
    last_seq: u64,
    closed: bool,
}

/// Frames that will be one row.
struct OpenRow {
    first_seq: i64,
    last_seq: i64,
    first_at: i64,
    last_at: i64,
    amount: Amount,
    output: usize,
    data: Vec<u8>,
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
        let start = known.map_or(Head { last_seq: 0, closed: false }, |known| known.head);
        let head = match follow(start, &run.frames) {
            Ok(head) => head,
            Err(refused) => return Ok(Err(refused)),
        };
        let boot = match self.boots.entry(key) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(create(connection, run)?),
        };
        for frame in &run.frames {
            if boot.row.as_ref().is_some_and(|row| row.data.len() + frame.weight() > ROW_BYTES) {
                boot.write_row(connection, self.stored_at)?;
            }
            boot.push(frame)?;
        }
        boot.head = head;
        let added = run.frames.iter().map(|frame| frame.weight() as u64).sum();
        totals.add(&run.node, Amount { bytes: added, frames: run.frames.len() as u64 });
        Ok(Ok(()))
    }

    /// Writes what was collected; the next append begins anew from the file.
    pub(super) fn flush(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut update = connection.prepare_cached(
            "UPDATE boots SET last_seq = ?2, closed = ?3, weight = weight + ?4, frames = frames + ?5 WHERE id = ?1",
        )?;
        for (_, mut boot) in self.boots.drain() {
            boot.write_row(connection, self.stored_at)?;
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
    fn push(&mut self, frame: &Frame) -> rusqlite::Result<()> {
        let last_seq = frame.last_seq().map_or(Ok(i64::MAX), number)?;
        let at = time(frame.at_unix_ms);
        let first_seq = number(frame.seq)?;
        let row = self.row.get_or_insert_with(|| OpenRow {
            first_seq,
            last_seq,
            first_at: at,
            last_at: at,
            amount: Amount::default(),
            output: 0,
            data: Vec::new(),
        });
        codec::encode_into(frame, &mut row.data);
        row.last_seq = last_seq;
        row.last_at = at;
        row.output += frame.data_len();
        for amount in [&mut row.amount, &mut self.added] {
            amount.bytes += frame.weight() as u64;
            amount.frames += 1;
        }
        Ok(())
    }

    fn write_row(&mut self, connection: &Connection, stored_at: i64) -> rusqlite::Result<()> {
        let Some(row) = self.row.take() else { return Ok(()) };
        connection
            .prepare_cached(
                "INSERT INTO chunks
                     (boot_ref, first_seq, last_seq, first_at, last_at, stored_at, weight, frames, output, data)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                self.id,
                row.first_seq,
                row.last_seq,
                row.first_at,
                row.last_at,
                stored_at,
                number(row.amount.bytes)?,
                number(row.amount.frames)?,
                number(row.output as u64)?,
                row.data,
            ])
            .map(|_inserted| ())
    }
}

/// Where the head is after these frames, when they follow it without a hole.
fn follow<F: AsRef<Frame>>(mut head: Head, frames: &[F]) -> Result<Head, Refused> {
    for frame in frames {
        let frame = frame.as_ref();
        if head.closed {
            return Err(Refused::AfterTheEnd);
        }
        let expected = head.last_seq + 1;
        let last = frame.last_seq().unwrap_or(frame.seq);
        if frame.seq != expected || last < frame.seq {
            return Err(Refused::NotNext { expected, found: frame.seq });
        }
        if last > MAX_NUMBER {
            return Err(Refused::NumberTooLarge);
        }
        if frame.data_len() > MAX_FRAME_DATA_BYTES {
            return Err(Refused::FrameTooLarge);
        }
        let closed = matches!(frame.kind, FrameKind::Closed | FrameKind::Gap { last_seq: None, .. });
        head = Head { last_seq: last, closed };
    }
    Ok(head)
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
        head: Head { last_seq: 0, closed: false },
        added: Amount::default(),
        row: None,
    })
}

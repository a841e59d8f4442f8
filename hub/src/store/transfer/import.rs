//! From a dump into empty back ends.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use registry_core::Clock;

use super::check::{check_parts, read_part};
use super::dump::Manifest;
use super::ends::{LogTarget, Origin, RecordTarget, log_target, record_target};
use super::frames::{self, FrameRow, head_of, head_row};
use super::part::{Part, table};
use super::tables::{BOOTS, FRAMES, RECORDS, Row, Table};
use super::tally::Tally;
use super::{Phase, Places, Progress, Summary, Tell, TransferError, schemas};

/// The file whose lock says that a hub uses the data folder: a hub's own.
const LOCK_FILE: &str = "hub.lock";

/// Fills back ends that are empty, or that an interrupted import of the same dump has begun to fill, with what the dump
/// has; reads it back; and puts it where a hub finds it when it is all there.
///
/// # Errors
/// [`TransferError`]: a dump that is damaged, back ends that are not empty or that a hub uses, what cannot be written.
pub async fn import(
    places: &Places,
    from: &Path,
    clock: &Clock,
    tell: Tell<'_>,
) -> Result<Summary, TransferError> {
    let began = clock.monotonic();
    let manifest = Manifest::read(from)?;
    check_schemas(&manifest)?;
    let _lock = places.data_dir.as_deref().map(lock).transpose()?;
    let origin = Origin { dump: &manifest.dump, hub_id: &manifest.hub_id };
    let mut records = record_target(places, origin, clock).await?;
    let mut log = log_target(places, origin, clock).await?;

    let mut expected = Tally::default();
    let tally = check_parts(from, &manifest, tell, |part| expect(&*records, part, &mut expected))?;
    let parts_before = fill(&mut *records, &mut *log, from, &manifest, tell).await?;
    let found = read_back(&mut *records, &mut *log, expected.rows(), tell).await?;
    found.expect(&expected.infos())?;
    log.finish().await?;
    records.finish().await?;
    log.clear().await?;
    Ok(manifest.summary(&tally, parts_before, clock.monotonic().saturating_sub(began)))
}

fn check_schemas(manifest: &Manifest) -> Result<(), TransferError> {
    let found = (manifest.records_schema, manifest.terminal_schema);
    if found == schemas() {
        return Ok(());
    }
    let what = format!(
        "the dump is of schema {}.{}, this build has {}.{}: import it with Muster {}, and let the hub of this build migrate",
        found.0,
        found.1,
        schemas().0,
        schemas().1,
        manifest.muster
    );
    Err(TransferError::refused("dump_format", what))
}

/// Takes the data folder's lock, as a hub does.
fn lock(data_dir: &Path) -> Result<File, TransferError> {
    let failed = |error| TransferError::io(data_dir, error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed)?;
    let path = data_dir.join(LOCK_FILE);
    let lock =
        File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(TransferError::refused(
            "config",
            format!("a hub, or another import, uses the data folder {}: stop it first", data_dir.display()),
        )),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Counts a part as the target will have it.
fn expect(records: &dyn RecordTarget, part: &Part, expected: &mut Tally) -> Result<(), TransferError> {
    let Some(table) = table(part.table).filter(|table| table.name != BOOTS.name) else {
        return expected.part(part);
    };
    expected.begin(table.name);
    let mut changed = Vec::new();
    for line in part.lines() {
        let mut row = table.parse(line).ok_or_else(|| part.odd("a row of it is not readable"))?;
        if records.adapt(&mut row) {
            changed.clear();
            Table::line(&row, &mut changed);
            expected.line(table.name, &changed);
        } else {
            expected.line(table.name, line);
        }
    }
    Ok(())
}

/// Puts in whatever is not in yet; how many parts were.
async fn fill(
    records: &mut dyn RecordTarget,
    log: &mut dyn LogTarget,
    from: &Path,
    manifest: &Manifest,
    tell: Tell<'_>,
) -> Result<u64, TransferError> {
    let (records_done, log_done) = (records.parts_done().await?, log.parts_done().await?);
    let of_rows = manifest.tables.values().map(|table| table.rows).sum();
    let (mut rows, mut bytes, mut before) = (0, 0, 0);
    for (number, info) in (1..).zip(&manifest.parts) {
        let is_log = info.file.contains(FRAMES) || info.file.contains(BOOTS.name);
        if number <= if is_log { log_done } else { records_done } {
            before += 1;
            rows += info.rows;
            bytes += info.bytes;
            continue;
        }
        let part = read_part(from, number, info)?;
        match part.table {
            FRAMES => log.frames(number, frame_rows(&part)?).await?,
            name if name == BOOTS.name => {
                let heads: Option<Vec<_>> = rows_of(&BOOTS, &part)?.iter().map(|row| head_of(row)).collect();
                log.boots(number, heads.ok_or_else(|| part.odd("a boot of it is not readable"))?).await?;
            }
            name => {
                let table = table(name).ok_or_else(|| part.odd("its table is not known"))?;
                let mut rows = rows_of(table, &part)?;
                for row in &mut rows {
                    records.adapt(row);
                }
                records.insert(number, table, rows).await?;
            }
        }
        rows += info.rows;
        bytes += info.bytes;
        tell(Progress { phase: Phase::Import, table: part.table, rows, of_rows, bytes });
    }
    Ok(before)
}

fn rows_of(table: &Table, part: &Part) -> Result<Vec<Row>, TransferError> {
    let rows: Option<Vec<_>> = part.lines().map(|line| table.parse(line)).collect();
    rows.ok_or_else(|| part.odd("a row of it is not readable"))
}

fn frame_rows(part: &Part) -> Result<Vec<FrameRow>, TransferError> {
    let rows: Option<Vec<_>> =
        frames::records(part.body.clone()).map(|record| FrameRow::decode(record?)).collect();
    rows.ok_or_else(|| part.odd("a row of it is not readable"))
}

/// What stands in the targets now.
async fn read_back(
    records: &mut dyn RecordTarget,
    log: &mut dyn LogTarget,
    of_rows: u64,
    tell: Tell<'_>,
) -> Result<Tally, TransferError> {
    let mut found = Tally::default();
    let say = |found: &Tally, table| {
        tell(Progress { phase: Phase::Verify, table, rows: found.rows(), of_rows, bytes: found.bytes() });
    };
    read_records(records, &mut found, &say).await?;
    read_log(log, &mut found, &say).await?;
    Ok(found)
}

async fn read_records(
    records: &mut dyn RecordTarget,
    found: &mut Tally,
    say: &(dyn Fn(&Tally, &'static str) + Send + Sync),
) -> Result<(), TransferError> {
    let mut line = Vec::new();
    for table in &RECORDS {
        found.begin(table.name);
        loop {
            let rows = records.next(table).await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                line.clear();
                Table::line(row, &mut line);
                found.line(table.name, &line);
            }
            say(found, table.name);
        }
    }
    Ok(())
}

async fn read_log(
    log: &mut dyn LogTarget,
    found: &mut Tally,
    say: &(dyn Fn(&Tally, &'static str) + Send + Sync),
) -> Result<(), TransferError> {
    let mut line = Vec::new();
    let mut heads = log.heads().await?;
    heads.sort_by(|a, b| (a.node.as_str(), a.boot).cmp(&(b.node.as_str(), b.boot)));
    found.begin(BOOTS.name);
    for head in &heads {
        line.clear();
        Table::line(&head_row(head), &mut line);
        found.line(BOOTS.name, &line);
    }
    found.begin(FRAMES);
    for head in &heads {
        let mut after_seq = 0;
        loop {
            let rows = log.rows(&head.node, head.boot, after_seq).await?;
            let Some(last) = rows.last() else { break };
            after_seq = last.last_seq;
            for row in &rows {
                line.clear();
                row.encode(&mut line);
                found.record(&line);
            }
            say(found, FRAMES);
            if after_seq == u64::MAX {
                break;
            }
        }
    }
    Ok(())
}

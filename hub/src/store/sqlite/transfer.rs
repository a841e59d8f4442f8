//! SQLite's two files, read for a dump and made from one.
//!
//! What is made has another name until it is whole: `muster.db.import-<dump>`. The number of the last part that is in
//! stands in the file itself and is committed with the part.

use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use registry_core::{Boot, Clock, NodeId};
use rusqlite::types::{Value as Sql, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, params, params_from_iter};

use super::SqliteTerminalLog;
use super::file::{beside, open_reader};
use super::records::{SqliteStore, node_id};
use super::value::{bound, failed, number, time, unsigned};
use crate::store::transfer::TransferError;
use crate::store::transfer::ends::{LogSource, LogTarget, Origin, RecordSource, RecordTarget};
use crate::store::transfer::frames::FrameRow;
use crate::store::transfer::tables::{Kind, Row, Table, Value};
use crate::store::{BootHead, Store as _, StoreError, StoreResult, TerminalLog as _};

/// Rows of records read at once, and rows of frames: the latter have up to 128 KiB each.
const PAGE_ROWS: (u32, u32) = (1000, 64);

/// The files, as the hub knows them.
const RECORDS: &str = "muster.db";
const TERMINAL: &str = "terminal.db";

/// What follows a file's name while it is made.
const IMPORT: &str = ".import-";

/// What follows the name of an empty file beside one that is finished, until all of the import is.
const IMPORTED: &str = ".imported-";

/// A table of its own: how many parts are in. Gone when the file is whole.
const PROGRESS: &str = "transfer_progress";

/// Whether records have more than the id of their hub.
const RECORDS_HAVE_SOMETHING: &str = "SELECT EXISTS (SELECT 1 FROM nodes) OR EXISTS (SELECT 1 FROM audit)
    OR EXISTS (SELECT 1 FROM tokens) OR EXISTS (SELECT 1 FROM revoked)";

/// `muster.db`.
pub(crate) struct Records {
    file: Held,
    /// The table that is read, and the key of the last row.
    read: Option<(&'static str, Vec<Sql>)>,
    making: Option<Making>,
}

/// `terminal.db`.
pub(crate) struct Log {
    file: Held,
    making: Option<Making>,
    /// It has its name, and nothing is missing.
    in_place: bool,
}

/// A file that is made.
struct Making {
    path: PathBuf,
    unfinished: PathBuf,
    /// There as long as the records of an import are not finished whose terminal log is.
    finished: PathBuf,
}

impl Records {
    pub(crate) async fn read(folder: &Path) -> Result<Self, TransferError> {
        Ok(Self { file: Held::read(folder, RECORDS).await?, read: None, making: None })
    }

    pub(crate) async fn make(
        folder: &Path,
        origin: Origin<'_>,
        clock: &Clock,
    ) -> Result<Self, TransferError> {
        let making = Making::new(folder, RECORDS, origin)?;
        if making.path.exists() {
            return Err(making.not_empty());
        }
        let (path, clock) = (making.unfinished.clone(), clock.clone());
        let store = blocking(move || SqliteStore::open(&path, clock)).await?;
        store.close().await;
        let mut file = Held::write(&making.unfinished).await?;
        file.begin_progress("DELETE FROM hub", RECORDS_HAVE_SOMETHING).await?;
        Ok(Self { file, read: None, making: Some(making) })
    }
}

#[async_trait]
impl RecordSource for Records {
    async fn hub_id(&mut self) -> StoreResult<String> {
        let query = "SELECT value FROM hub WHERE key = 'hub_id'";
        let id = self.file.run(|file| file.query_row(query, [], |row| row.get(0)).optional()).await?;
        Ok(id.unwrap_or_default())
    }

    async fn begin(&mut self) -> StoreResult<()> {
        // The first read fixes what is seen from then on.
        self.file.run(|file| file.execute_batch("BEGIN; SELECT count(*) FROM hub")).await
    }

    async fn count(&mut self, table: &'static Table) -> StoreResult<u64> {
        let query = format!("SELECT count(*) FROM {}", table.name);
        self.file.run(move |file| file.query_row(&query, [], |row| unsigned(row, 0))).await
    }

    async fn next(&mut self, table: &'static Table) -> StoreResult<Vec<Row>> {
        let after = self.read.take().filter(|(name, _)| *name == table.name).map(|(_, key)| key);
        let rows = self.file.run(move |file| page(file, table, after)).await?;
        self.read = rows.last().map(|row| (table.name, row[..table.keys].iter().map(sql).collect()));
        Ok(rows)
    }
}

#[async_trait]
impl RecordTarget for Records {
    async fn parts_done(&mut self) -> StoreResult<u32> {
        self.file.run(|file| parts_done(file)).await
    }

    async fn insert(&mut self, part: u32, table: &'static Table, rows: Vec<Row>) -> StoreResult<()> {
        let places = vec!["?"; table.columns.len()].join(", ");
        let statement = format!("INSERT INTO {} ({}) VALUES ({places})", table.name, table.quoted());
        self.file
            .part(part, move |transaction| {
                let mut insert = transaction.prepare_cached(&statement)?;
                for row in &rows {
                    insert.execute(params_from_iter(row.iter().map(sql)))?;
                }
                Ok(())
            })
            .await
    }

    async fn finish(&mut self) -> StoreResult<()> {
        let Some(making) = &self.making else { return Ok(()) };
        self.file.put_in_place(&making.unfinished, &making.path).await
    }
}

impl Log {
    pub(crate) async fn read(folder: &Path) -> Result<Self, TransferError> {
        Ok(Self { file: Held::read(folder, TERMINAL).await?, making: None, in_place: true })
    }

    pub(crate) async fn make(
        folder: &Path,
        origin: Origin<'_>,
        clock: &Clock,
    ) -> Result<Self, TransferError> {
        let making = Making::new(folder, TERMINAL, origin)?;
        if making.path.exists() {
            if !making.finished.exists() || making.unfinished.exists() {
                return Err(making.not_empty());
            }
            let file = Held::read(folder, TERMINAL).await?;
            return Ok(Self { file, making: Some(making), in_place: true });
        }
        let (path, clock) = (making.unfinished.clone(), clock.clone());
        let log = blocking(move || SqliteTerminalLog::open(&path, clock)).await?;
        log.close().await;
        let mut file = Held::write(&making.unfinished).await?;
        file.begin_progress("", "SELECT EXISTS (SELECT 1 FROM boots)").await?;
        Ok(Self { file, making: Some(making), in_place: false })
    }
}

#[async_trait]
impl LogSource for Log {
    async fn heads(&mut self) -> StoreResult<Vec<BootHead>> {
        self.file.run(|file| heads(file)).await
    }

    async fn count(&mut self) -> StoreResult<u64> {
        self.file.run(|file| file.query_row("SELECT count(*) FROM chunks", [], |row| unsigned(row, 0))).await
    }

    async fn rows(&mut self, node: &NodeId, boot: Boot, after_seq: u64) -> StoreResult<Vec<FrameRow>> {
        let node = node.clone();
        self.file.run(move |file| frames(file, &node, boot, after_seq)).await
    }
}

#[async_trait]
impl LogTarget for Log {
    async fn parts_done(&mut self) -> StoreResult<u32> {
        if self.in_place { Ok(u32::MAX) } else { self.file.run(|file| parts_done(file)).await }
    }

    async fn boots(&mut self, part: u32, boots: Vec<BootHead>) -> StoreResult<()> {
        self.file
            .part(part, move |transaction| {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO boots (node, boot, boot_id, last_seq, closed, weight, frames)
                     VALUES (?1, ?2, ?3, ?4, ?5, 0, 0)",
                )?;
                for head in &boots {
                    let (boot, last_seq) = (number(head.boot.0)?, number(head.last_seq)?);
                    insert.execute(params![head.node.as_str(), boot, head.boot_id, last_seq, head.closed])?;
                }
                Ok(())
            })
            .await
    }

    async fn frames(&mut self, part: u32, rows: Vec<FrameRow>) -> StoreResult<()> {
        self.file
            .part(part, move |transaction| rows.iter().try_for_each(|row| insert(transaction, row)))
            .await
    }

    async fn finish(&mut self) -> StoreResult<()> {
        let Some(making) = self.making.as_ref().filter(|_| !self.in_place) else { return Ok(()) };
        fs::write(&making.finished, []).map_err(failed)?;
        self.file.put_in_place(&making.unfinished, &making.path).await
    }

    async fn clear(&mut self) -> StoreResult<()> {
        let Some(making) = &self.making else { return Ok(()) };
        fs::remove_file(&making.finished).map_err(failed)
    }
}

impl Making {
    /// Refuses what another import has left.
    fn new(folder: &Path, name: &str, origin: Origin<'_>) -> Result<Self, TransferError> {
        let path = folder.join(name);
        let unfinished = beside(&path, &format!("{IMPORT}{}", origin.dump));
        let prefix = format!("{name}{IMPORT}");
        let entries = fs::read_dir(folder).map_err(|error| TransferError::io(folder, error))?;
        for entry in entries {
            let found = entry.map_err(|error| TransferError::io(folder, error))?.path();
            let found_name = found.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let ours = unfinished.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if found_name.starts_with(&prefix) && !found_name.starts_with(&ours) {
                let what = format!(
                    "{} is what an interrupted import of another dump has left: finish that import, or delete the file",
                    found.display()
                );
                return Err(TransferError::refused("target_not_empty", what));
            }
        }
        let finished = beside(&path, &format!("{IMPORTED}{}", origin.dump));
        Ok(Self { path, unfinished, finished })
    }

    fn not_empty(&self) -> TransferError {
        let what = format!(
            "there is a {} already: import into a data folder without one, or move it away",
            self.path.display()
        );
        TransferError::refused("target_not_empty", what)
    }
}

/// A connection, used on threads that may block.
struct Held(Option<Connection>);

impl Held {
    /// Opens a file of a hub, which may be running.
    async fn read(folder: &Path, name: &'static str) -> Result<Self, TransferError> {
        let path = folder.join(name);
        if !path.exists() {
            let what = format!("there is no {}: name the hub's data folder with --data-dir", path.display());
            return Err(TransferError::refused("config", what));
        }
        let connection = blocking(move || open_reader(&path)).await?;
        let mut held = Self(Some(connection));
        let (records, terminal) = crate::store::postgres::transfer::schemas();
        let known = if name == RECORDS { records } else { terminal };
        let found: u32 =
            held.run(|file| file.pragma_query_value(None, "user_version", |row| row.get(0))).await?;
        match found.cmp(&known) {
            std::cmp::Ordering::Equal => Ok(held),
            std::cmp::Ordering::Greater => Err(StoreError::TooNew { found, known }.into()),
            std::cmp::Ordering::Less => Err(TransferError::refused(
                "config",
                format!("{name} has schema {found}, older than this build's {known}: start its hub once"),
            )),
        }
    }

    /// Opens a file that is made.
    async fn write(path: &Path) -> StoreResult<Self> {
        let path = path.to_owned();
        let open = move || {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
            connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
            // A power cut may take the last parts, and takes their numbers with them.
            connection.pragma_update(None, "synchronous", "normal").map_err(failed)?;
            Ok(connection)
        };
        Ok(Self(Some(blocking(open).await?)))
    }

    async fn run<T, F>(&mut self, work: F) -> StoreResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let Some(mut connection) = self.0.take() else { return Err(StoreError::Closed) };
        let run = move || {
            let result = work(&mut connection);
            (connection, result)
        };
        let (connection, result) = tokio::task::spawn_blocking(run).await.map_err(failed)?;
        self.0 = Some(connection);
        result.map_err(failed)
    }

    /// Makes the table that says how far an import is, unless there is one; `first` is done before anything is in. A file
    /// that has something and no such table is whole: it was about to get its name.
    async fn begin_progress(&mut self, first: &'static str, has_something: &'static str) -> StoreResult<()> {
        self.run(move |file| {
            let transaction = file.transaction()?;
            let is_whole: bool = transaction.query_row(has_something, [], |row| row.get(0))?;
            let parts = parts_done(&transaction)?;
            let is_new = parts == u32::MAX && !is_whole;
            if is_new {
                transaction.execute_batch(&format!(
                    "CREATE TABLE {PROGRESS} (parts INTEGER NOT NULL) STRICT; INSERT INTO {PROGRESS} VALUES (0)"
                ))?;
            }
            if is_new || parts == 0 {
                transaction.execute_batch(first)?;
            }
            transaction.commit()
        })
        .await
    }

    /// Does the work of a part, with its number, in one transaction.
    async fn part<F>(&mut self, part: u32, work: F) -> StoreResult<()>
    where
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static,
    {
        self.run(move |file| {
            let transaction = file.transaction()?;
            work(&transaction)?;
            transaction.execute(&format!("UPDATE {PROGRESS} SET parts = ?1"), [part])?;
            transaction.commit()
        })
        .await
    }

    /// Closes the file so that nothing of it is elsewhere, makes it durable, and gives it its name.
    async fn put_in_place(&mut self, unfinished: &Path, path: &Path) -> StoreResult<()> {
        self.run(|file| {
            file.execute_batch(&format!("DROP TABLE IF EXISTS {PROGRESS}"))?;
            file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        })
        .await?;
        let connection = self.0.take();
        let (unfinished, path) = (unfinished.to_owned(), path.to_owned());
        blocking(move || {
            drop(connection);
            fs::File::open(&unfinished).and_then(|file| file.sync_all()).map_err(failed)?;
            fs::rename(&unfinished, &path).map_err(failed)?;
            crate::store::transfer::sync_folder_of(&path).map_err(failed)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> StoreResult<T> + Send + 'static,
) -> StoreResult<T> {
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

/// The number of the last part that is in; the greatest there is where nothing is missing.
fn parts_done(file: &Connection) -> rusqlite::Result<u32> {
    let query = "SELECT count(*) FROM sqlite_schema WHERE name = ?1";
    let is_under_way: bool = file.query_row(query, [PROGRESS], |row| row.get(0))?;
    if !is_under_way {
        return Ok(u32::MAX);
    }
    file.query_row(&format!("SELECT parts FROM {PROGRESS}"), [], |row| row.get(0))
}

/// Rows of a table after a key.
fn page(file: &Connection, table: &Table, after: Option<Vec<Sql>>) -> rusqlite::Result<Vec<Row>> {
    let names: Vec<_> = table.key().iter().map(|column| format!("\"{}\"", column.name)).collect();
    let key = names.join(", ");
    let behind = match &after {
        Some(after) => format!("WHERE ({key}) > ({})", vec!["?"; after.len()].join(", ")),
        None => String::new(),
    };
    let (columns, name, limit) = (table.quoted(), table.name, PAGE_ROWS.0);
    let query = format!("SELECT {columns} FROM {name} {behind} ORDER BY {key} LIMIT {limit}");
    file.prepare_cached(&query)?
        .query_map(params_from_iter(after.unwrap_or_default()), |row| {
            (0..table.columns.len()).map(|column| value(row.get_ref(column)?, table, column)).collect()
        })?
        .collect()
}

fn value(value: ValueRef<'_>, table: &Table, column: usize) -> rusqlite::Result<Value> {
    Ok(match (value, table.columns[column].kind) {
        (ValueRef::Null, _) => Value::Null,
        (ValueRef::Integer(number), Kind::Number) => Value::Number(number),
        (ValueRef::Text(_), Kind::Text) => Value::Text(value.as_str()?.to_owned()),
        (ValueRef::Blob(bytes), Kind::Bytes) => Value::Bytes(bytes.to_vec()),
        (value, _) => {
            let name = table.columns[column].name.to_owned();
            return Err(rusqlite::Error::InvalidColumnType(column, name, value.data_type()));
        }
    })
}

fn sql(value: &Value) -> Sql {
    match value {
        Value::Null => Sql::Null,
        Value::Number(number) => Sql::Integer(*number),
        Value::Text(text) => Sql::Text(text.clone()),
        Value::Bytes(bytes) => Sql::Blob(bytes.clone()),
    }
}

fn heads(file: &Connection) -> rusqlite::Result<Vec<BootHead>> {
    file.prepare_cached("SELECT node, boot, boot_id, last_seq, closed FROM boots")?
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

/// Rows of a boot after a number: in one statement, so that they are of one moment.
fn frames(file: &Connection, node: &NodeId, boot: Boot, after_seq: u64) -> rusqlite::Result<Vec<FrameRow>> {
    let mut statement = file.prepare_cached(
        "SELECT chunks.id, first_seq, chunks.last_seq, first_at, last_at, stored_at, chunks.weight, chunks.frames,
             output, data
         FROM boots CROSS JOIN chunks ON chunks.boot_ref = boots.id
         WHERE node = ?1 AND boot = ?2 AND first_seq > ?3 ORDER BY first_seq LIMIT ?4",
    )?;
    let wanted = params![node.as_str(), number(boot.0)?, bound(after_seq), PAGE_ROWS.1];
    let rows = statement.query_map(wanted, |row| {
        let last_seq = unsigned(row, 2)?;
        Ok(FrameRow {
            place: row.get(0)?,
            node: node.clone(),
            boot,
            first_seq: unsigned(row, 1)?,
            // The rest of the boot is the greatest number there is.
            last_seq: if bound(last_seq) == i64::MAX { u64::MAX } else { last_seq },
            first_at: unsigned(row, 3)?,
            last_at: unsigned(row, 4)?,
            stored_at: unsigned(row, 5)?,
            weight: unsigned(row, 6)?,
            frames: unsigned(row, 7)?,
            output: unsigned(row, 8)?,
            data: Bytes::copy_from_slice(row.get_ref(9)?.as_blob()?),
        })
    })?;
    rows.collect()
}

/// Inserts a row of frames and counts it in its boot.
fn insert(transaction: &Transaction<'_>, row: &FrameRow) -> rusqlite::Result<()> {
    let boot_ref: i64 = transaction
        .prepare_cached("SELECT id FROM boots WHERE node = ?1 AND boot = ?2")?
        .query_row(params![row.node.as_str(), number(row.boot.0)?], |row| row.get(0))?;
    let (weight, frames) = (number(row.weight)?, number(row.frames)?);
    transaction
        .prepare_cached(
            "INSERT INTO chunks (id, boot_ref, first_seq, last_seq, first_at, last_at, stored_at, weight, frames,
                 output, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            free_place(transaction, row.place)?,
            boot_ref,
            number(row.first_seq)?,
            bound(row.last_seq),
            time(row.first_at),
            time(row.last_at),
            time(row.stored_at),
            weight,
            frames,
            number(row.output)?,
            &row.data[..],
        ])?;
    transaction
        .prepare_cached("UPDATE boots SET weight = weight + ?2, frames = frames + ?3 WHERE id = ?1")?
        .execute(params![boot_ref, weight, frames])?;
    Ok(())
}

/// The place, or the next one that is free: another store may have given one to several rows.
fn free_place(transaction: &Transaction<'_>, mut place: i64) -> rusqlite::Result<i64> {
    let mut last_taken = transaction.prepare_cached(
        "SELECT max(id) FROM chunks WHERE id >= ?1 AND id < ?1 + 1000
             AND EXISTS (SELECT 1 FROM chunks WHERE id = ?1)",
    )?;
    while let Some(taken) = last_taken.query_row([place], |row| row.get::<_, Option<i64>>(0))? {
        place = taken + 1;
    }
    Ok(place)
}

//! The schema `muster`, read for a dump and made from one.
//!
//! What is made stands in the schema `muster_import` until it is whole, and is renamed then, in one transaction. The numbers
//! of the last parts that are in stand there too and are committed with the parts. The hubs' own locks are held
//! meanwhile, so that no hub and no second import can begin.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_postgres::ClientWrapper;
use registry_core::{Boot, NodeId};
use tokio_postgres::types::ToSql;

use super::schema::{self, Part};
use super::target::Target;
use super::value::{Fault, Told, bound, bytes, get, node_id, number, time, unsigned};
use crate::store::transfer::TransferError;
use crate::store::transfer::ends::{LogSource, LogTarget, Origin, RecordSource, RecordTarget};
use crate::store::transfer::frames::FrameRow;
use crate::store::transfer::tables::{Kind, Row, Table, Value};
use crate::store::{BootHead, StoreError, StoreResult};

/// Rows of records read at once, and rows of frames: the latter have up to 128 KiB each.
const PAGE_ROWS: (u32, i64) = (1000, 64);

/// Rows in one statement that inserts, and about how many bytes of frames: enough that its way there and back does not count.
const INSERTED: (usize, usize) = (1000, 4 * 1024 * 1024);

/// Where an import is made.
const STAGING: &str = "muster_import";

/// What stands in the schema besides the parts' tables.
const PARTS: &str = include_str!("../../../migrations/postgres/parts.sql");

/// For reading: a large table may take longer than a hub's statements, and pages are as slow as the disk of the dump.
const LONG_READS: &str = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0";

/// The records.
pub(crate) struct Records {
    client: ClientWrapper,
    /// The table that a cursor stands in.
    read: Option<&'static str>,
    /// They are an import's.
    is_made: bool,
}

/// The terminal log.
pub(crate) struct Log {
    client: ClientWrapper,
}

/// The schema versions of records and terminal log that this build knows.
pub(crate) fn schemas() -> (u32, u32) {
    let of = |part: Part| u32::try_from(part.migrations().len()).unwrap_or(u32::MAX);
    (of(Part::Records), of(Part::Terminal))
}

impl Records {
    pub(crate) async fn read(url: &str) -> Result<Self, TransferError> {
        let client = connect_to_read(url, Part::Records).await?;
        Ok(Self { client, read: None, is_made: false })
    }

    pub(crate) async fn make(url: &str, origin: Origin<'_>) -> Result<Self, TransferError> {
        let client = connect(url).await?;
        told(client.batch_execute(LONG_READS).await.map_err(Fault::from))?;
        told(schema::check_server(&client).await)?;
        told(lock(&client).await)?;
        let holds: bool = told(one(&client, HOLDS_SOMETHING).await)?;
        if holds {
            let what = "the database has the schema muster already: import into another database, or drop it";
            return Err(TransferError::refused("target_not_empty", what));
        }
        let begun: Option<String> = told(begun(&client).await)?;
        match &begun {
            Some(dump) if dump != origin.dump => {
                let what = format!(
                    "the schema {STAGING} is what an interrupted import of another dump has left: finish that import, or \
                     drop the schema"
                );
                return Err(TransferError::refused("target_not_empty", what));
            }
            Some(_) => {}
            None => told(make_schema(&client, origin.dump).await)?,
        }
        told(client.batch_execute(&format!("SET search_path = {STAGING}")).await.map_err(Fault::from))?;
        Ok(Self { client, read: None, is_made: true })
    }

    async fn page(&mut self, table: &'static Table) -> Result<Vec<Row>, Fault> {
        if self.read != Some(table.name) {
            let key: Vec<_> = table
                .key()
                .iter()
                .map(|column| match column.kind {
                    Kind::Text => format!("\"{}\" COLLATE \"C\"", column.name),
                    _ => format!("\"{}\"", column.name),
                })
                .collect();
            let (name, columns) = (table.name, table.quoted());
            // Holds on to what it began with, in a transaction or out of one.
            let declare = format!(
                "CLOSE ALL; DECLARE read_{name} NO SCROLL CURSOR {} FOR SELECT {columns} FROM {name} ORDER BY {}",
                if self.is_made { "WITH HOLD" } else { "" },
                key.join(", ")
            );
            self.client.batch_execute(&declare).await?;
            self.read = Some(table.name);
        }
        let fetch = format!("FETCH {} FROM read_{}", PAGE_ROWS.0, table.name);
        let rows = self.client.query(&fetch, &[]).await?;
        if rows.is_empty() {
            self.read = None;
        }
        rows.iter().map(|row| values(row, table)).collect()
    }
}

#[async_trait]
impl RecordSource for Records {
    async fn hub_id(&mut self) -> StoreResult<String> {
        let row = self.client.query_opt("SELECT value FROM hub WHERE key = 'hub_id'", &[]).await;
        let row = told(row.map_err(Fault::from))?;
        row.map_or_else(|| Ok(String::new()), |row| told(get(&row, 0)))
    }

    async fn begin(&mut self) -> StoreResult<()> {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        told(self.client.batch_execute(begin).await.map_err(Fault::from))
    }

    async fn count(&mut self, table: &'static Table) -> StoreResult<u64> {
        count(&self.client, table.name).await
    }

    async fn next(&mut self, table: &'static Table) -> StoreResult<Vec<Row>> {
        told(self.page(table).await)
    }
}

#[async_trait]
impl RecordTarget for Records {
    async fn parts_done(&mut self) -> StoreResult<u32> {
        told(parts_done(&self.client, Part::Records).await)
    }

    async fn insert(&mut self, part: u32, table: &'static Table, rows: Vec<Row>) -> StoreResult<()> {
        let work = async {
            for rows in rows.chunks(INSERTED.0) {
                insert(&self.client, table, rows).await?;
            }
            Ok(())
        };
        told(in_part(&self.client, Part::Records, part, work).await)
    }

    /// PostgreSQL keeps no NUL in a text: it stands as the hub itself would have written it there.
    fn adapt(&self, row: &mut Row) -> bool {
        let mut changed = false;
        for value in row {
            if let Value::Text(text) = value
                && text.contains('\0')
            {
                *text = super::value::text(text).into_owned();
                changed = true;
            }
        }
        changed
    }

    async fn finish(&mut self) -> StoreResult<()> {
        let finish = format!(
            "BEGIN;
             SELECT setval(pg_get_serial_sequence('audit', 'id'), max(id)) FROM audit HAVING max(id) > 0;
             SELECT setval(pg_get_serial_sequence('boots', 'id'), max(id)) FROM boots HAVING max(id) > 0;
             SELECT setval(pg_get_serial_sequence('chunks', 'id'), max(id)) FROM chunks HAVING max(id) > 0;
             DROP TABLE transfer_progress;
             DROP SCHEMA IF EXISTS muster;
             ALTER SCHEMA {STAGING} RENAME TO muster;
             COMMIT"
        );
        told(self.client.batch_execute(&finish).await.map_err(Fault::from))?;
        // So that the first queries are planned well. The server would do it by itself a little later.
        let analyze = "SET search_path = muster; ANALYZE nodes, tasks, audit, boots, chunks";
        if let Err(error) = self.client.batch_execute(analyze).await {
            tracing::debug!(%error, "the tables were not analyzed");
        }
        Ok(())
    }
}

impl Log {
    pub(crate) async fn read(url: &str) -> Result<Self, TransferError> {
        Ok(Self { client: connect_to_read(url, Part::Terminal).await? })
    }

    /// The records of the same import hold the locks and have made the tables.
    pub(crate) async fn make(url: &str) -> Result<Self, TransferError> {
        let client = connect(url).await?;
        told(client.batch_execute(&format!("SET search_path = {STAGING}")).await.map_err(Fault::from))?;
        Ok(Self { client })
    }
}

#[async_trait]
impl LogSource for Log {
    async fn heads(&mut self) -> StoreResult<Vec<BootHead>> {
        let query = "SELECT node, boot, boot_id, last_seq, closed FROM boots";
        let rows = told(self.client.query(query, &[]).await.map_err(Fault::from))?;
        let head = |row| {
            Ok(BootHead {
                node: node_id(row, 0)?,
                boot: Boot(unsigned(row, 1)?),
                boot_id: bytes(row, 2)?,
                last_seq: unsigned(row, 3)?,
                closed: get::<i64>(row, 4)? != 0,
            })
        };
        told(rows.iter().map(head).collect())
    }

    async fn count(&mut self) -> StoreResult<u64> {
        count(&self.client, "chunks").await
    }

    async fn rows(&mut self, node: &NodeId, boot: Boot, after_seq: u64) -> StoreResult<Vec<FrameRow>> {
        told(frames(&self.client, node, boot, after_seq).await)
    }
}

#[async_trait]
impl LogTarget for Log {
    async fn parts_done(&mut self) -> StoreResult<u32> {
        told(parts_done(&self.client, Part::Terminal).await)
    }

    async fn boots(&mut self, part: u32, boots: Vec<BootHead>) -> StoreResult<()> {
        let work = async {
            for boots in boots.chunks(INSERTED.0) {
                insert_boots(&self.client, boots).await?;
            }
            Ok(())
        };
        told(in_part(&self.client, Part::Terminal, part, work).await)
    }

    async fn frames(&mut self, part: u32, rows: Vec<FrameRow>) -> StoreResult<()> {
        let work = async {
            let mut rest = &rows[..];
            while !rest.is_empty() {
                let mut size = 0;
                let fits = rest.iter().take(INSERTED.0).take_while(|row| {
                    let fits = size < INSERTED.1;
                    size += row.data.len();
                    fits
                });
                let (now, later) = rest.split_at(fits.count());
                insert_frames(&self.client, now).await?;
                rest = later;
            }
            Ok(())
        };
        told(in_part(&self.client, Part::Terminal, part, work).await)
    }

    /// The records' end renames what both stand in.
    async fn finish(&mut self) -> StoreResult<()> {
        Ok(())
    }
}

/// Whether the schema of a hub has any table.
const HOLDS_SOMETHING: &str = "SELECT EXISTS (SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = 'muster')";

fn told<T>(result: Result<T, Fault>) -> StoreResult<T> {
    result.map_err(Fault::give_up)
}

async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(
    client: &ClientWrapper,
    query: &str,
) -> Result<T, Fault> {
    get(&client.query_one(query, &[]).await?, 0)
}

async fn connect(url: &str) -> StoreResult<ClientWrapper> {
    told(Target::parse(url)?.connect_alone().await)
}

/// A connection to a part of a hub's database that this build knows.
async fn connect_to_read(url: &str, part: Part) -> Result<ClientWrapper, TransferError> {
    let client = connect(url).await?;
    told(client.batch_execute(LONG_READS).await.map_err(Fault::from))?;
    let there: bool = told(one(&client, "SELECT to_regclass('muster.parts') IS NOT NULL").await)?;
    let found: i64 = if there {
        let query = "SELECT coalesce(max(version), 0) FROM parts WHERE part = $1";
        let row = told(client.query_one(query, &[&part.name()]).await.map_err(Fault::from))?;
        told(get(&row, 0))?
    } else {
        0
    };
    let (found, known) = (u32::try_from(found).unwrap_or(u32::MAX), part.migrations().len());
    let known = u32::try_from(known).unwrap_or(u32::MAX);
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(client),
        std::cmp::Ordering::Greater => Err(StoreError::TooNew { found, known }.into()),
        std::cmp::Ordering::Less if found == 0 => Err(TransferError::refused(
            "config",
            format!("the database has no {} of a hub: name the hub's own in the URL", part.name()),
        )),
        std::cmp::Ordering::Less => Err(TransferError::refused(
            "config",
            format!("the database has schema {found}, older than this build's {known}: start its hub once"),
        )),
    }
}

/// Takes the locks of both parts for as long as the connection lasts.
async fn lock(client: &ClientWrapper) -> Result<(), Fault> {
    for part in [Part::Records, Part::Terminal] {
        let statement = "SELECT pg_try_advisory_lock($1, $2)";
        let row = client.query_one(statement, &[&schema::LOCKS, &part.lock()]).await?;
        if !get::<bool>(&row, 0)? {
            let holder = "it, or another import, has its lock".to_owned();
            return Err(StoreError::InUse { holder }.into());
        }
    }
    Ok(())
}

/// Which dump an interrupted import was of.
async fn begun(client: &ClientWrapper) -> Result<Option<String>, Fault> {
    let there: bool = one(client, &format!("SELECT to_regnamespace('{STAGING}') IS NOT NULL")).await?;
    if !there {
        return Ok(None);
    }
    let query = format!("SELECT dump FROM {STAGING}.transfer_progress LIMIT 1");
    one(client, &query).await.map(Some)
}

/// Makes the tables of both parts, of this build's version, and the one that says how far the import is.
async fn make_schema(client: &ClientWrapper, dump: &str) -> Result<(), Fault> {
    let mut statements = vec!["BEGIN".to_owned(), PARTS.replace("muster", STAGING)];
    statements.push(format!("SET LOCAL search_path = {STAGING}"));
    for part in [Part::Records, Part::Terminal] {
        statements.extend(part.migrations().iter().map(|&migration| migration.to_owned()));
        let (name, version) = (part.name(), part.migrations().len());
        statements.push(format!("INSERT INTO parts VALUES ('{name}', {version}, 0, '', '', 0, 0)"));
    }
    statements.push(
        "CREATE TABLE transfer_progress (part TEXT PRIMARY KEY, parts BIGINT NOT NULL, dump TEXT NOT NULL)"
            .to_owned(),
    );
    client.batch_execute(&statements.join(";\n")).await?;
    let names = [Part::Records.name(), Part::Terminal.name()];
    let insert = "INSERT INTO transfer_progress SELECT unnest($1::text[]), 0, $2";
    client.execute(insert, &[&&names[..], &dump]).await?;
    client.batch_execute("COMMIT").await?;
    Ok(())
}

async fn parts_done(client: &ClientWrapper, part: Part) -> Result<u32, Fault> {
    let row =
        client.query_one("SELECT parts FROM transfer_progress WHERE part = $1", &[&part.name()]).await?;
    super::value::unsigned_32(&row, 0)
}

/// Does the work of a part of the dump, with its number, in one transaction. What failed ends with the process.
async fn in_part(
    client: &ClientWrapper,
    part: Part,
    dump_part: u32,
    work: impl Future<Output = Result<(), Fault>> + Send,
) -> Result<(), Fault> {
    client.batch_execute("BEGIN").await?;
    work.await?;
    let update = "UPDATE transfer_progress SET parts = $2 WHERE part = $1";
    client.execute(update, &[&part.name(), &i64::from(dump_part)]).await?;
    client.batch_execute("COMMIT").await?;
    Ok(())
}

async fn count(client: &ClientWrapper, table: &str) -> StoreResult<u64> {
    let row = client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await;
    told(row.map_err(Fault::from).and_then(|row| unsigned(&row, 0)))
}

fn values(row: &tokio_postgres::Row, table: &Table) -> Result<Row, Fault> {
    let value = |(column, of): (usize, &crate::store::transfer::tables::Column)| {
        Ok(match of.kind {
            Kind::Number => get::<Option<i64>>(row, column)?.map_or(Value::Null, Value::Number),
            Kind::Text => get::<Option<String>>(row, column)?.map_or(Value::Null, Value::Text),
            Kind::Bytes => get::<Option<Vec<u8>>>(row, column)?.map_or(Value::Null, Value::Bytes),
        })
    };
    table.columns.iter().enumerate().map(value).collect()
}

/// Inserts rows by one statement, a column each of its parameters.
async fn insert(client: &ClientWrapper, table: &Table, rows: &[Row]) -> Result<(), Fault> {
    let mut columns: Vec<Box<dyn ToSql + Sync + Send>> = Vec::new();
    let mut types = Vec::new();
    for (place, column) in table.columns.iter().enumerate() {
        let values = rows.iter().map(|row| &row[place]);
        let (array, of): (Box<dyn ToSql + Sync + Send>, _) = match column.kind {
            Kind::Number => (Box::new(values.map(as_number).collect::<Vec<_>>()), "bigint"),
            Kind::Text => (Box::new(values.map(as_text).collect::<Vec<_>>()), "text"),
            Kind::Bytes => (Box::new(values.map(as_bytes).collect::<Vec<_>>()), "bytea"),
        };
        columns.push(array);
        types.push(format!("${}::{of}[]", place + 1));
    }
    let (name, quoted) = (table.name, table.quoted());
    let statement = format!("INSERT INTO {name} ({quoted}) SELECT * FROM unnest({})", types.join(", "));
    let statement = client.prepare_cached(&statement).await?;
    let columns: Vec<_> = columns.iter().map(|column| &**column as &(dyn ToSql + Sync)).collect();
    client.execute(&statement, &columns).await?;
    Ok(())
}

fn as_number(value: &Value) -> Option<i64> {
    if let Value::Number(number) = value { Some(*number) } else { None }
}

fn as_text(value: &Value) -> Option<String> {
    if let Value::Text(text) = value { Some(text.clone()) } else { None }
}

fn as_bytes(value: &Value) -> Option<Vec<u8>> {
    if let Value::Bytes(bytes) = value { Some(bytes.clone()) } else { None }
}

async fn insert_boots(client: &ClientWrapper, boots: &[BootHead]) -> Result<(), Fault> {
    let nodes: Vec<_> = boots.iter().map(|head| head.node.as_str()).collect();
    let numbers = boots.iter().map(|head| number(head.boot.0)).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<_> = boots.iter().map(|head| &head.boot_id[..]).collect();
    let last = boots.iter().map(|head| number(head.last_seq)).collect::<Result<Vec<_>, _>>()?;
    let closed: Vec<_> = boots.iter().map(|head| i64::from(head.closed)).collect();
    let statement = "INSERT INTO boots (node, boot, boot_id, last_seq, closed, weight, frames)
         SELECT *, 0, 0 FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[])";
    let statement = client.prepare_cached(statement).await?;
    client.execute(&statement, &[&nodes, &numbers, &ids, &last, &closed]).await?;
    Ok(())
}

/// Rows of a boot after a number: in one statement, so that they are of one moment.
async fn frames(
    client: &ClientWrapper,
    node: &NodeId,
    boot: Boot,
    after_seq: u64,
) -> Result<Vec<FrameRow>, Fault> {
    let statement = client
        .prepare_cached(
            "SELECT chunks.id, first_seq, chunks.last_seq, first_at, last_at, stored_at, chunks.weight,
                 chunks.frames, output, data
             FROM boots JOIN chunks ON chunks.boot_ref = boots.id
             WHERE node = $1 AND boot = $2 AND first_seq > $3 ORDER BY first_seq LIMIT $4",
        )
        .await?;
    let wanted: [&(dyn ToSql + Sync); 4] =
        [&node.as_str(), &number(boot.0)?, &bound(after_seq), &PAGE_ROWS.1];
    let rows = client.query(&statement, &wanted).await?;
    let frame = |row| {
        let last_seq = unsigned(row, 2)?;
        Ok(FrameRow {
            place: get(row, 0)?,
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
            data: Bytes::copy_from_slice(get(row, 9)?),
        })
    };
    rows.iter().map(frame).collect()
}

/// Inserts rows of frames and counts them in their boots, by two statements.
async fn insert_frames(client: &ClientWrapper, rows: &[FrameRow]) -> Result<(), Fault> {
    let places = free_places(client, rows).await?;
    let nodes: Vec<_> = rows.iter().map(|row| row.node.as_str()).collect();
    let count =
        |of: fn(&FrameRow) -> u64| rows.iter().map(|row| number(of(row))).collect::<Result<Vec<_>, _>>();
    let clipped = |of: fn(&FrameRow) -> u64| rows.iter().map(|row| time(of(row))).collect::<Vec<_>>();
    let data: Vec<_> = rows.iter().map(|row| &row.data[..]).collect();
    let boots = count(|row| row.boot.0)?;
    let (weights, frames) = (count(|row| row.weight)?, count(|row| row.frames)?);
    let insert = client
        .prepare_cached(
            "INSERT INTO chunks (id, boot_ref, first_seq, last_seq, first_at, last_at, stored_at, weight, frames,
                 output, data)
             SELECT new.id, boots.id, first_seq, new.last_seq, first_at, last_at, stored_at, new.weight, new.frames,
                 output, data
             FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                     $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bytea[])
                 AS new (id, node, boot, first_seq, last_seq, first_at, last_at, stored_at, weight, frames, output,
                     data)
             JOIN boots ON boots.node = new.node AND boots.boot = new.boot",
        )
        .await?;
    let inserted = client
        .execute(
            &insert,
            &[
                &places,
                &nodes,
                &boots,
                &count(|row| row.first_seq)?,
                &clipped(|row| row.last_seq),
                &clipped(|row| row.first_at),
                &clipped(|row| row.last_at),
                &clipped(|row| row.stored_at),
                &weights,
                &frames,
                &count(|row| row.output)?,
                &data,
            ],
        )
        .await?;
    if inserted != rows.len() as u64 {
        return Err(Fault::failed(Told("a row of frames has no boot".to_owned())));
    }
    let update = client
        .prepare_cached(
            "UPDATE boots SET weight = boots.weight + added.weight, frames = boots.frames + added.frames
             FROM (SELECT node, boot, sum(weight)::bigint AS weight, sum(frames)::bigint AS frames
                   FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) AS new (node, boot, weight, frames)
                   GROUP BY node, boot) AS added
             WHERE boots.node = added.node AND boots.boot = added.boot",
        )
        .await?;
    client.execute(&update, &[&nodes, &boots, &weights, &frames]).await?;
    Ok(())
}

/// The rows' places, or the next ones that are free: another store may have given one to several rows.
async fn free_places(client: &ClientWrapper, rows: &[FrameRow]) -> Result<Vec<i64>, Fault> {
    let last_taken = client
        .prepare_cached(
            "SELECT wanted.id, (SELECT max(id) FROM chunks WHERE chunks.id >= wanted.id AND chunks.id < wanted.id + 1000)
             FROM unnest($1::bigint[]) AS wanted (id)
             WHERE EXISTS (SELECT 1 FROM chunks WHERE chunks.id = wanted.id)",
        )
        .await?;
    let mut places: Vec<i64> = rows.iter().map(|row| row.place).collect();
    loop {
        let mut given = BTreeSet::new();
        for place in &mut places {
            while !given.insert(*place) {
                *place += 1;
            }
        }
        let taken = client.query(&last_taken, &[&places]).await?;
        if taken.is_empty() {
            return Ok(places);
        }
        for row in &taken {
            let (wanted, last): (i64, i64) = (get(row, 0)?, get(row, 1)?);
            if let Some(place) = places.iter_mut().find(|place| **place == wanted) {
                *place = last + 1;
            }
        }
    }
}

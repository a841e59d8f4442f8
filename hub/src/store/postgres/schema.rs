//! The schema `muster`: what server it needs, how it is made and brought to this build's version.

use deadpool_postgres::ClientWrapper;

use super::value::{Fault, get};
use crate::store::StoreError;

/// The oldest server: the oldest that was still looked after when this was written.
const OLDEST_SERVER: i32 = 130_000;

/// The first number of all advisory locks of Muster's, "MUST" as bytes; the second says which.
pub(super) const LOCKS: i32 = 0x4D55_5354;

/// Held while the schema is made or changed.
const SCHEMA_LOCK: i32 = 0;

/// Requests that write at a time, of one part; more of them wait. Some may wait for what became of a commit while others
/// use the connections.
pub(super) const SLOTS: i64 = 32;

/// What stands in the database whichever parts it has: their versions and leases.
const PARTS: &str = include_str!("../../../migrations/postgres/parts.sql");

/// A part of the database that a back end uses alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Identity, tokens, tasks and the audit log.
    Records,
    /// Frames.
    Terminal,
}

impl Part {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Terminal => "terminal",
        }
    }

    /// The statements that lead from one version to the next, as many as the same part has in SQLite.
    pub(super) const fn migrations(self) -> &'static [&'static str] {
        match self {
            Self::Records => &[include_str!("../../../migrations/postgres/records_1.sql")],
            Self::Terminal => &[include_str!("../../../migrations/postgres/terminal_1.sql")],
        }
    }

    /// Held by the hub that has the lease.
    pub(super) const fn lock(self) -> i32 {
        match self {
            Self::Records => 1,
            Self::Terminal => 2,
        }
    }

    /// Shared by transactions that write, held alone by who takes the lease.
    pub(super) const fn fence(self) -> i32 {
        self.lock() + 2
    }
}

/// Refuses a server that is too old or cannot be written to.
pub(super) async fn check_server(client: &ClientWrapper) -> Result<(), Fault> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
                 pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,
                 current_setting('fsync')::bool, current_setting('server_encoding')",
            &[],
        )
        .await?;
    let (version, name): (i32, String) = (get(&row, 0)?, get(&row, 1)?);
    if version < OLDEST_SERVER {
        let what = format!("PostgreSQL {name} is too old: version 13 or newer is needed");
        return Err(StoreError::refused(what).into());
    }
    if get::<bool>(&row, 2)? {
        let what = "the database is read-only (a standby, or set so): name the primary in the URL";
        return Err(StoreError::refused(what).into());
    }
    let encoding: String = get(&row, 4)?;
    if encoding != "UTF8" {
        let what = format!("the database has the encoding {encoding}: create one with ENCODING 'UTF8'");
        return Err(StoreError::refused(what).into());
    }
    if !get::<bool>(&row, 3)? {
        tracing::warn!(
            "the database runs with fsync=off: what was promised to be kept is lost with its power"
        );
    }
    Ok(())
}

/// Makes what all parts need, and refuses a part that a newer build has made.
pub(super) async fn prepare(client: &ClientWrapper, part: Part) -> Result<(), Fault> {
    client.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCKS}, {SCHEMA_LOCK})")).await?;
    let row = client.query_one("SELECT to_regclass('muster.parts') IS NULL", &[]).await?;
    if get::<bool>(&row, 0)? {
        client.batch_execute(PARTS).await?;
    }
    let statement = "INSERT INTO parts VALUES ($1, 0, 0, '', '', 0, 0) ON CONFLICT DO NOTHING";
    client.execute(statement, &[&part.name()]).await?;
    let slots = "INSERT INTO commits SELECT $1, slot, '' FROM generate_series(0, $2::bigint - 1) AS slot
        ON CONFLICT DO NOTHING";
    client.execute(slots, &[&part.name(), &SLOTS]).await?;
    client.batch_execute("COMMIT").await?;
    version(client, part).await.map(|_version| ())
}

/// Brings a part up to this build's version, in one transaction: all of it or nothing.
pub(super) async fn migrate(client: &ClientWrapper, part: Part) -> Result<(), Fault> {
    client
        .batch_execute(&format!(
            "BEGIN; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({LOCKS}, {SCHEMA_LOCK})"
        ))
        .await?;
    let found = version(client, part).await?;
    let migrations = part.migrations();
    for statements in &migrations[found..] {
        client.batch_execute(statements).await?;
    }
    let known = i64::try_from(migrations.len()).map_err(Fault::failed)?;
    client.execute("UPDATE parts SET version = $2 WHERE part = $1", &[&part.name(), &known]).await?;
    client.batch_execute("COMMIT").await?;
    if found > 0 && found < migrations.len() {
        tracing::info!(part = part.name(), from = found, to = known, "migrated the database");
    }
    Ok(())
}

/// The version that a part has, when this build knows it.
async fn version(client: &ClientWrapper, part: Part) -> Result<usize, Fault> {
    let row = client.query_one("SELECT version FROM parts WHERE part = $1", &[&part.name()]).await?;
    let found: i64 = get(&row, 0)?;
    let known = part.migrations().len();
    match usize::try_from(found) {
        Ok(found) if found <= known => Ok(found),
        _ => Err(StoreError::TooNew {
            found: u32::try_from(found).unwrap_or(u32::MAX),
            known: u32::try_from(known).unwrap_or(u32::MAX),
        }
        .into()),
    }
}

/// The hub's id: minted when the records are new; read, where there are any, for a part beside them.
pub(super) async fn hub_id(client: &ClientWrapper, part: Part) -> Result<String, Fault> {
    if part == Part::Records {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(Fault::failed)?;
        let id = uuid::Builder::from_random_bytes(random).into_uuid().to_string();
        client.execute("INSERT INTO hub VALUES ('hub_id', $1) ON CONFLICT DO NOTHING", &[&id]).await?;
    } else {
        let row = client.query_one("SELECT to_regclass('muster.hub') IS NULL", &[]).await?;
        if get::<bool>(&row, 0)? {
            return Ok(String::new());
        }
    }
    let row = client.query_opt("SELECT value FROM hub WHERE key = 'hub_id'", &[]).await?;
    row.map_or_else(|| Ok(String::new()), |row| get(&row, 0))
}

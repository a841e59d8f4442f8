//! What data is taken from and put into: the back ends, as a transfer sees them.

use std::path::Path;

use async_trait::async_trait;
use registry_core::{Boot, Clock, NodeId};

use super::frames::FrameRow;
use super::tables::{Row, Table};
use super::{Places, TransferError};
use crate::store::open::{Database, LogPlace};
use crate::store::{BootHead, StoreResult, postgres, redis, sqlite};

/// Records that are read.
#[async_trait]
pub(crate) trait RecordSource: Send {
    /// The id of the hub whose records these are; nothing where it never ran.
    async fn hub_id(&mut self) -> StoreResult<String>;
    /// From here on everything is of one moment.
    async fn begin(&mut self) -> StoreResult<()>;
    /// How many rows a table has.
    async fn count(&mut self, table: &'static Table) -> StoreResult<u64>;
    /// The next rows of a table in the order of its key, a page of them; none when there are no more. Another table than
    /// the one before is begun at its beginning.
    async fn next(&mut self, table: &'static Table) -> StoreResult<Vec<Row>>;
}

/// A terminal log that is read, while others may write to it.
#[async_trait]
pub(crate) trait LogSource: Send {
    /// Every boot.
    async fn heads(&mut self) -> StoreResult<Vec<BootHead>>;
    /// About how many rows there are.
    async fn count(&mut self) -> StoreResult<u64>;
    /// Rows of a boot that begin after this number, a page of them; none when there are no more.
    async fn rows(&mut self, node: &NodeId, boot: Boot, after_seq: u64) -> StoreResult<Vec<FrameRow>>;
}

/// Records that are made, out of a hub's sight until they are finished.
#[async_trait]
pub(crate) trait RecordTarget: RecordSource {
    /// The number of the last part that is in.
    async fn parts_done(&mut self) -> StoreResult<u32>;
    /// Makes a part's rows durable, all of them or none.
    async fn insert(&mut self, part: u32, table: &'static Table, rows: Vec<Row>) -> StoreResult<()>;
    /// Changes a row to what this back end can keep; true when there was something to change.
    fn adapt(&self, row: &mut Row) -> bool {
        let _ = row;
        false
    }
    /// Puts them where a hub finds them.
    async fn finish(&mut self) -> StoreResult<()>;
}

/// A terminal log that is made.
#[async_trait]
pub(crate) trait LogTarget: LogSource {
    /// The number of the last part that is in; 0 where rows say that themselves.
    async fn parts_done(&mut self) -> StoreResult<u32>;
    /// Makes boots known.
    async fn boots(&mut self, part: u32, boots: Vec<BootHead>) -> StoreResult<()>;
    /// Makes rows durable.
    async fn frames(&mut self, part: u32, rows: Vec<FrameRow>) -> StoreResult<()>;
    /// Puts it where a hub finds it. Called before the records are finished.
    async fn finish(&mut self) -> StoreResult<()>;
    /// The records are finished: whatever says that this import is under way is of no use any more.
    async fn clear(&mut self) -> StoreResult<()> {
        Ok(())
    }
}

/// Which dump is imported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) dump: &'a str,
    pub(crate) hub_id: &'a str,
}

/// Opens the records for reading.
pub(crate) async fn record_source(places: &Places) -> Result<Box<dyn RecordSource>, TransferError> {
    Ok(match &places.database {
        Database::Sqlite => Box::new(sqlite::transfer::Records::read(places.folder()?).await?),
        Database::Postgres(url) => Box::new(postgres::transfer::Records::read(url).await?),
    })
}

/// Opens the terminal log of this hub for reading.
pub(crate) async fn log_source(
    places: &Places,
    hub_id: &str,
    clock: &Clock,
) -> Result<Box<dyn LogSource>, TransferError> {
    Ok(match (&places.log, &places.database) {
        (LogPlace::Redis(url), _) => Box::new(redis::transfer::Log::read(url, hub_id, clock).await?),
        (LogPlace::Database, Database::Postgres(url)) => Box::new(postgres::transfer::Log::read(url).await?),
        (LogPlace::Sqlite, _) | (LogPlace::Database, Database::Sqlite) => {
            Box::new(sqlite::transfer::Log::read(places.folder()?).await?)
        }
    })
}

/// Opens empty records, or those that an interrupted import of the same dump has begun.
pub(crate) async fn record_target(
    places: &Places,
    origin: Origin<'_>,
    clock: &Clock,
) -> Result<Box<dyn RecordTarget>, TransferError> {
    Ok(match &places.database {
        Database::Sqlite => Box::new(sqlite::transfer::Records::make(places.folder()?, origin, clock).await?),
        Database::Postgres(url) => Box::new(postgres::transfer::Records::make(url, origin).await?),
    })
}

/// Opens an empty terminal log, or one that an interrupted import of the same dump has begun.
pub(crate) async fn log_target(
    places: &Places,
    origin: Origin<'_>,
    clock: &Clock,
) -> Result<Box<dyn LogTarget>, TransferError> {
    Ok(match (&places.log, &places.database) {
        (LogPlace::Redis(url), _) => Box::new(redis::transfer::Log::make(url, origin, clock).await?),
        (LogPlace::Database, Database::Postgres(url)) => Box::new(postgres::transfer::Log::make(url).await?),
        (LogPlace::Sqlite, _) | (LogPlace::Database, Database::Sqlite) => {
            Box::new(sqlite::transfer::Log::make(places.folder()?, origin, clock).await?)
        }
    })
}

impl Places {
    /// The data folder, where one is needed.
    fn folder(&self) -> Result<&Path, TransferError> {
        self.data_dir.as_deref().ok_or_else(|| {
            TransferError::refused(
                "config",
                "SQLite's files are in the hub's data folder: name it with --data-dir",
            )
        })
    }
}

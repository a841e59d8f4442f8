//! `terminal.db`: frames, joined into rows.

mod append;
mod batch;
mod read;
mod trim;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use registry_core::{Clock, Cursor, NodeId};
use rusqlite::Connection;

use self::batch::{LogBatch, LogJob, Slice};
use super::file::{Schema, open_writer};
use super::readers::Readers;
use super::records::node_id;
use super::value::{failed, unsigned};
use super::writer::{Writer, WriterStats};
use crate::store::log_totals::{Amount, Totals};
use crate::store::{BootHead, FrameRun, LogPage, Retention, StoreResult, TerminalLog};

const SCHEMA: Schema = Schema {
    migrations: &[include_str!("../../../migrations/sqlite/terminal_1.sql")],
    // 64 MiB: the default of 1000 syncs the database too often under load, more makes the pause for it longer.
    autocheckpoint_pages: 4000,
};

/// Terminal frames in one SQLite file.
pub struct SqliteTerminalLog {
    writer: Writer<LogJob>,
    readers: Readers,
    /// Written by the writer with each commit.
    total_bytes: Arc<AtomicU64>,
}

impl SqliteTerminalLog {
    /// Opens the file at `path`, making or migrating it where needed. Blocks. Frames age by `clock`.
    ///
    /// # Errors
    /// [`StoreError::TooNew`](crate::store::StoreError::TooNew) for a file that a newer Muster made;
    /// [`StoreError::Failed`](crate::store::StoreError::Failed) when it cannot be used.
    pub fn open(path: &Path, clock: Clock) -> StoreResult<Self> {
        Self::start(path, open_writer(path, SCHEMA)?, clock)
    }

    fn start(path: &Path, connection: Connection, clock: Clock) -> StoreResult<Self> {
        let totals = Totals::new(kept(&connection).map_err(failed)?);
        let readers = Readers::open(path)?;
        let total_bytes = Arc::new(AtomicU64::new(totals.all_bytes()));
        let batch = LogBatch::new(totals, clock.clone(), Arc::clone(&total_bytes));
        let writer = Writer::start("terminal-db", path, connection, batch, clock)?;
        Ok(Self { writer, readers, total_bytes })
    }

    /// How the writer is doing.
    #[must_use]
    pub fn writer_stats(&self) -> WriterStats {
        self.writer.stats()
    }

    /// Has a piece of clearing away done between appends; true when there is more of it.
    async fn slice(&self, slice: Slice) -> StoreResult<bool> {
        self.writer.ask(|reply| LogJob::Slice { slice, more: false, reply }).await
    }
}

/// What is kept of each node.
fn kept(connection: &Connection) -> rusqlite::Result<HashMap<NodeId, Amount>> {
    connection
        .prepare("SELECT node, sum(weight), sum(frames) FROM boots GROUP BY node HAVING sum(frames) > 0")?
        .query_map([], |row| {
            Ok((node_id(row, 0)?, Amount { bytes: unsigned(row, 1)?, frames: unsigned(row, 2)? }))
        })?
        .collect()
}

#[async_trait]
impl TerminalLog for SqliteTerminalLog {
    async fn heads(&self) -> StoreResult<Vec<BootHead>> {
        self.readers.read(read::heads).await
    }

    async fn append(&self, run: FrameRun) -> StoreResult<()> {
        self.writer.ask(|reply| LogJob::Append { run, refused: None, reply }).await
    }

    async fn read(&self, node: &NodeId, after: Cursor, max_bytes: usize) -> StoreResult<LogPage> {
        let node = node.clone();
        self.readers.read(move |connection| read::page(connection, &node, after, max_bytes)).await
    }

    async fn cursor_before_tail(&self, node: &NodeId, bytes: u64) -> StoreResult<Cursor> {
        let node = node.clone();
        self.readers.read(move |connection| read::before_tail(connection, &node, bytes)).await
    }

    async fn cursor_at(&self, node: &NodeId, unix_ms: u64) -> StoreResult<Cursor> {
        let node = node.clone();
        self.readers.read(move |connection| read::at(connection, &node, unix_ms)).await
    }

    /// In slices, so that others' appends go on in between. A reader may see a part of it gone.
    async fn erase(&self, node: &NodeId) -> StoreResult<()> {
        while self.slice(Slice::Erase(node.clone())).await? {}
        Ok(())
    }

    async fn trim(&self, retention: Retention, now_unix_ms: u64) -> StoreResult<bool> {
        self.slice(Slice::Trim { retention, now_unix_ms }).await
    }

    fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    fn held_up_since_ms(&self) -> Option<u64> {
        self.writer.stats().waiting_since_ms
    }

    async fn close(&self) {
        self.writer.refuse_more();
        // The writer last: only it can put the write-ahead log away, and only when nobody else has the file open.
        self.readers.close().await;
        self.writer.close().await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use registry_core::{Boot, Frame, FrameKind, Stream};

    use super::*;

    fn run(first: u64, count: u64) -> FrameRun {
        let frame = |seq| {
            let kind = FrameKind::Output { stream: Stream::Pty, data: Bytes::from(vec![1; 60_000]) };
            Arc::new(Frame { seq, at_unix_ms: 1, task: None, kind })
        };
        let frames = (first..first + count).map(frame).collect();
        FrameRun { node: NodeId::new("n").unwrap(), boot: Boot(1), boot_id: [1; 16], frames }
    }

    #[tokio::test]
    async fn a_full_disk_leaves_the_log_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("terminal.db");
        let connection = open_writer(&path, SCHEMA).unwrap();
        let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        connection.pragma_update_and_check(None, "max_page_count", pages + 40, |_| Ok(())).unwrap();
        let log = SqliteTerminalLog::start(&path, connection, Clock::system()).unwrap();

        log.append(run(1, 1)).await.unwrap();
        let before = (log.total_bytes(), log.heads().await.unwrap());
        log.append(run(2, 50)).await.unwrap_err();
        assert_eq!((log.total_bytes(), log.heads().await.unwrap()), before);
        // Trimming makes room, and the same frames go on where they stopped.
        log.append(run(2, 1)).await.unwrap();
        let none = Retention { node_bytes: 0, node_frames: 0, age_ms: 0, total_bytes: 0 };
        assert!(!log.trim(none, 1).await.unwrap());
        log.append(run(3, 5)).await.unwrap();
        assert_eq!(log.heads().await.unwrap()[0].last_seq, 7);
    }
}

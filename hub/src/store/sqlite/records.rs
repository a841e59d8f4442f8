//! `muster.db`: identity, credentials, tokens, tasks, audit.

mod nodes;
mod tasks;
mod tokens;

use std::path::Path;

use async_trait::async_trait;
use registry_core::{Clock, NodeId, TaskId};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;

pub(super) use self::nodes::node_id;
use super::file::{Schema, open_writer};
use super::readers::Readers;
use super::value::{failed, is_the_jobs_own, time};
use super::writer::{Batch, Writer, WriterStats};
use crate::store::{
    AuditRow, CreateTaskOutcome, EnrolOutcome, IdempotencyKey, NodeLive, NodeRow, Store, StoreError,
    StoreResult, TaskFilter, TaskRow, TaskStep, TokenRow,
};

const SCHEMA: Schema = Schema {
    migrations: &[include_str!("../../../migrations/sqlite/records_1.sql")],
    // 16 MiB: little is written here.
    autocheckpoint_pages: 1000,
};

/// Identity, credentials, tokens, tasks and audit in one SQLite file.
pub struct SqliteStore {
    writer: Writer<Box<dyn Job>>,
    readers: Readers,
    hub_id: String,
}

impl SqliteStore {
    /// Opens the file at `path`, making or migrating it where needed. Blocks.
    ///
    /// # Errors
    /// [`StoreError::TooNew`] for a file that a newer Muster made; [`StoreError::Failed`] when it cannot be used.
    pub fn open(path: &Path, clock: Clock) -> StoreResult<Self> {
        Self::start(path, open_writer(path, SCHEMA)?, clock)
    }

    fn start(path: &Path, connection: Connection, clock: Clock) -> StoreResult<Self> {
        let hub_id = hub_id(&connection)?;
        let readers = Readers::open(path)?;
        let writer = Writer::start("muster-db", path, connection, RecordBatch, clock)?;
        Ok(Self { writer, readers, hub_id })
    }

    /// How the writer is doing.
    #[must_use]
    pub fn writer_stats(&self) -> WriterStats {
        self.writer.stats()
    }

    /// Does something in a commit shared with whatever else waits. `work` may run more than once; what it did before
    /// its last run was rolled back.
    async fn write<T, F>(&self, work: F) -> StoreResult<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.ask(|reply| Box::new(Work { work, done: None, reply }) as Box<dyn Job>).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn hub_id(&self) -> StoreResult<String> {
        if self.writer.is_closed() { Err(StoreError::Closed) } else { Ok(self.hub_id.clone()) }
    }

    async fn nodes(&self) -> StoreResult<Vec<NodeRow>> {
        self.readers.read(nodes::all).await
    }

    async fn enrol(
        &self,
        token: &str,
        secret_hash: [u8; 32],
        node: NodeRow,
        audit: AuditRow,
    ) -> StoreResult<EnrolOutcome> {
        let token = token.to_owned();
        self.write(move |connection| nodes::enrol(connection, &token, &secret_hash, &node, &audit)).await
    }

    async fn save_live(&self, nodes: Vec<(NodeId, NodeLive)>) -> StoreResult<()> {
        self.write(move |connection| nodes::save_live(connection, &nodes)).await
    }

    async fn delete_node(&self, node: &NodeId, audit: AuditRow) -> StoreResult<bool> {
        let node = node.clone();
        self.write(move |connection| nodes::delete(connection, &node, &audit)).await
    }

    async fn create_task(
        &self,
        task: TaskRow,
        key: Option<IdempotencyKey>,
        audit: AuditRow,
    ) -> StoreResult<CreateTaskOutcome> {
        self.write(move |connection| tasks::create(connection, &task, key.as_ref(), &audit)).await
    }

    async fn step_tasks(&self, steps: Vec<(TaskId, TaskStep)>) -> StoreResult<Vec<Option<(TaskRow, bool)>>> {
        self.write(move |connection| tasks::step(connection, &steps)).await
    }

    async fn task(&self, id: TaskId) -> StoreResult<Option<TaskRow>> {
        self.readers.read(move |connection| tasks::one(connection, id)).await
    }

    async fn tasks(&self, filter: TaskFilter) -> StoreResult<Vec<TaskRow>> {
        self.readers.read(move |connection| tasks::some(connection, &filter)).await
    }

    async fn trim_tasks(
        &self,
        keep_per_node: u32,
        before_unix_ms: u64,
        now_unix_ms: u64,
    ) -> StoreResult<u64> {
        // Looked for by a reader: it takes a scan, and the writer has others waiting. Ended tasks stay ended.
        let over = self
            .readers
            .read(move |connection| tasks::beyond(connection, keep_per_node, before_unix_ms))
            .await?;
        self.write(move |connection| tasks::trim(connection, &over, now_unix_ms)).await
    }

    async fn create_token(&self, token: TokenRow, audit: AuditRow) -> StoreResult<()> {
        self.write(move |connection| tokens::create(connection, &token, &audit)).await
    }

    async fn tokens(&self) -> StoreResult<Vec<TokenRow>> {
        self.readers.read(tokens::all).await
    }

    async fn delete_token(&self, id: &str, audit: AuditRow) -> StoreResult<bool> {
        let id = id.to_owned();
        self.write(move |connection| tokens::delete(connection, &id, &audit)).await
    }

    async fn audit(&self, row: AuditRow) -> StoreResult<()> {
        self.write(move |connection| add_audit(connection, &row)).await
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

fn add_audit(connection: &Connection, row: &AuditRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO audit (at, principal, action, resource, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![time(row.at_unix_ms), row.principal, row.action, row.resource, row.detail_json])
        .map(|_inserted| ())
}

/// The hub's id, minted here when the file is new.
fn hub_id(connection: &Connection) -> StoreResult<String> {
    let known = || {
        connection
            .query_row("SELECT value FROM hub WHERE key = 'hub_id'", [], |row| row.get::<_, String>(0))
            .optional()
    };
    if let Some(id) = known().map_err(failed)? {
        return Ok(id);
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(failed)?;
    let id = uuid::Builder::from_random_bytes(random).into_uuid().to_string();
    connection
        .execute("INSERT INTO hub VALUES ('hub_id', ?1) ON CONFLICT DO NOTHING", [&id])
        .map_err(failed)?;
    known().map_err(failed)?.ok_or_else(|| failed(rusqlite::Error::QueryReturnedNoRows))
}

/// Work of any kind with its answer of any kind.
trait Job: Send {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    fn refuse(&mut self, error: StoreError);
    fn answer(self: Box<Self>, group: &StoreResult<()>);
}

struct Work<T, F> {
    work: F,
    done: Option<StoreResult<T>>,
    reply: oneshot::Sender<StoreResult<T>>,
}

impl<T, F> Job for Work<T, F>
where
    T: Send,
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.done = Some(Ok((self.work)(connection)?));
        Ok(())
    }

    fn refuse(&mut self, error: StoreError) {
        self.done = Some(Err(error));
    }

    fn answer(self: Box<Self>, group: &StoreResult<()>) {
        let answer = match (group, self.done) {
            (Ok(()), Some(done)) => done,
            (Ok(()), None) => Err(StoreError::Closed),
            (Err(error), _) => Err(error.clone()),
        };
        // Nobody may be waiting any more; what was done stays done.
        let _ = self.reply.send(answer);
    }
}

/// Jobs that know nothing of each other, each in a savepoint of its own.
struct RecordBatch;

impl Batch for RecordBatch {
    type Job = Box<dyn Job>;

    fn cost(_job: &Self::Job) -> usize {
        /// A task's or a node's row with its audit line; the bound on jobs is what counts here.
        const ROW_BYTES: usize = 4 * 1024;
        ROW_BYTES
    }

    fn apply(&mut self, connection: &Connection, jobs: &mut [Self::Job]) -> rusqlite::Result<()> {
        for job in jobs {
            run(connection, "SAVEPOINT job")?;
            if let Err(error) = job.run(connection) {
                // After some faults SQLite has rolled the whole transaction back by itself.
                if !is_the_jobs_own(&error) || connection.is_autocommit() {
                    return Err(error);
                }
                run(connection, "ROLLBACK TO job")?;
                job.refuse(failed(error));
            }
            run(connection, "RELEASE job")?;
        }
        Ok(())
    }

    fn committed(&mut self) {}

    fn answer(job: Self::Job, group: &StoreResult<()>) {
        job.answer(group);
    }
}

fn run(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(|_changed| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(len: usize) -> AuditRow {
        AuditRow {
            at_unix_ms: 1,
            principal: "p".into(),
            action: "a".into(),
            resource: "r".into(),
            detail_json: "x".repeat(len),
        }
    }

    #[tokio::test]
    async fn a_full_disk_fails_what_does_not_fit_and_nothing_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("muster.db");
        let connection = open_writer(&path, SCHEMA).unwrap();
        let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        connection.pragma_update_and_check(None, "max_page_count", pages + 4, |_| Ok(())).unwrap();
        let store = SqliteStore::start(&path, connection, Clock::system()).unwrap();

        assert!(matches!(store.audit(line(1024 * 1024)).await, Err(StoreError::Failed(_))));
        store.audit(line(10)).await.unwrap();
        let stats = store.writer_stats();
        assert_eq!((stats.failed_commits_total, stats.commits_total), (1, 1));
        assert_eq!(store.nodes().await.unwrap(), []);
    }
}

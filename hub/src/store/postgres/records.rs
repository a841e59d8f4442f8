//! Identity, credentials, tokens, tasks, audit.

mod nodes;
mod tasks;
mod tokens;

use async_trait::async_trait;
use deadpool_postgres::ClientWrapper;
use registry_core::{Clock, NodeId, TaskId};

use super::database::Database;
use super::retry::{BULK_PATIENCE, PATIENCE, reading, writing};
use super::schema::Part;
use super::value::{Fault, text, time};
use crate::store::{
    AuditRow, CreateTaskOutcome, EnrolOutcome, IdempotencyKey, NodeLive, NodeRow, Store, StoreError,
    StoreResult, TaskFilter, TaskRow, TaskStep, TokenRow,
};

/// Identity, credentials, tokens, tasks and audit in a PostgreSQL database.
pub struct PostgresStore {
    database: Database,
}

impl PostgresStore {
    /// Connects to the database of this URL, makes or migrates the schema where needed, and takes the lease.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for what somebody has to change, [`StoreError::TooNew`] for a database that a newer Muster
    /// made, [`StoreError::InUse`] when another hub has it, [`StoreError::Unavailable`] when it cannot be reached.
    pub async fn open(url: &str, clock: Clock) -> StoreResult<Self> {
        Ok(Self { database: Database::open(url, Part::Records, clock).await? })
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn hub_id(&self) -> StoreResult<String> {
        if self.database.is_closed() {
            Err(StoreError::Closed)
        } else {
            Ok(self.database.hub_id().to_owned())
        }
    }

    async fn nodes(&self) -> StoreResult<Vec<NodeRow>> {
        reading!(self.database, BULK_PATIENCE, |client| nodes::all(client))
    }

    async fn enrol(
        &self,
        token: &str,
        secret_hash: [u8; 32],
        node: NodeRow,
        audit: AuditRow,
    ) -> StoreResult<EnrolOutcome> {
        writing!(self.database, |client| nodes::enrol(client, token, &secret_hash, &node, &audit))
    }

    async fn save_live(&self, nodes: Vec<(NodeId, NodeLive)>) -> StoreResult<()> {
        writing!(self.database, |client| nodes::save_live(client, &nodes))
    }

    async fn delete_node(&self, node: &NodeId, audit: AuditRow) -> StoreResult<bool> {
        writing!(self.database, |client| nodes::delete(client, node, &audit))
    }

    async fn create_task(
        &self,
        task: TaskRow,
        key: Option<IdempotencyKey>,
        audit: AuditRow,
    ) -> StoreResult<CreateTaskOutcome> {
        writing!(self.database, |client| tasks::create(client, &task, key.as_ref(), &audit))
    }

    async fn step_tasks(&self, steps: Vec<(TaskId, TaskStep)>) -> StoreResult<Vec<Option<(TaskRow, bool)>>> {
        writing!(self.database, |client| tasks::step(client, &steps))
    }

    async fn task(&self, id: TaskId) -> StoreResult<Option<TaskRow>> {
        reading!(self.database, PATIENCE, |client| tasks::one(client, id))
    }

    async fn tasks(&self, filter: TaskFilter) -> StoreResult<Vec<TaskRow>> {
        reading!(self.database, BULK_PATIENCE, |client| tasks::some(client, &filter))
    }

    async fn trim_tasks(
        &self,
        keep_per_node: u32,
        before_unix_ms: u64,
        now_unix_ms: u64,
    ) -> StoreResult<u64> {
        // Looked for outside of the transaction: it takes a scan. Ended tasks stay ended.
        let over: Vec<Vec<u8>> = reading!(self.database, BULK_PATIENCE, |client| tasks::beyond(
            client,
            keep_per_node,
            before_unix_ms
        ))?;
        writing!(self.database, |client| tasks::trim(client, &over, now_unix_ms))
    }

    async fn create_token(&self, token: TokenRow, audit: AuditRow) -> StoreResult<()> {
        writing!(self.database, |client| tokens::create(client, &token, &audit))
    }

    async fn tokens(&self) -> StoreResult<Vec<TokenRow>> {
        reading!(self.database, PATIENCE, |client| tokens::all(client))
    }

    async fn delete_token(&self, id: &str, audit: AuditRow) -> StoreResult<bool> {
        writing!(self.database, |client| tokens::delete(client, id, &audit))
    }

    async fn audit(&self, row: AuditRow) -> StoreResult<()> {
        writing!(self.database, |client| add_audit(client, &row))
    }

    fn held_up_since_ms(&self) -> Option<u64> {
        self.database.health().held_up_since_ms()
    }

    fn is_superseded(&self) -> bool {
        self.database.is_superseded()
    }

    async fn close(&self) {
        self.database.release().await;
    }
}

async fn add_audit(client: &ClientWrapper, row: &AuditRow) -> Result<(), Fault> {
    let statement = client
        .prepare_cached(
            "INSERT INTO audit (at, principal, action, resource, detail) VALUES ($1, $2, $3, $4, $5)",
        )
        .await?;
    client
        .execute(
            &statement,
            &[
                &time(row.at_unix_ms),
                &text(&row.principal),
                &text(&row.action),
                &text(&row.resource),
                &text(&row.detail_json),
            ],
        )
        .await?;
    Ok(())
}

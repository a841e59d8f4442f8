//! The PostgreSQL back end, held to the contract of the stores and to what can happen to servers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "store_contract/bed.rs"]
mod bed;
#[path = "store_postgres/doubt.rs"]
mod doubt;
#[path = "store_postgres/faults.rs"]
mod faults;
#[path = "store_postgres/leases.rs"]
mod leases;
#[path = "store_contract/records.rs"]
mod records;
#[path = "store_postgres/refusals.rs"]
mod refusals;
#[path = "store_postgres/schemas.rs"]
mod schemas;
#[path = "store_contract/terminal.rs"]
mod terminal;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use muster_hub::store::postgres::{PostgresStore, PostgresTerminalLog};
use muster_hub::store::{AuditRow, Store, TerminalLog};
use muster_test_servers::Postgres;
use registry_core::Clock;

use self::bed::Bed;

records::records_contract!(super::Database::new);
terminal::terminal_contract!(super::Database::new);

/// An empty database of the server that the tests share.
struct Database {
    url: String,
}

impl Database {
    fn new() -> Self {
        Self { url: Postgres::shared().database() }
    }

    /// Runs a statement beside the hub.
    fn sql(&self, statement: &str) -> String {
        Postgres::shared().sql(self.url.rsplit('/').next().unwrap(), statement)
    }

    async fn open(&self) -> PostgresStore {
        PostgresStore::open(&self.url, Clock::system()).await.unwrap()
    }

    async fn open_log(&self) -> PostgresTerminalLog {
        PostgresTerminalLog::open(&self.url, Clock::system()).await.unwrap()
    }
}

#[async_trait]
impl Bed for Database {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.open().await)
    }

    async fn log(&self, clock: Clock) -> Arc<dyn TerminalLog> {
        Arc::new(PostgresTerminalLog::open(&self.url, clock).await.unwrap())
    }
}

fn line(action: &str) -> AuditRow {
    AuditRow {
        at_unix_ms: 1,
        principal: "p".into(),
        action: action.into(),
        resource: "r".into(),
        detail_json: "{}".into(),
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited 20 s for: {what}");
}

//! The PostgreSQL back end, held to the contract of the stores and to what can happen to servers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "store_contract/bed.rs"]
mod bed;
#[path = "store_contract/records.rs"]
mod records;
#[path = "store_contract/terminal.rs"]
mod terminal;

use std::sync::Arc;

use async_trait::async_trait;
use muster_hub::store::postgres::{PostgresStore, PostgresTerminalLog};
use muster_hub::store::{Store, TerminalLog};
use muster_test_servers::Postgres;
use registry_core::Clock;

use self::bed::Bed;

records::records_contract!(super::Database::new);
terminal::terminal_contract!(super::Database::new);

/// An empty database of the server that the tests share.
struct Database(String);

impl Database {
    fn new() -> Self {
        Self(Postgres::shared().database())
    }
}

#[async_trait]
impl Bed for Database {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(PostgresStore::open(&self.0, Clock::system()).await.unwrap())
    }

    async fn log(&self, clock: Clock) -> Arc<dyn TerminalLog> {
        Arc::new(PostgresTerminalLog::open(&self.0, clock).await.unwrap())
    }
}

//! The terminal log on Redis, held to the contract of terminal logs and to what can happen to a server.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[allow(dead_code, reason = "Redis holds frames alone")]
#[path = "store_contract/bed.rs"]
mod bed;
#[path = "store_redis/doors.rs"]
mod doors;
#[path = "store_redis/faults.rs"]
mod faults;
#[path = "store_redis/losses.rs"]
mod losses;
#[path = "store_contract/terminal.rs"]
mod terminal;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use muster_hub::store::redis::RedisTerminalLog;
use muster_hub::store::{LogPage, Store, TerminalLog};
use muster_test_servers::Redis;
use registry_core::{Clock, Cursor};

use self::bed::Bed;
use self::terminal::node;

terminal::terminal_contract!(super::Server::new);

/// The namespace of a hub's keys.
const HUB: &str = "hub-1";

/// Longer than anything takes that is waited for.
const DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// A server of one test.
struct Server(Redis);

impl Server {
    fn new() -> Self {
        Self(Redis::start())
    }
}

#[async_trait]
impl Bed for Server {
    async fn store(&self) -> Arc<dyn Store> {
        unreachable!("Redis holds frames alone")
    }

    async fn log(&self, clock: Clock) -> Arc<dyn TerminalLog> {
        Arc::new(RedisTerminalLog::open(&self.0.url(), HUB, clock).await.unwrap())
    }
}

async fn open(redis: &Redis) -> RedisTerminalLog {
    open_at(&redis.url()).await
}

/// Opens the log, once the server answers: on a busy machine that may take a moment.
async fn open_at(url: &str) -> RedisTerminalLog {
    within("a server that answers", async {
        loop {
            match RedisTerminalLog::open(url, HUB, Clock::system()).await {
                Err(error) if error.is_transient() => tokio::time::sleep(PAUSE).await,
                opened => return opened.unwrap(),
            }
        }
    })
    .await
}

/// Everything of a node, once the server answers.
async fn all(log: &dyn TerminalLog, name: &str) -> LogPage {
    within("a page", async {
        loop {
            match log.read(&node(name), Cursor::START, usize::MAX).await {
                Err(error) if error.is_transient() => tokio::time::sleep(PAUSE).await,
                page => return page.unwrap(),
            }
        }
    })
    .await
}

fn seqs(page: &LogPage) -> Vec<(u64, u64)> {
    page.frames.iter().map(|(boot, frame)| (boot.0, frame.seq)).collect()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("waited too long for: {what}"))
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
}

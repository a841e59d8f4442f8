//! The hub is killed with SIGKILL, again and again, at any moment.

use std::time::Duration;

use muster_tests::{long_forms, random_below};
use tokio::task::block_in_place;

use crate::pass;
use crate::stage::{Acks, Backend, Stage, Unaffected};

/// Up to this long a hub lives before it is killed, in milliseconds: some are killed while they start to serve.
const LIFE_MS: u64 = 900;
/// Every so many kills the agents are waited for: after many short sessions they come back later and later, and a hub that
/// is killed without them has less to lose.
const WAIT_EACH: u32 = 10;

async fn kill_the_hub(backend: Backend, rounds: u32) {
    let mut stage = Stage::start(&format!("hub killed {rounds} times"), backend).await;
    stage.begin();
    for round in 0..rounds {
        // Before a kill, never after the last one: how long they take to come back then is what recovery tells.
        if round % WAIT_EACH == 0 {
            stage.agents_online().await;
        }
        pass(Duration::from_millis(random_below(LIFE_MS))).await;
        block_in_place(|| {
            stage.hub.kill9();
            stage.hub.restart();
        });
    }
    stage.end().await;
    stage.judge(Unaffected::Nobody, Acks::Stand).await;
}

fn rounds(short: u32) -> u32 {
    if long_forms() { 100 } else { short }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hub_on_sqlite_that_is_killed_again_and_again_keeps_its_promises() {
    kill_the_hub(Backend::Sqlite, rounds(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hub_on_postgresql_that_is_killed_again_and_again_keeps_its_promises() {
    kill_the_hub(Backend::Postgres, rounds(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hub_on_postgresql_and_redis_that_is_killed_again_and_again_keeps_its_promises() {
    kill_the_hub(Backend::PostgresRedis, rounds(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hub_on_sqlite_and_redis_that_is_killed_again_and_again_keeps_its_promises() {
    kill_the_hub(Backend::SqliteRedis, rounds(4)).await;
}

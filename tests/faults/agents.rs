//! Agents are killed, alone and together with the hub.

use std::time::Duration;

use muster_tests::{long_forms, random_below};
use tokio::task::block_in_place;

use crate::pass;
use crate::stage::{Acks, Backend, Stage, Unaffected};

fn rounds() -> u32 {
    if long_forms() { 20 } else { 3 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_that_is_killed_loses_its_commands_and_nothing_runs_twice() {
    let mut stage = Stage::start(&format!("agent killed {} times", rounds()), Backend::Sqlite).await;
    stage.begin();
    for _ in 0..rounds() {
        stage.agents_online().await;
        pass(Duration::from_millis(random_below(900))).await;
        block_in_place(|| {
            stage.agents[0].kill9();
            stage.agents[0].start();
        });
    }
    stage.end().await;
    stage.judge(Unaffected::HeartbeatsAndOutput, Acks::Stand).await;
}

async fn kill_both(backend: Backend) {
    let mut stage = Stage::start(&format!("hub and agent killed together {} times", rounds()), backend).await;
    stage.begin();
    for _ in 0..rounds() {
        stage.agents_online().await;
        pass(Duration::from_millis(random_below(900))).await;
        block_in_place(|| {
            stage.hub.kill9();
            stage.agents[0].kill9();
            stage.agents[0].start();
            stage.hub.restart();
        });
    }
    stage.end().await;
    stage.judge(Unaffected::Nobody, Acks::Stand).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hub_on_sqlite_and_an_agent_that_are_killed_together_keep_their_promises() {
    kill_both(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hub_on_postgresql_and_redis_and_an_agent_that_are_killed_together_keep_their_promises() {
    kill_both(Backend::PostgresRedis).await;
}

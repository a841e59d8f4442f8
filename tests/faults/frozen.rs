//! A database that stands still: connections stay, nothing answers.

use crate::span;
use crate::stage::{Backend, Stage, Unaffected};

async fn freeze_postgresql(backend: Backend) {
    let mut stage = Stage::start("database frozen", backend).await;
    stage.begin();
    stage.postgres.as_ref().unwrap().freeze();
    stage.last(span(5, 30)).await;
    stage.postgres.as_ref().unwrap().thaw();
    stage.end().await;
    stage.judge(Unaffected::HeartbeatsAndOutput, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_frozen_postgresql_holds_up_what_needs_it_and_nothing_else() {
    freeze_postgresql(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_frozen_postgresql_beside_redis_holds_up_what_needs_it_and_nothing_else() {
    freeze_postgresql(Backend::PostgresRedis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_frozen_redis_holds_up_acks_and_nothing_else() {
    let mut stage = Stage::start("terminal log frozen", Backend::SqliteRedis).await;
    stage.begin();
    stage.redis.as_ref().unwrap().freeze();
    stage.last(span(5, 30)).await;
    stage.redis.as_ref().unwrap().thaw();
    stage.end().await;
    stage.judge(Unaffected::HeartbeatsAndOutput, false).await;
}

//! A database that stands still: connections stay, nothing answers.

use crate::stage::{Acks, Backend, Stage, Unaffected};
use crate::{HELD_UP, span};

/// Returns the share of frames that were acked while it was frozen.
async fn freeze_postgresql(backend: Backend) -> f64 {
    let mut stage = Stage::start("database frozen", backend).await;
    stage.begin();
    stage.postgres.as_ref().unwrap().freeze();
    stage.last(span(5, 30)).await;
    stage.postgres.as_ref().unwrap().thaw();
    stage.end().await;
    let share = stage.acked_share();
    stage.judge(Unaffected::HeartbeatsAndOutput, Acks::Stand).await;
    share
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_frozen_postgresql_holds_up_what_needs_it_and_nothing_else() {
    let share = freeze_postgresql(Backend::Postgres).await;
    assert!(share < HELD_UP, "the log was not held up: {share}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_frozen_postgresql_beside_redis_holds_up_what_needs_it_and_nothing_else() {
    let share = freeze_postgresql(Backend::PostgresRedis).await;
    assert!(share > 1.0 - HELD_UP, "a log in Redis waits for PostgreSQL: {share}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_frozen_redis_holds_up_acks_and_nothing_else() {
    let mut stage = Stage::start("terminal log frozen", Backend::SqliteRedis).await;
    stage.begin();
    stage.redis.as_ref().unwrap().freeze();
    stage.last(span(5, 30)).await;
    stage.redis.as_ref().unwrap().thaw();
    stage.end().await;
    assert!(stage.acked_share() < HELD_UP, "the log was not held up: {}", stage.acked_share());
    stage.judge(Unaffected::HeartbeatsAndOutput, Acks::Stand).await;
}

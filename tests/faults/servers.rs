//! Database servers that are killed and come back, with what they had or with nothing.

use tokio::task::block_in_place;

use crate::span;
use crate::stage::{Acks, Backend, Stage, Unaffected};

async fn kill_postgresql(backend: Backend) {
    let mut stage = Stage::start("database killed", backend).await;
    stage.begin();
    block_in_place(|| stage.postgres.as_ref().unwrap().kill());
    stage.last(span(4, 15)).await;
    block_in_place(|| stage.postgres.as_ref().unwrap().start_again());
    stage.end().await;
    stage.judge(Unaffected::HeartbeatsAndOutput, Acks::Stand).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_postgresql_that_is_killed_and_started_again_has_all_that_was_promised() {
    kill_postgresql(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_postgresql_beside_redis_that_is_killed_and_started_again_has_all_that_was_promised() {
    kill_postgresql(Backend::PostgresRedis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_redis_that_is_killed_and_started_again_from_its_file_has_all_that_was_promised() {
    let mut stage = Stage::start("terminal log killed", Backend::SqliteRedis).await;
    stage.begin();
    block_in_place(|| stage.redis.as_mut().unwrap().kill());
    stage.last(span(4, 15)).await;
    block_in_place(|| stage.redis.as_mut().unwrap().start_again());
    stage.end().await;
    stage.judge(Unaffected::HeartbeatsAndOutput, Acks::MayBeRefilled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_redis_that_comes_back_empty_is_filled_again_and_what_is_gone_is_told() {
    let mut stage = Stage::start("terminal log emptied", Backend::SqliteRedis).await;
    // Longer than agents have to keep what was acked, so that something is gone for good.
    stage.last(span(4, 20)).await;
    stage.begin();
    block_in_place(|| {
        let redis = stage.redis.as_mut().unwrap();
        redis.kill();
        redis.wipe();
    });
    stage.last(span(1, 5)).await;
    block_in_place(|| stage.redis.as_mut().unwrap().start_again());
    stage.end().await;
    let verdict = stage.judge(Unaffected::HeartbeatsAndOutput, Acks::MayBeTold).await;
    assert!(verdict.told_frames > 0, "nothing was gone, so nothing was tested: {}", verdict.line());
}

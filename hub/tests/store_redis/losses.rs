//! What a store does not have any more is told, in full, and is never a silent hole.

use std::sync::Arc;

use muster_hub::store::redis::RedisTerminalLog;
use muster_hub::store::{Loss, StoreError, StoreResult, TerminalLog};
use muster_test_servers::Redis;
use registry_core::{Boot, Clock, Cursor, Frame, FrameKind, GapReason};

use super::terminal::{node, output, run};
use super::{HUB, all, open, seqs, within};

fn loss(name: &str, boot: u64, last_seq: u64, had_seq: u64) -> Loss {
    Loss { node: node(name), boot: Boot(boot), last_seq, had_seq }
}

fn lost_gap(seq: u64, last_seq: u64) -> Arc<Frame> {
    let kind = FrameKind::Gap { last_seq: Some(last_seq), reason: GapReason::LogLost };
    Arc::new(Frame { seq, at_unix_ms: 0, task: None, kind })
}

fn closed(seq: u64) -> Arc<Frame> {
    Arc::new(Frame { seq, at_unix_ms: 0, task: None, kind: FrameKind::Closed })
}

/// Appends until the server is there; what it says then.
pub(super) async fn append(
    log: &RedisTerminalLog,
    name: &str,
    boot: u64,
    frames: Vec<Arc<Frame>>,
) -> StoreResult<()> {
    within("an answer of the server", async {
        loop {
            match log.append(run(name, boot, frames.clone())).await {
                Err(error) if error.is_transient() => {}
                outcome => return outcome,
            }
        }
    })
    .await
}

fn state_key(name: &str) -> String {
    format!("muster:{{{HUB}}}:node:{name}")
}

fn stream_key(name: &str) -> String {
    format!("muster:{{{HUB}}}:log:{name}")
}

fn outputs(seqs: std::ops::RangeInclusive<u64>) -> Vec<Arc<Frame>> {
    seqs.map(|seq| output(seq, 2000)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_store_is_seen_without_a_write() {
    let redis = Redis::start();
    let log = open(&redis).await;
    append(&log, "n", 1, [outputs(1..=50), vec![closed(51)]].concat()).await.unwrap();
    append(&log, "n", 2, outputs(1..=50)).await.unwrap();
    append(&log, "m", 7, outputs(1..=3)).await.unwrap();
    redis.cli(&["FLUSHALL"]);
    let told = within("the loss", log.lost()).await;
    assert_eq!(told, [loss("m", 7, 0, 3), loss("n", 1, 0, 51), loss("n", 2, 0, 50)]);
    assert!(log.heads().await.unwrap().is_empty());
    assert_eq!(log.total_bytes(), 0);
    let page = all(&log, "n").await;
    assert!(page.frames.is_empty() && page.oldest.is_none() && page.at_head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_store_refuses_what_would_leave_a_hole_and_takes_a_gap() {
    let redis = Redis::start();
    let log = open(&redis).await;
    append(&log, "n", 1, outputs(1..=50)).await.unwrap();
    redis.cli(&["FLUSHALL"]);
    let outcome = append(&log, "n", 1, outputs(51..=52)).await;
    assert!(matches!(outcome, Err(StoreError::Behind { last_seq: 0 })), "{outcome:?}");
    assert_eq!(within("the loss", log.lost()).await, [loss("n", 1, 0, 50)]);
    append(&log, "n", 1, [vec![lost_gap(1, 40)], outputs(41..=52)].concat()).await.unwrap();
    assert_eq!(seqs(&all(&log, "n").await)[..2], [(1, 1), (1, 41)]);
    let none = futures_util::FutureExt::now_or_never(log.lost());
    assert_eq!(none, None, "a loss is told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_frame_of_a_new_boot_does_not_hide_that_the_one_before_is_gone() {
    let redis = Redis::start();
    let log = open(&redis).await;
    append(&log, "n", 1, outputs(1..=50)).await.unwrap();
    redis.cli(&["FLUSHALL"]);
    append(&log, "n", 2, outputs(1..=2)).await.unwrap();
    assert_eq!(within("the loss", log.lost()).await, [loss("n", 1, 0, 50)]);
    // It is stated afterwards, and stands where it belongs.
    let kind = FrameKind::Gap { last_seq: None, reason: GapReason::LogLost };
    let gap = Arc::new(Frame { seq: 1, at_unix_ms: 0, task: None, kind });
    append(&log, "n", 1, vec![gap]).await.unwrap();
    assert_eq!(seqs(&all(&log, "n").await), [(1, 1), (2, 1), (2, 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_persists_nothing_comes_back_empty_and_that_is_seen() {
    let mut redis = Redis::start_with(&["--appendonly", "no"]);
    let log = open(&redis).await;
    append(&log, "n", 1, outputs(1..=50)).await.unwrap();
    redis.kill();
    redis.start_again();
    assert_eq!(within("the loss", log.lost()).await, [loss("n", 1, 0, 50)]);
    let outcome = append(&log, "n", 1, outputs(51..=51)).await;
    assert!(matches!(outcome, Err(StoreError::Behind { last_seq: 0 })), "{outcome:?}");
    append(&log, "n", 1, outputs(1..=51)).await.unwrap();
    assert_eq!(all(&log, "n").await.frames.len(), 51);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_put_back_to_an_older_copy_says_how_far_it_goes() {
    let mut redis = Redis::start_with(&["--appendonly", "no"]);
    let log = open(&redis).await;
    append(&log, "n", 1, outputs(1..=50)).await.unwrap();
    redis.cli(&["SAVE"]);
    append(&log, "n", 1, outputs(51..=80)).await.unwrap();
    append(&log, "n", 2, outputs(1..=5)).await.unwrap();
    append(&log, "m", 1, outputs(1..=5)).await.unwrap();
    redis.kill();
    redis.start_again();
    let told = within("the loss", log.lost()).await;
    assert_eq!(told, [loss("m", 1, 0, 5), loss("n", 1, 50, 80), loss("n", 2, 0, 5)]);
    let outcome = append(&log, "n", 1, outputs(81..=81)).await;
    assert!(matches!(outcome, Err(StoreError::Behind { last_seq: 50 })), "{outcome:?}");
    append(&log, "n", 1, outputs(51..=81)).await.unwrap();
    assert_eq!(all(&log, "n").await.frames.len(), 81);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_stream_is_lost_and_that_of_others_is_not() {
    let redis = Redis::start();
    let log = open(&redis).await;
    for name in ["gone", "kept"] {
        append(&log, name, 1, [outputs(1..=30), vec![closed(31)]].concat()).await.unwrap();
        append(&log, name, 2, outputs(1..=5)).await.unwrap();
    }
    redis.cli(&["DEL", &stream_key("gone")]);
    let page = all(&log, "gone").await;
    assert!(page.frames.is_empty() && page.oldest.is_none(), "{:?}", page.oldest);
    let told = within("the loss", log.lost()).await;
    assert_eq!(told, [loss("gone", 1, 0, 31), loss("gone", 2, 0, 5)]);
    let outcome = append(&log, "gone", 2, outputs(6..=6)).await;
    assert!(matches!(outcome, Err(StoreError::Behind { last_seq: 0 })), "{outcome:?}");
    append(&log, "gone", 2, outputs(1..=6)).await.unwrap();
    append(&log, "kept", 2, outputs(6..=6)).await.unwrap();
    assert_eq!(all(&log, "kept").await.frames.len(), 37);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_alone_is_enough_when_its_state_was_evicted() {
    let redis = Redis::start();
    let log = open(&redis).await;
    append(&log, "n", 1, outputs(1..=50)).await.unwrap();
    redis.cli(&["DEL", &state_key("n")]);
    append(&log, "n", 1, outputs(51..=51)).await.unwrap();
    assert_eq!(all(&log, "n").await.frames.len(), 51);
    log.close().await;
    let log = open(&redis).await;
    assert_eq!(all(&log, "n").await.frames.len(), 51);
    assert_eq!(log.heads().await.unwrap()[0].last_seq, 51);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_takes_out_of_the_middle_or_the_end_is_a_gap() {
    let redis = Redis::start();
    let log = open(&redis).await;
    for seq in 1..=9 {
        append(&log, "n", 1, outputs(seq..=seq)).await.unwrap();
    }
    redis.cli(&["XDEL", &stream_key("n"), "1-4", "1-5"]);
    let page = all(&log, "n").await;
    let gap = (Boot(1), lost_gap(4, 5));
    assert_eq!(seqs(&page), [1, 2, 3, 4, 6, 7, 8, 9].map(|seq| (1, seq)));
    assert_eq!(page.frames[3], gap);
    let behind = log.read(&node("n"), Cursor::new(Boot(1), 3), usize::MAX).await.unwrap();
    assert_eq!(behind.oldest, Some(Cursor::new(Boot(1), 5)), "nothing is kept from there to here");
    append(&log, "n", 1, outputs(10..=10)).await.unwrap();
    redis.cli(&["XDEL", &stream_key("n"), "1-9", "1-10"]);
    assert_eq!(within("the loss", log.lost()).await, [loss("n", 1, 8, 10)]);
    for seq in 9..=11 {
        append(&log, "n", 1, outputs(seq..=seq)).await.unwrap();
    }
    let kept = all(&log, "n").await.frames;
    assert_eq!(kept.len(), 10);
    let weight: u64 =
        kept.iter().filter(|frame| **frame != gap).map(|(_, frame)| frame.weight() as u64).sum();
    assert_eq!(log.total_bytes(), weight);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_somebody_wrote_over_are_lost_and_keep_nobody_else_from_writing() {
    let redis = Redis::start();
    let log = open(&redis).await;
    for name in ["hash", "stream", "both", "fine"] {
        append(&log, name, 1, outputs(1..=5)).await.unwrap();
    }
    redis.cli(&["HSET", &state_key("hash"), "version", "none"]);
    redis.cli(&["SET", &stream_key("stream"), "text"]);
    redis.cli(&["SET", &state_key("both"), "text"]);
    redis.cli(&["SET", &stream_key("both"), "text"]);
    let mut told = Vec::new();
    while told.len() < 3 {
        told.extend(within("the losses", log.lost()).await);
        append(&log, "fine", 1, outputs(1..=5)).await.unwrap();
    }
    told.sort_by(|one, other| one.node.cmp(&other.node));
    assert_eq!(told, ["both", "hash", "stream"].map(|name| loss(name, 1, 0, 5)));
    for name in ["hash", "stream", "both", "fine"] {
        append(&log, name, 1, outputs(1..=6)).await.unwrap();
        assert_eq!(all(&log, name).await.frames.len(), 6);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_evicts_by_itself_is_told() {
    let redis = Redis::start_with(&["--maxmemory", "6mb", "--maxmemory-policy", "allkeys-lru"]);
    let log = open(&redis).await;
    let (mut written, mut told) = (std::collections::BTreeMap::new(), Vec::new());
    'filling: for round in 0..60 {
        for name in ["a", "b", "c", "d"] {
            let frames = (round * 4 + 1..=round * 4 + 4).map(|seq| output(seq, 16_000)).collect();
            match append(&log, name, 1, frames).await {
                Ok(()) => _ = written.insert(name, round * 4 + 4),
                Err(StoreError::Behind { .. }) => break 'filling,
                Err(error) => panic!("{error}"),
            }
        }
    }
    told.extend(within("the loss", log.lost()).await);
    for loss in told {
        let had = written.get(loss.node.as_str()).copied().unwrap_or_default();
        assert!(loss.last_seq < loss.had_seq && loss.had_seq <= had, "{loss:?} of {had}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_opens_what_is_left_begins_with_that() {
    let redis = Redis::start();
    let log = open(&redis).await;
    append(&log, "n", 1, [outputs(1..=3), vec![closed(4)]].concat()).await.unwrap();
    append(&log, "n", 2, outputs(1..=5)).await.unwrap();
    log.close().await;
    redis.cli(&["DEL", &stream_key("n")]);
    let log = RedisTerminalLog::open(&redis.url(), HUB, Clock::system()).await.unwrap();
    let heads: Vec<_> =
        log.heads().await.unwrap().iter().map(|head| (head.boot.0, head.last_seq, head.closed)).collect();
    assert_eq!(heads, [(1, 0, false), (2, 0, false)]);
    assert_eq!(log.total_bytes(), 0);
    append(&log, "n", 2, outputs(1..=5)).await.unwrap();
}

//! What happens to a log while its server hangs, dies, is full, or belongs to somebody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use muster_hub::store::{Retention, StoreError, TerminalLog};
use muster_test_servers::Redis;
use registry_core::Cursor;

use super::losses::append;
use super::terminal::{node, output, run};
use super::{all, open, seqs, until, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_out_of_reach_and_nothing_is_there_twice() {
    let redis = Redis::start();
    let log = Arc::new(open(&redis).await);
    append(&log, "n", 1, vec![output(1, 10)]).await.unwrap();
    assert_eq!(log.held_up_since_ms(), None);
    redis.freeze();
    let appended = within("a time limit", log.append(run("n", 1, vec![output(2, 10)]))).await;
    assert!(appended.as_ref().is_err_and(StoreError::is_transient), "{appended:?}");
    until("it says since when", || log.held_up_since_ms().is_some()).await;
    let read = within("a time limit", log.read(&node("n"), Cursor::START, 1000)).await;
    assert!(read.as_ref().is_err_and(StoreError::is_transient), "{read:?}");
    redis.thaw();
    // What was sent while it hung may be done now, or not: sent again, it is there once.
    append(&log, "n", 1, vec![output(2, 10), output(3, 10)]).await.unwrap();
    until("it works again", || log.held_up_since_ms().is_none()).await;
    assert_eq!(seqs(&all(&*log, "n").await), [(1, 1), (1, 2), (1, 3)]);
    assert!(log.lost().now_or_never().is_none(), "nothing was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_lost_leave_every_frame_once() {
    let redis = Redis::start();
    let log = Arc::new(open(&redis).await);
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let (log, done) = (Arc::clone(&log), Arc::clone(&done));
            tokio::spawn(async move {
                let mut next = 1;
                while !done.load(Ordering::Relaxed) {
                    let frames = (next..next + 3).map(|seq| output(seq, 3000)).collect();
                    append(&log, &format!("n{n}"), 1, frames).await.unwrap();
                    next += 3;
                }
                next - 1
            })
        })
        .collect();
    for round in 0..40 {
        redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        if round % 5 == 0 {
            redis.cli(&["SCRIPT", "FLUSH"]);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    done.store(true, Ordering::Relaxed);
    let acked: Vec<u64> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
    let mut bytes = 0;
    for (n, last) in acked.into_iter().enumerate() {
        let page = all(&*log, &format!("n{n}")).await;
        assert!(seqs(&page).into_iter().eq((1..=last).map(|seq| (1, seq))), "n{n} up to {last}");
        bytes += page.frames.iter().map(|(_, frame)| frame.weight() as u64).sum::<u64>();
    }
    assert_eq!(log.total_bytes(), bytes);
    assert!(log.lost().now_or_never().is_none(), "nothing was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acked_frame_is_lost_to_kills_of_a_server_that_syncs() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let log = Arc::new(open(&redis).await);
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|n| {
            let (log, done) = (Arc::clone(&log), Arc::clone(&done));
            tokio::spawn(async move {
                let mut next = 1;
                while !done.load(Ordering::Relaxed) {
                    append(&log, &format!("n{n}"), 1, vec![output(next, 5000)]).await.unwrap();
                    next += 1;
                }
                next - 1
            })
        })
        .collect();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        redis.kill();
        redis.start_again();
    }
    done.store(true, Ordering::Relaxed);
    for (n, last) in join_all(writers).await.into_iter().enumerate() {
        let last = last.unwrap();
        append(&log, &format!("n{n}"), 1, vec![output(last + 1, 10)]).await.unwrap();
        let page = all(&*log, &format!("n{n}")).await;
        assert!(seqs(&page).into_iter().eq((1..=last + 1).map(|seq| (1, seq))), "n{n} up to {last}");
    }
    assert!(log.lost().now_or_never().is_none(), "nothing was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_is_waited_for_and_trimming_makes_room() {
    let redis = Redis::start_with(&["--maxmemory", "5mb", "--maxmemory-policy", "noeviction"]);
    let log = open(&redis).await;
    let mut next = 1;
    let error = loop {
        match log.append(run("n", 1, vec![output(next, 60_000)])).await {
            Ok(()) => next += 1,
            Err(error) => break error,
        }
        assert!(next < 1000, "it never fills");
    };
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("OOM"), "{error}");
    until("it says since when", || log.held_up_since_ms().is_some()).await;
    assert_eq!(log.heads().await.unwrap()[0].last_seq, next - 1);
    let half = Retention {
        node_bytes: log.total_bytes() / 2,
        node_frames: u64::MAX,
        age_ms: u64::MAX,
        total_bytes: u64::MAX,
    };
    while log.trim(half, 0).await.unwrap() {}
    append(&log, "n", 1, vec![output(next, 60_000)]).await.unwrap();
    let page = all(&log, "n").await;
    assert_eq!(page.frames.last().unwrap().1.seq, next);
    assert!(log.lost().now_or_never().is_none(), "what is trimmed is not lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_was_succeeded_writes_nothing() {
    let redis = Redis::start();
    let first = open(&redis).await;
    append(&first, "n", 1, vec![output(1, 10)]).await.unwrap();
    let second = open(&redis).await;
    // Before its successor has written anything, too.
    for _ in 0..2 {
        let refused = first.append(run("n", 1, vec![output(2, 20)])).await;
        assert!(matches!(refused, Err(StoreError::Superseded)), "{refused:?}");
    }
    append(&second, "n", 1, vec![output(2, 10)]).await.unwrap();
    assert!(first.erase(&node("n")).await.is_err());
    let everything = Retention { node_bytes: 0, node_frames: 0, age_ms: 0, total_bytes: 0 };
    assert!(first.trim(everything, u64::MAX / 4).await.is_err());
    append(&second, "n", 1, vec![output(3, 10)]).await.unwrap();
    // Nor when the number that fenced it off is gone.
    redis.cli(&["FLUSHALL"]);
    within("the loss", second.lost()).await;
    assert!(first.append(run("n", 1, vec![output(1, 20)])).await.is_err());
    assert!(all(&second, "n").await.frames.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_closes_while_its_server_is_gone() {
    let mut redis = Redis::start();
    let log = Arc::new(open(&redis).await);
    append(&log, "n", 1, vec![output(1, 10)]).await.unwrap();
    redis.kill();
    let waiting = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.append(run("n", 1, vec![output(2, 10)])).await }
    });
    within("the end", log.close()).await;
    assert!(waiting.await.unwrap().is_err());
    assert!(matches!(log.append(run("n", 1, vec![output(2, 10)])).await, Err(StoreError::Closed)));
}

//! Servers that are killed, frozen and cut off: what was acked is there, nothing is there twice, and waiting has an end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use muster_hub::store::postgres::{PostgresStore, PostgresTerminalLog};
use muster_hub::store::{Retention, Store, StoreError, TaskRow, TaskSpec, TaskStep, TerminalLog, TokenRow};
use muster_test_servers::Postgres;
use registry_core::{Boot, Clock, Cursor, TaskEnd, TaskId, TaskOutcome, TaskState, UserId};

use super::terminal::{node, output, run};
use super::{Database, line, until};

const KEEP_ALL: Retention =
    Retention { node_bytes: u64::MAX, node_frames: u64::MAX, age_ms: u64::MAX, total_bytes: u64::MAX };

/// Appends frame after frame of a node, each again until it is acked, up to this one.
async fn append_up_to(log: Arc<PostgresTerminalLog>, name: String, last: u64) {
    for seq in 1..=last {
        while let Err(error) = log.append(run(&name, 1, vec![output(seq, 2000)])).await {
            assert!(error.is_transient(), "{name} {seq}: {error}");
        }
    }
}

/// All of a node's frames are there once, in order.
async fn check_whole(log: &PostgresTerminalLog, name: &str, last: u64) {
    let page = log.read(&node(name), Cursor::START, usize::MAX).await.unwrap();
    assert!(page.frames.iter().map(|(_, frame)| frame.seq).eq(1..=last), "{name}");
    assert!(page.frames.iter().all(|(_, frame)| *frame == output(frame.seq, 2000)), "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_back_has_lost_nothing() {
    const LAST: u64 = 150;
    let server = Postgres::start();
    let url = server.database();
    let log = Arc::new(PostgresTerminalLog::open(&url, Clock::system()).await.unwrap());
    let store = Arc::new(PostgresStore::open(&url, Clock::system()).await.unwrap());
    let writers: Vec<_> =
        (0..4).map(|n| tokio::spawn(append_up_to(Arc::clone(&log), format!("n{n}"), LAST))).collect();
    let lines = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for n in 0..200 {
                store.audit(line(&n.to_string())).await.unwrap();
            }
        }
    });
    for kills in 1..=3 {
        until("some frames are there", || log.total_bytes() > kills * 80_000).await;
        server.kill();
        server.start_again();
    }
    for writer in writers {
        writer.await.unwrap();
    }
    lines.await.unwrap();
    for n in 0..4 {
        check_whole(&log, &format!("n{n}"), LAST).await;
    }
    let kept: u64 = server.sql("test_0", "SELECT sum(weight) FROM muster.chunks").parse().unwrap();
    assert_eq!(log.total_bytes(), kept);
    let once = "SELECT count(*), count(DISTINCT action) FROM muster.audit";
    assert_eq!(server.sql("test_0", once), "200|200", "each line once, over all kills");
    assert_eq!((log.held_up_since_ms(), store.held_up_since_ms()), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_holds_nobody_for_ever() {
    let server = Postgres::start();
    let url = server.database();
    let log = Arc::new(PostgresTerminalLog::open(&url, Clock::system()).await.unwrap());
    let store = PostgresStore::open(&url, Clock::system()).await.unwrap();
    log.append(run("n", 1, vec![output(1, 2000)])).await.unwrap();
    // On a connection that is there, so that it is the answer that does not come.
    store.audit(line("before")).await.unwrap();
    server.freeze();
    let writer = tokio::spawn(append_up_to(Arc::clone(&log), "n".into(), 5));
    let (saved, nodes) = tokio::join!(store.audit(line("while it stands still")), store.nodes_for(12));
    assert!(matches!(saved, Err(StoreError::Unavailable(_))), "{saved:?}");
    assert!(nodes.is_none(), "a long read is given longer");
    assert!(log.held_up_since_ms().is_some() && store.held_up_since_ms().is_some());
    assert!(!writer.is_finished());
    server.thaw();
    writer.await.unwrap();
    check_whole(&log, "n", 5).await;
    store.audit(line("afterwards")).await.unwrap();
    assert_eq!((log.held_up_since_ms(), store.held_up_since_ms()), (None, None));
    let said = "SELECT string_agg(action, ',' ORDER BY id) FROM muster.audit";
    assert_eq!(server.sql("test_0", said), "before,afterwards", "what was given up on is not done later");
}

/// A read with an end.
trait NodesFor {
    async fn nodes_for(&self, seconds: u64) -> Option<usize>;
}

impl NodesFor for PostgresStore {
    async fn nodes_for(&self, seconds: u64) -> Option<usize> {
        let read = tokio::time::timeout(Duration::from_secs(seconds), self.nodes()).await;
        read.ok().map(|nodes| nodes.unwrap().len())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_were_ended_are_replaced() {
    let database = Database::new();
    let (store, log) = (database.open().await, database.open_log().await);
    for round in 0..5 {
        join_all((0..8).map(|n| store.audit(line(&format!("{round}-{n}"))))).await;
        log.append(run("n", 1, vec![output(round + 1, 10)])).await.unwrap();
        database.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
    }
    store.audit(line("last")).await.unwrap();
    assert_eq!(database.sql("SELECT count(*), count(DISTINCT action) FROM muster.audit"), "41|41");
    assert_eq!(log.read(&node("n"), Cursor::START, 1000).await.unwrap().frames.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_takes_the_transaction_along() {
    let database = Database::new();
    let store = database.open().await;
    store.audit(line("before")).await.unwrap();
    let locked = tokio::task::spawn_blocking({
        let database = Database { url: database.url.clone() };
        move || database.sql("BEGIN; LOCK muster.audit IN SHARE MODE; SELECT pg_sleep(0.9); COMMIT")
    });
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'muster.audit'::regclass AND NOT granted";
    let asked = async {
        let held =
            "SELECT count(*) FROM pg_locks WHERE relation = 'muster.audit'::regclass AND mode = 'ShareLock'";
        until("the table is locked", || database.sql(held) == "1").await;
        store.audit(line("left")).await
    };
    tokio::select! {
        _ = asked => panic!("the table was not locked"),
        () = until("it waits", || database.sql(waits) == "1") => {}
    }
    // Nobody knows whether what was left is done; but nothing else may become a part of it.
    locked.await.unwrap();
    for n in 0..4 {
        store.audit(line(&n.to_string())).await.unwrap();
    }
    let said = "SELECT string_agg(action, ',' ORDER BY id) FROM muster.audit";
    assert_eq!(database.sql(said), "before,0,1,2,3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_table_makes_writers_wait_and_readers_not() {
    let database = Database::new();
    let log = Arc::new(database.open_log().await);
    log.append(run("n", 1, vec![output(1, 10)])).await.unwrap();
    let locked = tokio::task::spawn_blocking({
        let database = Database { url: database.url.clone() };
        move || database.sql("BEGIN; LOCK muster.chunks IN SHARE MODE; SELECT pg_sleep(6); COMMIT")
    });
    let held =
        "SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND relation = 'muster.chunks'::regclass";
    until("the table is locked", || database.sql(held) == "1").await;
    let waiting = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.append(run("n", 1, vec![output(2, 10)])).await }
    });
    until("the log says that it is held up", || log.held_up_since_ms().is_some()).await;
    assert_eq!(log.read(&node("n"), Cursor::START, 1000).await.unwrap().frames.len(), 1);
    assert!(!waiting.is_finished());
    // Longer than a lock is waited for in one attempt: the second one gets it.
    waiting.await.unwrap().unwrap();
    locked.await.unwrap();
    assert_eq!(log.read(&node("n"), Cursor::START, 1000).await.unwrap().frames.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_do_not_wait_behind_readers() {
    let database = Database::new();
    let store = Arc::new(database.open().await);
    let locked = tokio::task::spawn_blocking({
        let database = Database { url: database.url.clone() };
        move || database.sql("BEGIN; LOCK muster.nodes IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(3); COMMIT")
    });
    let held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'
        AND relation = 'muster.nodes'::regclass AND granted";
    until("the table is locked", || database.sql(held) == "1").await;
    let readers: Vec<_> = (0..30)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.nodes().await.map(|nodes| nodes.len()) })
        })
        .collect();
    until("reading uses all that it may", || {
        database
            .sql("SELECT count(*) FROM pg_locks WHERE relation = 'muster.nodes'::regclass AND NOT granted")
            == "6"
    })
    .await;
    for n in 0..20 {
        store.audit(line(&n.to_string())).await.unwrap();
    }
    assert!(!locked.is_finished(), "all of it was written while nobody could read");
    locked.await.unwrap();
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_beside_a_trim_is_told_of_every_hole() {
    let database = Database::new();
    let log = Arc::new(database.open_log().await);
    // A row a boot: a page takes a statement for each, and trimming goes on in between.
    for boot in 1..=300 {
        log.append(run("n", boot, vec![output(1, 10)])).await.unwrap();
    }
    let trimmer = tokio::spawn({
        let log = Arc::clone(&log);
        async move {
            for left in (0..300).rev() {
                let share = Retention { node_frames: left, ..KEEP_ALL };
                log.trim(share, 0).await.unwrap();
            }
        }
    });
    let mut moved = 0;
    while !trimmer.is_finished() {
        let page = log.read(&node("n"), Cursor::START, usize::MAX).await.unwrap();
        let seen: Vec<_> = page.frames.iter().map(|(boot, _)| boot.0).collect();
        let first = page.oldest.map_or(301, |oldest| oldest.boot.0);
        assert!(seen.iter().copied().eq(first..=300), "from {first}: {seen:?}");
        moved += u32::from(first > 1);
    }
    trimmer.await.unwrap();
    assert!(moved > 1, "nothing was trimmed while it was read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_put_back_says_how_far_it_goes() {
    let database = Database::new();
    let log = database.open_log().await;
    log.append(run("n", 1, vec![output(1, 10), output(2, 10)])).await.unwrap();
    log.append(run("n", 1, vec![output(3, 10)])).await.unwrap();
    database.sql("DELETE FROM muster.chunks WHERE first_seq = 3; UPDATE muster.boots SET last_seq = 2");
    let behind = log.append(run("n", 1, vec![output(4, 10)])).await;
    assert!(matches!(behind, Err(StoreError::Behind { last_seq: 2 })), "{behind:?}");
    log.append(run("n", 1, vec![output(3, 10), output(4, 10)])).await.unwrap();
}

/// A node with tasks that are queued.
async fn with_tasks(store: &PostgresStore, count: u8) -> Vec<TaskId> {
    let token = TokenRow {
        id: "t".into(),
        secret_hash: [3; 32],
        user: UserId::new("ada").unwrap(),
        created_at_unix_ms: 1,
        expires_at_unix_ms: 9,
        uses: 1,
        used: 0,
        created_by: "tests".into(),
    };
    store.create_token(token, line("token")).await.unwrap();
    let row = muster_hub::store::NodeRow {
        id: node("n"),
        user: UserId::new("ada").unwrap(),
        name: "n".into(),
        public_key: [1; 32],
        enrolled_at_unix_ms: 2,
        live: muster_hub::store::NodeLive { detail_json: "{}".into(), ..Default::default() },
    };
    store.enrol("t", [3; 32], row, line("enrol")).await.unwrap();
    let mut ids = Vec::new();
    for n in 1..=count {
        let id = TaskId::from_slice(&[n; 16]).unwrap();
        let task = TaskRow {
            id,
            node: node("n"),
            spec: TaskSpec { argv: vec!["true".into()], ..TaskSpec::default() },
            state: TaskState::Queued,
            end: None,
            created_by: "tests".into(),
            created_at_unix_ms: 3,
            expires_at_unix_ms: 9,
            dispatched_at_unix_ms: 0,
            started_at_unix_ms: 0,
            ended_at_unix_ms: 0,
            boot: Boot(0),
            read_from: None,
            first: None,
            last: None,
        };
        store.create_task(task, None, line("task")).await.unwrap();
        ids.push(id);
    }
    ids
}

fn ended(reason: &str) -> TaskStep {
    let end = TaskEnd::without_process(TaskOutcome::Lost, reason);
    TaskStep::Ended { end, last: None, at_unix_ms: 7 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_in_any_order_do_not_wait_for_each_other_for_ever() {
    let database = Database::new();
    let store = database.open().await;
    let ids = with_tasks(&store, 40).await;
    let batches = (0..16).map(|n| {
        let mut order = ids.clone();
        order.rotate_left(n * 5 % ids.len());
        if n % 2 == 0 {
            order.reverse();
        }
        store.step_tasks(order.into_iter().map(|id| (id, ended("x"))).collect())
    });
    let results = join_all(batches).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    let changed = results.iter().flatten().filter(|result| result.as_ref().is_some_and(|(_, c)| *c)).count();
    assert_eq!(changed, ids.len(), "each task ends once");
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(database.sql(deadlocks), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_that_postgresql_does_not_keep_stops_nothing() {
    let database = Database::new();
    let store = database.open().await;
    let ids = with_tasks(&store, 1).await;
    store.step_tasks(vec![(ids[0], ended("a\0b"))]).await.unwrap();
    let task = store.task(ids[0]).await.unwrap().unwrap();
    assert_eq!(task.end.unwrap().reason, "a\u{FFFD}b");
    store.audit(line("with \0 in it")).await.unwrap();
}

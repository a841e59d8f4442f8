//! One hub a database: a second does not start, and one that was succeeded cannot write.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use muster_hub::store::postgres::{PostgresStore, PostgresTerminalLog};
use muster_hub::store::{Store, StoreError, TerminalLog};
use registry_core::Clock;

use super::terminal::{output, run};
use super::{Database, line, until};

/// The sessions that hold a lock for as long as they last: a store's and a log's.
const HOLDERS: &str =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid IN (1, 2)
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_hub_is_told_who_has_the_database() {
    let database = Database::new();
    let (store, log) = (database.open().await, database.open_log().await);
    let id = store.hub_id().await.unwrap();
    let second = PostgresStore::open(&database.url, Clock::system()).await.err();
    let second_log = PostgresTerminalLog::open(&database.url, Clock::system()).await.err();
    for error in [second, second_log] {
        let Some(StoreError::InUse { holder }) = error else { panic!("{error:?}") };
        assert!(holder.contains(&id), "{holder}");
        assert!(holder.contains(&format!("process {},", std::process::id())), "{holder}");
    }
    store.audit(line("goes on")).await.unwrap();
    store.close().await;
    log.close().await;
    assert_eq!(database.open().await.hub_id().await.unwrap(), id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_whose_connection_broke_is_taken_again() {
    let database = Database::new();
    let (store, log) = (database.open().await, database.open_log().await);
    let broken =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(database.sql(broken), "2");
    store.audit(line("meanwhile")).await.unwrap();
    log.append(run("n", 1, vec![output(1, 10)])).await.unwrap();
    until("both locks are held again", || database.sql(HOLDERS) == "2").await;
    let second = PostgresStore::open(&database.url, Clock::system()).await.err();
    assert!(matches!(second, Some(StoreError::InUse { .. })), "{second:?}");
    store.audit(line("afterwards")).await.unwrap();
    log.append(run("n", 1, vec![output(2, 10)])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_was_succeeded_cannot_write() {
    let database = Database::new();
    let (first, first_log) = (database.open().await, database.open_log().await);
    first.audit(line("by the first")).await.unwrap();
    first_log.append(run("n", 1, vec![output(1, 10)])).await.unwrap();
    // The connections that hold the locks break, and before the first hub is back the second is there.
    let take = async {
        loop {
            let second = PostgresStore::open(&database.url, Clock::system()).await;
            if let Ok(second) = second {
                return second;
            }
        }
    };
    let take_log = async {
        loop {
            let second = PostgresTerminalLog::open(&database.url, Clock::system()).await;
            if let Ok(second) = second {
                return second;
            }
        }
    };
    let cut = async {
        for _ in 0..200 {
            database.sql(
                "SELECT pg_terminate_backend(pg_locks.pid) FROM pg_locks JOIN muster.parts ON epoch = 1
                     AND objid = CASE part WHEN 'records' THEN 1 ELSE 2 END
                 WHERE locktype = 'advisory' AND granted AND objid IN (1, 2)
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            );
            if database.sql("SELECT count(*) FROM muster.parts WHERE epoch = 2") == "2" {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("nobody took the database over");
    };
    let (second, second_log, ()) = tokio::join!(take, take_log, cut);

    let refused = first.audit(line("by the first, too late")).await;
    assert!(matches!(refused, Err(StoreError::Superseded)), "{refused:?}");
    let refused = first_log.append(run("n", 1, vec![output(2, 10)])).await;
    assert!(matches!(refused, Err(StoreError::Superseded)), "{refused:?}");
    second.audit(line("by the second")).await.unwrap();
    second_log.append(run("n", 1, vec![output(2, 10)])).await.unwrap();
    assert_eq!(
        database.sql("SELECT string_agg(action, ',') FROM muster.audit"),
        "by the first,by the second"
    );
    // Superseded is for good: the first does not take the lock again when it is free.
    second.close().await;
    let refused = first.audit(line("by the first, too late")).await;
    assert!(matches!(refused, Err(StoreError::Superseded)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taking_over_waits_for_a_transaction_that_is_under_way() {
    let database = Database::new();
    database.open().await.close().await;
    // A transaction of a hub that is gone: it has looked at the number and not committed.
    let url = database.url.clone();
    let begun = tokio::task::spawn_blocking({
        let database = Database { url };
        move || {
            database.sql(
                "BEGIN; SELECT pg_advisory_xact_lock_shared(1297437524, 3);
                 INSERT INTO muster.audit (at, principal, action, resource, detail) VALUES (1, 'p', 'early', 'r', '');
                 SELECT pg_sleep(0.9); COMMIT",
            )
        }
    });
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 3 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until("it has begun", || database.sql(held) == "1").await;
    let store = database.open().await;
    // What it wrote is seen by whoever took over: had it not been waited for, it would come after what is read first.
    store.nodes().await.unwrap();
    assert_eq!(database.sql("SELECT count(*) FROM muster.audit WHERE action = 'early'"), "1");
    begun.await.unwrap();
}

/// Where the child of [`a_hub_that_is_killed_leaves_the_database_at_once`] is told its database.
const CHILD_OPENS: &str = "MUSTER_TEST_DATABASE";

#[test]
#[ignore = "the part of another test that is killed"]
fn child_holds_the_database_until_it_is_killed() {
    let Ok(url) = std::env::var(CHILD_OPENS) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = PostgresStore::open(&url, Clock::system()).await.unwrap();
        store.audit(line("by the child")).await.unwrap();
        println!("holds it");
        std::future::pending::<()>().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_killed_leaves_the_database_at_once() {
    let database = Database::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "leases::child_holds_the_database_until_it_is_killed", "--ignored", "--nocapture"])
        .env(CHILD_OPENS, &database.url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("holds it")));
    let second = PostgresStore::open(&database.url, Clock::system()).await.err();
    assert!(matches!(second, Some(StoreError::InUse { .. })), "{second:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    database.open().await.audit(line("by its successor")).await.unwrap();
}

//! The SQLite back end, held to the contract of the stores and to what can happen to files.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "store_contract/bed.rs"]
mod bed;
#[path = "store_contract/records.rs"]
mod records;
#[path = "store_contract/terminal.rs"]
mod terminal;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use muster_hub::store::sqlite::{SqliteStore, SqliteTerminalLog};
use muster_hub::store::{AuditRow, Store, StoreError, TerminalLog};
use registry_core::{Clock, Cursor};

use self::bed::Bed;
use self::terminal::{node, output, run};

records::records_contract!(super::Folder::new);
terminal::terminal_contract!(super::Folder::new);

/// A folder with both files, gone with the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn records(&self) -> PathBuf {
        self.0.path().join("muster.db")
    }

    fn terminal(&self) -> PathBuf {
        self.0.path().join("terminal.db")
    }

    async fn open_log(&self) -> SqliteTerminalLog {
        let path = self.terminal();
        tokio::task::spawn_blocking(move || SqliteTerminalLog::open(&path, Clock::system()))
            .await
            .unwrap()
            .unwrap()
    }
}

#[async_trait]
impl Bed for Folder {
    async fn store(&self) -> Arc<dyn Store> {
        let path = self.records();
        let open = move || SqliteStore::open(&path, Clock::system());
        Arc::new(tokio::task::spawn_blocking(open).await.unwrap().unwrap())
    }

    async fn log(&self, clock: Clock) -> Arc<dyn TerminalLog> {
        let path = self.terminal();
        let open = move || SqliteTerminalLog::open(&path, clock);
        Arc::new(tokio::task::spawn_blocking(open).await.unwrap().unwrap())
    }
}

/// Another process's hand on the file: holds the lock for writing until it is dropped.
struct Lock(rusqlite::Connection);

impl Lock {
    fn take(path: &Path) -> Self {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(connection)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited 10 s for: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_log_makes_writers_wait_and_readers_not() {
    let folder = Folder::new();
    let log = Arc::new(folder.open_log().await);
    log.append(run("n", 1, vec![output(1, 10)])).await.unwrap();
    let lock = Lock::take(&folder.terminal());
    let waiting: Vec<_> = ["n", "m"]
        .map(|name| {
            let log = Arc::clone(&log);
            let seq = if name == "n" { 2 } else { 1 };
            tokio::spawn(async move { log.append(run(name, 1, vec![output(seq, 10)])).await })
        })
        .into();
    until("the writer says that it waits", || log.writer_stats().waiting_since_ms.is_some()).await;
    for _ in 0..10 {
        let page = log.read(&node("n"), Cursor::START, 1000).await.unwrap();
        assert_eq!(page.frames.len(), 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(waiting.iter().all(|append| !append.is_finished()));
    drop(lock);
    for append in waiting {
        append.await.unwrap().unwrap();
    }
    assert_eq!(log.writer_stats().waiting_since_ms, None);
    assert_eq!(log.writer_stats().failed_commits_total, 0);
    assert_eq!(log.read(&node("n"), Cursor::START, 1000).await.unwrap().frames.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_makes_callers_wait_and_loses_none() {
    const CALLERS: usize = 3000;
    let folder = Folder::new();
    let log = Arc::new(folder.open_log().await);
    let lock = Lock::take(&folder.terminal());
    let appends: Vec<_> = (0..CALLERS)
        .map(|n| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.append(run(&format!("n{n}"), 1, vec![output(1, 10)])).await })
        })
        .collect();
    let stats = || log.writer_stats();
    until("the queue is full", || stats().queued_jobs == stats().queue_capacity).await;
    drop(lock);
    for append in appends {
        append.await.unwrap().unwrap();
    }
    assert_eq!(log.heads().await.unwrap().len(), CALLERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_done_although_its_caller_left() {
    let folder = Folder::new();
    let store = folder.store().await;
    let lock = Lock::take(&folder.records());
    let line = AuditRow {
        at_unix_ms: 1,
        principal: "p".into(),
        action: "a".into(),
        resource: "r".into(),
        detail_json: "{}".into(),
    };
    let left = tokio::time::timeout(Duration::from_millis(50), store.audit(line)).await;
    assert!(left.is_err(), "it should still have been waiting");
    drop(lock);
    store.close().await;
    let connection = rusqlite::Connection::open(folder.records()).unwrap();
    let lines: u32 = connection.query_row("SELECT count(*) FROM audit", [], |row| row.get(0)).unwrap();
    assert_eq!(lines, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_file_is_refused() {
    let folder = Folder::new();
    folder.store().await.close().await;
    folder.log(Clock::system()).await.close().await;
    for path in [folder.records(), folder.terminal()] {
        rusqlite::Connection::open(path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    }
    let errors = tokio::task::spawn_blocking(move || {
        let store = SqliteStore::open(&folder.records(), Clock::system()).err();
        let log = SqliteTerminalLog::open(&folder.terminal(), Clock::system()).err();
        [store, log]
    });
    for error in errors.await.unwrap() {
        assert!(matches!(error, Some(StoreError::TooNew { found: 99, known: 1 })), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_puts_everything_into_the_one_file() {
    let folder = Folder::new();
    let log = folder.open_log().await;
    log.append(run("n", 1, vec![output(1, 10)])).await.unwrap();
    log.close().await;
    let files: Vec<_> = std::fs::read_dir(folder.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(files, ["terminal.db"]);
}

/// Where the child of [`no_acked_frame_is_lost_to_a_kill`] writes.
const CHILD_WRITES_TO: &str = "MUSTER_TEST_LOG";

#[test]
#[ignore = "the part of another test that is killed"]
fn child_appends_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD_WRITES_TO) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let log = Arc::new(SqliteTerminalLog::open(Path::new(&path), Clock::system()).unwrap());
        let appends = (0..4).map(|n| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                for seq in 1.. {
                    log.append(run(&format!("n{n}"), 1, vec![output(seq, 3000)])).await.unwrap();
                    println!("acked n{n} {seq}");
                }
            })
        });
        futures_util::future::join_all(appends).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acked_frame_is_lost_to_a_kill() {
    const ACKS: usize = 400;
    let folder = Folder::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_appends_until_it_is_killed", "--ignored", "--nocapture"])
        .env(CHILD_WRITES_TO, folder.terminal())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut acked = std::collections::BTreeMap::new();
    let mut note = |line: String| {
        // The test harness's own words may stand before the first.
        if let Some((_, ack)) = line.split_once("acked ")
            && let Some((name, seq)) = ack.split_once(' ')
            && let Ok(seq) = seq.parse::<u64>()
        {
            acked.insert(name.to_owned(), seq);
        }
    };
    lines.by_ref().take(ACKS).for_each(&mut note);
    child.kill().unwrap();
    child.wait().unwrap();
    lines.for_each(&mut note);
    assert!(!acked.is_empty());

    let log = folder.open_log().await;
    for (name, seq) in acked {
        let page = log.read(&node(&name), Cursor::START, usize::MAX).await.unwrap();
        let kept: Vec<_> = page.frames.iter().map(|(_, frame)| frame.seq).collect();
        assert!(kept.len() as u64 >= seq, "{name}: {} kept of {seq} acked", kept.len());
        assert!(kept.into_iter().eq(1..=page.frames.len() as u64));
        assert_eq!(page.frames[0].1, output(1, 3000));
    }
}

//! Commits whose answers are lost: nothing is done twice, and whoever asked gets the answer that it would have been.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use muster_hub::store::postgres::{PostgresStore, PostgresTerminalLog};
use muster_hub::store::{EnrolOutcome, NodeLive, NodeRow, Store, TerminalLog, TokenRow};
use muster_test_servers::Postgres;
use registry_core::{Clock, Cursor, UserId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::terminal::{node, output, run};
use super::{Database, line};

/// Stands between a hub and its database, and cuts the connection at commits.
struct Between {
    url: String,
    cuts: Arc<Cuts>,
}

/// What is cut, and how often it is still to be.
#[derive(Default)]
struct Cuts {
    /// The commit arrives and its answer does not.
    answers: AtomicU32,
    /// The commit does not arrive.
    commits: AtomicU32,
}

fn take_one(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Between {
    async fn new(database: &Database) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = Postgres::shared().port();
        let here = listener.local_addr().unwrap().port();
        let url = database.url.replace(&format!(":{port}/"), &format!(":{here}/")) + "?sslmode=disable";
        let cuts = Arc::new(Cuts::default());
        let shared = Arc::clone(&cuts);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(pass(near, far, Arc::clone(&shared)));
            }
        });
        Self { url, cuts }
    }

    /// Nothing that was to be cut is left.
    fn check_cut(&self) {
        assert_eq!(self.cuts.answers.load(Ordering::SeqCst), 0);
        assert_eq!(self.cuts.commits.load(Ordering::SeqCst), 0);
    }
}

/// Passes bytes on until a cut.
async fn pass(mut near: TcpStream, mut far: TcpStream, cuts: Arc<Cuts>) {
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = near.read(&mut up) => {
                let Ok(len @ 1..) = read else { return };
                let commits = up[..len].windows(6).any(|bytes| bytes == b"COMMIT");
                if commits && take_one(&cuts.commits) {
                    return;
                }
                if far.write_all(&up[..len]).await.is_err() {
                    return;
                }
                if commits && take_one(&cuts.answers) {
                    // The answer is waited for, so that the commit is known to be done, and kept.
                    let _ = far.read(&mut down).await;
                    return;
                }
            }
            read = far.read(&mut down) => {
                let Ok(len @ 1..) = read else { return };
                if near.write_all(&down[..len]).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn token(id: &str) -> TokenRow {
    TokenRow {
        id: id.into(),
        secret_hash: [3; 32],
        user: UserId::new("ada").unwrap(),
        created_at_unix_ms: 1,
        expires_at_unix_ms: 9,
        uses: 5,
        used: 0,
        created_by: "tests".into(),
    }
}

/// Every kind of writing, with this done to its commit each time.
async fn writes_are_done_once(cut: impl Fn(&Cuts)) {
    let database = Database::new();
    let between = Between::new(&database).await;
    let store = PostgresStore::open(&between.url, Clock::system()).await.unwrap();
    let cut = || cut(&between.cuts);

    cut();
    store.create_token(token("t"), line("token")).await.unwrap();
    cut();
    let row = NodeRow {
        id: node("n"),
        user: UserId::new("ada").unwrap(),
        name: "n".into(),
        public_key: [1; 32],
        enrolled_at_unix_ms: 2,
        live: NodeLive { detail_json: "{}".into(), ..NodeLive::default() },
    };
    let enrolled = store.enrol("t", [3; 32], row, line("enrol")).await.unwrap();
    assert!(matches!(enrolled, EnrolOutcome::Enrolled(_)), "{enrolled:?}");
    cut();
    store.audit(line("audit")).await.unwrap();
    cut();
    assert!(store.delete_node(&node("n"), line("delete")).await.unwrap(), "it was there");
    cut();
    assert!(store.delete_token("t", line("delete-token")).await.unwrap(), "it was there");
    between.check_cut();
    let audited = "SELECT string_agg(action, ',' ORDER BY id) FROM muster.audit";
    assert_eq!(database.sql(audited), "token,enrol,audit,delete,delete-token");
    assert_eq!(store.held_up_since_ms(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_not_repeated() {
    writes_are_done_once(|cuts| cuts.answers.store(1, Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_did_not_arrive_is_repeated() {
    writes_are_done_once(|cuts| cuts.commits.store(1, Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_after_the_other_is_found_out_too() {
    writes_are_done_once(|cuts| {
        cuts.commits.store(2, Ordering::SeqCst);
        cuts.answers.store(1, Ordering::SeqCst);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_whose_ack_is_lost_are_there_once() {
    let database = Database::new();
    let between = Between::new(&database).await;
    let log = PostgresTerminalLog::open(&between.url, Clock::system()).await.unwrap();
    for seq in 1..=12 {
        match seq % 3 {
            0 => between.cuts.answers.store(1, Ordering::SeqCst),
            1 => between.cuts.commits.store(1, Ordering::SeqCst),
            _ => {}
        }
        log.append(run("n", 1, vec![output(seq, 100)])).await.unwrap();
    }
    between.check_cut();
    let page = log.read(&node("n"), Cursor::START, usize::MAX).await.unwrap();
    assert!(page.frames.iter().map(|(_, frame)| frame.seq).eq(1..=12));
    assert_eq!(database.sql("SELECT sum(weight) FROM muster.chunks"), log.total_bytes().to_string());
    assert_eq!(database.sql("SELECT sum(weight) FROM muster.boots"), log.total_bytes().to_string());
}

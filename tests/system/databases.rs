//! Hubs whose records are in PostgreSQL and whose frames are in Redis: they serve as others do, and what cannot work is
//! refused at the start in one line.

use std::sync::Arc;

use muster_test_servers::{Postgres, Redis};
use muster_tests::home::free_port;
use muster_tests::{Home, Muster, Ran, TestHub, eventually, sha256};
use rustix::process::Signal;

use crate::seq;

/// The options of a hub on these.
fn on<'a>(database: &'a str, log: &'a str) -> [&'a str; 4] {
    ["--database", database, "--terminal-log", log]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_on_postgres_and_redis_serves_and_survives_a_kill() {
    let (postgres, redis) = (Postgres::shared(), Redis::start());
    let database = postgres.database();
    let mut hub = TestHub::start_with(&on(&database, &redis.url()));
    let _agent = hub.agent("web-1");
    hub.online("web-1").await;

    let expected = seq(20_000);
    let ran = hub.muster(&["exec", "web-1", "--", "seq", "1", "20000"]).run().succeeded();
    assert_eq!(sha256(&ran.stdout), sha256(&expected));
    hub.muster(&["exec", "web-1", "--", "sh", "-c", "exit 3"]).run().with_code(3);

    hub.kill9();
    hub.restart();
    hub.online("web-1").await;
    let logs = hub.muster(&["logs", "web-1", "--view", "raw"]).run().succeeded();
    assert_eq!(sha256(&logs.stdout), sha256(&expected), "what was acked is read back: {}", logs.stderr);
    let tasks = hub.muster(&["logs", "web-1", "--view", "commands"]).run().succeeded();
    assert!(tasks.stdout_text().contains("seq 1 20000"), "{}", tasks.stdout_text());
    assert_eq!(hub.terminate().code(), Some(0), "it drains as any other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_hub_on_a_database_is_refused() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let _first = TestHub::start_with(&["--database", &database]);
    let refused = start(&["--database", &database]);
    assert_refused(&refused, 78, "another hub uses this database");
}

#[test]
fn what_cannot_work_is_said_in_one_line_without_a_password() {
    let (postgres, redis) = (Postgres::shared(), Redis::start());
    redis.cli(&["CONFIG", "SET", "requirepass", "right"]);
    let nowhere = free_port();
    let locked_out = postgres.url_as("muster_nobody", "s3cret", "postgres");
    for (options, code, says) in [
        (["--database".to_owned(), "mysql://me:s3cret@host/db".to_owned()], 78, "--database"),
        (["--database".to_owned(), "postgres://me:s3cret@/db?port=x".to_owned()], 78, "PostgreSQL"),
        (["--database".to_owned(), locked_out], 78, "does not let this user in"),
        (["--database".to_owned(), postgres.url("no_such_database")], 78, "no_such_database"),
        (["--database".to_owned(), format!("postgres://me:s3cret@127.0.0.1:{nowhere}/db")], 69, "reached"),
        (["--terminal-log".to_owned(), "amqp://me:s3cret@host".to_owned()], 78, "--terminal-log"),
        (
            ["--terminal-log".to_owned(), format!("redis://:s3cret@127.0.0.1:{}", redis.port())],
            78,
            "password",
        ),
        (["--terminal-log".to_owned(), format!("redis://:s3cret@127.0.0.1:{nowhere}")], 69, "reached"),
        (["--database-password-file".to_owned(), "/no/such/file".to_owned()], 78, "/no/such/file"),
    ] {
        let refused = start(&[&options[0], &options[1]]);
        assert_refused(&refused, code, says);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_whose_database_was_taken_over_ends() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let name = database.rsplit('/').next().unwrap();
    let mut first = TestHub::start_with(&["--database", &database]);
    first.process().signal(Signal::STOP);
    // As when its machine hangs and the network forgets it: the lock goes, and the process does not know.
    postgres.sql(name, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()");
    let _second = TestHub::start_with(&["--database", &database]);
    first.process().signal(Signal::CONT);
    let ended = eventually("the first hub ends", || first.process().try_wait());
    assert_eq!(ended.code(), Some(69), "{}", first.log());
    assert!(first.log().contains("hub_superseded"), "{}", first.log());
}

/// Starts a hub that is expected to end by itself.
fn start(options: &[&str]) -> Ran {
    let home = Arc::new(Home::new());
    let data = home.join("hub").display().to_string();
    let fixed = ["hub", "--data-dir", &data, "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    Muster::new(home, &[&fixed[..], options].concat()).run()
}

fn assert_refused(ran: &Ran, code: i32, says: &str) {
    let told = &ran.stderr;
    assert_eq!(ran.code(), code, "{told}");
    assert!(told.contains(says), "{says:?} is not in {told}");
    let lines: Vec<_> = told.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("error: ") && lines[1].starts_with("code: "), "{told}");
    let everything = format!("{told}{}", ran.stdout_text());
    assert!(!everything.contains("s3cret") && !everything.contains("stack backtrace"), "{everything}");
}

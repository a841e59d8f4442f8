//! A fleet that moves from SQLite to PostgreSQL and Redis: its agents, its people and their cursors go on as before.

use muster_test_servers::{Postgres, Redis};
use muster_tests::process::Process;
use muster_tests::{TestHub, eventually};

use crate::{db, refused, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_moves_and_goes_on() {
    let mut hub = TestHub::start();
    let _agent = hub.agent("web-1");
    hub.online("web-1").await;
    let first = hub.muster(&["exec", "web-1", "--", "seq", "1", "5000"]).run().succeeded().stdout;
    let frames = hub.control().frames("web-1", "").await.unwrap();
    let (boot, last) = frames.last().unwrap();
    let cursor = format!("{boot}:{}", last.seq);
    let second = hub.muster(&["exec", "web-1", "--", "echo", "before the move"]).run().succeeded().stdout;
    let data = hub.data_dir();
    let dump = hub.home().join("dump");

    // Online: a dump that is thrown away, and an import that is refused.
    db(&hub, &["export", "--data-dir", text(&data), "--to", text(&hub.home().join("rehearsal"))]);
    let error = refused(
        &hub,
        &["import", "--data-dir", text(&data), "--from", text(&hub.home().join("rehearsal"))],
        78,
    );
    assert!(error["message"].as_str().unwrap().contains("uses the data folder"), "{error}");

    assert!(hub.terminate().success());
    let exported = db(&hub, &["export", "--data-dir", text(&data), "--to", text(&dump)]);
    assert_eq!(exported["tables"]["nodes"]["rows"], 1);
    assert_eq!(exported["tables"]["tasks"]["rows"], 2);
    let redis = Redis::start();
    let (database, log) = (Postgres::shared().database(), redis.url());
    let places = ["--data-dir", text(&data), "--database", &database, "--terminal-log", &log];
    let imported = db(&hub, &[&["import", "--from", text(&dump)][..], &places].concat());
    assert_eq!(imported["tables"], exported["tables"]);

    let mut command = hub.home().muster(["hub"]);
    command.args(places).args(["--grpc-listen", &hub.grpc().to_string()]);
    command.args(["--http-listen", &hub.http_address().to_string()]);
    let _moved = Process::spawn("the hub that moved", command, &hub.home().join("moved.log"));
    eventually("the hub serves again", || (hub.readiness() == Some(200)).then_some(()));

    hub.online("web-1").await;
    let names = hub.muster(&["nodes", "ls", "-o", "name"]).run().succeeded();
    assert_eq!(names.stdout_text().trim(), "web-1");
    let since = hub.muster(&["logs", "web-1", "--view", "raw", "--since", &cursor]).run().succeeded();
    assert_eq!(since.stdout, second, "a cursor from before means what it meant");
    let third = hub.muster(&["exec", "web-1", "--", "echo", "after the move"]).run().succeeded().stdout;
    let whole = hub.muster(&["logs", "web-1", "--view", "raw"]).run().succeeded();
    assert_eq!(whole.stdout, [first, second, third].concat());
    assert!(data.join("muster.db").exists(), "what was moved from is as it was");
}

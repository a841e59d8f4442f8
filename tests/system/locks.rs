//! Somebody else holds the databases: the roll, heartbeats and live output go on, and afterwards nothing is missing.

use std::time::Duration;

use muster_tests::{Deadline, TestHub, eventually, eventually_async, long_forms, sha256};
use rusqlite::Connection;

/// A transaction that keeps every writer out until it is dropped.
fn hold(path: &std::path::Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_databases_delay_acks_and_nothing_else() {
    let held_for = Duration::from_secs(if long_forms() { 20 } else { 4 });
    let hub = TestHub::start_with(&["--heartbeat-interval", "300ms", "--lease", "3s"]);
    let _talker = hub.agent("talker");
    let mut late = hub.agent("late");
    hub.online("talker").await;
    hub.online("late").await;
    late.terminate();

    let (stop, file) = (hub.home().join("stop"), hub.home().join("said"));
    let script = format!(
        "i=0; while ! [ -e {} ]; do i=$((i+1)); echo said-$i- | tee -a {}; sleep 0.02; done",
        stop.display(),
        file.display()
    );
    let running = hub.muster(&["exec", "talker", "--", "sh", "-c", &script]).spawn();
    running.wait_stdout("said-5-");

    let deadline = Deadline::after(held_for);
    let locks = [hold(&hub.data_dir().join("terminal.db")), hold(&hub.data_dir().join("muster.db"))];
    let (control, http) = (hub.control(), hub.http());
    let durable = control.node("talker").await.unwrap().head;
    late.start();
    hub.online("late").await;
    let mut seen_until = control.node("late").await.unwrap().last_seen_unix_ms;
    let mut said = running.stdout().len();
    while !deadline.is_over() {
        let asked = Deadline::after(Duration::from_secs(2));
        let nodes = http.get("/v1/nodes").await;
        assert!(!asked.is_over(), "the list of nodes waits for a lock");
        let nodes = nodes.json();
        let statuses: Vec<_> =
            nodes["nodes"].as_array().unwrap().iter().map(|node| &node["status"]).collect();
        assert_eq!(statuses, ["online", "online"], "{nodes}");
        seen_until = eventually_async("heartbeats are taken", async || {
            let seen = control.node("late").await.ok()?.last_seen_unix_ms;
            (seen > seen_until).then_some(seen)
        })
        .await;
        said = eventually("output is live", || Some(running.stdout().len()).filter(|&now| now > said));
    }
    let head = control.node("talker").await.unwrap().head;
    assert_eq!(head, durable, "nothing can have become durable behind two locks");

    drop(locks);
    eventually_async("what waited becomes durable", async || {
        (control.node("talker").await.ok()?.head != durable).then_some(())
    })
    .await;
    std::fs::write(stop, "").unwrap();
    let ran = running.finish().succeeded();
    let expected = std::fs::read(file).unwrap();
    assert_eq!(sha256(&ran.stdout), sha256(&expected));
    let logs = hub.muster(&["logs", "talker", "--view", "raw"]).run().succeeded();
    assert_eq!(sha256(&logs.stdout), sha256(&expected), "{}", logs.stderr);
    assert!(hub.log().contains("wait"), "the operator is told in the log");
}

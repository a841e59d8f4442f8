//! What was last seen of nodes is written behind: nothing waits for it, and what is left is told.

use muster_tests::{TestHub, eventually_async};

use crate::metric;

fn records(hub: &TestHub) -> rusqlite::Connection {
    rusqlite::Connection::open(hub.data_dir().join("muster.db")).unwrap()
}

fn last_seen(hub: &TestHub, name: &str) -> i64 {
    let query = "SELECT last_seen FROM nodes WHERE name = ?1";
    records(hub).query_row(query, [name], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_is_tried_again_and_shows_in_the_metrics() {
    let hub = TestHub::start_with(&["--heartbeat-interval", "200ms"]);
    let _agent = hub.agent("web-1");
    hub.online("web-1").await;
    eventually_async("the node is written", async || {
        (metric(&hub, "muster_dirty_written_total").await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(metric(&hub, "muster_dirty_retries_total").await, 0.0);

    records(&hub).execute_batch("ALTER TABLE nodes RENAME TO nodes_away").unwrap();
    eventually_async("attempts fail and are made again", async || {
        (metric(&hub, "muster_dirty_retries_total").await >= 2.0).then_some(())
    })
    .await;
    assert!(metric(&hub, "muster_dirty_flush_failures_total").await >= 2.0);
    assert_eq!(metric(&hub, "muster_dirty_nodes").await, 1.0, "the latest state, once");
    assert!(metric(&hub, "muster_dirty_oldest_seconds").await >= 1.0);
    assert!(hub.log().contains("error_id"), "a failure has an id");

    records(&hub).execute_batch("ALTER TABLE nodes_away RENAME TO nodes").unwrap();
    let before = last_seen(&hub, "web-1");
    eventually_async("the latest state arrives", async || (last_seen(&hub, "web-1") > before).then_some(()))
        .await;
    eventually_async("nothing is old any more", async || {
        (metric(&hub, "muster_dirty_oldest_seconds").await < 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_runs_out_of_time_says_what_is_left() {
    let mut hub = TestHub::start_with(&["--heartbeat-interval", "200ms", "--drain-timeout", "2s"]);
    let _agent = hub.agent("web-1");
    hub.online("web-1").await;
    let locked = records(&hub);
    locked.execute_batch("BEGIN EXCLUSIVE").unwrap();
    eventually_async("a write waits", async || {
        (metric(&hub, "muster_dirty_writing_nodes").await + metric(&hub, "muster_dirty_nodes").await >= 1.0
            && metric(&hub, "muster_dirty_oldest_seconds").await > 1.0)
            .then_some(())
    })
    .await;
    let status = hub.terminate();
    assert_eq!(status.code(), Some(69), "{}", hub.log());
    let log = hub.log();
    let report = log.lines().find(|line| line.contains("the drain timeout passed")).expect(&log);
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    assert_eq!(report["nodes"], 1, "{report}");
    assert!(report["oldest_ms"].as_u64().unwrap() > 1000, "{report}");
    drop(locked);
    hub.restart();
    hub.online("web-1").await;
}

//! A backup is taken while the hub works, and a hub that is started from it knows all that was answered before.

use muster_proto::v1 as pb;
use muster_tests::{TestHub, eventually_async, long_forms};
use rusqlite::Connection;
use std::os::unix::fs::PermissionsExt as _;

fn copied(hub: &TestHub, to: &std::path::Path) -> muster_tests::Ran {
    let args = ["db", "backup", "--data-dir", hub.data_dir().to_str().unwrap(), "--to", to.to_str().unwrap()]
        .map(str::to_owned);
    hub.muster(&args.iter().map(String::as_str).collect::<Vec<_>>()).run()
}

/// What a task has said, whole.
fn said(hub: &TestHub, task: &str) -> String {
    hub.muster(&["logs", "web-1", "--view", "raw", "--task", task]).run().succeeded().stdout_text()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_taken_under_load_holds_everything_that_was_answered_before() {
    let mut hub = TestHub::start();
    let _agent = hub.agent("web-1");
    hub.online("web-1").await;
    let control = hub.control();
    // The load goes on while the copy is made.
    let flood = "i=0; while :; do i=$((i+1)); echo flood $i; done";
    let flood = control.task("web-1", &["sh", "-c", flood]).await.unwrap().task_id;
    let mut ledger = Vec::new();
    for number in 0..if long_forms() { 200 } else { 20 } {
        let said = format!("echo of-{number}-{}", "x".repeat(100));
        let task = control.task("web-1", &["sh", "-c", &said]).await.unwrap().task_id;
        let ended = control.ended(&task).await;
        assert_eq!(ended.exit_code, Some(0));
        ledger.push((task, format!("of-{number}-{}\n", "x".repeat(100))));
    }
    let token = hub.join_token(&["--uses", "3"]);
    // Acked is what counts: the agent's frames are durable up to here.
    let acked = eventually_async("the ends of all tasks are durable", async || {
        let head = control.node("web-1").await.ok()?.head?;
        let mut ends = Vec::new();
        for (task, _) in &ledger {
            ends.push(control.get(task).await.ok()?.last?);
        }
        let last = ends.into_iter().map(|cursor| cursor.seq).max()?;
        (head.seq >= last).then_some(head)
    })
    .await;

    let to = hub.home().join("backup");
    let ran = copied(&hub, &to).succeeded();
    assert!(ran.stdout_text().contains("muster.db") && ran.stdout_text().contains("terminal.db"));
    let after = control.task("web-1", &["true"]).await.unwrap().task_id;
    assert_eq!(control.get(&flood).await.unwrap().state(), pb::TaskState::Running, "the load went on");
    let _ = copied(&hub, &to).with_code(78);

    hub.kill9();
    std::fs::rename(hub.data_dir(), hub.home().join("lost")).unwrap();
    std::fs::rename(&to, hub.data_dir()).unwrap();
    let mode = std::fs::metadata(hub.data_dir().join("admin.credential")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    hub.restart();
    let control = hub.control();
    hub.online("web-1").await;
    for (task, text) in &ledger {
        let known = control.get(task).await.unwrap_or_else(|error| panic!("a task is lost: {error}"));
        assert_eq!((known.state(), known.exit_code), (pb::TaskState::Ended, Some(0)));
        assert_eq!(&said(&hub, task), text);
    }
    let frames = Connection::open(hub.data_dir().join("terminal.db")).unwrap();
    assert_eq!(frames.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    let head = control.node("web-1").await.unwrap().head.unwrap();
    assert!((head.boot, head.seq) >= (acked.boot, acked.seq), "{head:?} is before {acked:?}");
    assert!(control.get(&after).await.is_err(), "what came after the copy is not in it");
    // The token was answered before: it lets a machine in. The node that is there works on.
    let mut second = muster_tests::TestAgent::new(&hub, "web-2", &token, &[]);
    second.start();
    hub.online("web-2").await;
    let ran = hub.muster(&["exec", "web-1", "--", "echo", "on"]).run().succeeded();
    assert_eq!(ran.stdout_text(), "on\n");
}

#[test]
fn what_is_no_data_folder_is_refused_with_a_sentence() {
    let hub = TestHub::start();
    let nothing = hub.home().join("nothing");
    let args = ["db", "backup", "--data-dir", nothing.to_str().unwrap(), "--to", "x"];
    let ran = hub.muster(&args).run().with_code(78);
    assert!(ran.stderr.contains("there is no muster.db"), "{}", ran.stderr);
    assert!(!nothing.exists());
}

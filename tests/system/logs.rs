//! `muster logs` and what is kept: nothing is hidden, and what is gone is told.

use muster_proto::v1::{self as pb, frame::Kind};
use muster_tests::{TestHub, eventually_async};

use crate::{fleet_of_one, seq};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_read_raw_as_text_by_task_by_cursor_and_from_its_end() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let exec = |script: &str| hub.muster(&["exec", "web-1", "--", "sh", "-c", script]).run().succeeded();
    exec(r"printf '\033[1mbold\033[0m\n'");
    exec("echo two; echo three >&2");
    let logs = |args: &[&str]| hub.muster(&[&["logs", "web-1"], args].concat()).run().succeeded();
    assert_eq!(logs(&[]).stdout_text(), "bold\ntwo\nthree\n");
    assert_eq!(logs(&["--view", "raw"]).stdout, b"\x1b[1mbold\x1b[0m\ntwo\nthree\n");
    assert_eq!(logs(&["--tail", "2"]).stdout_text(), "two\nthree\n");
    assert_eq!(logs(&["--since", "10m"]).stdout_text(), "bold\ntwo\nthree\n");

    let frames = hub.control().frames("web-1", "").await.unwrap();
    let ended = frames.iter().position(|(_, frame)| matches!(frame.kind, Some(Kind::Ended(_)))).unwrap();
    let (boot, first_end) = (frames[ended].0, frames[ended].1.seq);
    assert_eq!(logs(&["--since", &format!("{boot}:{first_end}")]).stdout_text(), "two\nthree\n");

    let tasks = hub.muster(&["tasks", "ls", "-o", "json"]).run().succeeded().json();
    let oldest = tasks.as_array().unwrap().last().unwrap()["task_id"].as_str().unwrap().to_owned();
    assert_eq!(logs(&["--task", &oldest]).stdout_text(), "bold\n");

    let lines = logs(&["-o", "json"]).stdout_text();
    let kinds: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(kinds.len(), frames.len(), "one object a frame: {lines}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_beyond_the_retention_is_told_as_missing_and_the_rest_is_whole() {
    let hub = TestHub::start_with(&["--log-node-bytes", "600000"]);
    let _agent = hub.agent("web-1");
    hub.online("web-1").await;
    let expected = seq(400_000);
    let task = hub.control().task("web-1", &["seq", "1", "400000"]).await.unwrap().task_id;
    hub.control().ended(&task).await;
    let frames = eventually_async("the log is trimmed", async || {
        let frames = hub.control().frames("web-1", &task).await.ok()?;
        let kept: usize = frames.iter().map(|(_, frame)| muster_tests::control::output_of(frame).len()).sum();
        (kept <= 700_000).then_some(frames)
    })
    .await;
    let Some(Kind::Gap(gap)) = &frames[0].1.kind else { panic!("no gap at the begin: {:?}", frames[0]) };
    assert_eq!(gap.reason(), pb::GapReason::Retention);
    assert_eq!(gap.last_seq + 1, frames[1].1.seq, "the gap ends where the kept frames begin");
    let kept = muster_tests::Control::output(&frames);
    assert!(!kept.is_empty() && expected.ends_with(&kept), "{} bytes are kept", kept.len());

    for place in [["--task", task.as_str()], ["--since", "0:0"]] {
        let args = [&["logs", "web-1", "--view", "raw"][..], &place].concat();
        let ran = hub.muster(&args).run().succeeded();
        assert!(ran.stdout == kept, "{place:?}: {} bytes", ran.stdout.len());
        assert!(ran.stderr.contains("no longer kept"), "{place:?}: {}", ran.stderr);
    }
    // Who asks for what is kept gets that, and there is nothing to tell.
    let ran = hub.muster(&["logs", "web-1", "--view", "raw"]).run().succeeded();
    assert!(ran.stdout == kept && ran.stderr.is_empty(), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_a_newer_hub_is_refused_and_left_alone() {
    for file in ["muster.db", "terminal.db"] {
        let (mut hub, mut agent) = fleet_of_one("web-1").await;
        agent.terminate();
        assert!(hub.terminate().success());
        let database = rusqlite::Connection::open(hub.data_dir().join(file)).unwrap();
        let version = |database: &rusqlite::Connection| -> u32 {
            database.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
        };
        assert!(version(&database) > 0, "{file} tells its version");
        database.pragma_update(None, "user_version", 9_999).unwrap();
        hub.launch();
        let status = hub.process().wait();
        assert!(!status.success(), "{status}");
        assert!(hub.log().contains("newer"), "{}", hub.log());
        assert_eq!(version(&database), 9_999);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_shows_nodes_and_tasks_as_they_change_through_a_restart_of_the_hub() {
    let (mut hub, _agent) = fleet_of_one("web-1").await;
    let watching = hub.muster(&["nodes", "watch", "-o", "jsonl"]).spawn();
    watching.wait_stdout("web-1");
    hub.kill9();
    hub.restart();
    hub.online("web-1").await;
    let mut second = hub.agent("web-2");
    watching.wait_stdout("web-2");
    second.terminate();
    watching.wait_stdout("offline");
    let lines = String::from_utf8(watching.stdout()).unwrap();
    for line in lines.lines() {
        let event: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(event.is_ok(), "{line:?}");
    }
}

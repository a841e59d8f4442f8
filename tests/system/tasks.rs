//! The life of a task: queued, expired, repeated, cancelled, refused; and the end of a node.

use std::time::Duration;

use muster_proto::v1::{self as pb, TaskOutcome, TaskState};
use muster_tests::{PATIENCE, TestAgent, TestHub, error_code, eventually, eventually_async};
use reqwest::Method;
use serde_json::json;

use crate::fleet_of_one;

fn spec(argv: &[&str]) -> pb::TaskSpec {
    pb::TaskSpec { argv: argv.iter().map(|&word| word.to_owned()).collect(), ..pb::TaskSpec::default() }
}

async fn offline(hub: &TestHub, node: &str) {
    eventually_async("the node is offline", async || {
        let view = hub.control().node(node).await.ok()?;
        (view.status() == pb::NodeStatus::Offline).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_for_a_node_that_is_away_waits_for_it() {
    let (hub, mut agent) = fleet_of_one("web-1").await;
    agent.terminate();
    offline(&hub, "web-1").await;
    let mark = hub.home().join("mark");
    let script = format!("echo ran >> {}; echo hello", mark.display());
    let running = hub.muster(&["exec", "web-1", "--", "sh", "-c", &script]).spawn();
    running.wait_stderr("offline");
    assert!(!mark.exists());
    agent.start();
    let ran = running.finish().succeeded();
    assert_eq!(ran.stdout_text(), "hello\n");
    assert_eq!(std::fs::read_to_string(mark).unwrap(), "ran\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_tasks_expire_can_be_cancelled_and_never_run_then() {
    let (mut hub, mut agent) = fleet_of_one("web-1").await;
    agent.terminate();
    offline(&hub, "web-1").await;
    let control = hub.control();
    let mark = hub.home().join("mark");
    let touch = spec(&["touch", mark.to_str().unwrap()]);

    let short = pb::TaskSpec { queue_ttl_ms: 500, ..touch.clone() };
    let expired = control.task_of("web-1", short.clone(), "").await.unwrap();
    let expired = control.ended(&expired.task_id).await;
    assert_eq!(expired.outcome(), TaskOutcome::Expired, "{expired:?}");

    let queued = control.task_of("web-1", touch.clone(), "").await.unwrap();
    assert_eq!(queued.state(), TaskState::Queued);
    let ran = hub.muster(&["tasks", "cancel", &queued.task_id]).run().succeeded();
    let cancelled = control.get(&queued.task_id).await.unwrap();
    assert_eq!(cancelled.outcome(), TaskOutcome::Cancelled, "{cancelled:?} {}", ran.stderr);
    let again = pb::CancelTaskRequest { task_id: queued.task_id, grace_ms: 0 };
    let refused = control.client().cancel_task(again).await.unwrap_err();
    assert_eq!(error_code(&refused), "task_not_running");

    // Time passes for the queue while no hub runs, too.
    let late = control.task_of("web-1", pb::TaskSpec { queue_ttl_ms: 1_000, ..touch }, "").await.unwrap();
    hub.kill9();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    hub.restart();
    agent.start();
    hub.online("web-1").await;
    assert_eq!(hub.control().ended(&late.task_id).await.outcome(), TaskOutcome::Expired);
    hub.muster(&["exec", "web-1", "--", "true"]).run().succeeded();
    assert!(!mark.exists(), "none of them ran");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_one_task_and_its_key_fits_no_other() {
    let (mut hub, _agent) = fleet_of_one("web-1").await;
    let mark = hub.home().join("mark");
    let command = format!("echo ran >> {}", mark.display());
    let body = json!({ "node": "web-1", "command": command });
    let post = async |hub: &TestHub, body: &serde_json::Value| {
        let http = hub.http();
        let request =
            http.request(Method::POST, "/v1/tasks").header("idempotency-key", "deploy-7").json(body);
        http.send(request).await
    };
    let first = post(&hub, &body).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let id = first.json()["task_id"].as_str().unwrap().to_owned();
    hub.control().ended(&id).await;
    for _ in 0..3 {
        assert_eq!(post(&hub, &body).await.json()["task_id"], *id);
    }
    // The key outlives the hub.
    hub.kill9();
    hub.restart();
    assert_eq!(post(&hub, &body).await.json()["task_id"], *id);
    let other = post(&hub, &json!({ "node": "web-1", "command": "true" })).await;
    let (status, code) = other.refusal();
    assert!(status == 409 || status == 422, "{status}");
    assert_eq!(code, "idempotency_key_reused");
    let refused = hub.control().task_of("web-1", spec(&["true"]), "deploy-7").await.unwrap_err();
    assert_eq!(error_code(&refused), "idempotency_key_reused");
    assert_eq!(std::fs::read_to_string(mark).unwrap(), "ran\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_task_is_cancelled_by_term_and_then_by_kill() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let control = hub.control();
    let deaf = "trap '' TERM; echo deaf; while :; do sleep 0.1; done";
    for (script, word, signal) in [("echo polite; exec sleep 600", "polite", 15), (deaf, "deaf", 9)] {
        let task = control.task("web-1", &["sh", "-c", script]).await.unwrap().task_id;
        eventually("the task speaks", || {
            let logs = hub.muster(&["logs", "web-1", "--task", &task]).run();
            logs.stdout_text().contains(word).then_some(())
        });
        let request = pb::CancelTaskRequest { task_id: task.clone(), grace_ms: 300 };
        control.client().cancel_task(request).await.unwrap();
        let ended = control.ended(&task).await;
        assert_eq!((ended.outcome(), ended.signal), (TaskOutcome::Cancelled, Some(signal)), "{ended:?}");
        assert!(ended.reason.contains("admin"), "who cancelled it: {:?}", ended.reason);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_can_wait_for_the_end_and_holds_head_and_tail() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let http = hub.http();
    let body = json!({ "node": "web-1", "command": "seq 1 20000; exit 3" });
    let answer = http.post("/v1/tasks?wait=30s&max_bytes=2000", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let digest = answer.json();
    assert_eq!((&digest["state"], &digest["exit_code"]), (&json!("ended"), &json!(3)), "{digest}");
    let text = |key: &str| digest[key].as_str().unwrap_or_default().to_owned();
    assert!(text("head").starts_with("1\n2\n"), "{digest}");
    assert!(text("tail").ends_with("19999\n20000\n"), "{digest}");
    let shown = text("head").len() + text("tail").len();
    assert!(shown <= 2_000, "{shown}");
    let omitted = digest["omitted_bytes"].as_u64().unwrap();
    assert_eq!(omitted as usize + shown, crate::seq(20_000).len(), "{digest}");

    let running =
        http.post("/v1/tasks?wait=1s", &json!({ "node": "web-1", "command": "sleep 600" })).await.json();
    assert_ne!(running["state"], "ended", "{running}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_exec_runs_nothing() {
    let hub = TestHub::start();
    let _agent = hub.agent_with("vault", &["--no-exec"]);
    hub.online("vault").await;
    let mark = hub.home().join("mark");
    let ran = hub.muster(&["exec", "vault", "--", "touch", mark.to_str().unwrap()]).run().with_code(126);
    assert!(ran.stderr.contains("no-exec") || ran.stderr.contains("refuses"), "{}", ran.stderr);
    assert!(!mark.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_node_is_sent_away_for_good_and_its_log_is_erased() {
    let (mut hub, mut agent) = fleet_of_one("web-1").await;
    let _other = hub.agent("web-2");
    hub.online("web-2").await;
    hub.muster(&["exec", "web-1", "--", "echo", "secret"]).run().succeeded();
    hub.muster(&["exec", "web-2", "--", "echo", "kept"]).run().succeeded();
    let deleted = hub.muster(&["nodes", "rm", "web-1"]).run();
    assert_eq!(deleted.code(), 0, "{}", deleted.stderr);

    let status = agent.process().wait();
    assert_eq!(status.code(), Some(77), "{}", agent.log());
    assert!(agent.log().contains("revoked"), "{}", agent.log());
    assert_eq!(hub.http().get("/v1/nodes/web-1").await.refusal(), (404, "unknown_node".to_owned()));
    assert_eq!(hub.http().get("/v1/nodes/web-1/terminal").await.refusal(), (404, "unknown_node".to_owned()));
    let log = rusqlite::Connection::open(hub.data_dir().join("terminal.db")).unwrap();
    let boots: u32 = log.query_row("SELECT count(*) FROM boots", [], |row| row.get(0)).unwrap();
    let chunks: u32 = log.query_row("SELECT count(*) FROM chunks", [], |row| row.get(0)).unwrap();
    assert!(boots == 1 && chunks >= 1, "only the other node's log is left: {boots} boots, {chunks} chunks");
    let records = rusqlite::Connection::open(hub.data_dir().join("muster.db")).unwrap();
    let audit = "SELECT count(*) FROM audit WHERE action = 'node.delete'";
    let lines: u32 = records.query_row(audit, [], |row| row.get(0)).unwrap();
    assert_eq!(lines, 1, "the audit line stays");
    let tasks: u32 = records.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0)).unwrap();
    assert_eq!(tasks, 1, "only the other node's task is left");
    drop((log, records));

    // Neither now nor after a restart of the hub does it come back.
    for _ in 0..2 {
        agent.start();
        let refused = agent.process().wait();
        assert_eq!(refused.code(), Some(77), "{}", agent.log());
        hub.restart();
        hub.online("web-2").await;
    }
    let names = hub.muster(&["nodes", "ls", "-o", "name"]).run().succeeded();
    assert_eq!(names.stdout_text(), "web-2\n");
    // Its name is free again.
    let mut new = TestAgent::new(&hub, "web-1", &hub.join_token(&[]), &[]).filed_as("anew");
    new.start();
    hub.online("web-1").await;
    assert!(
        hub.control().frames("web-1", "").await.unwrap().iter().all(|(_, frame)| frame.task_id.is_empty())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_at_once_all_end_with_their_own_output() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let control = hub.control();
    let mut tasks = Vec::new();
    for number in 0..60_u32 {
        let script = format!("echo begin-{number}; echo end-{number}; exit {}", number % 7);
        tasks.push((number, control.task("web-1", &["sh", "-c", &script]).await.unwrap().task_id));
    }
    for (number, task) in tasks {
        let request = pb::GetTaskRequest { task_id: task.clone(), wait_ms: 30_000 };
        let ended =
            tokio::time::timeout(PATIENCE, control.client().get_task(request)).await.unwrap().unwrap();
        assert_eq!(ended.into_inner().exit_code, Some(number % 7));
        let frames = control.frames("web-1", &task).await.unwrap();
        let expected = format!("begin-{number}\nend-{number}\n");
        assert_eq!(String::from_utf8(muster_tests::Control::output(&frames)).unwrap(), expected);
    }
}

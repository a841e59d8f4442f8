//! What is wrong is refused, with a stable code and a sentence, the same over HTTP, gRPC and the command line.

use muster_proto::v1 as pb;
use muster_tests::{Control, Home, Muster, TestAgent, TestHub, error_code, eventually};
use reqwest::Method;
use serde_json::json;
use std::sync::Arc;
use uuid::Uuid;

use crate::fleet_of_one;

fn unknown_id() -> String {
    Uuid::from_bytes(muster_tests::random()).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_refuses_with_a_problem_document() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let http = hub.http();
    let unknown = unknown_id();
    for (method, path, status, code) in [
        (Method::GET, "/v1/nodes/nope".to_owned(), 404, "unknown_node"),
        (Method::DELETE, "/v1/nodes/nope".to_owned(), 404, "unknown_node"),
        (Method::GET, "/v1/nodes/%1b%5b31m/terminal".to_owned(), 404, "unknown_node"),
        (Method::GET, "/v1/events?nodes=nope".to_owned(), 404, "unknown_node"),
        (Method::GET, format!("/v1/tasks/{unknown}"), 404, "unknown_task"),
        (Method::POST, format!("/v1/tasks/{unknown}/cancel"), 404, "unknown_task"),
        (Method::GET, "/v1/tasks/not-an-id".to_owned(), 400, "invalid_argument"),
        (Method::GET, "/v1/tasks?node=nope".to_owned(), 404, "unknown_node"),
        (Method::GET, "/v1/tasks?page_token=x".to_owned(), 400, "invalid_page_token"),
        (Method::GET, "/v1/nodes?selector=a%3D%3D%3Db".to_owned(), 400, "invalid_selector"),
        (Method::GET, "/v1/nodes/web-1/terminal?since=yesterday".to_owned(), 400, "invalid_cursor"),
        (Method::GET, "/v1/events?since=12".to_owned(), 400, "invalid_position"),
        (Method::DELETE, "/v1/tokens/nope".to_owned(), 404, "unknown_token"),
        (Method::GET, "/nowhere".to_owned(), 404, "not_found"),
        (Method::PUT, "/v1/nodes".to_owned(), 405, "method_not_allowed"),
    ] {
        let answer = http.send(http.request(method.clone(), &path)).await;
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{method} {path}: {}", answer.text());
        assert_eq!(answer.headers.contains_key("allow"), status == 405);
    }
    for (body, code) in [
        ("{".to_owned(), 400),
        (r#"{"node":"web-1"}"#.to_owned(), 400),
        (r#"{"node":"web-1","argv":[""]}"#.to_owned(), 400),
        (r#"{"node":"web-1","argv":["x"],"surprise":1}"#.to_owned(), 400),
        (r#"{"node":"nope","argv":["x"]}"#.to_owned(), 404),
        (format!(r#"{{"node":"web-1","command":"{}"}}"#, "x".repeat(2 << 20)), 413),
    ] {
        let request =
            http.request(Method::POST, "/v1/tasks").header("content-type", "application/json").body(body);
        assert_eq!(http.send(request).await.refusal().0, code);
    }
    let plain = http.request(Method::POST, "/v1/tasks").header("content-type", "text/plain").body("{}");
    assert_eq!(http.send(plain).await.refusal(), (415, "unsupported_media_type".to_owned()));

    let done = http.post("/v1/tasks?wait=20s", &json!({ "node": "web-1", "argv": ["true"] })).await.json();
    let done = done["task_id"].as_str().unwrap().to_owned();
    let over = http.post(&format!("/v1/tasks/{done}/cancel"), &json!({})).await;
    assert_eq!(over.refusal(), (409, "task_not_running".to_owned()));
    let deaf = http.post("/v1/tasks", &json!({ "node": "web-1", "argv": ["sleep", "600"] })).await.json();
    let deaf = deaf["task_id"].as_str().unwrap().to_owned();
    hub.control().in_state(&deaf, pb::TaskState::Running).await;
    let typed = http.post(&format!("/v1/tasks/{deaf}/stdin"), &json!({ "offset": 0, "text": "x" })).await;
    assert_eq!(typed.refusal(), (409, "no_stdin".to_owned()));
    let sized = http.post(&format!("/v1/tasks/{deaf}/resize"), &json!({ "rows": 10, "cols": 10 })).await;
    assert_eq!(sized.refusal(), (409, "no_pty".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_without_the_credential_learns_anything() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let wrong = hub.credential().chars().rev().collect::<String>();
    for credential in ["", "x", wrong.as_str()] {
        let http = hub.http().with_credential(credential);
        for path in ["/v1/nodes", "/v1/nodes/web-1", "/v1/events", "/v1/tasks", "/v1/tokens", "/metrics"] {
            assert_eq!(http.get(path).await.refusal(), (401, "unauthenticated".to_owned()), "{path}");
        }
        let control = Control::new(hub.grpc(), credential);
        assert_eq!(error_code(&control.node("web-1").await.unwrap_err()), "unauthenticated");
        assert_eq!(error_code(&control.node("nope").await.unwrap_err()), "unauthenticated");
        let watch = control.client().watch_events(pb::WatchEventsRequest::default()).await;
        assert_eq!(error_code(&watch.unwrap_err()), "unauthenticated");
    }
    let http = hub.http();
    let rebound = http.request(Method::GET, "/v1/nodes").header("host", "evil.example");
    assert_eq!(http.send(rebound).await.refusal().0, 403, "a name that was pointed at this machine");
    let foreign = http.request(Method::DELETE, "/v1/nodes/web-1").header("origin", "http://evil.example");
    assert_eq!(http.send(foreign).await.refusal().0, 403, "a page of another origin");
    assert!(hub.control().node("web-1").await.is_ok());

    let file = hub.home().join("wrong");
    std::fs::write(&file, format!("{wrong}\n")).unwrap();
    let ran = hub.muster(&["nodes", "ls", "--credential-file", file.to_str().unwrap()]).run().with_code(77);
    assert!(ran.stderr.contains("unauthenticated"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_and_the_command_line_refuse_with_the_same_codes() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let control = hub.control();
    let unknown = unknown_id();
    assert_eq!(error_code(&control.node("nope").await.unwrap_err()), "unknown_node");
    assert_eq!(error_code(&control.get(&unknown).await.unwrap_err()), "unknown_task");
    assert_eq!(error_code(&control.task("nope", &["true"]).await.unwrap_err()), "unknown_node");
    assert_eq!(error_code(&control.task("web-1", &[]).await.unwrap_err()), "invalid_argument");
    assert_eq!(error_code(&control.task("web-1", &["a\0b"]).await.unwrap_err()), "invalid_argument");
    let list = pb::ListNodesRequest { selector: "a===b".to_owned(), ..pb::ListNodesRequest::default() };
    assert_eq!(error_code(&control.client().list_nodes(list).await.unwrap_err()), "invalid_selector");
    let watch = pb::WatchEventsRequest { since: "12".to_owned(), ..pb::WatchEventsRequest::default() };
    assert_eq!(error_code(&control.client().watch_events(watch).await.unwrap_err()), "invalid_position");
    let token = pb::DeleteTokenRequest { token_id: "nope".to_owned() };
    assert_eq!(error_code(&control.client().delete_token(token).await.unwrap_err()), "unknown_token");

    for (args, exit, code) in [
        (&["nodes", "get", "nope"][..], 1, "unknown_node"),
        (&["nodes", "ls", "--selector", "a===b"], 1, "invalid_selector"),
        (&["tasks", "get", unknown.as_str()], 1, "unknown_task"),
        (&["logs", "nope"], 1, "unknown_node"),
        (&["token", "rm", "nope"], 1, "unknown_token"),
        (&["exec", "a===b", "--", "true"], 255, "invalid_selector"),
    ] {
        let ran = hub.muster(args).run().with_code(exit);
        assert!(ran.stderr.contains(code), "{args:?}: {}", ran.stderr);
        assert!(ran.stdout.is_empty(), "{args:?}: {}", ran.stdout_text());
    }
    hub.muster(&["logs", "web-1", "--since", "yesterday"]).run().with_code(2);
    hub.muster(&["no-such-command"]).run().with_code(2);
    let told = hub.muster(&["nodes", "get", "nope", "-o", "json"]).run().with_code(1);
    let told: serde_json::Value = serde_json::from_str(&told.stderr).expect("an error object");
    assert!(told.to_string().contains("unknown_node"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_without_a_hub_says_what_to_do() {
    let home = Arc::new(Home::new());
    let ran = Muster::new(Arc::clone(&home), &["nodes", "ls"]).run().with_code(78);
    assert!(ran.stderr.contains("muster hub") && ran.stderr.contains("--data-dir"), "{}", ran.stderr);
    let mut hub = TestHub::start();
    hub.kill9();
    let ran = hub.muster(&["nodes", "ls"]).run().with_code(69);
    assert!(ran.stderr.contains(&hub.grpc().to_string()), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_hub_on_the_same_data_refuses_to_start() {
    let hub = TestHub::start();
    let data_dir = hub.data_dir();
    let listen = ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let second = [&["hub", "--data-dir", data_dir.to_str().unwrap()], &listen[..]].concat();
    let ran = hub.muster(&second).run().with_code(78);
    let said = format!("{}{}", ran.stdout_text(), ran.stderr);
    assert!(said.contains("another hub uses the data folder"), "{said}");

    let taken = hub.grpc().to_string();
    let other = hub.home().join("other");
    let args = [
        "hub",
        "--data-dir",
        other.to_str().unwrap(),
        "--grpc-listen",
        &taken,
        "--http-listen",
        "127.0.0.1:0",
    ];
    let ran = hub.muster(&args).run();
    let said = format!("{}{}", ran.stdout_text(), ran.stderr);
    assert!(ran.code() != 0 && said.contains(&taken), "{} {said}", ran.code());

    let args = ["hub", "--data-dir", other.to_str().unwrap(), "--grpc-listen", "0.0.0.0:0"];
    let ran = hub.muster(&args).run().with_code(78);
    let said = format!("{}{}", ran.stdout_text(), ran.stderr);
    assert!(said.contains("0.0.0.0") && said.contains("loopback"), "{said}");
    assert_eq!(hub.readiness(), Some(200), "the first one noticed nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_tokens_work_once_within_their_time_and_as_they_are() {
    let hub = TestHub::start();
    let token = hub.join_token(&[]);
    let altered = {
        let (head, last) = token.split_at(token.len() - 1);
        format!("{head}{}", if last == "A" { "B" } else { "A" })
    };
    let short = hub.join_token(&["--ttl", "1s"]);
    let mut first = TestAgent::new(&hub, "web-1", &token, &[]);
    first.start();
    hub.online("web-1").await;
    eventually("a second has passed for the short token", || {
        let tokens = hub.muster(&["token", "ls", "-o", "json"]).run().succeeded().json();
        let now = registry_core::Clock::system().unix_ms();
        let expiry = |token: &serde_json::Value| token["expires_at_unix_ms"].as_u64().unwrap();
        tokens.as_array().unwrap().iter().any(|token| expiry(token) < now).then_some(())
    });
    for (name, token) in [("spent", &token), ("altered", &altered), ("expired", &short)] {
        let mut agent = TestAgent::new(&hub, name, token, &[]);
        agent.start();
        let status = agent.process().wait();
        assert_eq!(status.code(), Some(77), "{name}: {}", agent.log());
        assert!(agent.log().contains("invalid_token"), "{name}: {}", agent.log());
        assert!(!agent.log().contains(token.as_str()), "{name}: the token is in the log");
    }
    let taken = hub.join_token(&[]);
    let mut agent = TestAgent::new(&hub, "web-1", &taken, &[]).filed_as("twin");
    agent.start();
    assert_eq!(agent.process().wait().code(), Some(77), "{}", agent.log());
    assert!(agent.log().contains("name_taken"), "{}", agent.log());
    let names = hub.muster(&["nodes", "ls", "-o", "name"]).run().succeeded();
    assert_eq!(names.stdout_text(), "web-1\n");

    let several = hub.join_token(&["--uses", "2"]);
    for name in ["a", "b"] {
        let mut agent = TestAgent::new(&hub, name, &several, &[]);
        agent.start();
        hub.online(name).await;
    }
}

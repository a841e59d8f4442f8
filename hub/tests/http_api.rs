//! The hub's face towards people and programs, over real ports: HTTP, and the same functions over gRPC.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "http_api/agent.rs"]
mod agent;
#[path = "http_api/control.rs"]
mod control;
#[path = "http_api/reading.rs"]
mod reading;
#[path = "http_api/uploads.rs"]
mod uploads;
#[path = "http_api/views.rs"]
mod views;
#[path = "http_api/world.rs"]
mod world;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use world::{PATIENCE, World, read};

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

#[tokio::test]
async fn nothing_but_the_health_probes_answers_without_a_credential() {
    let world = World::start().await;
    let mut asked = 0;
    for path in muster_hub::http::paths() {
        let open = matches!(path, "/healthz" | "/readyz");
        let path = path.replace("{id}", "any");
        for method in METHODS {
            for credential in [None, Some("muster-admin.1.wrong"), Some("")] {
                let mut request = world.bare(method.clone(), &path);
                if let Some(credential) = credential {
                    request = request.bearer_auth(credential);
                }
                let response = request.send().await.unwrap();
                let (status, headers) = (response.status(), response.headers().clone());
                let body = response.text().await.unwrap();
                assert_eq!(headers["cache-control"], "no-store", "{method} {path}");
                assert_eq!(headers["x-content-type-options"], "nosniff", "{method} {path}");
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    assert!(headers.contains_key("allow"), "{method} {path} does not say what is allowed");
                    assert_eq!(problem(&body)["code"], "method_not_allowed");
                    continue;
                }
                asked += 1;
                if open {
                    assert_eq!((status, method.clone()), (StatusCode::OK, Method::GET), "{path}");
                } else {
                    assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}: {body}");
                    assert_eq!(headers["www-authenticate"], "Bearer");
                    assert_eq!(headers["content-type"], "application/problem+json");
                    assert_eq!(problem(&body)["code"], "unauthenticated");
                }
            }
        }
    }
    assert_eq!(asked, 3 * 19, "every method of every route was asked");
    world.stop().await;
}

fn problem(body: &str) -> Value {
    let problem: Value = serde_json::from_str(body).expect(body);
    for key in ["type", "title", "status", "detail", "code"] {
        assert!(!problem[key].is_null(), "{key} is missing in {body}");
    }
    problem
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_precisely() {
    let world = World::start().await;
    let post = |path: &str| world.request(Method::POST, path);
    let json = |text: &'static str| post("/v1/tasks").header("content-type", "application/json").body(text);
    let get = |path: &str| world.request(Method::GET, path);
    let too_large = json("x").body(vec![b' '; 2 << 20]);
    let cases = [
        (get("/v2/nodes"), 404, "not_found"),
        (get("/v1/nodes/nobody"), 404, "unknown_node"),
        (get("/v1/nodes?selector=a%3D%3D%3Db"), 400, "invalid_selector"),
        (get("/v1/nodes?colour=red"), 400, "invalid_argument"),
        (get("/v1/nodes?page_size=-1"), 400, "invalid_argument"),
        (get("/v1/nodes/%FF"), 400, "invalid_argument"),
        (get("/v1/tasks/17"), 400, "invalid_argument"),
        (get("/v1/tasks/01939c5e-7a3b-7c4d-8e5f-0123456789ab"), 404, "unknown_task"),
        (get("/v1/tasks?page_token=x"), 400, "invalid_page_token"),
        (get("/v1/events?since=x"), 400, "invalid_position"),
        (get("/v1/events?nodes=nobody"), 404, "unknown_node"),
        (get("/v1/nodes/nobody/terminal?since=x"), 400, "invalid_cursor"),
        (get("/v1/nodes/nobody/terminal?since=0:0&tail=1"), 400, "invalid_argument"),
        (get("/v1/nodes/nobody/terminal?view=picture"), 400, "invalid_argument"),
        (get("/v1/nodes/nobody/terminal").header("accept", "image/png"), 406, "not_acceptable"),
        (world.request(Method::DELETE, "/v1/tokens/none"), 404, "unknown_token"),
        (json("{\"node\": }"), 400, "invalid_argument"),
        (json("{\"nod\": \"x\"}"), 400, "invalid_argument"),
        (json("{\"argv\": [\"true\"]}"), 400, "invalid_argument"),
        (json("{\"node\": \"nobody\", \"argv\": [\"true\"]}"), 404, "unknown_node"),
        (json("{\"node\": \"x\", \"argv\": [\"true\"], \"command\": \"true\"}"), 400, "invalid_argument"),
        (json("{\"node\": \"x\", \"pty\": {\"rows\": 70000, \"cols\": 1}}"), 400, "invalid_argument"),
        (json("{\"node\": \"x\", \"timeout\": \"soon\"}"), 400, "invalid_argument"),
        (post("/v1/tasks").body("node=x"), 415, "unsupported_media_type"),
        (too_large, 413, "payload_too_large"),
    ];
    for (index, (request, status, code)) in cases.into_iter().enumerate() {
        let (got, problem) = read(request).await;
        assert_eq!((got.as_u16(), problem["code"].as_str()), (status, Some(code)), "case {index}: {problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:muster:error:{code}"));
    }
    let (_, problem) = read(json("{\n  \"node\": }")).await;
    assert_eq!((&problem["line"], &problem["column"]), (&json!("2"), &json!("11")), "{problem}");
    world.stop().await;
}

#[tokio::test]
async fn pages_of_other_places_are_kept_out() {
    let world = World::start().await;
    let port = world.addresses.http.port();
    let list = |host: String| world.request(Method::GET, "/v1/nodes").header("host", host);
    for good in ["localhost", "localhost:1", "127.0.0.1", "[::1]:80", "muster.localhost"] {
        assert_eq!(read(list(good.to_owned())).await.0, StatusCode::OK, "{good}");
    }
    for bad in [format!("evil.example:{port}"), "192.168.1.2".to_owned(), "localhost.evil.example".to_owned()]
    {
        let (status, problem) = read(list(bad.clone())).await;
        assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")), "{bad}");
    }
    let create = |origin: &str| world.request(Method::POST, "/v1/tokens").header("origin", origin);
    let own = format!("http://127.0.0.1:{port}");
    assert_eq!(read(create(&own)).await.0, StatusCode::CREATED);
    for bad in ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1"] {
        assert_eq!(read(create(bad)).await.0, StatusCode::FORBIDDEN, "{bad}");
    }
    world.stop().await;
}

#[tokio::test]
async fn nodes_are_listed_shown_and_deleted() {
    let world = World::start().await;
    let (agent, _other) = (world.agent("one").await, world.agent("three").await);
    let (status, page) = world.get("/v1/nodes?selector=role%3Dweb&page_size=1").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(page["nodes"][0]["name"], "one");
    assert_eq!(page["nodes"][0]["status"], "online");
    assert_eq!(page["nodes"].as_array().unwrap().len(), 1);
    assert!(page["position"].as_str().unwrap().contains('.'));
    let next = page["next_page_token"].as_str().unwrap();
    let (_, page) = world.get(&format!("/v1/nodes?page_size=1&page_token={next}")).await;
    assert_eq!((&page["nodes"][0]["name"], &page["next_page_token"]), (&json!("three"), &Value::Null));
    assert_eq!(world.get("/v1/nodes?selector=role%3Ddb").await.1["nodes"], json!([]));

    let (_, by_name) = world.get("/v1/nodes/one").await;
    let (_, by_id) = world.get(&format!("/v1/nodes/{}", agent.node_id)).await;
    assert_eq!(by_name["node_id"], by_id["node_id"]);
    assert_eq!(by_name["labels"], json!({ "role": "web" }));
    assert_eq!(read(world.request(Method::DELETE, "/v1/nodes/one")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(world.get("/v1/nodes/one").await.0, StatusCode::NOT_FOUND);
    world.stop().await;
}

#[tokio::test]
async fn tokens_are_shown_once() {
    let world = World::start().await;
    let (status, made) = world.post("/v1/tokens", json!({ "ttl": "10m", "uses": 3 })).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let text = made["token"].as_str().unwrap();
    let view = &made["view"];
    let lives = view["expires_at_unix_ms"].as_u64().unwrap() - view["created_at_unix_ms"].as_u64().unwrap();
    assert_eq!((lives, &view["uses"], &view["used"]), (600_000, &json!(3), &json!(0)));
    let (_, list) = world.get("/v1/tokens").await;
    assert_eq!(list["tokens"], json!([view]));
    let secret = text.rsplit('.').next().unwrap();
    assert!(!list.to_string().contains(secret));
    let path = format!("/v1/tokens/{}", view["token_id"].as_str().unwrap());
    assert_eq!(read(world.request(Method::DELETE, &path)).await.0, StatusCode::NO_CONTENT);
    assert_eq!(world.get("/v1/tokens").await.1["tokens"], json!([]));
    world.stop().await;
}

#[tokio::test]
async fn a_task_is_made_waited_for_and_digested() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    let task = world.run("one", &["say", "\x1b[1mhel", "lo\x1b[m wor", "ld\n"]).await;
    assert_eq!(task["state"], "ended", "{task}");
    assert_eq!((&task["outcome"], &task["exit_code"]), (&json!("exited"), &json!(0)));
    assert_eq!((&task["head"], &task["tail"]), (&json!("hello world\n"), &json!("")));
    assert_eq!((&task["omitted_bytes"], &task["complete"]), (&json!(0), &json!(true)));
    assert_eq!(task["output_bytes"], 12 + 7);
    assert_eq!(task["cursor"], task["last"], "read on after its end");

    let task = world.run("one", &["fail", "3"]).await;
    assert_eq!((&task["outcome"], &task["exit_code"]), (&json!("exited"), &json!(3)));

    let long = "x".repeat(50_000);
    let task = world.run("one", &["say", "begin", &long, &long, "end"]).await;
    let (head, tail) = (task["head"].as_str().unwrap(), task["tail"].as_str().unwrap());
    assert!(head.starts_with("begin") && tail.ends_with("end"));
    assert_eq!((head.len(), tail.len()), (4096, 4096), "8 KiB by default");
    assert_eq!(task["omitted_bytes"], 100_008 - 8192);
    let path = format!("/v1/tasks/{}?max_bytes=10", task["task_id"].as_str().unwrap());
    let (_, again) = world.get(&path).await;
    assert_eq!((&again["head"], &again["tail"]), (&json!("begin"), &json!("xxend")));
    world.stop().await;
}

#[tokio::test]
async fn a_retried_request_is_one_task() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    let create = |argv: &[&str]| {
        let body = json!({ "node": "one", "argv": argv, "queue_ttl": "1m" });
        world.request(Method::POST, "/v1/tasks").header("idempotency-key", "k1").json(&body)
    };
    let response = create(&["say", "a"]).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let first: Value = response.json().await.unwrap();
    assert_eq!(location, format!("/v1/tasks/{}", first["task_id"].as_str().unwrap()));
    assert!(first.get("head").is_none(), "who does not wait is told no output");
    let (_, second) = read(create(&["say", "a"])).await;
    assert_eq!(second["task_id"], first["task_id"]);
    let (status, problem) = read(create(&["say", "b"])).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("idempotency_key_reused")));
    let (_, list) = world.get("/v1/tasks?node=one").await;
    assert_eq!(list["tasks"].as_array().unwrap().len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn a_running_task_is_typed_into_resized_and_cancelled() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    let body = json!({ "node": "one", "command": "cat", "pty": { "rows": 24, "cols": 80 } });
    let (_, task) = world.post("/v1/tasks", body).await;
    assert_eq!(task["spec"]["argv"], json!(["/bin/sh", "-c", "cat"]));
    let path = format!("/v1/tasks/{}", task["task_id"].as_str().unwrap());
    until_state(&world, &path, "running").await;

    let stdin = format!("{path}/stdin");
    let (status, answer) = world.post(&stdin, json!({ "offset": 0, "text": "hé" })).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({ "offset": 3 })));
    let bytes = world.request(Method::POST, &format!("{stdin}?offset=3"));
    let (_, answer) = read(bytes.header("content-type", "application/octet-stream").body("llo")).await;
    assert_eq!(answer, json!({ "offset": 6 }));
    let (status, problem) = world.post(&stdin, json!({ "offset": 9, "data_base64": "/w==" })).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("stdin_gap")), "{problem}");
    let (_, problem) = world.post(&stdin, json!({ "text": "no offset" })).await;
    assert_eq!((&problem["code"], &problem["field"]), (&json!("invalid_argument"), &json!("offset")));

    let (status, _) = world.post(&format!("{path}/resize"), json!({ "rows": 50, "cols": 100 })).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, _) = read(world.request(Method::POST, &format!("{path}/cancel"))).await;
    assert_eq!(status, StatusCode::OK, "a body is not needed");
    let (_, task) = world.get(&format!("{path}?wait=30s")).await;
    assert_eq!((&task["outcome"], &task["head"]), (&json!("cancelled"), &json!("héllo50x100\n")), "{task}");
    let (status, problem) = world.post(&stdin, json!({ "offset": 6, "text": "x" })).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("task_not_running")));
    world.stop().await;
}

async fn until_state(world: &World, path: &str, state: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (_, task) = world.get(path).await;
        if task["state"] == state {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{task}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn whoever_waits_is_answered_when_the_hub_drains() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    let waiting = world.request(Method::POST, "/v1/tasks?wait=10m");
    let waiting = tokio::spawn(waiting.json(&json!({ "node": "one", "argv": ["cat"] })).send());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while world.get("/v1/tasks?active=true").await.1["tasks"] == json!([]) {
        assert!(tokio::time::Instant::now() < deadline);
    }
    world.drain();
    let response = waiting.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let task: Value = response.json().await.unwrap();
    assert_ne!(task["state"], "ended", "how it stands, not a lie: {task}");
    world.stop().await;
}

#[tokio::test]
async fn the_hub_tells_how_it_is() {
    let world = World::start().await;
    let (healthz, readyz) = (world.bare(Method::GET, "/healthz"), world.bare(Method::GET, "/readyz"));
    assert_eq!(healthz.send().await.unwrap().text().await.unwrap(), "alive\n");
    assert_eq!(readyz.send().await.unwrap().text().await.unwrap(), "ready\n");
    let _ = world.get("/v1/nodes/nobody").await;
    let metrics = world.request(Method::GET, "/metrics").send().await.unwrap();
    assert!(metrics.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = metrics.text().await.unwrap();
    assert!(text.contains("muster_requests_total{transport=\"http\",code=\"unknown_node\"} 1\n"), "{text}");
    world.stop().await;
}

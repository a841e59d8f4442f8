//! What is logged is changed while the hub runs, by who may, for a time.

use muster_proto::v1 as pb;
use muster_tests::{Control, TestHub, error_code, eventually, eventually_async};
use reqwest::Method;
use serde_json::json;

fn audited(hub: &TestHub) -> Vec<String> {
    let path = hub.data_dir().join("muster.db");
    let records = rusqlite::Connection::open(path).unwrap();
    let mut query =
        records.prepare("SELECT detail FROM audit WHERE action = 'log_filter.write' ORDER BY at").unwrap();
    let rows = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_filter_is_changed_while_the_hub_runs_and_comes_back() {
    let hub = TestHub::start_with(&["--log", "info"]);
    let shown = hub.muster(&["hub-log"]).run().succeeded();
    assert_eq!(shown.stdout_text(), "info\n");
    let debugs = || hub.log().matches("\"level\":\"DEBUG\"").count();
    let _ = hub.muster(&["nodes", "ls"]).run().succeeded();
    assert_eq!(debugs(), 0);

    let shown = hub.muster(&["hub-log", "debug", "--for", "1h"]).run().succeeded();
    assert!(shown.stdout_text().starts_with("debug for "), "{}", shown.stdout_text());
    eventually("a line of that level is logged", || {
        let _ = hub.muster(&["nodes", "ls"]).run().succeeded();
        (debugs() > 0).then_some(())
    });
    let shown = hub.muster(&["hub-log", "-o", "json"]).run().succeeded().json();
    assert_eq!((&shown["filter"], &shown["start_filter"]), (&json!("debug"), &json!("info")));

    let shown = hub.muster(&["hub-log", "--reset"]).run().succeeded();
    assert_eq!(shown.stdout_text(), "info\n");
    // Its time passes by itself.
    let _ = hub.muster(&["hub-log", "warn,muster_hub=trace", "--for", "1s"]).run().succeeded();
    eventually_async("the start's filter is back", async || {
        let shown = hub.http().get("/v1/log-filter").await.json();
        (shown == json!({ "filter": "info", "start_filter": "info", "until_unix_ms": 0 })).then_some(())
    })
    .await;
    eventually("every change is in the audit log", || {
        let lines = audited(&hub);
        (lines.len() == 3 && lines[0].contains("debug") && lines[2].contains("muster_hub=trace"))
            .then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_that_cannot_be_read_change_nothing_and_are_refused_with_advice() {
    let hub = TestHub::start_with(&["--log", "info"]);
    let http = hub.http();
    for (body, said) in [
        (json!({ "filter": "inof" }), "inof"),
        (json!({ "filter": "info,muster_hub=loud" }), "loud"),
        (json!({ "filter": "debug", "for": "30d" }), "24h"),
        (json!({ "filter": "debug", "surprise": 1 }), "surprise"),
    ] {
        let answer = http.send(http.request(Method::PUT, "/v1/log-filter").json(&body)).await;
        assert_eq!(answer.refusal(), (400, "invalid_argument".to_owned()), "{body}");
        assert!(answer.text().contains(said), "{}", answer.text());
    }
    let ran = hub.muster(&["hub-log", "inof"]).run().with_code(1);
    assert!(ran.stderr.contains("muster_hub=debug"), "{}", ran.stderr);
    assert_eq!(hub.muster(&["hub-log"]).run().succeeded().stdout_text(), "info\n");
    // A filter that cannot be read is refused at the start too.
    let args = ["hub", "--data-dir", "never", "--log", "inof"];
    let ran = hub.muster(&args).run().with_code(78);
    assert!(ran.stderr.contains("inof"), "{}", ran.stderr);

    let stranger = Control::new(hub.grpc(), "x");
    let refused = stranger.client().set_log_filter(pb::SetLogFilterRequest::default()).await.unwrap_err();
    assert_eq!(error_code(&refused), "unauthenticated");
    let refused = stranger.client().get_log_filter(pb::GetLogFilterRequest {}).await.unwrap_err();
    assert_eq!(error_code(&refused), "unauthenticated");
}

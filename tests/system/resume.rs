//! Streams of server-sent events that are cut and resumed: the union is exact.

use muster_proto::v1::TaskState;
use muster_tests::{Events, Http, ServerSent, TestHub, eventually_async, random_below};
use registry_core::Cursor;
use tokio::sync::watch;

use crate::fleet_of_one;

/// Reads with a cut after every few events, resuming by the last id, until `done` says so of an event. It stays away
/// until `ahead` says that there is more than it has seen, so that every resume has something to make up for.
async fn read_with_cuts(
    http: &Http,
    path: &str,
    done: impl Fn(&ServerSent) -> bool,
    ahead: impl AsyncFn(&[ServerSent]) -> bool,
) -> (Vec<ServerSent>, u32) {
    let mut all: Vec<ServerSent> = Vec::new();
    let (mut last, mut cuts) = (None::<String>, 0);
    loop {
        let mut events = http.events(path, last.as_deref()).await;
        let mut left = 1 + random_below(12);
        while left > 0 {
            let Some(event) = events.next().await else { break };
            if !event.id.is_empty() {
                last = Some(event.id.clone());
            }
            if matches!(event.event.as_str(), "caught_up" | "start") {
                continue;
            }
            left -= 1;
            let over = done(&event);
            all.push(event);
            if over {
                return (all, cuts);
            }
        }
        cuts += 1;
        drop(events);
        eventually_async("events go on without the reader", async || ahead(&all).await.then_some(())).await;
    }
}

async fn read_through(
    mut events: Events,
    done: impl Fn(&ServerSent) -> bool,
    count: &watch::Sender<usize>,
) -> Vec<ServerSent> {
    let mut all = Vec::new();
    loop {
        let event = events.next().await.expect("the stream goes on");
        if matches!(event.event.as_str(), "caught_up" | "start") {
            continue;
        }
        let over = done(&event);
        all.push(event);
        // As if all had come, once it has.
        count.send_replace(if over { usize::MAX } else { all.len() });
        if over {
            return all;
        }
    }
}

async fn position(hub: &TestHub) -> String {
    let listed =
        hub.control().client().list_nodes(muster_proto::v1::ListNodesRequest::default()).await.unwrap();
    listed.into_inner().position
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_cut_at_random_places_resumes_without_loss_or_repetition() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let path = format!("/v1/events?output=true&since={}", position(&hub).await);
    let script = "i=0; while [ $i -lt 150 ]; do i=$((i+1)); echo line-$i-; sleep 0.01; done";
    let task = hub.control().task("web-1", &["sh", "-c", script]).await.unwrap().task_id;
    let done = |event: &ServerSent| {
        event.event == "task"
            && event.json()["task"]["task_id"] == *task
            && event.json()["task"]["state"] == "ended"
    };
    let http = hub.http();
    let (count, counted) = watch::channel(0);
    let through = read_through(http.events(&path, None).await, done, &count);
    let ahead = async |seen: &[ServerSent]| *counted.borrow() >= seen.len() + 4;
    let (whole, (pieces, cuts)) = tokio::join!(through, read_with_cuts(&http, &path, done, ahead));
    assert!(cuts >= 5, "{cuts} cuts of {} events", pieces.len());
    let ids = |events: &[ServerSent]| events.iter().map(|event| event.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&pieces), ids(&whole));
    // The time of telling differs; the content does not.
    let content = |event: &ServerSent| {
        let mut data = event.json();
        data.as_object_mut().unwrap().remove("at_unix_ms");
        (event.event.clone(), data)
    };
    assert!(pieces.iter().map(content).eq(whole.iter().map(content)), "the same events carry the same data");
    assert!(!pieces.iter().any(|event| event.event == "gap"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_stream_cut_at_random_places_resumes_at_the_same_byte() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let script = "i=0; while [ $i -lt 150 ]; do i=$((i+1)); echo line-$i-; sleep 0.01; done; echo last";
    let task = hub.control().task("web-1", &["sh", "-c", script]).await.unwrap().task_id;
    let path = format!("/v1/nodes/web-1/terminal?follow=true&task={task}");
    let control = hub.control();
    let ahead = async |seen: &[ServerSent]| {
        let last: Cursor = seen.last().unwrap().id.parse().unwrap();
        let over = control.get(&task).await.unwrap().state() == TaskState::Ended;
        let head = control.node("web-1").await.unwrap().head;
        over || head.is_some_and(|head| head.seq >= last.seq + 4)
    };
    let done = |event: &ServerSent| event.event == "ended";
    let (pieces, cuts) = read_with_cuts(&hub.http(), &path, done, ahead).await;
    assert!(cuts >= 3, "{cuts} cuts of {} events", pieces.len());
    let text: String =
        pieces.iter().filter_map(|event| event.json()["text"].as_str().map(str::to_owned)).collect();
    let expected: String = (1..=150).map(|i| format!("line-{i}-\n")).chain(["last\n".to_owned()]).collect();
    assert_eq!(text, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_of_another_incarnation_is_answered_with_a_gap() {
    let (mut hub, _agent) = fleet_of_one("web-1").await;
    let old = position(&hub).await;
    hub.kill9();
    hub.restart();
    let mut events = hub.http().events(&format!("/v1/events?since={old}"), None).await;
    let first = events.next().await.unwrap();
    assert_eq!(first.event, "gap", "{first:?}");
    assert!(first.json()["missed"].is_null(), "how much was missed is not known: {first:?}");

    // A terminal's cursor means the same to every run of the hub.
    hub.online("web-1").await;
    hub.muster(&["exec", "web-1", "--", "echo", "after"]).run().succeeded();
    let ran = hub.muster(&["logs", "web-1", "--view", "raw", "--since", "0:0"]).run().succeeded();
    assert_eq!(ran.stdout_text(), "after\n");
}

//! One identity, several claimants: the newest attachment wins, and two that fight are reported.

use muster_proto::v1::watch_events_response::Event;
use muster_proto::v1::{self as pb, NodeStatus};
use muster_tests::{TestHub, eventually};

use crate::fleet_of_one;

/// What is told of a node from now on, collected until the stream is dropped.
async fn watch_node(hub: &TestHub) -> tokio::sync::mpsc::UnboundedReceiver<pb::NodeView> {
    let mut stream =
        hub.control().client().watch_events(pb::WatchEventsRequest::default()).await.unwrap().into_inner();
    let (tx, rx) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(Some(message)) = stream.message().await {
            if let Some(Event::NodeChanged(view)) = message.event
                && tx.send(view).is_err()
            {
                return;
            }
        }
    });
    rx
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_identity_is_reported_and_the_node_is_never_shown_offline() {
    let (hub, agent) = fleet_of_one("web-1").await;
    let first = hub.control().node("web-1").await.unwrap();
    let mut views = watch_node(&hub).await;
    let mut copy = agent.copy("copied-agent");
    copy.start();

    let mut epoch = first.epoch;
    let cloned = loop {
        let view = tokio::time::timeout(muster_tests::PATIENCE, views.recv()).await.unwrap().unwrap();
        assert_eq!(view.status(), NodeStatus::Online, "a stale stream's end took the node offline");
        assert!(view.epoch >= epoch, "epochs only grow: {} after {epoch}", view.epoch);
        epoch = view.epoch;
        if view.clone_suspected {
            break view;
        }
    };
    assert!(cloned.epoch >= first.epoch + 3, "it takes more than one takeover: {}", cloned.epoch);
    for agent in [&agent, &copy] {
        eventually("both agents say that they were superseded", || {
            agent.log().to_lowercase().contains("another agent").then_some(())
        });
    }
    eventually("the hub says so in its log", || hub.log().contains("clone").then_some(()));
    assert!(hub.http().metric("muster_clones_suspected_total").await >= 1.0);
    let shown = hub.muster(&["nodes", "get", "web-1", "-o", "json"]).run().succeeded().json();
    assert_eq!(shown["clone_suspected"], true, "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_restarts_again_and_again_is_no_clone() {
    let (hub, mut agent) = fleet_of_one("web-1").await;
    for _ in 0..5 {
        let epoch = hub.control().node("web-1").await.unwrap().epoch;
        // No goodbye: the hub may still hold the old session when the new one comes.
        agent.kill9();
        agent.start();
        let view = muster_tests::eventually_async("the agent is back", async || {
            hub.control().node("web-1").await.ok().filter(|view| view.epoch > epoch)
        })
        .await;
        assert!(!view.clone_suspected);
    }
    assert_eq!(hub.http().metric("muster_clones_suspected_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_on_the_same_folder_does_not_start() {
    let (hub, agent) = fleet_of_one("web-1").await;
    let state = agent.state_dir();
    let url = format!("http://{}", hub.grpc());
    let ran =
        hub.muster(&["agent", "--hub", &url, "--state-dir", state.to_str().unwrap()]).run().with_code(75);
    let said = format!("{}{}", ran.stdout_text(), ran.stderr);
    assert!(said.contains("another agent already runs"), "{said}");
}

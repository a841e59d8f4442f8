//! Readers that vanish leave nothing behind.

use muster_proto::v1 as pb;
use muster_tests::{Control, eventually_async};

use crate::fleet_of_one;

/// Streams on one gRPC connection: below the hub's limit.
const STREAMS_A_CONNECTION: usize = 90;
const CONNECTIONS: usize = 10;
const SSE: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_readers_that_vanish_are_forgotten() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let http = hub.http();
    let before = http.metric("muster_bus_subscriptions").await;
    let connections = http.metric("muster_connections").await;

    let mut grpc = Vec::new();
    for _ in 0..CONNECTIONS {
        let control = Control::new(hub.grpc(), &hub.credential());
        for _ in 0..STREAMS_A_CONNECTION {
            let request = pb::WatchEventsRequest { output: true, ..pb::WatchEventsRequest::default() };
            grpc.push(control.client().watch_events(request).await.unwrap().into_inner());
        }
    }
    let mut sse = Vec::new();
    for _ in 0..SSE {
        sse.push(hub.http().events("/v1/events", None).await);
    }
    let readers = (CONNECTIONS * STREAMS_A_CONNECTION + SSE) as f64;
    assert_eq!(http.metric("muster_bus_subscriptions").await, before + readers);

    drop(grpc);
    drop(sse);
    eventually_async("the subscriptions are gone", async || {
        (http.metric("muster_bus_subscriptions").await == before).then_some(())
    })
    .await;
    eventually_async("the connections are gone", async || {
        (http.metric("muster_connections").await <= connections).then_some(())
    })
    .await;
    hub.muster(&["exec", "web-1", "--", "true"]).run().succeeded();
}

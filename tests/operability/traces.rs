//! Traces reach a collector where one is named, and hold nothing up where it is deaf or away.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use muster_tests::home::free_port;
use muster_tests::{TestHub, eventually, eventually_async};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// A collector: everything that was sent to it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (collector, endpoint)
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap();
        let scopes =
            requests.iter().flat_map(|request| &request.resource_spans).flat_map(|of| &of.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    fn resource(&self) -> Vec<KeyValue> {
        self.0.lock().unwrap()[0].resource_spans[0].resource.clone().unwrap().attributes
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        other => Some(format!("{other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_traced_from_the_call_to_its_end() {
    let (collector, endpoint) = Collector::start().await;
    let hub = TestHub::start_with(&["--otlp-endpoint", &endpoint]);
    let _agent = hub.agent("web-1");
    let node = hub.online("web-1").await;
    let control = hub.control();
    let task = control.task("web-1", &["sh", "-c", "echo traced; exit 3"]).await.unwrap().task_id;
    control.ended(&task).await;
    let _ = hub.http().get("/v1/nodes/web-1").await.json();

    let life = eventually("the task's span arrives", || {
        let is_its = |span: &Span| {
            span.name == "task" && text(&span.attributes, "muster.task.id").as_ref() == Some(&task)
        };
        collector.spans().into_iter().find(is_its)
    });
    assert_eq!(text(&life.attributes, "muster.node.id"), Some(node.node_id));
    assert_eq!(text(&life.attributes, "muster.task.outcome").as_deref(), Some("exited"));
    assert!(life.end_time_unix_nano >= life.start_time_unix_nano);
    let expected = [
        "muster.v1.ControlService/CreateTask",
        "store.create_task",
        "log.append",
        "write_behind",
        "GET /v1/nodes/{id}",
    ];
    let expected: BTreeSet<_> = expected.into_iter().map(str::to_owned).collect();
    let spans = eventually("every kind of span arrives", || {
        let spans = collector.spans();
        let names: BTreeSet<_> = spans.iter().map(|span| span.name.clone()).collect();
        expected.is_subset(&names).then_some(spans)
    });
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (call, written) = (named("muster.v1.ControlService/CreateTask"), named("store.create_task"));
    assert_eq!((&written.trace_id, &written.parent_span_id), (&call.trace_id, &call.span_id));
    assert_eq!(text(&call.attributes, "code").as_deref(), Some("ok"));

    let resource = collector.resource();
    assert_eq!(text(&resource, "service.name").as_deref(), Some("muster-hub"));
    let ready = hub.log().lines().find(|line| line.contains("hub ready")).unwrap().to_owned();
    assert!(ready.contains(&text(&resource, "service.instance.id").unwrap()), "{resource:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_deaf_or_away_holds_nothing_up() {
    // It takes connections and never reads from them.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = free_port();
    for address in [deaf.local_addr().unwrap().to_string(), format!("127.0.0.1:{away}")] {
        let mut hub = TestHub::start_with(&["--otlp-endpoint", &format!("http://{address}")]);
        let _agent = hub.agent("web-1");
        hub.online("web-1").await;
        for _ in 0..50 {
            let _ = hub.http().get("/v1/nodes/web-1").await.json();
        }
        let ran = hub.muster(&["exec", "web-1", "--", "echo", "on"]).run().succeeded();
        assert_eq!(ran.stdout_text(), "on\n");
        assert!(hub.terminate().success(), "{}", hub.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_endpoint_nothing_is_sent_and_a_bad_one_is_refused() {
    let (collector, endpoint) = Collector::start().await;
    let hub = TestHub::start();
    // The variables of the library are not options of the hub.
    let shown = hub.muster(&["hub", "--print-config", "-o", "json"]);
    let shown = shown.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_ref()).run().succeeded().json();
    let option = shown.as_array().unwrap().iter().find(|option| option["option"] == "otlp-endpoint").unwrap();
    assert_eq!(option["source"], "unset");
    let other = hub.home().join("other");
    let args = ["hub", "--data-dir", other.to_str().unwrap(), "--otlp-endpoint", "collector:4317"];
    let ran = hub.muster(&args).run().with_code(78);
    assert!(ran.stderr.contains("--otlp-endpoint"), "{}", ran.stderr);
    eventually_async("the hub answers", async || (hub.readiness() == Some(200)).then_some(())).await;
    assert!(collector.spans().is_empty());
}

//! Traces by OpenTelemetry's protocol (OTLP), where an operator asks for them: spans of requests, tasks, commits and
//! flushes, sent in batches by a thread of their own.
//!
//! A span costs nothing while nobody asked for traces. Otherwise it is put into a bounded queue: one that finds the
//! queue full is dropped. Nothing ever waits for the collector.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Span as _, SpanKind, Tracer as _, TracerProvider as _};
use opentelemetry::{KeyValue, trace::Status};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider};
use registry_core::TaskOutcome;
use tracing::Metadata;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::{Layer, reload};

use super::Lines;
use crate::error::{ErrorCode, HubError};
use crate::store::TaskRow;
use crate::store::open::without_password;

/// The target of the hub's spans. They are of level debug, so that a log at info does not pay for them.
pub(crate) const SPANS: &str = "muster_hub::span";
/// What the hub is called in traces.
const SERVICE: &str = "muster-hub";
/// Spans that wait to be sent; beyond that they are dropped. A few MiB at most.
const QUEUED_SPANS: usize = 8192;
/// Spans in one message.
const BATCH_SPANS: usize = 512;
/// How long a span waits for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How long a collector may take to answer.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the last spans to be sent.
const FAREWELL: Duration = Duration::from_secs(2);

type Exported = Option<OpenTelemetryLayer<Lines, SdkTracer>>;

/// Where the process's spans go to, once a hub has said whose they are.
static SLOT: OnceLock<reload::Handle<Exported, Lines>> = OnceLock::new();
/// For spans whose begin is known only at their end.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// The traces of a running hub.
#[derive(Debug)]
pub(crate) struct Traces(Option<SdkTracerProvider>);

/// A place for spans beside the log, to be filled by [`Traces::start`].
pub(super) fn layer() -> impl Layer<Lines> + Send + Sync {
    let (slot, handle) = reload::Layer::new(None);
    let _ = SLOT.set(handle);
    slot.with_filter(only_spans())
}

fn only_spans() -> FilterFn {
    let is_ours: fn(&Metadata<'_>) -> bool = |metadata| metadata.is_span() && metadata.target() == SPANS;
    FilterFn::new(is_ours).with_max_level_hint(LevelFilter::DEBUG)
}

/// Refuses an endpoint that no collector can have.
///
/// # Errors
/// [`ErrorCode::Config`].
pub(crate) fn check(endpoint: &str) -> Result<(), HubError> {
    if endpoint.starts_with("http://") || endpoint.starts_with("https://") {
        return Ok(());
    }
    let shown = without_password(endpoint);
    let what =
        format!("--otlp-endpoint {shown} is no collector's address: give http://HOST:4317, or https://");
    Err(HubError::new(ErrorCode::Config, what))
}

impl Traces {
    /// Begins to send spans to a collector, if there is an endpoint. A collector that is not there is no error: its
    /// spans are dropped, and a log line says so.
    ///
    /// # Errors
    /// [`ErrorCode::Config`] for an endpoint that cannot be used.
    pub(crate) fn start(endpoint: Option<&str>, hub_id: &str) -> Result<Self, HubError> {
        let Some(endpoint) = endpoint else { return Ok(Self(None)) };
        let Some(slot) = SLOT.get() else {
            tracing::warn!("no traces are sent: this hub runs inside a program that did not ask for them");
            return Ok(Self(None));
        };
        let exporter =
            SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT).build();
        let exporter = exporter.map_err(|error| {
            HubError::new(
                ErrorCode::Config,
                format!("--otlp-endpoint {}: {error}", without_password(endpoint)),
            )
        })?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUED_SPANS)
            .with_max_export_batch_size(BATCH_SPANS)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", SERVICE),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", hub_id.to_owned()),
            ])
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_resource(resource)
            .build();
        let tracer = provider.tracer(SERVICE);
        let _ = TRACER.set(tracer.clone());
        let layer = OpenTelemetryLayer::new(tracer).with_location(false).with_threads(false);
        slot.reload(Some(layer)).map_err(HubError::fault)?;
        Ok(Self(Some(provider)))
    }

    /// Sends what is left, for a moment.
    pub(crate) async fn finish(self) {
        let Some(provider) = self.0 else { return };
        let finished = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FAREWELL)).await;
        if let Ok(Err(error)) = finished {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// A task's whole life as one span, at its end.
pub(crate) fn task_ended(row: &TaskRow) {
    let (Some(tracer), Some(end)) = (TRACER.get(), &row.end) else { return };
    let at = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    let mut attributes = vec![
        KeyValue::new("muster.task.id", row.id.to_string()),
        KeyValue::new("muster.node.id", row.node.to_string()),
        KeyValue::new("muster.task.outcome", end.outcome.as_str()),
    ];
    attributes.extend(end.exit_code.map(|code| KeyValue::new("process.exit_code", i64::from(code))));
    let mut span = tracer
        .span_builder("task")
        .with_kind(SpanKind::Internal)
        .with_start_time(at(row.created_at_unix_ms))
        .with_attributes(attributes)
        .start(tracer);
    if end.outcome != TaskOutcome::Exited || end.exit_code != Some(0) {
        span.set_status(Status::error(end.outcome.as_str()));
    }
    span.end_with_timestamp(at(row.ended_at_unix_ms.max(row.created_at_unix_ms)));
}

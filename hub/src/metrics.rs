//! What the hub counts, and how it tells Prometheus.
//!
//! Names are `muster_<noun>_<unit>_total`. A label has a small fixed set of values (codes, ports, reasons), never a
//! node's id: the size of the answer does not grow with the fleet. Handles are plain atomics; values that live
//! elsewhere (the registry, the bus, the ingest buffers) are copied in when a scrape asks, by the functions given to
//! [`Metrics::on_scrape`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use registry_core::{GapReason, TaskOutcome};

use crate::error::ErrorCode;

/// The content type of [`Metrics::render`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A gauge with a fraction, for seconds.
pub type SecondsGauge = Gauge<f64, AtomicU64>;

/// Fills in values that live elsewhere; called at each scrape.
pub type ScrapeHook = Box<dyn Fn(&Metrics) + Send + Sync>;

/// One label: a stable code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    /// A code of the error table, or `ok`.
    pub code: &'static str,
}

/// One label: why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// One of a fixed set of words.
    pub reason: &'static str,
}

/// One label: how a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// [`TaskOutcome::as_str`](registry_core::TaskOutcome::as_str).
    pub outcome: &'static str,
}

/// One label: which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PortLabel {
    /// `grpc` or `http`.
    pub port: &'static str,
}

/// One label: which view of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ViewLabel {
    /// `commands`, `screen` or `search`.
    pub view: &'static str,
}

/// Which port, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PortReasonLabels {
    /// `grpc` or `http`.
    pub port: &'static str,
    /// One of a fixed set of words.
    pub reason: &'static str,
}

/// Through which translator, and with what answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `grpc` or `http`.
    pub transport: &'static str,
    /// A code of the error table, or `ok`.
    pub code: &'static str,
}

macro_rules! metrics {
    ($($field:ident: $kind:ty, $help:literal;)+) => {
        /// Every metric of the hub, as typed handles.
        pub struct Metrics {
            registry: Registry,
            hooks: Mutex<Vec<Arc<ScrapeHook>>>,
            $(#[doc = $help] pub $field: $kind,)+
        }

        impl Metrics {
            /// A set of metrics at zero.
            #[must_use]
            pub fn new() -> Arc<Self> {
                let mut registry = Registry::with_prefix("muster");
                $(let $field = <$kind as Fresh>::fresh();
                register(&mut registry, stringify!($field), $help, &$field);)+
                let metrics = Self { registry, hooks: Mutex::new(Vec::new()), $($field,)+ };
                metrics.begin_at_zero();
                Arc::new(metrics)
            }
        }
    };
}

metrics! {
    nodes_registered: Gauge, "Nodes that the hub knows";
    nodes_online: Gauge, "Nodes with an attached session";
    sessions_attached_total: Counter, "Sessions that were attached";
    sessions_superseded_total: Counter, "Sessions that were displaced by a newer one of the same node";
    sessions_refused_total: Family<CodeLabel, Counter>, "Sessions that were refused, by code";
    lease_expired_total: Counter, "Sessions that were ended because the node fell silent";
    clones_suspected_total: Counter, "Times that two live agents were seen to take one identity from each other";
    heartbeats_total: Counter, "Heartbeats that were received";
    outbox_full_total: Counter, "Commands that found their node's outbox full";

    frames_received_total: Counter, "Terminal frames that were received, also those received again";
    frames_duplicate_total: Counter, "Terminal frames that were received again";
    output_received_bytes_total: Counter, "Bytes of output that were received, without repetitions";
    pending_bytes: Gauge, "Weight of the frames that wait to become durable";
    pending_dropped_frames_total: Counter, "Frames that the hub dropped from its full buffer, to be asked for again";
    rewinds_total: Counter, "Times that an agent was asked to send frames again";
    gaps_total: Family<ReasonLabel, Counter>, "Gaps that were recorded in terminal logs, by reason";

    log_lost_frames_total: Counter, "Frames that were durable and that the terminal log has no more: wiped, evicted or put back to an older copy";
    log_rewound_total: Counter, "Times that a node's log went back to what the terminal log still had, to be written again from there";
    log_append_seconds: Histogram, "Time from handing frames to the terminal log to their being durable";
    log_bytes: Gauge, "Bytes that the terminal log keeps";
    store_waiting_seconds: SecondsGauge, "How long the store has been held up from outside, for example by another process that locked its file; 0: it is not";
    dirty_nodes: Gauge, "Nodes whose latest state waits to be written to the database";
    dirty_writing_nodes: Gauge, "Nodes whose latest state is being written to the database";
    dirty_oldest_seconds: SecondsGauge, "How long the oldest of these states has been waiting at most; 0: nothing waits";
    dirty_written_total: Counter, "Latest states of nodes that were written";
    dirty_flush_failures_total: Counter, "Failed attempts to write the latest state of nodes";
    dirty_retries_total: Counter, "Attempts to write the latest state of nodes after one that failed";

    tasks_created_total: Counter, "Tasks that were made";
    tasks_ended_total: Family<OutcomeLabel, Counter>, "Tasks that ended, by outcome";
    tasks_active: Gauge, "Tasks that are not over";

    bus_subscriptions: Gauge, "Subscriptions that the bus holds";
    bus_topics: Gauge, "Topics with at least one subscription or a replay ring";
    bus_delivered_total: Counter, "Events that were put into subscriptions";
    bus_missed_total: Counter, "Events that lagging subscribers lost, and were told of";
    bus_closed_stagnant_total: Counter, "Subscriptions that were closed because nobody read them";
    bus_pruned_total: Counter, "Dead subscriptions that were removed";

    views_seconds: Family<ViewLabel, Histogram>, "Time that it took to compute a view of a terminal, or a piece of its text, by view";
    view_screens: Gauge, "Screens that are kept to be fed on from";
    view_screens_bytes: Gauge, "Bytes that these screens hold";

    requests_total: Family<RequestLabels, Counter>, "Requests that were answered, by transport and code";
    connections: Family<PortLabel, Gauge>, "Open connections, by port";
    connections_accepted_total: Family<PortLabel, Counter>, "Connections that were accepted, by port";
    connections_refused_total: Family<PortReasonLabels, Counter>, "Connections that were closed unserved, by port and reason";
    malformed_total: Family<PortLabel, Counter>, "Connections that broke their protocol, by port";
    timed_out_total: Family<PortLabel, Counter>, "Connections that were closed because they did not speak, read or answer in time, by port";
}

impl Metrics {
    /// Adds a function that fills in values which live elsewhere. It must be quick and must not block.
    pub fn on_scrape(&self, hook: ScrapeHook) {
        self.hooks.lock().push(Arc::new(hook));
    }

    /// Makes the series whose labels are known before anything happens: what appears with its first event has no rate
    /// at that event, and an alert on it would miss it.
    fn begin_at_zero(&self) {
        for port in ["grpc", "http"] {
            let label = PortLabel { port };
            let _ = self.connections.get_or_create(&label);
            let _ = self.connections_accepted_total.get_or_create(&label);
            let _ = self.malformed_total.get_or_create(&label);
            let _ = self.timed_out_total.get_or_create(&label);
            for reason in ["too_many_connections", "too_many_pending"] {
                let _ = self.connections_refused_total.get_or_create(&PortReasonLabels { port, reason });
            }
            for code in [ErrorCode::StoreUnavailable.as_str(), ErrorCode::Internal.as_str(), "ok"] {
                let _ = self.requests_total.get_or_create(&RequestLabels { transport: port, code });
            }
        }
        for outcome in TaskOutcome::ALL.map(TaskOutcome::as_str) {
            let _ = self.tasks_ended_total.get_or_create(&OutcomeLabel { outcome });
        }
        for reason in [GapReason::SpoolFull, GapReason::LogLost, GapReason::AgentLost].map(GapReason::as_str)
        {
            let _ = self.gaps_total.get_or_create(&ReasonLabel { reason });
        }
        for view in ["commands", "screen", "search", "text"] {
            let _ = self.views_seconds.get_or_create(&ViewLabel { view });
        }
        let code = ErrorCode::Unauthenticated.as_str();
        let _ = self.sessions_refused_total.get_or_create(&CodeLabel { code });
    }

    /// Everything in the OpenMetrics text format.
    #[must_use]
    pub fn render(&self) -> String {
        // Copied out first: a hook runs foreign code, which no lock of ours may stand around.
        let hooks = self.hooks.lock().clone();
        for hook in hooks {
            hook(self);
        }
        let mut out = String::new();
        match text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            // A String takes everything; there is nothing to do for one that would not.
            Err(fmt::Error) => String::from("# EOF\n"),
        }
    }

    /// Counts an answered request; `code` is `ok` or one of the error table's.
    pub fn request(&self, transport: &'static str, code: &'static str) {
        self.requests_total.get_or_create(&RequestLabels { transport, code }).inc();
    }

    /// Counts a refused session.
    pub fn session_refused(&self, code: &'static str) {
        self.sessions_refused_total.get_or_create(&CodeLabel { code }).inc();
    }

    /// Counts a recorded gap.
    pub fn gap(&self, reason: &'static str) {
        self.gaps_total.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts an ended task.
    pub fn task_ended(&self, outcome: &'static str) {
        self.tasks_ended_total.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a connection or stream that broke its protocol.
    pub fn malformed(&self, port: &'static str) {
        self.malformed_total.get_or_create(&PortLabel { port }).inc();
    }

    /// Counts a connection that was closed unserved.
    pub fn connection_refused(&self, port: &'static str, reason: &'static str) {
        self.connections_refused_total.get_or_create(&PortReasonLabels { port, reason }).inc();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Sets a counter whose true value is kept elsewhere. For scrape hooks only: everything else increments.
pub fn set_counter(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

/// Sets a gauge to a count or a size, and to its limit where that does not fit.
pub fn set_gauge(gauge: &Gauge, value: impl TryInto<i64>) {
    gauge.set(value.try_into().unwrap_or(i64::MAX));
}

/// Registers under the field's name. The encoder adds `_total` to counters itself.
fn register<M>(registry: &mut Registry, field: &str, help: &str, metric: &M)
where
    M: Clone + EncodeMetric + TypedMetric + Send + Sync + fmt::Debug + 'static,
{
    let name = match M::TYPE {
        MetricType::Counter => field.strip_suffix("_total").unwrap_or(field),
        _ => field,
    };
    registry.register(name, help, metric.clone());
}

/// How each kind of metric begins.
trait Fresh {
    fn fresh() -> Self;
}

impl Fresh for Counter {
    fn fresh() -> Self {
        Self::default()
    }
}

impl Fresh for Gauge {
    fn fresh() -> Self {
        Self::default()
    }
}

impl Fresh for SecondsGauge {
    fn fresh() -> Self {
        Self::default()
    }
}

impl<L, M> Fresh for Family<L, M>
where
    L: Clone + std::hash::Hash + Eq,
    M: Fresh,
{
    fn fresh() -> Self {
        Self::new_with_constructor(M::fresh)
    }
}

impl Fresh for Histogram {
    /// 0.25 ms to 8 s: from a commit into a warm cache to a disk that hangs.
    fn fresh() -> Self {
        Self::new(exponential_buckets(0.000_25, 2.0, 16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_units_and_labels_are_as_promised() {
        let metrics = Metrics::new();
        metrics.heartbeats_total.inc();
        metrics.request("http", "unknown_node");
        metrics.task_ended("exited");
        metrics.log_append_seconds.observe(0.001);
        metrics.store_waiting_seconds.set(1.5);
        let text = metrics.render();
        for line in [
            "muster_heartbeats_total 1",
            "muster_requests_total{transport=\"http\",code=\"unknown_node\"} 1",
            "muster_tasks_ended_total{outcome=\"exited\"} 1",
            "muster_log_append_seconds_count 1",
            "muster_store_waiting_seconds 1.5",
            "muster_nodes_online 0",
            "# TYPE muster_pending_bytes gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("_total_total"));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_scrape_asks_the_hooks() {
        let metrics = Metrics::new();
        metrics.on_scrape(Box::new(|metrics| {
            set_gauge(&metrics.nodes_online, 3_usize);
            set_counter(&metrics.bus_delivered_total, 40);
        }));
        assert!(metrics.render().contains("muster_nodes_online 3\n"));
        assert!(metrics.render().contains("muster_bus_delivered_total 40\n"), "a copy, not a sum");
        set_gauge(&metrics.log_bytes, u64::MAX);
        assert_eq!(metrics.log_bytes.get(), i64::MAX);
    }
}

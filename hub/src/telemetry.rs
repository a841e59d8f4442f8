//! How the hub speaks to its operator: log lines, and panics among them.

pub mod filter;
pub(crate) mod traces;

use std::backtrace::Backtrace;
use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Filtered;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layered, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};
use uuid::Uuid;

use crate::error::{ErrorCode, HubError};

/// The process's log lines, with their filter.
type Lines = Layered<
    Filtered<Box<dyn Layer<Registry> + Send + Sync>, reload::Layer<EnvFilter, Registry>, Registry>,
    Registry,
>;

/// What log lines look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Readable when the target is a terminal, JSON when it is not.
    #[default]
    Auto,
    /// One JSON object on one line for each event.
    Json,
    /// For people.
    Text,
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output: a server's place for its log.
    #[default]
    Stdout,
    /// Standard error: for commands whose standard output is their answer.
    Stderr,
}

impl LogTarget {
    fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => std::io::stdout().is_terminal(),
            Self::Stderr => std::io::stderr().is_terminal(),
        }
    }

    fn writer(self) -> BoxMakeWriter {
        match self {
            Self::Stdout => BoxMakeWriter::new(std::io::stdout),
            Self::Stderr => BoxMakeWriter::new(std::io::stderr),
        }
    }
}

/// Starts logging for the whole process, and has panics logged with an error id.
///
/// `filter` is a level (`info`) or directives (`info,muster_hub::ingest=debug`); [`filter::Switch`] changes it later. A
/// second call changes nothing: the first program part that asks decides (tests start many hubs in one process).
/// `traces`: a hub of this process will send its spans to a collector.
///
/// # Errors
/// [`ErrorCode::Config`] when the filter cannot be read.
pub fn init(format: LogFormat, filter: &str, target: LogTarget, traces: bool) -> Result<(), HubError> {
    let parsed = filter::parse(filter).map_err(|what| HubError::new(ErrorCode::Config, what))?;
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !target.is_terminal(),
    };
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if json {
        Box::new(json_layer(target.writer()))
    } else {
        let text = tracing_subscriber::fmt::layer().with_ansi(target.is_terminal()).with_target(false);
        Box::new(text.with_writer(target.writer()))
    };
    let (parsed, handle) = reload::Layer::new(parsed);
    let lines = tracing_subscriber::registry().with(lines.with_filter(parsed));
    let started = if traces { lines.with(traces::layer()).try_init() } else { lines.try_init() };
    if started.is_ok() {
        filter::install(handle, filter);
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            log_panic(panic);
            // Where nobody listens at this level the usual message must still be seen.
            if !tracing::enabled!(tracing::Level::ERROR) {
                usual(panic);
            }
        }));
    }
    Ok(())
}

fn json_layer<S>(writer: BoxMakeWriter) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_writer(writer)
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let error_id = Uuid::now_v7();
    let message = panic.payload_as_str().unwrap_or("a panic without a message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    // Captured only when RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    tracing::error!(%error_id, code = ErrorCode::Internal.as_str(), place, thread, %backtrace, "panic: {message}");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_json_line_even_with_hostile_text() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber =
            tracing_subscriber::registry().with(json_layer(BoxMakeWriter::new(move || writer.clone())));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(node = "evil\n{\"level\":\"ERROR\"}\u{1b}[2J", "attached");
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((line["level"].as_str(), line["message"].as_str()), (Some("INFO"), Some("attached")));
    }
}

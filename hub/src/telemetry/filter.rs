//! What is logged, while the hub runs: a filter for some time, then the one of the start again.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use registry_core::Clock;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::auth::{Action, Auth, Principal};
use crate::error::{ErrorCode, HubError, HubResult};
use crate::store::{AuditRow, Store};

/// How long a filter holds unless asked otherwise: long enough to see a fault again.
pub const DEFAULT_TIME: Duration = Duration::from_secs(10 * 60);
/// The longest: nobody should find a hub that has been logging everything for weeks.
pub const MAX_TIME: Duration = Duration::from_secs(24 * 3600);
/// The longest filter, in bytes: dozens of directives.
const MAX_FILTER_BYTES: usize = 1024;
/// The words that a directive may end with.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The log of this process, once [`telemetry::init`](super::init) has started it: there is one for all hubs in it.
static LOG: OnceLock<Log> = OnceLock::new();

/// What is logged now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    /// The filter in force.
    pub filter: String,
    /// The one that the process was started with.
    pub start: String,
    /// When the start's comes back; 0: it is in force.
    pub until_unix_ms: u64,
}

/// Changes what is logged.
pub struct Switch {
    store: Arc<dyn Store>,
    auth: Arc<Auth>,
    clock: Clock,
}

struct Log {
    handle: reload::Handle<EnvFilter, Registry>,
    start: String,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    /// None: the start's.
    changed: Option<(String, u64)>,
    /// How often it was changed: a time that is over ends only the change that it belongs to.
    change: u64,
}

impl Switch {
    /// Puts the service together.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, auth: Arc<Auth>, clock: Clock) -> Self {
        Self { store, auth, clock }
    }

    /// What is logged.
    ///
    /// # Errors
    /// `forbidden`; `not_found` in a process whose log is not the hub's.
    pub fn get(&self, principal: &Principal) -> HubResult<LogFilter> {
        self.auth.authorize(principal, Action::LogFilterRead, "log filter")?;
        Ok(log()?.shown())
    }

    /// Logs by another filter for some time (zero: [`DEFAULT_TIME`]); an empty filter goes back to the start's at once.
    ///
    /// It is done at once and its audit line is written behind: who asks for more lines may be looking for what holds up
    /// the database. The change is a log line too, in any case.
    ///
    /// # Errors
    /// `forbidden`; `invalid_argument` for a filter that cannot be read or a time beyond [`MAX_TIME`]; `not_found` in a
    /// process whose log is not the hub's.
    pub fn set(&self, principal: &Principal, filter: &str, time: Duration) -> HubResult<LogFilter> {
        self.auth.authorize(principal, Action::LogFilterWrite, "log filter")?;
        let log = log()?;
        let time = if time.is_zero() { DEFAULT_TIME } else { time };
        if time > MAX_TIME {
            return Err(invalid("a log filter holds for at most 24h: give a shorter time".to_owned())
                .with("field", "for"));
        }
        let change = if filter.is_empty() {
            None
        } else {
            let parsed = parse(filter).map_err(|what| invalid(what).with("field", "filter"))?;
            let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            Some((parsed, filter.to_owned(), self.clock.unix_ms().saturating_add(ms)))
        };
        let temporary = change.is_some();
        let number = log.change(change)?;
        let shown = log.shown();
        self.audit(principal, &shown);
        // Where it says "off" nobody reads this; the audit log has it.
        tracing::warn!(principal = %principal.name, filter = %shown.filter, until_unix_ms = shown.until_unix_ms, "log filter changed");
        if temporary {
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                log.end(number);
            });
        }
        Ok(shown)
    }

    fn audit(&self, principal: &Principal, shown: &LogFilter) {
        let detail = serde_json::json!({ "filter": shown.filter, "until_unix_ms": shown.until_unix_ms });
        let row = AuditRow {
            at_unix_ms: self.clock.unix_ms(),
            principal: principal.name.clone(),
            action: Action::LogFilterWrite.as_str().to_owned(),
            resource: "log filter".to_owned(),
            detail_json: detail.to_string(),
        };
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            if let Err(error) = store.audit(row).await {
                HubError::from(error).log();
            }
        });
    }
}

impl Log {
    fn shown(&self) -> LogFilter {
        let changed = self.now.lock().changed.clone();
        let (filter, until_unix_ms) = changed.unwrap_or_else(|| (self.start.clone(), 0));
        LogFilter { filter, start: self.start.clone(), until_unix_ms }
    }

    fn change(&self, to: Option<(EnvFilter, String, u64)>) -> HubResult<u64> {
        let mut now = self.now.lock();
        let (parsed, changed) = match to {
            Some((parsed, text, until)) => (parsed, Some((text, until))),
            None => (parse(&self.start).map_err(invalid)?, None),
        };
        self.handle.reload(parsed).map_err(HubError::fault)?;
        now.changed = changed;
        now.change += 1;
        Ok(now.change)
    }

    /// Back to the start's filter, unless something else was asked for since.
    fn end(&self, change: u64) {
        let mut now = self.now.lock();
        if now.change != change {
            return;
        }
        let Ok(parsed) = parse(&self.start) else { return };
        if self.handle.reload(parsed).is_ok() {
            now.changed = None;
        }
        drop(now);
        tracing::warn!(filter = %self.start, "log filter: the time is over, back to the start's");
    }
}

fn log() -> HubResult<&'static Log> {
    LOG.get().ok_or_else(|| {
        HubError::new(
            ErrorCode::NotFound,
            "this hub runs inside another program, which has its log in its own hands",
        )
    })
}

fn invalid(what: String) -> HubError {
    HubError::new(ErrorCode::InvalidArgument, what)
}

/// Takes over the filter of the process's log.
pub(super) fn install(handle: reload::Handle<EnvFilter, Registry>, start: &str) {
    // Set once: only the first that starts logging gets here.
    let _ = LOG.set(Log { handle, start: start.to_owned(), now: Mutex::default() });
}

/// Reads a filter. Stricter than the library, for which a mistyped level is the name of a module: everything else would
/// fall silent without a word.
///
/// # Errors
/// What to write instead.
pub(super) fn parse(filter: &str) -> Result<EnvFilter, String> {
    let advice = "write a level (error, warn, info, debug, trace), or info,muster_hub=debug";
    if filter.len() > MAX_FILTER_BYTES {
        return Err(format!("a log filter has at most {MAX_FILTER_BYTES} bytes: {advice}"));
    }
    for directive in filter.split(',') {
        // What a span's filter holds in its brackets is the library's to judge.
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if !LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known)) {
            return Err(format!("cannot read the log filter {filter:?}: {level:?} is no level; {advice}"));
        }
    }
    EnvFilter::try_new(filter)
        .map_err(|error| format!("cannot read the log filter {filter:?} ({error}): {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_refused_with_advice() {
        for bad in [
            "",
            "inof",
            "info,muster_hub=loud",
            "info,muster_hub",
            "info,,warn",
            "=",
            "info;debug",
            "info,a b=debug c",
        ] {
            let refusal = parse(bad).err().unwrap_or_else(|| panic!("{bad:?} was taken"));
            assert!(refusal.contains("muster_hub=debug"), "{bad:?}: {refusal}");
        }
        assert!(parse(&format!("info,{}=debug", "x".repeat(2000))).is_err());
        for good in ["info", "WARN", "info,muster_hub::ingest=debug", "off,muster_hub=trace", "info,h2=off"] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_time_that_is_over_ends_its_own_change_alone() {
        let (_layer, handle) = reload::Layer::<EnvFilter, Registry>::new(EnvFilter::new("info"));
        let log = Log { handle, start: "info".to_owned(), now: Mutex::default() };
        let change = |text: &str, until| log.change(Some((EnvFilter::new(text), text.to_owned(), until)));
        // The layer lives: the handle can reach it.
        let first = change("debug", 10).unwrap();
        let second = change("trace", 20).unwrap();
        log.end(first);
        assert_eq!(log.shown().filter, "trace");
        log.end(second);
        assert_eq!(log.shown(), LogFilter { filter: "info".into(), start: "info".into(), until_unix_ms: 0 });
    }
}

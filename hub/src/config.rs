//! The hub's options: each a flag and an environment variable, each with its reason.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{ErrorCode, HubError};
use crate::store::Retention;
use crate::store::open::{self, Database, LogPlace};
use crate::telemetry::traces;

/// Options of `muster hub`.
#[derive(Clone, Debug, clap::Args)]
pub struct HubConfig {
    /// Folder for the databases and the administrator's credential; made if missing (mode 0700)
    #[arg(long, env = "MUSTER_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Address for nodes and programs (gRPC); port 0 picks a free one
    #[arg(long, env = "MUSTER_GRPC_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7070")]
    pub grpc_listen: SocketAddr,

    /// Address for people and programs (HTTP); port 0 picks a free one
    #[arg(long, env = "MUSTER_HTTP_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7080")]
    pub http_listen: SocketAddr,

    /// Where node records, tasks and tokens are kept: "sqlite" (muster.db in the data folder), or
    /// postgres://user@host:5432/database?sslmode=verify-full
    #[arg(
        long,
        env = "MUSTER_DATABASE",
        value_name = "URL",
        default_value = "sqlite",
        hide_env_values = true
    )]
    pub database: String,

    /// File with the database's password, so that it need not stand in the URL
    #[arg(long, env = "MUSTER_DATABASE_PASSWORD_FILE", value_name = "FILE")]
    pub database_password_file: Option<PathBuf>,

    /// Where terminal frames are kept: "database" (with the records), "sqlite" (terminal.db in the data folder), or
    /// redis://user@host:6379/0, rediss:// for TLS
    #[arg(
        long,
        env = "MUSTER_TERMINAL_LOG",
        value_name = "URL",
        default_value = "database",
        hide_env_values = true
    )]
    pub terminal_log: String,

    /// File with the terminal log's password, so that it need not stand in the URL
    #[arg(long, env = "MUSTER_TERMINAL_LOG_PASSWORD_FILE", value_name = "FILE")]
    pub terminal_log_password_file: Option<PathBuf>,

    /// How often an attached node sends a heartbeat
    #[arg(long, env = "MUSTER_HEARTBEAT_INTERVAL", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub heartbeat_interval: Duration,

    /// After this long without a sign of life a node counts as offline; at least twice the heartbeat interval
    #[arg(long, env = "MUSTER_LEASE", value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub lease: Duration,

    /// Terminal log: bytes kept for each node
    #[arg(long, env = "MUSTER_LOG_NODE_BYTES", value_name = "BYTES", default_value_t = 16 << 20)]
    pub log_node_bytes: u64,

    /// Terminal log: frames kept for each node
    #[arg(long, env = "MUSTER_LOG_NODE_FRAMES", value_name = "N", default_value_t = 1_000_000)]
    pub log_node_frames: u64,

    /// Terminal log: bytes kept in all
    #[arg(long, env = "MUSTER_LOG_TOTAL_BYTES", value_name = "BYTES", default_value_t = 4 << 30)]
    pub log_total_bytes: u64,

    /// Terminal log: how long frames are kept
    #[arg(long, env = "MUSTER_LOG_MAX_AGE", value_name = "DURATION", default_value = "7d", value_parser = duration)]
    pub log_max_age: Duration,

    /// Tasks kept for each node after they ended
    #[arg(long, env = "MUSTER_TASKS_KEPT", value_name = "N", default_value_t = 10_000)]
    pub tasks_kept: u32,

    /// Events kept for each user, from which a reader that was cut off resumes without a gap
    #[arg(long, env = "MUSTER_EVENT_RING", value_name = "N", default_value_t = 4096)]
    pub event_ring: usize,

    /// How long a reader of events may stand still with a full queue before it is closed
    #[arg(long, env = "MUSTER_READER_GRACE", value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub reader_grace: Duration,

    /// How long a shutdown may take before what is left is dropped
    #[arg(long, env = "MUSTER_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// Collector that traces are sent to by OTLP over gRPC, such as http://127.0.0.1:4317; without it there are none
    #[arg(long, env = "MUSTER_OTLP_ENDPOINT", value_name = "URL", hide_env_values = true)]
    pub otlp_endpoint: Option<String>,

    /// What is logged: error, warn, info, debug, trace, or a filter such as "info,muster_hub::ingest=debug"
    #[arg(long, env = "MUSTER_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

impl HubConfig {
    /// Refuses options that cannot work together, before anything is opened.
    ///
    /// # Errors
    /// [`ErrorCode::Config`], saying which option and what to do.
    pub fn check(&self) -> Result<(), HubError> {
        let refuse = |text: String| Err(HubError::new(ErrorCode::Config, text));
        for (option, address) in [("--grpc-listen", self.grpc_listen), ("--http-listen", self.http_listen)] {
            if !address.ip().is_loopback() {
                return refuse(format!(
                    "{option} {address} is not a loopback address, and this hub has no TLS: listen on 127.0.0.1 or [::1]"
                ));
            }
        }
        self.database()?;
        self.terminal_log()?;
        self.otlp_endpoint.as_deref().map_or(Ok(()), traces::check)?;
        if self.heartbeat_interval < Duration::from_millis(100) {
            return refuse(
                "--heartbeat-interval is below 100ms: heartbeats would be most of the traffic".to_owned(),
            );
        }
        if self.lease < self.heartbeat_interval * 2 {
            return refuse(format!(
                "--lease {} is less than twice --heartbeat-interval {}: one late heartbeat would take nodes offline",
                humantime::format_duration(self.lease),
                humantime::format_duration(self.heartbeat_interval)
            ));
        }
        if self.event_ring == 0 || self.event_ring > 1 << 20 {
            return refuse("--event-ring is not between 1 and 1048576".to_owned());
        }
        Ok(())
    }

    /// Where records are kept.
    ///
    /// # Errors
    /// [`ErrorCode::Config`] for a URL that is not known, or a password file that cannot be used.
    pub fn database(&self) -> Result<Database, HubError> {
        let url = with_password("--database", &self.database, self.database_password_file.as_ref())?;
        Database::parse(&url).map_err(|what| HubError::new(ErrorCode::Config, format!("--database: {what}")))
    }

    /// Where terminal frames are kept.
    ///
    /// # Errors
    /// As for [`HubConfig::database`].
    pub fn terminal_log(&self) -> Result<LogPlace, HubError> {
        let url =
            with_password("--terminal-log", &self.terminal_log, self.terminal_log_password_file.as_ref())?;
        LogPlace::parse(&url)
            .map_err(|what| HubError::new(ErrorCode::Config, format!("--terminal-log: {what}")))
    }

    /// How much of the terminal log is kept.
    #[must_use]
    pub fn retention(&self) -> Retention {
        Retention {
            node_bytes: self.log_node_bytes,
            node_frames: self.log_node_frames,
            age_ms: u64::try_from(self.log_max_age.as_millis()).unwrap_or(u64::MAX),
            total_bytes: self.log_total_bytes,
        }
    }
}

/// A URL with the password that a file has.
fn with_password(option: &str, url: &str, file: Option<&PathBuf>) -> Result<String, HubError> {
    let Some(file) = file else { return Ok(url.to_owned()) };
    open::with_password_file(url, file)
        .map_err(|what| HubError::new(ErrorCode::Config, format!("{option}-password-file: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        hub: HubConfig,
    }

    fn parse(args: &[&str]) -> HubConfig {
        Line::parse_from([&["hub", "--data-dir", "/tmp/x"], args].concat()).hub
    }

    #[test]
    fn the_defaults_are_sound() {
        parse(&[]).check().unwrap();
    }

    #[test]
    fn nothing_listens_beyond_this_machine_without_tls() {
        for option in ["--grpc-listen", "--http-listen"] {
            let error = parse(&[option, "0.0.0.0:1"]).check().unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config);
            assert!(error.to_string().contains(option), "{error}");
        }
        parse(&["--grpc-listen", "[::1]:0"]).check().unwrap();
    }

    #[test]
    fn options_that_cannot_work_are_refused() {
        for bad in [["--lease", "9s"], ["--heartbeat-interval", "1ms"], ["--event-ring", "0"]] {
            assert_eq!(parse(&bad).check().unwrap_err().code(), ErrorCode::Config, "{bad:?}");
        }
    }

    #[test]
    fn back_ends_are_named_by_urls() {
        assert!(parse(&[]).database().unwrap() == Database::Sqlite);
        let config = parse(&["--database", "postgres://me@host/db", "--terminal-log", "redis://host"]);
        config.check().unwrap();
        assert!(config.database().unwrap() == Database::Postgres("postgres://me@host/db".to_owned()));
        assert!(config.terminal_log().unwrap() == LogPlace::Redis("redis://host".to_owned()));
    }

    #[test]
    fn passwords_in_urls_are_not_repeated() {
        for bad in [["--database", "mysql://me:secret@host/db"], ["--terminal-log", "amqp://me:secret@host"]]
        {
            let error = parse(&bad).check().unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config);
            assert!(error.to_string().contains(bad[0]) && !error.to_string().contains("secret"), "{error}");
        }
    }
}

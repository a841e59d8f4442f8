//! Which database: its URL, and how it is connected to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Connect};
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::retry::ATTEMPT;
use super::tls::{self, Trust};
use super::value::Fault;
use crate::store::{StoreError, StoreResult};

/// Silence on a connection after which the other side is asked whether it is there, in seconds between two questions,
/// and how many may go unanswered: a hub or a server whose machine is gone is noticed within half a minute.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

/// What every connection is set up with. Times in milliseconds: a lock that is waited for longer is a fault to be tried
/// again; a transaction that a hub left behind goes on no longer than this, nor does any statement.
const SET_UP: &str = "SET synchronous_commit = on; SET search_path = muster; SET lock_timeout = 4000;
    SET idle_in_transaction_session_timeout = 15000; SET statement_timeout = 60000; SET timezone = 'UTC';
    SET standard_conforming_strings = on; SET client_min_messages = warning";

/// How to write a URL, for those who did not.
const FORM: &str =
    "write postgres://user:password@host:5432/database, with special characters percent-encoded";

/// A database and the way to it.
#[derive(Clone)]
pub(super) struct Target {
    config: Config,
    /// Encryption, if there may be any.
    tls: Option<MakeRustlsConnect>,
}

impl Target {
    /// Reads a URL: `postgres://user:password@host:port/database?sslmode=...&sslrootcert=...`.
    ///
    /// `sslmode` is `disable`, `prefer` (the default), `require` (encrypted, to whoever it is) or `verify-full` (the
    /// server's certificate is checked against `sslrootcert`, or against the system's authorities without one).
    pub(super) fn parse(url: &str) -> StoreResult<Self> {
        let (bare, options) = url.split_once('?').unwrap_or((url, ""));
        if !bare.starts_with("postgres://") && !bare.starts_with("postgresql://") {
            return Err(StoreError::refused(format!("this is no PostgreSQL URL: {FORM}")));
        }
        if options.contains('@') {
            // A `?` in the password: everything behind it would be taken for options, and the real ones overlooked.
            return Err(StoreError::refused(format!("the PostgreSQL URL has an @ behind a ?: {FORM}")));
        }
        let (mut mode, mut root, mut rest) = (None, None, Vec::new());
        for option in options.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value.to_owned()),
                Some(("sslrootcert", value)) => root = Some(PathBuf::from(decode(value)?)),
                _ => rest.push(option),
            }
        }
        // What the parser says might quote the URL, and with it the password.
        let mut config: Config = format!("{bare}?{}", rest.join("&"))
            .parse()
            .map_err(|_error| StoreError::refused(format!("the PostgreSQL URL is not valid: {FORM}")))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(StoreError::refused(format!("the PostgreSQL URL names no host: {FORM}")));
        }
        let tls = encryption(&mut config, mode.as_deref(), root)?;
        config.connect_timeout(ATTEMPT).tcp_user_timeout(ATTEMPT * 2);
        config.keepalives(true).keepalives_idle(KEEPALIVE.0);
        config.keepalives_interval(KEEPALIVE.1).keepalives_retries(KEEPALIVE.2);
        if config.get_application_name().is_none() {
            config.application_name("muster");
        }
        Ok(Self { config, tls })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// A connection of its own, set up like all. Gone when it is dropped.
    pub(super) async fn connect_alone(&self) -> Result<ClientWrapper, Fault> {
        let connected = tokio::time::timeout(ATTEMPT, self.connect(&self.config));
        let (client, task) = connected.await.map_err(|_elapsed| Fault::too_slow())??;
        Ok(ClientWrapper::new(client, task))
    }
}

impl Connect for Target {
    fn connect(&self, config: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        let config = config.clone();
        Box::pin(async move {
            let (client, task) = match &self.tls {
                Some(tls) => {
                    let (client, connection) = config.connect(tls.clone()).await?;
                    (client, tokio::spawn(run(connection)))
                }
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    (client, tokio::spawn(run(connection)))
                }
            };
            client.batch_execute(SET_UP).await?;
            Ok((client, task))
        })
    }
}

/// Where it is, without who and the password.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, host) in self.config.get_hosts().iter().enumerate() {
            let between = if place == 0 { "" } else { "," };
            match host {
                Host::Tcp(name) => write!(f, "{between}{name}")?,
                Host::Unix(path) => write!(f, "{between}{}", path.display())?,
            }
            let ports = self.config.get_ports();
            write!(f, ":{}", ports.get(place).or(ports.first()).unwrap_or(&5432))?;
        }
        write!(f, "/{}", self.config.get_dbname().or(self.config.get_user()).unwrap_or_default())
    }
}

/// Whoever uses the connection is told what becomes of it by what they asked; nobody listens here.
async fn run(connection: impl Future<Output = Result<(), Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(error = %Fault::from(error), "a connection to the database ended");
    }
}

/// Sets the driver's part of `sslmode` and makes the verifying part.
fn encryption(
    config: &mut Config,
    mode: Option<&str>,
    root: Option<PathBuf>,
) -> StoreResult<Option<MakeRustlsConnect>> {
    let mode = mode.unwrap_or("prefer");
    if root.is_some() && mode != "verify-full" {
        return Err(StoreError::refused(format!(
            "sslrootcert does nothing with sslmode={mode}: write sslmode=verify-full, or leave sslrootcert out"
        )));
    }
    let (driver, trust) = match mode {
        "disable" => (SslMode::Disable, None),
        "prefer" => (SslMode::Prefer, Some(Trust::Anybody)),
        "require" => (SslMode::Require, Some(Trust::Anybody)),
        "verify-full" => (SslMode::Require, Some(root.map_or(Trust::System, Trust::Root))),
        _ => {
            return Err(StoreError::refused(
                "this sslmode is not known: write disable, prefer, require or verify-full",
            ));
        }
    };
    let local = config.get_hostaddrs().is_empty()
        && config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    if local && mode == "verify-full" {
        return Err(StoreError::refused(
            "sslmode=verify-full needs a host name: a Unix socket is not encrypted",
        ));
    }
    if local {
        // As everywhere else: sockets of the machine are never encrypted.
        config.ssl_mode(SslMode::Disable);
        return Ok(None);
    }
    config.ssl_mode(driver);
    trust.map(tls::connector).transpose()
}

fn decode(value: &str) -> StoreResult<String> {
    let bad = || StoreError::refused(format!("the PostgreSQL URL is not valid: {FORM}"));
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
            bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_not_text| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        match Target::parse(url) {
            Err(StoreError::Refused { what, .. }) => what,
            Err(other) => panic!("{url}: {other}"),
            Ok(target) => panic!("{url}: taken for {target}"),
        }
    }

    #[test]
    fn a_url_that_is_not_one_is_refused_without_a_secret() {
        for url in [
            "mysql://u:s3cret@h/d",
            "postgres://u:s3cret@h:port/d",
            "postgres://u:s3cret?@h/d",
            "postgres://u:s3cret@h/d?s3cret=1",
            "postgres:///d?user=u&password=s3cret",
            "postgres://u:s3cret@h/d?sslmode=s3cret",
            "postgres://u:s3cret@h/d?sslmode=verify-ca",
            "postgres://u:s3cret@h/d?sslmode=require&sslrootcert=/s3cret",
            "postgres://u:s3cret@h/d?sslmode=verify-full&sslrootcert=/no/such/s%33cret",
            "postgres://u:s3cret@%2Frun/d?sslmode=verify-full",
        ] {
            let what = refusal(url);
            assert!(!what.contains("s3cret@") && !what.contains("s3cret="), "{url}: {what}");
        }
    }

    #[test]
    fn a_url_is_shown_without_who_and_the_password() {
        let shown = |url: &str| Target::parse(url).unwrap().to_string();
        assert_eq!(shown("postgres://u:s3cret@h/d?sslmode=disable"), "h:5432/d");
        assert_eq!(shown("postgresql://u:s3cret@h:1,i:2/d"), "h:1,i:2/d");
        assert_eq!(shown("postgres://u@%2Frun%2Fpg:7/d"), "/run/pg:7/d");
        assert_eq!(shown("postgres://u@h?connect_timeout=3"), "h:5432/u");
    }

    #[test]
    fn encryption_is_as_asked_for() {
        let tls = |url: &str| {
            let target = Target::parse(url).unwrap();
            (target.config.get_ssl_mode(), target.tls.is_some())
        };
        assert_eq!(tls("postgres://u@h/d"), (SslMode::Prefer, true));
        assert_eq!(tls("postgres://u@h/d?sslmode=disable"), (SslMode::Disable, false));
        assert_eq!(tls("postgres://u@h/d?sslmode=require"), (SslMode::Require, true));
        assert_eq!(tls("postgres://u@%2Frun/d?sslmode=prefer"), (SslMode::Disable, false));
    }
}

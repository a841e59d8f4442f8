//! Which back ends a hub is told to use, and opening them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use registry_core::Clock;

use super::postgres::{PostgresStore, PostgresTerminalLog};
use super::redis::RedisTerminalLog;
use super::sqlite::{SqliteStore, SqliteTerminalLog};
use super::{Store, StoreError, StoreResult, TerminalLog};

/// Where records are kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// `muster.db` in the data folder.
    Sqlite,
    /// A PostgreSQL database. The URL may have a password: never show it.
    Postgres(String),
}

/// Where terminal frames are kept.
#[derive(Clone, PartialEq, Eq)]
pub enum LogPlace {
    /// In the database: a file of its own beside SQLite's, tables of their own in PostgreSQL.
    Database,
    /// `terminal.db` in the data folder, whatever the database is.
    Sqlite,
    /// Redis Streams. The URL may have a password: never show it.
    Redis(String),
}

/// The back ends of one hub.
pub struct Backends {
    /// Records.
    pub store: Arc<dyn Store>,
    /// Frames.
    pub log: Arc<dyn TerminalLog>,
    /// The hub's own id, as the records have it.
    pub hub_id: String,
}

impl Database {
    /// Reads what `--database` was given.
    ///
    /// # Errors
    /// What can be given instead.
    pub fn parse(given: &str) -> Result<Self, String> {
        match given {
            "sqlite" => Ok(Self::Sqlite),
            url if has_scheme(url, &["postgres", "postgresql"]) => Ok(Self::Postgres(url.to_owned())),
            url => Err(format!(
                "{} is no database that is known: give sqlite, or postgres://user:password@host/database",
                without_password(url)
            )),
        }
    }
}

impl LogPlace {
    /// Reads what `--terminal-log` was given.
    ///
    /// # Errors
    /// What can be given instead.
    pub fn parse(given: &str) -> Result<Self, String> {
        match given {
            "database" => Ok(Self::Database),
            "sqlite" => Ok(Self::Sqlite),
            url if has_scheme(url, &["redis", "rediss", "redis+unix", "unix"]) => {
                Ok(Self::Redis(url.to_owned()))
            }
            url => Err(format!(
                "{} is no terminal log that is known: give database, sqlite, or redis://user:password@host:6379/0",
                without_password(url)
            )),
        }
    }
}

/// Opens what a hub was told to use: the records first, because they say whose log it is.
///
/// # Errors
/// [`StoreError::Refused`], [`StoreError::InUse`] and [`StoreError::TooNew`] where somebody has to change something,
/// [`StoreError::Unavailable`] for a server that cannot be reached.
pub async fn open(
    data_dir: &Path,
    database: &Database,
    log: &LogPlace,
    clock: &Clock,
) -> StoreResult<Backends> {
    let store: Arc<dyn Store> = match database {
        Database::Sqlite => {
            let opened = in_folder(data_dir, "muster.db", clock, SqliteStore::open);
            Arc::new(opened.await?)
        }
        Database::Postgres(url) => {
            Arc::new(PostgresStore::open(url, clock.clone()).await.map_err(|error| at(url, error))?)
        }
    };
    let hub_id = store.hub_id().await?;
    let log = open_log(data_dir, database, log, &hub_id, clock).await;
    match log {
        Ok(log) => Ok(Backends { store, log, hub_id }),
        Err(error) => {
            store.close().await;
            Err(error)
        }
    }
}

async fn open_log(
    data_dir: &Path,
    database: &Database,
    log: &LogPlace,
    hub_id: &str,
    clock: &Clock,
) -> StoreResult<Arc<dyn TerminalLog>> {
    Ok(match (log, database) {
        (LogPlace::Redis(url), _) => {
            let opened = RedisTerminalLog::open(url, hub_id, clock.clone()).await;
            Arc::new(opened.map_err(|error| at(url, error))?)
        }
        (LogPlace::Database, Database::Postgres(url)) => {
            Arc::new(PostgresTerminalLog::open(url, clock.clone()).await.map_err(|error| at(url, error))?)
        }
        (LogPlace::Sqlite, _) | (LogPlace::Database, Database::Sqlite) => {
            let opened = in_folder(data_dir, "terminal.db", clock, SqliteTerminalLog::open);
            Arc::new(opened.await?)
        }
    })
}

/// Says of what cannot be reached where that is.
fn at(url: &str, error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(source) => {
            let place = without_password(url);
            StoreError::Unavailable(Arc::new(std::io::Error::other(format!("{place}: {source}"))))
        }
        other => other,
    }
}

/// Opens a file of the data folder away from the threads that others wait for.
async fn in_folder<T: Send + 'static>(
    data_dir: &Path,
    name: &str,
    clock: &Clock,
    open: impl FnOnce(&Path, Clock) -> StoreResult<T> + Send + 'static,
) -> StoreResult<T> {
    let (path, clock) = (data_dir.join(name), clock.clone());
    tokio::task::spawn_blocking(move || open(&path, clock))
        .await
        .map_err(|error| StoreError::Failed(Arc::new(error)))?
}

/// Puts the password that a file has into a URL without one.
///
/// # Errors
/// A sentence that says which of the two to change; never the password.
pub fn with_password_file(url: &str, file: &PathBuf) -> Result<String, String> {
    let read = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let password = read.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(format!("{} is empty", file.display()));
    }
    let (scheme, rest) = url.split_once("://").ok_or("there is no URL that the password could be for")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains(':') {
        return Err("the URL has a password already: take it out of there".to_owned());
    }
    Ok(format!("{scheme}://{user}:{}@{host}{behind}", percent_encoded(password)))
}

/// A URL as it may be shown: who and with which password is left out, and so is what follows a `?`.
#[must_use]
pub fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    let (who, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, host)| ("...@", host));
    format!("{scheme}{who}{}", rest.split_once('?').map_or(rest, |(place, _)| place))
}

fn has_scheme(url: &str, schemes: &[&str]) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| schemes.contains(&scheme))
}

/// Everything but letters, digits and `-._~` as `%XX`.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused_without_its_password() {
        for given in ["mysql://me:s3cret@host/db", "postgres:/me:s3cret@h", "", "sqlite3"] {
            let refusal = Database::parse(given).err().unwrap();
            assert!(refusal.contains("give sqlite") && !refusal.contains("s3cret"), "{refusal}");
        }
        assert!(!LogPlace::parse("amqp://me:s3cret@host/?password=s3cret").err().unwrap().contains("s3cret"));
        assert!(LogPlace::parse("postgres://h/d").is_err());
    }

    #[test]
    fn a_password_from_a_file_is_put_where_it_belongs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "p@ss/w:rd%\n").unwrap();
        let with = |url: &str| with_password_file(url, &file);
        assert_eq!(with("postgres://me@h:1/d?a=b").unwrap(), "postgres://me:p%40ss%2Fw%3Ard%25@h:1/d?a=b");
        assert_eq!(with("redis://h").unwrap(), "redis://:p%40ss%2Fw%3Ard%25@h");
        assert!(with("postgres://me:other@h/d").unwrap_err().contains("already"));
        assert!(with("sqlite").is_err());
        fs::write(&file, "\n").unwrap();
        assert!(with("redis://h").unwrap_err().contains("empty"));
    }

    #[test]
    fn urls_are_shown_without_who_and_the_password() {
        assert_eq!(
            without_password("postgres://me:s3@cret@host:1/db?password=s3"),
            "postgres://...@host:1/db"
        );
        assert_eq!(without_password("redis://host/0"), "redis://host/0");
        assert_eq!(without_password("sqlite"), "sqlite");
    }
}

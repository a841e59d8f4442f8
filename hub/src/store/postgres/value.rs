//! Between Rust's values and PostgreSQL's, and what its errors mean.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use deadpool_postgres::PoolError;
use registry_core::{NodeId, UserId};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::FromSql;

use crate::store::StoreError;
pub(super) use crate::store::numbers::{bound, time};

/// Why an attempt did not succeed.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// A reason that passes: worth another attempt, with another connection.
    Passing(Told),
    /// Another transaction came between: worth another attempt at once.
    Again(Told),
    /// Another attempt would end the same.
    Final(StoreError),
}

impl Fault {
    /// No answer within the time that there is for one.
    pub(super) fn too_slow() -> Self {
        Self::Passing(Told("it does not answer in time".to_owned()))
    }

    /// Somebody else wrote what this transaction was about to.
    pub(super) fn came_between() -> Self {
        Self::Again(Told("other transactions keep coming between".to_owned()))
    }

    pub(super) fn failed(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Final(StoreError::Failed(Arc::new(error)))
    }

    /// What stands in a column is not what was written there.
    pub(super) fn bad_column(column: usize, error: impl fmt::Display) -> Self {
        Self::failed(Told(format!("column {column} of a row: {error}")))
    }

    /// The fault as a store tells it, when there are no more attempts.
    pub(super) fn give_up(self) -> StoreError {
        match self {
            Self::Passing(told) | Self::Again(told) => StoreError::Unavailable(Arc::new(told)),
            Self::Final(error) => error,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passing(told) | Self::Again(told) => told.fmt(f),
            Self::Final(error) => error.fmt(f),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Final(error)
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        let told = Told::all_of(&error);
        match meaning(&error) {
            Meaning::Passing => Self::Passing(told),
            Meaning::Again => Self::Again(told),
            Meaning::Refused(what) => {
                Self::Final(StoreError::Refused { what: format!("{what}: {told}"), source: None })
            }
            Meaning::Own => Self::failed(told),
        }
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            PoolError::Closed => Self::Final(StoreError::Closed),
            PoolError::Timeout(_) => Self::too_slow(),
            error => Self::Passing(Told::all_of(&error)),
        }
    }
}

/// What the database said, on one line.
#[derive(Clone, Debug)]
pub(super) struct Told(pub(super) String);

impl Told {
    fn all_of(error: &(dyn Error + 'static)) -> Self {
        let mut said = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            said = format!("{said}: {error}");
            cause = error.source();
        }
        Self(said.replace('\n', "; "))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Told {}

enum Meaning {
    Passing,
    Again,
    Refused(&'static str),
    /// Of the request, or of the server's disk.
    Own,
}

fn meaning(error: &tokio_postgres::Error) -> Meaning {
    let Some(state) = error.code() else { return without_state(error) };
    match *state {
        SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED => Meaning::Again,
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            Meaning::Refused("the database does not let this user in: look at the user and password of its URL")
        }
        SqlState::INVALID_CATALOG_NAME => {
            Meaning::Refused("there is no such database: create it, or name another in the URL")
        }
        SqlState::INSUFFICIENT_PRIVILEGE => Meaning::Refused(
            "the database's user may not do this: it needs CREATE on the database, or the schema `muster`",
        ),
        SqlState::ADMIN_SHUTDOWN
        | SqlState::CRASH_SHUTDOWN
        | SqlState::CANNOT_CONNECT_NOW
        | SqlState::TOO_MANY_CONNECTIONS
        | SqlState::QUERY_CANCELED
        | SqlState::LOCK_NOT_AVAILABLE
        | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        // After a failover, or while one is under way.
        | SqlState::READ_ONLY_SQL_TRANSACTION
        // A pooler gave the session another connection.
        | SqlState::INVALID_SQL_STATEMENT_NAME => Meaning::Passing,
        // 08: the connection failed; 57P: the operator intervened.
        _ if state.code().starts_with("08") || state.code().starts_with("57P") => Meaning::Passing,
        _ => Meaning::Own,
    }
}

/// Faults of the way to the server.
fn without_state(error: &tokio_postgres::Error) -> Meaning {
    let mut cause = error.source();
    while let Some(found) = cause {
        if let Some(tls) = found.downcast_ref::<rustls::Error>().or_else(|| inner(found)) {
            return match tls {
                rustls::Error::InvalidCertificate(_) => {
                    Meaning::Refused("the database's certificate is not to be trusted")
                }
                _ => Meaning::Refused("the database does not speak TLS as it should"),
            };
        }
        cause = found.source();
    }
    let text = Told::all_of(error).0;
    if text.contains("server does not support TLS") {
        return Meaning::Refused("the database does not offer encryption, which the URL requires");
    }
    if text.contains("password missing") || text.contains("authentication") {
        return Meaning::Refused("the database wants a password: write one into its URL");
    }
    // The driver does not give its kinds a name. These are of values that do not fit; the rest are of the connection.
    const OF_VALUES: [&str; 5] =
        ["error serializing", "error deserializing", "invalid column", "expected ", "query returned"];
    if OF_VALUES.iter().any(|beginning| text.starts_with(beginning)) {
        Meaning::Own
    } else {
        Meaning::Passing
    }
}

/// What an I/O error wraps.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref()
}

/// A boot, a seq, an epoch, a count: refused where it does not fit, because a changed one would name another thing.
pub(super) fn number(value: u64) -> Result<i64, Fault> {
    i64::try_from(value).map_err(Fault::failed)
}

/// Text without NUL, which PostgreSQL does not keep: what comes from a node must not be refused for it.
pub(super) fn text(value: &str) -> Cow<'_, str> {
    if value.contains('\0') { Cow::Owned(value.replace('\0', "\u{FFFD}")) } else { Cow::Borrowed(value) }
}

/// Reads a column as what it is.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Fault> {
    row.try_get(column).map_err(|error| Fault::failed(Told::all_of(&error)))
}

/// Reads what [`number`] or [`time`] wrote.
pub(super) fn unsigned(row: &Row, column: usize) -> Result<u64, Fault> {
    u64::try_from(get::<i64>(row, column)?).map_err(|error| Fault::bad_column(column, error))
}

/// Reads a count of at most 32 bits.
pub(super) fn unsigned_32(row: &Row, column: usize) -> Result<u32, Fault> {
    u32::try_from(get::<i64>(row, column)?).map_err(|error| Fault::bad_column(column, error))
}

/// Reads bytes of which there is a certain number.
pub(super) fn bytes<const N: usize>(row: &Row, column: usize) -> Result<[u8; N], Fault> {
    get::<&[u8]>(row, column)?.try_into().map_err(|error| Fault::bad_column(column, error))
}

pub(super) fn node_id(row: &Row, column: usize) -> Result<NodeId, Fault> {
    NodeId::new(get::<&str>(row, column)?).map_err(|error| Fault::bad_column(column, error))
}

pub(super) fn user(row: &Row, column: usize) -> Result<UserId, Fault> {
    UserId::new(get::<&str>(row, column)?).map_err(|error| Fault::bad_column(column, error))
}

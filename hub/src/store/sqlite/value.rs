//! Between Rust's values and SQLite's: numbers are signed there, and everything read back is checked.

use std::error::Error;
use std::sync::Arc;

use rusqlite::types::Type;
use rusqlite::{ErrorCode, Row};

use crate::store::StoreError;
pub(super) use crate::store::numbers::{bound, time};

/// A boot, a seq, an epoch, a count: refused where it does not fit, because a changed one would name another thing.
pub(super) fn number(value: u64) -> rusqlite::Result<i64> {
    i64::try_from(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// Reads what [`number`] or [`time`] wrote.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|error| bad_column(column, Type::Integer, error))
}

/// Reads a count of at most 32 bits.
pub(super) fn unsigned_32(row: &Row<'_>, column: usize) -> rusqlite::Result<u32> {
    let value: i64 = row.get(column)?;
    u32::try_from(value).map_err(|error| bad_column(column, Type::Integer, error))
}

/// What stands in the column is not what was written there: the file was changed by somebody else, or is damaged.
pub(super) fn bad_column(
    column: usize,
    kind: Type,
    error: impl Into<Box<dyn Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, error.into())
}

/// The store's own error around any other.
pub(super) fn failed(error: impl Error + Send + Sync + 'static) -> StoreError {
    StoreError::Failed(Arc::new(error))
}

/// Somebody else has the file locked; trying again later is all there is to do.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// The fault lies in one job and not in the file: the others of its group are unharmed.
pub(super) fn is_the_jobs_own(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => {
            matches!(code, ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
        }
        None => true,
    }
}

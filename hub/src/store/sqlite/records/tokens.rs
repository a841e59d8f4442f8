//! Join tokens: made and deleted by people, spent by [`enrol`](super::nodes::enrol).

use rusqlite::{Connection, Row, params};

use super::super::value::{time, unsigned, unsigned_32};
use super::add_audit;
use super::nodes::user;
use crate::store::{AuditRow, TokenRow};

const COLUMNS: &str = "id, secret_hash, user, created_at, expires_at, uses, used, created_by";

/// Writes down a token.
pub(super) fn create(connection: &Connection, token: &TokenRow, audit: &AuditRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(&format!("INSERT INTO tokens ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"))?
        .execute(params![
            token.id,
            token.secret_hash,
            token.user.as_str(),
            time(token.created_at_unix_ms),
            time(token.expires_at_unix_ms),
            token.uses,
            token.used,
            token.created_by,
        ])?;
    add_audit(connection, audit)
}

/// Every token, newest first.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<TokenRow>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM tokens ORDER BY created_at DESC, id DESC"))?
        .query_map([], from_row)?
        .collect()
}

/// Deletes a token, and with it the memory of who used it.
pub(super) fn delete(connection: &Connection, id: &str, audit: &AuditRow) -> rusqlite::Result<bool> {
    let deleted = connection.prepare_cached("DELETE FROM tokens WHERE id = ?1")?.execute([id])? > 0;
    if deleted {
        add_audit(connection, audit)?;
    }
    Ok(deleted)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow {
        id: row.get(0)?,
        secret_hash: row.get(1)?,
        user: user(row, 2)?,
        created_at_unix_ms: unsigned(row, 3)?,
        expires_at_unix_ms: unsigned(row, 4)?,
        uses: unsigned_32(row, 5)?,
        used: unsigned_32(row, 6)?,
        created_by: row.get(7)?,
    })
}

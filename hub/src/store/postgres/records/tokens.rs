//! Join tokens: made and deleted by people, spent by [`enrol`](super::nodes::enrol).

use deadpool_postgres::ClientWrapper;
use tokio_postgres::Row;

use super::super::value::{Fault, bytes, get, text, time, unsigned, unsigned_32, user};
use super::add_audit;
use crate::store::{AuditRow, TokenRow};

const COLUMNS: &str = r#"id, secret_hash, "user", created_at, expires_at, uses, used, created_by"#;

/// Writes down a token.
pub(super) async fn create(client: &ClientWrapper, token: &TokenRow, audit: &AuditRow) -> Result<(), Fault> {
    let statement = client
        .prepare_cached(&format!("INSERT INTO tokens ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"))
        .await?;
    client
        .execute(
            &statement,
            &[
                &token.id,
                &&token.secret_hash[..],
                &token.user.as_str(),
                &time(token.created_at_unix_ms),
                &time(token.expires_at_unix_ms),
                &i64::from(token.uses),
                &i64::from(token.used),
                &text(&token.created_by),
            ],
        )
        .await?;
    add_audit(client, audit).await
}

/// Every token, newest first.
pub(super) async fn all(client: &ClientWrapper) -> Result<Vec<TokenRow>, Fault> {
    let statement = client
        .prepare_cached(&format!("SELECT {COLUMNS} FROM tokens ORDER BY created_at DESC, id DESC"))
        .await?;
    client.query(&statement, &[]).await?.iter().map(from_row).collect()
}

/// Deletes a token, and with it the memory of who used it.
pub(super) async fn delete(client: &ClientWrapper, id: &str, audit: &AuditRow) -> Result<bool, Fault> {
    let statement = client.prepare_cached("DELETE FROM tokens WHERE id = $1").await?;
    let deleted = client.execute(&statement, &[&text(id)]).await? > 0;
    if deleted {
        add_audit(client, audit).await?;
    }
    Ok(deleted)
}

fn from_row(row: &Row) -> Result<TokenRow, Fault> {
    Ok(TokenRow {
        id: get(row, 0)?,
        secret_hash: bytes(row, 1)?,
        user: user(row, 2)?,
        created_at_unix_ms: unsigned(row, 3)?,
        expires_at_unix_ms: unsigned(row, 4)?,
        uses: unsigned_32(row, 5)?,
        used: unsigned_32(row, 6)?,
        created_by: get(row, 7)?,
    })
}

//! Nodes: enrolled once, updated behind, deleted for good.

use std::collections::BTreeMap;

use registry_core::{NodeId, SessionEpoch, UserId};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use subtle::ConstantTimeEq;

use super::super::value::{bad_column, number, time, unsigned};
use super::add_audit;
use crate::store::{AuditRow, EnrolOutcome, NodeLive, NodeRow};

const COLUMNS: &str =
    "id, user, name, public_key, enrolled_at, epoch, last_seen, attached_at, labels, detail";

/// Every node.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<NodeRow>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM nodes ORDER BY id"))?
        .query_map([], from_row)?
        .collect()
}

/// Spends one use of a token and inserts the node.
///
/// The owner is the token's user, whatever the row says. A key that is enrolled already keeps its node: with the same
/// token nothing is spent; with another token of the same user one use is, and the node stays as it is. The key of a
/// deleted node, or of another user's, gets the answer of a bad token.
pub(super) fn enrol(
    connection: &Connection,
    token: &str,
    secret_hash: &[u8; 32],
    node: &NodeRow,
    audit: &AuditRow,
) -> rusqlite::Result<EnrolOutcome> {
    let Some(grant) = grant(connection, token, secret_hash)? else { return Ok(EnrolOutcome::InvalidToken) };
    if is_revoked(connection, &node.public_key)? {
        return Ok(EnrolOutcome::InvalidToken);
    }
    let known = by_key(connection, &node.public_key)?;
    if known.as_ref().is_some_and(|known| known.user != grant.user) {
        return Ok(EnrolOutcome::InvalidToken);
    }
    if let Some(known) = &known
        && was_used(connection, token, known)?
    {
        return Ok(EnrolOutcome::Enrolled(Box::new(known.clone())));
    }
    if grant.used >= grant.uses || time(node.enrolled_at_unix_ms) >= grant.expires_at {
        return Ok(EnrolOutcome::InvalidToken);
    }
    let node = if let Some(known) = known {
        known
    } else {
        if is_named(connection, &grant.user, &node.name)? {
            return Ok(EnrolOutcome::NameTaken);
        }
        let node = NodeRow { user: grant.user, ..node.clone() };
        insert(connection, &node)?;
        node
    };
    connection.prepare_cached("UPDATE tokens SET used = used + 1 WHERE id = ?1")?.execute([token])?;
    connection
        .prepare_cached("INSERT INTO token_uses (token, public_key, node) VALUES (?1, ?2, ?3)")?
        .execute(params![token, node.public_key, node.id.as_str()])?;
    add_audit(connection, audit)?;
    Ok(EnrolOutcome::Enrolled(Box::new(node)))
}

/// Writes the live part. An epoch never goes back, whatever order the writes come in.
pub(super) fn save_live(connection: &Connection, nodes: &[(NodeId, NodeLive)]) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached(
        "UPDATE nodes SET epoch = max(epoch, ?2), last_seen = ?3, attached_at = ?4, labels = ?5, detail = ?6
         WHERE id = ?1",
    )?;
    for (id, live) in nodes {
        update.execute(params![
            id.as_str(),
            number(live.epoch.0)?,
            time(live.last_seen_unix_ms),
            time(live.attached_at_unix_ms),
            labels_json(&live.labels)?,
            live.detail_json,
        ])?;
    }
    Ok(())
}

/// Deletes a node with its tasks and remembers its key as one to refuse.
pub(super) fn delete(connection: &Connection, node: &NodeId, audit: &AuditRow) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO revoked (public_key, node, at) SELECT public_key, id, ?2 FROM nodes WHERE id = ?1",
        )?
        .execute(params![node.as_str(), time(audit.at_unix_ms)])?;
    // Its tasks and their idempotency keys go with it.
    let deleted = connection.prepare_cached("DELETE FROM nodes WHERE id = ?1")?.execute([node.as_str()])? > 0;
    if deleted {
        add_audit(connection, audit)?;
    }
    Ok(deleted)
}

/// What a token allows.
struct Grant {
    user: UserId,
    expires_at: i64,
    uses: i64,
    used: i64,
}

/// The token, when there is one and the secret is its secret.
fn grant(connection: &Connection, token: &str, secret_hash: &[u8; 32]) -> rusqlite::Result<Option<Grant>> {
    let found = connection
        .prepare_cached("SELECT user, expires_at, uses, used, secret_hash FROM tokens WHERE id = ?1")?
        .query_row([token], |row| {
            let grant =
                Grant { user: user(row, 0)?, expires_at: row.get(1)?, uses: row.get(2)?, used: row.get(3)? };
            Ok((grant, row.get::<_, [u8; 32]>(4)?))
        })
        .optional()?;
    Ok(found.and_then(|(grant, hash)| bool::from(hash.ct_eq(secret_hash)).then_some(grant)))
}

fn is_revoked(connection: &Connection, key: &[u8; 32]) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM revoked WHERE public_key = ?1")?.exists([key])
}

fn was_used(connection: &Connection, token: &str, node: &NodeRow) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM token_uses WHERE token = ?1 AND public_key = ?2")?
        .exists(params![token, node.public_key])
}

fn is_named(connection: &Connection, user: &UserId, name: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM nodes WHERE user = ?1 AND name = ?2")?
        .exists([user.as_str(), name])
}

fn by_key(connection: &Connection, key: &[u8; 32]) -> rusqlite::Result<Option<NodeRow>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM nodes WHERE public_key = ?1"))?
        .query_row([key], from_row)
        .optional()
}

fn insert(connection: &Connection, node: &NodeRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(&format!(
            "INSERT INTO nodes ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
        ))?
        .execute(params![
            node.id.as_str(),
            node.user.as_str(),
            node.name,
            node.public_key,
            time(node.enrolled_at_unix_ms),
            number(node.live.epoch.0)?,
            time(node.live.last_seen_unix_ms),
            time(node.live.attached_at_unix_ms),
            labels_json(&node.live.labels)?,
            node.live.detail_json,
        ])
        .map(|_inserted| ())
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<NodeRow> {
    let labels: String = row.get(8)?;
    Ok(NodeRow {
        id: node_id(row, 0)?,
        user: user(row, 1)?,
        name: row.get(2)?,
        public_key: row.get(3)?,
        enrolled_at_unix_ms: unsigned(row, 4)?,
        live: NodeLive {
            epoch: SessionEpoch(unsigned(row, 5)?),
            last_seen_unix_ms: unsigned(row, 6)?,
            attached_at_unix_ms: unsigned(row, 7)?,
            labels: serde_json::from_str(&labels).map_err(|error| bad_column(8, Type::Text, error))?,
            detail_json: row.get(9)?,
        },
    })
}

pub(in super::super) fn node_id(row: &Row<'_>, column: usize) -> rusqlite::Result<NodeId> {
    NodeId::new(&row.get::<_, String>(column)?).map_err(|error| bad_column(column, Type::Text, error))
}

pub(super) fn user(row: &Row<'_>, column: usize) -> rusqlite::Result<UserId> {
    UserId::new(&row.get::<_, String>(column)?).map_err(|error| bad_column(column, Type::Text, error))
}

fn labels_json(labels: &BTreeMap<String, String>) -> rusqlite::Result<String> {
    serde_json::to_string(labels).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

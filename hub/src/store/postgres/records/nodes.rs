//! Nodes: enrolled once, updated behind, deleted for good.

use deadpool_postgres::ClientWrapper;
use registry_core::{NodeId, SessionEpoch, UserId};
use subtle::ConstantTimeEq;
use tokio_postgres::Row;

use super::super::value::{Fault, bytes, get, node_id, number, text, time, unsigned, user};
use super::add_audit;
use crate::store::{AuditRow, EnrolOutcome, NodeLive, NodeRow};

const COLUMNS: &str =
    r#"id, "user", name, public_key, enrolled_at, epoch, last_seen, attached_at, labels, detail"#;

/// Every node.
pub(super) async fn all(client: &ClientWrapper) -> Result<Vec<NodeRow>, Fault> {
    let statement = client.prepare_cached(&format!("SELECT {COLUMNS} FROM nodes ORDER BY id")).await?;
    client.query(&statement, &[]).await?.iter().map(from_row).collect()
}

/// Spends one use of a token and inserts the node.
///
/// The owner is the token's user, whatever the row says. A key that is enrolled already keeps its node: with the same
/// token nothing is spent; with another token of the same user one use is, and the node stays as it is. The key of a
/// deleted node, or of another user's, gets the answer of a bad token.
pub(super) async fn enrol(
    client: &ClientWrapper,
    token: &str,
    secret_hash: &[u8; 32],
    node: &NodeRow,
    audit: &AuditRow,
) -> Result<EnrolOutcome, Fault> {
    let token = &*text(token);
    let Some(grant) = grant(client, token, secret_hash).await? else { return Ok(EnrolOutcome::InvalidToken) };
    let key = &node.public_key[..];
    if exists(client, "SELECT 1 FROM revoked WHERE public_key = $1", &[&key]).await? {
        return Ok(EnrolOutcome::InvalidToken);
    }
    let known = by_key(client, key).await?;
    if known.as_ref().is_some_and(|known| known.user != grant.user) {
        return Ok(EnrolOutcome::InvalidToken);
    }
    let used = "SELECT 1 FROM token_uses WHERE token = $1 AND public_key = $2";
    if let Some(known) = &known
        && exists(client, used, &[&token, &key]).await?
    {
        return Ok(EnrolOutcome::Enrolled(Box::new(known.clone())));
    }
    if grant.used >= grant.uses || time(node.enrolled_at_unix_ms) >= grant.expires_at {
        return Ok(EnrolOutcome::InvalidToken);
    }
    let node = if let Some(known) = known {
        known
    } else {
        let named = r#"SELECT 1 FROM nodes WHERE "user" = $1 AND name = $2"#;
        if exists(client, named, &[&grant.user.as_str(), &text(&node.name)]).await? {
            return Ok(EnrolOutcome::NameTaken);
        }
        let node = NodeRow { user: grant.user, ..node.clone() };
        insert(client, &node).await?;
        node
    };
    let spend = client.prepare_cached("UPDATE tokens SET used = used + 1 WHERE id = $1").await?;
    client.execute(&spend, &[&token]).await?;
    let note = "INSERT INTO token_uses (token, public_key, node) VALUES ($1, $2, $3)";
    let note = client.prepare_cached(note).await?;
    client.execute(&note, &[&token, &key, &node.id.as_str()]).await?;
    add_audit(client, audit).await?;
    Ok(EnrolOutcome::Enrolled(Box::new(node)))
}

/// Writes the live part. An epoch never goes back, whatever order the writes come in.
pub(super) async fn save_live(client: &ClientWrapper, nodes: &[(NodeId, NodeLive)]) -> Result<(), Fault> {
    // A row is updated once in a statement: of several for one node the last is meant.
    let mut latest: Vec<&(NodeId, NodeLive)> = nodes.iter().collect();
    latest.reverse();
    latest.sort_by(|(one, _), (other, _)| one.cmp(other));
    latest.dedup_by(|(one, _), (other, _)| one == other);
    let column = |of: fn(&NodeLive) -> i64| latest.iter().map(|(_, live)| of(live)).collect::<Vec<_>>();
    let ids: Vec<_> = latest.iter().map(|(id, _)| id.as_str()).collect();
    let epochs = latest.iter().map(|(_, live)| number(live.epoch.0)).collect::<Result<Vec<_>, _>>()?;
    let labels = latest.iter().map(|(_, live)| labels_json(live)).collect::<Result<Vec<_>, _>>()?;
    let details: Vec<_> = latest.iter().map(|(_, live)| text(&live.detail_json)).collect();
    // Locked in the order of their ids, so that two of these cannot wait for each other.
    let statement = client
        .prepare_cached(
            "WITH live AS (
                 SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[])
                     AS live (id, epoch, last_seen, attached_at, labels, detail)
             ), kept AS (
                 SELECT id FROM nodes WHERE id = ANY($1::text[]) ORDER BY id FOR NO KEY UPDATE
             )
             UPDATE nodes SET epoch = greatest(nodes.epoch, live.epoch), last_seen = live.last_seen,
                 attached_at = live.attached_at, labels = live.labels, detail = live.detail
             FROM live JOIN kept ON kept.id = live.id WHERE nodes.id = live.id",
        )
        .await?;
    let seen = column(|live| time(live.last_seen_unix_ms));
    let attached = column(|live| time(live.attached_at_unix_ms));
    client.execute(&statement, &[&ids, &epochs, &seen, &attached, &labels, &details]).await?;
    Ok(())
}

/// Deletes a node with its tasks and remembers its key as one to refuse.
pub(super) async fn delete(client: &ClientWrapper, node: &NodeId, audit: &AuditRow) -> Result<bool, Fault> {
    let revoke = client
        .prepare_cached(
            "INSERT INTO revoked (public_key, node, at) SELECT public_key, id, $2 FROM nodes WHERE id = $1
             ON CONFLICT (public_key) DO UPDATE SET node = excluded.node, at = excluded.at",
        )
        .await?;
    client.execute(&revoke, &[&node.as_str(), &time(audit.at_unix_ms)]).await?;
    // Its tasks and their idempotency keys go with it.
    let delete = client.prepare_cached("DELETE FROM nodes WHERE id = $1").await?;
    let deleted = client.execute(&delete, &[&node.as_str()]).await? > 0;
    if deleted {
        add_audit(client, audit).await?;
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

/// The token, when there is one and the secret is its secret; nobody else spends it before this transaction ends.
async fn grant(client: &ClientWrapper, token: &str, secret_hash: &[u8; 32]) -> Result<Option<Grant>, Fault> {
    let statement = client
        .prepare_cached(
            r#"SELECT "user", expires_at, uses, used, secret_hash FROM tokens WHERE id = $1 FOR UPDATE"#,
        )
        .await?;
    let Some(row) = client.query_opt(&statement, &[&token]).await? else { return Ok(None) };
    let grant =
        Grant { user: user(&row, 0)?, expires_at: get(&row, 1)?, uses: get(&row, 2)?, used: get(&row, 3)? };
    let hash: [u8; 32] = bytes(&row, 4)?;
    Ok(bool::from(hash.ct_eq(secret_hash)).then_some(grant))
}

async fn exists(
    client: &ClientWrapper,
    query: &str,
    values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<bool, Fault> {
    let statement = client.prepare_cached(query).await?;
    Ok(client.query_opt(&statement, values).await?.is_some())
}

/// The node of a key, which is not deleted before this transaction ends.
async fn by_key(client: &ClientWrapper, key: &[u8]) -> Result<Option<NodeRow>, Fault> {
    let query = format!("SELECT {COLUMNS} FROM nodes WHERE public_key = $1 FOR KEY SHARE");
    let statement = client.prepare_cached(&query).await?;
    client.query_opt(&statement, &[&key]).await?.as_ref().map(from_row).transpose()
}

async fn insert(client: &ClientWrapper, node: &NodeRow) -> Result<(), Fault> {
    let statement = client
        .prepare_cached(&format!(
            "INSERT INTO nodes ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING"
        ))
        .await?;
    let inserted = client
        .execute(
            &statement,
            &[
                &node.id.as_str(),
                &node.user.as_str(),
                &text(&node.name),
                &&node.public_key[..],
                &time(node.enrolled_at_unix_ms),
                &number(node.live.epoch.0)?,
                &time(node.live.last_seen_unix_ms),
                &time(node.live.attached_at_unix_ms),
                &labels_json(&node.live)?,
                &text(&node.live.detail_json),
            ],
        )
        .await?;
    // Its key or its name was taken since they were looked for; the next attempt sees by whom.
    if inserted == 0 { Err(Fault::came_between()) } else { Ok(()) }
}

fn from_row(row: &Row) -> Result<NodeRow, Fault> {
    Ok(NodeRow {
        id: node_id(row, 0)?,
        user: user(row, 1)?,
        name: get(row, 2)?,
        public_key: bytes(row, 3)?,
        enrolled_at_unix_ms: unsigned(row, 4)?,
        live: NodeLive {
            epoch: SessionEpoch(unsigned(row, 5)?),
            last_seen_unix_ms: unsigned(row, 6)?,
            attached_at_unix_ms: unsigned(row, 7)?,
            labels: serde_json::from_str(get(row, 8)?).map_err(|error| Fault::bad_column(8, error))?,
            detail_json: get(row, 9)?,
        },
    })
}

fn labels_json(live: &NodeLive) -> Result<String, Fault> {
    serde_json::to_string(&live.labels).map_err(Fault::failed)
}

//! How a machine becomes a node: join tokens, and what an agent trades them for.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{Signature, VerifyingKey};
use registry_core::{Clock, NodeId, UserId};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::auth::{Action, Auth, DEFAULT_USER, Principal, random_text};
use crate::error::{ErrorCode, HubError};
use crate::fleet::{NodeDetail, NodeFacts};
use crate::lifecycle::to_the_end;
use crate::mesh::Mesh;
use crate::store::{AuditRow, EnrolOutcome, NodeLive, NodeRow, Store, TokenRow};

/// What every join token begins with, so that scanners and people recognise one. Then `id.secret`.
const TOKEN_PREFIX: &str = "muster-join.1.";
/// A token lives this long unless asked otherwise: long enough to walk to the machine.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// The longest that a token may live.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most nodes that one token may enrol.
pub const MAX_USES: u32 = 10_000;
/// The longest node name: a DNS label.
pub const MAX_NAME_BYTES: usize = 63;
/// Labels of one node.
pub const MAX_LABELS: usize = 64;
/// The longest label key or value, in bytes.
pub const MAX_LABEL_BYTES: usize = 253;

/// What an agent says when it enrols.
#[derive(Debug)]
pub struct EnrolClaim {
    /// As printed by `muster token create --join`.
    pub join_token: String,
    /// Ed25519, 32 bytes.
    pub public_key: Vec<u8>,
    /// By that key over [`muster_proto::signing::enrol`].
    pub signature: Vec<u8>,
    /// The name it wants.
    pub name: String,
    /// Its labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Its machine.
    pub facts: NodeFacts,
}

/// Join tokens and new nodes.
pub struct Enrolment {
    store: Arc<dyn Store>,
    mesh: Mesh,
    auth: Arc<Auth>,
    clock: Clock,
}

impl Enrolment {
    /// Puts the service together.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, mesh: Mesh, auth: Arc<Auth>, clock: Clock) -> Self {
        Self { store, mesh, auth, clock }
    }

    /// Makes a join token. The text is answered once and only its hash is kept. `ttl` zero: [`DEFAULT_TTL`]; `uses`
    /// zero: one.
    ///
    /// # Errors
    /// `forbidden`, `invalid_argument`, `unknown_user`, `store_unavailable`.
    pub async fn create_token(
        &self,
        principal: &Principal,
        user: Option<String>,
        ttl: Duration,
        uses: u32,
    ) -> Result<(String, TokenRow), HubError> {
        self.auth.authorize(principal, Action::TokenWrite, "tokens")?;
        let user = match user.as_deref() {
            None | Some("" | DEFAULT_USER) => principal.user.clone(),
            Some(other) => {
                UserId::new(other)?;
                return Err(HubError::new(ErrorCode::UnknownUser, format!("there is no user {other}")));
            }
        };
        let ttl = if ttl.is_zero() { DEFAULT_TTL } else { ttl };
        if ttl > MAX_TTL || uses > MAX_USES {
            return Err(HubError::new(
                ErrorCode::InvalidArgument,
                "a join token lives at most 30 days and enrols at most 10000 nodes".to_owned(),
            ));
        }
        let (id, secret) = (random_text(9)?, random_text(32)?);
        let now = self.clock.unix_ms();
        let row = TokenRow {
            secret_hash: Sha256::digest(&secret).into(),
            user,
            created_at_unix_ms: now,
            expires_at_unix_ms: now.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            uses: uses.max(1),
            used: 0,
            created_by: principal.name.clone(),
            id: id.clone(),
        };
        let audit = self.audit(&principal.name, Action::TokenWrite.as_str(), &id, r#"{"act":"create"}"#);
        self.store.create_token(row.clone(), audit).await?;
        Ok((format!("{TOKEN_PREFIX}{id}.{secret}"), row))
    }

    /// Every join token, newest first, without secrets.
    ///
    /// # Errors
    /// `forbidden`, `store_unavailable`.
    pub async fn list_tokens(&self, principal: &Principal) -> Result<Vec<TokenRow>, HubError> {
        self.auth.authorize(principal, Action::TokenRead, "tokens")?;
        Ok(self.store.tokens().await?)
    }

    /// Deletes a join token. Nodes that enrolled with it stay.
    ///
    /// # Errors
    /// `forbidden`, `unknown_token`, `store_unavailable`.
    pub async fn delete_token(&self, principal: &Principal, id: &str) -> Result<(), HubError> {
        self.auth.authorize(principal, Action::TokenWrite, id)?;
        let audit = self.audit(&principal.name, Action::TokenWrite.as_str(), id, r#"{"act":"delete"}"#);
        if self.store.delete_token(id, audit).await? {
            Ok(())
        } else {
            Err(HubError::plain(ErrorCode::UnknownToken))
        }
    }

    /// Trades a join token for a node. Repeated with the same token and key it gives the same answer.
    ///
    /// # Errors
    /// `invalid_token`, `invalid_argument`, `name_taken`, `store_unavailable`.
    pub async fn enrol(&self, claim: EnrolClaim) -> Result<NodeRow, HubError> {
        let public_key: [u8; 32] = claim
            .public_key
            .as_slice()
            .try_into()
            .map_err(|_| invalid("public_key", "an Ed25519 public key has 32 bytes"))?;
        let message = muster_proto::signing::enrol(&claim.join_token, &claim.public_key);
        if !is_signed(&public_key, &message, &claim.signature) {
            return Err(invalid("signature", "the signature is not by the key that is to be enrolled"));
        }
        check_name(&claim.name)?;
        check_labels(&claim.labels)?;
        let (id, secret) = claim
            .join_token
            .strip_prefix(TOKEN_PREFIX)
            .and_then(|rest| rest.split_once('.'))
            .ok_or_else(|| HubError::plain(ErrorCode::InvalidToken))?;
        let row = self.new_row(&claim, public_key)?;
        let audit = self.audit("join-token", "node.enrol", row.id.as_str(), &audit_detail(id, &claim.name));
        let (store, mesh) = (Arc::clone(&self.store), self.mesh.clone());
        let (token, secret_hash) = (id.to_owned(), Sha256::digest(secret).into());
        let outcome = to_the_end(async move {
            let outcome = store.enrol(&token, secret_hash, row, audit).await?;
            if let EnrolOutcome::Enrolled(row) = &outcome {
                mesh.enter((**row).clone())?;
            }
            Ok(outcome)
        });
        match outcome.await? {
            EnrolOutcome::Enrolled(row) => {
                tracing::info!(node = %row.id, name = %row.name, "node enrolled");
                Ok(*row)
            }
            EnrolOutcome::InvalidToken => {
                tracing::warn!(token = %id.chars().take(12).collect::<String>(), "join token refused");
                Err(HubError::plain(ErrorCode::InvalidToken))
            }
            EnrolOutcome::NameTaken => Err(HubError::new(
                ErrorCode::NameTaken,
                format!("another node has the name {}: choose one with --name", claim.name),
            )),
        }
    }

    #[allow(clippy::disallowed_methods, reason = "the one place where node ids are minted")]
    fn new_row(&self, claim: &EnrolClaim, public_key: [u8; 32]) -> Result<NodeRow, HubError> {
        let detail = NodeDetail { facts: claim.facts.clone(), ..NodeDetail::default() };
        Ok(NodeRow {
            id: NodeId::new(&Uuid::now_v7().to_string())?,
            // The store puts the token's user here.
            user: UserId::new(DEFAULT_USER)?,
            name: claim.name.clone(),
            public_key,
            enrolled_at_unix_ms: self.clock.unix_ms(),
            live: NodeLive {
                labels: claim.labels.clone(),
                detail_json: serde_json::to_string(&detail).map_err(HubError::fault)?,
                ..NodeLive::default()
            },
        })
    }

    fn audit(&self, principal: &str, action: &str, resource: &str, detail: &str) -> AuditRow {
        AuditRow {
            at_unix_ms: self.clock.unix_ms(),
            principal: principal.to_owned(),
            action: action.to_owned(),
            resource: resource.chars().take(300).collect(),
            detail_json: detail.to_owned(),
        }
    }
}

/// Whether an Ed25519 signature is by that key over that message, strictly (no malleable or small-order variants).
#[must_use]
pub fn is_signed(public_key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    let (Ok(key), Ok(signature)) = (VerifyingKey::from_bytes(public_key), Signature::from_slice(signature))
    else {
        return false;
    };
    key.verify_strict(message, &signature).is_ok()
}

/// Checks what an agent says of its labels.
///
/// # Errors
/// `invalid_argument`.
pub fn check_labels(labels: &std::collections::BTreeMap<String, String>) -> Result<(), HubError> {
    if labels.len() > MAX_LABELS {
        return Err(invalid("labels", "a node has at most 64 labels"));
    }
    let good = |text: &str| text.len() <= MAX_LABEL_BYTES && text.chars().all(label_char);
    if labels.iter().any(|(key, value)| key.is_empty() || !good(key) || !good(value)) {
        return Err(invalid(
            "labels",
            "a label is KEY=VALUE of letters, digits and -_./: with at most 253 bytes each",
        ));
    }
    Ok(())
}

/// Letters and digits of any script, and a few signs: nothing that a shell, a selector or a terminal takes for its own.
fn label_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':')
}

fn check_name(name: &str) -> Result<(), HubError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = name.len() <= MAX_NAME_BYTES
        && name.starts_with(ends)
        && name.ends_with(ends)
        && name.chars().all(inner);
    if good {
        Ok(())
    } else {
        Err(invalid(
            "name",
            "a node's name is 1 to 63 of a-z, 0-9, - and ., beginning and ending with a letter or digit",
        ))
    }
}

fn invalid(field: &'static str, text: &str) -> HubError {
    HubError::new(ErrorCode::InvalidArgument, text.to_owned()).with("field", field)
}

fn audit_detail(token: &str, name: &str) -> String {
    serde_json::json!({ "token": token, "name": name }).to_string()
}

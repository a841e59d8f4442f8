//! Enrolment: trades a join token for this node's identity.

use std::collections::HashMap;
use std::time::Duration;

use ed25519_dalek::{Signer, SigningKey};
use muster_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use muster_proto::{MAX_MESSAGE_BYTES, signing, v1};
use registry_core::NodeId;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::dial::{Backoff, chain};
use crate::error::AgentError;
use crate::session::{reason, words};
use crate::state::Identity;

/// One attempt takes no longer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// Pauses between attempts while the hub is away.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Asks until the hub has answered. An attempt whose answer was lost may be repeated: the same token and key get
/// the same answer.
pub(crate) async fn enrol(
    endpoint: &Endpoint,
    key: &SigningKey,
    join_token: &str,
    name: &str,
    labels: &HashMap<String, String>,
    facts: &v1::NodeFacts,
) -> Result<Identity, AgentError> {
    let public_key = key.verifying_key().to_bytes();
    let request = v1::EnrolRequest {
        join_token: join_token.to_owned(),
        public_key: public_key.to_vec().into(),
        signature: key.sign(&signing::enrol(join_token, &public_key)).to_bytes().to_vec().into(),
        name: name.to_owned(),
        labels: labels.clone(),
        facts: Some(facts.clone()),
    };
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let why = match timeout(ATTEMPT_TIMEOUT, attempt(endpoint, request.clone())).await {
            Ok(Ok(granted)) => return identity(granted),
            Ok(Err(Failure::Refused(status))) => {
                let message = status.message().to_owned();
                return Err(AgentError::EnrolmentRefused { code: reason(&status), message });
            }
            Ok(Err(Failure::Away(why))) => why,
            Err(_elapsed) => "the hub does not answer".to_owned(),
        };
        let pause = backoff.next();
        tracing::warn!(%why, retry_in = ?pause, "cannot enrol yet");
        sleep(pause).await;
    }
}

enum Failure {
    Refused(Status),
    Away(String),
}

async fn attempt(endpoint: &Endpoint, request: v1::EnrolRequest) -> Result<v1::EnrolResponse, Failure> {
    let channel = endpoint.connect().await.map_err(|error| Failure::Away(chain(&error)))?;
    let mut client = EnrolmentServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    match client.enrol(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::Unimplemented => Failure::Refused(status),
            _ => Failure::Away(words(&status)),
        }),
    }
}

fn identity(granted: v1::EnrolResponse) -> Result<Identity, AgentError> {
    // The id goes into files, logs and signatures: a hub that grants nonsense is not one.
    if let Err(error) = NodeId::new(&granted.node_id) {
        let message = format!("it granted a node id that cannot be one: {error}");
        return Err(AgentError::EnrolmentRefused { code: "invalid_answer".to_owned(), message });
    }
    let v1::EnrolResponse { node_id, user_id, name, hub_id } = granted;
    Ok(Identity { node_id, user_id, name, hub_id })
}

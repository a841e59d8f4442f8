//! The enrolment service: a join token and a key in, a node's identity out.

use std::sync::Arc;

use muster_proto::v1;
use muster_proto::v1::enrolment_service_server::EnrolmentService;
use tonic::{Request, Response, Status};

use super::convert;
use crate::enrolment::EnrolClaim;
use crate::hub::Hub;

/// Serves [`EnrolmentService`].
pub struct EnrolmentApi {
    hub: Arc<Hub>,
}

impl EnrolmentApi {
    /// Over a hub.
    #[must_use]
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }
}

#[tonic::async_trait]
impl EnrolmentService for EnrolmentApi {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let request = request.into_inner();
        let claim = EnrolClaim {
            join_token: request.join_token,
            public_key: request.public_key.to_vec(),
            signature: request.signature.to_vec(),
            name: request.name,
            labels: request.labels.into_iter().collect(),
            facts: request.facts.map(convert::facts_from_proto).unwrap_or_default(),
        };
        let row = super::answer(&self.hub, self.hub.enrolment.enrol(claim).await)?;
        Ok(Response::new(v1::EnrolResponse {
            node_id: row.id.to_string(),
            user_id: row.user.to_string(),
            name: row.name,
            hub_id: self.hub.id.clone(),
        }))
    }
}

//! gRPC: translation between messages and the services, nothing else.

pub mod control;
pub mod convert;
pub mod enrol;
pub mod node;

use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use muster_proto::v1::control_service_server::ControlServiceServer;
use muster_proto::v1::enrolment_service_server::EnrolmentServiceServer;
use muster_proto::v1::node_service_server::NodeServiceServer;
use tonic::codegen::Service;
use tracing::field::Empty;
use tracing::instrument::Instrumented;
use tracing::{Instrument as _, Span};

use crate::error::HubError;
use crate::hub::Hub;
use crate::telemetry::traces::SPANS;

/// Every gRPC service of the hub, with the same bounds on messages.
#[must_use]
pub fn routes(hub: &Arc<Hub>) -> tonic::service::Routes {
    const MAX: usize = muster_proto::MAX_MESSAGE_BYTES;
    let node = NodeServiceServer::new(node::NodeApi::new(Arc::clone(hub)));
    let enrolment = EnrolmentServiceServer::new(enrol::EnrolmentApi::new(Arc::clone(hub)));
    let control = ControlServiceServer::new(control::ControlApi::new(Arc::clone(hub)));
    // What the hub sends may be larger by a frame than what it accepts: a page of a log ends with a whole frame.
    tonic::service::Routes::new(node.max_decoding_message_size(MAX).max_encoding_message_size(2 * MAX))
        .add_service(enrolment.max_decoding_message_size(MAX).max_encoding_message_size(2 * MAX))
        .add_service(control.max_decoding_message_size(MAX).max_encoding_message_size(2 * MAX))
        .prepare()
}

/// Each call in a span of its own. That of a stream ends when the stream is accepted.
#[derive(Clone, Debug)]
pub struct Traced<S>(pub S);

impl<S, B> Service<Request<B>> for Traced<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let name = request.uri().path().trim_start_matches('/');
        let span =
            tracing::debug_span!(target: SPANS, "grpc", otel.name = name, otel.kind = "server", code = Empty);
        self.0.call(request).instrument(span)
    }
}

/// Renders an answer, and counts it.
pub(crate) fn answer<T>(hub: &Hub, answer: Result<T, HubError>) -> Result<T, tonic::Status> {
    let code = answer.as_ref().map_or_else(|error| error.code().as_str(), |_| "ok");
    hub.metrics.request("grpc", code);
    Span::current().record("code", code);
    answer.map_err(tonic::Status::from)
}

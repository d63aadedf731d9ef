//! gRPC for nodes: thin adapters over the services.
//!
//! One listener with optional client certificates. Enrolment works without one; every method of `Node` needs one, which
//! TLS has verified against our authority before a request is read.

mod enrolment;
mod node;

use std::convert::Infallible;

use casemate_api::node::{MAX_MESSAGE, enrolment_server::EnrolmentServer, node_server::NodeServer};
use hyper::body::Incoming;
use tower_service::Service as _;

use crate::{
    listener::{Handler, Peer},
    service::Service,
};

/// Both gRPC services on one connection.
#[derive(Clone)]
pub struct NodeApi {
    enrolment: EnrolmentServer<enrolment::Adapter>,
    node: NodeServer<node::Adapter>,
}

impl NodeApi {
    /// Adapters over these services.
    pub fn new(service: Service) -> Self {
        let enrolment = EnrolmentServer::new(enrolment::Adapter(service.clone()));
        let node = NodeServer::new(node::Adapter(service));
        Self {
            enrolment: enrolment.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE),
            node: node.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE),
        }
    }
}

impl Handler for NodeApi {
    type Body = tonic::body::Body;

    async fn handle(mut self, mut request: http::Request<Incoming>, peer: Peer) -> http::Response<Self::Body> {
        request.extensions_mut().insert(peer);
        let answer: Result<_, Infallible> = match request.uri().path().split('/').nth(1) {
            Some("casemate.node.v1.Enrolment") => self.enrolment.call(request).await,
            Some("casemate.node.v1.Node") => self.node.call(request).await,
            _ => Ok(tonic::Status::unimplemented("there is no such service").into_http()),
        };
        answer.unwrap_or_else(|never| match never {})
    }
}

//! Enrolment: without a client certificate.

use casemate_api::node::{EnrolChallenge, EnrolProof, EnrolRequest, NodeCredential, enrolment_server::Enrolment};
use tonic::{Request, Response, Status};

use crate::{fault::Fault, service::Service};

#[derive(Debug)]
pub(super) struct Adapter(pub(super) Service);

#[tonic::async_trait]
impl Enrolment for Adapter {
    async fn begin(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolChallenge>, Status> {
        self.0.begin_enrolment(request.into_inner()).await.map(Response::new).map_err(|fault: Fault| fault.status())
    }

    async fn finish(&self, request: Request<EnrolProof>) -> Result<Response<NodeCredential>, Status> {
        self.0.finish_enrolment(request.into_inner()).await.map(Response::new).map_err(|fault: Fault| fault.status())
    }
}

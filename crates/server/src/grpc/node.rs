//! The node's methods: with a client certificate.

use std::pin::Pin;

use casemate_api::node::{
    BLOB_CHUNK, BlobChunk, BlobRequest, FromNode, NodeCredential, RenewNonce, RenewProof, RenewRequest, ToNode, node_server::Node,
};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    fault::Fault,
    listener::Peer,
    service::{PeerNode, Service, SessionEnd},
};

/// Messages that may wait for one node.
const OUTBOUND: usize = 64;

#[derive(Debug)]
pub(super) struct Adapter(pub(super) Service);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Node for Adapter {
    type SessionStream = Answers<ToNode>;
    type FetchBlobStream = Answers<BlobChunk>;

    async fn session(&self, request: Request<Streaming<FromNode>>) -> Result<Response<Self::SessionStream>, Status> {
        let peer = self.peer(&request).await?;
        let inbound = request.into_inner().take_while(|message| std::future::ready(message.is_ok())).filter_map(async |m| m.ok());
        let (outbound, receiver) = mpsc::channel(OUTBOUND);
        let service = self.0.clone();
        // The task ends with the connection: its inbound stream ends then, and its sends fail.
        let task = tokio::spawn(async move { service.run_session(peer.id, peer.ends_at_ms, Box::pin(inbound), outbound).await });
        let last = futures::stream::once(async move {
            match task.await {
                Ok(SessionEnd::Closed) => None,
                Ok(SessionEnd::Fault(fault)) => Some(Err(fault.status())),
                Ok(end) => Some(Err(Status::unavailable(end.to_string()))),
                Err(_) => Some(Err(Status::internal("the session failed"))),
            }
        });
        let answers = ReceiverStream::new(receiver).map(Ok).chain(last.filter_map(std::future::ready));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_blob(&self, request: Request<BlobRequest>) -> Result<Response<Self::FetchBlobStream>, Status> {
        let peer = self.peer(&request).await?;
        let BlobRequest { digest, from } = request.into_inner();
        let file = self.0.fetch_blob(&peer.id, &digest, from).await.map_err(|fault| fault.status())?;
        let mut begins = Some(from);
        let chunks = ReaderStream::with_capacity(file, BLOB_CHUNK).map(move |chunk| match chunk {
            Ok(data) => Ok(BlobChunk { data: data.to_vec(), from: begins.take() }),
            Err(error) => Err(Fault::internal("read a blob")(error.into()).status()),
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn renew_challenge(&self, request: Request<RenewRequest>) -> Result<Response<RenewNonce>, Status> {
        let peer = self.peer(&request).await?;
        self.0.renew_challenge(&peer.id).await.map(Response::new).map_err(|fault| fault.status())
    }

    async fn renew(&self, request: Request<RenewProof>) -> Result<Response<NodeCredential>, Status> {
        let peer = self.peer(&request).await?;
        self.0.renew(&peer.id, request.into_inner()).await.map(Response::new).map_err(|fault| fault.status())
    }
}

impl Adapter {
    /// The node behind the connection's certificate; no certificate, no method.
    async fn peer<T>(&self, request: &Request<T>) -> Result<PeerNode, Status> {
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.node.clone());
        let peer = peer.ok_or_else(|| Status::unauthenticated("this method needs a node certificate; enrol first"))?;
        self.0.known_node(&peer).await.map_err(|fault| fault.status())?;
        Ok((*peer).clone())
    }
}

//! One TLS listener: accepts, shakes hands, serves HTTP, drains.

use std::{convert::Infallible, future::Future, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{drain::drained, peer, service::PeerNode};

/// Most connections of one listener at the same time.
const MAX_CONNECTIONS: usize = 1024;
/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest time for the head of a request to arrive.
const HEAD: Duration = Duration::from_secs(15);
/// Most bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;
/// HTTP/2 pings of silent connections.
const PING: Duration = Duration::from_secs(10);
/// A connection whose ping is not answered within this time is dead.
const PING_ANSWER: Duration = Duration::from_secs(10);
/// Time for connections to end by themselves when the server drains.
pub const DRAIN: Duration = Duration::from_secs(10);

/// What is known of the other side after the handshake.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The node of a verified client certificate.
    pub node: Option<Arc<PeerNode>>,
    /// Where it comes from.
    pub address: IpAddr,
}

/// Answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The body of answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    /// Answers one request.
    fn handle(self, request: http::Request<Incoming>, peer: Peer) -> impl Future<Output = http::Response<Self::Body>> + Send;
}

impl Handler for axum::Router {
    type Body = axum::body::Body;

    async fn handle(mut self, mut request: http::Request<Incoming>, peer: Peer) -> http::Response<Self::Body> {
        request.extensions_mut().insert(peer);
        let answer: Result<_, Infallible> = tower_service::Service::call(&mut self, request).await;
        answer.unwrap_or_else(|never| match never {})
    }
}

/// Serves until `draining`, then gives open connections [`DRAIN`] to end.
pub async fn serve<H: Handler>(listener: TcpListener, tls: TlsAcceptor, handler: H, mut draining: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot.expect("the semaphore is never closed"),
            () = drained(&mut draining) => break,
        };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let (tls, handler, draining) = (tls.clone(), handler.clone(), draining.clone());
                    connections.spawn(async move {
                        connection((stream, address.ip()), tls, handler, draining).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Usually too many open files: give others time to close some.
                    tracing::warn!(error = %error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = drained(&mut draining) => break,
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::warn!("connections did not end in time and are cut");
        connections.shutdown().await;
    }
}

async fn connection<H: Handler>(
    (stream, address): (TcpStream, IpAddr),
    tls: TlsAcceptor,
    handler: H,
    mut draining: watch::Receiver<bool>,
) {
    // Small messages go out at once; without this a failure only costs time.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(error = %error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let node = match stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
        None => None,
        Some(leaf) => match peer::node(leaf) {
            Ok(node) => Some(Arc::new(node)),
            Err(error) => return tracing::warn!(error = %error, "a client certificate of ours is not a node's"),
        },
    };
    let peer = Peer { node, address };
    let service = hyper::service::service_fn(move |request| {
        let (handler, peer) = (handler.clone(), peer.clone());
        async move { Ok::<_, Infallible>(handler.handle(request, peer).await) }
    });
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING_ANSWER);
    http.http2().max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX)).max_concurrent_streams(256);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let done = tokio::select! {
        done = serving.as_mut() => done,
        () = drained(&mut draining) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(error = %error, "a connection ended early");
    }
}

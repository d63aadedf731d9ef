//! The connection to the platform: mutual TLS with the pinned CA and nothing else.

use std::time::Duration;

use casemate_api::node::{MAX_MESSAGE, enrolment_client::EnrolmentClient, node_client::NodeClient};
use ed25519_dalek::VerifyingKey;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::credential::Credential;

/// Longest wait for a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// HTTP/2 pings: a dead platform is noticed within the sum.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WAIT: Duration = Duration::from_secs(10);
/// Receive windows of a stream and of a connection.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// The platform as one node certificate reaches it.
#[derive(Debug, Clone)]
pub(crate) struct Platform {
    channel: Channel,
    /// Signs assignments.
    pub(crate) key: VerifyingKey,
}

impl Platform {
    /// Connects at the first call, and again after a broken connection.
    pub(crate) fn new(address: &str, ca_pem: &str, credential: &Credential) -> Result<Self, tonic::transport::Error> {
        let identity = Identity::from_pem(credential.chain_pem(), credential.tls_key_pem());
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem)).identity(identity);
        Ok(Self { channel: endpoint(address, tls)?.connect_lazy(), key: credential.platform_key })
    }

    /// A platform that never answers.
    #[cfg(test)]
    pub(crate) fn unreachable(key: VerifyingKey) -> Self {
        Self { channel: Endpoint::from_static("http://127.0.0.1:1").connect_lazy(), key }
    }

    /// The node service.
    pub(crate) fn client(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
    }
}

/// The enrolment service, which takes no client certificate.
pub(crate) fn enrolment(address: &str, ca_pem: &str) -> Result<EnrolmentClient<Channel>, tonic::transport::Error> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem));
    Ok(EnrolmentClient::new(endpoint(address, tls)?.connect_lazy()))
}

fn endpoint(address: &str, tls: ClientTlsConfig) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(address.to_owned())?
        .tls_config(tls)?
        .connect_timeout(CONNECT_WAIT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT)
        .keep_alive_while_idle(true))
}

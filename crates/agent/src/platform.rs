//! The connection to the platform: mutual TLS with the pinned CA and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use casemate_api::node::{MAX_MESSAGE, enrolment_client::EnrolmentClient, node_client::NodeClient};
use ed25519_dalek::VerifyingKey;
use serde::Deserialize;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{clock, credential::Credential};

/// Most servers of a platform.
const MAX_SERVERS: usize = 64;
/// Longest wait for a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// HTTP/2 pings: a dead platform is noticed within the sum.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WAIT: Duration = Duration::from_secs(10);
/// What a node waits for a blob while no server has anything of it.
const PATIENCE: Duration = Duration::from_secs(150);
/// Receive windows of a stream and of a connection.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// The platform as one node certificate reaches it. Of several servers one is used, until it fails.
#[derive(Debug, Clone)]
pub(crate) struct Platform {
    channels: Vec<Channel>,
    at: Arc<AtomicUsize>,
    /// Signs assignments.
    pub(crate) key: VerifyingKey,
    /// Longest time that a download goes without a new byte, over all servers and tries.
    pub(crate) patience: Duration,
}

impl Platform {
    /// Connects at the first call, and again after a broken connection.
    pub(crate) fn new(addresses: &[String], ca_pem: &str, credential: &Credential) -> Result<Self, tonic::transport::Error> {
        let identity = Identity::from_pem(credential.chain_pem(), credential.tls_key_pem());
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem)).identity(identity);
        let connect = |address: &String| Ok(endpoint(address, tls.clone())?.connect_lazy());
        let channels = addresses.iter().map(connect).collect::<Result<Vec<_>, _>>()?;
        // Nodes begin at different servers.
        let first = usize::try_from(clock::jitter(u64::MAX)).unwrap_or_default();
        Ok(Self { channels, at: Arc::new(AtomicUsize::new(first)), key: credential.platform_key, patience: PATIENCE })
    }

    /// A platform that never answers.
    #[cfg(test)]
    pub(crate) fn unreachable(key: VerifyingKey) -> Self {
        let channels = vec![Endpoint::from_static("http://127.0.0.1:1").connect_lazy()];
        Self { channels, at: Arc::default(), key, patience: Duration::from_millis(300) }
    }

    /// The server that is used now.
    pub(crate) fn server(&self) -> Server {
        Server(self.at.load(Ordering::Relaxed))
    }

    /// The node service at this server.
    pub(crate) fn client_of(&self, server: Server) -> NodeClient<Channel> {
        let channel = self.channels[server.0 % self.channels.len()].clone();
        NodeClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
    }

    /// This server failed: from now on the next one, unless somebody has seen to that already.
    pub(crate) fn fail_over(&self, failed: Server) {
        // Either way another server than the failed one is used.
        let _ = self.at.compare_exchange(failed.0, failed.0.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// One of the platform's servers, at one turn of using them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Server(usize);

/// The addresses of a configuration: one, or a list of them.
pub(crate) fn one_or_more<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an address or a list of addresses")]
    enum Addresses {
        One(String),
        More(Vec<String>),
    }
    Ok(match Addresses::deserialize(deserializer)? {
        Addresses::One(address) => vec![address],
        Addresses::More(addresses) => addresses,
    })
}

/// Whether a configuration may name these.
pub(crate) fn are_addresses(texts: &[String]) -> bool {
    (1..=MAX_SERVERS).contains(&texts.len()) && texts.iter().all(|text| text.starts_with("https://"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        #[serde(deserialize_with = "one_or_more")]
        platform: Vec<String>,
    }

    #[test]
    fn a_platform_has_one_address_or_several() {
        let of = |text: &str| serde_json::from_str::<File>(text).map(|file| file.platform);
        assert_eq!(of(r#"{ "platform": "https://a" }"#).unwrap(), ["https://a"]);
        assert_eq!(of(r#"{ "platform": ["https://a", "https://b"] }"#).unwrap(), ["https://a", "https://b"]);
        assert!(of(r#"{ "platform": 7 }"#).unwrap_err().to_string().contains("an address or a list of addresses"));
        for (texts, good) in
            [(vec!["https://a"], true), (vec![], false), (vec!["https://a", "http://b"], false), (vec!["https://a"; 65], false)]
        {
            assert_eq!(are_addresses(&texts.into_iter().map(str::to_owned).collect::<Vec<_>>()), good);
        }
    }

    #[tokio::test]
    async fn a_server_that_failed_is_not_the_next_one_to_be_asked() {
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]).verifying_key();
        let one = Platform::unreachable(key);
        let several = Platform { channels: vec![one.channels[0].clone(), one.channels[0].clone()], ..one };
        let at = || several.server().0 % several.channels.len();
        let before = (several.server(), at());
        several.fail_over(before.0);
        // Who notices the same failure a little later does not go back to the one that failed.
        several.fail_over(before.0);
        assert_ne!(at(), before.1);
        several.fail_over(several.server());
        assert_eq!(at(), before.1, "around and around");
    }
}

//! An OCI registry. The `oci-client` crate authenticates; the downloads are ours, since every answer must be bounded.

use std::{
    io::{self, Read},
    path::PathBuf,
    time::Duration,
};

use futures::StreamExt;
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
};
use reqwest::{Response, StatusCode, header};
use tokio::sync::mpsc;

use super::{
    BlobInfo, Role, auth, blocking,
    manifest::{INDEX_TYPES, MANIFEST_TYPES},
};
use crate::{Cache, Digest, ImageError};

pub(super) struct Registry {
    reference: Reference,
    oci: Client,
    http: reqwest::Client,
    base_url: String,
}

/// Why one attempt failed.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("authenticate")]
    Auth(#[source] Box<oci_client::errors::OciDistributionError>),
    #[error("request {url}")]
    Request { url: String, source: reqwest::Error },
    #[error("request {url}: the answer is {status}")]
    Status { url: String, status: StatusCode },
    #[error("request {url}: more than {limit} bytes came")]
    TooLong { url: String, limit: u64 },
}

impl Registry {
    pub(super) fn open(reference: Reference) -> Result<Self, ImageError> {
        // The TLS library panics without a provider; where the process has chosen one, this changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let host = reference.resolve_registry().to_owned();
        let is_local = is_this_host(&host);
        let protocol = if is_local { ClientProtocol::Http } else { ClientProtocol::Https };
        let oci = Client::new(ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        });
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT);
        // Redirects to storage are usual; away from TLS they are not allowed.
        let http = http.user_agent(USER_AGENT).https_only(!is_local).build();
        let http = http.map_err(|source| registry_error(&reference, "anything", source))?;
        let scheme = if is_local { "http" } else { "https" };
        let base_url = format!("{scheme}://{host}/v2/{}", reference.repository());
        Ok(Self { reference, oci, http, base_url })
    }

    /// The manifest or index that the reference names; checked if it names a digest.
    pub(super) async fn top(&self, limit: u64) -> Result<Vec<u8>, ImageError> {
        match self.reference.digest() {
            Some(digest) => {
                let digest: Digest = digest.parse()?;
                let bytes = self.document(&digest, Role::Manifest, limit).await?;
                let actual = Digest::of(&bytes);
                if actual == digest { Ok(bytes) } else { Err(ImageError::BlobDigest { expected: digest, actual }) }
            }
            None => self.get(&format!("manifests/{}", self.reference.tag().unwrap_or("latest")), limit).await,
        }
    }

    /// A document of at most `limit` bytes, not verified.
    pub(super) async fn document(&self, digest: &Digest, role: Role, limit: u64) -> Result<Vec<u8>, ImageError> {
        let folder = match role {
            Role::Manifest => "manifests",
            Role::Config => "blobs",
        };
        self.get(&format!("{folder}/{digest}"), limit).await
    }

    /// Downloads a blob into the cache, which checks it.
    pub(super) async fn fetch(&self, blob: &BlobInfo, cache: &Cache) -> Result<PathBuf, ImageError> {
        let what = format!("blobs/{}", blob.digest);
        let mut attempt = 1;
        loop {
            let fault = match self.fetch_once(&what, blob, cache).await {
                Ok(outcome) => return outcome,
                Err(fault) => fault,
            };
            self.before_retry(&what, attempt, fault).await?;
            attempt += 1;
        }
    }

    /// One attempt: a fault of the network, or else what the cache says.
    async fn fetch_once(&self, what: &str, blob: &BlobInfo, cache: &Cache) -> Result<Result<PathBuf, ImageError>, Fault> {
        let (url, response) = self.request(what).await?;
        let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
        let (cache, digest, size) = (cache.clone(), blob.digest, blob.size);
        let reader = ChunkReader { receiver, chunk: Vec::new().into(), at: 0, is_complete: false };
        let writing = blocking(move || cache.add_blob_from_reader(&digest, Some(size), reader));
        let sending = async move {
            let mut stream = response.bytes_stream();
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|source| Fault::Request { url: url.clone(), source })?;
                // The cache stops reading where the blob is too long, or there already.
                if sender.send(Chunk::Data(chunk)).await.is_err() {
                    return Ok(());
                }
            }
            let _ = sender.send(Chunk::End).await;
            Ok(())
        };
        let (written, sent) = tokio::join!(writing, sending);
        sent.map(|()| written)
    }

    async fn get(&self, what: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut attempt = 1;
        loop {
            match self.get_once(what, limit).await {
                Ok(bytes) => return Ok(bytes),
                Err(fault) => self.before_retry(what, attempt, fault).await?,
            }
            attempt += 1;
        }
    }

    async fn get_once(&self, what: &str, limit: u64) -> Result<Vec<u8>, Fault> {
        let (url, response) = self.request(what).await?;
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|source| Fault::Request { url: url.clone(), source })?);
            if bytes.len() as u64 > limit {
                return Err(Fault::TooLong { url, limit });
            }
        }
        Ok(bytes)
    }

    async fn request(&self, what: &str) -> Result<(String, Response), Fault> {
        let url = format!("{}/{what}", self.base_url);
        let auth = auth::for_registry(self.reference.registry());
        let token = self.oci.auth(&self.reference, &auth, RegistryOperation::Pull).await;
        let token = token.map_err(|error| Fault::Auth(Box::new(error)))?;
        let accepted = [MANIFEST_TYPES, INDEX_TYPES].concat().join(", ");
        let mut request = self.http.get(&url).header(header::ACCEPT, format!("{accepted}, */*"));
        request = match (token, auth) {
            (Some(token), _) => request.bearer_auth(token),
            (None, oci_client::secrets::RegistryAuth::Basic(user, password)) => request.basic_auth(user, Some(password)),
            _ => request,
        };
        let response = request.send().await.map_err(|source| Fault::Request { url: url.clone(), source })?;
        match response.status() {
            StatusCode::OK => Ok((url, response)),
            status => Err(Fault::Status { url, status }),
        }
    }

    /// Waits if the fault may pass, else gives it back.
    async fn before_retry(&self, what: &str, attempt: u32, fault: Fault) -> Result<(), ImageError> {
        if attempt >= ATTEMPTS || !fault.may_pass() {
            return Err(registry_error(&self.reference, what, fault));
        }
        tracing::info!(registry.item = what, attempt, error = %fault, "asking the registry again");
        tokio::time::sleep(RETRY_PAUSE * attempt).await;
        Ok(())
    }
}

impl Fault {
    fn may_pass(&self) -> bool {
        match self {
            Self::Request { source, .. } => !source.is_builder() && !source.is_redirect(),
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Auth(_) | Self::TooLong { .. } => false,
        }
    }
}

enum Chunk {
    Data(bytes::Bytes),
    End,
}

/// The blocking end of a download. That the sender is gone is not an end: the download may have been given up.
struct ChunkReader {
    receiver: mpsc::Receiver<Chunk>,
    chunk: bytes::Bytes,
    at: usize,
    is_complete: bool,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() && !self.is_complete {
            match self.receiver.blocking_recv() {
                Some(Chunk::Data(chunk)) => (self.chunk, self.at) = (chunk, 0),
                Some(Chunk::End) => self.is_complete = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download was given up")),
            }
        }
        let n = buffer.len().min(self.chunk.len() - self.at);
        buffer[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

fn is_this_host(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "127.0.0.1")
}

fn registry_error(reference: &Reference, what: &str, source: impl std::error::Error + Send + Sync + 'static) -> ImageError {
    let registry = format!("{}/{}", reference.registry(), reference.repository());
    ImageError::Registry { what: what.into(), registry, source: Box::new(source) }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const QUEUED_CHUNKS: usize = 16;
const USER_AGENT: &str = concat!("casemate/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::is_this_host;

    #[test]
    fn plain_http_is_for_this_host_only() {
        assert!(is_this_host("localhost:5000") && is_this_host("127.0.0.1"));
        for other in ["localhost.example", "127.0.0.1.example:80", "10.0.0.1", "example:443"] {
            assert!(!is_this_host(other));
        }
    }
}

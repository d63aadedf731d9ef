//! OCI registries and their mirrors. A download that breaks goes on where it broke, at the same server or the next; whatever
//! came together so is judged as a whole, by its digest.

pub(super) mod challenge;
mod endpoint;
mod pipe;

use std::{
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    time::Duration,
};

use futures::StreamExt;
use oci_client::Reference;
use tokio::sync::mpsc;

use self::{
    endpoint::{Endpoint, Fault},
    pipe::{Chunk, pipe},
};
use super::{Access, BlobInfo, Role, access::Scheme, blocking};
use crate::{Cache, Digest, ImageError};

pub(super) struct Registry {
    reference: Reference,
    /// Mirrors in order, then the registry.
    endpoints: Vec<Endpoint>,
}

/// Who gave the bytes that came.
struct Delivery {
    /// Number of the server that gave the last.
    last: usize,
    /// Whether another gave some before.
    is_mixed: bool,
}

impl Registry {
    pub(super) fn open(reference: Reference, access: &Access) -> Result<Self, ImageError> {
        // The TLS library panics without a provider; where the process has chosen one, this changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let repository = reference.repository();
        let mirrors = access.mirrors.get(reference.registry()).into_iter().flatten();
        let mirrors = mirrors.map(|mirror| Endpoint::new(mirror.host(), &mirror.host(), mirror.scheme(), repository, access));
        let api_host = reference.resolve_registry();
        let scheme = Scheme::of_registry(api_host);
        let origin = Endpoint::new(reference.registry().to_owned(), api_host, scheme, repository, access);
        let endpoints: Result<Vec<_>, _> = mirrors.chain([origin]).collect();
        let endpoints = endpoints.map_err(|fault| registry_error(&reference, "anything", fault))?;
        Ok(Self { reference, endpoints })
    }

    /// The manifest or index that the reference names; checked if it names a digest.
    pub(super) async fn top(&self, limit: u64) -> Result<Vec<u8>, ImageError> {
        match self.reference.digest() {
            Some(digest) => {
                let digest: Digest = digest.parse()?;
                let is_it = |bytes: &[u8]| match Digest::of(bytes) {
                    actual if actual == digest => Ok(()),
                    actual => Err(ImageError::BlobDigest { expected: digest, actual }),
                };
                self.get(&format!("manifests/{digest}"), limit, &self.endpoints, &is_it).await
            }
            None => {
                let what = format!("manifests/{}", self.reference.tag().unwrap_or("latest"));
                let origin = self.endpoints.last().map(std::slice::from_ref).unwrap_or_default();
                self.get(&what, limit, origin, &|_| Ok(())).await
            }
        }
    }

    /// A document of exactly `size` bytes, verified.
    pub(super) async fn document(&self, digest: &Digest, role: Role, size: u64) -> Result<Vec<u8>, ImageError> {
        let folder = match role {
            Role::Manifest => "manifests",
            Role::Config => "blobs",
        };
        let is_it = |bytes: &[u8]| super::verify(bytes, digest, size);
        self.get(&format!("{folder}/{digest}"), size, &self.endpoints, &is_it).await
    }

    /// Downloads a blob into the cache, which checks it.
    pub(super) async fn fetch(&self, blob: &BlobInfo, cache: &Cache) -> Result<PathBuf, ImageError> {
        if cache.has_blob(&blob.digest) {
            return Ok(cache.blob_path(&blob.digest));
        }
        let mut first = 0;
        loop {
            let (sender, reader) = pipe();
            let (writer, digest, size) = (cache.clone(), blob.digest, blob.size);
            let writing = blocking(move || writer.add_blob_from_reader(&digest, Some(size), reader));
            let (written, sent) = tokio::join!(writing, self.send_from(first, blob, sender));
            let Delivery { last, is_mixed } = sent?;
            let error = match written {
                Err(error @ (ImageError::BlobDigest { .. } | ImageError::BlobSize { .. })) => error,
                other => return other,
            };
            // Of several servers any may have lied, so that the last gets its chance alone.
            first = if is_mixed { last } else { last + 1 };
            tracing::warn!(registry.host = self.endpoints[last].host(), is_mixed, %error, "a server of an image lies");
            if first >= self.endpoints.len() {
                return Err(error);
            }
        }
    }

    /// Sends the blob's bytes from the first server at or after number `first` that has them, going on where one broke.
    async fn send_from(&self, first: usize, blob: &BlobInfo, sender: mpsc::Sender<Chunk>) -> Result<Delivery, ImageError> {
        let what = format!("blobs/{}", blob.digest);
        let mut sent = 0;
        let mut last_fault = None;
        for (last, endpoint) in self.endpoints.iter().enumerate().skip(first) {
            let is_mixed = sent > 0;
            match self.send_all(endpoint, &what, &mut sent, &sender).await {
                Ok(()) => {
                    // The reader may have had enough.
                    let _ = sender.send(Chunk::End).await;
                    return Ok(Delivery { last, is_mixed });
                }
                Err(fault) => last_fault = Some(self.gave_up(endpoint, &what, fault)),
            }
        }
        Err(last_fault.unwrap_or_else(|| ImageError::BlobMissing { digest: blob.digest, origin: self.reference.to_string() }))
    }

    /// One server, until it has given all or failed too often.
    async fn send_all(&self, endpoint: &Endpoint, what: &str, sent: &mut u64, sender: &mpsc::Sender<Chunk>) -> Result<(), Fault> {
        let (mut attempt, mut counted) = (1, *sent);
        let mut is_resuming = true;
        loop {
            let resume_at = if is_resuming { *sent } else { 0 };
            let fault = match send_once(endpoint, what, resume_at, sent, sender).await {
                Ok(()) => return Ok(()),
                Err(fault) => fault,
            };
            // A server that sends wrong parts is asked for the whole.
            is_resuming &= !matches!(fault, Fault::Range { .. });
            if *sent >= counted + PROGRESS {
                (attempt, counted) = (1, *sent);
            }
            attempt = pause(what, attempt, fault).await?;
        }
    }

    /// From the first of `endpoints` whose answer passes.
    async fn get(
        &self,
        what: &str,
        limit: u64,
        endpoints: &[Endpoint],
        is_it: &(dyn Fn(&[u8]) -> Result<(), ImageError> + Sync),
    ) -> Result<Vec<u8>, ImageError> {
        let mut last = None;
        for endpoint in endpoints {
            let outcome = match get_from(endpoint, what, limit).await {
                Ok(bytes) => is_it(&bytes).map(|()| bytes),
                Err(fault) => Err(self.gave_up(endpoint, what, fault)),
            };
            match outcome {
                Ok(bytes) => return Ok(bytes),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("a registry is always an endpoint of itself"))
    }

    fn gave_up(&self, endpoint: &Endpoint, what: &str, fault: Fault) -> ImageError {
        tracing::info!(registry.host = endpoint.host(), registry.item = what, error = %fault, "a server did not deliver");
        registry_error(&self.reference, what, fault)
    }
}

async fn get_from(endpoint: &Endpoint, what: &str, limit: u64) -> Result<Vec<u8>, Fault> {
    let mut attempt = 1;
    loop {
        match endpoint.get(what, limit).await {
            Ok(bytes) => return Ok(bytes),
            Err(fault) => attempt = pause(what, attempt, fault).await?,
        }
    }
}

/// One request; counts what it has sent on.
async fn send_once(
    endpoint: &Endpoint,
    what: &str,
    resume_at: u64,
    sent: &mut u64,
    sender: &mpsc::Sender<Chunk>,
) -> Result<(), Fault> {
    let (url, response, before) = endpoint.open(what, resume_at).await?;
    // What was sent already is passed over, wherever the answer begins.
    let mut known = before + (*sent - resume_at);
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let mut chunk = chunk.map_err(|source| Fault::Request { url: url.clone(), source: source.without_url() })?;
        let skipped = chunk.len().min(usize::try_from(known).unwrap_or(usize::MAX));
        known -= skipped as u64;
        let chunk = chunk.split_off(skipped);
        let len = chunk.len() as u64;
        // The cache stops reading where the blob is too long, or there already.
        if len > 0 && sender.send(Chunk::Data(chunk)).await.is_err() {
            return Ok(());
        }
        *sent += len;
    }
    Ok(())
}

/// Waits before the next attempt and says its number, or gives the fault back.
async fn pause(what: &str, attempt: u32, fault: Fault) -> Result<u32, Fault> {
    if attempt >= ATTEMPTS || !fault.may_pass() {
        return Err(fault);
    }
    let pause = FIRST_PAUSE * 2u32.pow(attempt - 1);
    // Nodes that lost the same server must not come back in the same moment.
    let spread = RandomState::new().hash_one(attempt) % 256;
    let pause = pause + pause * u32::try_from(spread).unwrap_or(0) / 512;
    let pause = fault.wait().unwrap_or(pause).min(LONGEST_PAUSE);
    tracing::info!(registry.item = what, attempt, error = %fault, "asking the registry again");
    tokio::time::sleep(pause).await;
    Ok(attempt + 1)
}

fn registry_error(reference: &Reference, what: &str, source: Fault) -> ImageError {
    let registry = format!("{}/{}", reference.registry(), reference.repository());
    ImageError::Registry { what: what.into(), registry, source: Box::new(source) }
}

const ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// So much more of a blob makes a server's faults forgotten.
const PROGRESS: u64 = 8 << 20;

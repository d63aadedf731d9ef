//! Uploaded blobs: files named by their digest. A file is there whole and verified, or not at all.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use casemate_api::workload::{format_digest, parse_digest};
use futures::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File, OpenOptions},
    io::AsyncWriteExt as _,
};

use crate::{
    fault::Fault,
    files::{self, FileError},
};

/// Longest silence of an uploading client.
const IDLE: Duration = Duration::from_secs(60);
/// An upload that was not written to for so long is nobody's.
const ABANDONED: Duration = Duration::from_secs(600);
/// Prefix of files that are being written.
const TEMPORARY: &str = ".upload-";

/// The folder of blobs.
#[derive(Debug, Clone)]
pub struct Blobs {
    dir: PathBuf,
    max_bytes: u64,
}

/// A digest that may name a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobDigest([u8; 32]);

impl std::str::FromStr for BlobDigest {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        parse_digest(text).map(Self).ok_or_else(|| Fault::Invalid {
            what: "digest",
            detail: format!("must be sha256:<64 lower-case hex digits>, got {:?}", crate::life::clipped(text, 100)),
            hint: "name a blob by the SHA-256 of its bytes",
        })
    }
}

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was stored.
    Stored,
    /// It was there before.
    Known,
}

impl Blobs {
    /// Opens the folder and removes what interrupted uploads left. Other replicas may be taking some at this moment: those are young.
    pub fn open(dir: PathBuf, max_bytes: u64) -> Result<Self, FileError> {
        files::private_dir(&dir)?;
        let failed = |source| FileError { attempt: "clean folder", path: dir.clone(), source };
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
            let old = age.is_none_or(|age| age > ABANDONED);
            if old && entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                match std::fs::remove_file(entry.path()) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                }
            }
        }
        Ok(Self { dir, max_bytes })
    }

    /// The size of a blob; `None` when it is not there.
    pub async fn size(&self, digest: BlobDigest) -> Option<u64> {
        fs::metadata(self.path(digest)).await.ok().map(|meta| meta.len())
    }

    /// Which of these are not there.
    pub async fn missing(&self, digests: &[&str]) -> Result<Vec<String>, Fault> {
        let mut missing = Vec::new();
        for digest in digests {
            if self.size(digest.parse()?).await.is_none() && !missing.iter().any(|m| m == digest) {
                missing.push((*digest).to_owned());
            }
        }
        Ok(missing)
    }

    /// Opens a blob for reading, and says how long it is; `None` when it is not there.
    pub async fn read(&self, digest: BlobDigest) -> Result<Option<(File, u64)>, Fault> {
        let opened = async {
            let file = File::open(self.path(digest)).await?;
            let size = file.metadata().await?.len();
            Ok((file, size))
        };
        match opened.await {
            Ok(found) => Ok(Some(found)),
            Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Fault::internal("open a blob")(error.into())),
        }
    }

    /// Stores the bytes of `body` if they have this digest.
    pub async fn put<E>(&self, digest: BlobDigest, body: impl Stream<Item = Result<Bytes, E>> + Unpin) -> Result<Put, Fault>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let known = self.size(digest).await.is_some();
        let temporary = Temporary(self.dir.join(format!("{TEMPORARY}{}", uuid::Uuid::new_v4().simple())));
        // A known blob is read to its end as well, so that the client hears an answer and not a closed connection.
        let mut file = if known { None } else { Some(create(&temporary.0).await?) };
        let actual = self.receive(body, file.as_mut()).await?;
        if actual != digest.0 {
            return Err(Fault::DigestMismatch { expected: format_digest(&digest.0), actual: format_digest(&actual) });
        }
        let Some(file) = file else { return Ok(Put::Known) };
        let failed = |error: io::Error| Fault::internal("store a blob")(error.into());
        file.sync_all().await.map_err(failed)?;
        fs::rename(&temporary.0, self.path(digest)).await.map_err(failed)?;
        File::open(&self.dir).await.map_err(failed)?.sync_all().await.map_err(failed)?;
        Ok(Put::Stored)
    }

    async fn receive<E>(
        &self,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
        mut file: Option<&mut File>,
    ) -> Result<[u8; 32], Fault>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut hash, mut length) = (Sha256::new(), 0u64);
        let invalid = |detail: String| Fault::Invalid { what: "upload", detail, hint: "upload the file again" };
        loop {
            let chunk = tokio::time::timeout(IDLE, body.next()).await.map_err(|_| invalid("the client went silent".into()))?;
            let Some(chunk) = chunk else { break };
            let chunk = chunk.map_err(|error| invalid(format!("the bytes ended early: {}", error.into())))?;
            length += chunk.len() as u64;
            if length > self.max_bytes {
                return Err(Fault::TooLarge { what: "the blob", limit: self.max_bytes });
            }
            hash.update(&chunk);
            if let Some(file) = file.as_mut() {
                file.write_all(&chunk).await.map_err(|error| Fault::internal("write a blob")(error.into()))?;
            }
        }
        if let Some(file) = file {
            file.flush().await.map_err(|error| Fault::internal("write a blob")(error.into()))?;
        }
        Ok(hash.finalize().into())
    }

    fn path(&self, digest: BlobDigest) -> PathBuf {
        self.dir.join(hex::encode(digest.0))
    }
}

async fn create(path: &Path) -> Result<File, Fault> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await;
    opened.map_err(|error| Fault::internal("create a blob's file")(error.into()))
}

/// Removes the file when the upload ends in any way but a rename.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

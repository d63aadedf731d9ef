//! Where images come from.

use std::{collections::BTreeMap, path::PathBuf};

use oci_client::Reference;

use crate::{Cache, Digest, ImageError};

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An OCI image layout folder.
    Layout(PathBuf),
    /// The same as an (uncompressed) tar archive.
    Archive(PathBuf),
    /// A registry; plain HTTP only on this host (`localhost`, `127.0.0.1`, `[::1]`).
    Registry(Reference),
}

impl Source {
    /// `oci:PATH` (folder or archive), `oci-archive:PATH`, `docker://HOST/NAME:TAG@DIGEST` or just the reference.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let _ = text;
        Err(ImageError::Source { text: text.into(), problem: "not implemented yet".into() })
    }
}

/// What an image consists of, as its verified manifest and configuration say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// Digest of the image manifest (not of an index around it).
    pub manifest_digest: Digest,
    /// The layers, lowest first.
    pub layers: Vec<BlobInfo>,
    /// How to run it.
    pub config: ImageConfig,
}

/// A blob's descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Of the content as it is stored and sent.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// As the manifest says.
    pub media_type: String,
}

/// How the image wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// First words of the command line.
    pub entrypoint: Vec<String>,
    /// The words after them, unless the user gives others.
    pub cmd: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Working directory; `/` where the image says nothing.
    pub working_dir: String,
    /// `""`, `uid`, `uid:gid`, `name` or `name:group`.
    pub user: String,
}

/// An opened source.
pub struct Blobs {
    cache: Cache,
}

impl Blobs {
    /// Opens `source`; what is fetched goes to `cache`.
    pub async fn open(source: &Source, cache: &Cache) -> Result<Self, ImageError> {
        let _ = source;
        Ok(Self { cache: cache.clone() })
    }

    /// Reads the manifest (for linux/amd64, where there are several) and the configuration.
    pub async fn inspect(&self) -> Result<ImageInfo, ImageError> {
        Err(ImageError::Malformed { what: "image".into(), problem: "not implemented yet".into() })
    }

    /// The path of the blob in the cache, fetched if it is not there, digest and size verified.
    pub async fn fetch(&self, blob: &BlobInfo) -> Result<PathBuf, ImageError> {
        Ok(self.cache.blob_path(&blob.digest))
    }
}

/// Opens and inspects in one step.
pub async fn inspect(source: &Source, cache: &Cache) -> Result<ImageInfo, ImageError> {
    Blobs::open(source, cache).await?.inspect().await
}

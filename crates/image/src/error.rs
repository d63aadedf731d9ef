//! What can go wrong, in words.

use std::{io, path::PathBuf};

use crate::digest::{Digest, DigestSyntax};

/// Why an image could not be opened, fetched or converted.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The text names no image.
    #[error("read image source {text:?}: {problem}")]
    Source {
        /// The text.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A digest is not one.
    #[error(transparent)]
    Digest(#[from] DigestSyntax),
    /// A file operation failed.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The source has no such blob.
    #[error("find blob {digest} in {origin}")]
    BlobMissing {
        /// The blob.
        digest: Digest,
        /// Where it was looked for.
        origin: String,
    },
    /// The content is not what was asked for.
    #[error("check blob {expected}: its content has the digest {actual}")]
    BlobDigest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The content has another length than its descriptor says.
    #[error("check blob {digest}: {actual} bytes came, its descriptor says {expected}")]
    BlobSize {
        /// The blob.
        digest: Digest,
        /// What the descriptor says.
        expected: u64,
        /// What came (at least).
        actual: u64,
    },
    /// Manifest, index or configuration do not say what they must.
    #[error("read {what}: {problem}")]
    Malformed {
        /// Which document.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The registry did not answer as needed.
    #[error("pull {what} from {registry}")]
    Registry {
        /// What was asked for.
        what: String,
        /// The registry.
        registry: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A layer's content is refused.
    #[error("convert layer {blob}")]
    Layer {
        /// The layer.
        blob: Digest,
        /// Why.
        source: Box<LayerError>,
    },
}

impl ImageError {
    /// The name of the failed check in the platform's closed list.
    pub fn check(&self) -> &'static str {
        match self {
            Self::BlobDigest { .. } | Self::BlobSize { .. } => "image.blob-digest",
            Self::Source { .. } | Self::Digest(_) | Self::Malformed { .. } | Self::Layer { .. } => "image.malformed",
            Self::Io { .. } | Self::BlobMissing { .. } | Self::Registry { .. } => "image.fetch",
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// Why a layer's content is refused.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Reading the blob or writing the image failed; a truncated compressed stream shows as this, too.
    #[error("{action}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The media type is unknown, or says something else than the first bytes.
    #[error("decompress: the media type is {media_type:?} and the content looks like {found}")]
    Compression {
        /// What the manifest says.
        media_type: String,
        /// What the first bytes say.
        found: &'static str,
    },
    /// Not an encrypted layer that we read.
    #[error("read the encrypted layer: {problem}")]
    Encrypted {
        /// What is wrong.
        problem: String,
    },
    /// Not a tar archive that we read.
    #[error("read tar header at byte {offset}: {problem}")]
    Tar {
        /// Where, in the decompressed stream.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// An entry is refused.
    #[error("add entry {path:?}: {problem}")]
    Entry {
        /// Its name, lossily as UTF-8.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A bound of [`crate::Limits`] is exceeded.
    #[error("hold the limit {name}: more than {limit}")]
    Limit {
        /// Field of [`crate::Limits`].
        name: &'static str,
        /// Its value, or what follows from it.
        limit: u64,
    },
}

impl LayerError {
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

impl LayerError {
    /// A failed read; where a bound of ours ended it, that bound.
    pub(crate) fn read(action: &'static str, source: io::Error) -> Self {
        match source.get_ref().and_then(|e| e.downcast_ref::<LimitHit>()) {
            Some(LimitHit { name, limit }) => Self::Limit { name, limit: *limit },
            None => Self::Io { action, source },
        }
    }
}

/// A bound exceeded inside of a reader, on its way through `io::Error`.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("more than {limit} bytes ({name})")]
pub(crate) struct LimitHit {
    pub(crate) name: &'static str,
    pub(crate) limit: u64,
}

/// Why an entry is refused, before its name is put to it.
#[derive(Debug)]
pub(crate) enum Refusal {
    Problem(String),
    Limit(LimitHit),
    Layer(LayerError),
}

impl Refusal {
    pub(crate) fn limit(name: &'static str, limit: usize) -> Self {
        Self::Limit(LimitHit { name, limit: limit as u64 })
    }

    pub(crate) fn at(self, path: &[u8]) -> LayerError {
        match self {
            Self::Problem(problem) => LayerError::Entry { path: shown(path), problem },
            Self::Limit(LimitHit { name, limit }) => LayerError::Limit { name, limit },
            Self::Layer(error) => error,
        }
    }
}

impl From<&str> for Refusal {
    fn from(problem: &str) -> Self {
        Self::Problem(problem.into())
    }
}

impl From<LayerError> for Refusal {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

/// A name for people: bounded, printable.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(MAX_SHOWN).collect()
}

const MAX_SHOWN: usize = 200;

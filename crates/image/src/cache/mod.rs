//! Content-addressed cache of blobs and converted layers, shared by tasks and processes.
//!
//! ```text
//! blobs/sha256/<hex>              as fetched, digest checked
//! layers/<hex>/layer.img, meta.json     by the digest of the blob
//! packs/<hex>.img                 by the digest of the list of layers
//! leases/<name>                   the blobs whose layers somebody needs, as JSON
//! tmp/<name>, locks/<name>.lock   work in progress, and who does it
//! ```
//!
//! Whatever stands in `blobs`, `layers` and `packs` is complete: it was made in `tmp` under its lock and renamed. The kernel
//! drops the locks of a dead process, so that what it left in `tmp` is nobody's and goes with the next use or [`Cache::open`].

mod collect;
mod layers;
mod leases;
mod pack;
mod store;

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::store::Store;
pub use self::{collect::Collected, layers::FORMAT, leases::Hold};
use crate::{Digest, ImageError, Limits};

/// A content-addressed cache. Clones share it; so do processes that open the same folder.
#[derive(Clone)]
pub struct Cache {
    store: Arc<Store>,
    limits: Arc<Limits>,
    progress: Option<Arc<ProgressFn>>,
}

/// Is told about progress, often and from any thread.
pub type ProgressFn = dyn Fn(&Progress) + Send + Sync;

/// How far a blob has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// With which blob.
    pub blob: Digest,
    /// Bytes of the (compressed) blob done so far.
    pub done: u64,
    /// Its size; 0 where it is not known.
    pub total: u64,
}

/// What is being done with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is copied or downloaded.
    Fetch,
    /// It becomes a layer.
    Convert,
}

/// A layer, ready for a machine's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertedLayer {
    /// EROFS image, verity superblock and hash tree in one file.
    pub path: PathBuf,
    /// The dm-verity root hash.
    pub root_hash: [u8; 32],
    /// Number of 4096-byte blocks before the verity superblock.
    pub data_blocks: u64,
    /// Size of the file; a multiple of 4096.
    pub size_bytes: u64,
}

/// Several layers in one file, for images with more layers than a machine has disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// The file.
    pub path: PathBuf,
    /// Offset and length of each layer in it, in order; multiples of 4096.
    pub slices: Vec<(u64, u64)>,
}

impl Cache {
    /// Opens the cache in `dir`, made (0700) if missing, and clears what interrupted work has left.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, ImageError> {
        let store = Arc::new(Store::open(dir.as_ref())?);
        Ok(Self { store, limits: Arc::default(), progress: None })
    }

    /// The same cache with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits: Arc::new(limits), ..self }
    }

    /// The same cache, reporting what it does.
    #[must_use]
    pub fn with_progress(self, progress: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        Self { progress: Some(Arc::new(progress)), ..self }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where the blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.store.blob(digest)
    }

    /// Whether the blob is here, complete.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Copies a blob into the cache while checking digest and, where it is known, size. Blocking.
    ///
    /// Of a blob that is here already, nothing is read.
    pub fn add_blob_from_reader(&self, digest: &Digest, size: Option<u64>, reader: impl Read) -> Result<PathBuf, ImageError> {
        let total = size.unwrap_or(0);
        let report = |done| self.report(Stage::Fetch, digest, done, total);
        self.store.add_blob(digest, size, self.limits.blob_bytes, reader, &report)
    }

    /// Removes a blob that is not needed any more; its converted layer stays.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), ImageError> {
        self.store.remove_blob(digest)
    }

    /// Converts a cached blob, once for all callers of all processes; later calls return the kept result. Blocking.
    ///
    /// The compression is recognised by the content; `media_type` must not contradict it, and may be empty where the
    /// manifest is not at hand.
    pub fn convert_layer(&self, blob: &Digest, media_type: &str) -> Result<ConvertedLayer, ImageError> {
        let report = |done, total| self.report(Stage::Convert, blob, done, total);
        layers::convert(&self.store, &self.limits, blob, media_type, &report)
    }

    /// The kept result of an earlier conversion. Blocking, but short.
    pub fn converted_layer(&self, blob: &Digest) -> Option<ConvertedLayer> {
        layers::kept(&self.store, blob)
    }

    /// Concatenates layers into one file, cached by the list. Blocking.
    pub fn pack(&self, layers: &[ConvertedLayer]) -> Result<Pack, ImageError> {
        pack::pack(&self.store, layers)
    }

    /// Keeps the layers of `blobs` (in the image's order), their pack and the blobs themselves from [`Cache::collect`] until
    /// [`Cache::release`], also after this process. Blocking, but short.
    ///
    /// Look for a layer only *after* this: what was there before may have been collected. A second lease of the same name takes
    /// the place of the first. Names have 1 to 100 of `[a-z0-9-]`.
    pub fn lease(&self, name: &str, blobs: &[Digest]) -> Result<(), ImageError> {
        leases::lease(&self.store, name, blobs)
    }

    /// Ends a lease; none of this name is no error.
    pub fn release(&self, name: &str) -> Result<(), ImageError> {
        leases::release(&self.store, name)
    }

    /// The names of all leases.
    pub fn leases(&self) -> Result<Vec<String>, ImageError> {
        leases::names(&self.store)
    }

    /// A lease for as long as the result lives, and no longer than this process.
    pub fn hold(&self, blobs: &[Digest]) -> Result<Hold, ImageError> {
        leases::hold(&self.store, blobs)
    }

    /// Removes what nobody needs, longest unused first, until at most `most_bytes` are left. Blocking.
    pub fn collect(&self, most_bytes: u64) -> Result<Collected, ImageError> {
        collect::collect(&self.store, most_bytes)
    }

    fn report(&self, stage: Stage, blob: &Digest, done: u64, total: u64) {
        if let Some(progress) = &self.progress {
            progress(&Progress { stage, blob: *blob, done, total });
        }
    }
}

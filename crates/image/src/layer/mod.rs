//! From a layer blob to a layer image: decompress, read the archive, write EROFS, append the verity tree.
//!
//! ```text
//! a thread: blob --hash--> decompress --ahead--> caller's: tar --> tree, chunks --> threads: write, hash for verity
//! ```
//!
//! Of an encrypted layer the blocks are there already, and only the verity tree is made.

mod ahead;
mod chunks;
mod compression;
mod data;
pub(crate) mod encrypted;
mod erofs;
mod ingest;
mod path;
mod tree;
mod verity;
mod xattr;

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    path::Path,
};

pub(crate) use self::compression::is_layer_type;
use self::{
    ahead::Ahead,
    chunks::{Chunks, Written},
    compression::Form,
};
use crate::{Digest, ImageError, LayerError, Limits, digest::HashingReader, error::LimitHit, tar};

/// What conversion yields besides the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Converted {
    pub(crate) root_hash: [u8; 32],
    pub(crate) data_blocks: u64,
    pub(crate) size_bytes: u64,
}

/// What is to be converted, and how.
pub(crate) struct Job<'a> {
    pub(crate) blob: Digest,
    pub(crate) blob_path: &'a Path,
    pub(crate) media_type: &'a str,
    pub(crate) limits: &'a Limits,
    /// Is told how many bytes of the blob have been read, of how many.
    pub(crate) progress: &'a (dyn Fn(u64, u64) + Sync),
}

/// Converts into `folder` (existing, empty, the caller's to remove): `layer.img` is the result.
pub(crate) fn convert(job: &Job<'_>, folder: &Path) -> Result<Converted, ImageError> {
    let file = File::open(job.blob_path).map_err(ImageError::io("open", job.blob_path))?;
    let size = file.metadata().map_err(ImageError::io("examine", job.blob_path))?.len();
    let mut raw = HashingReader::new(Counted { inner: file, done: 0, total: size, progress: job.progress });
    let outcome = write_image(&mut raw, size, job, folder);
    // A damaged blob is named as such, whatever it broke on the way.
    let (actual, _) = raw.finish().map_err(ImageError::io("read", job.blob_path))?;
    if actual != job.blob {
        return Err(ImageError::BlobDigest { expected: job.blob, actual });
    }
    outcome.map_err(|source| ImageError::Layer { blob: job.blob, source: Box::new(source) })
}

fn write_image(raw: impl Read + Send, size: u64, job: &Job<'_>, folder: &Path) -> Result<Converted, LayerError> {
    let mut raw = BufReader::with_capacity(BUFFER, raw);
    let compression = match compression::form(&mut raw, job.media_type)? {
        Form::Encrypted => return encrypted::convert(raw, size, job.limits, folder),
        Form::Tar(compression) => compression,
    };
    let most = compression::bound(size, job.limits);
    let plain = compression::open(raw, compression, most)?;
    // A refusal drops the reading ends, and with them the threads end: the scope never waits for a whole layer.
    std::thread::scope(|scope| {
        let (feeder, ahead) = ahead::pair();
        scope.spawn(move || feeder.feed(plain));
        let chunks = Chunks::create(scope, &folder.join(IMAGE), &folder.join(LEAVES))?;
        write_layer(ahead, chunks, most, job.limits, folder)
    })
}

fn write_layer(plain: Ahead, chunks: Chunks, most: LimitHit, limits: &Limits, folder: &Path) -> Result<Converted, LayerError> {
    let mut data = data::Data::create(chunks, &folder.join(TAILS))?;
    let mut archive = tar::Reader::new(tar::Streamed(plain), limits);
    let tree = ingest::ingest(&mut archive, &mut data, limits, most)?;
    // What follows the end mark is nothing of ours, but a broken checksum of the compression there must not pass.
    io::copy(&mut archive.into_input(), &mut io::sink()).map_err(|e| LayerError::read("read the end of the layer", e))?;
    let (written, data_blocks) = erofs::write(&tree, data)?;
    fs::remove_file(folder.join(TAILS)).map_err(LayerError::io("remove a spool"))?;
    protect(&written, data_blocks, folder)
}

/// Appends the verity tree.
fn protect(written: &Written, data_blocks: u64, folder: &Path) -> Result<Converted, LayerError> {
    let image = written.image();
    let root_hash = verity::append(image, written.leaves(), data_blocks).map_err(LayerError::io("write the verity tree"))?;
    fs::remove_file(folder.join(LEAVES)).map_err(LayerError::io("remove a spool"))?;
    let size_bytes = image.metadata().map_err(LayerError::io("examine the layer image"))?.len();
    Ok(Converted { root_hash, data_blocks, size_bytes })
}

/// A UUID (version 8) that follows from content.
fn uuid(digest: &[u8; 32]) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// Reports what has been read.
struct Counted<'a, R> {
    inner: R,
    done: u64,
    total: u64,
    progress: &'a (dyn Fn(u64, u64) + Sync),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.done += n as u64;
        (self.progress)(self.done, self.total);
        Ok(n)
    }
}

/// Name of the result in its folder.
pub(crate) const IMAGE: &str = "layer.img";

/// Work files beside it.
const TAILS: &str = "tails";
const LEAVES: &str = "leaves";
/// Block size of EROFS, of dm-verity's data and of its tree.
const BLOCK: usize = 4096;
const BUFFER: usize = 256 << 10;

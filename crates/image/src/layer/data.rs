//! File content on its way to the image: whole blocks go to their place at once, short ends wait in a spool file until the
//! inodes are written beside them. Nothing of it stays in memory.

use std::{
    fs::File,
    io::{BufWriter, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use super::{BLOCK, chunks::Chunks, erofs::INODE_LEN, tree::Metadata};
use crate::LayerError;

/// Where content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) size: u64,
    /// First block in the image.
    pub(super) block: u32,
    /// Offset in the spool of what is beyond whole blocks, when that is stored with the inode.
    pub(super) tail: Option<u64>,
}

impl Extent {
    /// Length of what is stored with the inode.
    pub(super) fn tail_len(&self) -> usize {
        if self.tail.is_some() { (self.size % BLOCK as u64) as usize } else { 0 }
    }
}

/// The image being written, and the spool.
pub(super) struct Data {
    image: Chunks,
    next_block: u32,
    spool: BufWriter<File>,
    spooled: u64,
}

impl Data {
    /// The first block is left free for the superblock.
    pub(super) fn create(mut image: Chunks, spool: &Path) -> Result<Self, LayerError> {
        let spool = File::options().read(true).write(true).create_new(true).open(spool);
        let spool = spool.map_err(LayerError::io("create the spool of file tails"))?;
        image.write_all(&[0; BLOCK])?;
        Ok(Self { image, next_block: 1, spool: BufWriter::with_capacity(super::BUFFER, spool), spooled: 0 })
    }

    /// Stores content of exactly `size` bytes.
    pub(super) fn store(&mut self, mut content: impl Read, size: u64, meta: &Metadata) -> Result<Extent, LayerError> {
        let end_len = (size % BLOCK as u64) as usize;
        let whole = size - end_len as u64;
        let block = self.next_block;
        self.image.write_from(&mut content, whole)?;
        self.advance(whole / BLOCK as u64)?;
        let mut end = [0; BLOCK];
        content.read_exact(&mut end[..end_len]).map_err(|e| LayerError::read("read an entry's content", e))?;
        if end_len == 0 {
            return Ok(Extent { size, block, tail: None });
        }
        if fits_inline(meta, end_len) {
            let tail = self.spooled;
            self.spool.write_all(&end[..end_len]).map_err(LayerError::io("write the spool of file tails"))?;
            self.spooled += end_len as u64;
            return Ok(Extent { size, block, tail: Some(tail) });
        }
        self.write_block(&end)?;
        Ok(Extent { size, block, tail: None })
    }

    /// Appends one block and returns its number.
    pub(super) fn write_block(&mut self, block: &[u8; BLOCK]) -> Result<u32, LayerError> {
        let at = self.next_block;
        self.image.write_all(block)?;
        self.advance(1)?;
        Ok(at)
    }

    pub(super) fn next_block(&self) -> u32 {
        self.next_block
    }

    /// The image for further writing at its end, and the spool for reading.
    pub(super) fn finish(self) -> Result<(Chunks, Spool), LayerError> {
        let spool = self.spool.into_inner().map_err(|e| LayerError::io("write the spool of file tails")(e.into_error()))?;
        Ok((self.image, Spool(spool)))
    }

    fn advance(&mut self, blocks: u64) -> Result<(), LayerError> {
        let next = u64::from(self.next_block) + blocks;
        self.next_block = u32::try_from(next)
            .map_err(|_| LayerError::Limit { name: "layer_bytes", limit: u64::from(u32::MAX) * BLOCK as u64 })?;
        Ok(())
    }
}

/// The tails that were stored.
pub(super) struct Spool(File);

impl Spool {
    pub(super) fn read(&self, extent: &Extent) -> Result<Vec<u8>, LayerError> {
        let mut tail = vec![0; extent.tail_len()];
        let offset = extent.tail.unwrap_or(0);
        self.0.read_exact_at(&mut tail, offset).map_err(LayerError::io("read the spool of file tails"))?;
        Ok(tail)
    }
}

/// Whether an end of this length is stored with its inode: only short ones, since inode, attributes and end must lie in one
/// block and long ones would leave gaps as large as they save.
pub(super) fn fits_inline(meta: &Metadata, len: usize) -> bool {
    len <= MAX_TAIL && INODE_LEN + meta.xattrs.encoded_len() + len <= BLOCK
}

const MAX_TAIL: usize = 2048;

//! A writer of EROFS images (uncompressed), with exactly one image for one tree.
//!
//! ```text
//! block 0       superblock at byte 1024
//! block 1..     file content in archive order, whole blocks
//! ..            whole blocks of folders
//! meta_block..  inodes, 32-byte slots, folders first met first: inode (64) | attributes | short end of the content
//! ```
//!
//! The format is that of the Linux kernel, `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h`: extended
//! inodes, layouts "plain" and "inline", no compression, no shared attributes, no checksum (dm-verity is below).

mod dirent;
mod plan;

use sha2::{Digest as _, Sha256};

use self::plan::{Plan, Planned};
use super::{
    BLOCK,
    chunks::{Chunks, Written},
    data::{Data, Extent, Spool},
    tree::{Body, Inode, Tree},
};
use crate::LayerError;

/// Writes folders and inodes behind the content, and at last the superblock; returns the image and its length in blocks.
pub(super) fn write(tree: &Tree, mut data: Data) -> Result<(Written, u64), LayerError> {
    let plan = Plan::new(tree, data.next_block());
    for planned in plan.inodes() {
        write_folder_blocks(&plan, planned, &mut data)?;
    }
    debug_assert_eq!(data.next_block(), plan.meta_block());
    let (mut image, spool) = data.finish()?;
    let uuid = write_inodes(&plan, &mut image, &spool)?;
    let image = image.finish()?;
    image.amend(&superblock(&plan, uuid), SUPERBLOCK_AT).map_err(LayerError::io("write the superblock"))?;
    Ok((image, plan.blocks()))
}

fn write_folder_blocks(plan: &Plan<'_>, planned: &Planned<'_>, data: &mut Data) -> Result<(), LayerError> {
    if !planned.inode.is_directory() {
        return Ok(());
    }
    let bytes = dirent::encode(&plan.entries(planned));
    let end = if planned.inline > 0 { bytes.len() - planned.inline } else { bytes.len() };
    for chunk in bytes[..end].chunks(BLOCK) {
        let mut block = [0; BLOCK];
        block[..chunk.len()].copy_from_slice(chunk);
        data.write_block(&block)?;
    }
    Ok(())
}

/// Returns the image's UUID: overlayfs tells its layers apart by it, and it must follow from the content.
fn write_inodes(plan: &Plan<'_>, image: &mut Chunks, spool: &Spool) -> Result<[u8; 16], LayerError> {
    let mut identity = Sha256::new_with_prefix(b"casemate/image-uuid/v1\0");
    let mut at = 0;
    for (number, planned) in (1u32..).zip(plan.inodes()) {
        let mut bytes = vec![0; planned.offset - at];
        bytes.extend(inode_bytes(planned, number));
        bytes.extend(planned.inode.meta.xattrs.encode());
        bytes.extend(inline_bytes(plan, planned, spool)?);
        identity.update(&bytes);
        image.write_all(&bytes)?;
        at += bytes.len();
    }
    let rest = at.next_multiple_of(BLOCK) - at;
    image.write_all(&vec![0; rest])?;
    Ok(super::uuid(&identity.finalize().into()))
}

fn inline_bytes(plan: &Plan<'_>, planned: &Planned<'_>, spool: &Spool) -> Result<Vec<u8>, LayerError> {
    match &planned.inode.body {
        Body::Directory(_) if planned.inline > 0 => {
            let mut bytes = dirent::encode(&plan.entries(planned));
            Ok(bytes.split_off(bytes.len() - planned.inline))
        }
        Body::File(extent) | Body::Symlink(extent) if extent.tail.is_some() => spool.read(extent),
        _ => Ok(Vec::new()),
    }
}

/// `struct erofs_inode_extended`.
fn inode_bytes(planned: &Planned<'_>, number: u32) -> [u8; INODE_LEN] {
    let Inode { meta, body } = planned.inode;
    let (kind, size, location) = match body {
        Body::Directory(_) => (0o040_000, planned.folder_size, planned.folder_block),
        Body::File(Extent { size, block, .. }) => (0o100_000, *size, *block),
        Body::Symlink(Extent { size, block, .. }) => (0o120_000, *size, *block),
        Body::CharDevice(device) => (0o020_000, 0, *device),
        Body::BlockDevice(device) => (0o060_000, 0, *device),
        Body::Fifo => (0o010_000, 0, 0),
    };
    let layout = if planned.inline > 0 { LAYOUT_INLINE } else { LAYOUT_PLAIN };
    let mut out = Fields(Vec::with_capacity(INODE_LEN));
    out.u16(EXTENDED | layout << 1).u16(meta.xattrs.count_field()).u16(kind | meta.mode).u16(0);
    out.u64(size).u32(location).u32(number).u32(meta.uid).u32(meta.gid);
    out.u64(meta.mtime_s.cast_unsigned()).u32(meta.mtime_ns).u32(planned.links).zeros(16);
    out.0.try_into().expect("the fields above are 64 bytes")
}

/// `struct erofs_super_block`.
fn superblock(plan: &Plan<'_>, uuid: [u8; 16]) -> Vec<u8> {
    let root = u16::try_from(plan.root_nid()).expect("the root is the first inode");
    let mut out = Fields(Vec::with_capacity(128));
    out.u32(MAGIC).u32(0).u32(COMPAT_MTIME).u8(BLOCK.ilog2() as u8).u8(0).u16(root);
    out.u64(plan.inodes().len() as u64).u64(0).u32(0);
    out.u32(u32::try_from(plan.blocks()).unwrap_or(u32::MAX)).u32(plan.meta_block()).u32(0);
    out.0.extend(uuid);
    // No volume name, no incompatible features, nothing of what came later.
    out.zeros(16 + 4 + 44);
    out.0
}

/// Little-endian fields, one after the other.
struct Fields(Vec<u8>);

impl Fields {
    fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}

/// Length of an extended inode.
pub(super) const INODE_LEN: usize = 64;
const SUPERBLOCK_AT: u64 = 1024;
const MAGIC: u32 = 0xE0F5_E1E2;
/// Times of extended inodes are modification times.
const COMPAT_MTIME: u32 = 2;
const EXTENDED: u16 = 1;
const LAYOUT_PLAIN: u16 = 0;
const LAYOUT_INLINE: u16 = 2;

//! The dm-verity tree, as `veritysetup format` (format 1, SHA-256, blocks of 4096 bytes) would write it.
//!
//! ```text
//! 0 .. data_blocks        what is protected
//! data_blocks             superblock of veritysetup
//! data_blocks + 1 ..      hashes, the top level first; every hash block holds 128 hashes of blocks of the level below
//! ```

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

use sha2::{Digest, Sha256};

use super::BLOCK;

/// Appends superblock and tree behind `data_blocks` blocks, whose own hashes `leaves` has, from its start, as the lowest level
/// will have them; returns the root hash.
pub(super) fn append(file: &File, mut leaves: &File, data_blocks: u64) -> io::Result<[u8; 32]> {
    let salt = salt();
    let hasher = hasher();
    let mut below = Region { start: 0, blocks: data_blocks };
    for level in levels(data_blocks) {
        if below.start == 0 {
            let mut to = file;
            leaves.seek(SeekFrom::Start(0))?;
            to.seek(SeekFrom::Start(level.start * BLOCK as u64))?;
            let copied = io::copy(&mut leaves.take(level.blocks * BLOCK as u64), &mut to)?;
            if copied != level.blocks * BLOCK as u64 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        } else {
            hash_level(file, below, level.start, &hasher)?;
        }
        below = level;
    }
    let mut top = [0; BLOCK];
    file.read_exact_at(&mut top, below.start * BLOCK as u64)?;
    let root = hasher.chain_update(top).finalize().into();
    file.write_all_at(&superblock(&root, data_blocks, &salt), data_blocks * BLOCK as u64)?;
    Ok(root)
}

/// One block of the lowest level, from at most [`PER_BLOCK`] blocks of data.
pub(super) fn leaf(data: &[u8], hasher: &Sha256) -> [u8; BLOCK] {
    let mut hashes = [0; BLOCK];
    for (block, hash) in data.chunks_exact(BLOCK).zip(hashes.chunks_exact_mut(HASH)) {
        hash.copy_from_slice(&hasher.clone().chain_update(block).finalize());
    }
    hashes
}

/// With the salt before all else, as format 1 wants it.
pub(super) fn hasher() -> Sha256 {
    Sha256::new_with_prefix(salt())
}

/// The salt of all layers. It is no secret and need not differ: its only task is to separate these hashes from others.
fn salt() -> [u8; 32] {
    Sha256::digest(b"casemate/layer-salt/v1").into()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Region {
    start: u64,
    blocks: u64,
}

/// Where the levels are, lowest first; the last one has one block.
fn levels(data_blocks: u64) -> Vec<Region> {
    let counts = std::iter::successors(Some(data_blocks), |blocks| (*blocks > 1).then(|| blocks.div_ceil(PER_BLOCK)));
    let counts: Vec<u64> = counts.skip(1).collect();
    let mut start = data_blocks + 1;
    let mut levels = Vec::new();
    for blocks in counts.into_iter().rev() {
        levels.push(Region { start, blocks });
        start += blocks;
    }
    levels.reverse();
    levels
}

fn hash_level(file: &File, below: Region, first_block: u64, hasher: &Sha256) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK * PER_BLOCK as usize];
    for (group, out_block) in (0..below.blocks).step_by(PER_BLOCK as usize).zip(first_block..) {
        let blocks = PER_BLOCK.min(below.blocks - group) as usize;
        let input = &mut buffer[..blocks * BLOCK];
        file.read_exact_at(input, (below.start + group) * BLOCK as u64)?;
        file.write_all_at(&leaf(input, hasher), out_block * BLOCK as u64)?;
    }
    Ok(())
}

/// `struct verity_sb`, padded to a block.
fn superblock(root: &[u8; 32], data_blocks: u64, salt: &[u8; 32]) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"verity\0\0");
    put(8, &1u32.to_le_bytes());
    put(12, &1u32.to_le_bytes());
    let identity = Sha256::new_with_prefix(b"casemate/layer-uuid/v1\0").chain_update(root).finalize();
    put(16, &super::uuid(&identity.into()));
    put(32, b"sha256");
    put(64, &(BLOCK as u32).to_le_bytes());
    put(68, &(BLOCK as u32).to_le_bytes());
    put(72, &data_blocks.to_le_bytes());
    put(80, &(HASH as u16).to_le_bytes());
    put(88, salt);
    out
}

const HASH: usize = 32;
/// Hashes in a block.
pub(super) const PER_BLOCK: u64 = (BLOCK / HASH) as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_stand_top_first_and_end_in_one_block() {
        let region = |start, blocks| Region { start, blocks };
        assert_eq!(levels(2), [region(3, 1)]);
        assert_eq!(levels(128), [region(129, 1)]);
        assert_eq!(levels(129), [region(131, 2), region(130, 1)]);
        assert_eq!(levels(16_385), [region(16_385 + 4, 129), region(16_385 + 2, 2), region(16_386, 1)]);
    }
}

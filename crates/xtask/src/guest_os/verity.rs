//! dm-verity: superblock and hash tree as `veritysetup format` writes them (format 1, SHA-256, 4096-byte blocks).

use sha2::{Digest as _, Sha256};

/// Bytes of one data or hash block.
pub(crate) const BLOCK: usize = 4096;
const DIGEST: usize = 32;

/// A hash tree over some data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HashTree {
    /// What the whole data hashes to.
    pub(crate) root_hash: [u8; DIGEST],
    /// The tree's blocks, top level first.
    pub(crate) blocks: Vec<u8>,
}

/// The hash tree over `data`, which is a whole number of blocks and at least two.
pub(crate) fn hash_tree(data: &[u8], salt: &[u8; DIGEST]) -> HashTree {
    assert!(data.len().is_multiple_of(BLOCK) && data.len() > BLOCK, "verity data is two whole blocks or more");
    let mut levels = vec![level_above(data, salt)];
    while let Some(top) = levels.last().filter(|level| level.len() > BLOCK) {
        let next = level_above(top, salt);
        levels.push(next);
    }
    let top = levels.last().expect("there is a first level");
    let root_hash = salted(salt, top);
    levels.reverse();
    HashTree { root_hash, blocks: levels.concat() }
}

/// The superblock, filled up to one block.
pub(crate) fn superblock(data_blocks: u64, salt: &[u8; DIGEST], uuid: &[u8; 16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK);
    out.extend_from_slice(b"verity\0\0");
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(uuid);
    let mut algorithm = [0; 32];
    algorithm[..6].copy_from_slice(b"sha256");
    out.extend_from_slice(&algorithm);
    out.extend_from_slice(&(BLOCK as u32).to_le_bytes());
    out.extend_from_slice(&(BLOCK as u32).to_le_bytes());
    out.extend_from_slice(&data_blocks.to_le_bytes());
    out.extend_from_slice(&(DIGEST as u16).to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(salt);
    out.resize(BLOCK, 0);
    out
}

/// The digests of the blocks of `lower`, filled up to whole blocks.
fn level_above(lower: &[u8], salt: &[u8; DIGEST]) -> Vec<u8> {
    let mut level: Vec<u8> = lower.chunks(BLOCK).flat_map(|block| salted(salt, block)).collect();
    level.resize(level.len().next_multiple_of(BLOCK), 0);
    level
}

fn salted(salt: &[u8; DIGEST], block: &[u8]) -> [u8; DIGEST] {
    Sha256::new().chain_update(salt).chain_update(block).finalize().into()
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    /// 300 blocks need two levels: 3 blocks of digests and one above.
    fn data() -> Vec<u8> {
        (0..300 * BLOCK).map(|at| (at * 7 / 3) as u8).collect()
    }

    #[test]
    fn a_flipped_bit_gives_another_root_hash() {
        let mut flipped = data();
        flipped[299 * BLOCK + 17] ^= 1;
        assert_ne!(hash_tree(&data(), &[5; 32]).root_hash, hash_tree(&flipped, &[5; 32]).root_hash);
    }

    #[test]
    fn agrees_with_veritysetup_byte_for_byte() {
        if Command::new("veritysetup").arg("--version").output().is_err() {
            eprintln!("veritysetup is not installed: not compared");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        fs::write(&path, data()).unwrap();
        let (salt, uuid) = ([5u8; 32], [7u8; 16]);
        let output = Command::new("veritysetup")
            .args(["format", "--salt", &hex::encode(salt), "--uuid", "07070707-0707-0707-0707-070707070707"])
            .arg(format!("--hash-offset={}", 300 * BLOCK))
            .args([&path, &path])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let tree = hash_tree(&data(), &salt);
        let ours = [data(), superblock(300, &salt, &uuid), tree.blocks].concat();
        assert_eq!(fs::read(&path).unwrap(), ours);
        assert!(String::from_utf8_lossy(&output.stdout).contains(&hex::encode(tree.root_hash)));
    }
}

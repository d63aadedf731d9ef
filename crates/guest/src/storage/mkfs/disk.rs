//! Superblock, inodes and directories as bytes.

use super::{
    BLOCK, BLOCKS_PER_GROUP, Geometry, INODE_BYTES, LOST_AND_FOUND_INODE, ROOT_INODE, Seed,
    group::{DESCRIPTOR_BYTES, Group},
};

/// The first block: 1024 bytes for a boot loader, and the superblock.
pub(super) fn superblock(geometry: &Geometry, groups: &[Group], seed: &Seed) -> Vec<u8> {
    let free_blocks: u32 = groups.iter().map(|group| group.free_blocks).sum();
    let free_inodes: u32 = groups.iter().map(|group| group.free_inodes).sum();
    let mut block = vec![0; 2 * SUPERBLOCK];
    let bytes = &mut block[SUPERBLOCK..];
    let words = [
        (0x00, geometry.groups * geometry.inodes_per_group),
        (0x04, geometry.blocks),
        (0x0c, free_blocks),
        (0x10, free_inodes),
        // Block and cluster: 1024 << 2 bytes.
        (0x18, 2),
        (0x1c, 2),
        (0x20, BLOCKS_PER_GROUP),
        (0x24, BLOCKS_PER_GROUP),
        (0x28, geometry.inodes_per_group),
        (0x4c, DYNAMIC_REVISION),
        (0x54, LOST_AND_FOUND_INODE),
        (0x5c, COMPATIBLE),
        (0x60, INCOMPATIBLE),
        (0x64, READ_ONLY_COMPATIBLE),
        (0x100, MOUNT_OPTIONS),
        (0x160, SIGNED_HASH),
    ];
    for (at, value) in words {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let halves = [
        // No number of mounts asks for a check.
        (0x36, u16::MAX),
        (0x38, MAGIC),
        (0x3a, CLEAN),
        (0x3c, ON_ERROR_CONTINUE),
        (0x58, INODE_BYTES as u16),
        (0xfe, DESCRIPTOR_BYTES as u16),
        (0x15c, EXTRA_INODE_BYTES),
        (0x15e, EXTRA_INODE_BYTES),
    ];
    for (at, value) in halves {
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    bytes[0x68..0x78].copy_from_slice(&seed.uuid);
    bytes[0xec..0xfc].copy_from_slice(&seed.hash);
    bytes[0xfc] = HALF_MD4;
    block
}

/// The one block of a directory: itself, its parent (the root is its own), and lost+found in the root.
pub(super) fn directory(own: u32, child: Option<u32>) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK);
    let mut entries: Vec<(u32, &[u8])> = vec![(own, b"."), (ROOT_INODE, b"..")];
    entries.extend(child.map(|inode| (inode, &b"lost+found"[..])));
    let last = entries.len() - 1;
    for (index, (inode, name)) in entries.into_iter().enumerate() {
        // The last one reaches to the block's end.
        let length = if index == last { BLOCK - block.len() } else { (ENTRY_HEADER + name.len()).next_multiple_of(4) };
        let end = block.len() + length;
        block.extend_from_slice(&inode.to_le_bytes());
        block.extend_from_slice(&u16::try_from(length).expect("at most a block").to_le_bytes());
        block.extend_from_slice(&[u8::try_from(name.len()).expect("three short names"), TYPE_DIRECTORY]);
        block.extend_from_slice(name);
        block.resize(end, 0);
    }
    block
}

/// The first block of group 0's inode table.
pub(super) fn inode_table(geometry: &Geometry) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |number: u32, inode: [u8; INODE_BYTES]| {
        let at = (number as usize - 1) * INODE_BYTES;
        block[at..at + INODE_BYTES].copy_from_slice(&inode);
    };
    // Links: the entry in the parent (the root's ".." is its own), ".", and one by each directory below.
    put(ROOT_INODE, directory_inode(geometry.root_directory(), 3));
    put(LOST_AND_FOUND_INODE, directory_inode(geometry.lost_and_found(), 2));
    block
}

/// A directory of one block, for its owner root alone.
fn directory_inode(block: u32, links: u16) -> [u8; INODE_BYTES] {
    let mut inode = [0; INODE_BYTES];
    let mut put = |at: usize, value: &[u8]| inode[at..at + value.len()].copy_from_slice(value);
    put(0x00, &(S_IFDIR | 0o700).to_le_bytes());
    put(0x04, &(BLOCK as u32).to_le_bytes());
    put(0x1a, &links.to_le_bytes());
    // In sectors.
    put(0x1c, &(BLOCK as u32 / 512).to_le_bytes());
    put(0x20, &USES_EXTENTS.to_le_bytes());
    // Extent header: magic, one entry of at most four, depth 0. Extent: logical block 0, one block, its place.
    put(0x28, &EXTENT_MAGIC.to_le_bytes());
    put(0x2a, &1_u16.to_le_bytes());
    put(0x2c, &4_u16.to_le_bytes());
    put(0x38, &1_u16.to_le_bytes());
    put(0x3c, &block.to_le_bytes());
    put(0x80, &EXTRA_INODE_BYTES.to_le_bytes());
    inode
}

/// Bytes of the superblock, and its place.
const SUPERBLOCK: usize = 1024;
const MAGIC: u16 = 0xef53;
const CLEAN: u16 = 1;
const ON_ERROR_CONTINUE: u16 = 1;
const DYNAMIC_REVISION: u32 = 1;
/// Extended attributes, indexed directories, copies of the superblock only in the groups that are named (none is).
const COMPATIBLE: u32 = 0x8 | 0x20 | 0x200;
/// Types in directory entries, extents, bitmaps outside of their groups.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x200;
/// Files beyond 2 GiB, huge files, group checksums, more than 65000 subdirectories, large inodes.
const READ_ONLY_COMPATIBLE: u32 = 0x2 | 0x8 | 0x10 | 0x20 | 0x40;
/// Extended attributes for users, access control lists.
const MOUNT_OPTIONS: u32 = 0x4 | 0x8;
const SIGNED_HASH: u32 = 1;
const HALF_MD4: u8 = 1;
/// What an inode has beyond 128 bytes.
const EXTRA_INODE_BYTES: u16 = 32;
const ENTRY_HEADER: usize = 8;
const TYPE_DIRECTORY: u8 = 2;
const S_IFDIR: u16 = 0x4000;
const USES_EXTENTS: u32 = 0x8_0000;
const EXTENT_MAGIC: u16 = 0xf30a;

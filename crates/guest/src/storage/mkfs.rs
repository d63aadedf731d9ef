//! A fresh ext4 file system, as the first bytes of its volume.
//!
//! Source of the layout: the kernel's documentation of ext4's data structures (Documentation/filesystems/ext4, "Super Block",
//! "Block Group Descriptors", "Index Nodes", "Directory Entries"). The choices, for a volume that lives as long as its machine:
//!
//! - No journal, and no copies of superblock and descriptors: nobody repairs this volume.
//! - Every block group's bitmaps and inode table count as not yet made (`BLOCK_UNINIT`, `INODE_UNINIT`, number of unused
//!   inodes); the checksum of the group's descriptor says so, and tells it from the noise that is on the disk. The kernel makes
//!   them when it first uses the group. Only the last group must have a block bitmap; by `flex_bg` it may lie in group 0. So
//!   nothing is written but the beginning of the volume, in one piece:
//!
//! ```text
//! superblock | descriptors | last group's block bitmap, if there are several |
//!     block bitmap | inode bitmap | "/" | "/lost+found" | first block of group 0's inode table
//! ```

mod disk;
mod group;

use group::Group;

/// What is made at random for each file system; nothing depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seed {
    /// UUID of the file system, part of the descriptors' checksums.
    pub(crate) uuid: [u8; 16],
    /// Key of the hashes in large directories.
    pub(crate) hash: [u8; 16],
}

/// Why there is no file system for a volume.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MkfsError {
    #[error("{bytes} bytes are less than the {LEAST_BYTES} that a file system needs")]
    TooSmall { bytes: u64 },
    #[error("{bytes} bytes are more than the {MOST_BYTES} that 32-bit block numbers reach")]
    TooLarge { bytes: u64 },
}

/// The first bytes of a volume of `bytes` bytes; what follows them may be anything.
pub(crate) fn head(bytes: u64, seed: &Seed) -> Result<Vec<u8>, MkfsError> {
    let geometry = Geometry::of(bytes)?;
    let groups: Vec<Group> = (0..geometry.groups).map(|number| Group::new(&geometry, number)).collect();
    let first = groups.first().expect("a geometry has at least one group");
    let mut head = disk::superblock(&geometry, &groups, seed);
    head.resize(BLOCK, 0);
    for group in &groups {
        head.extend_from_slice(&group.descriptor(&seed.uuid));
    }
    head.resize((1 + geometry.descriptor_blocks as usize) * BLOCK, 0);
    for group in groups.iter().skip(1).next_back().into_iter().chain([first]) {
        head.extend_from_slice(&group.block_bitmap());
    }
    head.extend_from_slice(&first.inode_bitmap());
    head.extend_from_slice(&disk::directory(ROOT_INODE, Some(LOST_AND_FOUND_INODE)));
    head.extend_from_slice(&disk::directory(LOST_AND_FOUND_INODE, None));
    head.extend_from_slice(&disk::inode_table(&geometry));
    Ok(head)
}

/// Sizes and places.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    /// Blocks of the whole volume; a rest too small for a group of its own is left out.
    blocks: u32,
    groups: u32,
    inodes_per_group: u32,
    /// Blocks of descriptors.
    descriptor_blocks: u32,
}

impl Geometry {
    fn of(bytes: u64) -> Result<Self, MkfsError> {
        if bytes < LEAST_BYTES {
            return Err(MkfsError::TooSmall { bytes });
        }
        let blocks = u32::try_from(bytes / BLOCK as u64).map_err(|_| MkfsError::TooLarge { bytes })?;
        let inodes_per_group = (blocks.min(BLOCKS_PER_GROUP) / BLOCKS_PER_INODE).next_multiple_of(INODES_PER_BLOCK);
        let table = inodes_per_group / INODES_PER_BLOCK;
        let rest = blocks % BLOCKS_PER_GROUP;
        // Bitmaps, inode table, and something to make it worthwhile.
        let blocks = if blocks > BLOCKS_PER_GROUP && rest < 2 + table + LEAST_DATA { blocks - rest } else { blocks };
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let descriptor_blocks = groups.div_ceil(DESCRIPTORS_PER_BLOCK);
        Ok(Self { blocks, groups, inodes_per_group, descriptor_blocks })
    }

    /// Blocks of `group`'s inode table.
    fn inode_table_blocks(&self) -> u32 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    /// Place of the last group's block bitmap, where that is not group 0.
    fn last_block_bitmap(&self) -> u32 {
        1 + self.descriptor_blocks
    }

    /// Place of group 0's block bitmap; what else group 0 has follows it.
    fn block_bitmap(&self) -> u32 {
        self.last_block_bitmap() + u32::from(self.groups > 1)
    }

    fn inode_bitmap(&self) -> u32 {
        self.block_bitmap() + 1
    }

    fn root_directory(&self) -> u32 {
        self.block_bitmap() + 2
    }

    fn lost_and_found(&self) -> u32 {
        self.block_bitmap() + 3
    }

    fn inode_table(&self) -> u32 {
        self.block_bitmap() + 4
    }
}

/// Bytes of a block.
const BLOCK: usize = 4096;
/// As many as one block of bitmap tells apart.
const BLOCKS_PER_GROUP: u32 = 8 * BLOCK as u32;
const BLOCKS_PER_INODE: u32 = 2;
const INODE_BYTES: usize = 256;
const INODES_PER_BLOCK: u32 = (BLOCK / INODE_BYTES) as u32;
const DESCRIPTORS_PER_BLOCK: u32 = (BLOCK / group::DESCRIPTOR_BYTES) as u32;
/// Blocks for data that the last group must have to exist.
const LEAST_DATA: u32 = 50;
const ROOT_INODE: u32 = 2;
/// The first inode that is not reserved.
const LOST_AND_FOUND_INODE: u32 = 11;
/// Directories of a fresh file system.
const DIRECTORIES: u16 = 2;
const LEAST_BYTES: u64 = 1 << 20;
const MOST_BYTES: u64 = (u32::MAX as u64 + 1) * BLOCK as u64 - 1;

#[cfg(test)]
mod tests;

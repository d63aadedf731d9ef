//! One block group: its descriptor and bitmaps.

use super::{BLOCK, BLOCKS_PER_GROUP, DIRECTORIES, Geometry, LOST_AND_FOUND_INODE};

/// What a descriptor says of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    number: u32,
    block_bitmap: u32,
    inode_bitmap: u32,
    inode_table: u32,
    blocks: u32,
    pub(super) free_blocks: u32,
    pub(super) free_inodes: u32,
    directories: u16,
    flags: u16,
}

impl Group {
    /// Group `number` of a fresh file system. Its metadata are at its beginning.
    pub(super) fn new(geometry: &Geometry, number: u32) -> Self {
        let start = number * BLOCKS_PER_GROUP;
        let blocks = (geometry.blocks - start).min(BLOCKS_PER_GROUP);
        let table_blocks = geometry.inode_table_blocks();
        let last = number == geometry.groups - 1;
        if number == 0 {
            return Self {
                number,
                block_bitmap: geometry.block_bitmap(),
                inode_bitmap: geometry.inode_bitmap(),
                inode_table: geometry.inode_table(),
                blocks,
                free_blocks: blocks - geometry.inode_table() - table_blocks,
                free_inodes: geometry.inodes_per_group - LOST_AND_FOUND_INODE,
                directories: DIRECTORIES,
                flags: 0,
            };
        }
        let (block_bitmap, inode_bitmap) = if last { (geometry.last_block_bitmap(), start) } else { (start, start + 1) };
        let inode_table = inode_bitmap + 1;
        Self {
            number,
            block_bitmap,
            inode_bitmap,
            inode_table,
            blocks,
            free_blocks: blocks - (inode_table - start) - table_blocks,
            free_inodes: geometry.inodes_per_group,
            directories: 0,
            flags: if last { INODE_UNINIT } else { BLOCK_UNINIT | INODE_UNINIT },
        }
    }

    /// The 32-byte descriptor with its checksum: CRC-16 over UUID, number of the group, and what stands before it.
    pub(super) fn descriptor(&self, uuid: &[u8; 16]) -> [u8; DESCRIPTOR_BYTES] {
        let mut bytes = [0; DESCRIPTOR_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.block_bitmap.to_le_bytes());
        put(4, &self.inode_bitmap.to_le_bytes());
        put(8, &self.inode_table.to_le_bytes());
        put(12, &low16(self.free_blocks));
        put(14, &low16(self.free_inodes));
        put(16, &self.directories.to_le_bytes());
        put(18, &self.flags.to_le_bytes());
        // Inodes that were never used: those at the end of the table, which is why it need not be written.
        put(28, &low16(self.free_inodes));
        let checksum = [&uuid[..], &self.number.to_le_bytes(), &bytes[..CHECKSUM]].iter().fold(!0, |crc, part| crc16(crc, part));
        bytes[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// What is not free is at its beginning; bits behind its end are set.
    pub(super) fn block_bitmap(&self) -> [u8; BLOCK] {
        let mut bitmap = [0; BLOCK];
        set(&mut bitmap, 0..self.blocks - self.free_blocks);
        set(&mut bitmap, self.blocks..BLOCKS_PER_GROUP);
        bitmap
    }

    /// Group 0's: the reserved inodes, and lost+found's.
    pub(super) fn inode_bitmap(&self) -> [u8; BLOCK] {
        let mut bitmap = [0; BLOCK];
        set(&mut bitmap, 0..LOST_AND_FOUND_INODE);
        set(&mut bitmap, self.free_inodes + LOST_AND_FOUND_INODE..BLOCKS_PER_GROUP);
        bitmap
    }
}

/// At most 32768, since descriptors without 64-bit numbers have 16 bits for it.
fn low16(value: u32) -> [u8; 2] {
    u16::try_from(value).expect("a group has at most 32768 of anything").to_le_bytes()
}

fn set(bitmap: &mut [u8; BLOCK], bits: std::ops::Range<u32>) {
    for bit in bits {
        bitmap[bit as usize / 8] |= 1 << (bit % 8);
    }
}

/// CRC-16 with the polynomial 0x8005, reflected.
fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0xa001 })
    })
}

pub(super) const DESCRIPTOR_BYTES: usize = 32;
const CHECKSUM: usize = 30;
const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;

#[cfg(test)]
mod tests {
    use super::crc16;

    #[test]
    fn the_checksum_is_crc_16_arc() {
        // Check value of CRC-16/ARC, whose initial value is 0.
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }
}

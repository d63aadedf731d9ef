//! Where the host says that something is. The host chooses the place; what is found there is verified by its digest.

use casemate_api::guest;

use crate::disk::{self, Disk, DiskError};

/// A part of a disk, within its bounds.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) disk: Disk,
    pub(crate) start_sector: u64,
    pub(crate) sectors: u64,
}

/// Why a slice cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SliceError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("the slice at {offset_bytes} of {length_bytes} bytes is not a part of the disk {serial:?}")]
    Bounds { serial: String, offset_bytes: u64, length_bytes: u64 },
}

/// Finds a slice's disk and checks the bounds; an asset's slice may end in the middle of its last sector.
pub(crate) fn find(slice: &guest::Slice) -> Result<Part, SliceError> {
    let disk = disk::find(&slice.serial)?;
    match bounds(slice, disk.sectors) {
        Some((start_sector, sectors)) => Ok(Part { disk, start_sector, sectors }),
        None => Err(SliceError::Bounds {
            serial: slice.serial.clone(),
            offset_bytes: slice.offset_bytes,
            length_bytes: slice.length_bytes,
        }),
    }
}

fn bounds(slice: &guest::Slice, disk_sectors: u64) -> Option<(u64, u64)> {
    let sectors = slice.length_bytes.div_ceil(SECTOR);
    let start = slice.offset_bytes / SECTOR;
    let aligned = slice.offset_bytes.is_multiple_of(ALIGNMENT);
    let inside = start.checked_add(sectors).is_some_and(|end| end <= disk_sectors);
    (aligned && inside && sectors > 0).then_some((start, sectors))
}

const SECTOR: u64 = 512;
const ALIGNMENT: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_stays_inside_its_disk() {
        let at = |offset_bytes, length_bytes| bounds(&guest::Slice { serial: "pack0".into(), offset_bytes, length_bytes }, 16);
        assert_eq!(at(0, 8192), Some((0, 16)));
        assert_eq!(at(4096, 4096), Some((8, 8)));
        assert_eq!(at(4096, 10), Some((8, 1)));
        assert_eq!(at(4096, 4097), None);
        assert_eq!(at(512, 512), None);
        assert_eq!(at(0, 0), None);
        assert_eq!(at(8192, 512), None);
        assert_eq!(at(u64::MAX - 4095, u64::MAX), None);
    }
}

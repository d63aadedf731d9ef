use std::{os::unix::fs::FileExt as _, process::Command};

use super::*;

const SEED: Seed = Seed { uuid: [0xa5; 16], hash: [0x3c; 16] };

/// A sparse file of `bytes` bytes that begins with a fresh file system, over what an earlier one may have left.
fn volume(bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let noise = vec![0xee; usize::try_from(bytes.min(8 << 20)).unwrap()];
    file.as_file().write_all_at(&noise, 0).unwrap();
    file.as_file().set_len(bytes).unwrap();
    file.as_file().write_all_at(&head(bytes, &SEED).unwrap(), 0).unwrap();
    file
}

/// What `program` says about the volume, if it finds nothing wrong.
fn says(program: &str, argument: &str, volume: &tempfile::NamedTempFile) -> String {
    let output = Command::new(program).arg(argument).arg(volume.path()).env("LC_ALL", "C").output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {argument}: {text}");
    text
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn e2fsck_finds_nothing_wrong_with_volumes_of_any_size() {
    let group = u64::from(BLOCKS_PER_GROUP) * BLOCK as u64;
    let around_a_group = [group - 4096, group, group + 4096, group + 5 * MIB, 2 * group + 4096 * 1077, 2 * group + 4096 * 1076];
    let odd = [MIB, 16 * MIB, 16 * MIB + 512, 17 * MIB + 3 * 4096, 32 * MIB, 100 * MIB + 7, 999 * MIB, 5 * GIB + 12_345 * 512];
    for bytes in around_a_group.into_iter().chain(odd) {
        let text = says("e2fsck", "-fn", &volume(bytes));
        assert!(text.contains("Pass 5") && text.contains("11/"), "{bytes}: {text}");
    }
}

#[test]
fn e2fsck_finds_nothing_wrong_with_a_volume_of_a_tebibyte() {
    says("e2fsck", "-fn", &volume(1 << 40));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    #[test]
    fn e2fsck_finds_nothing_wrong_with_random_sizes(sectors in 2048_u64..(3 * GIB / 512)) {
        says("e2fsck", "-fn", &volume(sectors * 512));
    }
}

#[test]
fn dumpe2fs_reads_what_was_meant() {
    let text = says("dumpe2fs", "-h", &volume(GIB));
    for line in [
        "Filesystem UUID:          a5a5a5a5-a5a5-a5a5-a5a5-a5a5a5a5a5a5",
        "Filesystem features:      ext_attr dir_index sparse_super2 filetype extent flex_bg large_file huge_file uninit_bg dir_nlink extra_isize",
        "Filesystem state:         clean",
        "Block count:              262144",
        "Inode count:              131072",
        "Reserved block count:     0",
        "Inode size:	          256",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains("Journal"), "{text}");
}

#[test]
fn one_short_write_makes_a_file_system() {
    let length = |bytes| head(bytes, &SEED).unwrap().len();
    // Superblock, descriptors, two bitmaps, two directories, a part of the inode table.
    assert_eq!(length(16 * MIB), 7 * BLOCK);
    // With the last group's block bitmap.
    assert_eq!(length(GIB), 8 * BLOCK);
    // 8192 descriptors.
    assert_eq!(length(1 << 40), (7 + 64) * BLOCK);
}

#[test]
fn refuses_what_is_too_small_or_too_large() {
    assert_eq!(head(MIB - 1, &SEED), Err(MkfsError::TooSmall { bytes: MIB - 1 }));
    assert_eq!(head(MOST_BYTES + 1, &SEED), Err(MkfsError::TooLarge { bytes: MOST_BYTES + 1 }));
    assert!(head(MOST_BYTES, &SEED).is_ok());
}

#[test]
fn a_changed_descriptor_is_noticed() {
    let bytes = 300 * MIB;
    let volume = volume(bytes);
    // The third group's number of free blocks.
    volume.as_file().write_all_at(&[0], BLOCK as u64 + 2 * 32 + 12).unwrap();
    let output = Command::new("e2fsck").arg("-fn").arg(volume.path()).output().unwrap();
    assert!(!output.status.success());
}

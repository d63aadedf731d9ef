//! Volumes: the encrypted scratch, the image's layers, the assets.

pub(crate) mod assets;
pub(crate) mod layers;
mod mkfs;
mod slice;

use std::{
    ffi::CStr,
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::mount::{MountFlags, mount};

use crate::{
    disk, dm, entropy,
    fatal::{Check, Fatal, OrFatal},
    phase,
};

/// Where the scratch volume is mounted.
pub(crate) const SCRATCH: &str = "/run/scratch";

/// Opens the scratch disk under a key that exists only in this machine's RAM, and makes a fresh file system on it.
///
/// What LUKS2 would give, without anything on the disk that the host could forge: no header, no key slots, no KDF (which
/// protects nothing when the secret is 512 random bits). The key is in the kernel's mapping and nowhere else; when the
/// machine ends, the disk's content is noise.
pub(crate) fn open_scratch() -> Result<(), Fatal> {
    let disk = disk::find("scratch").or_fatal(Check::Scratch, "find the scratch disk")?;
    let key = entropy::secret64()?;
    let device = dm::create("scratch", &dm::Table::crypt(&disk.number, disk.sectors, &key))
        .or_fatal(Check::Scratch, "open the scratch disk by dm-crypt")?;
    drop(key);
    make_file_system(&device.node(), disk.sectors)?;
    fs::create_dir_all(SCRATCH).or_fatal(Check::Scratch, "make the scratch mount point")?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    mount(device.node(), SCRATCH, "ext4", flags, MOUNT_OPTIONS).or_fatal(Check::Scratch, "mount the scratch volume")?;
    fs::set_permissions(SCRATCH, fs::Permissions::from_mode(0o700)).or_fatal(Check::Scratch, "close the scratch volume")
}

/// Says which disk a verity device reads: the kernel's own message about a bad block names only the disk's number.
pub(crate) fn announce(name: &str, number: &str) {
    phase::say(&format!("CASEMATE-DEVICE {name} {number}"));
}

fn make_file_system(device: &Path, sectors: u64) -> Result<(), Fatal> {
    let seed = mkfs::Seed { uuid: entropy::public16()?, hash: entropy::public16()? };
    let attempt = "make a file system on the scratch volume";
    let head = mkfs::head(sectors.saturating_mul(512), &seed).or_fatal(Check::Scratch, attempt)?;
    let volume = OpenOptions::new().write(true).open(device);
    volume.and_then(|volume| volume.write_all_at(&head, 0)).or_fatal(Check::Scratch, attempt)
}

/// The kernel shall not fill the inode tables with zeros in the background: it does that with each inode that it takes.
const MOUNT_OPTIONS: &CStr = c"noinit_itable";

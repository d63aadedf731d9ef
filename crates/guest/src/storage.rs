//! Volumes: the encrypted scratch, the image's layers, the assets.

pub(crate) mod assets;
pub(crate) mod layers;
mod slice;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
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
    phase::mark("crypt");
    make_file_system(&device.node())?;
    phase::mark("mkfs");
    fs::create_dir_all(SCRATCH).or_fatal(Check::Scratch, "make the scratch mount point")?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    mount(device.node(), SCRATCH, "ext4", flags, None).or_fatal(Check::Scratch, "mount the scratch volume")?;
    fs::set_permissions(SCRATCH, fs::Permissions::from_mode(0o700)).or_fatal(Check::Scratch, "close the scratch volume")
}

/// Says which disk a verity device reads: the kernel's own message about a bad block names only the disk's number.
pub(crate) fn announce(name: &str, number: &str) {
    phase::say(&format!("CASEMATE-DEVICE {name} {number}"));
}

fn make_file_system(device: &Path) -> Result<(), Fatal> {
    // No journal: the volume does not outlive the machine. No table zeroing: what an earlier key left reads as noise, and
    // group checksums tell it from data.
    let output = Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal,^resize_inode", "-E"])
        .arg("nodiscard,lazy_itable_init=1,root_owner=0:0")
        .arg(device)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .or_fatal(Check::Scratch, "start /sbin/mke2fs")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Fatal::new(Check::Scratch, format!("make a file system on the scratch volume: {}: {said}", output.status)))
}

//! From the kernel's first process to a machine with a verified root and an encrypted scratch volume.

mod cmdline;
pub(crate) mod hardening;
mod modules;
pub(crate) mod mounts;
mod root;

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use crate::{
    disk, dm, entropy,
    fatal::{Check, Fatal, OrFatal},
    phase, storage,
};

/// In the initrd: opens the verity root and enters it. The process goes on: its program was measured with the initrd, and
/// executing it again from the root would only have it read and hashed a second time.
pub(crate) fn first_stage() -> Result<(), Fatal> {
    mounts::mount_all(mounts::EARLY).or_fatal(Check::RootVerity, "mount the first file systems")?;
    phase::mark("init");
    let command_line = fs::read_to_string("/proc/cmdline").or_fatal(Check::RootVerity, "read /proc/cmdline")?;
    let verity = cmdline::root(&command_line).or_fatal(Check::RootVerity, "read the kernel command line")?;
    modules::load_all().or_fatal(Check::RootVerity, "load the kernel's modules")?;
    let disk = disk::wait_for("root", ROOT_LIMIT).or_fatal(Check::RootVerity, "wait for the root disk")?;
    storage::announce("root", &disk.number);
    let device = dm::create("root", &dm::Table::verity(&disk.number, &verity))
        .or_fatal(Check::RootVerity, "open the root disk by dm-verity")?;
    read_beginning(&device.node()).or_fatal(Check::RootVerity, "read the root device")?;
    root::switch_to(&device.node()).or_fatal(Check::RootVerity, "mount and enter the root file system")?;
    phase::mark("root");
    Ok(())
}

/// In the verity root: the rest of the file systems, kernel settings.
pub(crate) fn second_stage() -> Result<(), Fatal> {
    mounts::mount_all(mounts::SYSTEM).or_fatal(Check::RootVerity, "mount the system file systems")?;
    hardening::apply();
    entropy::wait_until_ready()
}

/// Reads the root once, so that a changed byte is found at boot and not when somebody comes to need it. A large root has
/// only its beginning read; the rest is verified when it is used.
fn read_beginning(device: &Path) -> io::Result<()> {
    io::copy(&mut File::open(device)?.take(READ_AT_BOOT), &mut io::sink()).map(drop)
}

/// The root is some kilobytes long.
const READ_AT_BOOT: u64 = 4 << 20;

/// How long the root disk may take to appear; virtio disks are there before the first process.
const ROOT_LIMIT: Duration = Duration::from_secs(10);

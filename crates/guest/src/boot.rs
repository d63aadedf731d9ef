//! From the kernel's first process to a machine with a verified root and an encrypted scratch volume.

mod cmdline;
mod hardening;
mod modules;
pub(crate) mod mounts;
mod root;

use std::{convert::Infallible, fs, os::unix::process::CommandExt as _, process::Command, time::Duration};

use crate::{
    disk, dm, entropy,
    fatal::{Check, Fatal, OrFatal},
    phase, storage,
};

/// Argument that says: the root is verified already.
pub(crate) const STAGE2: &str = "--stage2";

/// In the initrd: opens the verity root and goes on from there. Returns only on failure.
pub(crate) fn first_stage() -> Result<Infallible, Fatal> {
    mounts::mount_all(mounts::EARLY).or_fatal(Check::RootVerity, "mount the first file systems")?;
    phase::mark("init");
    let command_line = fs::read_to_string("/proc/cmdline").or_fatal(Check::RootVerity, "read /proc/cmdline")?;
    let verity = cmdline::root(&command_line).or_fatal(Check::RootVerity, "read the kernel command line")?;
    modules::load_all().or_fatal(Check::RootVerity, "load the kernel's modules")?;
    let disk = disk::wait_for("root", ROOT_LIMIT).or_fatal(Check::RootVerity, "wait for the root disk")?;
    storage::announce("root", &disk.number);
    let device = dm::create("root", &dm::Table::verity(&disk.number, &verity))
        .or_fatal(Check::RootVerity, "open the root disk by dm-verity")?;
    root::switch_to(&device.node()).or_fatal(Check::RootVerity, "mount and enter the root file system")?;
    phase::mark("root");
    let error = Command::new("/sbin/casemate-guest").arg(STAGE2).exec();
    Err(Fatal::new(Check::RootVerity, format!("execute /sbin/casemate-guest of the root file system: {error}")))
}

/// In the verity root: the rest of the file systems, kernel settings, scratch volume.
pub(crate) fn second_stage() -> Result<(), Fatal> {
    phase::mark("stage2");
    mounts::mount_all(mounts::SYSTEM).or_fatal(Check::RootVerity, "mount the system file systems")?;
    hardening::apply();
    entropy::wait_until_ready()?;
    storage::open_scratch()
}

/// How long the root disk may take to appear; virtio disks are there before the first process.
const ROOT_LIMIT: Duration = Duration::from_secs(10);

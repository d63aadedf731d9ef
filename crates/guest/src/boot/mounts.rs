//! The machine's file systems, as tables.

use std::{ffi::CString, fs, io};

use rustix::mount::{MountFlags, mount};

/// One line of a mount table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mount {
    pub(crate) source: &'static str,
    pub(crate) target: &'static str,
    pub(crate) flags: MountFlags,
    pub(crate) data: &'static str,
    pub(crate) need: Need,
}

/// Whether the machine works without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Required,
    /// Skipped where the kernel does not have the file system.
    Optional,
}

/// Why a mount failed.
#[derive(Debug, thiserror::Error)]
#[error("mount {target}")]
pub(crate) struct MountError {
    target: String,
    #[source]
    source: io::Error,
}

/// Needed to find the root disk; moved along into the root.
pub(crate) const EARLY: &[Mount] = &[
    line("proc", "/proc", NO_FILES, "hidepid=invisible"),
    line("sysfs", "/sys", NO_FILES, ""),
    line("devtmpfs", "/dev", MountFlags::NOSUID.union(MountFlags::NOEXEC), "mode=0755"),
];

/// The rest, in the verity root. The root itself has only empty directories for them.
pub(crate) const SYSTEM: &[Mount] = &[
    line("tmpfs", "/run", NO_FILES, "mode=0755,size=16m"),
    line("tmpfs", "/tmp", NO_FILES, "mode=0700,size=16m"),
    line("cgroup2", "/sys/fs/cgroup", NO_FILES, ""),
    line("devpts", "/dev/pts", MountFlags::NOSUID.union(MountFlags::NOEXEC), "ptmxmode=0600,mode=0600"),
    line("tmpfs", "/dev/shm", NO_FILES, "mode=0700,size=1m"),
    Mount { need: Need::Optional, ..line("securityfs", "/sys/kernel/security", NO_FILES, "") },
];

/// Mounts all lines in order. Mount points that do not exist are made where the file system allows it.
pub(crate) fn mount_all(table: &[Mount]) -> Result<(), MountError> {
    table.iter().try_for_each(|line| mount_line(line, line.target))
}

/// Mounts one line at `target`.
pub(crate) fn mount_line(line: &Mount, target: &str) -> Result<(), MountError> {
    let _ = fs::create_dir_all(target);
    let data = CString::new(line.data).expect("tables have no NUL");
    match mount(line.source, target, line.source, line.flags, data.as_c_str()) {
        Err(rustix::io::Errno::NODEV | rustix::io::Errno::NOENT) if line.need == Need::Optional => Ok(()),
        result => result.map_err(|error| MountError { target: target.into(), source: error.into() }),
    }
}

/// The source is named like the file system.
pub(crate) const fn line(source: &'static str, target: &'static str, flags: MountFlags, data: &'static str) -> Mount {
    Mount { source, target, flags, data, need: Need::Required }
}

/// Neither programs nor devices.
pub(crate) const NO_FILES: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_mounted_with_setuid_files() {
        for line in EARLY.iter().chain(SYSTEM) {
            assert!(line.flags.contains(MountFlags::NOSUID), "{}", line.target);
        }
    }

    #[test]
    fn every_tmpfs_has_a_size() {
        for line in SYSTEM.iter().filter(|line| line.source == "tmpfs") {
            assert!(line.data.contains("size="), "{}", line.target);
        }
    }
}

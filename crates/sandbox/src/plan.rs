//! What a driver is asked for, and what it answers.

use std::{collections::BTreeMap, path::PathBuf};

use casemate_lifecycle::InstanceId;

/// Everything a machine is made of, decided beforehand; the driver chooses nothing.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The instance.
    pub id: InstanceId,
    /// Kernel (vmlinux with a PVH note, or bzImage).
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: PathBuf,
    /// Kernel command line.
    pub command_line: String,
    /// Read-only disks, in order; at most [`Capabilities::max_disks`]. The scratch disk (serial `scratch`) is added by the driver.
    pub disks: Vec<Disk>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Guest memory.
    pub memory_mib: u64,
    /// Size of the scratch disk.
    pub scratch_mib: u64,
}

/// A read-only raw disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Virtio serial, at most 20 bytes: `root`, `layer0`, `asset0`.
    pub serial: String,
    /// The file; its size is a multiple of 512 (the driver pads nothing).
    pub path: PathBuf,
}

/// What a driver can do on this host.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// `qemu` or `fake`.
    pub name: &'static str,
    /// As the VMM says itself.
    pub version: String,
    /// SHA-256 of the VMM's binary.
    pub digest: [u8; 32],
    /// The machine kind, e.g. `microvm`.
    pub machine: &'static str,
    /// `kvm` or `tcg`.
    pub accel: &'static str,
    /// Why that one, for a person.
    pub accel_reason: String,
    /// Most read-only disks, root included.
    pub max_disks: usize,
    /// Most CPUs.
    pub max_cpus: u32,
    /// The host's TSC frequency in kHz, where the guest's command line needs it (TCG).
    pub tsc_khz: Option<u64>,
}

/// Answer to `prepare`.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What the provisioner returned: TPMT_PUBLIC of the vTPM's attestation key.
    pub vtpm_ak_public: Vec<u8>,
}

/// Answer to `start`.
#[derive(Debug, Clone)]
pub struct Started {
    /// What holds the VMM, observed from outside.
    pub jail: JailReport,
}

/// The jail around the VMM, observed in /proc after its start, over all of its threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JailReport {
    /// User id.
    pub uid: u32,
    /// Every thread has `NoNewPrivs: 1`.
    pub no_new_privs: bool,
    /// Every thread has `Seccomp: 2`.
    pub seccomp: bool,
    /// `CapEff | CapPrm`, all threads or-ed.
    pub capabilities: u64,
    /// Namespaces that differ from ours, sorted: of `cgroup ipc mnt net pid uts`.
    pub namespaces: Vec<String>,
    /// In a cgroup of its own with memory and pids limits.
    pub cgroup: bool,
}

/// The end of a VMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Why.
    pub cause: ExitCause,
    /// Last lines of the guest's console, at most 4 KiB, control characters removed.
    pub console_tail: String,
}

/// Why a VMM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitCause {
    /// The guest powered off without a complaint.
    PoweredOff,
    /// The guest said `CASEMATE-FATAL <check> <detail>` on its console, or its kernel stopped at a bad verity block
    /// (check `guest.root-verity` for the root device, `guest.layer-verity` for others).
    Guest {
        /// Name of the failed check.
        check: String,
        /// What was seen.
        detail: String,
    },
    /// The guest's kernel panicked for another reason.
    Panic(String),
    /// The VMM itself failed or was killed.
    Vmm(String),
}

/// Whether an instance's machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The VMM runs.
    Running,
    /// Files, mounts, cgroups or the like exist, but no VMM.
    Remains,
}

/// What was wiped, by name: `guest-ram`, `scratch`, `vtpm`, `jail`, `cgroup`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WipeEvidence {
    /// The items.
    pub items: BTreeMap<&'static str, WipedItem>,
}

/// How one thing was wiped; the words are those of the receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WipedItem {
    /// `overwritten`, `crypto-erased`, `removed`, `released-by-kernel`, `never-existed`.
    pub method: &'static str,
    /// Whether the result was looked at and found as it should be.
    pub verified: bool,
    /// How it was verified.
    pub detail: String,
    /// Bytes, where it has any.
    pub bytes: u64,
    /// How long it took.
    pub duration_ms: u64,
}

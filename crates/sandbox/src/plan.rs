//! What a driver is asked for, and what it answers.

use std::{collections::BTreeMap, fs, io, path::PathBuf, time::Duration};

use casemate_lifecycle::InstanceId;

use crate::{CpuRange, Demand, Isolation, Placement};

/// Everything an instance is made of, decided beforehand; the driver chooses nothing.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The instance.
    pub id: InstanceId,
    /// The least isolation that will do.
    pub isolation: Isolation,
    /// What is needed beside the sizes below.
    pub demands: Vec<Demand>,
    /// What runs.
    pub system: System,
    /// Read-only disks, in order; at most [`Capabilities::max_disks`](crate::Capabilities::max_disks). The scratch disk (serial
    /// `scratch`) is added by the driver; a container has files of these names instead.
    pub disks: Vec<Disk>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Guest memory.
    pub memory_mib: u64,
    /// Size of the scratch disk.
    pub scratch_mib: u64,
}

/// What runs in an instance.
#[derive(Debug, Clone)]
pub enum System {
    /// A kernel of its own.
    Machine(MachineSystem),
    /// A process of the host's kernel, or of one in user space.
    Container(ContainerSystem),
}

/// What boots.
#[derive(Debug, Clone)]
pub struct MachineSystem {
    /// Kernel (vmlinux with a PVH note, or bzImage).
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: PathBuf,
    /// Kernel command line.
    pub command_line: String,
}

/// What a container begins as.
///
/// Its process 1 is `init`, which sees the image as its root and, below [`GUEST_DIR`](crate::GUEST_DIR), `disks/SERIAL` for each
/// disk of the plan and `shared/NAME` for each shared thing.
#[derive(Debug, Clone)]
pub struct ContainerSystem {
    /// A static program.
    pub init: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// The image, lowest layer first.
    pub layers: Vec<LayerFile>,
    /// What `init` makes and the workload sees.
    pub shared: Vec<Shared>,
}

/// A layer of an image: an EROFS file system, verified by whoever draws the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// The file.
    pub path: PathBuf,
}

/// Something on scratch that process 1 of a container changes at `shared/NAME`, and the workload sees at `path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Letters, digits and hyphens.
    pub name: String,
    /// An absolute path in the image.
    pub path: String,
    /// What it is.
    pub kind: SharedKind,
}

/// What is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedKind {
    /// A file that the workload reads.
    ReadOnlyFile,
    /// A directory that the workload writes.
    WritableDir,
}

impl Plan {
    /// What boots, where a kernel does.
    pub fn machine(&self) -> Option<&MachineSystem> {
        match &self.system {
            System::Machine(machine) => Some(machine),
            System::Container(_) => None,
        }
    }

    /// Where it shall lie on the host.
    pub fn placements(&self) -> impl Iterator<Item = Placement> {
        self.demands.iter().filter_map(|demand| match demand {
            Demand::Placement(wish) => Some(*wish),
            _ => None,
        })
    }

    /// The host's processors that it shall run on, where it is not all of them.
    pub fn cpus_of_host(&self) -> Option<CpuRange> {
        self.placements().find_map(|wish| match wish {
            Placement::Cpus(cpus) => Some(cpus),
            Placement::HugePages | Placement::Node(_) => None,
        })
    }

    /// What a container begins as, where it is one.
    pub fn container(&self) -> Option<&ContainerSystem> {
        match &self.system {
            System::Machine(_) => None,
            System::Container(container) => Some(container),
        }
    }
}

/// A read-only raw disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Virtio serial, at most 20 bytes: `root`, `layer0`, `asset0`.
    pub serial: String,
    /// The file; its size is a multiple of 512 (the driver pads nothing).
    pub path: PathBuf,
}

/// Answer to `prepare`.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What the provisioner returned: TPMT_PUBLIC of the vTPM's attestation key. `None` where the driver has no vTPM.
    pub vtpm_ak_public: Option<Vec<u8>>,
    /// Time since the VMM's execution, where it was executed already: it waits, and its processors stand still, until `start`.
    pub since_execution: Option<Duration>,
}

/// Answer to `start`.
#[derive(Debug, Clone)]
pub struct Started {
    /// What holds the VMM, observed from outside.
    pub jail: JailReport,
    /// The VMM itself and the guest's memory, observed from outside.
    pub vmm: VmmReport,
    /// Time since the VMM's execution; `None` where it was executed before this call, or by nobody.
    pub since_execution: Option<Duration>,
}

/// What of a running instance the host's kernel knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Its control group of version 2.
    pub cgroup: PathBuf,
    /// Files of its memory.
    pub memory: Vec<PathBuf>,
}

impl Footprint {
    /// The processes in its group and in the groups below, at this moment.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        let mut folders = vec![(self.cgroup.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let text = fs::read_to_string(folder.join("cgroup.procs"))?;
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            // A workload makes no groups of its own; runtimes make one or two.
            if depth < MAX_GROUP_DEPTH {
                let entries = fs::read_dir(&folder)?.flatten();
                let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
                folders.extend(below.map(|entry| (entry.path(), depth + 1)));
            }
        }
        Ok(found)
    }
}

/// Groups of runtimes within that of the instance.
const MAX_GROUP_DEPTH: usize = 4;

/// The jail around the VMM, observed in /proc after its start, over all of its threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JailReport {
    /// User id, as the host sees it.
    pub uid: u32,
    /// Every thread has `NoNewPrivs: 1`.
    pub no_new_privs: bool,
    /// Every thread has `Seccomp: 2`.
    pub seccomp: bool,
    /// `CapEff | CapPrm`, all threads or-ed.
    pub capabilities: u64,
    /// Namespaces that differ from ours, sorted: of `cgroup ipc mnt net pid user uts`. Capabilities in a user namespace of its own
    /// are none over the host.
    pub namespaces: Vec<String>,
    /// In a cgroup of its own with memory and pids limits.
    pub cgroup: bool,
}

/// The VMM and the guest's memory, observed in /proc after its start. `None`: it could not be seen, or there is no such thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmmReport {
    /// It has a virtual machine of the processor; without one it emulates.
    pub kvm: Option<bool>,
    /// Guest memory is a file on a file system of its own, for the VMM's user alone.
    pub memory_private: Option<bool>,
    /// That file system, or the control group, is never swapped.
    pub memory_no_swap: Option<bool>,
    /// The kernel may not merge its pages with equal ones of others.
    pub memory_no_merge: Option<bool>,
    /// It is in no core dump.
    pub memory_no_dump: Option<bool>,
    /// Version of Landlock by which the jail's rules are in force, as the jail said before it became the VMM; 0 on a kernel without.
    /// The kernel shows it to nobody.
    pub landlock: Option<u32>,
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

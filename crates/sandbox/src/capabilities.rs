//! What a driver can do on this host, and whether that is enough for a plan: decided before anything is made.

use std::{fmt, ops::RangeInclusive};

use crate::{DriverError, Placement, Plan, System, Topology};

/// Isolation levels of the ladder, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolation {
    /// Namespaces of the host's kernel.
    Container,
    /// User-space kernel.
    Sandbox,
    /// Own kernel in a jailed VMM.
    Microvm,
    /// Hardware memory encryption.
    Confidential,
}

impl Isolation {
    /// As in workloads and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Sandbox => "sandbox",
            Self::Microvm => "microvm",
            Self::Confidential => "confidential",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a driver can do on this host.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// `qemu`, `runc`, `fake` and the like.
    pub name: &'static str,
    /// As the VMM or runtime says itself.
    pub version: String,
    /// SHA-256 of its binary.
    pub digest: [u8; 32],
    /// The machine kind, e.g. `microvm`; of containers `container` or `sandbox`.
    pub machine: &'static str,
    /// `kvm` or `tcg`; `none` where no processor is virtualised.
    pub accel: &'static str,
    /// Why that one, for a person.
    pub accel_reason: String,
    /// The level that its instances have.
    pub isolation: Isolation,
    /// What a plan's system must be.
    pub system: SystemKind,
    /// How one talks to the guest.
    pub channel: GuestChannel,
    /// Most read-only disks, root included.
    pub max_disks: usize,
    /// Most CPUs.
    pub max_cpus: u32,
    /// Guest memory that can be had.
    pub memory_mib: RangeInclusive<u64>,
    /// Scratch that can be had.
    pub scratch_mib: RangeInclusive<u64>,
    /// The host's TSC frequency in kHz, where the guest's command line needs it (TCG).
    pub tsc_khz: Option<u64>,
    /// Where instances can lie on this host, for drivers that can place them.
    pub topology: Topology,
    /// What not every driver has.
    pub features: Features,
}

/// Which kind of [`System`] a driver runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemKind {
    /// [`System::Machine`].
    Machine,
    /// [`System::Container`].
    Container,
}

/// How the guest's end of the channel looks; the host's end is always one byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestChannel {
    /// A virtio-serial port.
    VirtioSerial,
    /// A vsock port behind a Unix socket (Cloud Hypervisor, Firecracker).
    HybridVsock,
    /// Standard input of process 1, a connected Unix socket.
    Stdio,
    /// Within the process.
    Memory,
}

/// Whether a driver has a feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Yes,
    /// It does not, for this reason.
    No(String),
}

impl Support {
    /// Not there, and why.
    pub fn no(reason: impl Into<String>) -> Self {
        Self::No(reason.into())
    }
}

/// What not every driver has, each with the reason where it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// A TPM for the guest.
    pub vtpm: Support,
    /// GPUs handed over.
    pub gpu: Support,
    /// A network beside loopback.
    pub network: Support,
    /// AMD SEV-SNP.
    pub sev_snp: Support,
    /// Intel TDX.
    pub tdx: Support,
    /// Holding a running machine.
    pub pause: Support,
    /// Saving and restoring one.
    pub snapshot: Support,
    /// Devices, memory or CPUs that come and go while it runs.
    pub hot_plug: Support,
    /// Large pages, NUMA nodes and processors of the host; which there are is in [`Capabilities::topology`].
    pub placement: Support,
}

impl Features {
    /// Nothing at all, for one reason.
    pub fn none(reason: &str) -> Self {
        let no = || Support::no(reason);
        Self {
            vtpm: no(),
            gpu: no(),
            network: no(),
            sev_snp: no(),
            tdx: no(),
            pause: no(),
            snapshot: no(),
            hot_plug: no(),
            placement: no(),
        }
    }

    /// Whether a demand can be met.
    pub fn of(&self, demand: Demand) -> &Support {
        match demand {
            Demand::Vtpm => &self.vtpm,
            Demand::Gpus(_) => &self.gpu,
            Demand::Network => &self.network,
            Demand::SevSnp => &self.sev_snp,
            Demand::Tdx => &self.tdx,
            Demand::Pause => &self.pause,
            Demand::Snapshot => &self.snapshot,
            Demand::HotPlug => &self.hot_plug,
            Demand::Placement(_) => &self.placement,
        }
    }
}

/// Something that a plan asks for beside its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// A TPM for the guest, provisioned before it exists.
    Vtpm,
    /// So many GPUs.
    Gpus(u32),
    /// A network beside loopback.
    Network,
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
    /// That it can be paused.
    Pause,
    /// That it can be saved and restored.
    Snapshot,
    /// That devices can come and go.
    HotPlug,
    /// That it lies there on the host.
    Placement(Placement),
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vtpm => f.write_str("a vTPM"),
            Self::Gpus(1) => f.write_str("a GPU"),
            Self::Gpus(count) => write!(f, "{count} GPUs"),
            Self::Network => f.write_str("a network"),
            Self::SevSnp => f.write_str("SEV-SNP"),
            Self::Tdx => f.write_str("TDX"),
            Self::Pause => f.write_str("pausing"),
            Self::Snapshot => f.write_str("snapshots"),
            Self::HotPlug => f.write_str("hot-plug"),
            Self::Placement(wish) => wish.fmt(f),
        }
    }
}

impl Capabilities {
    /// Whether the plan can be carried out, all of it. Every driver asks this before it makes anything; whoever draws the plan
    /// asks it earlier, to refuse in time.
    pub fn admit(&self, plan: &Plan) -> Result<(), DriverError> {
        self.admit_level(plan.isolation)?;
        plan.demands.iter().try_for_each(|demand| self.admit_demand(*demand))?;
        plan.placements().try_for_each(|wish| self.topology.admit(plan, wish))?;
        let given = match plan.system {
            System::Machine(_) => SystemKind::Machine,
            System::Container(_) => SystemKind::Container,
        };
        if given != self.system {
            return refuse(format!("a system of kind {given:?}"), format!("it runs those of kind {:?}", self.system));
        }
        if plan.disks.len() > self.max_disks {
            return refuse(format!("{} disks", plan.disks.len()), format!("at most {}", self.max_disks));
        }
        if plan.cpus == 0 || plan.cpus > self.max_cpus {
            return refuse(format!("{} CPUs", plan.cpus), format!("1 to {}", self.max_cpus));
        }
        within("memory", plan.memory_mib, &self.memory_mib)?;
        within("scratch", plan.scratch_mib, &self.scratch_mib)?;
        plan.disks.iter().try_for_each(|disk| serial(&disk.serial))
    }

    /// Whether instances are isolated at least so much.
    pub fn admit_level(&self, least: Isolation) -> Result<(), DriverError> {
        if self.isolation >= least {
            return Ok(());
        }
        refuse(format!("isolation level {least}"), format!("{} gives level {}", self.name, self.isolation))
    }

    /// Whether a demand can be met.
    pub fn admit_demand(&self, demand: Demand) -> Result<(), DriverError> {
        match self.features.of(demand) {
            Support::Yes => Ok(()),
            Support::No(reason) => refuse(demand.to_string(), reason.clone()),
        }
    }
}

fn within(what: &str, wanted: u64, range: &RangeInclusive<u64>) -> Result<(), DriverError> {
    if range.contains(&wanted) {
        return Ok(());
    }
    refuse(format!("{wanted} MiB of {what}"), format!("{} to {}", range.start(), range.end()))
}

/// Serials become names of files, devices and options.
fn serial(serial: &str) -> Result<(), DriverError> {
    let plain = serial.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if plain && (1..=SERIAL_LIMIT).contains(&serial.len()) && serial != SCRATCH {
        return Ok(());
    }
    refuse(format!("the disk serial {serial:?}"), "1 to 20 letters, digits and hyphens".to_owned())
}

fn refuse(what: String, reason: String) -> Result<(), DriverError> {
    Err(DriverError::Unsupported { what, reason })
}

/// Serial of the scratch disk.
pub(crate) const SCRATCH: &str = "scratch";

/// Most bytes of a virtio serial.
const SERIAL_LIMIT: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disk, MachineSystem};

    fn capabilities() -> Capabilities {
        Capabilities {
            name: "test",
            version: String::new(),
            digest: [0; 32],
            machine: "microvm",
            accel: "tcg",
            accel_reason: String::new(),
            isolation: Isolation::Microvm,
            system: SystemKind::Machine,
            channel: GuestChannel::VirtioSerial,
            max_disks: 2,
            max_cpus: 2,
            memory_mib: 32..=1024,
            scratch_mib: 1..=1024,
            tsc_khz: None,
            topology: Topology::default(),
            features: Features { vtpm: Support::Yes, ..Features::none("not in a test") },
        }
    }

    fn plan() -> Plan {
        Plan {
            id: "i-1".parse().unwrap(),
            isolation: Isolation::Microvm,
            demands: vec![Demand::Vtpm],
            system: System::Machine(MachineSystem { kernel: "/k".into(), initrd: "/i".into(), command_line: String::new() }),
            disks: vec![Disk { serial: "root".to_owned(), path: "/r".into() }],
            cpus: 1,
            memory_mib: 128,
            scratch_mib: 16,
        }
    }

    fn refusal(change: fn(&mut Plan)) -> String {
        let mut plan = plan();
        change(&mut plan);
        capabilities().admit(&plan).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_the_reason() {
        capabilities().admit(&plan()).unwrap();
        assert_eq!(
            refusal(|plan| plan.isolation = Isolation::Confidential),
            "this driver does not support isolation level confidential: test gives level microvm"
        );
        let every = [
            (Demand::Gpus(2), "2 GPUs"),
            (Demand::Network, "a network"),
            (Demand::SevSnp, "SEV-SNP"),
            (Demand::Tdx, "TDX"),
            (Demand::Pause, "pausing"),
            (Demand::Snapshot, "snapshots"),
            (Demand::HotPlug, "hot-plug"),
            (Demand::Placement(Placement::HugePages), "large pages"),
            (Demand::Placement(Placement::Node(3)), "memory of NUMA node 3"),
            (Demand::Placement(Placement::Cpus(crate::CpuRange { first: 2, count: 4 })), "processors 2-5"),
        ];
        for (demand, name) in every {
            let refused = capabilities().admit(&Plan { demands: vec![Demand::Vtpm, demand], ..plan() }).unwrap_err().to_string();
            assert_eq!(refused, format!("this driver does not support {name}: not in a test"));
        }
        assert!(refusal(|plan| plan.cpus = 3).contains("3 CPUs: 1 to 2"));
        assert!(refusal(|plan| plan.cpus = 0).contains("0 CPUs"));
        assert!(refusal(|plan| plan.memory_mib = 31).contains("31 MiB of memory: 32 to 1024"));
        assert!(refusal(|plan| plan.scratch_mib = u64::MAX).contains("of scratch"));
        assert!(refusal(|plan| plan.disks = vec![plan.disks[0].clone(); 3]).contains("3 disks"));
        for bad in ["", "scratch", "../x", "a,readonly=off", "a b", "123456789012345678901"] {
            let disks = vec![Disk { serial: bad.to_owned(), path: "/r".into() }];
            assert!(capabilities().admit(&Plan { disks, ..plan() }).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_weaker_level_may_be_asked_for_and_a_stronger_one_given() {
        capabilities().admit(&Plan { isolation: Isolation::Container, ..plan() }).unwrap();
    }
}

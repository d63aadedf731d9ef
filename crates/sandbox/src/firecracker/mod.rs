//! Machines by Firecracker, each in our jail: a monitor with few devices, for CPUs only.
//!
//! ```text
//! prepare   cgroup, users, scratch, staged kernel and initrd
//! start     jail > exec > network card > API answers "Not started" > machine, boot source, drives, card, vsock > read back
//!           > InstanceStart > "Running" > jail observed on every thread
//! end       the guest reboots: the process ends, with 0 whatever was; the guest halts: the process stays and is ended
//! ```
//!
//! What it has not: a GPU (no PCI pass-through), a vTPM, serials of disks. Its guest's memory belongs to the process alone, so that
//! a wipe can say that the kernel took the pages, and not that they were overwritten.

pub(crate) mod api;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Capabilities, Demand, DriverError, Features, GuestChannel, Isolation, Plan, Support, SystemKind, Topology,
    api_vmm::{self, API, ApiVmm, GuestMemory, Launch, REQUEST_LIMIT, Scene, VSOCK, inside},
    capabilities::SCRATCH,
    error::Context,
    jail::{Access, JailMount},
    network::{self, Card, Mac, Network},
    qemu::{
        AccelChoice, Kind, Machines, Setup,
        host::{self, MOST_MIB},
    },
    unix_http::{Api, ApiError},
    vsock::GUEST_CID,
};
use api::{Boot, Client, Drive, Interface, Machine, Shape, State, Vsock};

/// How the driver is set up.
#[derive(Debug, Clone)]
pub struct FirecrackerConfig {
    /// For what must survive a restart of the host; on disk.
    pub state_dir: PathBuf,
    /// For sockets and mount points.
    pub run_dir: PathBuf,
    /// The jail helper and its leading arguments; it must call [`crate::jail::main`] before it has a second thread.
    pub jail_command: Vec<OsString>,
    /// KVM is the only acceleration; `Auto` wants a CPU that backs it.
    pub accel: AccelChoice,
    /// The monitor.
    pub firecracker: PathBuf,
    /// The hypervisor's device.
    pub kvm: PathBuf,
    /// First of 8192 user ids that nobody else on this host uses; every instance gets two.
    pub uid_base: u32,
    /// Where instances get their network from; `None`: they have none.
    pub network: Option<Arc<Network>>,
}

impl FirecrackerConfig {
    /// With the program found on this host and the usual user ids.
    pub fn new(state_dir: PathBuf, run_dir: PathBuf, jail_command: Vec<OsString>) -> Self {
        Self {
            state_dir,
            run_dir,
            jail_command,
            accel: AccelChoice::Auto,
            firecracker: host::find_program("firecracker"),
            kvm: host::KVM.into(),
            uid_base: crate::qemu::UID_BASE,
            network: None,
        }
    }
}

/// The driver. One per state directory.
#[derive(Debug)]
pub struct FirecrackerDriver(Machines);

crate::qemu::drives_machines!(FirecrackerDriver);

impl FirecrackerDriver {
    /// Finds out what the host can do.
    pub fn new(config: FirecrackerConfig) -> Result<Self, DriverError> {
        let accel_reason = host::require_kvm("Firecracker", config.accel, &config.kvm)?;
        let setup = Setup {
            state_dir: config.state_dir,
            run_dir: config.run_dir,
            jail_command: config.jail_command,
            network: config.network,
            program: config.firecracker,
            swtpm: None,
            cgroup: None,
            uid_base: config.uid_base,
        };
        let network = network::support(setup.network.as_deref());
        Machines::new(setup, |program| {
            let vmm = Firecracker { kvm: config.kvm };
            Ok((capabilities(program, accel_reason, network)?, Kind::Api(Box::new(vmm))))
        })
        .map(Self)
    }
}

fn capabilities(program: &Path, accel_reason: String, network: Support) -> Result<Capabilities, DriverError> {
    Ok(Capabilities {
        name: "firecracker",
        version: host::version("firecracker", program)?,
        digest: host::digest(program).context("read the VMM", program)?,
        machine: "microvm",
        accel: "kvm",
        accel_reason,
        isolation: Isolation::Microvm,
        system: SystemKind::Machine,
        channel: GuestChannel::HybridVsock,
        max_disks: MOST_DISKS,
        max_cpus: MOST_CPUS,
        memory_mib: 64..=MOST_MIB,
        scratch_mib: 1..=MOST_MIB,
        tsc_khz: None,
        topology: Topology::default(),
        features: Features {
            vtpm: Support::no("Firecracker has no TPM device"),
            gpu: Support::no("Firecracker has no PCI pass-through; hint: use the QEMU or Cloud Hypervisor driver for GPUs"),
            sev_snp: Support::no("Firecracker cannot run confidential guests"),
            tdx: Support::no("Firecracker cannot run confidential guests"),
            network,
            pause: Support::no("the evidence of a machine that stood still is not made"),
            snapshot: Support::no("a copy of guest memory would outlive its wipe"),
            hot_plug: Support::no("the machine has no bus for it"),
            placement: Support::no("its memory is its own, and is not placed yet"),
        },
    })
}

#[derive(Debug)]
struct Firecracker {
    kvm: PathBuf,
}

impl Firecracker {
    fn client(&self, scene: &Scene<'_>) -> Client {
        Client(Api { directory: scene.sockets(), name: API, user: scene.user, limit: REQUEST_LIMIT })
    }

    fn expect(&self, scene: &Scene<'_>, client: &Client, wanted: State) -> Result<(), ApiError> {
        let info = api_vmm::first_answer(|| scene.is_alive(), || client.info())?;
        if info.app_name == NAME && info.id == ID && info.state == wanted {
            return Ok(());
        }
        let detail = format!("{} {} of {} is {:?} and not {wanted:?}", info.app_name, info.id, info.vmm_version, info.state);
        Err(ApiError::Unexpected { request: "GET /".to_owned(), detail })
    }
}

impl ApiVmm for Firecracker {
    fn program(&self) -> &'static str {
        "firecracker"
    }

    fn guest_memory(&self) -> GuestMemory {
        GuestMemory::Process
    }

    fn launch(&self, scene: &Scene<'_>) -> Result<Launch, DriverError> {
        let disks = scene.plan.map(|plan| plan.disks.as_slice()).unwrap_or_default();
        let mut mounts = api_vmm::mounts(scene, disks, SCRATCH, &self.kvm);
        if scene.is_connected() {
            // It opens its card by name. Without privileges over its namespace it can make no other by this.
            mounts.push(JailMount { source: TUN.into(), target: TUN.into(), access: Access::Device });
        }
        Ok(Launch { args: arguments(), mounts, descriptors: Vec::new() })
    }

    fn boot(&self, scene: &Scene<'_>, plan: &Plan) -> Result<(), ApiError> {
        let client = self.client(scene);
        self.expect(scene, &client, State::NotStarted)?;
        client.configure(&machine(plan))?;
        client.start()
    }

    fn expect_running(&self, scene: &Scene<'_>) -> Result<(), ApiError> {
        self.expect(scene, &self.client(scene), State::Running)
    }

    fn is_over(&self, _: &Scene<'_>, console: &[u8]) -> bool {
        // It has no power button: what would end the machine elsewhere only stops its CPUs.
        let text = String::from_utf8_lossy(console);
        ["reboot: System halted", "reboot: Power down"].iter().any(|word| text.contains(word))
    }
}

fn arguments() -> Vec<String> {
    ["--id", ID, "--api-sock", "/vm/sockets/api", "--level", "Warning"].map(str::to_owned).to_vec()
}

/// What a plan is in the API's words. Pure.
fn machine(plan: &Plan) -> Machine {
    let drive = |serial: &str, is_read_only| Drive {
        // Letters, digits and underscores only.
        drive_id: serial.replace('-', "_"),
        path_on_host: inside::disk(serial),
        is_root_device: false,
        is_read_only,
    };
    let read_only = plan.disks.iter().map(|disk| drive(&disk.serial, true));
    Machine {
        shape: Shape { vcpu_count: plan.cpus, mem_size_mib: plan.memory_mib, smt: false, track_dirty_pages: false },
        boot: Boot {
            kernel_image_path: inside::KERNEL.to_owned(),
            initrd_path: inside::INITRD.to_owned(),
            boot_args: plan.machine().map(|machine| machine.command_line.clone()).unwrap_or_default(),
        },
        drives: read_only.chain([drive(SCRATCH, false)]).collect(),
        interfaces: plan.demands.contains(&Demand::Network).then(|| interface(plan)).into_iter().collect(),
        vsock: Vsock { guest_cid: GUEST_CID, uds_path: format!("{}/{VSOCK}", inside::SOCKETS) },
    }
}

fn interface(plan: &Plan) -> Interface {
    Interface { iface_id: "eth0", host_dev_name: Card::TAP, guest_mac: Mac::of(&plan.id).to_string() }
}

/// The device by which cards are opened.
const TUN: &str = "/dev/net/tun";

/// As it names itself.
const NAME: &str = "Firecracker";

/// The machine's name within its process; nobody else sees it.
const ID: &str = "casemate";

/// Interrupts of the machine, less the vsock, the network card, the scratch disk and the platform's own.
const MOST_DISKS: usize = 16;

/// Of the guest kernel; the monitor has room for 32.
const MOST_CPUS: u32 = 16;

#[cfg(test)]
mod tests;

//! Machines by Cloud Hypervisor, each in our jail and, within it, under the monitor's own Landlock rules.
//!
//! ```text
//! prepare   cgroup, users, guest memory, scratch, vTPM, staged kernel and initrd
//! start     vTPM > jail > exec with the API's listening socket > network card > vmm.ping > vm.create > vm.add-net > read back
//!           > vm.boot > "Running" > jail observed on every thread > staged kernel emptied
//! end       power off: the process ends, with 0 whatever was; a reboot would boot again in the same process, but finds no kernel
//! ```
//!
//! Guest memory is a file of ours, so that it is overwritten and read back at the end as that of QEMU is.

pub(crate) mod api;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Capabilities, DriverError, Features, GuestChannel, Isolation, Plan, Support, SystemKind, Topology,
    api_vmm::{self, API, ApiVmm, GuestMemory, Launch, REQUEST_LIMIT, Scene, VSOCK, inside},
    capabilities::SCRATCH,
    error::Context,
    jail::{Access, FIRST_FD, JailMount},
    network::{self, Mac, Network},
    qemu::{
        AccelChoice, Kind, Machines, Setup,
        host::{self, MOST_MIB},
    },
    socket::listen,
    unix_http::{Api, ApiError},
    vsock::GUEST_CID,
};
use api::{Client, Console, Cpus, Disk, LandlockRule, Machine, Memory, Net, Payload, Rng, State, Tpm, Vsock, Zone};

/// How the driver is set up.
#[derive(Debug, Clone)]
pub struct CloudHypervisorConfig {
    /// For what must survive a restart of the host; on disk.
    pub state_dir: PathBuf,
    /// For sockets and mount points; guest memory is mounted below it.
    pub run_dir: PathBuf,
    /// The jail helper and its leading arguments; it must call [`crate::jail::main`] before it has a second thread.
    pub jail_command: Vec<OsString>,
    /// KVM is the only acceleration; `Auto` wants a CPU that backs it.
    pub accel: AccelChoice,
    /// The monitor.
    pub cloud_hypervisor: PathBuf,
    /// The vTPM.
    pub swtpm: PathBuf,
    /// The hypervisor's device.
    pub kvm: PathBuf,
    /// First of 8192 user ids that nobody else on this host uses; every instance gets two.
    pub uid_base: u32,
    /// Where instances get their network from; `None`: they have none.
    pub network: Option<Arc<Network>>,
}

impl CloudHypervisorConfig {
    /// With the programs found on this host and the usual user ids.
    pub fn new(state_dir: PathBuf, run_dir: PathBuf, jail_command: Vec<OsString>) -> Self {
        Self {
            state_dir,
            run_dir,
            jail_command,
            accel: AccelChoice::Auto,
            cloud_hypervisor: host::find_program("cloud-hypervisor"),
            swtpm: host::find_program("swtpm"),
            kvm: host::KVM.into(),
            uid_base: crate::qemu::UID_BASE,
            network: None,
        }
    }
}

/// The driver. One per state directory.
#[derive(Debug)]
pub struct CloudHypervisorDriver(Machines);

crate::qemu::drives_machines!(CloudHypervisorDriver);

impl CloudHypervisorDriver {
    /// Finds out what the host can do.
    pub fn new(config: CloudHypervisorConfig) -> Result<Self, DriverError> {
        let accel_reason = host::require_kvm("Cloud Hypervisor", config.accel, &config.kvm)?;
        let setup = Setup {
            state_dir: config.state_dir,
            run_dir: config.run_dir,
            jail_command: config.jail_command,
            network: config.network,
            program: config.cloud_hypervisor,
            swtpm: Some(config.swtpm),
            cgroup: None,
            uid_base: config.uid_base,
        };
        let network = network::support(setup.network.as_deref());
        Machines::new(setup, |program| {
            let vmm = CloudHypervisor { kvm: config.kvm };
            Ok((capabilities(program, accel_reason, network)?, Kind::Api(Box::new(vmm))))
        })
        .map(Self)
    }
}

fn capabilities(program: &Path, accel_reason: String, network: Support) -> Result<Capabilities, DriverError> {
    Ok(Capabilities {
        name: "cloud-hypervisor",
        version: host::version("cloud-hypervisor", program)?,
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
            vtpm: Support::Yes,
            gpu: Support::no("devices are not handed over to this monitor yet"),
            sev_snp: Support::no("its launch measurement is not recomputed yet; hint: use the QEMU driver"),
            tdx: Support::no("the stock monitor is built without it"),
            network,
            pause: Support::no("the evidence of a machine that stood still is not made"),
            snapshot: Support::no("a copy of guest memory would outlive its wipe"),
            hot_plug: Support::no("Landlock closes every path that the machine did not start with"),
            placement: Support::no("its memory is its own, and is not placed yet"),
        },
    })
}

#[derive(Debug)]
struct CloudHypervisor {
    kvm: PathBuf,
}

impl CloudHypervisor {
    /// The API's socket is ours: the process was given it listening.
    fn client(&self, scene: &Scene<'_>) -> Client {
        let user = rustix::process::geteuid().as_raw();
        Client(Api { directory: scene.places.run.clone(), name: API, user, limit: REQUEST_LIMIT })
    }
}

impl ApiVmm for CloudHypervisor {
    fn program(&self) -> &'static str {
        "cloud-hypervisor"
    }

    fn guest_memory(&self) -> GuestMemory {
        GuestMemory::File
    }

    fn launch(&self, scene: &Scene<'_>) -> Result<Launch, DriverError> {
        let disks = scene.plan.map(|plan| plan.disks.as_slice()).unwrap_or_default();
        let mut mounts = api_vmm::mounts(scene, disks, SCRATCH, &self.kvm);
        let mount = |source: PathBuf, target: &str, access| JailMount { source, target: target.into(), access };
        mounts.push(mount(scene.places.ram(), inside::RAM, Access::ReadWrite));
        mounts.push(mount(scene.places.vtpm_socket(), inside::VTPM, Access::ReadWrite));
        // The device of the guest's random numbers reads it; it cannot be handed over open.
        mounts.push(mount(URANDOM.into(), URANDOM, Access::Device));
        Ok(Launch { args: arguments(), mounts, descriptors: vec![listen(&scene.places.run, API)?] })
    }

    fn boot(&self, scene: &Scene<'_>, plan: &Plan) -> Result<(), ApiError> {
        let client = self.client(scene);
        let ping = api_vmm::first_answer(|| scene.is_alive(), || client.ping())?;
        tracing::debug!(vmm.version = %ping.version, vmm.features = ?ping.features, "the monitor answers");
        client.create(&machine(plan))?;
        if let Some(card) = scene.card {
            client.add_net(&net(plan), card)?;
        }
        client.boot()
    }

    fn expect_running(&self, scene: &Scene<'_>) -> Result<(), ApiError> {
        match self.client(scene).info()?.state {
            State::Running => Ok(()),
            other => {
                let detail = format!("the machine is {other:?} and not Running");
                Err(ApiError::Unexpected { request: "GET /api/v1/vm.info".to_owned(), detail })
            }
        }
    }

    fn is_over(&self, scene: &Scene<'_>, _: &[u8]) -> bool {
        // After a reboot that found no kernel the process stays, with a machine that does not run.
        let info = self.client(scene).info();
        info.is_ok_and(|info| matches!(info.state, State::Created | State::Shutdown))
    }
}

fn arguments() -> Vec<String> {
    vec!["--api-socket".to_owned(), format!("fd={FIRST_FD}"), "--seccomp".to_owned(), "true".to_owned()]
}

/// What a plan is in the API's words. Pure.
fn machine(plan: &Plan) -> Machine {
    let disk =
        |serial: &str, readonly| Disk { path: inside::disk(serial), readonly, serial: serial.to_owned(), image_type: "Raw" };
    let read_only = plan.disks.iter().map(|given| disk(&given.serial, true));
    let system = plan.machine();
    Machine {
        cpus: Cpus { boot_vcpus: plan.cpus, max_vcpus: plan.cpus, nested: false },
        memory: Memory {
            size: 0,
            zones: vec![Zone {
                id: "ram",
                size: plan.memory_mib << 20,
                file: inside::RAM.to_owned(),
                shared: true,
                mergeable: false,
            }],
        },
        payload: Payload {
            kernel: inside::KERNEL.to_owned(),
            initramfs: inside::INITRD.to_owned(),
            cmdline: system.map(|system| system.command_line.clone()).unwrap_or_default(),
        },
        disks: read_only.chain([disk(SCRATCH, false)]).collect(),
        rng: Rng { src: URANDOM.to_owned() },
        // Standard output: the jail's helper keeps it in a bounded log.
        serial: Console { mode: "Tty" },
        console: Console { mode: "Off" },
        vsock: Vsock { cid: GUEST_CID, socket: format!("{}/{VSOCK}", inside::SOCKETS) },
        tpm: Some(Tpm { socket: inside::VTPM.to_owned() }),
        landlock_enable: true,
        // The monitor finds the other paths in this configuration; the vsock's directory it does not.
        landlock_rules: vec![LandlockRule { path: inside::SOCKETS.to_owned(), access: "rw" }],
    }
}

/// The descriptor goes with the request. By a name the monitor would want to give the host's side an address, too.
fn net(plan: &Plan) -> Net {
    Net { id: "eth0", mac: Mac::of(&plan.id).to_string() }
}

const URANDOM: &str = "/dev/urandom";

/// Slots of its bus, less the platform's own devices.
const MOST_DISKS: usize = 24;

/// Of the guest kernel.
const MOST_CPUS: u32 = 16;

#[cfg(test)]
mod tests;

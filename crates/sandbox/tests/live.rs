//! The promises of the driver trait with the real Firecracker and Cloud Hypervisor, on a machine that has them, and with any OCI runtime:
//!
//! ```text
//! cargo test -p casemate-sandbox --test live -- --live [firecracker] [cloud-hypervisor]
//! cargo test -p casemate-sandbox --test live -- --live runtime
//! ```
//!
//! Without `--live` there is nothing in here. With it, whatever is missing is an error: nothing is skipped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]
#![allow(dead_code, reason = "the modules serve other tests as well")]

#[path = "it/conformance.rs"]
mod conformance;
#[path = "it/network/connected.rs"]
mod connected;
#[path = "it/containers.rs"]
mod containers;
#[path = "it/guest.rs"]
mod guest;
#[path = "it/places.rs"]
mod places;
#[path = "it/network/world.rs"]
mod world;

use std::{
    fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use casemate_lifecycle::InstanceId;
use casemate_sandbox::{
    Demand, Disk, Driver, DriverError, Isolation, MachineSystem, Plan, System,
    cloud_hypervisor::{CloudHypervisorConfig, CloudHypervisorDriver},
    firecracker::{FirecrackerConfig, FirecrackerDriver},
    network::Network,
    oci::{Compatible, LayerMounts},
    qemu::AccelChoice,
};

use conformance::{MACHINE_WIPED, Subject};
use places::{JAIL, Places, tell_consoles};
use tokio::time::timeout;
use world::World;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--live") {
        eprintln!("live: nothing was run and nothing is proven; hint: docs/drivers.md says how to run it with the real monitors");
        return ExitCode::SUCCESS;
    }
    let is_wanted = |name: &str| args.iter().any(|arg| arg == name);
    let wanted: Vec<&Monitor> = MONITORS.iter().filter(|monitor| is_wanted(monitor.name)).collect();
    let wanted = if wanted.is_empty() && !is_wanted(RUNTIME) { MONITORS.iter().collect() } else { wanted };
    // All of them, also after one that failed: whoever runs this has the machine perhaps once.
    let mut failed: Vec<String> = wanted.into_iter().filter_map(|monitor| run_machines(monitor).err()).collect();
    if is_wanted(RUNTIME) {
        failed.extend(run_containers().err());
    }
    for error in &failed {
        eprintln!("live: {error}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Monitor {
    name: &'static str,
    variable: &'static str,
    command_line: &'static str,
    demands: &'static [Demand],
    wiped: &'static [(&'static str, &'static str)],
    driver: fn(&Places, PathBuf, AccelChoice, Arc<Network>) -> Made,
}

type Made = Result<Arc<dyn Driver>, DriverError>;

/// What it proves, and the proof.
type Case = (&'static str, Box<dyn Fn(Arc<Subject>) -> Pin<Box<dyn Future<Output = ()>>>>);

macro_rules! cases {
    ($($name:ident: $proves:literal),* $(,)?) => {
        vec![$(($proves, Box::new(|subject: Arc<Subject>| Box::pin(async move { conformance::$name(&subject).await })))),*]
    };
}

/// Of every driver.
fn cases() -> Vec<Case> {
    cases!(
        runs_talks_and_is_wiped: "boots in the jail, every thread confined; the guest channel works and can be opened again; wiped",
        a_second_wipe_says_the_same_until_it_is_forgotten: "a wipe can be repeated and says the same",
        tells_what_the_guest_complained_of: "the guest's last complaint is the reason of the end",
        kill_ends_a_machine_and_its_waiter: "a kill ends it",
        wipe_ends_a_running_machine: "a wipe ends a running machine",
        a_failed_preparation_leaves_nothing: "a failed preparation leaves nothing",
        dropped_futures_leave_what_wipe_cleans: "an interrupted start leaves only what a wipe cleans",
        what_is_not_supported_is_refused_before_anything_is_made: "what it has not is refused at plan time",
        unknown_instances_are_named: "unknown instances are named",
    )
}

const MONITORS: [Monitor; 2] = [
    Monitor {
        name: "firecracker",
        variable: "CASEMATE_FIRECRACKER",
        command_line: "console=ttyS0 reboot=k panic=-1 quiet",
        demands: &[],
        wiped: &[
            ("cgroup", "removed"),
            ("guest-ram", "released-by-kernel"),
            ("jail", "removed"),
            ("scratch", "crypto-erased"),
            ("vtpm", "never-existed"),
        ],
        driver: |places, program, accel, network| {
            let config = FirecrackerConfig::new(places.state.clone(), places.run.clone(), vec![JAIL.into()]);
            let (uid_base, network) = (places.uid_base, Some(network));
            Ok(Arc::new(FirecrackerDriver::new(FirecrackerConfig { accel, firecracker: program, uid_base, network, ..config })?))
        },
    },
    Monitor {
        name: "cloud-hypervisor",
        variable: "CASEMATE_CLOUD_HYPERVISOR",
        command_line: "console=ttyS0 panic=-1 quiet",
        demands: &[Demand::Vtpm],
        wiped: MACHINE_WIPED,
        driver: |places, program, accel, network| {
            let config = CloudHypervisorConfig::new(places.state.clone(), places.run.clone(), vec![JAIL.into()]);
            let (uid_base, network) = (places.uid_base, Some(network));
            let config = CloudHypervisorConfig { accel, cloud_hypervisor: program, uid_base, network, ..config };
            Ok(Arc::new(CloudHypervisorDriver::new(config)?))
        },
    },
];

fn run_machines(monitor: &Monitor) -> Result<(), String> {
    let program = file(monitor.variable, "the monitor's binary")?;
    let kernel = file("CASEMATE_GUEST_KERNEL", "an uncompressed kernel with vsock; docs/drivers.md lists what it needs")?;
    let head = fs::read(&kernel).map_err(|error| format!("read {}: {error}", kernel.display()))?;
    if !head.starts_with(b"\x7fELF") {
        return Err(format!("{} is no ELF file; hint: vmlinux, and neither bzImage nor vmlinuz", kernel.display()));
    }
    check_root()?;
    let accel = match variable("CASEMATE_ACCEL", "kvm or auto")?.as_str() {
        "kvm" => AccelChoice::Kvm,
        "auto" => AccelChoice::Auto,
        other => return Err(format!("CASEMATE_ACCEL is {other:?}; hint: kvm, or auto, which wants a CPU that backs KVM")),
    };
    let places = Places::new();
    let (world, network) = connections();
    let driver = (monitor.driver)(&places, program, accel, Arc::clone(&network));
    let driver = driver.map_err(|error| format!("{}: {}", monitor.name, chain(&error)))?;
    let subject = Arc::new(subject(monitor, &places, driver));
    let mut cases = cases();
    cases.push((
        "a connected machine reaches by its card whom it may, and nobody else",
        Box::new(move |subject| {
            let (world, network) = (Arc::clone(&world), Arc::clone(&network));
            Box::pin(async move { connected::a_connected_machine_reaches_whom_it_may(&subject, &world, &network).await })
        }),
    ));
    prove(monitor.name, &cases, &subject, &places.state)
}

/// Whichever the environment describes, as a node's configuration would.
fn run_containers() -> Result<(), String> {
    let program = file("CASEMATE_RUNTIME", "the runtime's binary")?;
    let isolation = match variable("CASEMATE_RUNTIME_LEVEL", "container or sandbox")?.as_str() {
        "container" => Isolation::Container,
        "sandbox" => Isolation::Sandbox,
        other => return Err(format!("CASEMATE_RUNTIME_LEVEL is {other:?}; hint: container or sandbox")),
    };
    let arguments = std::env::var("CASEMATE_RUNTIME_ARGUMENTS").unwrap_or_default();
    let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
    check_root()?;
    let described = Compatible { name: RUNTIME.to_owned(), program, isolation, connected: arguments.clone(), arguments };
    let bench = containers::bench(described.runtime()?, LayerMounts::Files);
    prove(RUNTIME, &cases(), &bench.subject, &bench.places.state)
}

/// In namespaces of their own; the machine's network is not touched.
fn connections() -> (Arc<World>, Arc<Network>) {
    let world = World::new();
    let network = Arc::new(world.network());
    (Arc::new(world), network)
}

fn check_root() -> Result<(), String> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err("it is not run as root; hint: jails, cgroups and mounts are made".to_owned()),
    }
}

fn prove(name: &str, cases: &[Case], subject: &Arc<Subject>, state: &Path) -> Result<(), String> {
    let capabilities = subject.driver.capabilities();
    println!("{name}: {} (SHA-256 {})", capabilities.version, hex::encode(capabilities.digest));
    println!("  acceleration: {}", capabilities.accel_reason);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut failed = 0;
    for (proves, case) in cases {
        // A failed case panics, with its message; the next one shall begin on a clean host.
        let proof = AssertUnwindSafe(|| runtime.block_on(async { timeout(CASE_LIMIT, case(Arc::clone(subject))).await }));
        let outcome = std::panic::catch_unwind(proof);
        if let Ok(Ok(())) = outcome {
            println!("  proven: {proves}");
        } else {
            failed += 1;
            let late = if outcome.is_ok() { ", as it came to no end" } else { "" };
            println!("  NOT PROVEN{late}: {proves}");
            tell_consoles(state);
        }
        runtime.block_on(clean(&*subject.driver));
    }
    match failed {
        0 => Ok(()),
        failed => Err(format!("{name}: {failed} of {} cases failed", cases.len())),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn file(name: &str, what: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(variable(name, what)?);
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(_) => Err(format!("{name}: {} is no file; hint: it names {what}", path.display())),
        Err(error) => Err(format!("{name}: {}: {error}; hint: it names {what}", path.display())),
    }
}

fn variable(name: &str, what: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set; hint: it names {what}"))
}

fn subject(monitor: &Monitor, places: &Places, driver: Arc<dyn Driver>) -> Subject {
    let root = places.directory.path().join("root.img");
    fs::write(&root, vec![b'r'; 8192]).unwrap();
    let (line, demands, checked) = (monitor.command_line, monitor.demands, places.clone());
    Subject {
        driver,
        plan: Box::new(move |id: &InstanceId| Plan {
            id: id.clone(),
            isolation: Isolation::Microvm,
            demands: demands.to_vec(),
            system: System::Machine(MachineSystem {
                kernel: guest::kernel(),
                initrd: guest::initrd().to_owned(),
                command_line: line.to_owned(),
            }),
            disks: vec![Disk { serial: "root".to_owned(), path: root.clone() }],
            cpus: 1,
            memory_mib: 128,
            scratch_mib: 16,
        }),
        wiped: monitor.wiped,
        nothing_left: Box::new(move || checked.assert_nothing_left()),
    }
}

/// What an OCI runtime is called here.
const RUNTIME: &str = "runtime";

/// For one case; the longest boots a few machines.
const CASE_LIMIT: Duration = Duration::from_secs(300);

async fn clean(driver: &dyn Driver) {
    for (id, _) in driver.list().await.unwrap_or_default() {
        let _ = driver.wipe(&id).await;
        let _ = driver.forget(&id).await;
    }
}

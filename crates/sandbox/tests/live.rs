//! The promises of the driver trait with the real Firecracker and Cloud Hypervisor, on a machine that has them:
//!
//! ```text
//! cargo test -p casemate-sandbox --test live -- --live [firecracker] [cloud-hypervisor]
//! ```
//!
//! Without `--live` there is nothing in here. With it, whatever is missing is an error: nothing is skipped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]
#![allow(dead_code, reason = "the modules serve other tests as well")]

#[path = "it/conformance.rs"]
mod conformance;
#[path = "it/guest.rs"]
mod guest;
#[path = "it/places.rs"]
mod places;

use std::{fs, panic::AssertUnwindSafe, path::PathBuf, pin::Pin, process::ExitCode, sync::Arc};

use casemate_lifecycle::InstanceId;
use casemate_sandbox::{
    Demand, Disk, Driver, DriverError, Isolation, MachineSystem, Plan, System,
    cloud_hypervisor::{CloudHypervisorConfig, CloudHypervisorDriver},
    firecracker::{FirecrackerConfig, FirecrackerDriver},
    qemu::AccelChoice,
};

use conformance::{MACHINE_WIPED, Subject};
use places::{JAIL, Places};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--live") {
        eprintln!("live: nothing was run and nothing is proven; hint: docs/drivers.md says how to run it with the real monitors");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&Monitor> = MONITORS.iter().filter(|monitor| args.iter().any(|arg| arg == monitor.name)).collect();
    let wanted = if wanted.is_empty() { MONITORS.iter().collect() } else { wanted };
    match wanted.into_iter().map(run).collect::<Result<Vec<()>, String>>() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("live: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Monitor {
    name: &'static str,
    variable: &'static str,
    command_line: &'static str,
    demands: &'static [Demand],
    wiped: &'static [(&'static str, &'static str)],
    driver: fn(&Places, PathBuf, AccelChoice) -> Made,
    cases: &'static [Case],
}

type Made = Result<Arc<dyn Driver>, DriverError>;

/// What it proves, and the proof.
type Case = (&'static str, fn(Arc<Subject>) -> Pin<Box<dyn Future<Output = ()>>>);

macro_rules! cases {
    ($($name:ident: $proves:literal),* $(,)?) => {
        &[$(($proves, |subject| Box::pin(async move { conformance::$name(&subject).await }))),*]
    };
}

const CASES: &[Case] = cases!(
    runs_talks_and_is_wiped: "boots in the jail, every thread confined; the guest channel works and can be opened again; wiped",
    a_second_wipe_says_the_same_until_it_is_forgotten: "a wipe can be repeated and says the same",
    tells_what_the_guest_complained_of: "the guest's last complaint is the reason of the end",
    kill_ends_a_machine_and_its_waiter: "a kill ends it",
    wipe_ends_a_running_machine: "a wipe ends a running machine",
    a_failed_preparation_leaves_nothing: "a failed preparation leaves nothing",
    dropped_futures_leave_what_wipe_cleans: "an interrupted start leaves only what a wipe cleans",
    what_is_not_supported_is_refused_before_anything_is_made: "what it has not is refused at plan time",
    unknown_instances_are_named: "unknown instances are named",
);

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
        driver: |places, program, accel| {
            let config = FirecrackerConfig::new(places.state.clone(), places.run.clone(), vec![JAIL.into()]);
            let uid_base = places.uid_base;
            Ok(Arc::new(FirecrackerDriver::new(FirecrackerConfig { accel, firecracker: program, uid_base, ..config })?))
        },
        cases: CASES,
    },
    Monitor {
        name: "cloud-hypervisor",
        variable: "CASEMATE_CLOUD_HYPERVISOR",
        command_line: "console=ttyS0 panic=-1 quiet",
        demands: &[Demand::Vtpm],
        wiped: MACHINE_WIPED,
        driver: |places, program, accel| {
            let config = CloudHypervisorConfig::new(places.state.clone(), places.run.clone(), vec![JAIL.into()]);
            let uid_base = places.uid_base;
            let config = CloudHypervisorConfig { accel, cloud_hypervisor: program, uid_base, ..config };
            Ok(Arc::new(CloudHypervisorDriver::new(config)?))
        },
        cases: CASES,
    },
];

fn run(monitor: &Monitor) -> Result<(), String> {
    let program = PathBuf::from(variable(monitor.variable, "the monitor's binary")?);
    variable("CASEMATE_GUEST_KERNEL", "an uncompressed kernel with vsock; docs/drivers.md lists what it needs")?;
    let accel = match variable("CASEMATE_ACCEL", "kvm or auto")?.as_str() {
        "kvm" => AccelChoice::Kvm,
        "auto" => AccelChoice::Auto,
        other => return Err(format!("CASEMATE_ACCEL is {other:?}; hint: kvm, or auto, which wants a CPU that backs KVM")),
    };
    let places = Places::new();
    let driver = (monitor.driver)(&places, program, accel).map_err(|error| format!("{}: {error}", monitor.name))?;
    let capabilities = driver.capabilities();
    println!("{}: {} (SHA-256 {})", monitor.name, capabilities.version, hex::encode(capabilities.digest));
    println!("  acceleration: {}", capabilities.accel_reason);
    let subject = Arc::new(subject(monitor, &places, driver));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut failed = 0;
    for (proves, case) in monitor.cases {
        // A failed case panics, with its message; the next one shall begin on a clean host.
        let proof = AssertUnwindSafe(|| runtime.block_on(case(Arc::clone(&subject))));
        match std::panic::catch_unwind(proof) {
            Ok(()) => println!("  proven: {proves}"),
            Err(_) => {
                failed += 1;
                println!("  NOT PROVEN: {proves}");
            }
        }
        runtime.block_on(clean(&*subject.driver));
    }
    match failed {
        0 => Ok(()),
        failed => Err(format!("{}: {failed} of {} cases failed", monitor.name, monitor.cases.len())),
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

async fn clean(driver: &dyn Driver) {
    for (id, _) in driver.list().await.unwrap_or_default() {
        let _ = driver.wipe(&id).await;
        let _ = driver.forget(&id).await;
    }
}

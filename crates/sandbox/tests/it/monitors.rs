//! The drivers of Firecracker and Cloud Hypervisor against a monitor that behaves as those were seen to, in the real jail. Needs
//! root and swtpm.

use std::{
    fs,
    io::Read,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use casemate_lifecycle::InstanceId;
use casemate_sandbox::{
    Demand, Disk, Driver, DriverError, ExitCause, Isolation, MachineSystem, Plan, System,
    cloud_hypervisor::{CloudHypervisorConfig, CloudHypervisorDriver},
    firecracker::{FirecrackerConfig, FirecrackerDriver},
    network::Network,
    qemu::AccelChoice,
};

use crate::{
    conformance::{self, MACHINE_WIPED, Startup, Subject, ended},
    places::{JAIL, Places, field, find},
    qemu::Bench,
};

/// Which monitor is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Monitor {
    Firecracker,
    CloudHypervisor,
}

pub(crate) const BOTH: [Monitor; 2] = [Monitor::Firecracker, Monitor::CloudHypervisor];

/// As far as the kernel of its process knows it, guest memory of Firecracker was the process's own.
const PROCESS_WIPED: &[(&str, &str)] = &[
    ("cgroup", "removed"),
    ("guest-ram", "released-by-kernel"),
    ("jail", "removed"),
    ("scratch", "crypto-erased"),
    ("vtpm", "never-existed"),
];

/// With the monitor's fault, or none for "".
fn bench(monitor: Monitor, fault: &str) -> Bench {
    bench_with(monitor, fault, None)
}

pub(crate) fn bench_with(monitor: Monitor, fault: &str, network: Option<Arc<Network>>) -> Bench {
    let places = Places::new();
    let (name, wiped) = match monitor {
        Monitor::Firecracker => ("firecracker", PROCESS_WIPED),
        Monitor::CloudHypervisor => ("cloud-hypervisor", MACHINE_WIPED),
    };
    let program = places.directory.path().join(if fault.is_empty() { name.to_owned() } else { format!("{name}.{fault}") });
    // Not by ourselves: a process of another test that is just being forked would hold the file open for writing.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_casemate-vmm-test")).arg(&program).status();
    assert!(copied.is_ok_and(|status| status.success()), "copying the played monitor failed");
    let driver = driver(monitor, &places, program, network);
    let files = files(&places);
    let checked = places.clone();
    let demands = if monitor == Monitor::Firecracker { Vec::new() } else { vec![Demand::Vtpm] };
    let subject = Subject {
        driver,
        plan: Box::new(move |id| plan(id, &files, &demands)),
        wiped,
        nothing_left: Box::new(move || checked.assert_nothing_left()),
    };
    Bench { subject, places }
}

fn driver(monitor: Monitor, places: &Places, program: PathBuf, network: Option<Arc<Network>>) -> Arc<dyn Driver> {
    let jail = vec![JAIL.into()];
    // The played monitor asks the hypervisor for nothing.
    let kvm = PathBuf::from("/dev/null");
    match monitor {
        Monitor::Firecracker => {
            let config = FirecrackerConfig::new(places.state.clone(), places.run.clone(), jail);
            let config = FirecrackerConfig {
                accel: AccelChoice::Kvm,
                firecracker: program,
                kvm,
                uid_base: places.uid_base,
                network,
                ..config
            };
            Arc::new(FirecrackerDriver::new(config).unwrap())
        }
        Monitor::CloudHypervisor => {
            let config = CloudHypervisorConfig::new(places.state.clone(), places.run.clone(), jail);
            let uid_base = places.uid_base;
            let config =
                CloudHypervisorConfig { accel: AccelChoice::Kvm, cloud_hypervisor: program, kvm, uid_base, network, ..config };
            Arc::new(CloudHypervisorDriver::new(config).unwrap())
        }
    }
}

/// Kernel, initial RAM disk, root disk.
fn files(places: &Places) -> [PathBuf; 3] {
    let place = |name: &str, bytes: &[u8]| {
        let path = places.directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    [place("kernel", b"\x7fELF and so on"), place("initrd", b"070701"), place("root.img", &[b'r'; 8192])]
}

fn plan(id: &InstanceId, [kernel, initrd, root]: &[PathBuf; 3], demands: &[Demand]) -> Plan {
    Plan {
        id: id.clone(),
        isolation: Isolation::Microvm,
        demands: demands.to_vec(),
        system: System::Machine(MachineSystem {
            kernel: kernel.clone(),
            initrd: initrd.clone(),
            command_line: "console=ttyS0 reboot=k panic=-1".to_owned(),
        }),
        disks: vec![Disk { serial: "root".to_owned(), path: root.clone() }],
        cpus: 1,
        memory_mib: 128,
        scratch_mib: 16,
    }
}

macro_rules! conforms {
    ($($name:ident),* $(,)?) => {
        mod firecracker {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::conformance::$name(&super::bench(super::Monitor::Firecracker, "").subject).await;
                }
            )*
        }

        mod cloud_hypervisor {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::conformance::$name(&super::bench(super::Monitor::CloudHypervisor, "").subject).await;
                }
            )*
        }
    };
}

conforms!(
    runs_talks_and_is_wiped,
    a_second_wipe_says_the_same_until_it_is_forgotten,
    tells_what_the_guest_complained_of,
    kill_ends_a_machine_and_its_waiter,
    wipe_ends_a_running_machine,
    a_failed_preparation_leaves_nothing,
    dropped_futures_leave_what_wipe_cleans,
    what_is_not_supported_is_refused_before_anything_is_made,
    unknown_instances_are_named,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preparation_cut_short_can_be_wiped_or_repeated() {
    conformance::a_preparation_cut_short_can_be_wiped_or_repeated(&bench(Monitor::CloudHypervisor, "").subject).await;
}

/// Starts a machine under a faulty monitor; what the driver says, with every cause. Nothing may be left of it but what a wipe takes.
async fn refusal(monitor: Monitor, fault: &str) -> String {
    let bench = bench(monitor, fault);
    let plan = bench.subject.new_plan();
    let driver = &*bench.subject.driver;
    driver.prepare(&plan, &Startup).await.unwrap();
    let refused = match driver.start(&plan).await {
        Ok(started) => panic!("{monitor:?} {fault}: {started:?}"),
        Err(DriverError::Process { program, detail }) => format!("{program}: {detail}"),
        Err(other) => panic!("{monitor:?} {fault}: {other:?}"),
    };
    assert!(!bench.has_vmm(), "{monitor:?} {fault}: a monitor that failed does not stay");
    bench.end(&plan).await;
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_that_ends_too_early_is_told_with_its_last_words() {
    for monitor in BOTH {
        let words = if monitor == Monitor::Firecracker { "Failed to open the API socket" } else { "/dev/kvm: Permission denied" };
        let refused = refusal(monitor, "dies").await;
        assert!(refused.contains(words), "{refused}");
        let refused = refusal(monitor, "dies-with-0").await;
        assert!(
            refused.contains("said nothing") || refused.contains("connect for"),
            "an exit code of 0 is no success: {refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_configuration_is_told_in_the_monitors_words() {
    let refused = refusal(Monitor::Firecracker, "refuses-start").await;
    assert!(refused.contains("firecracker: PUT /actions was answered with 400: Internal error"), "{refused}");
    assert!(refused.contains("Cannot create KVM context; hint: /dev/kvm must open"), "{refused}");
    let refused = refusal(Monitor::CloudHypervisor, "refuses-start").await;
    let expected = "vm.boot was answered with 500: The VM could not boot: Cannot create a VM: Permission denied; hint:";
    assert!(refused.contains(expected), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_that_cannot_boot_is_refused_at_the_start() {
    for monitor in BOTH {
        let bench = bench(monitor, "");
        let mut plan = bench.subject.new_plan();
        let System::Machine(machine) = &mut plan.system else { unreachable!("it was made as one") };
        machine.kernel = machine.initrd.clone();
        bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
        let refused = bench.subject.driver.start(&plan).await.unwrap_err().to_string();
        assert!(refused.contains("Invalid Elf magic number"), "{refused}");
        assert!(!refused.contains("backtrace"), "{refused}");
        bench.end(&plan).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn success_in_words_alone_is_none() {
    for monitor in BOTH {
        let refused = refusal(monitor, "started-in-words").await;
        assert!(refused.contains("and not Running"), "{refused}");
        let refused = refusal(monitor, "other-config").await;
        let place = if monitor == Monitor::Firecracker { "boot-source boot_args" } else { "payload cmdline" };
        assert!(refused.contains(&format!("did not take {place} as asked")), "{refused}");
        let refused = refusal(monitor, "unknown-state").await;
        assert!(refused.contains("unknown variant"), "{refused}");
        let refused = refusal(monitor, "half-answer").await;
        assert!(refused.contains("no whole answer"), "{refused}");
    }
    let refused = refusal(Monitor::Firecracker, "other-id").await;
    assert!(refused.contains("somebody"), "{refused}");
}

/// The answer comes, and then the process goes: the start fails, or the end is told as the monitor's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_dies_after_its_start_is_no_orderly_end() {
    for monitor in BOTH {
        let bench = bench(monitor, "started-and-gone");
        let plan = bench.subject.new_plan();
        bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
        assert!(bench.subject.driver.start(&plan).await.is_err());
        let exit = ended(&*bench.subject.driver, &plan.id).await;
        assert!(matches!(exit.cause, ExitCause::Vmm(_)), "{exit:?}");
        bench.end(&plan).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_start_and_a_late_guest_are_waited_for() {
    for (monitor, fault) in [
        (Monitor::Firecracker, "slow-start"),
        (Monitor::CloudHypervisor, "slow-start"),
        (Monitor::Firecracker, "late-guest"),
        (Monitor::CloudHypervisor, "late-guest"),
    ] {
        let bench = bench(monitor, fault);
        let (plan, mut line) = bench.started(|_| {}).await;
        assert_eq!(line.ask("echo here").await, "here", "{monitor:?} {fault}");
        bench.end(&plan).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_code_of_0_is_no_orderly_end() {
    for monitor in BOTH {
        let cause = async |command: &str| {
            let bench = bench(monitor, "");
            let (plan, mut line) = bench.started(|_| {}).await;
            line.tell(command).await;
            let exit = ended(&*bench.subject.driver, &plan.id).await;
            assert!(!bench.has_vmm(), "{monitor:?} {command}: an ended machine has no monitor");
            bench.end(&plan).await;
            exit.cause
        };
        let crash = cause("crash").await;
        assert!(matches!(&crash, ExitCause::Vmm(detail) if detail.contains("the hypervisor gave up")), "{monitor:?} {crash:?}");
        let panic = cause("panic").await;
        assert!(matches!(&panic, ExitCause::Panic(text) if text.contains("kill init")), "{monitor:?} {panic:?}");
    }
}

/// A reboot within the monitor's process would run a guest again that was measured once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_boots_once() {
    for monitor in BOTH {
        let bench = bench(monitor, "");
        let (plan, mut line) = bench.started(|_| {}).await;
        line.tell("reboot").await;
        let exit = ended(&*bench.subject.driver, &plan.id).await;
        assert_eq!(exit.console_tail.matches("init runs").count(), 1, "{exit:?}");
        bench.end(&plan).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_cannot_lead_its_host_to_another_socket() {
    for monitor in BOTH {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        let listener = UnixListener::bind(&victim).unwrap();
        listener.set_nonblocking(true).unwrap();
        let fault = format!("link-to-{}", victim.to_str().unwrap().replace('/', "~"));
        let bench = bench(monitor, &fault);
        let plan = bench.subject.new_plan();
        bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
        let started = bench.subject.driver.start(&plan).await.unwrap();
        let [sockets] = &find(&bench.places.run, "sockets", 4)[..] else { panic!("there is one such directory") };
        let link = sockets.join("vsock");
        if started.vmm.landlock.is_some_and(|version| version > 0) {
            assert!(!link.is_symlink(), "Landlock refuses it a link");
            // As it can on a kernel without.
            std::os::unix::fs::symlink(&victim, &link).unwrap();
        }
        assert!(link.is_symlink());
        let refused = bench.subject.driver.connect(&plan.id).await.err().expect("the link is not followed");
        let cause = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
        assert!(cause.contains("is not a socket of user"), "{refused}: {cause}");
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody came");
        bench.end(&plan).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_garbled_acknowledgement_is_no_channel() {
    let bench = bench(Monitor::Firecracker, "garbled-vsock");
    let plan = bench.subject.new_plan();
    bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
    bench.subject.driver.start(&plan).await.unwrap();
    assert!(bench.subject.driver.connect(&plan.id).await.is_err());
    bench.end(&plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_its_user_cannot_read_is_refused_before_anything_is_made() {
    use std::os::unix::fs::PermissionsExt;
    for monitor in BOTH {
        let bench = bench(monitor, "");
        let plan = bench.subject.new_plan();
        fs::set_permissions(&plan.disks[0].path, fs::Permissions::from_mode(0o600)).unwrap();
        let refused = bench.subject.driver.prepare(&plan, &Startup).await;
        assert!(matches!(&refused, Err(DriverError::Unsupported { reason, .. }) if reason.contains("hint:")), "{refused:?}");
        assert_eq!(bench.subject.driver.list().await.unwrap(), []);
        bench.places.assert_nothing_left();
    }
}

/// Waits until the monitor hangs at the moment, and gives its process.
async fn hanging(bench: &Bench, id: &InstanceId, moment: &str) -> i32 {
    let log = bench.places.state.join("instances").join(id.as_str()).join("console.log");
    let word = format!("HANGS at {moment}");
    for _ in 0..6000 {
        if fs::read_to_string(&log).is_ok_and(|text| text.contains(&word)) {
            return bench.vmm().0;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the monitor does not come to {moment}");
}

/// Killed before it answers, while it is configured, at the boot: the start fails at once, and a wipe leaves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_killed_in_any_state_fails_the_start() {
    let moments = [
        (Monitor::Firecracker, ["start", "machine-config", "boot-source", "drives", "vsock", "actions"].as_slice()),
        (Monitor::CloudHypervisor, ["start", "vmm.ping", "vm.create", "vm.info", "vm.boot"].as_slice()),
    ];
    for (monitor, moment) in moments.iter().flat_map(|(monitor, all)| all.iter().map(|moment| (*monitor, *moment))) {
        let bench = bench(monitor, &format!("hang-{moment}"));
        let plan = bench.subject.new_plan();
        let driver = Arc::clone(&bench.subject.driver);
        driver.prepare(&plan, &Startup).await.unwrap();
        let starting = tokio::spawn({
            let (driver, plan) = (Arc::clone(&driver), plan.clone());
            async move { driver.start(&plan).await.map(drop) }
        });
        let pid = hanging(&bench, &plan.id, moment).await;
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        let started = starting.await.unwrap();
        assert!(matches!(&started, Err(DriverError::Process { .. })), "{monitor:?} {moment}: {started:?}");
        assert!(driver.start(&plan).await.is_err(), "what failed does not start again");
        bench.end(&plan).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jail_shows_what_the_machine_needs_and_no_more() {
    for monitor in BOTH {
        let bench = bench(monitor, "");
        let (plan, _line) = bench.started(|_| {}).await;
        let (pid, status) = bench.vmm();
        assert_eq!(field(&status, "CapBnd"), "0000000000000000");
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            assert_eq!(field(&status, "Seccomp"), "2", "{status}");
        }
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let mut inside = names(&root.join("vm"));
        inside.sort();
        let expected = match monitor {
            Monitor::Firecracker => vec!["disk-root", "disk-scratch", "initrd", "kernel", "sockets"],
            Monitor::CloudHypervisor => vec!["disk-root", "disk-scratch", "initrd", "kernel", "ram", "sockets", "vtpm"],
        };
        assert_eq!(inside, expected);
        let devices = names(&root.join("dev"));
        let expected = if monitor == Monitor::Firecracker { vec!["kvm"] } else { vec!["kvm", "urandom"] };
        assert_eq!(devices, expected);
        let mut kernel = Vec::new();
        fs::File::open(root.join("vm/kernel")).unwrap().read_to_end(&mut kernel).unwrap();
        assert_eq!(kernel, b"", "the staged kernel is empty for a second boot");
        assert!(fs::write(root.join("vm/disk-root"), "x").is_err(), "even root cannot write to the read-only disk there");
        assert!(fs::write(root.join("new"), "").is_err(), "the root is read-only");
        bench.end(&plan).await;
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

//! The driver for OCI runtimes, with each runtime that it knows; how one gets in is tried from the inside.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use casemate_lifecycle::InstanceId;
use casemate_sandbox::{
    ContainerSystem, Driver, DriverError, ExitCause, Isolation, LayerFile, Plan, Presence, System,
    oci::{Compatible, LayerMounts, Runtime},
};

use crate::{
    conformance::{self, Startup, ended, new_id},
    containers::{Places, bench, init},
    guest::Line,
    places::JAIL,
};

macro_rules! conforms {
    ($($module:ident: $runtime:expr, $mounts:expr;)*) => {
        $(
            mod $module {
                use super::*;

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn conforms() {
                    let subject = &bench($runtime, $mounts).subject;
                    conformance::runs_talks_and_is_wiped(subject).await;
                    conformance::a_second_wipe_says_the_same_until_it_is_forgotten(subject).await;
                    conformance::tells_what_the_guest_complained_of(subject).await;
                    conformance::kill_ends_a_machine_and_its_waiter(subject).await;
                    conformance::wipe_ends_a_running_machine(subject).await;
                    conformance::a_failed_preparation_leaves_nothing(subject).await;
                    conformance::dropped_futures_leave_what_wipe_cleans(subject).await;
                    conformance::unknown_instances_are_named(subject).await;
                    conformance::what_is_not_supported_is_refused_before_anything_is_made(subject).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sees_its_image_and_nothing_of_the_host() {
                    super::sees_its_image_and_nothing_of_the_host($runtime, $mounts).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn an_agent_killed_at_any_moment_leaves_what_the_next_one_wipes() {
                    super::an_agent_killed_at_any_moment_leaves_what_the_next_one_wipes($runtime, $mounts).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn whatever_is_killed_during_a_start_nothing_is_left() {
                    super::whatever_is_killed_during_a_start_nothing_is_left($runtime, $mounts).await;
                }
            }
        )*
    };
}

conforms! {
    runc: Runtime::Runc, LayerMounts::Files;
    crun: Runtime::Crun, LayerMounts::Files;
    crun_on_loop_devices: Runtime::Crun, LayerMounts::LoopDevices;
    runsc: Runtime::Runsc, LayerMounts::Files;
}

/// A program by a path and a name that nobody knows, told what its configuration says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_the_configuration_describes_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("quark");
    fs::copy(Runtime::Crun.find(), &program).unwrap();
    let arguments = vec!["--cgroup-manager".to_owned(), "disabled".to_owned()];
    let told = Compatible {
        name: "quark".to_owned(),
        program,
        isolation: Isolation::Container,
        connected: arguments.clone(),
        arguments,
    };
    let subject = &bench(told.clone().runtime().unwrap(), LayerMounts::Files).subject;
    assert_eq!(subject.driver.capabilities().name, "quark");
    assert!(subject.driver.capabilities().version.starts_with("crun version"), "{}", subject.driver.capabilities().version);
    conformance::runs_talks_and_is_wiped(subject).await;
    conformance::tells_what_the_guest_complained_of(subject).await;
    conformance::kill_ends_a_machine_and_its_waiter(subject).await;
    conformance::wipe_ends_a_running_machine(subject).await;
    conformance::a_failed_preparation_leaves_nothing(subject).await;
    // It is told just that: what it does not know, it refuses, and by the name that it was given.
    let untold = Compatible { name: "untold".to_owned(), arguments: vec!["--no-such-option".to_owned()], ..told };
    let bench = bench(untold.runtime().unwrap(), LayerMounts::Files);
    let plan = bench.subject.new_plan();
    bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
    let refused = bench.subject.driver.start(&plan).await.unwrap_err().to_string();
    assert!(refused.contains("untold"), "{refused}");
    bench.end(&plan).await;
}

async fn sees_its_image_and_nothing_of_the_host(runtime: Runtime, mounts: LayerMounts) {
    let bench = bench(runtime, mounts);
    let (plan, mut line) = bench.started().await;
    assert_eq!(line.ask("cat /etc/hello").await, "from the lower layer");
    assert_eq!(line.ask("cat /etc/upper").await, "from the upper layer");
    assert_eq!(line.ask("cat /casemate/disks/nothing").await, "errno 2");
    assert_eq!(line.ask("try open /casemate/disks/asset0").await, "done");
    for own in ["/casemate/disks/asset0", "/casemate/init"] {
        let answer = line.ask(&format!("try write {own}")).await;
        assert!(["errno 13", "errno 30"].contains(&answer.as_str()), "{own}: {answer}");
    }
    // What process 1 makes is what the workload sees, and it cannot be changed there.
    assert_eq!(line.ask("fill /casemate/shared/asset0 4").await, "done");
    assert!(line.ask("cat /data/asset").await.starts_with("mmmm"));
    assert_eq!(line.ask("try write /data/asset").await, "errno 30");
    // The image's link leads into the image.
    assert_eq!(line.ask("fill /casemate/shared/output/made 4").await, "done");
    assert!(line.ask("cat /etc/casemate-out/made").await.starts_with("mmmm"));
    assert!(!Path::new("/etc/casemate-out").exists());
    assert_eq!(line.ask("fill /etc/new 64").await, "done", "the image can be changed, on scratch");
    assert_eq!(line.ask("fill /tmp/mine 64").await, "done");
    assert_eq!(line.ask("fill /dev/shm/mine 64").await, "done");
    // Scratch is bounded.
    assert_eq!(line.ask("fill /tmp/large 32768").await, format!("errno {}", libc::ENOSPC));
    for attempt in ["/root", "/home", "/etc/shadow", "/proc/1/root/etc/shadow", "/dev/sda", "/dev/vda", "/dev/kvm", "/dev/mem"] {
        let answer = line.ask(&format!("try open {attempt}")).await;
        assert!(answer.starts_with("errno"), "{attempt}: {answer}");
    }
    let evidence = bench.subject.driver.wipe(&plan.id).await.unwrap();
    assert!(evidence.items["scratch"].bytes >= 200 << 10, "{evidence:?}");
    bench.end(&plan).await;
}

/// The kernel of the host answers these; runsc's own kernel has other answers, which its own tests judge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_out_of_a_container_is_closed() {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let bench = bench(runtime, LayerMounts::Files);
        // Enough for the processes that it will try to have.
        let plan = Plan { memory_mib: 2048, ..bench.subject.new_plan() };
        bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
        bench.subject.driver.start(&plan).await.unwrap();
        let mut line = Line::connect(&*bench.subject.driver, &plan.id).await;
        let attempts = [
            "mount",
            "umount",
            "unshare-user",
            "unshare-mount",
            "setns",
            "chroot",
            "pivot-root",
            "mknod",
            "ptrace",
            "bpf",
            "keyctl",
            "io-uring",
            "userfaultfd",
            "perf",
            "kexec",
            "module",
            "handle",
            "packet",
            "vsock",
            "hostname",
        ];
        for attempt in attempts {
            assert_eq!(
                line.ask(&format!("try {attempt}")).await,
                format!("errno {}", libc::EPERM),
                "{attempt} under {}",
                runtime.name()
            );
        }
        for file in ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper", "/proc/1/mem"] {
            assert!(line.ask(&format!("try write {file}")).await.starts_with("errno"), "{file}");
        }
        assert_eq!(line.ask("cat /proc/sys/kernel/hostname").await, plan.id.as_str());
        assert_eq!(line.ask("try kill-up").await, format!("errno {}", libc::ESRCH), "it sees no process but its own");
        let made: u32 = line.ask("children 6000").await.parse().unwrap();
        assert!(made < 4096, "{made} processes");
        bench.end(&plan).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_have_users_of_their_own_and_ends_are_told_apart() {
    let bench = bench(Runtime::Crun, LayerMounts::Files);
    let (one, mut first) = bench.started().await;
    let (other, mut second) = bench.started().await;
    let jail = async |plan: &Plan| bench.subject.driver.start(plan).await.unwrap().jail;
    let (a, b) = (jail(&one).await.uid, jail(&other).await.uid);
    assert!(a.abs_diff(b) >= 65_536, "{a} {b}");
    first.tell("exit 3").await;
    assert_eq!(ended(&*bench.subject.driver, &one.id).await.cause, ExitCause::Vmm("exit code 3".to_owned()));
    assert_eq!(second.ask("echo still").await, "still");
    for plan in [&one, &other] {
        bench.subject.driver.wipe(&plan.id).await.unwrap();
        bench.subject.driver.forget(&plan.id).await.unwrap();
    }
    bench.places.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_plans_are_refused_and_leave_nothing() {
    let bench = bench(Runtime::Crun, LayerMounts::Files);
    let refused = async |change: fn(&mut ContainerSystem)| {
        let mut plan = bench.subject.new_plan();
        if let System::Container(container) = &mut plan.system {
            change(container);
        }
        let answer = bench.subject.driver.prepare(&plan, &Startup).await;
        assert!(answer.is_err(), "{answer:?}");
        bench.places.assert_nothing_left();
    };
    refused(|container| container.shared[0].path = "/data/../../../etc/passwd".to_owned()).await;
    refused(|container| container.shared[0].path = "/proc/self/exe".to_owned()).await;
    refused(|container| container.shared[0].path = "/casemate/init".to_owned()).await;
    refused(|container| container.shared[0].name = "../../record.json".to_owned()).await;
    refused(|container| container.layers = vec![LayerFile { path: "/dev/zero".into() }]).await;
    refused(|container| container.layers = vec![LayerFile { path: "/".into() }; 128]).await;
    refused(|container| container.init = "/proc/self/exe".into()).await;
    refused(|container| container.init = "/etc/shadow".into()).await;
    // Something that is no file system is found when it is mounted.
    let mut plan = bench.subject.new_plan();
    if let System::Container(container) = &mut plan.system {
        container.layers = vec![LayerFile { path: init().to_owned() }];
    }
    bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
    let answer = bench.subject.driver.start(&plan).await;
    let told = matches!(&answer, Err(DriverError::Process { detail, .. }) if detail.contains("mount the layer"));
    assert!(told, "{answer:?}");
    bench.end(&plan).await;
}

/// More than a node of this size should have, and each with users, mounts, groups and processes of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once_answer_and_leave_nothing() {
    for mounts in [LayerMounts::Files, LayerMounts::LoopDevices] {
        fifty_at_once(mounts).await;
    }
}

async fn fifty_at_once(mounts: LayerMounts) {
    let bench = bench(Runtime::Crun, mounts);
    let plans: Vec<Plan> = (0..50).map(|_| Plan { memory_mib: 64, scratch_mib: 16, ..bench.subject.new_plan() }).collect();
    let start = |plan: &Plan| {
        let (driver, plan) = (Arc::clone(&bench.subject.driver), plan.clone());
        tokio::spawn(async move {
            driver.prepare(&plan, &Startup).await.unwrap();
            let users = driver.start(&plan).await.unwrap().jail.uid;
            let mut line = Line::connect(&*driver, &plan.id).await;
            assert_eq!(line.ask("cat /etc/hello").await, "from the lower layer");
            (users, line)
        })
    };
    let starting: Vec<_> = plans.iter().map(start).collect();
    let (mut users, mut lines) = (Vec::new(), Vec::new());
    for started in starting {
        let (user, line) = started.await.unwrap();
        users.push(user);
        lines.push(line);
    }
    users.sort_unstable();
    assert!(users.windows(2).all(|pair| pair[1] - pair[0] >= 65_536), "{users:?}");
    let running = bench.subject.driver.list().await.unwrap();
    assert_eq!(running.iter().filter(|(_, presence)| *presence == Presence::Running).count(), 50);
    for (plan, line) in plans.iter().zip(&mut lines) {
        assert_eq!(line.ask("cat /proc/sys/kernel/hostname").await, plan.id.as_str());
    }
    let end = |plan: &Plan| {
        let (driver, id) = (Arc::clone(&bench.subject.driver), plan.id.clone());
        tokio::spawn(async move {
            let evidence = driver.wipe(&id).await.unwrap();
            assert!(evidence.items.values().all(|item| item.verified), "{evidence:?}");
            driver.forget(&id).await.unwrap();
        })
    };
    for ended in plans.iter().map(end).collect::<Vec<_>>() {
        ended.await.unwrap();
    }
    bench.places.assert_nothing_left();
}

struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent of its own process that starts a container.
fn holder(places: &Places, id: &InstanceId) -> (Holder, BufReader<std::process::ChildStderr>) {
    let mut child = Command::new(JAIL)
        .arg("hold-container")
        .args([&places.state, &places.run, init(), places.layers()[0].path.as_path()])
        .args([places.uid_base.to_string(), id.to_string(), places.runtime.name().to_owned()])
        .arg(if places.mounts == LayerMounts::Files { "files" } else { "loop-devices" })
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stderr.take().unwrap());
    (Holder(child), output)
}

async fn an_agent_killed_at_any_moment_leaves_what_the_next_one_wipes(runtime: Runtime, mounts: LayerMounts) {
    for delay_ms in [0, 5, 15, 30, 60, 120, 250, 500, 1000] {
        let places = Places::new(runtime, mounts);
        let id = new_id();
        let (holder, mut output) = holder(&places, &id);
        let mut seen = String::new();
        while !seen.contains("begins") {
            assert_ne!(output.read_line(&mut seen).unwrap(), 0, "the holder ended: {seen}");
        }
        // The moment is what the test is about.
        std::thread::sleep(Duration::from_millis(delay_ms));
        drop(holder);
        let driver = places.driver();
        driver.wipe(&id).await.unwrap();
        driver.forget(&id).await.unwrap();
        assert_eq!(driver.list().await.unwrap(), []);
        places.assert_nothing_left();
    }
}

/// Keeper, runtime or container: the first that is found after a while is killed.
async fn whatever_is_killed_during_a_start_nothing_is_left(runtime: Runtime, mounts: LayerMounts) {
    let bench = bench(runtime, mounts);
    for delay_ms in [0, 10, 30, 60, 100, 200, 400] {
        let plan = bench.subject.new_plan();
        bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
        let starting = tokio::spawn({
            let (driver, plan) = (Arc::clone(&bench.subject.driver), plan.clone());
            async move { driver.start(&plan).await }
        });
        let found = loop {
            if let Some(pid) = bench.places.processes().last().copied() {
                break pid;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        let victim = bench.places.processes().last().copied().unwrap_or(found);
        if let Some(pid) = rustix::process::Pid::from_raw(victim) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        // It may have run already; in no case may anything stay.
        let _ = starting.await.unwrap();
        bench.end(&plan).await;
    }
}

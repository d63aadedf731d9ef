//! Real machines. Needs root, QEMU, swtpm, a C compiler and the guest kernel.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use casemate_lifecycle::InstanceId;
use casemate_sandbox::{
    CpuRange, Demand, Disk, Driver, DriverError, ExitCause, Isolation, MachineSystem, Placement, Plan, Presence, System,
    VtpmProvisioner,
    network::Network,
    qemu::{AccelChoice, QemuConfig, QemuDriver},
};
use sha2::{Digest, Sha256};

use crate::{
    conformance::{self, Startup, Subject, ended, new_id},
    guest::{self, Line},
    places::{JAIL, Places, field, tell_consoles},
};

/// A host's share of one test; what is left on it when the test fails is cleaned up.
pub(crate) struct Bench {
    pub(crate) subject: Subject,
    pub(crate) places: Places,
}

impl Places {
    fn driver(&self) -> QemuDriver {
        self.driver_with(None)
    }

    pub(crate) fn driver_with(&self, network: Option<Arc<Network>>) -> QemuDriver {
        let config = QemuConfig {
            network,
            accel: AccelChoice::Tcg,
            uid_base: self.uid_base,
            ..QemuConfig::new(self.state.clone(), self.run.clone(), vec![JAIL.into()])
        };
        QemuDriver::new(config).unwrap()
    }

    fn ram(&self, id: &InstanceId) -> PathBuf {
        self.run.join("ram").join(id.as_str()).join("ram")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tell_consoles(&self.places.state);
        }
        let driver = Arc::clone(&self.subject.driver);
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                for (id, _) in driver.list().await.unwrap_or_default() {
                    let _ = driver.wipe(&id).await;
                }
            });
        });
        let _ = cleaning.join();
    }
}

pub(crate) fn bench() -> Bench {
    bench_with(None)
}

pub(crate) fn bench_with(network: Option<Arc<Network>>) -> Bench {
    let places = Places::new();
    let driver = places.driver_with(network);
    let khz = driver.capabilities().tsc_khz.unwrap();
    let (root, checked) = (root_disk(&places), places.clone());
    let subject = Subject {
        driver: Arc::new(driver),
        plan: Box::new(move |id| plan(id, khz, &root)),
        wiped: conformance::MACHINE_WIPED,
        nothing_left: Box::new(move || checked.assert_nothing_left()),
    };
    Bench { subject, places }
}

pub(crate) fn plan(id: &InstanceId, tsc_khz: u64, root: &Path) -> Plan {
    Plan {
        id: id.clone(),
        isolation: Isolation::Microvm,
        demands: vec![Demand::Vtpm],
        system: System::Machine(MachineSystem {
            kernel: guest::kernel(),
            initrd: guest::initrd().to_owned(),
            command_line: format!(
                "console=ttyS0 reboot=t panic=-1 quiet no_timer_check tsc_early_khz={tsc_khz} tsc=reliable \
                 tpm_tis.force=1 tpm_tis.interrupts=0"
            ),
        }),
        disks: vec![Disk { serial: "root".to_owned(), path: root.to_owned() }],
        cpus: 1,
        memory_mib: 128,
        scratch_mib: 16,
    }
}

pub(crate) fn root_disk(places: &Places) -> PathBuf {
    let path = places.directory.path().join("root.img");
    fs::write(&path, vec![b'r'; 8192]).unwrap();
    path
}

impl Bench {
    pub(crate) async fn started(&self, change: impl FnOnce(&mut Plan)) -> (Plan, Line) {
        let mut plan = self.subject.new_plan();
        change(&mut plan);
        self.subject.driver.prepare(&plan, &Startup).await.unwrap();
        self.subject.driver.start(&plan).await.unwrap();
        let line = Line::connect(&*self.subject.driver, &plan.id).await;
        (plan, line)
    }

    pub(crate) async fn end(&self, plan: &Plan) {
        let evidence = self.subject.driver.wipe(&plan.id).await.unwrap();
        assert!(evidence.items.values().all(|item| item.verified), "{evidence:?}");
        self.subject.driver.forget(&plan.id).await.unwrap();
        self.places.assert_nothing_left();
    }

    /// The status of the VMM's first thread.
    pub(crate) fn vmm(&self) -> (i32, String) {
        let status = self.find_vmm().expect("the VMM runs");
        (field(&status, "Pid").parse().unwrap(), status)
    }

    /// The vTPM's process.
    /// The vTPM of the running machine: the one that made its TPM may have ended and not be reaped yet.
    pub(crate) fn vtpm(&self) -> i32 {
        let serves = |status: &String| field(status, "Name") == "swtpm" && !field(status, "State").starts_with('Z');
        let found = self.places.processes().into_iter().find(serves);
        field(&found.expect("the vTPM runs"), "Pid").parse().unwrap()
    }

    pub(crate) fn has_vmm(&self) -> bool {
        self.find_vmm().is_some()
    }

    fn find_vmm(&self) -> Option<String> {
        let lives = |status: &String| field(status, "NSpid").ends_with("\t1") && !field(status, "State").starts_with('Z');
        self.places.processes().into_iter().find(lives)
    }
}

macro_rules! conforms {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench = bench();
                conformance::$name(&bench.subject).await;
            }
        )*
    };
}

conforms!(
    runs_talks_and_is_wiped,
    a_second_wipe_says_the_same_until_it_is_forgotten,
    tells_what_the_guest_complained_of,
    kill_ends_a_machine_and_its_waiter,
    wipe_ends_a_running_machine,
    a_failed_preparation_leaves_nothing,
    a_preparation_cut_short_can_be_wiped_or_repeated,
    dropped_futures_leave_what_wipe_cleans,
    unknown_instances_are_named,
    what_is_not_supported_is_refused_before_anything_is_made,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guest_memory_is_overwritten_and_proven_so() {
    let bench = bench();
    let (plan, mut line) = bench.started(|_| {}).await;
    assert_eq!(line.ask("mark 48 proof-of-the-wipe").await, "marked");
    bench.subject.driver.kill(&plan.id).await.unwrap();
    let ram = File::open(bench.places.ram(&plan.id)).unwrap();
    let marker: Vec<u8> = b"proof-of-the-wip".iter().map(|byte| byte | 0x80).collect();
    assert!(count(&ram, &marker) >= (48 << 20) / 16, "the dead machine's memory is full of the marker");
    let evidence = bench.subject.driver.wipe(&plan.id).await.unwrap();
    let item = &evidence.items["guest-ram"];
    assert!(item.method == "overwritten" && item.verified && item.bytes >= 48 << 20, "{item:?}");
    // The descriptor still reaches the very pages that the guest had.
    assert_eq!(count(&ram, &marker), 0);
    assert!(all_zero(&ram));
    bench.subject.driver.forget(&plan.id).await.unwrap();
    bench.places.assert_nothing_left();
}

fn count(file: &File, marker: &[u8]) -> usize {
    pages(file).map(|page| page.chunks(16).filter(|chunk| *chunk == marker).count()).sum()
}

fn all_zero(file: &File) -> bool {
    pages(file).all(|page| page.iter().all(|byte| *byte == 0))
}

fn pages(file: &File) -> impl Iterator<Item = Vec<u8>> {
    let length = file.metadata().unwrap().len();
    (0..length).step_by(1 << 20).map(|offset| {
        let mut page = vec![0; 1 << 20];
        file.read_exact_at(&mut page, offset).unwrap();
        page
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jail_holds_little_and_gives_nothing_away() {
    let bench = bench();
    let (plan, mut line) = bench.started(|_| {}).await;
    let (pid, status) = bench.vmm();
    assert_eq!(field(&status, "CapBnd"), "0000000000000000");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert!(limits.lines().any(|limit| limit.starts_with("Max core file size") && limit.split_whitespace().nth(4) == Some("1")));
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/coredump_filter")).unwrap().trim(), "00000000");
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"", "no environment");
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!arguments.contains(bench.places.directory.path().to_str().unwrap()), "no host paths in argv: {arguments}");
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let mut names: Vec<String> =
        fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !["usr", "lib", "lib64", "etc", "vm"].contains(&name.as_str()));
    assert_eq!(names, Vec::<String>::new());
    assert!(fs::write(root.join("new"), "").is_err(), "the root is read-only");
    assert!(fs::write(root.join("vm/kernel"), "").is_err(), "even root cannot write to the kernel there");
    assert_eq!(line.ask("echo on").await, "on");
    assert!(!fs::exists(bench.places.ram(&plan.id).with_file_name("kernel")).unwrap(), "the staged kernel is gone");
    bench.end(&plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_have_their_serials_in_order_and_only_scratch_is_writable() {
    let bench = bench();
    let capabilities = bench.subject.driver.capabilities();
    let most = capabilities.max_disks;
    let (plan, mut line) = bench
        .started(|plan| {
            let path = plan.disks[0].path.clone();
            plan.disks.extend((1..most).map(|number| Disk { serial: format!("layer{number}"), path: path.clone() }));
        })
        .await;
    let answer = line.ask("disks").await;
    let disks: Vec<(&str, &str, &str)> = answer
        .split_whitespace()
        .filter_map(|disk| disk.split_once('=').and_then(|(name, rest)| Some((name, rest.split_once(':')?))))
        .map(|(name, (serial, number))| (name, serial, number))
        .collect();
    assert_eq!(disks.len(), most + 1, "{answer}");
    for (index, serial) in plan.disks.iter().map(|disk| disk.serial.as_str()).chain(["scratch"]).enumerate() {
        let (name, found, number) = disks[index];
        assert_eq!((found, number.split(':').nth(1)), (serial, Some((index * 16).to_string().as_str())), "{name}: {answer}");
    }
    assert_eq!(line.ask(&format!("write {}", disks[0].0)).await, "refused");
    assert_eq!(line.ask(&format!("write {}", disks[most].0)).await, "written");
    bench.end(&plan).await;
}

/// Extends PCR 12 of the SHA-256 bank by 32 bytes of 0x11.
struct Extends;

impl VtpmProvisioner for Extends {
    fn provision(&self, transact: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        let mut command = vec![0x80, 0x02, 0, 0, 0, 65, 0, 0, 0x01, 0x82, 0, 0, 0, 12];
        command.extend([0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x0b]);
        command.extend([0x11; 32]);
        let answer = transact(&command)?;
        assert_eq!(answer[6..10], [0; 4]);
        Ok(answer)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guest_sees_what_was_extended_before_it_existed() {
    let bench = bench();
    let plan = bench.subject.new_plan();
    bench.subject.driver.prepare(&plan, &Extends).await.unwrap();
    bench.subject.driver.start(&plan).await.unwrap();
    let mut line = Line::connect(&*bench.subject.driver, &plan.id).await;
    let mut extended = [0_u8; 64];
    extended[32..].fill(0x11);
    assert_eq!(line.ask("pcr 12").await.to_lowercase(), hex::encode(Sha256::digest(extended)));
    bench.end(&plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_told_and_a_loud_console_stays_small() {
    let bench = bench();
    let (plan, mut line) = bench.started(|_| {}).await;
    assert_eq!(line.ask("loud 1500").await, "said");
    line.tell("panic").await;
    let exit = ended(&*bench.subject.driver, &plan.id).await;
    assert!(matches!(&exit.cause, ExitCause::Panic(text) if text.contains("Attempted to kill init")), "{exit:?}");
    assert!(exit.console_tail.len() <= 4096);
    let console = bench.places.state.join("instances").join(plan.id.as_str()).join("console.log");
    assert!(fs::metadata(console).unwrap().len() <= 1 << 20);
    bench.end(&plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_vmm_is_told_and_wiped() {
    let bench = bench();
    let (plan, _line) = bench.started(|_| {}).await;
    let (pid, _) = bench.vmm();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let exit = ended(&*bench.subject.driver, &plan.id).await;
    assert_eq!(exit.cause, ExitCause::Vmm("killed by signal 9".to_owned()));
    bench.end(&plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_at_once_answer_and_leave_nothing() {
    let bench = bench();
    let one = || bench.started(|plan| plan.memory_mib = 64);
    let (a, b, c, d, e, f, g, h) = tokio::join!(one(), one(), one(), one(), one(), one(), one(), one());
    let mut machines = [a, b, c, d, e, f, g, h];
    for (plan, line) in &mut machines {
        assert_eq!(line.ask(&format!("echo {}", plan.id)).await, plan.id.as_str());
    }
    for (plan, _) in &machines {
        let evidence = bench.subject.driver.wipe(&plan.id).await.unwrap();
        assert!(evidence.items.values().all(|item| item.verified), "{evidence:?}");
        bench.subject.driver.forget(&plan.id).await.unwrap();
    }
    bench.places.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_machines_share_nothing() {
    let bench = bench();
    let ((one, mut first), (other, mut second)) = tokio::join!(bench.started(|_| {}), bench.started(|_| {}));
    assert_eq!(first.ask("echo 1").await, "1");
    assert_eq!(second.ask("echo 2").await, "2");
    let mut users: Vec<String> =
        bench.places.processes().iter().map(|status| field(status, "Uid").split('\t').next().unwrap().to_owned()).collect();
    users.sort();
    users.dedup();
    assert_eq!(users.len(), 4, "a VMM and a vTPM each: {users:?}");
    bench.subject.driver.wipe(&one.id).await.unwrap();
    bench.subject.driver.forget(&one.id).await.unwrap();
    assert_eq!(second.ask("echo still").await, "still");
    bench.end(&other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_what_the_machine_cannot_have() {
    let bench = bench();
    let refused = async |change: fn(&mut Plan)| {
        let mut plan = bench.subject.new_plan();
        change(&mut plan);
        let answer = bench.subject.driver.prepare(&plan, &Startup).await;
        assert!(matches!(answer, Err(DriverError::Unsupported { .. })), "{answer:?}");
    };
    refused(|plan| plan.disks = vec![plan.disks[0].clone(); 23]).await;
    refused(|plan| plan.disks[0].serial = "a,readonly=off".to_owned()).await;
    refused(|plan| plan.disks[0].serial = "scratch".to_owned()).await;
    refused(|plan| plan.memory_mib = u64::MAX).await;
    refused(|plan| plan.cpus = 0).await;
    refused(|plan| plan.isolation = Isolation::Confidential).await;
    refused(|plan| plan.demands.push(Demand::Gpus(1))).await;
    refused(|plan| plan.demands.push(Demand::Placement(Placement::Node(1000)))).await;
    refused(|plan| plan.demands.push(Demand::Placement(Placement::Cpus(CpuRange { first: 900, count: 2 })))).await;
    bench.places.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_lies_where_its_plan_says() {
    let bench = bench();
    let wishes = [Placement::HugePages, Placement::Node(0), Placement::Cpus(CpuRange { first: 1, count: 1 })];
    let (plan, mut line) = bench.started(|plan| plan.demands.extend(wishes.map(Demand::Placement))).await;
    assert_eq!(line.ask("echo placed").await, "placed");
    for thread in fs::read_dir(format!("/proc/{}/task", bench.vmm().0)).unwrap().flatten() {
        // Some threads end when they have nothing to do.
        let Ok(status) = fs::read_to_string(thread.path().join("status")) else { continue };
        assert_eq!(field(&status, "Cpus_allowed_list"), "1");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = bench.places.ram(&plan.id).parent().unwrap().display().to_string();
    let memory = mounts.lines().find(|line| line.split(' ').nth(4) == Some(&point)).unwrap();
    assert!(memory.contains("huge=always") && memory.contains("mpol=bind:0"), "{memory}");
    bench.end(&plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_kernel_is_a_failed_start() {
    let bench = bench();
    let mut plan = bench.subject.new_plan();
    if let System::Machine(machine) = &mut plan.system {
        machine.kernel = plan.disks[0].path.clone();
    }
    bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
    let answer = bench.subject.driver.start(&plan).await;
    assert!(matches!(answer, Err(DriverError::Process { program: "qemu", .. })), "{answer:?}");
    bench.end(&plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_or_damaged_record_does_not_stop_a_wipe() {
    let bench = bench();
    for damage in
        [|path: &Path| fs::write(path.join("record.json"), "{\"vers").unwrap(), |path: &Path| fs::remove_dir_all(path).unwrap()]
    {
        let (plan, _line) = bench.started(|_| {}).await;
        damage(&bench.places.state.join("instances").join(plan.id.as_str()));
        assert_eq!(bench.subject.driver.list().await.unwrap().len(), 1);
        bench.end(&plan).await;
    }
}

struct Holder(std::process::Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent of its own process that starts a machine.
fn holder(places: &Places, id: &InstanceId) -> (Holder, BufReader<std::process::ChildStderr>) {
    let mut child = Command::new(JAIL)
        .arg("hold")
        .args([&places.state, &places.run, &guest::kernel(), guest::initrd()])
        .args([places.uid_base.to_string(), id.to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stderr.take().unwrap());
    (Holder(child), output)
}

fn read_until(output: &mut impl BufRead, word: &str) {
    let mut seen = String::new();
    while !seen.lines().any(|line| line == word) {
        assert_ne!(output.read_line(&mut seen).unwrap(), 0, "the holder ended: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_outlives_its_agent_and_is_adopted() {
    let places = Places::new();
    let id = new_id();
    let (holder, mut output) = holder(&places, &id);
    read_until(&mut output, "started");
    drop(holder);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    let driver = Arc::new(places.driver());
    let checked = places.clone();
    let subject = Subject {
        driver: driver.clone(),
        plan: Box::new(|_| unreachable!("it is made already")),
        wiped: conformance::MACHINE_WIPED,
        nothing_left: Box::new(move || checked.assert_nothing_left()),
    };
    let bench = Bench { subject, places };
    assert_eq!(driver.list().await.unwrap(), [(id.clone(), Presence::Running)]);
    let mut line = Line::connect(&*driver, &id).await;
    assert_eq!(line.ask("echo adopted").await, "adopted");
    line.tell("off").await;
    assert_eq!(ended(&*driver, &id).await.cause, ExitCause::PoweredOff);
    driver.wipe(&id).await.unwrap();
    driver.forget(&id).await.unwrap();
    (bench.subject.nothing_left)();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_at_any_moment_leaves_what_the_next_one_wipes() {
    for delay_ms in [0, 3, 8, 15, 25, 40, 60, 90, 130, 200, 400] {
        let places = Places::new();
        let id = new_id();
        let (holder, mut output) = holder(&places, &id);
        read_until(&mut output, "begins");
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

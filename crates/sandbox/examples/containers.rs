//! Measures the start of a container through the driver against the bare runtime, alternating in one run:
//! `containers INIT LAYER [ROUNDS [RUNTIME [loop]]]`, as root.
//!
//! INIT is a static program that prints a line and then answers the line `echo x` on standard input with `x` (such as
//! `tests/support/container.c`), LAYER an EROFS file. Bare: from the execution of `RUNTIME run` to the program's first line, with the
//! very bundle that the driver made (namespaces, mounts, filter) and a user namespace beside it, on a root file system that was
//! mounted before. Limited: the same, and the shell that executes the runtime first moves itself into control groups like the driver's,
//! which were made before. Driver: from `prepare` to the first answer over the channel. `loop` takes loop devices where files would do.

use std::{
    ffi::OsString,
    fs,
    io::{self, BufRead, BufReader, Write as _},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use casemate_sandbox::{
    ContainerSystem, Driver, LayerFile, Plan, System, VtpmProvisioner,
    oci::{LayerMounts, OciConfig, OciDriver, Runtime},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.is_empty() || args.first().is_some_and(|first| first == "container") {
        return casemate_sandbox::jail::main(args);
    }
    let [init, layer] = [0, 1].map(|at| args.get(at).map(|path| fs::canonicalize(path).expect("a file")).expect("INIT LAYER"));
    let rounds = args.get(2).and_then(|text| text.to_str()?.parse().ok()).unwrap_or(7);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let only: Option<Runtime> = args.get(3).map(|text| text.to_str().and_then(|text| text.parse().ok()).expect("a runtime"));
    let mounts = if args.get(4).is_some() { LayerMounts::LoopDevices } else { LayerMounts::Files };
    for kind in Runtime::ALL.into_iter().filter(|kind| only.is_none_or(|only| only == *kind)) {
        runtime.block_on(measure(kind, &init, &layer, rounds, mounts));
    }
    ExitCode::SUCCESS
}

struct Nothing;

impl VtpmProvisioner for Nothing {
    fn provision(&self, _: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

async fn measure(kind: Runtime, init: &Path, layer: &Path, rounds: usize, mounts: LayerMounts) {
    let directory = tempfile::tempdir().expect("a directory");
    let own = std::env::current_exe().expect("a path");
    let config = OciConfig::new(directory.path().join("s"), directory.path().join("r"), vec![own.into()], kind);
    let driver = OciDriver::new(OciConfig { uid_base: USERS, mounts, ..config }).expect("a driver");
    let (mut bare, mut limited) = (vec![], vec![]);
    let (mut prepared, mut started, mut answered, mut wiped) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        let plan = plan(kind, init, layer, round);
        std::thread::sleep(QUIET);
        let begin = Instant::now();
        driver.prepare(&plan, &Nothing).await.expect("prepared");
        prepared.push(begin.elapsed());
        let begin = Instant::now();
        driver.start(&plan).await.expect("started");
        started.push(begin.elapsed());
        let mut channel = driver.connect(&plan.id).await.expect("connected");
        channel.write_all(b"echo x\n").await.expect("told");
        channel.read_u8().await.expect("answered");
        answered.push(begin.elapsed() + prepared[round]);
        let config = directory.path().join(format!("r/instances/{}/bundle/config.json", plan.id));
        let config = fs::read(config).expect("the driver's bundle");
        let groups = Groups::beside(&directory.path().join(format!("s/instances/{}/record.json", plan.id)));
        let begin = Instant::now();
        driver.wipe(&plan.id).await.expect("wiped");
        driver.forget(&plan.id).await.expect("forgotten");
        wiped.push(begin.elapsed());
        bare.push(start_bare(kind, &config, init, layer, &Groups::default()));
        limited.push(start_bare(kind, &config, init, layer, &groups));
    }
    let ratio = |to: &[Duration]| median(answered.iter().zip(to).map(|(driver, to)| driver.div_duration_f64(*to)).collect());
    let (to_bare, to_limited) = (ratio(&bare), ratio(&limited));
    let [bare, limited, prepared, started, answered, wiped] = [bare, limited, prepared, started, answered, wiped].map(median);
    println!(
        "{}: bare {bare:.1?}, limited {limited:.1?}; driver: prepared {prepared:.1?}, then started {started:.1?}, first answer \
         {answered:.1?} ({to_bare:.2} of bare, {to_limited:.2} of limited); wiped in {wiped:.1?}",
        driver.capabilities().version,
    );
}

/// Control groups beside those of an instance, with its limits.
#[derive(Default)]
struct Groups(Vec<PathBuf>);

impl Groups {
    /// As the instance's record names them.
    fn beside(record: &Path) -> Self {
        let record: Value = serde_json::from_slice(&fs::read(record).expect("the driver's record")).expect("its JSON");
        let legacy = record["group"]["legacy"].as_array().expect("groups").iter().map(|group| &group[1]);
        let all = legacy.chain([&record["group"]["unified"]]).map(|path| Path::new(path.as_str().expect("a path")));
        Self(all.map(group_beside).collect())
    }
}

fn group_beside(group: &Path) -> PathBuf {
    let beside = group.with_extension("bare");
    fs::create_dir(&beside).expect("a group");
    for limit in LIMITS {
        if let Ok(value) = fs::read(group.join(limit)) {
            fs::write(beside.join(limit), value).expect("limited");
        }
    }
    beside
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            while fs::remove_dir(group).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy) {
                std::thread::sleep(Duration::from_millis(1));
            }
            // The driver's own, which it could not remove while these were in it.
            let _ = group.parent().map(fs::remove_dir);
        }
    }
}

fn plan(kind: Runtime, init: &Path, layer: &Path, round: usize) -> Plan {
    let layers = vec![LayerFile { path: layer.to_owned() }];
    Plan {
        id: format!("i-{round}").parse().expect("an id"),
        isolation: kind.isolation(),
        demands: Vec::new(),
        system: System::Container(ContainerSystem { init: init.to_owned(), args: Vec::new(), layers, shared: Vec::new() }),
        disks: Vec::new(),
        cpus: 1,
        memory_mib: 128,
        scratch_mib: 16,
    }
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|one, other| one.partial_cmp(other).expect("times and ratios have an order"));
    values[values.len() / 2]
}

/// The root file system is there before the clock starts; so is a cgroup root of version 2, which one of the runtimes insists on.
fn start_bare(kind: Runtime, config: &[u8], init: &Path, layer: &Path, groups: &Groups) -> Duration {
    let bundle = tempfile::tempdir().expect("a directory");
    let place = |name: &str| bundle.path().join(name);
    for name in ["layer", "rootfs", "scratch/upper", "scratch/work", "scratch/tmp", "scratch/shm"] {
        fs::create_dir_all(place(name)).expect("a directory");
        chown(place(name), Some(USERS), Some(USERS)).expect("its owner");
    }
    fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::write(place("config.json"), own_users(config, bundle.path(), init)).expect("written");
    let overlay = "lowerdir=layer,upperdir=scratch/upper,workdir=scratch/work,volatile";
    let runtime: &[&str] = match kind {
        Runtime::Runc => &[],
        Runtime::Crun => &["--cgroup-manager", "disabled"],
        Runtime::Runsc => &["--platform", "ptrace", "--network", "none", "--ignore-cgroups"],
        Runtime::Other(_) => unreachable!("a known one was asked for"),
    };
    // Opened before a mount hides them.
    let joins = || (3..).zip(&groups.0);
    let opened: String = joins().map(|(number, group)| format!("exec {number}>{}/cgroup.procs && ", group.display())).collect();
    let joined: String = joins().map(|(number, _)| format!(" && echo $$ >&{number} && exec {number}>&-")).collect();
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg(format!(
            "{opened}mount -t cgroup2 none /sys/fs/cgroup && mount -t erofs -o ro {} layer && mount -t overlay -o {overlay} overlay rootfs \
             && echo ready && read go{joined} && exec \"$@\"",
            layer.display()
        ))
        .arg("sh")
        .arg(kind.find())
        .args(runtime)
        .arg("--root")
        .arg(place("state"))
        .args(["run", "--bundle", ".", "bare"])
        .current_dir(bundle.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare");
    let (mut output, mut line) = (BufReader::new(child.stdout.take().expect("a pipe")), String::new());
    output.read_line(&mut line).expect("a line");
    let mut input = child.stdin.take().expect("a pipe");
    std::thread::sleep(QUIET);
    let begin = Instant::now();
    input.write_all(b"go\n").expect("told");
    line.clear();
    output.read_line(&mut line).expect("a line");
    let took = begin.elapsed();
    assert!(line.contains("init runs"), "{} said {line:?}", kind.name());
    input.write_all(b"off\n").expect("told");
    drop((input, output));
    child.wait().expect("ended");
    took
}

/// The driver's bundle, with the places of this one, and a user namespace: the driver's keeper has made that already.
fn own_users(config: &[u8], bundle: &Path, init: &Path) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(config).expect("the driver's JSON");
    config["root"]["path"] = json!("rootfs");
    for mount in config["mounts"].as_array_mut().expect("mounts") {
        let source = mount["source"].as_str().unwrap_or_default().to_owned();
        if let Some(inside) = source.strip_prefix("/scratch/") {
            mount["source"] = json!(bundle.join("scratch").join(inside));
        } else if source == "/guest/init" {
            mount["source"] = json!(init);
        }
    }
    let users = json!([{ "containerID": 0, "hostID": USERS, "size": 65_536 }]);
    config["linux"]["uidMappings"] = users.clone();
    config["linux"]["gidMappings"] = users;
    config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "user" }));
    serde_json::to_vec(&config).expect("JSON")
}

/// So that nothing measured profits from what was done just before: moves between control groups are faster then.
const QUIET: Duration = Duration::from_millis(200);

/// Nobody else's.
const USERS: u32 = 0x6000_0000;

/// Of version 1 and version 2.
const LIMITS: [&str; 8] = [
    "memory.limit_in_bytes",
    "memory.swappiness",
    "cpu.shares",
    "memory.max",
    "memory.swap.max",
    "pids.max",
    "cpu.weight",
    "cpu.max",
];

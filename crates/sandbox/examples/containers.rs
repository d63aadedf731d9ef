//! Measures the start of a container through the driver against the bare runtime, alternating in one run:
//! `containers INIT LAYER [ROUNDS [RUNTIME [loop]]]`, as root.
//!
//! INIT is a static program that prints a line and then answers the line `echo x` on standard input with `x` (such as
//! `tests/support/container.c`), LAYER an EROFS file. Bare: from the execution of `RUNTIME run` to the program's first line, with the
//! very bundle that the driver made (namespaces, mounts, filter, limits) and a user namespace beside it, on a root file system that was
//! mounted before. Driver: from `prepare` to the first answer over the channel. `loop` takes loop devices where files would do.

use std::{
    ffi::OsString,
    fs,
    io::{self, BufRead, BufReader, Write as _},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
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
    let (mut bare, mut prepared, mut started, mut answered, mut wiped) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        let plan = plan(kind, init, layer, round);
        let begin = Instant::now();
        driver.prepare(&plan, &Nothing).await.expect("prepared");
        prepared.push(begin.elapsed());
        let config = directory.path().join(format!("r/instances/{}/bundle/config.json", plan.id));
        let config = fs::read(config).expect("the driver's bundle");
        let begin = Instant::now();
        driver.start(&plan).await.expect("started");
        started.push(begin.elapsed());
        let mut channel = driver.connect(&plan.id).await.expect("connected");
        channel.write_all(b"echo x\n").await.expect("told");
        channel.read_u8().await.expect("answered");
        answered.push(begin.elapsed() + prepared[round]);
        let begin = Instant::now();
        driver.wipe(&plan.id).await.expect("wiped");
        driver.forget(&plan.id).await.expect("forgotten");
        wiped.push(begin.elapsed());
        bare.push(start_bare(kind, &config, init, layer));
    }
    let ratio = median(answered.iter().zip(&bare).map(|(driver, bare)| driver.div_duration_f64(*bare)).collect());
    let [bare, prepared, started, answered, wiped] = [bare, prepared, started, answered, wiped].map(median);
    println!(
        "{}: bare {bare:.1?}; driver: prepared {prepared:.1?}, then started {started:.1?}, first answer {answered:.1?} \
         ({ratio:.2} of bare); wiped in {wiped:.1?}",
        driver.capabilities().version,
    );
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
fn start_bare(kind: Runtime, config: &[u8], init: &Path, layer: &Path) -> Duration {
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
    };
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg(format!(
            "mount -t cgroup2 none /sys/fs/cgroup && mount -t erofs -o ro {} layer && mount -t overlay -o {overlay} overlay rootfs \
             && echo ready && read go && exec \"$@\"",
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

/// Nobody else's.
const USERS: u32 = 0x6000_0000;

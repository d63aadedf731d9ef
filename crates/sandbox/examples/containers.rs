//! Measures the start of a container through the driver against the bare runtime, alternating in one run:
//! `containers INIT LAYER [ROUNDS]`, as root.
//!
//! INIT is a static program that prints a line and then answers the line `echo x` on standard input with `x` (such as
//! `tests/support/container.c`), LAYER an EROFS file. Bare: from the start of `RUNTIME run`, with a bundle of namespaces and nothing
//! else, to the program's first line. Driver: from `prepare` to the first answer over the channel. Also the helper process of
//! the driver itself.

use std::{
    ffi::OsString,
    fs,
    io::{self, BufRead, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use casemate_sandbox::{
    ContainerSystem, Driver, LayerFile, Plan, System, VtpmProvisioner,
    oci::{OciConfig, OciDriver, Runtime},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.is_empty() || args.first().is_some_and(|first| first == "container") {
        return casemate_sandbox::jail::main(args);
    }
    let [init, layer] = [0, 1].map(|at| args.get(at).map(|path| fs::canonicalize(path).expect("a file")).expect("INIT LAYER"));
    let rounds = args.get(2).and_then(|text| text.to_str()?.parse().ok()).unwrap_or(7);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for kind in Runtime::ALL {
        runtime.block_on(measure(kind, &init, &layer, rounds));
    }
    ExitCode::SUCCESS
}

struct Nothing;

impl VtpmProvisioner for Nothing {
    fn provision(&self, _: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

async fn measure(kind: Runtime, init: &Path, layer: &Path, rounds: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let own = std::env::current_exe().expect("a path");
    let config = OciConfig::new(directory.path().join("s"), directory.path().join("r"), vec![own.into()], kind);
    let driver = OciDriver::new(OciConfig { uid_base: 0x6000_0000, ..config }).expect("a driver");
    let (mut bare, mut prepared, mut started, mut answered, mut wiped) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        bare.push(start_bare(kind, init, &directory.path().join(format!("bare-{round}"))));
        let plan = Plan {
            id: format!("i-{round}").parse().expect("an id"),
            isolation: kind.isolation(),
            demands: Vec::new(),
            system: System::Container(ContainerSystem {
                init: init.to_owned(),
                args: Vec::new(),
                layers: vec![LayerFile { path: layer.to_owned() }],
                shared: Vec::new(),
            }),
            disks: Vec::new(),
            cpus: 1,
            memory_mib: 128,
            scratch_mib: 16,
        };
        let begin = Instant::now();
        driver.prepare(&plan, &Nothing).await.expect("prepared");
        prepared.push(begin.elapsed());
        driver.start(&plan).await.expect("started");
        started.push(begin.elapsed());
        let mut channel = driver.connect(&plan.id).await.expect("connected");
        channel.write_all(b"echo x\n").await.expect("told");
        channel.read_u8().await.expect("answered");
        answered.push(begin.elapsed());
        let begin = Instant::now();
        driver.wipe(&plan.id).await.expect("wiped");
        driver.forget(&plan.id).await.expect("forgotten");
        wiped.push(begin.elapsed());
    }
    let [bare, prepared, started, answered, wiped] = [bare, prepared, started, answered, wiped].map(median);
    println!(
        "{}: bare {bare:?}; driver: prepared {prepared:?}, started {started:?}, first answer {answered:?} ({:.2} of bare); wiped in {wiped:?}",
        driver.capabilities().version,
        answered.as_secs_f64() / bare.as_secs_f64()
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Under a cgroup root of version 2, which one of the runtimes insists on.
fn start_bare(kind: Runtime, init: &Path, bundle: &Path) -> Duration {
    let root = bundle.join("rootfs");
    for directory in ["proc", "dev", "tmp"] {
        fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    fs::copy(init, root.join("init")).expect("copied");
    fs::write(bundle.join("config.json"), BUNDLE).expect("written");
    let own: &[&str] = match kind {
        Runtime::Runc => &[],
        Runtime::Crun => &["--cgroup-manager", "disabled"],
        Runtime::Runsc => &["--platform", "ptrace", "--network", "none", "--ignore-cgroups"],
    };
    let begin = Instant::now();
    let mut child = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"", "sh"])
        .arg(kind.find())
        .args(own)
        .arg("--root")
        .arg(bundle.join("state"))
        .arg("run")
        .arg("--bundle")
        .arg(bundle)
        .arg("bare")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let took = begin.elapsed();
    assert!(line.contains("init runs"), "{} said {line:?}", kind.name());
    let mut input = child.stdin.take().expect("a pipe");
    io::Write::write_all(&mut input, b"off\n").expect("told");
    child.wait().expect("ended");
    took
}

const BUNDLE: &str = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},"hostname":"bare",
"process":{"terminal":false,"user":{"uid":0,"gid":0},"args":["/init"],"env":["PATH=/"],"cwd":"/","noNewPrivileges":true},
"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/dev","type":"tmpfs","source":"tmpfs"}],
"linux":{"namespaces":[{"type":"pid"},{"type":"ipc"},{"type":"uts"},{"type":"mount"},{"type":"network"}]}}"#;

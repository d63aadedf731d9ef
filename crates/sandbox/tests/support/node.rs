//! The first process of a node guest: an agent on a kernel that is not this machine's. It runs one container by the driver and says on
//! the console, line by line, what came of it.

use std::{
    ffi::{CStr, OsString},
    fmt::Debug,
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use casemate_sandbox::{
    ContainerSystem, Driver, Isolation, LayerFile, Plan, System,
    oci::{OciConfig, OciDriver, Runtime},
};
use rustix::{
    mount::{MountFlags, mount},
    system::RebootCommand,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Never returns.
pub(crate) fn main() -> ! {
    match std::panic::catch_unwind(play) {
        Ok(()) => println!("NODE-END"),
        Err(_) => println!("NODE-FAILED"),
    }
    let _ = rustix::system::reboot(RebootCommand::Restart);
    panic!("the machine is still on");
}

fn play() {
    make_place();
    for module in sorted("/modules") {
        let module = File::open(&module).expect("a module");
        rustix::system::finit_module(module.as_fd(), c"", 0).expect("the module is loaded");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(run(super::own()));
    let begin = Instant::now();
    while !loop_devices().is_empty() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    tell("devices at the end", loop_devices());
}

/// The root of an initrd has nothing above it, and cannot be left by `pivot_root`; a mount of itself can.
fn make_place() {
    fs::create_dir_all("/root-of-node").expect("a directory");
    rustix::mount::mount_bind("/", "/root-of-node").expect("the root bound");
    rustix::process::chdir("/root-of-node").expect("entered");
    rustix::mount::mount_move(".", "/").expect("moved");
    rustix::process::chroot(".").expect("the root changed");
    for (kind, place) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("cgroup2", "/sys/fs/cgroup"), ("tmpfs", "/run")]
    {
        fs::create_dir_all(place).expect("a directory");
        mount("none", place, kind, MountFlags::empty(), None::<&CStr>).expect("mounted");
    }
}

async fn run(own: OsString) {
    let config = OciConfig::new("/state".into(), "/run/casemate".into(), vec![own], Runtime::Crun);
    let driver = OciDriver::new(OciConfig { program: "/usr/bin/crun".into(), ..config }).expect("a driver");
    tell("runtime", &driver.capabilities().version);
    let layers = sorted("/layers").into_iter().map(|path| LayerFile { path: path.into() }).collect();
    let container = ContainerSystem { init: "/container-init".into(), args: Vec::new(), layers, shared: Vec::new() };
    let plan = Plan {
        id: "i-node".parse().expect("an id"),
        isolation: Isolation::Container,
        demands: Vec::new(),
        system: System::Container(container),
        disks: Vec::new(),
        cpus: 1,
        memory_mib: 64,
        scratch_mib: 16,
    };
    driver.prepare(&plan, &super::Nothing).await.expect("prepared");
    tell("jail", driver.start(&plan).await.expect("started").jail.namespaces);
    tell("devices", loop_devices());
    let mut channel = driver.connect(&plan.id).await.expect("connected");
    for words in ["cat /etc/hello", "cat /etc/upper", "fill /etc/new 4", "try mount", "try open /state"] {
        channel.write_all(format!("{words}\n").as_bytes()).await.expect("told");
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            answer.push(channel.read_u8().await.expect("an answer"));
        }
        tell(words, String::from_utf8_lossy(&answer).trim_end());
    }
    let evidence = driver.wipe(&plan.id).await.expect("wiped");
    tell("wiped", evidence.items.values().all(|item| item.verified));
    driver.forget(&plan.id).await.expect("forgotten");
}

fn tell(what: &str, value: impl Debug) {
    println!("NODE {what}: {value:?}");
}

/// What is behind them.
fn loop_devices() -> Vec<String> {
    let devices = sorted("/sys/block").into_iter();
    devices
        .filter_map(|device| fs::read_to_string(Path::new(&device).join("loop/backing_file")).ok())
        .map(|file| file.trim().to_owned())
        .collect()
}

fn sorted(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut paths: Vec<String> = entries.filter_map(|entry| entry.path().to_str().map(str::to_owned)).collect();
    paths.sort();
    paths
}

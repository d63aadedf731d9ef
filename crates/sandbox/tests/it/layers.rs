//! Image layers where the kernel does not mount a file as it is: loop devices, which must be gone with the container, whatever died.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use casemate_sandbox::{
    ContainerSystem, LayerFile, Plan, System,
    oci::{LayerMounts, Runtime},
};

use crate::{
    conformance::{Startup, new_id},
    containers::{Bench, bench, init, layers, loop_devices},
    guest::Line,
    places::{JAIL, field},
};

/// The plan with these layers.
fn with_layers(plan: Plan, layers: Vec<LayerFile>) -> Plan {
    let System::Container(container) = plan.system else { panic!("a container was planned") };
    Plan { system: System::Container(ContainerSystem { layers, ..container }), ..plan }
}

/// The layers of the tests, in files below `folder`.
fn copied(folder: &Path) -> Vec<LayerFile> {
    let copy = |layer: &LayerFile| {
        let path = folder.join(layer.path.file_name().unwrap());
        fs::copy(&layer.path, &path).unwrap();
        LayerFile { path }
    };
    layers().iter().map(copy).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_on_a_file_system_that_cannot_be_mounted_from_start_as_well() {
    // No kernel mounts a file of a tmpfs by itself.
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let bench = bench(Runtime::Crun, LayerMounts::Files);
    let plan = with_layers(bench.subject.new_plan(), copied(folder.path()));
    bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
    bench.subject.driver.start(&plan).await.unwrap();
    assert_eq!(loop_devices(folder.path()).len(), 2);
    for device in loop_devices(folder.path()) {
        assert_eq!(fs::read_to_string(device.join("ro")).unwrap().trim(), "1");
        assert_eq!(fs::read_to_string(device.join("loop/autoclear")).unwrap().trim(), "1");
    }
    let mut line = Line::connect(&*bench.subject.driver, &plan.id).await;
    assert_eq!(line.ask("cat /etc/hello").await, "from the lower layer");
    assert_eq!(line.ask("cat /etc/upper").await, "from the upper layer");
    bench.end(&plan).await;
    gone(folder.path());
}

fn gone(folder: &Path) {
    let begin = Instant::now();
    while !loop_devices(folder).is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", loop_devices(folder));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Between two devices, between a device and its mount: wherever the kill finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_amid_many_loop_devices_frees_all_of_them() {
    let bench = bench(Runtime::Crun, LayerMounts::LoopDevices);
    let one = bench.places.layers()[0].path.clone();
    let mut failed = 0;
    for seen in [1, 2, 5, 11, 23, 40] {
        let plan = with_layers(bench.subject.new_plan(), vec![LayerFile { path: one.clone() }; 48]);
        bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
        let starting = tokio::spawn({
            let (driver, plan) = (Arc::clone(&bench.subject.driver), plan.clone());
            async move { driver.start(&plan).await }
        });
        kill_when(&bench, seen, || starting.is_finished());
        failed += usize::from(starting.await.unwrap().is_err());
        bench.end(&plan).await;
    }
    assert!(failed > 0, "every start was over before it could be killed");
}

fn kill_when(bench: &Bench, seen: usize, is_over: impl Fn() -> bool) {
    while bench.places.loop_devices().len() < seen && !is_over() {}
    for pid in helpers().into_iter().chain(bench.places.processes()) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Those who mount, and are in no group of an instance yet: our children.
fn helpers() -> Vec<i32> {
    let own = std::process::id().to_string();
    let statuses =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
    statuses.filter(|status| field(status, "PPid") == own).filter_map(|status| field(&status, "Pid").parse().ok()).collect()
}

#[test]
fn a_host_that_mounts_neither_files_nor_devices_offers_no_containers() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let places = ["s", "r"].map(|name| folder.path().join(name));
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount --bind /dev/null /dev/loop-control && exec \"$@\"", "sh"])
        .args([JAIL, "hold-container"])
        .args(&places)
        .args([init(), Path::new("/no-layer")])
        .args(["1610612736".to_owned(), new_id().to_string(), "crun".to_owned(), "files".to_owned()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("Unsupported") && told.contains("modprobe loop"), "{told}");
    let left: Vec<PathBuf> = fs::read_dir(&places[0]).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.iter().all(|path| !path.ends_with("trial.erofs")), "{left:?}");
}

//! What the tests of containers share: their places on the host, an image, a driver under test.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use casemate_lifecycle::InstanceId;
use casemate_sandbox::{
    ContainerSystem, LayerFile, Plan, Shared, SharedKind, System,
    network::Network,
    oci::{LayerMounts, OciConfig, OciDriver, Runtime},
};
use sha2::{Digest, Sha256};

use crate::{
    conformance::{Startup, Subject},
    guest::Line,
    places::{JAIL, field, find},
};

/// Where the things of one test are; users of its own, so that tests can run side by side.
#[derive(Clone)]
pub(crate) struct Places {
    _directory: Arc<tempfile::TempDir>,
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) uid_base: u32,
    pub(crate) runtime: Runtime,
    pub(crate) mounts: LayerMounts,
}

impl Places {
    pub(crate) fn new(runtime: Runtime, mounts: LayerMounts) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().unwrap();
        // Of one process up to 32 tests, each with 4 instances of 65536 users.
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % 32 + 32 * (std::process::id() % 256);
        let (state, run) = (directory.path().join("s"), directory.path().join("r"));
        Self { _directory: Arc::new(directory), state, run, uid_base: 0x2000_0000 + number * 4 * 65_536, runtime, mounts }
    }

    pub(crate) fn driver(&self) -> OciDriver {
        self.driver_with(None)
    }

    pub(crate) fn driver_with(&self, network: Option<Arc<Network>>) -> OciDriver {
        let config = OciConfig::new(self.state.clone(), self.run.clone(), vec![JAIL.into()], self.runtime);
        let name = self.runtime.name();
        assert!(config.program.is_file(), "{name} is not installed; hint: apt-get install {name}");
        OciDriver::new(OciConfig { network, uid_base: self.uid_base, mounts: self.mounts, ..config }).unwrap()
    }

    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let tag = hex::encode(&Sha256::digest(self.state.as_os_str().as_encoded_bytes())[..4]);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
        points.flat_map(|point| find(Path::new(point), &format!("casemate-{tag}"), 6)).collect()
    }

    /// Of all processes in the instances' groups.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let groups = self.cgroups().into_iter().flat_map(|group| fs::read_dir(group).into_iter().flatten().flatten());
        let texts = groups.filter_map(|group| fs::read_to_string(group.path().join("cgroup.procs")).ok());
        texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>()).collect()
    }

    /// Processes, by users that only this test has.
    pub(crate) fn strays(&self) -> Vec<String> {
        let range = self.uid_base..self.uid_base + 4 * 65_536;
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let statuses = entries.filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
        // What outlived its agent is reaped by the host's first process, in its own time.
        statuses
            .filter(|status| !field(status, "State").starts_with('Z'))
            .filter(|status| field(status, "Uid").split_whitespace().any(|uid| uid.parse().is_ok_and(|uid| range.contains(&uid))))
            .collect()
    }

    pub(crate) fn assert_nothing_left(&self) {
        for directory in [self.state.join("instances"), self.run.join("instances"), self.run.join("ram")] {
            let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(left, Vec::<PathBuf>::new());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.run.to_str().unwrap()), "{mounts}");
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        assert_eq!(self.strays(), Vec::<String>::new());
        // The kernel frees a device a moment after the last that had it open.
        let begin = Instant::now();
        while begin.elapsed() < FREED && !self.loop_devices().is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.loop_devices(), Vec::<PathBuf>::new());
    }

    /// Those of this test's own layers.
    pub(crate) fn loop_devices(&self) -> Vec<PathBuf> {
        loop_devices(self.state.parent().unwrap())
    }

    pub(crate) fn layers_folder(&self) -> PathBuf {
        self.state.with_file_name("layers")
    }

    /// The layers; on loop devices each test has its own files, by which its devices are known.
    pub(crate) fn layers(&self) -> Vec<LayerFile> {
        if self.mounts == LayerMounts::Files {
            return layers().to_vec();
        }
        fs::create_dir_all(self.layers_folder()).unwrap();
        let own = layers().iter().map(|layer| {
            let path = self.layers_folder().join(layer.path.file_name().unwrap());
            if !path.exists() {
                fs::copy(&layer.path, &path).unwrap();
            }
            LayerFile { path }
        });
        own.collect()
    }
}

/// The devices of files in the temporary directory `folder`. They are known by its name alone: the path is one of the mount namespace in
/// which the file was opened, and without what that is mounted on.
pub(crate) fn loop_devices(folder: &Path) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
    let behind = |device: &PathBuf| PathBuf::from(fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default());
    devices.filter(|device| behind(device).iter().any(|part| Some(part) == folder.file_name())).collect()
}

/// Generous: a busy machine takes its time.
const FREED: Duration = Duration::from_secs(30);

/// The test's process 1, compiled once.
pub(crate) fn init() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let making = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let init = making.path().join("init");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/container.c");
        let compiled = Command::new("cc").args(["-static", "-Os", "-s", "-o"]).arg(&init).arg(source).status();
        assert!(compiled.is_ok_and(|status| status.success()), "compiling the test init failed; hint: install gcc and libc6-dev");
        publish(&init, "container-init")
    })
}

/// Under a name that says what it was made by. Other tests may do the same at this moment, and what one of them has mounted already must
/// stay: a file that was replaced cannot be mounted again. So the first one wins.
pub(crate) fn publish(file: &Path, name: &str) -> PathBuf {
    let made_by =
        Sha256::new().chain_update(include_str!("containers.rs")).chain_update(include_str!("../support/container.c")).finalize();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", hex::encode(made_by)));
    match fs::hard_link(file, &path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => panic!("publish {}: {error}", path.display()),
        _ => path,
    }
}

/// Two layers, of which the upper one would like to lead out of the root.
pub(crate) fn layers() -> &'static [LayerFile] {
    static MADE: OnceLock<Vec<LayerFile>> = OnceLock::new();
    MADE.get_or_init(|| {
        let making = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let tree = |name: &str| making.path().join(name);
        fs::create_dir_all(tree("lower/etc")).unwrap();
        fs::write(tree("lower/etc/hello"), "from the lower layer\n").unwrap();
        fs::create_dir_all(tree("upper/etc")).unwrap();
        fs::write(tree("upper/etc/upper"), "from the upper layer\n").unwrap();
        symlink("/../../../../etc", tree("upper/escape")).unwrap();
        let pack = |name: &str| {
            let file = tree(&format!("{name}.erofs"));
            let packed = Command::new("mkfs.erofs").args(["--quiet", "-T0", "--all-root"]).arg(&file).arg(tree(name)).status();
            assert!(packed.is_ok_and(|status| status.success()), "making a layer failed; hint: install erofs-utils");
            LayerFile { path: publish(&file, name) }
        };
        vec![pack("lower"), pack("upper")]
    })
}

pub(crate) fn plan(id: &InstanceId, places: &Places) -> Plan {
    let layers = places.layers();
    Plan {
        id: id.clone(),
        isolation: places.runtime.isolation(),
        demands: Vec::new(),
        system: System::Container(ContainerSystem {
            init: init().to_owned(),
            args: Vec::new(),
            layers: layers.clone(),
            shared: vec![
                Shared { name: "asset0".to_owned(), path: "/data/asset".to_owned(), kind: SharedKind::ReadOnlyFile },
                Shared { name: "output".to_owned(), path: "/escape/casemate-out".to_owned(), kind: SharedKind::WritableDir },
            ],
        }),
        disks: vec![casemate_sandbox::Disk { serial: "asset0".to_owned(), path: layers[0].path.clone() }],
        cpus: 1,
        memory_mib: 128,
        scratch_mib: 16,
    }
}

pub(crate) struct Bench {
    pub(crate) subject: Arc<Subject>,
    pub(crate) places: Places,
}

impl Drop for Bench {
    fn drop(&mut self) {
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

impl Bench {
    pub(crate) async fn started(&self) -> (Plan, Line) {
        let plan = self.subject.new_plan();
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
}

pub(crate) fn bench(runtime: Runtime, mounts: LayerMounts) -> Bench {
    let places = Places::new(runtime, mounts);
    let (checked, planned) = (places.clone(), places.clone());
    let subject = Arc::new(Subject {
        driver: Arc::new(places.driver()),
        plan: Box::new(move |id| plan(id, &planned)),
        wiped: &[("cgroup", "removed"), ("guest-ram", "released-by-kernel"), ("jail", "removed"), ("scratch", "overwritten")],
        nothing_left: Box::new(move || checked.assert_nothing_left()),
    });
    Bench { subject, places }
}

//! What the monitors that have an HTTP API on a Unix socket have in common, and what differs between them. The rest of their
//! machines' life is that of any machine here: jail, cgroup, vTPM, scratch, record, wipe.

use std::{
    fmt, io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    Demand, Disk, DriverError, JailReport, Plan, cgroup::Group, error::chain, jail::JailMount, layout::Places, network::Card,
    process, unix_http::ApiError, vsock,
};

/// A monitor with an API.
pub(crate) trait ApiVmm: fmt::Debug + Send + Sync {
    /// Its name in errors.
    fn program(&self) -> &'static str;

    /// Who keeps the guest's memory.
    fn guest_memory(&self) -> GuestMemory;

    /// How it is executed. Changes nothing but sockets in the instance's own directories.
    fn launch(&self, scene: &Scene<'_>) -> Result<Launch, DriverError>;

    /// Configures the fresh process and lets the machine run.
    fn boot(&self, scene: &Scene<'_>, plan: &Plan) -> Result<(), ApiError>;

    /// Refuses unless the machine runs.
    fn expect_running(&self, scene: &Scene<'_>) -> Result<(), ApiError>;

    /// Whether the guest has ended although the process has not. Its console is given; it may hold anything.
    fn is_over(&self, scene: &Scene<'_>, console: &[u8]) -> bool;
}

/// Who keeps the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestMemory {
    /// A file of ours, which outlives the process and is overwritten at the end.
    File,
    /// The process alone: at its end the kernel takes the pages.
    Process,
}

/// How a monitor is executed.
#[derive(Debug, Default)]
pub(crate) struct Launch {
    pub(crate) args: Vec<String>,
    /// What it sees beside its libraries.
    pub(crate) mounts: Vec<JailMount>,
    /// From [`crate::jail::FIRST_FD`] on.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// One machine, as a monitor's client sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) places: &'a Places,
    /// `None` for a machine that was found running.
    pub(crate) plan: Option<&'a Plan>,
    /// The monitor's.
    pub(crate) user: u32,
    /// Where its process is.
    pub(crate) group: &'a Group,
    /// Its network card, once that was made.
    pub(crate) card: Option<&'a Card>,
}

impl Scene<'_> {
    /// The directory in which the monitor makes its sockets; nothing else is in it.
    pub(crate) fn sockets(&self) -> PathBuf {
        self.places.sockets()
    }

    /// Whether it has a network.
    pub(crate) fn is_connected(&self) -> bool {
        self.plan.is_some_and(|plan| plan.demands.contains(&Demand::Network))
    }

    /// Whether the monitor's process is there.
    pub(crate) fn is_alive(&self) -> bool {
        process::find_init(self.group).is_some()
    }
}

/// Lets the machine run and looks at its jail; of one that runs already only the latter.
pub(crate) fn run(
    vmm: &dyn ApiVmm,
    scene: &Scene<'_>,
    observe: impl FnOnce() -> Result<JailReport, DriverError>,
    last_words: impl Fn() -> String,
) -> Result<JailReport, DriverError> {
    let talk = |error: ApiError| failed(vmm.program(), &error, &last_words);
    if let Some(plan) = scene.plan {
        vmm.boot(scene, plan).map_err(talk)?;
    }
    vmm.expect_running(scene).map_err(talk)?;
    // Some threads, and the filters of some, exist only now. Nothing is released to a guest before this is reported.
    observe()
}

/// Waits until the fresh process answers; `alive` says whether that can still come.
pub(crate) fn first_answer<T>(alive: impl Fn() -> bool, ask: impl Fn() -> Result<T, ApiError>) -> Result<T, ApiError> {
    let begin = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let not_yet = |source: &io::Error| matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        match ask() {
            Err(ApiError::Connect { source, .. }) if not_yet(&source) && begin.elapsed() < START_LIMIT && alive() => {}
            outcome => return outcome,
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Connects to the guest, which may still boot.
pub(crate) fn connect(scene: &Scene<'_>) -> io::Result<UnixStream> {
    let begin = Instant::now();
    loop {
        match vsock::connect(&scene.sockets(), VSOCK, scene.user) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && begin.elapsed() < GUEST_LIMIT && scene.is_alive() => {
            }
            outcome => return outcome,
        }
        std::thread::sleep(LONGEST_PAUSE);
    }
}

/// The monitors open disks by name, as their own user; nobody else of the host gets at a file in a closed directory.
pub(crate) fn check_disks(program: &str, disks: &[Disk]) -> Result<(), DriverError> {
    use std::os::unix::fs::PermissionsExt;
    for disk in disks {
        let mode = std::fs::metadata(&disk.path).map(|metadata| metadata.permissions().mode()).unwrap_or_default();
        if mode & 0o004 == 0 {
            let reason =
                format!("{program} opens disks by name, as its own user; hint: chmod o+r, in a directory that is closed");
            return Err(DriverError::Unsupported { what: format!("the disk {}", disk.path.display()), reason });
        }
    }
    Ok(())
}

fn failed(program: &'static str, error: &ApiError, last_words: &dyn Fn() -> String) -> DriverError {
    let hint = match error {
        ApiError::Timeout { limit_ms, .. } => {
            return DriverError::Timeout { attempt: "an answer of the VMM's API", limit_ms: *limit_ms };
        }
        ApiError::Connect { .. } | ApiError::Exchange { .. } => format!("it said last: {:?}", last_words()),
        ApiError::Refused { message, .. } if message.contains("KVM") || message.contains("kvm") => {
            "hint: /dev/kvm must open on this host, and its group is given to the jail".to_owned()
        }
        ApiError::Refused { .. } => "hint: compare its version with docs/drivers.md".to_owned(),
        ApiError::Unexpected { .. } => "hint: its version may have another API; compare it with docs/drivers.md".to_owned(),
    };
    DriverError::Process { program, detail: format!("{}; {hint}", chain(error)) }
}

/// Most time for one request. Starting a machine loads its kernel.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Name of the monitor's vsock in its directory of sockets.
pub(crate) const VSOCK: &str = "vsock";

/// Name of the API's socket.
pub(crate) const API: &str = "api";

/// Inside of the jail.
pub(crate) mod inside {
    /// The kernel.
    pub(crate) const KERNEL: &str = "/vm/kernel";
    /// The initial RAM disk.
    pub(crate) const INITRD: &str = "/vm/initrd";
    /// Guest memory.
    pub(crate) const RAM: &str = "/vm/ram";
    /// The directory of sockets.
    pub(crate) const SOCKETS: &str = "/vm/sockets";
    /// The vTPM's socket.
    pub(crate) const VTPM: &str = "/vm/vtpm";

    /// A disk.
    pub(crate) fn disk(serial: &str) -> String {
        format!("/vm/disk-{serial}")
    }
}

/// Mounts that every machine needs: what boots, its disks, the directory of sockets.
pub(crate) fn mounts(scene: &Scene<'_>, disks: &[Disk], scratch: &str, kvm: &Path) -> Vec<JailMount> {
    use crate::jail::Access::{Device, ReadOnly, ReadWrite};
    let places = scene.places;
    let mount = |source: PathBuf, target: String, access| JailMount { source, target: target.into(), access };
    let mut mounts = vec![
        mount(kvm.to_owned(), "/dev/kvm".to_owned(), Device),
        mount(places.kernel(), inside::KERNEL.to_owned(), ReadOnly),
        mount(places.initrd(), inside::INITRD.to_owned(), ReadOnly),
        mount(places.sockets(), inside::SOCKETS.to_owned(), ReadWrite),
        mount(places.scratch(), inside::disk(scratch), ReadWrite),
    ];
    mounts.extend(disks.iter().map(|disk| mount(disk.path.clone(), inside::disk(&disk.serial), ReadOnly)));
    mounts
}

/// From its execution to its first answer; the real ones take some milliseconds.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Until the guest listens.
const GUEST_LIMIT: Duration = Duration::from_secs(60);

const FIRST_PAUSE: Duration = Duration::from_millis(1);

const LONGEST_PAUSE: Duration = Duration::from_millis(20);

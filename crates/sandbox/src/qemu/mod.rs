//! Machines by QEMU (`microvm`), each in a jail, with a vTPM by swtpm.
//!
//! Who runs what: the jail helper's supervised child is QEMU; its parent stays as an unprivileged process that keeps the
//! bounded console log and writes down the exit status, so that nothing depends on the agent's life. An instance's processes
//! are those in its cgroup, whoever started them; that some are our children only means that we reap them.
//!
//! Operations on one instance exclude each other (a lock per instance that the blocking work itself holds, so that a dropped
//! future does not let go of it early); operations on different instances run side by side.

mod command;
mod delegate;
pub(crate) mod host;
mod jails;
pub(crate) mod machine;
pub mod q35;
mod qmp;
mod vtpm;
mod wipe;

pub(crate) use delegate::drives_machines;
pub use host::AccelChoice;

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use casemate_lifecycle::InstanceId;
use tokio::net::UnixStream;

use crate::{
    Capabilities, Channel, Driver, DriverError, Exit, Footprint, Plan, Prepared, Presence, Started, VtpmProvisioner,
    WipeEvidence,
    api_vmm::ApiVmm,
    cgroup::Hierarchies,
    error::{Context, chain},
    layout::{GUEST_SOCKET, Layout},
    network::{self, Network},
    process,
    record::Record,
    socket, sys,
    work::{Locks, absolute, in_place, lock, off_thread},
};
use host::Accel;

/// How the driver is set up.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// For what must survive a restart of the host; on disk.
    pub state_dir: PathBuf,
    /// For sockets and mount points; guest memory is mounted below it.
    pub run_dir: PathBuf,
    /// The jail helper and its leading arguments; it must call [`crate::jail::main`] before it has a second thread.
    pub jail_command: Vec<OsString>,
    /// Which acceleration.
    pub accel: AccelChoice,
    /// The VMM.
    pub qemu: PathBuf,
    /// The vTPM.
    pub swtpm: PathBuf,
    /// Where instances get their network from; `None`: they have none.
    pub network: Option<Arc<Network>>,
    /// Name of the control group that those of all instances lie in, at the root of version 2; `None`: the root itself. Whoever
    /// watches over instances ends all of them by this one group.
    pub cgroup: Option<String>,
    /// First of 8192 user ids that nobody else on this host uses; every instance gets two.
    pub uid_base: u32,
}

impl QemuConfig {
    /// With the programs found on this host and the usual user ids.
    pub fn new(state_dir: PathBuf, run_dir: PathBuf, jail_command: Vec<OsString>) -> Self {
        Self {
            state_dir,
            run_dir,
            jail_command,
            accel: AccelChoice::Auto,
            qemu: host::find_program("qemu-system-x86_64"),
            swtpm: host::find_program("swtpm"),
            network: None,
            cgroup: None,
            uid_base: UID_BASE,
        }
    }
}

/// The driver. One per state directory.
#[derive(Debug)]
pub struct QemuDriver(Machines);

drives_machines!(QemuDriver);

impl QemuDriver {
    /// Finds out what the host can do. Blocks for a fraction of a second, or for some seconds when another driver still
    /// works on the same state.
    pub fn new(config: QemuConfig) -> Result<Self, DriverError> {
        let setup = Setup {
            state_dir: config.state_dir,
            run_dir: config.run_dir,
            jail_command: config.jail_command,
            program: config.qemu,
            swtpm: Some(config.swtpm),
            network: config.network,
            cgroup: config.cgroup,
            uid_base: config.uid_base,
        };
        let network = network::support(setup.network.as_deref());
        Machines::new(setup, |program| {
            let (capabilities, accel) = host::capabilities(program, config.accel, network)?;
            Ok((capabilities, Kind::Qemu(accel)))
        })
        .map(Self)
    }
}

/// How machines of any VMM are set up.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) jail_command: Vec<OsString>,
    /// The VMM.
    pub(crate) program: PathBuf,
    /// The vTPM, where the VMM has one.
    pub(crate) swtpm: Option<PathBuf>,
    pub(crate) network: Option<Arc<Network>>,
    pub(crate) cgroup: Option<String>,
    pub(crate) uid_base: u32,
}

/// Which VMM.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Arguments and QMP.
    Qemu(Accel),
    /// An HTTP API.
    Api(Box<dyn ApiVmm>),
}

/// The machines of one VMM on one state directory.
#[derive(Debug)]
pub(crate) struct Machines {
    host: Arc<Host>,
    locks: Locks,
}

/// What all operations share.
#[derive(Debug)]
pub(crate) struct Host {
    layout: Layout,
    jail_command: Vec<OsString>,
    program: PathBuf,
    swtpm: Option<PathBuf>,
    network: Option<Arc<Network>>,
    uid_base: u32,
    kind: Kind,
    hierarchies: Hierarchies,
    capabilities: Capabilities,
    children: process::Children,
    /// Held while an instance's users are chosen and written down.
    slots: Mutex<()>,
    _lock: File,
}

impl Host {
    fn program_name(&self) -> &'static str {
        match &self.kind {
            Kind::Qemu(_) => "qemu",
            Kind::Api(vmm) => vmm.program(),
        }
    }
}

impl Machines {
    /// `find` says what the host can do with the program.
    pub(crate) fn new(
        setup: Setup,
        find: impl FnOnce(&Path) -> Result<(Capabilities, Kind), DriverError>,
    ) -> Result<Self, DriverError> {
        if !rustix::process::geteuid().is_root() {
            let reason = "hint: run as root; jails need namespaces, mounts and user ids".to_owned();
            return Err(DriverError::Unsupported { what: "running machines as an ordinary user".to_owned(), reason });
        }
        let layout = Layout::new(absolute(&setup.state_dir)?, absolute(&setup.run_dir)?, setup.cgroup);
        for root in layout.roots() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&root).context("create", &root)?;
        }
        let lock = lock(&layout.lock())?;
        for program in std::iter::once(&setup.program).chain(&setup.swtpm) {
            fs::metadata(program).context("find the program", program)?;
        }
        let (capabilities, kind) = find(&setup.program)?;
        tracing::info!(vmm.name = capabilities.name, vmm.version = %capabilities.version, vmm.accel = capabilities.accel,
            reason = %capabilities.accel_reason, "machines can run");
        let hierarchies = Hierarchies::find(&layout.own_cgroup_mount())?;
        let host = Host {
            layout,
            jail_command: setup.jail_command,
            program: setup.program,
            swtpm: setup.swtpm,
            network: setup.network,
            uid_base: setup.uid_base,
            kind,
            hierarchies,
            capabilities,
            children: process::Children::default(),
            slots: Mutex::default(),
            _lock: lock,
        };
        Ok(Self { host: Arc::new(host), locks: Locks::default() })
    }

    /// The file with the last part of the instance's console.
    pub(crate) fn console_log(&self, id: &InstanceId) -> PathBuf {
        self.host.layout.places(id).console()
    }

    /// Runs blocking work under the instance's lock; both go on when the returned future is dropped.
    async fn locked<T: Send + 'static>(
        &self,
        id: &InstanceId,
        work: impl FnOnce(&Arc<Host>) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let guard = self.locks.lock(id).await;
        self.blocking(move |host| {
            let _guard = guard;
            work(host)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Host>) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let host = Arc::clone(&self.host);
        off_thread(move || work(&host)).await
    }

    /// Ends once the guest has ended and its VMM, which would stay, was ended for it; with a VMM that does not stay, never.
    async fn guest_is_over(&self, id: &InstanceId, record: &Record) -> Result<(), DriverError> {
        if let Kind::Qemu(_) = self.host.kind {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(OVER_PAUSE).await;
            let (places, seen) = (self.host.layout.places(id), record.clone());
            if self.blocking(move |host| Ok(machine::is_over(host, &places, &seen))).await? {
                let record = record.clone();
                return self.locked(id, move |host| machine::kill(host, &record)).await;
            }
        }
    }

    /// The record of an instance that must exist.
    fn record(&self, id: &InstanceId) -> Result<Record, DriverError> {
        Record::load(&self.host.layout.places(id))?.ok_or_else(|| DriverError::NoSuchInstance(id.clone()))
    }
}

#[async_trait]
impl Driver for Machines {
    fn capabilities(&self) -> &Capabilities {
        &self.host.capabilities
    }

    async fn prepare(&self, plan: &Plan, vtpm: &dyn VtpmProvisioner) -> Result<Prepared, DriverError> {
        self.host.capabilities.admit(plan)?;
        let guard = self.locks.lock(&plan.id).await;
        let for_begin = plan.clone();
        let (guard, begun) = self.blocking(move |host| Ok((guard, begin(host, &for_begin)))).await?;
        let mut begun = begun?;
        let session = begun.vtpm.as_mut();
        let provisioned = session.map(|session| in_place(|| vtpm.provision(&mut |command| session.transact(command))));
        let for_end = plan.clone();
        self.blocking(move |host| {
            let _guard = guard;
            let finished = match provisioned.transpose() {
                Ok(vtpm_ak_public) => machine::finish_prepare(host, &for_end, begun)
                    .map(|executed| Prepared { vtpm_ak_public, since_execution: executed.map(|at| at.elapsed()) }),
                Err(error) => {
                    drop(begun);
                    Err(DriverError::Process { program: "swtpm", detail: format!("provisioning: {error}") })
                }
            };
            finished.or_else(|error| undo(host, &for_end.id, error))
        })
        .await
    }

    async fn start(&self, plan: &Plan) -> Result<Started, DriverError> {
        let plan = plan.clone();
        self.locked(&plan.id.clone(), move |host| machine::start(host, &plan)).await
    }

    fn footprint(&self, id: &InstanceId) -> Option<Footprint> {
        let host = &self.host;
        let group = host.hierarchies.group(&host.layout.cgroup_name(), id.as_str());
        Some(Footprint { cgroup: group.unified().to_owned(), memory: vec![host.layout.places(id).ram()] })
    }

    async fn connect(&self, id: &InstanceId) -> Result<Box<dyn Channel>, DriverError> {
        let record = self.record(id)?;
        let directory = self.host.layout.places(id).run;
        let stream = match self.host.kind {
            Kind::Qemu(_) => {
                let reach = socket::reach(&directory)?;
                UnixStream::connect(reach.path(GUEST_SOCKET)).await
            }
            Kind::Api(_) => {
                let places = self.host.layout.places(id);
                self.blocking(move |host| Ok(machine::connect(host, &places, &record))).await?.and_then(UnixStream::from_std)
            }
        };
        Ok(Box::new(stream.context("connect to the guest channel in", &directory)?))
    }

    async fn wait(&self, id: &InstanceId) -> Result<Exit, DriverError> {
        // Not in the middle of a start, when there is no VMM yet.
        let guard = self.locks.lock(id).await;
        let record = self.record(id)?;
        let vmm = record.running_vmm();
        drop(guard);
        if let Some(vmm) = vmm {
            let path = PathBuf::from(format!("/proc/{}", vmm.pid));
            let handle = sys::watch(vmm.handle).context("watch the VMM", &path)?;
            tokio::select! {
                ended = handle.readable() => drop(ended.context("watch the VMM", &path)?),
                over = self.guest_is_over(id, &record) => over?,
            }
        }
        let places = self.host.layout.places(id);
        self.blocking(move |host| {
            machine::wait_for_supervisor(&record, jails::users(host, &record).vmm);
            host.children.reap();
            Ok(machine::exit(host, &places, &record))
        })
        .await
    }

    async fn kill(&self, id: &InstanceId) -> Result<(), DriverError> {
        let record = self.record(id)?;
        self.locked(id, move |host| machine::kill(host, &record)).await
    }

    async fn wipe(&self, id: &InstanceId) -> Result<WipeEvidence, DriverError> {
        let id = id.clone();
        self.locked(&id.clone(), move |host| wipe::wipe(host, &id)).await
    }

    async fn forget(&self, id: &InstanceId) -> Result<(), DriverError> {
        let id = id.clone();
        self.locked(&id.clone(), move |host| wipe::forget(host, &id)).await
    }

    async fn list(&self) -> Result<Vec<(InstanceId, Presence)>, DriverError> {
        self.blocking(|host| {
            let found = instances(host).into_iter().map(|id| {
                let record = Record::load(&host.layout.places(&id)).ok().flatten();
                let runs = record.is_some_and(|record| record.running_vmm().is_some());
                (id, if runs { Presence::Running } else { Presence::Remains })
            });
            Ok(found.collect())
        })
        .await
    }
}

/// What an earlier attempt left is wiped first; what fails half-way is wiped at once.
fn begin(host: &Arc<Host>, plan: &Plan) -> Result<machine::Begun, DriverError> {
    if let Some(record) = Record::load(&host.layout.places(&plan.id)).ok().flatten()
        && record.running_vmm().is_some()
    {
        let reason = "its machine runs".to_owned();
        return Err(DriverError::Unsupported { what: format!("preparing instance {} again", plan.id), reason });
    }
    wipe::wipe(host, &plan.id)?;
    wipe::forget(host, &plan.id)?;
    machine::prepare(host, plan).or_else(|error| undo(host, &plan.id, error))
}

fn undo<T>(host: &Host, id: &InstanceId, error: DriverError) -> Result<T, DriverError> {
    if let Err(second) = wipe::wipe(host, id).and_then(|_| wipe::forget(host, id)) {
        tracing::error!(instance.id = %id, error = %chain(&second), "cleaning up a failed preparation failed as well");
    }
    Err(error)
}

/// Every instance of which anything exists.
fn instances(host: &Host) -> Vec<InstanceId> {
    let entries = host.layout.roots().into_iter().filter_map(|root| fs::read_dir(root).ok()).flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let names = names.chain(host.hierarchies.instances(&host.layout.cgroup_name()));
    let mut ids: Vec<InstanceId> = names.filter_map(|name| name.parse().ok()).collect();
    ids.sort();
    ids.dedup();
    ids
}

pub(crate) const UID_BASE: u32 = 200_000;

/// How often a VMM that outlives its guest is looked at.
const OVER_PAUSE: Duration = Duration::from_millis(250);

//! Containers by an OCI runtime (`container`: runc, crun; `sandbox`: runsc), each behind a keeper of ours.
//!
//! The runtime is believed in nothing: it runs without any privilege over the host, in an almost empty root, in PID, mount and
//! user namespaces of the instance's own, which a keeper holds. Its command line is used as far as it starts the
//! container (`run --detach`); whether something runs is read from the instance's cgroup, and its end is the kernel's work.
//!
//! At these levels the host's root can read everything that a container has, and nothing here keeps him from it.

mod bundle;
mod container;
mod helpers;
mod keeper;
mod runtime;
mod spec;
mod syscalls;
mod trial;
mod wipe;

pub(crate) use keeper::main as keeper;
pub use runtime::{Compatible, Runtime};
pub use spec::LayerMounts;

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use casemate_lifecycle::InstanceId;
use tokio::net::UnixStream;

use crate::{
    Capabilities, Channel, Driver, DriverError, Exit, Footprint, Plan, Prepared, Presence, Started, VtpmProvisioner,
    WipeEvidence,
    cgroup::Hierarchies,
    error::{Context, chain},
    jail::{self, Helper, LaunchError},
    layout::{GUEST_SOCKET, Layout},
    network::{self, Network},
    process,
    record::{Record, Stage},
    socket, sys,
    work::{Locks, absolute, lock, off_thread},
};

use helpers::Helpers;

/// How the driver is set up.
#[derive(Debug, Clone)]
pub struct OciConfig {
    /// For what must survive a restart of the host; on disk.
    pub state_dir: PathBuf,
    /// For sockets and mount points; scratch is mounted below it.
    pub run_dir: PathBuf,
    /// The jail helper and its leading arguments; it must call [`crate::jail::main`], with what comes after them, before it has a
    /// second thread.
    pub jail_command: Vec<OsString>,
    /// Which runtime.
    pub runtime: Runtime,
    /// Its program.
    pub program: PathBuf,
    /// Where instances get their network from; `None`: they have loopback only.
    pub network: Option<Arc<Network>>,
    /// Name of the control group that those of all instances lie in, at the root of version 2; `None`: the root itself. Whoever
    /// watches over instances ends all of them by this one group.
    pub cgroup: Option<String>,
    /// First of 4096 times 65536 user ids that nobody else on this host uses; every instance gets 65536.
    pub uid_base: u32,
    /// How image layers are mounted.
    pub mounts: LayerMounts,
}

impl OciConfig {
    /// User ids that one driver needs.
    pub const ALL_USERS: u32 = ALL_USERS;

    /// With the program found on this host and the usual user ids.
    pub fn new(state_dir: PathBuf, run_dir: PathBuf, jail_command: Vec<OsString>, runtime: Runtime) -> Self {
        let (program, mounts) = (runtime.find(), LayerMounts::default());
        Self { state_dir, run_dir, jail_command, runtime, program, network: None, cgroup: None, uid_base: UID_BASE, mounts }
    }
}

/// The driver. One per state directory.
#[derive(Debug)]
pub struct OciDriver {
    host: Arc<Host>,
    locks: Locks,
}

/// What all operations share.
#[derive(Debug)]
struct Host {
    layout: Layout,
    jail_command: Vec<OsString>,
    runtime: Runtime,
    program: PathBuf,
    network: Option<Arc<Network>>,
    uid_base: u32,
    mounts: LayerMounts,
    hierarchies: Hierarchies,
    capabilities: Capabilities,
    children: process::Children,
    helpers: Helpers,
    /// Held while an instance's users are chosen and written down.
    slots: Mutex<()>,
    _lock: File,
}

impl Host {
    fn failed(&self, detail: String) -> DriverError {
        DriverError::Process { program: self.runtime.name(), detail }
    }

    /// The program of helpers that become keepers.
    fn keeper_command(&self) -> Vec<OsString> {
        self.jail_command.iter().cloned().chain([jail::CONTAINER.into()]).collect()
    }

    /// Starts a helper that waits for an order.
    fn helper(&self) -> Result<Helper, LaunchError> {
        Helper::spawn(&self.keeper_command())
    }
}

impl OciDriver {
    /// Finds out what the host can do. Blocks for a fraction of a second, or for some seconds when another driver still
    /// works on the same state.
    pub fn new(config: OciConfig) -> Result<Self, DriverError> {
        if !rustix::process::geteuid().is_root() {
            let reason = "hint: run as root; cgroups, mounts and ranges of user ids are made".to_owned();
            return Err(DriverError::Unsupported { what: "running containers as an ordinary user".to_owned(), reason });
        }
        if config.uid_base.checked_add(ALL_USERS).is_none() || config.uid_base < USERS {
            let reason = format!("{USERS} to {}", u32::MAX - ALL_USERS);
            return Err(DriverError::Unsupported { what: format!("user ids from {}", config.uid_base), reason });
        }
        let layout = Layout::new(absolute(&config.state_dir)?, absolute(&config.run_dir)?, config.cgroup);
        for root in layout.roots() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&root).context("create", &root)?;
        }
        let lock = lock(&layout.lock())?;
        let program = fs::canonicalize(&config.program).context("find the program", &config.program)?;
        let capabilities = config.runtime.capabilities(&program, network::support(config.network.as_deref()))?;
        tracing::info!(runtime.version = %capabilities.version, level = %capabilities.isolation, "containers run by an OCI runtime");
        let host = Host {
            hierarchies: Hierarchies::find(&layout.own_cgroup_mount())?,
            layout,
            jail_command: config.jail_command,
            runtime: config.runtime,
            program,
            network: config.network,
            uid_base: config.uid_base,
            mounts: config.mounts,
            capabilities,
            children: process::Children::default(),
            helpers: Helpers::default(),
            slots: Mutex::default(),
            _lock: lock,
        };
        trial::run(&host)?;
        Ok(Self { host: Arc::new(host), locks: Locks::default() })
    }

    /// The file with the last part of the instance's console.
    pub fn console_log(&self, id: &InstanceId) -> PathBuf {
        self.host.layout.places(id).console()
    }

    /// Runs blocking work under the instance's lock; both go on when the returned future is dropped.
    async fn locked<T: Send + 'static>(
        &self,
        id: &InstanceId,
        work: impl FnOnce(&Host) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let guard = self.locks.lock(id).await;
        let host = Arc::clone(&self.host);
        off_thread(move || {
            let _guard = guard;
            work(&host)
        })
        .await
    }

    /// The record of an instance that must exist.
    fn record(&self, id: &InstanceId) -> Result<Record, DriverError> {
        Record::load(&self.host.layout.places(id))?.ok_or_else(|| DriverError::NoSuchInstance(id.clone()))
    }
}

#[async_trait]
impl Driver for OciDriver {
    fn capabilities(&self) -> &Capabilities {
        &self.host.capabilities
    }

    async fn prepare(&self, plan: &Plan, _: &dyn VtpmProvisioner) -> Result<Prepared, DriverError> {
        self.host.capabilities.admit(plan)?;
        let plan = plan.clone();
        self.locked(&plan.id.clone(), move |host| {
            if Record::load(&host.layout.places(&plan.id)).ok().flatten().is_some_and(|record| runs(&record)) {
                let reason = "its container runs".to_owned();
                return Err(DriverError::Unsupported { what: format!("preparing instance {} again", plan.id), reason });
            }
            wipe::wipe(host, &plan.id)?;
            wipe::forget(host, &plan.id)?;
            container::prepare(host, &plan).or_else(|error| undo(host, &plan.id, error))?;
            Ok(Prepared { vtpm_ak_public: None, since_execution: None })
        })
        .await
    }

    async fn start(&self, plan: &Plan) -> Result<Started, DriverError> {
        let plan = plan.clone();
        self.locked(&plan.id.clone(), move |host| container::start(host, &plan)).await
    }

    fn footprint(&self, id: &InstanceId) -> Option<Footprint> {
        let group = self.host.hierarchies.group(&self.host.layout.cgroup_name(), id.as_str());
        Some(Footprint { cgroup: group.unified().to_owned(), memory: Vec::new() })
    }

    async fn connect(&self, id: &InstanceId) -> Result<Box<dyn Channel>, DriverError> {
        self.record(id)?;
        let directory = self.host.layout.places(id).run;
        let reach = socket::reach(&directory)?;
        let stream = UnixStream::connect(reach.path(GUEST_SOCKET)).await;
        Ok(Box::new(stream.context("connect to the guest channel in", &directory)?))
    }

    async fn wait(&self, id: &InstanceId) -> Result<Exit, DriverError> {
        // Not in the middle of a start, when there is no keeper yet.
        let guard = self.locks.lock(id).await;
        let record = self.record(id)?;
        let keeper = container::keeper(&record);
        drop(guard);
        if let Some(keeper) = keeper {
            let path = PathBuf::from(format!("/proc/{}", keeper.pid));
            let handle = sys::watch(keeper.handle).context("watch the keeper", &path)?;
            let _ended = handle.readable().await.context("watch the keeper", &path)?;
        }
        self.host.children.reap();
        let record = self.record(id)?;
        Ok(container::exit(&self.host.layout.places(id), &record))
    }

    async fn kill(&self, id: &InstanceId) -> Result<(), DriverError> {
        let record = self.record(id)?;
        self.locked(id, move |host| container::kill(host, &record)).await
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
        let host = Arc::clone(&self.host);
        off_thread(move || {
            let found = instances(&host).into_iter().map(|id| {
                let record = Record::load(&host.layout.places(&id)).ok().flatten();
                (id, if record.is_some_and(|record| runs(&record)) { Presence::Running } else { Presence::Remains })
            });
            Ok(found.collect())
        })
        .await
    }
}

fn runs(record: &Record) -> bool {
    record.stage == Stage::Started && container::keeper(record).is_some()
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

/// User and group ids of one instance.
pub(crate) const USERS: u32 = 65_536;

/// Those of all instances: 4096 of them.
const ALL_USERS: u32 = 4096 * USERS;

/// Far above people, services and the ranges of `/etc/subuid`.
const UID_BASE: u32 = 0x4000_0000;

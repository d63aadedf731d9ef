//! Machines that are played within the process: for demonstrations and for tests of everything above the driver.
//!
//! Nothing is isolated and nothing is secret here: capabilities name the machine `fake`, and every item of a wipe begins with
//! `simulated`. A marker file per instance outlives the process, as remains of a real machine would.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use casemate_lifecycle::InstanceId;
use sha2::{Digest, Sha256};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, watch},
    task::AbortHandle,
};

use crate::{
    Capabilities, Channel, Driver, DriverError, Exit, ExitCause, Features, Footprint, GuestChannel, Isolation, JailReport, Plan,
    Prepared, Presence, Started, Support, SystemKind, Topology, VmmReport, VtpmProvisioner, WipeEvidence, WipedItem,
    error::Context,
};

/// Plays the guests.
#[async_trait]
pub trait FakeGuest: Send + Sync + 'static {
    /// Answers one command to the instance's vTPM, which is fresh at the first one. Only called before the machine runs.
    fn vtpm(&self, id: &InstanceId, command: &[u8]) -> io::Result<Vec<u8>>;

    /// Plays the machine from its start to its end; dropped when the machine is killed.
    async fn run(&self, machine: FakeMachine) -> ExitCause;

    /// The instance was wiped; whatever is kept of it (such as its vTPM) goes.
    fn forget(&self, id: &InstanceId);
}

/// A machine as its guest sees it.
#[derive(Debug)]
pub struct FakeMachine {
    plan: Plan,
    connections: mpsc::Receiver<DuplexStream>,
    console: Arc<Mutex<String>>,
}

impl FakeMachine {
    /// What it is made of.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The guest's end of the next connection of the channel; `None` when there will be no more.
    pub async fn accept(&mut self) -> Option<DuplexStream> {
        self.connections.recv().await
    }

    /// Writes a line to the console.
    pub fn print(&self, line: &str) {
        let mut console = held(&self.console);
        console.push_str(line);
        console.push('\n');
        let excess = console.len().saturating_sub(CONSOLE_LIMIT);
        let cut = (excess..=console.len()).find(|at| console.is_char_boundary(*at)).unwrap_or_default();
        console.drain(..cut);
    }
}

/// How the driver is set up.
#[derive(Debug, Clone)]
pub struct FakeConfig {
    /// For the marker files.
    pub state_dir: PathBuf,
    /// What `start` reports.
    pub jail: JailReport,
    /// See `jail`.
    pub vmm: VmmReport,
    /// What goes wrong.
    pub faults: Faults,
}

impl FakeConfig {
    /// A jail as it should be, and no faults.
    pub fn new(state_dir: PathBuf) -> Self {
        let namespaces = ["cgroup", "ipc", "mnt", "net", "pid", "uts"].map(str::to_owned).to_vec();
        let jail = JailReport { uid: 65534, no_new_privs: true, seccomp: true, capabilities: 0, namespaces, cgroup: true };
        Self { state_dir, jail, vmm: VmmReport::default(), faults: Faults::default() }
    }
}

/// Faults by chance, the same ones for the same seed and order of calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Where chance begins.
    pub seed: u64,
    /// How many of a thousand preparations fail.
    pub prepare_per_mille: u64,
    /// How many of a thousand starts fail.
    pub start_per_mille: u64,
}

/// The driver.
pub struct FakeDriver {
    config: FakeConfig,
    guest: Arc<dyn FakeGuest>,
    capabilities: Capabilities,
    state: Mutex<State>,
}

struct State {
    machines: BTreeMap<InstanceId, Machine>,
    chance: u64,
}

struct Machine {
    console: Arc<Mutex<String>>,
    /// Dropped at the machine's end, by which the guest's side learns of it.
    running: Option<Running>,
    started: bool,
    end: watch::Sender<Option<ExitCause>>,
}

struct Running {
    connections: mpsc::Sender<DuplexStream>,
    task: AbortHandle,
}

impl FakeDriver {
    /// A driver whose guests are played by `guest`.
    pub fn new(config: FakeConfig, guest: Arc<dyn FakeGuest>) -> Result<Self, DriverError> {
        fs::create_dir_all(&config.state_dir).context("create", &config.state_dir)?;
        let capabilities = Capabilities {
            name: "fake",
            version: concat!("casemate fake ", env!("CARGO_PKG_VERSION")).to_owned(),
            digest: Sha256::digest(b"casemate/fake-vmm/v1").into(),
            machine: "fake",
            accel: "tcg",
            accel_reason: "machines are only played".to_owned(),
            isolation: Isolation::Microvm,
            system: SystemKind::Machine,
            channel: GuestChannel::Memory,
            max_disks: 21,
            max_cpus: 16,
            memory_mib: 1..=u64::from(u32::MAX),
            scratch_mib: 1..=u64::from(u32::MAX),
            tsc_khz: Some(1_000_000),
            topology: Topology::default(),
            features: Features { vtpm: Support::Yes, ..Features::none("a played machine has none") },
        };
        let state = Mutex::new(State { machines: BTreeMap::new(), chance: config.faults.seed });
        Ok(Self { config, guest, capabilities, state })
    }

    fn marker(&self, id: &InstanceId) -> PathBuf {
        self.config.state_dir.join(format!("{id}.fake"))
    }

    fn chance(&self, per_mille: u64) -> bool {
        let mut state = held(&self.state);
        state.chance = state.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state.chance;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % 1000 < per_mille
    }

    fn end(&self, id: &InstanceId, cause: ExitCause) {
        if let Some(machine) = held(&self.state).machines.get_mut(id)
            && let Some(running) = machine.running.take()
        {
            running.task.abort();
            machine.end.send_if_modified(|end| end.is_none().then(|| *end = Some(cause)).is_some());
        }
    }

    fn launch(&self, plan: &Plan) -> Result<(), DriverError> {
        let mut state = held(&self.state);
        let machine = state.machines.get_mut(&plan.id).ok_or_else(|| DriverError::NoSuchInstance(plan.id.clone()))?;
        if machine.runs() {
            return Ok(());
        }
        if machine.started {
            return Err(DriverError::Process { program: "fake", detail: "the machine has ended".to_owned() });
        }
        machine.started = true;
        let (connections, received) = mpsc::channel(CONNECTIONS_LIMIT);
        let (guest, end) = (Arc::clone(&self.guest), machine.end.clone());
        let seen = FakeMachine { plan: plan.clone(), connections: received, console: Arc::clone(&machine.console) };
        // Owned by its entry in the table: aborted by `kill`, `wipe` and the driver's own end.
        let task = tokio::spawn(async move {
            let cause = guest.run(seen).await;
            end.send_if_modified(|end| end.is_none().then(|| *end = Some(cause)).is_some());
        });
        machine.running = Some(Running { connections, task: task.abort_handle() });
        Ok(())
    }
}

impl Drop for FakeDriver {
    fn drop(&mut self) {
        for machine in held(&self.state).machines.values_mut() {
            if let Some(running) = machine.running.take() {
                running.task.abort();
            }
        }
    }
}

#[async_trait]
impl Driver for FakeDriver {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn prepare(&self, plan: &Plan, vtpm: &dyn VtpmProvisioner) -> Result<Prepared, DriverError> {
        self.capabilities.admit(plan)?;
        if held(&self.state).machines.get(&plan.id).is_some_and(Machine::runs) {
            let reason = "its machine runs".to_owned();
            return Err(DriverError::Unsupported { what: format!("preparing instance {} again", plan.id), reason });
        }
        self.wipe(&plan.id).await?;
        self.forget(&plan.id).await?;
        if self.chance(self.config.faults.prepare_per_mille) {
            return Err(DriverError::Process { program: "fake", detail: "an injected fault".to_owned() });
        }
        let marker = self.marker(&plan.id);
        fs::write(&marker, "").context("create", &marker)?;
        let machine = Machine { console: Arc::default(), running: None, started: false, end: watch::Sender::new(None) };
        held(&self.state).machines.insert(plan.id.clone(), machine);
        match vtpm.provision(&mut |command| self.guest.vtpm(&plan.id, command)) {
            Ok(public) => Ok(Prepared { vtpm_ak_public: Some(public), since_execution: None }),
            Err(error) => {
                self.wipe(&plan.id).await?;
                self.forget(&plan.id).await?;
                Err(DriverError::Process { program: "swtpm", detail: format!("provisioning: {error}") })
            }
        }
    }

    async fn start(&self, plan: &Plan) -> Result<Started, DriverError> {
        if self.chance(self.config.faults.start_per_mille) {
            return Err(DriverError::Process { program: "fake", detail: "an injected fault".to_owned() });
        }
        self.launch(plan)?;
        Ok(Started { jail: self.config.jail.clone(), vmm: self.config.vmm.clone(), since_execution: None })
    }

    async fn connect(&self, id: &InstanceId) -> Result<Box<dyn Channel>, DriverError> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let connections = {
            let state = held(&self.state);
            let machine = state.machines.get(id).ok_or_else(|| DriverError::NoSuchInstance(id.clone()))?;
            machine.running.as_ref().map(|running| running.connections.clone())
        };
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let sent = match connections {
            Some(connections) => connections.send(theirs).await.map_err(|_| refused()),
            None => Err(refused()),
        };
        sent.context("connect to the guest channel in", &self.marker(id))?;
        Ok(Box::new(ours))
    }

    async fn wait(&self, id: &InstanceId) -> Result<Exit, DriverError> {
        let (console, mut end) = {
            let state = held(&self.state);
            let machine = state.machines.get(id);
            let machine = match machine {
                Some(machine) => machine,
                None if self.marker(id).exists() => return Ok(lost()),
                None => return Err(DriverError::NoSuchInstance(id.clone())),
            };
            if !machine.started {
                return Ok(Exit { cause: ExitCause::Vmm("the machine was not started".to_owned()), ..lost() });
            }
            (Arc::clone(&machine.console), machine.end.subscribe())
        };
        let cause = end.wait_for(Option::is_some).await.ok().and_then(|cause| cause.clone());
        let console_tail = held(&console).clone();
        Ok(cause.map_or_else(lost, |cause| Exit { cause, console_tail }))
    }

    async fn kill(&self, id: &InstanceId) -> Result<(), DriverError> {
        if !held(&self.state).machines.contains_key(id) && !self.marker(id).exists() {
            return Err(DriverError::NoSuchInstance(id.clone()));
        }
        self.end(id, ExitCause::Vmm("killed by signal 9".to_owned()));
        Ok(())
    }

    async fn wipe(&self, id: &InstanceId) -> Result<WipeEvidence, DriverError> {
        let begin = Instant::now();
        self.end(id, ExitCause::Vmm("killed by signal 9".to_owned()));
        held(&self.state).machines.remove(id);
        self.guest.forget(id);
        let duration_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        // The marker stays until the instance is forgotten: a second wipe says the same.
        Ok(evidence(self.marker(id).exists(), duration_ms))
    }

    async fn forget(&self, id: &InstanceId) -> Result<(), DriverError> {
        if held(&self.state).machines.contains_key(id) {
            return Ok(());
        }
        let marker = self.marker(id);
        match fs::remove_file(&marker) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("remove", &marker),
            _ => Ok(()),
        }
    }

    /// Nothing of it is more than played.
    fn footprint(&self, _: &InstanceId) -> Option<Footprint> {
        None
    }

    async fn list(&self) -> Result<Vec<(InstanceId, Presence)>, DriverError> {
        let directory = &self.config.state_dir;
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(directory).context("read", directory)? {
            let name = entry.context("read", directory)?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".fake")).and_then(|name| name.parse().ok());
            if let Some(id) = id {
                found.insert(id, Presence::Remains);
            }
        }
        for (id, machine) in &held(&self.state).machines {
            found.insert(id.clone(), if machine.runs() { Presence::Running } else { Presence::Remains });
        }
        Ok(found.into_iter().collect())
    }
}

impl Machine {
    fn runs(&self) -> bool {
        self.running.is_some() && self.end.borrow().is_none()
    }
}

/// The end of a machine whose process ended with another process of ours.
fn lost() -> Exit {
    Exit { cause: ExitCause::Vmm("it ended, and how is not known".to_owned()), console_tail: String::new() }
}

fn evidence(existed: bool, duration_ms: u64) -> WipeEvidence {
    let words = [
        ("guest-ram", "overwritten"),
        ("scratch", "crypto-erased"),
        ("vtpm", "overwritten"),
        ("jail", "removed"),
        ("cgroup", "removed"),
    ];
    let item = |(name, method)| {
        let method = if existed { method } else { "never-existed" };
        let detail = if existed { "simulated: a played machine has none" } else { "no trace of the instance on this host" };
        (name, WipedItem { method, verified: true, detail: detail.to_owned(), bytes: 0, duration_ms })
    };
    WipeEvidence { items: words.map(item).into_iter().collect() }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that one side may be ahead of the other.
const PIPE_BYTES: usize = 64 * 1024;

/// Connections that the guest has not accepted yet.
const CONNECTIONS_LIMIT: usize = 4;

const CONSOLE_LIMIT: usize = 4096;

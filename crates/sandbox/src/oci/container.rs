//! Making, starting and ending one container. All calls block; the driver gives them a thread.

use std::{
    fs::{self, OpenOptions, Permissions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    sync::PoisonError,
    time::{Duration, Instant},
};

use rustix::{
    mount::MountFlags,
    process::{Resource, getrlimit},
};

use super::{
    Host, USERS, bundle,
    spec::{Answer, Connection, ContainerSpec, Order},
};
use crate::{
    ContainerSystem, DriverError, Exit, ExitCause, JailReport, Plan, SharedKind, Started, VmmReport,
    cgroup::Limits,
    console,
    error::{Context, chain},
    jail::{Heard, Helper, LaunchError},
    layout::{GUEST_SOCKET, Places},
    network::{self, Network},
    observe,
    process::{self, Process},
    record::{Record, Stage},
    socket::listen,
};

/// Makes everything that a container needs; runs nothing but a helper that waits.
pub(super) fn prepare(host: &Host, plan: &Plan) -> Result<(), DriverError> {
    let container = system(plan)?;
    bundle::check(plan, container)?;
    let names = network::of(host.network.as_deref(), plan)?.map(|network| network.resolver_file(&plan.id)).transpose()?;
    for layer in &container.layers {
        regular(&layer.path)?;
    }
    for file in plan.disks.iter().map(|disk| &disk.path).chain([&container.init]) {
        readable(file)?;
    }
    let places = host.layout.places(&plan.id);
    let mut record = open_record(host, plan, &places)?;
    // The disk takes its time, and nothing of the rest is on it. Later versions of the record need not outlive the host: nothing else of
    // the instance does, and a wipe after a restart of the host believes no stage.
    std::thread::scope(|scope| {
        let settled = scope.spawn(|| Record::settle(&places));
        let made = make_all(host, plan, names, &places, &record);
        settled.join().expect("it does not panic").and(made)
    })?;
    record.stage = Stage::Prepared;
    record.note(&places)
}

fn make_all(host: &Host, plan: &Plan, names: Option<String>, places: &Places, record: &Record) -> Result<(), DriverError> {
    let container = system(plan)?;
    let user = first_user(host, record);
    record.group.create(&limits(plan))?;
    // Its execution and its mounts take their time.
    let helper = host.helper().map_err(|error| host.failed(chain(&error)))?;
    for directory in [places.run.clone(), places.jail_root(), bundle_dir(places)] {
        make(&directory, 0o755, None)?;
    }
    make(&runtime_dir(places), 0o700, Some(user))?;
    make_scratch(places, plan, container, user)?;
    if let Some(names) = names {
        let path = places.memory.join(bundle::NAMES);
        fs::write(&path, names).context("write", &path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644)).context("set the mode of", &path)?;
    }
    let config = bundle_dir(places).join("config.json");
    let text = serde_json::to_vec(&bundle::config(plan, container, most_files())).expect("texts and numbers");
    fs::write(&config, text).context("write the bundle", &config)?;
    order(host, plan, places, record, &helper)?;
    host.helpers.keep(&plan.id, helper);
    Ok(())
}

/// The capabilities have admitted nothing else.
fn system(plan: &Plan) -> Result<&ContainerSystem, DriverError> {
    let reason = || "it has a kernel of its own".to_owned();
    plan.container().ok_or_else(|| DriverError::Unsupported { what: "a machine".to_owned(), reason: reason() })
}

fn regular(path: &Path) -> Result<fs::Metadata, DriverError> {
    let metadata = fs::symlink_metadata(path).context("find", path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")).context("use", path);
    }
    Ok(metadata)
}

/// Nobody in the container is its owner, whoever that is.
fn readable(path: &Path) -> Result<(), DriverError> {
    let metadata = regular(path)?;
    if metadata.permissions().mode() & 0o004 == 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not readable for all")).context("use", path);
    }
    Ok(())
}

/// Writes down what is about to be made. One at a time, so that no two instances take the same users.
fn open_record(host: &Host, plan: &Plan, places: &Places) -> Result<Record, DriverError> {
    let _alone = host.slots.lock().unwrap_or_else(PoisonError::into_inner);
    let mut taken: Vec<u32> = Vec::new();
    for id in super::instances(host) {
        taken.extend(Record::load(&host.layout.places(&id)).ok().flatten().and_then(|record| record.slot));
    }
    let used = process::users_in_use();
    let is_free = |slot: &u32| {
        let users = users_of(host.uid_base, *slot);
        !taken.contains(slot) && !used.iter().any(|user| users.contains(user))
    };
    let slot = (0..MOST_SLOTS).find(is_free).ok_or_else(|| DriverError::Unsupported {
        what: "another instance".to_owned(),
        reason: format!("all {MOST_SLOTS} ranges of user ids are taken"),
    })?;
    let group = host.hierarchies.group(&host.layout.cgroup_name(), plan.id.as_str());
    let record = Record::new(Some(slot), group, Vec::new());
    make(&places.state, 0o700, None)?;
    record.note(places)?;
    Ok(record)
}

fn limits(plan: &Plan) -> Limits {
    // Scratch is memory as well.
    Limits { memory_bytes: (plan.memory_mib + plan.scratch_mib + OVERHEAD_MIB) << 20, pids: MOST_PROCESSES, cpus: plan.cpus }
}

fn users_of(base: u32, slot: u32) -> std::ops::Range<u32> {
    let first = base + slot * USERS;
    first..first + USERS
}

fn first_user(host: &Host, record: &Record) -> u32 {
    users_of(host.uid_base, record.slot.unwrap_or_default()).start
}

/// The mode is the one given, whatever the mask.
fn make(path: &Path, mode: u32, owner: Option<u32>) -> Result<(), DriverError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).context("create", path)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).context("set the mode of", path)?;
    if owner.is_some() {
        chown(path, owner, owner).context("give to the instance", path)?;
    }
    Ok(())
}

/// A tmpfs, so that what is on it can be overwritten where it lies.
fn make_scratch(places: &Places, plan: &Plan, container: &ContainerSystem, user: u32) -> Result<(), DriverError> {
    let scratch = &places.memory;
    fs::create_dir_all(scratch).context("create", scratch)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    // Kernels before 6.4 do not know `noswap`; there the cgroup forbids swapping.
    let mounted = ["mode=0700,noswap", "mode=0700"].into_iter().find_map(|options| {
        let options = std::ffi::CString::new(format!("{options},size={}m", plan.scratch_mib)).ok()?;
        rustix::mount::mount("casemate", scratch, "tmpfs", flags, options.as_c_str()).ok()
    });
    mounted.ok_or_else(io::Error::last_os_error).context("mount scratch at", scratch)?;
    let directories = [("upper", 0o755), ("work", 0o755), ("tmp", 0o1777), ("shm", 0o1777), ("shared", 0o755)];
    for (name, mode) in directories {
        make(&scratch.join(name), mode, Some(user))?;
    }
    for shared in &container.shared {
        let path = scratch.join("shared").join(&shared.name);
        match shared.kind {
            SharedKind::WritableDir => make(&path, 0o755, Some(user))?,
            SharedKind::ReadOnlyFile => {
                OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path).context("create", &path)?;
                chown(&path, Some(user), Some(user)).context("give to the instance", &path)?;
            }
        }
    }
    chown(scratch, Some(user), Some(user)).context("give to the instance", scratch)
}

/// Starts the container; a running one is only looked at again.
pub(super) fn start(host: &Host, plan: &Plan) -> Result<Started, DriverError> {
    let places = host.layout.places(&plan.id);
    let mut record = Record::load(&places)?.ok_or_else(|| DriverError::NoSuchInstance(plan.id.clone()))?;
    if record.stage == Stage::Started && keeper(&record).is_some() {
        return Ok(Started { jail: observed(host, &record)?, vmm: memory(&record), since_execution: None });
    }
    if record.stage != Stage::Prepared {
        return Err(host.failed("the instance is not prepared, or its container has ended".to_owned()));
    }
    record.stage = Stage::Started;
    record.note(&places)?;
    let started = launch(host, plan, &places, &record).and_then(|init| {
        record.init = Some(init);
        record.note(&places)?;
        observed(host, &record)
    });
    started.map(|jail| Started { jail, vmm: memory(&record), since_execution: None }).inspect_err(|_| {
        // Whatever it was that started, none of it goes on.
        if let Err(error) = record.group.kill() {
            tracing::error!(instance.id = %plan.id, error = %chain(&error), "could not end a failed container");
        }
        host.children.reap();
    })
}

/// Tells the helper what to make. It mounts at once, and runs nothing before the start.
fn order(host: &Host, plan: &Plan, places: &Places, record: &Record, helper: &Helper) -> Result<(), DriverError> {
    let container = system(plan)?;
    let network = network::of(host.network.as_deref(), plan)?;
    let network = if network.is_some() { Connection::Link } else { Connection::None };
    let spec = ContainerSpec {
        instance: plan.id.to_string(),
        runtime: host.runtime.name().to_owned(),
        arguments: host.runtime.arguments(network),
        program: host.program.clone(),
        root: places.jail_root(),
        group: record.group.clone(),
        first_user: first_user(host, record),
        layers: container.layers.iter().map(|layer| layer.path.clone()).collect(),
        mounts: host.mounts,
        scratch: places.memory.clone(),
        state: runtime_dir(places),
        bundle: bundle_dir(places),
        init: container.init.clone(),
        disks: plan.disks.iter().map(|disk| (disk.serial.clone(), disk.path.clone())).collect(),
        network,
    };
    let open = |path: &Path| {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path);
        file.map(OwnedFd::from).context("create", path)
    };
    let descriptors = [open(&places.console())?, open(&places.ended())?, listen(&places.run, GUEST_SOCKET)?];
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    helper.order(&Order::Run(Box::new(spec)), &borrowed).map_err(|error| host.failed(chain(&error)))
}

fn launch(host: &Host, plan: &Plan, places: &Places, record: &Record) -> Result<i32, DriverError> {
    let network = network::of(host.network.as_deref(), plan)?;
    let reply = |answer: &[u8]| match (serde_json::from_slice(answer), network) {
        (Ok(Answer::Network), Some(network)) => connect(network, plan, record).map(|()| Heard::Question(GO)),
        _ => Ok(Heard::Last),
    };
    let failed = |error: LaunchError| host.failed(chain(&error));
    let helper = match host.helpers.take(&plan.id) {
        Some(helper) => helper,
        // An earlier process has prepared it; its helper ended with it.
        None => {
            let helper = host.helper().map_err(failed)?;
            order(host, plan, places, record, &helper)?;
            helper
        }
    };
    helper.tell(GO);
    let (helper, answer) = helper.hear(START_LIMIT, reply).map_err(failed)?;
    host.children.adopt(helper);
    match serde_json::from_slice(&answer) {
        Ok(Answer::Ready { init }) => Ok(init),
        Ok(Answer::Failed(failed)) => Err(host.failed(format!("{}: {}", failed.attempt, failed.detail))),
        Ok(Answer::Network) => Err(host.failed("the keeper asks for a network that nobody asked for".to_owned())),
        Ok(Answer::Mounts(_)) | Err(_) => Err(host.failed(format!("the keeper ended without an answer: {}", last_line(places)))),
    }
}

/// The keeper has made the namespace, and waits.
fn connect(network: &Network, plan: &Plan, record: &Record) -> io::Result<()> {
    let keeper = keeper(record).ok_or_else(|| io::Error::other("the keeper has ended"))?;
    network.plug_process(&plan.id, keeper.pid).map_err(|error| io::Error::other(chain(&error)))
}

/// Once the container's own program runs, with all that holds it; a runtime applies the last of it just before.
fn observed(host: &Host, record: &Record) -> Result<JailReport, DriverError> {
    let users = users_of(host.uid_base, record.slot.unwrap_or_default());
    let begin = Instant::now();
    loop {
        let Some(init) = init(record) else {
            return Err(host.failed("the container ended at once".to_owned()));
        };
        match observe::observe_container(init.pid, users.clone(), &record.group) {
            Ok(report) => return Ok(report),
            Err(error) if begin.elapsed() > HOLD_LIMIT => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// There is no VMM: its memory is that of the processes in its group.
fn memory(record: &Record) -> VmmReport {
    VmmReport { memory_no_swap: Some(record.group.forbids_swap()), ..VmmReport::default() }
}

/// Process 1 of the outermost PID namespace of the instance.
pub(super) fn keeper(record: &Record) -> Option<Process> {
    if record.host_restarted() { None } else { process::find_inner(&record.group, |ids| ids == [1]) }
}

fn init(record: &Record) -> Option<Process> {
    let wanted = record.init?;
    if record.host_restarted() { None } else { process::find_inner(&record.group, |ids| ids.first() == Some(&wanted)) }
}

/// Ends the container; its keeper then writes down how.
pub(super) fn kill(host: &Host, record: &Record) -> Result<(), DriverError> {
    let Some(keeper) = keeper(record) else { return Ok(()) };
    if init(record).is_some_and(|init| init.kill(DEATH_LIMIT)) && keeper.ends_within(KEEPER_LIMIT) {
        return Ok(());
    }
    record.group.kill()?;
    host.children.reap();
    Ok(())
}

/// Why the container ended, from what it left.
pub(super) fn exit(places: &Places, record: &Record) -> Exit {
    if matches!(record.stage, Stage::Preparing | Stage::Prepared) {
        let cause = ExitCause::Vmm("the machine was not started".to_owned());
        return Exit { cause, console_tail: String::new() };
    }
    let log = fs::read(places.console()).unwrap_or_default();
    let ended = fs::read(places.ended()).ok().and_then(|text| serde_json::from_slice(&text).ok());
    console::judge(&log, ended, &[])
}

fn last_line(places: &Places) -> String {
    let text = fs::read(places.console()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().last().unwrap_or("and nothing was said").to_owned()
}

fn runtime_dir(places: &Places) -> PathBuf {
    places.run.join("runtime")
}

fn bundle_dir(places: &Places) -> PathBuf {
    places.run.join("bundle")
}

/// Not more than we have ourselves: nobody in a user namespace can raise it.
fn most_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.map_or(MOST_FILES, |most| most.min(MOST_FILES))
}

/// What a waiting helper or keeper is told.
const GO: &[u8] = b"go";

/// The runtime, the keeper, the console.
const OVERHEAD_MIB: u64 = 128;

const MOST_PROCESSES: u32 = 4096;

const MOST_FILES: u64 = 65_536;

const MOST_SLOTS: u32 = 4096;

/// From the specification to the container's start; a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(120);

/// From the runtime's word that it started to the last of what holds the container.
const HOLD_LIMIT: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_micros(500);

const DEATH_LIMIT: Duration = Duration::from_secs(20);

/// From the container's end to the keeper's: it writes down a number.
const KEEPER_LIMIT: Duration = Duration::from_secs(20);

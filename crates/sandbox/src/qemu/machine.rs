//! Making, starting and ending one machine. All calls block; the driver gives them a thread.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, OpenOptionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{Host, Kind, command, host::Accel, jails, qmp::Qmp, vtpm};
use crate::{
    DriverError, Exit, ExitCause, JailReport, MachineSystem, Plan, Started,
    api_vmm::{self, ApiVmm, GuestMemory, Scene},
    cgroup::Limits,
    console,
    error::{Context, chain, millis},
    jail::{self, JailSpec},
    layout::{GUEST_SOCKET, Places, QMP_SOCKET},
    memory,
    network::{self, Card},
    observe, observe_vmm,
    process::{self, Process, Users},
    record::{Record, Stage, sync_directory},
    socket::{listen, reach},
};

/// A preparation that waits for the content of the vTPM.
pub(crate) struct Begun {
    /// The fresh vTPM, where the VMM has one.
    pub(crate) vtpm: Option<vtpm::Session>,
    early: Option<Early>,
}

/// A VMM that is executed while its vTPM is being filled: each takes as long. It waits for the vTPM, and then for its order to run.
struct Early {
    execution: Option<JoinHandle<Result<Executed, DriverError>>>,
    vtpm_end: Option<OwnedFd>,
}

/// A VMM that was executed.
struct Executed {
    at: Instant,
    landlock: u32,
}

impl Early {
    /// Waits until the VMM was executed.
    fn executed(&mut self) -> Option<Result<Executed, DriverError>> {
        let execution = self.execution.take()?;
        Some(execution.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Early {
    /// Whoever cleans up afterwards must find the process that is just being made.
    fn drop(&mut self) {
        if let Some(execution) = self.execution.take() {
            let _ = execution.join();
        }
    }
}

/// Makes everything that a machine needs, and starts the fresh vTPM for provisioning, where the VMM has one.
pub(crate) fn prepare(host: &Arc<Host>, plan: &Plan) -> Result<Begun, DriverError> {
    let machine = system(plan)?;
    let has_ram_file = match &host.kind {
        Kind::Qemu(_) => true,
        Kind::Api(vmm) => {
            api_vmm::check_disks(vmm.program(), &plan.disks)?;
            vmm.guest_memory() == GuestMemory::File
        }
    };
    let places = host.layout.places(&plan.id);
    let record = open_record(host, plan, &places)?;
    let users = jails::users(host, &record);
    make_directory(&places.run)?;
    make_directory(&places.jail_root())?;
    record.group.create(&limits(host, plan))?;
    let given = [(&machine.kernel, places.kernel()), (&machine.initrd, places.initrd())];
    let ram = if has_ram_file { plan.memory_mib << 20 } else { 0 };
    let size = given.iter().try_fold(ram + MEMORY_SLACK, |sum, (from, _)| {
        fs::metadata(from).map(|metadata| sum + metadata.len()).context("measure", from)
    })?;
    memory::mount(&places, size, plan.placements())?;
    let rest = || {
        if has_ram_file {
            memory::create_ram(&places, ram, users.vmm)?;
        }
        for (from, to) in &given {
            stage(from, to, users)?;
        }
        create_scratch(&places, plan.scratch_mib << 20)?;
        match host.kind {
            Kind::Qemu(accel) => execute_early(host, &places, &record, plan, accel).map(Some),
            Kind::Api(_) => give_to_api_vmm(&places, users).map(|()| None),
        }
    };
    // The vTPM's process makes the TPM while the rest is made.
    let (vtpm, early) = std::thread::scope(|scope| {
        let vtpm = scope.spawn(|| host.swtpm.is_some().then(|| fresh_vtpm(host, &places, &record, users)).transpose());
        let early = rest();
        (vtpm.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), early)
    });
    Ok(Begun { vtpm: vtpm?, early: early? })
}

fn fresh_vtpm(host: &Host, places: &Places, record: &Record, users: Users) -> Result<vtpm::Session, DriverError> {
    vtpm::create(places, users.vtpm)?;
    vtpm::Session::start(host, places, record)
}

fn execute_early(host: &Arc<Host>, places: &Places, record: &Record, plan: &Plan, accel: Accel) -> Result<Early, DriverError> {
    let spec = jails::vmm(host, places, record, plan, accel, largest_file(plan));
    let (vtpm_end, vmm_end) = vtpm::connection(places)?;
    let descriptors = descriptors(host, places, vmm_end, plan)?;
    let (host, record) = (Arc::clone(host), record.clone());
    let execution = std::thread::spawn(move || execute(&host, &record, &spec, &descriptors));
    Ok(Early { execution: Some(execution), vtpm_end: Some(vtpm_end) })
}

/// Ends provisioning; afterwards the machine can be started. Says when its VMM was executed, if it was.
pub(crate) fn finish_prepare(host: &Host, plan: &Plan, begun: Begun) -> Result<Option<Instant>, DriverError> {
    let Begun { vtpm, early } = begun;
    if let Some(session) = vtpm {
        session.store_and_end()?;
    }
    let places = host.layout.places(&plan.id);
    let mut record = load(host, plan)?;
    let mut executed = None;
    if let Some(mut early) = early {
        if let Some(end) = early.vtpm_end.take() {
            vtpm::serve(host, &places, &record, vtpm::Connection::Connected(end))?;
        }
        executed = early.executed().transpose()?;
    }
    record.stage = Stage::Prepared;
    record.landlock = executed.as_ref().map(|executed| executed.landlock);
    record.save(&places)?;
    Ok(executed.map(|executed| executed.at))
}

/// The capabilities have admitted nothing else.
fn system(plan: &Plan) -> Result<&MachineSystem, DriverError> {
    plan.machine()
        .ok_or_else(|| DriverError::Unsupported { what: "a container".to_owned(), reason: "it has no kernel".to_owned() })
}

/// Writes down what is about to be made. One at a time, so that no two instances take the same users.
fn open_record(host: &Host, plan: &Plan, places: &Places) -> Result<Record, DriverError> {
    let _alone = host.slots.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = free_slot(host)?;
    let group = host.hierarchies.group(&host.layout.cgroup_name(), plan.id.as_str());
    let record = Record::new(Some(slot), group, command::guest_order(plan));
    make_directory(&places.state)?;
    record.save(places)?;
    Ok(record)
}

/// The lowest pair of users that no instance of ours and no process of this host has.
fn free_slot(host: &Host) -> Result<u32, DriverError> {
    let mut taken: Vec<u32> = Vec::new();
    for id in super::instances(host) {
        // An instance with an unreadable record keeps its users by its processes, if it has any.
        taken.extend(Record::load(&host.layout.places(&id)).ok().flatten().and_then(|record| record.slot));
    }
    let used = process::users_in_use();
    let free = |slot: &u32| {
        let Users { vmm, vtpm } = Users::of(host.uid_base, *slot);
        !taken.contains(slot) && !used.contains(&vmm) && !used.contains(&vtpm)
    };
    (0..MOST_SLOTS).find(free).ok_or_else(|| DriverError::Unsupported {
        what: "another instance".to_owned(),
        reason: format!("all {MOST_SLOTS} pairs of user ids are taken"),
    })
}

fn limits(host: &Host, plan: &Plan) -> Limits {
    let translation = match host.kind {
        Kind::Qemu(Accel::Tcg) => command::TRANSLATION_MIB,
        Kind::Qemu(Accel::Kvm) | Kind::Api(_) => 0,
    };
    Limits {
        memory_bytes: (plan.memory_mib + translation + OVERHEAD_MIB) << 20,
        pids: plan.cpus + OTHER_THREADS,
        cpus: plan.cpus,
    }
}

fn make_directory(path: &Path) -> Result<(), DriverError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).context("create", path)
}

/// A copy of its own for the VMM's user: the original may be closed to it, and cannot change under a running start.
fn stage(from: &Path, to: &Path, users: Users) -> Result<(), DriverError> {
    let mut source = File::open(from).context("open", from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o400).open(to).context("create", to)?;
    io::copy(&mut source, &mut target).context("copy", from)?;
    std::os::unix::fs::fchown(&target, Some(users.vmm), Some(users.vmm)).context("give the VMM", to)
}

/// A VMM with an API opens its scratch disk by name, and makes sockets; it is given a directory for them.
fn give_to_api_vmm(places: &Places, users: Users) -> Result<(), DriverError> {
    let (sockets, scratch) = (places.sockets(), places.scratch());
    make_directory(&sockets)?;
    for path in [&sockets, &scratch] {
        std::os::unix::fs::chown(path, Some(users.vmm), Some(users.vmm)).context("give the VMM", path)?;
    }
    Ok(())
}

fn create_scratch(places: &Places, bytes: u64) -> Result<(), DriverError> {
    let path = places.scratch();
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).context("create", &path)?;
    file.set_len(bytes).context("size", &path)?;
    sync_directory(&path).context("create", &path)
}

/// Starts the machine; an already running one is only looked at again.
pub(crate) fn start(host: &Host, plan: &Plan) -> Result<Started, DriverError> {
    let places = host.layout.places(&plan.id);
    let mut record = load(host, plan)?;
    let user = jails::users(host, &record).vmm;
    if let Some(vmm) = record.running_vmm() {
        let jail = run_or_kill(host, &vmm, &record, &places, None)?;
        remove_staged(host, &places);
        let report = observe_vmm::observe(vmm.pid, user, &places, &record);
        return Ok(Started { jail, vmm: report, since_execution: None });
    }
    if record.stage != Stage::Prepared {
        return Err(vmm_failed(host, "the instance is not prepared, or its machine has ended".to_owned()));
    }
    record.stage = Stage::Started;
    record.save(&places)?;
    let executed = match &host.kind {
        Kind::Qemu(_) => None,
        Kind::Api(vmm) => Some(launch(host, &**vmm, &places, &record, plan)?),
    };
    if let Some(executed) = &executed {
        record.landlock = Some(executed.landlock);
        record.note(&places)?;
    }
    let Some(vmm) = record.vmm() else {
        wait_for_supervisor(&record, user);
        return Err(vmm_failed(host, early_end(&places)));
    };
    let jail = run_or_kill(host, &vmm, &record, &places, Some(plan))?;
    remove_staged(host, &places);
    let since_execution = executed.map(|executed| executed.at.elapsed());
    let report = observe_vmm::observe(vmm.pid, user, &places, &record);
    Ok(Started { jail, vmm: report, since_execution })
}

/// The VMM has read what boots; its memory is the guest's now. A VMM with an API would boot again by itself, and its jail still shows the
/// files: they are emptied first, so that it finds nothing that it could boot. QEMU ends where the guest does, and has them mapped.
fn remove_staged(host: &Host, places: &Places) {
    for staged in [places.kernel(), places.initrd()] {
        if let Kind::Api(_) = host.kind {
            let _ = OpenOptions::new().write(true).truncate(true).open(&staged);
        }
        let _ = fs::remove_file(staged);
    }
}

/// Executes VMM and vTPM, both in their jails, side by side: each takes a while until it listens to the other. Returns when the VMM was
/// executed.
fn launch(host: &Host, vmm: &dyn ApiVmm, places: &Places, record: &Record, plan: &Plan) -> Result<Executed, DriverError> {
    let users = jails::users(host, record);
    let vtpm_end = host.swtpm.is_some().then(|| vtpm::listen(places, users.vmm)).transpose()?;
    let scene = Scene { places, plan: Some(plan), user: users.vmm, group: &record.group, card: None };
    let mut launch = vmm.launch(&scene)?;
    let mut descriptors = outputs(places)?;
    descriptors.append(&mut launch.descriptors);
    let spec = jails::api_vmm(host, places, record, launch, largest_file(plan));
    let (vtpm, vmm) = std::thread::scope(|scope| {
        let vtpm = scope.spawn(|| vtpm_end.map_or(Ok(()), |end| vtpm::serve(host, places, record, end)));
        let vmm = execute(host, record, &spec, &descriptors);
        (vtpm.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), vmm)
    });
    vtpm.and(vmm).inspect_err(|_| {
        if let Some(vmm) = record.vmm() {
            vmm.kill(DEATH_LIMIT);
        }
    })
}

/// Executes the VMM in its jail; says when.
fn execute(host: &Host, record: &Record, spec: &JailSpec, descriptors: &[OwnedFd]) -> Result<Executed, DriverError> {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let launched = jail::launch(&host.jail_command, spec, &borrowed, |pid| record.group.join(pid))
        .map_err(|error| vmm_failed(host, chain(&error)))?;
    let at = Instant::now();
    host.children.adopt(launched.helper);
    Ok(Executed { at, landlock: launched.landlock })
}

/// Most bytes that the VMM may make a file of.
fn largest_file(plan: &Plan) -> u64 {
    plan.scratch_mib.max(plan.memory_mib) << 20
}

/// Lets the machine run once its jail holds (a VMM with an API: and sees that it does); ends it otherwise. Without a plan the
/// machine runs already.
fn run_or_kill(
    host: &Host,
    vmm: &Process,
    record: &Record,
    places: &Places,
    plan: Option<&Plan>,
) -> Result<JailReport, DriverError> {
    let user = jails::users(host, record).vmm;
    let run = || match &host.kind {
        Kind::Qemu(_) => run_qemu(host, vmm, record, user, places, plan),
        Kind::Api(api) => {
            let card = plan.map(|plan| plug(host, plan, vmm.pid, user)).transpose()?.flatten();
            let scene = Scene { places, plan, user, group: &record.group, card: card.as_ref() };
            let last_words = || {
                // A process that ends closes its sockets a moment before it is gone.
                for _ in 0..DYING_ROUNDS {
                    if !scene.is_alive() {
                        wait_for_supervisor(record, user);
                        break;
                    }
                    std::thread::sleep(SUPERVISOR_PAUSE);
                }
                early_end(places)
            };
            api_vmm::run(&**api, &scene, || observe::observe(vmm.pid, user, &record.group), last_words)
        }
    };
    run().inspect_err(|_| {
        vmm.kill(DEATH_LIMIT);
    })
}

/// Makes the network card of a VMM that was executed and runs nothing yet, where the plan demands one.
fn plug(host: &Host, plan: &Plan, pid: i32, user: u32) -> Result<Option<Card>, DriverError> {
    let Some(network) = network::of(host.network.as_deref(), plan)? else { return Ok(None) };
    Ok(Some(network.plug_vmm(&plan.id, pid, user)?))
}

fn run_qemu(
    host: &Host,
    vmm: &Process,
    record: &Record,
    user: u32,
    places: &Places,
    plan: Option<&Plan>,
) -> Result<JailReport, DriverError> {
    let socket = reach(&places.run)?;
    let talk = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            DriverError::Timeout { attempt: "the VMM's own start", limit_ms: millis(VMM_START_LIMIT) }
        }
        _ => vmm_failed(host, format!("{error}: {}", early_end(places))),
    };
    let mut qmp = Qmp::connect(&socket.path(QMP_SOCKET), VMM_START_LIMIT).map_err(talk)?;
    let report = observe::observe(vmm.pid, user, &record.group)?;
    if let Some(cpus) = plan.and_then(Plan::cpus_of_host) {
        observe::processors(vmm.pid, cpus)?;
    }
    qmp.execute("cont").map_err(talk)?;
    Ok(report)
}

/// In the order of [`command::VmmFd`], after the log and the file for the exit status.
fn descriptors(host: &Host, places: &Places, vtpm: OwnedFd, plan: &Plan) -> Result<Vec<OwnedFd>, DriverError> {
    let mut descriptors = outputs(places)?;
    descriptors.extend([listen(&places.run, QMP_SOCKET)?, listen(&places.run, GUEST_SOCKET)?, vtpm]);
    for disk in &plan.disks {
        descriptors.push(File::open(&disk.path).context("open the disk", &disk.path)?.into());
    }
    let scratch = places.scratch();
    descriptors.push(OpenOptions::new().read(true).write(true).open(&scratch).context("open", &scratch)?.into());
    if let Some(network) = network::of(host.network.as_deref(), plan)? {
        descriptors.push(network.plug_machine(&plan.id)?);
    }
    Ok(descriptors)
}

/// The log and the file for the exit status.
fn outputs(places: &Places) -> Result<Vec<OwnedFd>, DriverError> {
    let open = |path: PathBuf| {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.map(OwnedFd::from).context("create", &path)
    };
    Ok(vec![open(places.console())?, open(places.ended())?])
}

/// Ends the VMM; its parent then writes down how. Other processes of the instance end after it.
pub(crate) fn kill(host: &Host, record: &Record) -> Result<(), DriverError> {
    let Some(vmm) = record.vmm() else { return Ok(()) };
    if vmm.kill(DEATH_LIMIT) {
        wait_for_supervisor(record, jails::users(host, record).vmm);
        return Ok(());
    }
    Err(DriverError::Timeout { attempt: "ending the VMM", limit_ms: millis(DEATH_LIMIT) })
}

/// Returns when the exit status is written, or will not be.
pub(crate) fn wait_for_supervisor(record: &Record, user: u32) {
    for _ in 0..SUPERVISOR_ROUNDS {
        if !process::supervisor_lives(&record.group, user) {
            return;
        }
        std::thread::sleep(SUPERVISOR_PAUSE);
    }
}

/// Connects to the guest of a VMM with an API; waits while it boots.
pub(crate) fn connect(host: &Host, places: &Places, record: &Record) -> io::Result<UnixStream> {
    let scene = Scene { places, plan: None, user: jails::users(host, record).vmm, group: &record.group, card: None };
    let stream = api_vmm::connect(&scene)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Whether the guest has ended although its VMM has not.
pub(crate) fn is_over(host: &Host, places: &Places, record: &Record) -> bool {
    let Kind::Api(vmm) = &host.kind else { return false };
    let scene = Scene { places, plan: None, user: jails::users(host, record).vmm, group: &record.group, card: None };
    vmm.is_over(&scene, &fs::read(places.console()).unwrap_or_default())
}

/// Why the machine ended, from what it left.
pub(crate) fn exit(host: &Host, places: &Places, record: &Record) -> Exit {
    if matches!(record.stage, Stage::Preparing | Stage::Prepared) {
        let cause = ExitCause::Vmm("the machine was not started".to_owned());
        return Exit { cause, console_tail: String::new() };
    }
    let log = fs::read(places.console()).unwrap_or_default();
    let ended = fs::read(places.ended()).ok().and_then(|text| serde_json::from_slice(&text).ok());
    match host.kind {
        Kind::Qemu(_) => console::judge(&log, ended, &record.serials),
        Kind::Api(_) => console::judge_words(&log, ended, &record.serials),
    }
}

fn early_end(places: &Places) -> String {
    let text = fs::read(places.console()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().last().unwrap_or("the VMM ended at once and said nothing").to_owned()
}

fn load(host: &Host, plan: &Plan) -> Result<Record, DriverError> {
    Record::load(&host.layout.places(&plan.id))?.ok_or_else(|| DriverError::NoSuchInstance(plan.id.clone()))
}

fn vmm_failed(host: &Host, detail: String) -> DriverError {
    DriverError::Process { program: host.program_name(), detail }
}

/// Besides RAM, kernel and initrd: the vTPM's state.
const MEMORY_SLACK: u64 = 16 << 20;

/// The VMM's own memory besides guest RAM and translated code, the vTPM and the parent.
const OVERHEAD_MIB: u64 = 256;

/// Threads for disk requests, the vTPM, the parent.
const OTHER_THREADS: u32 = 96;

const MOST_SLOTS: u32 = 4096;

/// From the VMM's execution to its first answer; it is mostly the loading of the kernel.
const VMM_START_LIMIT: Duration = Duration::from_secs(15);

/// From SIGKILL to the end: the kernel gives the process's memory back.
const DEATH_LIMIT: Duration = Duration::from_secs(20);

const SUPERVISOR_ROUNDS: u32 = 400;

const DYING_ROUNDS: u32 = 400;

const SUPERVISOR_PAUSE: Duration = Duration::from_millis(5);

//! Making, starting and ending one machine. All calls block; the driver gives them a thread.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::Path,
    sync::PoisonError,
    time::Duration,
};

use super::{Host, command, jails, qmp::Qmp, vtpm};
use crate::{
    DriverError, Exit, ExitCause, JailReport, MachineSystem, Plan, Started,
    cgroup::Limits,
    console,
    error::{Context, chain, millis},
    jail,
    layout::{GUEST_SOCKET, Places, QMP_SOCKET},
    memory, observe,
    process::{self, Process, Users},
    record::{Record, Stage, sync_directory},
    socket::{listen, reach},
};

/// Makes everything that a machine needs, and starts the fresh vTPM for provisioning.
pub(crate) fn prepare(host: &Host, plan: &Plan) -> Result<vtpm::Session, DriverError> {
    let machine = system(plan)?;
    let places = host.layout.places(&plan.id);
    let record = open_record(host, plan, &places)?;
    let users = jails::users(host, &record);
    make_directory(&places.run)?;
    make_directory(&places.jail_root())?;
    record.group.create(&limits(host, plan))?;
    let given = [(&machine.kernel, places.kernel()), (&machine.initrd, places.initrd())];
    let ram = plan.memory_mib << 20;
    let size = given.iter().try_fold(ram + MEMORY_SLACK, |sum, (from, _)| {
        fs::metadata(from).map(|metadata| sum + metadata.len()).context("measure", from)
    })?;
    memory::mount(&places, size)?;
    // Its process makes the TPM while the rest is made here.
    vtpm::create(&places, users.vtpm)?;
    let session = vtpm::Session::start(host, &places, &record)?;
    memory::create_ram(&places, ram, users.vmm)?;
    for (from, to) in &given {
        stage(from, to, users)?;
    }
    create_scratch(&places, plan.scratch_mib << 20)?;
    Ok(session)
}

/// Ends provisioning; afterwards the machine can be started.
pub(crate) fn finish_prepare(host: &Host, plan: &Plan, session: vtpm::Session) -> Result<(), DriverError> {
    session.store_and_end()?;
    let places = host.layout.places(&plan.id);
    let mut record = load(host, plan)?;
    record.stage = Stage::Prepared;
    record.save(&places)
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
    let translation = match host.accel {
        super::host::Accel::Tcg => command::TRANSLATION_MIB,
        super::host::Accel::Kvm => 0,
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
    if let Some(vmm) = record.vmm() {
        let jail = run_or_kill(&vmm, &record, user, &places)?;
        return Ok(Started { jail });
    }
    if record.stage != Stage::Prepared {
        return Err(vmm_failed("the instance is not prepared, or its machine has ended".to_owned()));
    }
    record.stage = Stage::Started;
    record.save(&places)?;
    launch(host, &places, &record, plan)?;
    let Some(vmm) = record.vmm() else {
        wait_for_supervisor(&record, user);
        return Err(vmm_failed(early_end(&places)));
    };
    let jail = run_or_kill(&vmm, &record, user, &places)?;
    for staged in [places.kernel(), places.initrd()] {
        // The VMM has read them; their memory is the guest's now.
        let _ = fs::remove_file(staged);
    }
    Ok(Started { jail })
}

/// Executes VMM and vTPM, both in their jails, side by side: each takes a while until it listens to the other.
fn launch(host: &Host, places: &Places, record: &Record, plan: &Plan) -> Result<(), DriverError> {
    let spec_args = command::vmm(plan, host.accel);
    let largest = (plan.scratch_mib.max(plan.memory_mib)) << 20;
    let spec = jails::vmm(host, places, record, spec_args, largest);
    let (vtpm_end, vmm_end) = vtpm::connection(places)?;
    let descriptors = descriptors(places, vmm_end, plan)?;
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let (vtpm, vmm) = std::thread::scope(|scope| {
        let vtpm = scope.spawn(|| vtpm::serve(host, places, record, vtpm_end));
        let vmm = jail::launch(&host.jail_command, &spec, &borrowed, |pid| record.group.join(pid))
            .map(|helper| host.children.adopt(helper))
            .map_err(|error| vmm_failed(chain(&error)));
        (vtpm.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), vmm)
    });
    vtpm.and(vmm).inspect_err(|_| {
        if let Some(vmm) = record.vmm() {
            vmm.kill(DEATH_LIMIT);
        }
    })
}

/// Lets the machine run once its jail holds; ends it otherwise.
fn run_or_kill(vmm: &Process, record: &Record, user: u32, places: &Places) -> Result<JailReport, DriverError> {
    let run = || -> Result<JailReport, DriverError> {
        let socket = reach(&places.run)?;
        let talk = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                DriverError::Timeout { attempt: "the VMM's own start", limit_ms: millis(VMM_START_LIMIT) }
            }
            _ => vmm_failed(format!("{error}: {}", early_end(places))),
        };
        let mut qmp = Qmp::connect(&socket.path(QMP_SOCKET), VMM_START_LIMIT).map_err(talk)?;
        let report = observe::observe(vmm.pid, user, &record.group)?;
        qmp.execute("cont").map_err(talk)?;
        Ok(report)
    };
    run().inspect_err(|_| {
        vmm.kill(DEATH_LIMIT);
    })
}

/// In the order of [`command::VmmFd`], after the log and the file for the exit status.
fn descriptors(places: &Places, vtpm: OwnedFd, plan: &Plan) -> Result<Vec<OwnedFd>, DriverError> {
    let (log, ended) = (places.console(), places.ended());
    let open = |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut descriptors: Vec<OwnedFd> = vec![
        open(&log).context("create", &log)?.into(),
        open(&ended).context("create", &ended)?.into(),
        listen(&places.run, QMP_SOCKET)?,
        listen(&places.run, GUEST_SOCKET)?,
        vtpm,
    ];
    for disk in &plan.disks {
        descriptors.push(File::open(&disk.path).context("open the disk", &disk.path)?.into());
    }
    let scratch = places.scratch();
    descriptors.push(OpenOptions::new().read(true).write(true).open(&scratch).context("open", &scratch)?.into());
    Ok(descriptors)
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

/// Why the machine ended, from what it left.
pub(crate) fn exit(places: &Places, record: &Record) -> Exit {
    if matches!(record.stage, Stage::Preparing | Stage::Prepared) {
        let cause = ExitCause::Vmm("the machine was not started".to_owned());
        return Exit { cause, console_tail: String::new() };
    }
    let log = fs::read(places.console()).unwrap_or_default();
    let ended = fs::read(places.ended()).ok().and_then(|text| serde_json::from_slice(&text).ok());
    console::judge(&log, ended, &record.serials)
}

fn early_end(places: &Places) -> String {
    let text = fs::read(places.console()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().last().unwrap_or("the VMM ended at once and said nothing").to_owned()
}

fn load(host: &Host, plan: &Plan) -> Result<Record, DriverError> {
    Record::load(&host.layout.places(&plan.id))?.ok_or_else(|| DriverError::NoSuchInstance(plan.id.clone()))
}

fn vmm_failed(detail: String) -> DriverError {
    DriverError::Process { program: "qemu", detail }
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

const SUPERVISOR_PAUSE: Duration = Duration::from_millis(5);

//! Ending, wiping and removing an instance, from disk state alone.
//!
//! Order: every process ends; guest memory is overwritten, read back and released; vTPM state is overwritten and removed; the
//! scratch disk, whose key died with guest memory, is discarded and removed; mounts and directories go; the cgroup goes.
//!
//! The record, which lists what was done, stays until it is forgotten: whoever asked for the wipe may die before he has written
//! down the answer, and then asks again. For the same reason guest memory is removed only once the record says what was read
//! back from it: a wipe that was cut short anywhere ends, when repeated, with all the evidence that an uncut one has.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::Instant,
};

use casemate_lifecycle::InstanceId;
use rustix::fs::FallocateFlags;

use super::{Host, Kind, machine, vtpm};
use crate::{
    DriverError, WipeEvidence, WipedItem,
    api_vmm::GuestMemory,
    error::Context,
    layout::Places,
    memory,
    record::{Record, Stage, WipedNote, sync_directory},
};

/// Wipes whatever is there.
pub(crate) fn wipe(host: &Host, id: &InstanceId) -> Result<WipeEvidence, DriverError> {
    let places = host.layout.places(id);
    let mut record = record_of(host, id, &places)?;
    if !anything_left(&places, &record) {
        return Ok(nothing());
    }
    machine::kill(host, &record)?;
    record.group.kill()?;
    host.children.reap();
    let repeated = record.stage == Stage::Wiping;
    record.stage = Stage::Wiping;
    let mut wipe = Wipe { host, places: &places, record: &mut record, repeated, evidence: WipeEvidence::default() };
    wipe.note()?;
    for (name, step) in STEPS {
        wipe.item(name, step)?;
    }
    wipe.network(host, id)?;
    let evidence = wipe.evidence;
    remove_all_but_record(&places)?;
    host.children.reap();
    Ok(evidence)
}

/// Removes the record of a finished wipe; an instance that is not wiped keeps everything.
pub(crate) fn forget(host: &Host, id: &InstanceId) -> Result<(), DriverError> {
    let places = host.layout.places(id);
    match Record::load(&places)? {
        Some(record) if STEPS.iter().all(|(name, _)| record.wiped.contains_key(*name)) => remove_directory(&places.state),
        _ => Ok(()),
    }
}

/// The item of who had a network.
const NETWORK: &str = "network";

/// All steps, in order.
const STEPS: [(&str, Step); 5] =
    [("guest-ram", guest_ram), ("vtpm", vtpm_state), ("scratch", scratch), ("jail", jail), ("cgroup", cgroup)];

/// Without a readable record everything is where the configuration says, and only the users are not known.
fn record_of(host: &Host, id: &InstanceId, places: &Places) -> Result<Record, DriverError> {
    let group = host.hierarchies.group(&host.layout.cgroup_name(), id.as_str());
    let made_up = Record::new(None, group, Vec::new());
    match Record::load(places) {
        Ok(record) => Ok(record.unwrap_or(made_up)),
        Err(DriverError::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            tracing::warn!(instance.id = %id, "the record is damaged; wiping by the configuration");
            Ok(made_up)
        }
        Err(error) => Err(error),
    }
}

fn anything_left(places: &Places, record: &Record) -> bool {
    places.directories().iter().any(|path| path.exists()) || record.group.exists()
}

fn nothing() -> WipeEvidence {
    let mut evidence = WipeEvidence::default();
    let item = never_existed("no trace of the instance on this host");
    evidence.items.extend(STEPS.map(|(name, _)| (name, item.clone())));
    evidence
}

struct Wipe<'a> {
    host: &'a Host,
    places: &'a Places,
    record: &'a mut Record,
    /// An earlier wipe was cut short: what is gone without a note was removed by it.
    repeated: bool,
    evidence: WipeEvidence,
}

type Step = fn(&mut Wipe<'_>) -> Result<WipedItem, DriverError>;

impl Wipe<'_> {
    /// Does one step, unless a wipe that was cut short has done it, and writes down that it is done.
    fn item(&mut self, name: &'static str, step: Step) -> Result<(), DriverError> {
        let done = self.record.wiped.get(name).and_then(WipedNote::item);
        let item = match done {
            Some(item) => item,
            None => {
                let begin = Instant::now();
                let mut item = step(self)?;
                item.duration_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.record.wiped.insert(name.to_owned(), WipedNote::from(&item));
                self.note()?;
                item
            }
        };
        self.evidence.items.insert(name, item);
        Ok(())
    }

    /// Only of who had one. With the last process the link had ended already; rules and addresses are left.
    fn network(&mut self, host: &Host, id: &InstanceId) -> Result<(), DriverError> {
        let begin = Instant::now();
        let Some(network) = &host.network else { return Ok(()) };
        if network.detach(id)? {
            let gone = !network.attached()?.contains(id);
            let mut item = removed(gone, "link, rules and addresses are gone");
            item.duration_ms = crate::error::millis(begin.elapsed());
            self.record.wiped.insert(NETWORK.to_owned(), WipedNote::from(&item));
            self.note()?;
        }
        if let Some(item) = self.record.wiped.get(NETWORK).and_then(WipedNote::item) {
            self.evidence.items.insert(NETWORK, item);
        }
        Ok(())
    }

    fn note(&self) -> Result<(), DriverError> {
        if !self.places.state.exists() {
            fs::create_dir_all(&self.places.state).context("create", &self.places.state)?;
        }
        self.record.save(self.places)
    }

    /// What is to be said of something that is not there.
    fn absent(&self, detail: &str) -> WipedItem {
        match self.repeated {
            true => removed(true, "gone when a wipe that had been cut short was repeated"),
            false => never_existed(detail),
        }
    }
}

fn guest_ram(wipe: &mut Wipe<'_>) -> Result<WipedItem, DriverError> {
    let path = wipe.places.ram();
    if wipe.record.overwritten.is_none() {
        wipe.record.overwritten = memory::overwrite(&path)?;
        wipe.note()?;
    }
    if let Some(found) = wipe.record.overwritten {
        let blocks_left = memory::release(&path)?;
        return Ok(WipedItem {
            method: "overwritten",
            verified: found.dirty == 0 && blocks_left == 0 && !path.exists(),
            detail: format!(
                "{} of {} MiB were touched by the guest and overwritten with zeros by {} threads{}; {} pages read back, {} not zero; \
                 {blocks_left} blocks left after release",
                found.touched >> 20,
                found.bytes >> 20,
                found.threads,
                found.rate().map_or_else(String::new, |rate| format!(" at {rate} MiB/s")),
                found.sampled,
                found.dirty,
            ),
            bytes: found.touched,
            duration_ms: 0,
        });
    }
    if wipe.record.host_restarted() {
        return Ok(released("the host has started anew since"));
    }
    match &wipe.host.kind {
        Kind::Api(vmm) if vmm.guest_memory() == GuestMemory::Process && wipe.places.ended().exists() => {
            Ok(process_memory(wipe.record))
        }
        _ => Ok(never_existed("no guest memory was made")),
    }
}

/// Memory that only the VMM's process had: what can be seen is that the kernel has taken it.
fn process_memory(record: &Record) -> WipedItem {
    let begin = Instant::now();
    let mut left = record.group.anonymous_bytes();
    // The kernel's count follows the end of the process in a moment.
    while left.is_some_and(|bytes| bytes > 0) && begin.elapsed() < RELEASE_LIMIT {
        std::thread::sleep(RELEASE_PAUSE);
        left = record.group.anonymous_bytes();
    }
    let seen = match left {
        Some(bytes) => format!("{bytes} bytes are left in its cgroup"),
        None => "the kernel does not say what is left".to_owned(),
    };
    let detail = format!(
        "guest memory was the VMM's own and ended with its process: {seen}; it was not overwritten by us, the kernel clears a page \
         before another process gets it"
    );
    WipedItem { verified: left == Some(0), ..released(&detail) }
}

fn vtpm_state(wipe: &mut Wipe<'_>) -> Result<WipedItem, DriverError> {
    match vtpm::wipe(wipe.places)? {
        Some((files, bytes)) => Ok(WipedItem {
            method: "overwritten",
            verified: !wipe.places.vtpm().exists(),
            detail: format!("{files} state files overwritten and removed; the directory is gone"),
            bytes,
            duration_ms: 0,
        }),
        None if wipe.record.host_restarted() => Ok(released("the host has started anew since; the state was in memory only")),
        None => Ok(wipe.absent("no vTPM was made")),
    }
}

fn scratch(wipe: &mut Wipe<'_>) -> Result<WipedItem, DriverError> {
    let path = wipe.places.scratch();
    let ram = wipe.record.wiped.get("guest-ram").and_then(WipedNote::item);
    let key_dead = ram.is_some_and(|ram| ram.verified || ram.method == "released-by-kernel");
    let file = match File::options().write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let absent = wipe.absent("no scratch disk was made");
            return Ok(WipedItem { verified: absent.verified && (key_dead || !wipe.repeated), ..absent });
        }
        Err(error) => return Err(error).context("open", &path),
    };
    let metadata = file.metadata().context("measure", &path)?;
    let written = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    // A file system that cannot discard keeps ciphertext without a key; the removal still frees it.
    let discard = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let discarded = rustix::fs::fallocate(&file, discard, 0, metadata.len().max(1)).is_ok();
    fs::remove_file(&path).context("remove", &path)?;
    sync_directory(&path).context("remove", &path)?;
    Ok(WipedItem {
        method: "crypto-erased",
        verified: key_dead && !path.exists(),
        detail: format!(
            "its key was in guest memory only; {} MiB had been written, {} and removed",
            written >> 20,
            if discarded { "discarded" } else { "not discarded by this file system" }
        ),
        bytes: written,
        duration_ms: 0,
    })
}

fn jail(wipe: &mut Wipe<'_>) -> Result<WipedItem, DriverError> {
    let places = wipe.places;
    let existed = places.run.exists() || places.memory.exists();
    memory::unmount(places)?;
    remove_directory(&places.memory)?;
    remove_directory(&places.run)?;
    if !existed {
        return Ok(wipe.absent("no jail was made"));
    }
    let gone = !places.run.exists() && !places.memory.exists() && !memory::is_mounted(&places.memory);
    Ok(removed(gone, "mounts, sockets and directories are gone"))
}

fn cgroup(wipe: &mut Wipe<'_>) -> Result<WipedItem, DriverError> {
    let group = &wipe.record.group;
    if !group.exists() {
        // The driver's group may have been made, and its agent been killed before this one was.
        group.remove()?;
        return Ok(wipe.absent("no cgroup was made"));
    }
    group.kill()?;
    group.remove()?;
    Ok(removed(!group.exists(), "no process was left; the groups are gone"))
}

/// Console, exit status, logs: the record alone says what was wiped.
fn remove_all_but_record(places: &Places) -> Result<(), DriverError> {
    let record = places.record();
    for entry in fs::read_dir(&places.state).context("read", &places.state)? {
        let path = entry.context("read", &places.state)?.path();
        if path != record {
            fs::remove_file(&path).context("remove", &path)?;
        }
    }
    Ok(())
}

fn remove_directory(path: &Path) -> Result<(), DriverError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("remove", path),
        _ => Ok(()),
    }
}

fn removed(verified: bool, detail: &str) -> WipedItem {
    WipedItem { method: "removed", verified, detail: detail.to_owned(), bytes: 0, duration_ms: 0 }
}

fn released(detail: &str) -> WipedItem {
    WipedItem { method: "released-by-kernel", verified: false, detail: detail.to_owned(), bytes: 0, duration_ms: 0 }
}

fn never_existed(detail: &str) -> WipedItem {
    WipedItem { method: "never-existed", verified: true, detail: detail.to_owned(), bytes: 0, duration_ms: 0 }
}

/// From the end of a process to the kernel's count of its memory.
const RELEASE_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

const RELEASE_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

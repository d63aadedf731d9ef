//! Ending, wiping and removing an instance, from disk state alone.
//!
//! Order: every process ends; guest memory is overwritten, read back and released; vTPM state is overwritten and removed; the
//! scratch disk, whose key died with guest memory, is discarded and removed; mounts and directories go; the cgroup goes; the
//! record, which lists what was done, goes last.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::Instant,
};

use casemate_lifecycle::InstanceId;
use rustix::fs::FallocateFlags;

use super::{
    Host,
    layout::Places,
    machine, memory,
    record::{Record, Stage, WipedNote, sync_directory},
    vtpm,
};
use crate::{DriverError, WipeEvidence, WipedItem, error::Context};

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
    record.stage = Stage::Wiping;
    let mut wipe = Wipe { places: &places, record: &mut record, evidence: WipeEvidence::default() };
    wipe.note_stage()?;
    wipe.item("guest-ram", guest_ram)?;
    wipe.item("vtpm", vtpm_state)?;
    wipe.item("scratch", scratch)?;
    wipe.item("jail", jail)?;
    wipe.item("cgroup", cgroup)?;
    let evidence = wipe.evidence;
    remove_directory(&places.state)?;
    host.children.reap();
    Ok(evidence)
}

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
    for name in ["guest-ram", "vtpm", "scratch", "jail", "cgroup"] {
        evidence.items.insert(name, item.clone());
    }
    evidence
}

struct Wipe<'a> {
    places: &'a Places,
    record: &'a mut Record,
    evidence: WipeEvidence,
}

type Step = fn(&Places, &Record) -> Result<WipedItem, DriverError>;

impl Wipe<'_> {
    /// Does one step, unless a wipe that was cut short has done it, and writes down that it is done.
    fn item(&mut self, name: &'static str, step: Step) -> Result<(), DriverError> {
        let done = self.record.wiped.get(name).and_then(WipedNote::item);
        let item = match done {
            Some(item) => item,
            None => {
                let begin = Instant::now();
                let mut item = step(self.places, self.record)?;
                item.duration_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.record.wiped.insert(name.to_owned(), WipedNote::from(&item));
                self.note_stage()?;
                item
            }
        };
        self.evidence.items.insert(name, item);
        Ok(())
    }

    fn note_stage(&self) -> Result<(), DriverError> {
        if !self.places.state.exists() {
            fs::create_dir_all(&self.places.state).context("create", &self.places.state)?;
        }
        self.record.save(self.places)
    }
}

fn guest_ram(places: &Places, record: &Record) -> Result<WipedItem, DriverError> {
    if let Some(wiped) = memory::wipe(&places.ram())? {
        let verified = wiped.dirty == 0 && wiped.blocks_left == 0 && !places.ram().exists();
        return Ok(WipedItem {
            method: "overwritten",
            verified,
            detail: format!(
                "{} of {} MiB were touched by the guest and overwritten with zeros; {} pages read back, {} not zero; \
                 {} blocks left after release",
                wiped.touched >> 20,
                wiped.bytes >> 20,
                wiped.sampled,
                wiped.dirty,
                wiped.blocks_left
            ),
            bytes: wiped.touched,
            duration_ms: 0,
        });
    }
    if record.host_restarted() {
        return Ok(WipedItem {
            method: "released-by-kernel",
            verified: false,
            detail: "the host has started anew since".to_owned(),
            bytes: 0,
            duration_ms: 0,
        });
    }
    Ok(never_existed("no guest memory was made"))
}

fn vtpm_state(places: &Places, record: &Record) -> Result<WipedItem, DriverError> {
    match vtpm::wipe(places)? {
        Some((files, bytes)) => Ok(WipedItem {
            method: "overwritten",
            verified: !places.vtpm().exists(),
            detail: format!("{files} state files overwritten and removed; the directory is gone"),
            bytes,
            duration_ms: 0,
        }),
        None if record.host_restarted() => Ok(WipedItem {
            method: "released-by-kernel",
            verified: false,
            detail: "the host has started anew since; the state was in memory only".to_owned(),
            bytes: 0,
            duration_ms: 0,
        }),
        None => Ok(never_existed("no vTPM was made")),
    }
}

fn scratch(places: &Places, record: &Record) -> Result<WipedItem, DriverError> {
    let path = places.scratch();
    let file = match File::options().write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(never_existed("no scratch disk was made")),
        Err(error) => return Err(error).context("open", &path),
    };
    let metadata = file.metadata().context("measure", &path)?;
    let written = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    // A file system that cannot discard keeps ciphertext without a key; the removal still frees it.
    let discard = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let discarded = rustix::fs::fallocate(&file, discard, 0, metadata.len().max(1)).is_ok();
    fs::remove_file(&path).context("remove", &path)?;
    sync_directory(&path).context("remove", &path)?;
    let key_dead = record
        .wiped
        .get("guest-ram")
        .and_then(WipedNote::item)
        .is_some_and(|ram| ram.verified || ram.method == "released-by-kernel");
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

fn jail(places: &Places, _: &Record) -> Result<WipedItem, DriverError> {
    let existed = places.run.exists() || places.memory.exists();
    memory::unmount(places)?;
    remove_directory(&places.memory)?;
    remove_directory(&places.run)?;
    if !existed {
        return Ok(never_existed("no jail was made"));
    }
    let gone = !places.run.exists() && !places.memory.exists() && !memory::is_mounted(&places.memory);
    Ok(removed(gone, "mounts, sockets and directories are gone"))
}

fn cgroup(_: &Places, record: &Record) -> Result<WipedItem, DriverError> {
    if !record.group.exists() {
        return Ok(never_existed("no cgroup was made"));
    }
    record.group.kill()?;
    record.group.remove()?;
    Ok(removed(!record.group.exists(), "no process was left; the groups are gone"))
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

fn never_existed(detail: &str) -> WipedItem {
    WipedItem { method: "never-existed", verified: true, detail: detail.to_owned(), bytes: 0, duration_ms: 0 }
}

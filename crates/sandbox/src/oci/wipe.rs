//! Ending, wiping and removing an instance, from disk state alone.
//!
//! Order: every process ends, by which its memory goes back to the kernel; every file on scratch is overwritten, read back and
//! removed; mounts and directories go; the cgroup goes. The record outlives all of it, as with machines.
//!
//! What is said is what was done: the memory of processes is not overwritten at once, and the host's kernel has seen all of it.

use std::{fs, io, path::Path, time::Instant};

use casemate_lifecycle::InstanceId;

use super::{Host, container};
use crate::{
    DriverError, WipeEvidence, WipedItem,
    error::Context,
    layout::Places,
    memory,
    record::{Record, Stage, WipedNote},
};

/// Wipes whatever is there.
pub(super) fn wipe(host: &Host, id: &InstanceId) -> Result<WipeEvidence, DriverError> {
    let places = host.layout.places(id);
    drop(host.helpers.take(id));
    let mut record = record_of(host, id, &places)?;
    if !places.directories().iter().any(|path| path.exists()) && !record.group.exists() {
        let item = never_existed("no trace of the instance on this host");
        return Ok(WipeEvidence { items: STEPS.map(|(name, _)| (name, item.clone())).into() });
    }
    container::kill(host, &record)?;
    record.group.kill()?;
    host.children.reap();
    let repeated = record.stage == Stage::Wiping;
    let started = may_have_run(&record);
    record.stage = Stage::Wiping;
    let mut wipe = Wipe { places: &places, record: &mut record, repeated, started, evidence: WipeEvidence::default() };
    wipe.note()?;
    for (name, step) in STEPS {
        wipe.item(name, step)?;
    }
    wipe.network(host, id)?;
    let evidence = wipe.evidence;
    remove_all_but_record(&places)?;
    Ok(evidence)
}

/// Without a record nobody knows whether anything ran, and a host that crashed has perhaps lost the newest version of it.
fn may_have_run(record: &Record) -> bool {
    matches!(record.stage, Stage::Started | Stage::Wiping) || record.slot.is_none() || record.host_restarted()
}

/// Removes the record of a finished wipe; an instance that is not wiped keeps everything.
pub(super) fn forget(host: &Host, id: &InstanceId) -> Result<(), DriverError> {
    let places = host.layout.places(id);
    match Record::load(&places)? {
        Some(record) if STEPS.iter().all(|(name, _)| record.wiped.contains_key(*name)) => remove_directory(&places.state),
        _ => Ok(()),
    }
}

type Step = fn(&mut Wipe<'_>) -> Result<WipedItem, DriverError>;

/// The item of who had a network.
const NETWORK: &str = "network";

/// All steps, in order.
const STEPS: [(&str, Step); 4] = [("guest-ram", processes), ("scratch", scratch), ("jail", jail), ("cgroup", cgroup)];

struct Wipe<'a> {
    places: &'a Places,
    record: &'a mut Record,
    /// An earlier wipe was cut short: what is gone without a note was removed by it.
    repeated: bool,
    started: bool,
    evidence: WipeEvidence,
}

impl Wipe<'_> {
    fn item(&mut self, name: &'static str, step: Step) -> Result<(), DriverError> {
        let item = match self.record.wiped.get(name).and_then(WipedNote::item) {
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
            let mut item = self::item("removed", gone, "link, rules and addresses are gone");
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

    fn absent(&self, detail: &str) -> WipedItem {
        match self.repeated {
            true => item("removed", true, "gone when a wipe that had been cut short was repeated"),
            false => never_existed(detail),
        }
    }
}

/// Without a readable record everything is where the configuration says.
fn record_of(host: &Host, id: &InstanceId, places: &Places) -> Result<Record, DriverError> {
    let group = host.hierarchies.group(&host.layout.cgroup_name(), id.as_str());
    match Record::load(places) {
        Ok(record) => Ok(record.unwrap_or_else(|| Record::new(None, group, Vec::new()))),
        Err(DriverError::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            tracing::warn!(instance.id = %id, "the record is damaged; wiping by the configuration");
            Ok(Record::new(None, group, Vec::new()))
        }
        Err(error) => Err(error),
    }
}

fn processes(wipe: &mut Wipe<'_>) -> Result<WipedItem, DriverError> {
    if !wipe.started {
        return Ok(never_existed("no process was started"));
    }
    let left = wipe.record.group.processes().len();
    let cleared =
        if zeroed_on_free() { "which zeroes it at once (init_on_free)" } else { "which zeroes it before it is used again" };
    let detail = format!("{left} processes left; their memory went back to the host's kernel, {cleared}; it was not overwritten");
    Ok(item("released-by-kernel", left == 0, &detail))
}

fn zeroed_on_free() -> bool {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().any(|word| word == "init_on_free=1")
}

fn scratch(wipe: &mut Wipe<'_>) -> Result<WipedItem, DriverError> {
    let path = &wipe.places.memory;
    if !memory::is_mounted(path) {
        return Ok(match wipe.record.host_restarted() {
            true => item("released-by-kernel", false, "the host has started anew since; scratch was in memory only"),
            false => wipe.absent("no scratch was made"),
        });
    }
    let mut sum = Sum::default();
    overwrite(path, &mut sum)?;
    memory::unmount(wipe.places)?;
    let gone = !memory::is_mounted(path);
    let detail = format!(
        "{} files with {} KiB were overwritten with zeros; {} pages read back, {} not zero; removed",
        sum.files,
        sum.bytes >> 10,
        sum.sampled,
        sum.dirty
    );
    Ok(WipedItem { bytes: sum.bytes, ..item("overwritten", gone && sum.dirty == 0, &detail) })
}

#[derive(Default)]
struct Sum {
    files: u64,
    bytes: u64,
    sampled: u64,
    dirty: u64,
}

/// Every regular file below `directory`, without following links. Nobody changes anything any more: all processes have ended.
fn overwrite(directory: &Path, sum: &mut Sum) -> Result<(), DriverError> {
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).context("read", &directory)? {
            let entry = entry.context("read", &directory)?;
            let (path, kind) = (entry.path(), entry.file_type().context("look at", &entry.path())?);
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_file() {
                let found = memory::overwrite(&path)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
                let found = found.context("overwrite", &path)?;
                memory::release(&path)?;
                sum.files += 1;
                sum.bytes += found.touched;
                sum.sampled += found.sampled;
                sum.dirty += found.dirty;
            }
        }
    }
    Ok(())
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
    Ok(item("removed", gone, "namespaces, mounts, bundle, the runtime's state and directories are gone"))
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
    Ok(item("removed", !group.exists(), "no process was left; the groups are gone"))
}

/// Console, exit status: the record alone says what was wiped.
fn remove_all_but_record(places: &Places) -> Result<(), DriverError> {
    for entry in fs::read_dir(&places.state).context("read", &places.state)? {
        let path = entry.context("read", &places.state)?.path();
        if path != places.record() {
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

fn item(method: &'static str, verified: bool, detail: &str) -> WipedItem {
    WipedItem { method, verified, detail: detail.to_owned(), bytes: 0, duration_ms: 0 }
}

fn never_existed(detail: &str) -> WipedItem {
    item("never-existed", true, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cgroup::Hierarchies, layout::Layout};

    #[test]
    fn a_stage_is_believed_only_in_the_boot_that_wrote_it() {
        let directory = tempfile::tempdir().unwrap();
        let group = Hierarchies::find(&directory.path().join("cgroup")).unwrap().group("casemate-none", "i-1");
        let mut record = Record::new(Some(3), group, Vec::new());
        assert!(!may_have_run(&record));
        record.stage = Stage::Prepared;
        let places = Layout::new(directory.path().join("s"), directory.path().join("r"), None).places(&"i-1".parse().unwrap());
        fs::create_dir_all(&places.state).unwrap();
        record.note(&places).unwrap();
        Record::settle(&places).unwrap();
        let read = Record::load(&places).unwrap().unwrap();
        assert!(!may_have_run(&read));
        assert!(may_have_run(&Record { boot: "another".to_owned(), ..read.clone() }));
        assert!(may_have_run(&Record { stage: Stage::Started, ..read.clone() }));
        assert!(may_have_run(&Record { slot: None, ..read }));
    }
}

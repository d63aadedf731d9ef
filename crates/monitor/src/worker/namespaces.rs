//! Namespaces of instances: two may share one, which stays guarded until the last of them is unwatched.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::Worker;
use crate::kernel::layout::{Role, guard};

/// Kinds of namespaces, as procfs names them.
const KINDS: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// By their numbers, which all of them have of one row.
pub(super) type Namespaces = BTreeMap<u32, Namespace>;

/// One that is guarded.
#[derive(Debug)]
pub(super) struct Namespace {
    network: bool,
    /// Who is in it.
    instances: BTreeSet<u32>,
    held: File,
}

impl Worker {
    /// Guards those that the instance does not share with the monitor.
    pub(super) fn label_namespaces(&mut self, processes: &BTreeSet<u32>, instance: u32) -> Result<()> {
        // A kernel without a kind has none of it to guard.
        let kinds: Vec<&str> =
            KINDS.into_iter().filter(|kind| fs::exists(format!("/proc/self/ns/{kind}")).is_ok_and(|is| is)).collect();
        let own = |kind: &str| {
            fs::metadata(format!("/proc/self/ns/{kind}")).with_context(|| format!("look at the monitor's {kind} namespace"))
        };
        let mut known = kinds.iter().map(|kind| own(kind).map(|about| about.ino())).collect::<Result<BTreeSet<u64>>>()?;
        for pid in processes {
            for thread in threads(*pid)? {
                for kind in &kinds {
                    let Some(file) = open(&thread, kind)? else { continue };
                    let number = file.metadata().with_context(|| format!("look at the {kind} namespace of process {pid}"))?.ino();
                    if known.insert(number) {
                        self.label_namespace(file, number, *kind == "net", instance)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn label_namespace(&mut self, file: File, number: u64, network: bool, instance: u32) -> Result<()> {
        let number = u32::try_from(number).context("namespaces have numbers of 32 bits")?;
        // First of all: from its label on, only who is in it may enter it.
        self.sensors.label_member(number, instance)?;
        if let Some(known) = self.namespaces.get_mut(&number) {
            known.instances.insert(instance);
            return Ok(());
        }
        self.label_held(&file, guard::ENTER, Role::Instance, instance).context("label a namespace")?;
        self.namespaces.insert(number, Namespace { network, instances: BTreeSet::from([instance]), held: file });
        if network { Ok(self.sensors.label_network(number, instance)?) } else { Ok(()) }
    }

    /// Ends the guard of those that nobody else is in; the others are somebody else's.
    pub(super) fn unlabel_namespaces(&mut self, instance: u32) {
        let sensors = &self.sensors;
        self.namespaces.retain(|number, one| {
            if !one.instances.remove(&instance) {
                return true;
            }
            // What was not labelled has no label to end; one that cannot be changed goes on refusing.
            let _ = sensors.unlabel_member(*number, instance);
            let Some(heir) = one.instances.first() else {
                let _ = sensors.unlabel_file(&one.held);
                if one.network {
                    let _ = sensors.unlabel_network(*number);
                }
                return false;
            };
            let _ = sensors.label_file(&one.held, guard::ENTER, Role::Instance, *heir);
            if one.network {
                let _ = sensors.label_network(*number, *heir);
            }
            true
        });
    }
}

/// The threads of a process, of which each may have namespaces of its own; none of one that is gone.
fn threads(pid: u32) -> Result<Vec<PathBuf>> {
    let folder = PathBuf::from(format!("/proc/{pid}/task"));
    let listed = fs::read_dir(&folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    match listed {
        Err(error) if error.kind() == ErrorKind::NotFound || !folder.exists() => Ok(Vec::new()),
        outcome => outcome.with_context(|| format!("list {}", folder.display())),
    }
}

/// A namespace of a thread, as a path only. `None` where the thread ends: it gives its namespaces up long before it leaves /proc, and
/// runs nothing any more.
fn open(thread: &Path, kind: &str) -> Result<Option<File>> {
    let path = thread.join("ns").join(kind);
    match rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        Err(_) if !thread.exists() => Ok(None),
        Err(error) => Err(error).with_context(|| format!("open {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn each_thread_has_namespaces_until_it_ends() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || held.recv());
        let all = threads(std::process::id()).unwrap();
        assert!(all.len() > 1, "{all:?}");
        let inode = |file: File| file.metadata().unwrap().ino();
        for (thread, kind) in all.iter().flat_map(|thread| KINDS.map(|kind| (thread, kind))) {
            let expected = fs::metadata(format!("/proc/self/ns/{kind}")).unwrap().ino();
            // Threads of the test's runner come and go.
            assert!(open(thread, kind).unwrap().is_none_or(|file| inode(file) == expected), "{thread:?} {kind}");
        }
        drop(hold);
        other.join().unwrap().unwrap_err();
    }

    #[test]
    fn what_has_ended_and_was_not_waited_for_has_none() {
        let mut child = Command::new("true").spawn().unwrap();
        let status = || fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        while !status().contains(") Z ") {
            std::thread::yield_now();
        }
        let [thread] = &threads(child.id()).unwrap()[..] else { panic!("it has one thread") };
        for kind in ["cgroup", "ipc", "mnt", "net", "uts"] {
            assert!(open(thread, kind).unwrap().is_none(), "{kind}");
        }
        let thread = thread.clone();
        child.wait().unwrap();
        assert!(open(&thread, "net").unwrap().is_none());
        assert!(threads(child.id()).unwrap().is_empty());
    }
}

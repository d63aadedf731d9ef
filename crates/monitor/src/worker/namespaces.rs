//! Namespaces of instances: two may share one, which stays guarded until the last of them is unwatched.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{Worker, instances::gone};
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
        for kind in KINDS {
            // A kernel without this kind has none of it to guard.
            let Ok(own) = fs::metadata(format!("/proc/self/ns/{kind}")) else { continue };
            for pid in processes {
                let path = PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
                let about = match fs::metadata(&path) {
                    Err(_) if gone(*pid) => continue,
                    outcome => outcome.with_context(|| format!("look at {}", path.display()))?,
                };
                if about.ino() != own.ino() {
                    let number = u32::try_from(about.ino()).context("namespaces have numbers of 32 bits")?;
                    self.label_namespace(&path, number, kind == "net", instance)?;
                }
            }
        }
        Ok(())
    }

    fn label_namespace(&mut self, path: &Path, number: u32, network: bool, instance: u32) -> Result<()> {
        // First of all: from its label on, only who is in it may enter it.
        self.sensors.label_member(number, instance)?;
        if let Some(known) = self.namespaces.get_mut(&number) {
            known.instances.insert(instance);
            return Ok(());
        }
        self.hold(path, guard::ENTER, Role::Instance, instance)?;
        let held = self.held.pop().expect("it was pushed a line above");
        self.namespaces.insert(number, Namespace { network, instances: BTreeSet::from([instance]), held });
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

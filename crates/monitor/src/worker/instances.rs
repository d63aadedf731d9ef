//! Instances that are watched.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::json;

use super::Worker;
use crate::{
    control::Instance,
    kernel::{
        layout::{Label, Role, guard},
        maps::process,
    },
};

/// An instance with its labels.
#[derive(Debug)]
pub(super) struct Watched {
    number: u32,
    cgroup: PathBuf,
    cgroup_id: u64,
    held: Vec<File>,
}

impl Watched {
    /// Whether a process is left in its cgroup.
    fn populated(&self) -> bool {
        // A cgroup that is gone has none.
        fs::read_to_string(self.cgroup.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
    }
}

impl Worker {
    /// Labels everything of an instance; half of it is none of it.
    pub(super) fn watch(&mut self, wanted: &Instance) -> Result<()> {
        if self.ended.is_some() {
            bail!("watch {}: the monitor has tripped (hint: report what happened, then clear it)", wanted.instance);
        }
        if self.instances.contains_key(&wanted.instance) {
            bail!("watch {}: it is watched already", wanted.instance);
        }
        let below = wanted.cgroup.strip_prefix(&self.config.instances).is_ok_and(|rest| {
            rest.components().next().is_some() && rest.components().all(|part| matches!(part, std::path::Component::Normal(_)))
        });
        if !below {
            let place = self.config.instances.display();
            bail!("watch {}: its cgroup {} does not lie in {place}", wanted.instance, wanted.cgroup.display());
        }
        let number = self.instances.values().map(|one| one.number).max().unwrap_or(0) + 1;
        let cgroup_id =
            fs::metadata(&wanted.cgroup).with_context(|| format!("look at the cgroup {}", wanted.cgroup.display()))?.ino();
        let before = self.held.len();
        let outcome = self.label_instance(wanted, number, cgroup_id);
        let held = self.held.split_off(before);
        let watched = Watched { number, cgroup: wanted.cgroup.clone(), cgroup_id, held };
        if let Err(error) = outcome {
            self.unlabel(&watched);
            return Err(error.context(format!("watch {}", wanted.instance)));
        }
        self.instances.insert(wanted.instance.clone(), watched);
        self.record([json!({"kind": "watched", "instance": wanted.instance, "processes": wanted.processes})])
    }

    fn label_instance(&mut self, wanted: &Instance, number: u32, cgroup_id: u64) -> Result<()> {
        self.sensors.label_cgroup(cgroup_id, number)?;
        self.label_switches(&wanted.cgroup, Role::Instance, number)?;
        for path in &wanted.memory {
            let bits = guard::MEMORY | guard::READ | guard::WRITE | guard::NAME;
            self.hold(&follow(path)?, bits, Role::Instance, number)?;
        }
        for pid in &wanted.processes {
            self.sensors.label_process(*pid, Label { role: Role::Instance, instance: number })?;
        }
        Ok(())
    }

    /// Ends an instance's labels once none of its processes is left.
    pub(super) fn unwatch(&mut self, name: &str) -> Result<()> {
        let Some(watched) = self.instances.get(name) else { bail!("end the watch over {name}: it is not watched") };
        if watched.populated() {
            bail!("end the watch over {name}: it still runs");
        }
        let watched = self.instances.remove(name).expect("it was there a line above");
        self.unlabel(&watched);
        self.record([json!({"kind": "unwatched", "instance": name})])
    }

    fn unlabel(&self, watched: &Watched) {
        // What was not labelled has no label to end.
        let _ = self.sensors.unlabel_cgroup(watched.cgroup_id);
        for file in &watched.held {
            let _ = self.sensors.unlabel_file(file);
        }
    }

    /// Accepts work again, after what happened was reported.
    pub(super) fn clear(&mut self) -> Result<()> {
        if let Some((name, _)) = self.instances.iter().find(|(_, one)| one.populated()) {
            bail!("clear: {name} still runs");
        }
        for name in self.instances.keys().cloned().collect::<Vec<_>>() {
            self.unwatch(&name)?;
        }
        self.react()?;
        self.sensors.forget_first()?;
        let mut state = self.sensors.state()?;
        state.tripped_at_ns = 0;
        self.sensors.set_state(state)?;
        self.ended = None;
        self.record([json!({"kind": "cleared"})])
    }
}

impl Worker {
    /// Ends what carries an instance's label outside its cgroup: whoever moved it there shall not have saved it.
    pub(super) fn sweep(&self) -> usize {
        (0..SWEEPS).map(|_| self.sweep_once()).take_while(|ended| *ended > 0).sum()
    }

    fn sweep_once(&self) -> usize {
        let Ok(entries) = fs::read_dir("/proc") else { return 0 };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| self.end_if_instance(*pid)).count()
    }

    fn end_if_instance(&self, pid: u32) -> bool {
        // What has ended, and waits for its parent, needs no second end.
        let over = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| text.contains(") Z "));
        let Ok(process) = process(pid) else { return false };
        let label = self.sensors.label_of_process(&process).ok().flatten();
        !over && label.is_some_and(|label| label.role == Role::Instance) && pidfd_send_signal(&process, Signal::KILL).is_ok()
    }
}

/// What forks while it is swept is swept again.
const SWEEPS: usize = 8;

/// A descriptor's link in /proc leads to a file that may have no name: it is opened as it is.
fn follow(path: &std::path::Path) -> Result<PathBuf> {
    if path.is_absolute() { Ok(path.to_owned()) } else { bail!("{} is not an absolute path", path.display()) }
}

//! Instances that are watched.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::json;

use super::{Worker, place::refuse_tracer};
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
        if !self.sensors.state()?.sealed {
            bail!("watch {}: the node is in maintenance (hint: end it first)", wanted.instance);
        }
        if self.instances.contains_key(&wanted.instance) {
            bail!("watch {}: it is watched already", wanted.instance);
        }
        let below = wanted.cgroup.strip_prefix(&self.config.instances).is_ok_and(|rest| {
            rest.components().next().is_some() && rest.components().all(|part| matches!(part, Component::Normal(_)))
        });
        if !below {
            let place = self.config.instances.display();
            bail!("watch {}: its cgroup {} does not lie in {place}", wanted.instance, wanted.cgroup.display());
        }
        let number = self.instances.values().map(|one| one.number).max().unwrap_or(0) + 1;
        let cgroup_id =
            fs::metadata(&wanted.cgroup).with_context(|| format!("look at the cgroup {}", wanted.cgroup.display()))?.ino();
        let (before, guarded) = (self.held.len(), std::mem::take(&mut self.guarded));
        let mut watched = Watched { number, cgroup: wanted.cgroup.clone(), cgroup_id, held: Vec::new() };
        let outcome = self.label_instance(wanted, &watched);
        let brought = std::mem::replace(&mut self.guarded, guarded);
        let outcome = outcome.and_then(|()| self.scan_instance(&wanted.instance, &brought));
        watched.held = self.held.split_off(before);
        if let Err(error) = outcome {
            self.unlabel(&watched);
            return Err(error.context(format!("watch {}", wanted.instance)));
        }
        self.instances.insert(wanted.instance.clone(), watched);
        // The programs' patience begins now, not with the next beat.
        self.called = None;
        self.beat()?;
        self.record([json!({"kind": "watched", "instance": wanted.instance, "processes": wanted.processes})])
    }

    fn label_instance(&mut self, wanted: &Instance, watched: &Watched) -> Result<()> {
        let number = watched.number;
        self.sensors.label_cgroup(watched.cgroup_id, number)?;
        self.label_switches(&wanted.cgroup, Role::Instance, number)?;
        for path in &wanted.memory {
            let bits = guard::MEMORY | guard::READ | guard::WRITE | guard::NAME;
            self.hold(&follow(path)?, bits, Role::Instance, number)?;
        }
        for path in &wanted.sockets {
            self.hold(&follow(path)?, guard::CONNECT | guard::NAME, Role::Instance, number)?;
        }
        let all: BTreeSet<u32> = wanted.processes.iter().copied().collect();
        let mut processes = all.clone();
        for pid in &all {
            let labelled = self.sensors.label_process(*pid, Label { role: Role::Instance, instance: number });
            // Asked for afterwards: from the label on, nobody can become its tracer any more.
            let labelled = labelled.map_err(Into::into).and_then(|()| refuse_tracer(*pid, &processes));
            match labelled {
                // What has ended meanwhile needs no guard.
                Err(_) if gone(*pid) => drop(processes.remove(pid)),
                outcome => outcome?,
            }
        }
        if processes.is_empty() {
            bail!("none of its processes is left");
        }
        self.label_namespaces(&processes, number)
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

    fn unlabel(&mut self, watched: &Watched) {
        // What was not labelled has no label to end.
        let _ = self.sensors.unlabel_cgroup(watched.cgroup_id);
        self.unlabel_namespaces(watched.number);
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
        let Ok(process) = process(pid) else { return false };
        let label = self.sensors.label_of_process(&process).ok().flatten();
        // What has ended, and waits for its parent, needs no second end.
        let over = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| text.contains(") Z "));
        label.is_some_and(|label| label.role == Role::Instance) && !over() && pidfd_send_signal(&process, Signal::KILL).is_ok()
    }
}

/// Whether a process has ended and was waited for.
fn gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// What forks while it is swept is swept again.
const SWEEPS: usize = 8;

/// A descriptor's link in /proc leads to a file that may have no name: it is opened as it is.
fn follow(path: &Path) -> Result<PathBuf> {
    if path.is_absolute() { Ok(path.to_owned()) } else { bail!("{} is not an absolute path", path.display()) }
}

//! The monitor's own place: its processes, program, folders, pins and cgroup, labelled before anything else; and the seal.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io::Write as _,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{Mode, OFlags},
    process::getppid,
};

use super::{Agent, Worker, scan};
use crate::{
    control::Lines,
    devices,
    guard::own_path,
    kernel::{
        layout::{Label, Role, State, guard},
        maps::process,
    },
};

/// A file that is freezes or ends what is in a cgroup.
const SWITCHES: [&str; 2] = ["cgroup.freeze", "cgroup.kill"];

/// The guard, which started this process.
pub(super) fn parent() -> Result<OwnedFd> {
    let parent = getppid().context("the guard is gone")?;
    Ok(process(parent.as_raw_nonzero().get().unsigned_abs())?)
}

/// The mount point of the hierarchy of version 2 that `path` lies in.
pub(super) fn cgroup_root(path: &Path) -> Result<PathBuf> {
    let top = path.ancestors().skip(1).take_while(|folder| folder.join("cgroup.controllers").is_file()).last();
    top.map(Path::to_owned).with_context(|| format!("find the cgroup hierarchy of version 2 that {} lies in", path.display()))
}

impl Worker {
    /// Labels what is the monitor's, and what the configuration names.
    pub(super) fn label_place(&mut self) -> Result<()> {
        let own = own_path()?;
        self.hold(&own, guard::WRITE | guard::NAME | guard::KEEPS, Role::Monitor, 0)?;
        let monitor = Label { role: Role::Monitor, instance: 0 };
        let guard_pid = getppid().context("the guard is gone")?.as_raw_nonzero().get().unsigned_abs();
        for pid in [std::process::id(), guard_pid] {
            refuse_tracer(pid, &BTreeSet::new())?;
            self.sensors.label_process(pid, monitor)?;
        }
        let state = self.config.state.clone();
        self.hold(&state, guard::ENTRIES | guard::NAME, Role::Monitor, 0)?;
        self.hold(&self.config.spool(), guard::WRITE | guard::NAME, Role::Monitor, 0)?;
        self.label_configured()?;
        self.guard_characters()?;
        self.label_switches(&self.config.instances.clone(), Role::Monitor, 0)?;
        self.label_own_cgroup()
    }

    /// Labels what the configuration names.
    pub(super) fn label_configured(&mut self) -> Result<()> {
        let before = self.held.len();
        let outcome = self.hold_configured();
        self.configured = self.held.split_off(before);
        outcome
    }

    fn hold_configured(&mut self) -> Result<()> {
        for file in self.config.files.clone() {
            self.hold(&file.path, file.bits(), file.role(), 0)?;
            if file.device {
                self.sensors.guard_device(&file.path)?;
            }
        }
        for path in self.config.sockets.clone() {
            self.hold(&path, guard::CONNECT | guard::NAME, Role::Agent, 0)?;
        }
        Ok(())
    }

    /// Guards the devices that there are now.
    pub(super) fn guard_characters(&self) -> Result<()> {
        let numbers = devices::numbers(&self.config.devices).context("read the kernel's lists of devices")?;
        Ok(numbers.into_iter().try_for_each(|number| self.sensors.guard_character(number))?)
    }

    /// Nobody freezes the monitor, or what it lies in.
    fn label_own_cgroup(&mut self) -> Result<()> {
        let root = cgroup_root(&self.config.instances)?;
        let text = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::/")).context("the monitor is in no cgroup of version 2")?;
        let own = root.join(own);
        for folder in own.ancestors().take_while(|folder| folder.starts_with(&root) && *folder != root) {
            self.label_switches(folder, Role::Monitor, 0)?;
        }
        Ok(())
    }

    /// Guards what freezes or ends a cgroup.
    pub(super) fn label_switches(&mut self, folder: &Path, owner: Role, instance: u32) -> Result<()> {
        SWITCHES
            .iter()
            .map(|name| folder.join(name))
            .filter(|path| path.is_file())
            .try_for_each(|path| self.hold(&path, guard::WRITE, owner, instance))
    }

    /// Guards the pins, and the file system that they are on.
    pub(super) fn label_pins(&mut self) -> Result<()> {
        let pins = self.config.pins.clone();
        self.hold(&pins, guard::ENTRIES | guard::NAME, Role::Monitor, 0)?;
        for entry in fs::read_dir(&pins).with_context(|| format!("read {}", pins.display()))? {
            self.hold(&entry?.path(), guard::NAME | guard::WRITE, Role::Monitor, 0)?;
        }
        self.sensors.guard_device(&pins)?;
        let root = pins.parent().context("pins lie in a folder")?;
        self.hold(root, guard::NAME, Role::Monitor, 0)
    }

    /// Labels a file and keeps it open.
    pub(super) fn hold(&mut self, path: &Path, bits: u32, owner: Role, instance: u32) -> Result<()> {
        // As a path only: some of these may not be opened for reading, and devices must not.
        let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let file = File::from(opened.with_context(|| format!("open {} to label it", path.display()))?);
        self.label_held(&file, bits, owner, instance).with_context(|| format!("label {}", path.display()))?;
        self.held.push(file);
        Ok(())
    }

    /// Labels a file that the caller keeps open for as long.
    pub(super) fn label_held(&mut self, file: &File, bits: u32, owner: Role, instance: u32) -> Result<()> {
        self.sensors.label_file(file, bits, owner, instance)?;
        self.guarded.insert(scan::place(file).context("look at it")?, bits);
        Ok(())
    }

    /// While it is sealed, modules, foreign BPF and settings are refused.
    pub(super) fn set_sealed(&self, sealed: bool) -> Result<()> {
        let foreign_bpf = self.config.foreign_bpf();
        let state = State {
            sealed,
            uprobe_type: event_type("uprobe"),
            kprobe_type: event_type("kprobe"),
            foreign_bpf,
            ..self.sensors.state()?
        };
        Ok(self.sensors.set_state(state)?)
    }

    /// Starts a command that is labelled as the agent before it is itself.
    pub(super) fn start_agent(&self, command: &[OsString]) -> Result<Agent> {
        let (mut ours, theirs) = UnixStream::pair().context("make the control socket")?;
        let mut start = Command::new(own_path()?);
        start.arg("exec").arg("--").args(command).stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = start.spawn().context("start the agent")?;
        self.sensors.label_process(child.id(), Label { role: Role::Agent, instance: 0 })?;
        ours.write_all(&[0]).context("tell the agent to begin")?;
        ours.set_nonblocking(true).context("set up the control socket")?;
        Ok(Agent { process: process(child.id())?, control: ours, lines: Lines::default() })
    }
}

/// A tracer that is there already would not meet any hook. One among `own` is part of what is guarded: a user-space kernel may run its
/// programs that way.
pub(super) fn refuse_tracer(pid: u32, own: &BTreeSet<u32>) -> Result<()> {
    // The kernel names the thread that traces, not its process.
    let tracer = match status(pid, "TracerPid")? {
        Some(0) => return Ok(()),
        Some(tracer) => tracer,
        None => bail!("the kernel does not say who traces process {pid}"),
    };
    match status(tracer, "Tgid") {
        Ok(Some(process)) if own.contains(&process) => Ok(()),
        // It has ended, and its hold with it.
        Err(_) if status(pid, "TracerPid")? == Some(0) => Ok(()),
        _ => bail!("process {pid} is traced by {tracer} (hint: end it first)"),
    }
}

/// A number in the status of a process or thread.
fn status(pid: u32, name: &str) -> Result<Option<u32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("read /proc/{pid}/status"))?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    Ok(lines.find(|(is, _)| *is == name).and_then(|(_, number)| number.trim().parse().ok()))
}

/// The number of a kind of perf events; kinds that the kernel does not have get one that nobody has.
fn event_type(name: &str) -> u32 {
    let text = fs::read_to_string(format!("/sys/bus/event_source/devices/{name}/type")).ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(u32::MAX)
}

//! The canary: a process of the monitor without rights, which tries one harmless forbidden act per group.
//!
//! An act that is not refused, or a refusal that the programs did not count, means that a hook is blind, and is treated as a breach.
//! Each act would change nothing if it succeeded.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use libbpf_rs::MapHandle;
use rustix::{
    mount::{UnmountFlags, mount_bind, unmount},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open},
};
use serde::{Deserialize, Serialize};

use crate::detector::{Detector, Group};

/// What the canary tries its acts on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Targets {
    /// The monitor.
    pub monitor: u32,
    /// A guarded file.
    pub file: PathBuf,
    /// A guarded folder.
    pub folder: PathBuf,
    /// A file that is labelled as guest memory.
    pub memory: PathBuf,
    /// The id of a map of ours.
    pub map: u32,
}

/// Its acts: the group, the detector that must count it.
pub const ACTS: [(Group, Detector); 8] = [
    (Group::Ptrace, Detector::PtraceAttach),
    (Group::Memory, Detector::MemoryOpen),
    (Group::Files, Detector::FileWrite),
    (Group::Files, Detector::FileMount),
    (Group::Modules, Detector::ModuleLoad),
    (Group::Bpf, Detector::BpfObject),
    (Group::Signals, Detector::SignalSelf),
    (Group::Own, Detector::SelfSetting),
];

/// What came of the acts, by detector: `None` for refused, else what happened instead.
pub type Outcome = BTreeMap<String, Option<String>>;

/// Serves one round per line of standard input, until it closes.
pub fn serve() -> anyhow::Result<()> {
    let (input, mut output) = (io::stdin().lock(), io::stdout().lock());
    for line in input.lines() {
        let targets: Targets = serde_json::from_str(&line?)?;
        let outcome: Outcome = ACTS.iter().map(|(_, one)| (one.name().to_owned(), try_act(*one, &targets))).collect();
        serde_json::to_writer(&mut output, &outcome)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

fn try_act(detector: Detector, targets: &Targets) -> Option<String> {
    let refused = |error: &io::Error| error.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error());
    match act(detector, targets) {
        Err(error) if refused(&error) => None,
        Err(error) => Some(format!("it was not refused, but failed: {error}")),
        Ok(()) => Some("it succeeded".to_owned()),
    }
}

fn act(detector: Detector, targets: &Targets) -> io::Result<()> {
    match detector {
        Detector::PtraceAttach => {
            let monitor = pidfd_open(pid(targets.monitor)?, PidfdFlags::empty())?;
            pidfd_getfd(&monitor, 0, PidfdGetfdFlags::empty())?;
        }
        Detector::MemoryOpen => drop(File::open(&targets.memory)?),
        Detector::FileWrite => drop(OpenOptions::new().write(true).open(&targets.file)?),
        Detector::FileMount => bind(&targets.folder)?,
        // It is no module.
        Detector::ModuleLoad => rustix::system::finit_module(File::open(&targets.file)?.as_fd(), c"", 0)?,
        Detector::BpfObject => {
            drop(MapHandle::from_map_id(targets.map).map_err(|error| io::Error::from_raw_os_error(code(&error)))?)
        }
        // Ignored by whoever has no handler for it.
        Detector::SignalSelf => kill_process(pid(targets.monitor)?, Signal::WINCH)?,
        // Nothing is written.
        Detector::SelfSetting => drop(OpenOptions::new().write(true).open("/proc/sys/kernel/ftrace_enabled")?),
        _ => return Err(io::Error::other("there is no such act")),
    }
    Ok(())
}

fn bind(folder: &Path) -> io::Result<()> {
    mount_bind(folder, folder)?;
    unmount(folder, UnmountFlags::DETACH)?;
    Ok(())
}

fn pid(number: u32) -> io::Result<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw).ok_or_else(|| rustix::io::Errno::SRCH.into())
}

fn code(error: &libbpf_rs::Error) -> i32 {
    match error.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => rustix::io::Errno::PERM.raw_os_error(),
        libbpf_rs::ErrorKind::NotFound => rustix::io::Errno::NOENT.raw_os_error(),
        _ => rustix::io::Errno::INVAL.raw_os_error(),
    }
}

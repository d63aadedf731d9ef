//! The canary: a process of the monitor without rights, which tries one harmless forbidden act per group.
//!
//! An act that is not refused, or a refusal that the programs did not count, means that a hook is blind: at the start the group is none of the
//! class, later it is a breach. Each act would change nothing if it succeeded.
//!
//! ```text
//! worker ── labels ──> parent, waits; its child stops it ── fork, exec ──> child, has the label from its parent; tries the acts
//! ```

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::{net::UnixStream, process::parent_id},
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use libbpf_rs::MapHandle;
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{UnmountFlags, mount_bind, unmount},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open},
};
use serde::{Deserialize, Serialize};

use crate::{
    detector::{Detector, Group},
    guard::own_path,
};

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
    /// A folder of its own.
    pub free: PathBuf,
    /// A file that is labelled as a namespace.
    pub namespace: PathBuf,
    /// A guarded socket.
    pub socket: PathBuf,
    /// Nothing is refused here: only what is seen all the same is tried.
    pub only_seen: bool,
}

/// Its acts: the group, the detector that must count it.
pub const ACTS: [(Group, Detector); 15] = [
    // Whatever it is: who tries it has its label from its parent.
    (Group::Labels, Detector::FileRead),
    (Group::Ptrace, Detector::PtraceAttach),
    (Group::Ptrace, Detector::PtraceInspect),
    (Group::Memory, Detector::MemoryOpen),
    (Group::Files, Detector::FileWrite),
    (Group::Files, Detector::FileMount),
    (Group::Modules, Detector::ModuleLoad),
    (Group::Bpf, Detector::BpfObject),
    (Group::Signals, Detector::SignalSelf),
    (Group::Own, Detector::SelfSetting),
    (Group::Devices, Detector::DeviceNode),
    (Group::Sockets, Detector::SocketConnect),
    (Group::Hardware, Detector::HardwareSetting),
    (Group::Namespaces, Detector::NamespaceEnter),
    (Group::System, Detector::SystemSysrq),
];

/// Every kernel with PCI has it.
pub const HARDWARE: &str = "/sys/bus/pci/rescan";

/// What came of the acts, by detector: `None` for refused, else what happened instead.
pub type Outcome = BTreeMap<String, Option<String>>;

/// The hook by which an act is seen where nothing is refused.
pub fn seen_by(detector: Detector) -> Option<&'static str> {
    (detector == Detector::SignalSelf).then_some("tp_btf/signal_generate")
}

/// Waits for its label, which one byte of standard input says, and leaves the rest to a child.
pub fn begin() -> anyhow::Result<()> {
    // Not by the buffer of standard input: what follows is the child's.
    if rustix::io::read(rustix::stdio::stdin(), &mut [0]).context("wait for the label")? == 0 {
        bail!("wait for the label: standard input is closed");
    }
    let status = Command::new(own_path()?).args(["canary", "--serve"]).status().context("start the canary's child")?;
    if status.success() { Ok(()) } else { bail!("the canary's child ended with {status}") }
}

/// Serves one round per line of standard input, until it closes.
pub fn serve() -> anyhow::Result<()> {
    let (input, mut output) = (io::stdin().lock(), io::stdout().lock());
    for line in input.lines() {
        let targets: Targets = serde_json::from_str(&line?)?;
        let wanted = ACTS.iter().map(|(_, one)| *one).filter(|one| !targets.only_seen || seen_by(*one).is_some());
        let outcome: Outcome = wanted.map(|one| (one.name().to_owned(), try_act(one, &targets))).collect();
        serde_json::to_writer(&mut output, &outcome)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

fn try_act(detector: Detector, targets: &Targets) -> Option<String> {
    let refused = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
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
        Detector::PtraceInspect => {
            let length = File::open(format!("/proc/{}/maps", targets.monitor))?.read(&mut [0])?;
            // It may open and hold nothing for who may not look.
            if length == 0 {
                return Err(rustix::io::Errno::PERM.into());
            }
        }
        Detector::FileRead => drop(File::open(&targets.file)?),
        Detector::MemoryOpen => drop(File::open(&targets.memory)?),
        Detector::FileWrite => drop(OpenOptions::new().write(true).open(&targets.file)?),
        Detector::FileMount => bind(&targets.folder)?,
        // It is no module.
        Detector::ModuleLoad => rustix::system::finit_module(File::open(own_path().map_err(io::Error::other)?)?.as_fd(), c"", 0)?,
        Detector::BpfObject => {
            drop(MapHandle::from_map_id(targets.map).map_err(|error| io::Error::from_raw_os_error(code(&error)))?)
        }
        Detector::SignalSelf => {
            let parent = pid(parent_id())?;
            kill_process(parent, Signal::STOP)?;
            kill_process(parent, Signal::CONT)?;
        }
        // Nothing is written.
        Detector::SelfSetting => drop(OpenOptions::new().write(true).open("/proc/sys/kernel/ftrace_enabled")?),
        Detector::DeviceNode => {
            let node = targets.free.join("node");
            mknodat(CWD, &node, FileType::CharacterDevice, Mode::empty(), makedev(1, 1))?;
            std::fs::remove_file(node)?;
        }
        Detector::SocketConnect => drop(UnixStream::connect(&targets.socket)?),
        Detector::NamespaceEnter => drop(File::open(&targets.namespace)?),
        Detector::HardwareSetting => drop(OpenOptions::new().write(true).open(HARDWARE)?),
        Detector::SystemSysrq => drop(OpenOptions::new().write(true).open("/proc/sysrq-trigger")?),
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

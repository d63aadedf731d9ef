//! Control groups: what an instance may use, and the sure way to end all of it.
//!
//! Version 2 is always used for grouping and killing (it is mounted when the host has it nowhere). Its controllers are used
//! where they are free; on a host that still binds memory or pids to version 1, the instance has a group there too.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::mount::MountFlags;
use serde::{Deserialize, Serialize};

use crate::{
    DriverError,
    error::Context,
    sys::{self, Fork},
};

/// Where groups can be made on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// Version 2: the directory for this driver's group.
    unified: PathBuf,
    /// Version 1: controllers and the directories for this driver's groups.
    legacy: Vec<(Controller, PathBuf)>,
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Controller {
    /// Bytes.
    Memory,
    /// Processes and threads.
    Pids,
    /// Shares of time.
    Cpu,
}

/// Limits of one instance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Guest RAM, VMM and vTPM together.
    pub(crate) memory_bytes: u64,
    /// Processes and threads.
    pub(crate) pids: u32,
    /// Virtual CPUs.
    pub(crate) cpus: u32,
}

/// The groups of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    unified: PathBuf,
    legacy: Vec<(Controller, PathBuf)>,
}

impl Hierarchies {
    /// Finds them, and mounts version 2 at `own_mount` where the host has it nowhere.
    pub(crate) fn find(own_mount: &Path) -> Result<Self, DriverError> {
        let read = |path: &str| fs::read_to_string(path).context("read", Path::new(path));
        let (mounts, groups) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        if let Some(found) = parse(&mounts, &groups) {
            return Ok(found);
        }
        fs::create_dir_all(own_mount).context("create", own_mount)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("cgroup2", own_mount, "cgroup2", flags, None).context("mount cgroup version 2 on", own_mount)?;
        parse(&read("/proc/self/mountinfo")?, &groups)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .context("find cgroup version 2 at", own_mount)
    }

    /// The groups of an instance.
    pub(crate) fn group(&self, driver: &str, instance: &str) -> Group {
        let place = |base: &Path| base.join(driver).join(instance);
        Group {
            unified: place(&self.unified),
            legacy: self.legacy.iter().map(|(controller, base)| (*controller, place(base))).collect(),
        }
    }

    /// Names of the instances that have a group.
    pub(crate) fn instances(&self, driver: &str) -> Vec<String> {
        let bases = std::iter::once(&self.unified).chain(self.legacy.iter().map(|(_, base)| base));
        let mut names: Vec<String> = bases
            .filter_map(|base| fs::read_dir(base.join(driver)).ok())
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// A group that a process is to join, and that must hold it afterwards.
impl Group {
    /// Makes the groups with their limits.
    pub(crate) fn create(&self, limits: &Limits) -> Result<(), DriverError> {
        for directory in self.directories() {
            fs::create_dir_all(directory).context("create the cgroup", directory)?;
        }
        for controller in [Controller::Memory, Controller::Pids, Controller::Cpu] {
            match self.legacy.iter().find(|(held, _)| *held == controller) {
                Some((_, directory)) => limit_legacy(directory, controller, limits)?,
                None => self.limit_unified(controller, limits)?,
            }
        }
        Ok(())
    }

    fn limit_unified(&self, controller: Controller, limits: &Limits) -> Result<(), DriverError> {
        let path = &self.unified;
        let files = match controller {
            Controller::Memory => {
                vec![("memory.max", limits.memory_bytes.to_string()), ("memory.swap.max", "0".to_owned())]
            }
            Controller::Pids => vec![("pids.max", limits.pids.to_string())],
            Controller::Cpu => vec![("cpu.weight", weight(limits.cpus).to_string())],
        };
        if let Err(error) = enable(path, controller) {
            return match controller {
                // A share of CPU time is a kindness among instances, not a wall.
                Controller::Cpu => Ok(()),
                Controller::Memory | Controller::Pids => Err(DriverError::Jail {
                    check: "cgroup",
                    detail: format!("no {controller:?} limit can be set at {}: {error}", path.display()),
                }),
            };
        }
        for (file, value) in files {
            match fs::write(path.join(file), value) {
                // A kernel without swap has no such file.
                Err(error) if error.kind() == io::ErrorKind::NotFound && file.contains("swap") => {}
                outcome => outcome.context("limit the cgroup", &path.join(file))?,
            }
        }
        Ok(())
    }

    /// Opens the way in for a process that is still to be made.
    pub(crate) fn entrance(&self) -> io::Result<Entrance> {
        let legacy = self.legacy.iter().map(|(_, directory)| File::options().write(true).open(directory.join(TASKS)));
        Ok(Entrance { unified: File::open(&self.unified)?.into(), legacy: legacy.collect::<io::Result<_>>()? })
    }

    /// Moves a process in. After a quiet moment that takes some ten milliseconds: the kernel waits until no processor is about to fork.
    pub(crate) fn join(&self, pid: u32) -> io::Result<()> {
        self.directories().try_for_each(|directory| fs::write(directory.join(PROCESSES), pid.to_string()))
    }

    /// The one of version 2.
    pub(crate) fn unified(&self) -> &Path {
        &self.unified
    }

    /// The processes in it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        processes_of(&self.unified)
    }

    /// Whether it holds the process in every hierarchy, under limits.
    pub(crate) fn holds(&self, pid: i32) -> Result<(), String> {
        for directory in self.directories() {
            if !processes_of(directory).contains(&pid) {
                return Err(format!("process {pid} is not in {}", directory.display()));
            }
        }
        for controller in [Controller::Memory, Controller::Pids] {
            let (directory, file) = match self.legacy.iter().find(|(held, _)| *held == controller) {
                Some((_, directory)) => (directory, legacy_file(controller)),
                None => (&self.unified, unified_file(controller)),
            };
            let text = fs::read_to_string(directory.join(file)).map_err(|error| format!("{file}: {error}"))?;
            match text.trim().parse::<u64>() {
                Ok(limit) if limit < NO_LIMIT => {}
                _ => return Err(format!("{file} in {} is {}", directory.display(), text.trim())),
            }
        }
        Ok(())
    }

    /// Whether nothing of it is ever swapped. Version 1 knows only a tendency, which is no promise.
    pub(crate) fn forbids_swap(&self) -> bool {
        let legacy = self.legacy.iter().any(|(held, _)| *held == Controller::Memory);
        !legacy && fs::read_to_string(self.unified.join("memory.swap.max")).is_ok_and(|most| most.trim() == "0")
    }

    /// Bytes of memory that belong to its processes alone, and not to files; `None` where the kernel does not say.
    pub(crate) fn anonymous_bytes(&self) -> Option<u64> {
        let (directory, field) = match self.legacy.iter().find(|(held, _)| *held == Controller::Memory) {
            Some((_, directory)) => (directory, "total_rss "),
            None => (&self.unified, "anon "),
        };
        let text = fs::read_to_string(directory.join("memory.stat")).ok()?;
        text.lines().find_map(|line| line.strip_prefix(field))?.trim().parse().ok()
    }

    /// Ends every process in it; returns when none is left.
    pub(crate) fn kill(&self) -> Result<(), DriverError> {
        if !self.unified.exists() {
            return Ok(());
        }
        let begin = Instant::now();
        // The kernel signals all at once, also those that fork meanwhile; before Linux 5.14 the rounds below do it.
        let _ = fs::write(self.unified.join("cgroup.kill"), "1");
        loop {
            let left = self.processes();
            if left.is_empty() && !self.populated() {
                return Ok(());
            }
            for pid in left {
                crate::process::signal_kill(pid);
            }
            if begin.elapsed() > KILL_LIMIT {
                let limit_ms = u64::try_from(KILL_LIMIT.as_millis()).unwrap_or(u64::MAX);
                return Err(DriverError::Timeout { attempt: "ending the processes of an instance", limit_ms });
            }
            std::thread::sleep(KILL_PAUSE);
        }
    }

    fn populated(&self) -> bool {
        fs::read_to_string(self.unified.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
    }

    /// Whether any of its directories exists.
    pub(crate) fn exists(&self) -> bool {
        self.directories().any(Path::exists)
    }

    /// Removes it, and the driver's group when it was the last.
    pub(crate) fn remove(&self) -> Result<(), DriverError> {
        for directory in self.directories() {
            remove_retrying(directory).context("remove the cgroup", directory)?;
            if let Some(parent) = directory.parent() {
                let _ = fs::remove_dir(parent);
            }
        }
        Ok(())
    }

    fn directories(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.unified.as_path()).chain(self.legacy.iter().map(|(_, path)| path.as_path()))
    }
}

/// The way into a group for a process that is made there, for which nobody waits as for one that is moved.
pub(crate) struct Entrance {
    unified: OwnedFd,
    legacy: Vec<File>,
}

impl Entrance {
    /// Forks the caller, which has one thread: the new process is in the group, and process 1 of a PID namespace. One that cannot
    /// get in gets the error.
    pub(crate) fn fork(self) -> io::Result<Fork> {
        let fork = sys::fork_into(self.unified.as_fd())?;
        if let Fork::Child = fork {
            for mut tasks in self.legacy {
                // A thread that moves itself alone holds nobody up, since Linux 5.13.
                tasks.write_all(b"0")?;
            }
        }
        Ok(fork)
    }
}

/// A group is busy for a moment after its last process has ended.
fn remove_retrying(directory: &Path) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if begin.elapsed() > KILL_LIMIT => return Err(error),
            Err(_) => std::thread::sleep(KILL_PAUSE),
        }
    }
}

fn processes_of(directory: &Path) -> Vec<i32> {
    let text = fs::read_to_string(directory.join(PROCESSES)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Hands a controller down from the root of the hierarchy to the group at `path`.
fn enable(path: &Path, controller: Controller) -> io::Result<()> {
    let name = match controller {
        Controller::Memory => "memory",
        Controller::Pids => "pids",
        Controller::Cpu => "cpu",
    };
    let driver = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let base = driver.parent().ok_or(io::ErrorKind::InvalidInput)?;
    for directory in [base, driver] {
        let file = directory.join("cgroup.subtree_control");
        if !fs::read_to_string(&file)?.split_whitespace().any(|enabled| enabled == name) {
            fs::write(&file, format!("+{name}"))?;
        }
    }
    Ok(())
}

fn limit_legacy(directory: &Path, controller: Controller, limits: &Limits) -> Result<(), DriverError> {
    let value = match controller {
        Controller::Memory => limits.memory_bytes.to_string(),
        Controller::Pids => limits.pids.to_string(),
        Controller::Cpu => (u64::from(weight(limits.cpus)) * 1024 / 100).to_string(),
    };
    let file = directory.join(legacy_file(controller));
    fs::write(&file, value).context("limit the cgroup", &file)?;
    if controller == Controller::Memory {
        let file = directory.join("memory.swappiness");
        fs::write(&file, "0").context("limit the cgroup", &file)?;
    }
    Ok(())
}

fn legacy_file(controller: Controller) -> &'static str {
    match controller {
        Controller::Memory => "memory.limit_in_bytes",
        Controller::Pids => "pids.max",
        Controller::Cpu => "cpu.shares",
    }
}

fn unified_file(controller: Controller) -> &'static str {
    match controller {
        Controller::Memory => "memory.max",
        Controller::Pids => "pids.max",
        Controller::Cpu => "cpu.weight",
    }
}

fn weight(cpus: u32) -> u32 {
    cpus.saturating_mul(100).clamp(100, 10_000)
}

/// Version 2 groups go below the root of the mount, since a group with processes of its own (such as the agent's service)
/// cannot hand controllers down; version 1 groups go below our own, under the limits that we have ourselves.
fn parse(mounts: &str, groups: &str) -> Option<Hierarchies> {
    let mut unified = None;
    let mut legacy = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        match mount.kind {
            "cgroup2" => unified = unified.or(Some(mount.point.clone())),
            "cgroup" => {
                let wanted = [("memory", Controller::Memory), ("pids", Controller::Pids), ("cpu", Controller::Cpu)];
                for (name, controller) in wanted {
                    let taken = legacy.iter().any(|(held, _)| *held == controller);
                    if !taken && mount.options.split(',').any(|option| option == name) {
                        legacy.push((controller, own_group(&mount, groups, name)));
                    }
                }
            }
            _ => {}
        }
    }
    Some(Hierarchies { unified: unified?, legacy })
}

fn own_group(mount: &Mount<'_>, groups: &str, controller: &str) -> PathBuf {
    let own = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        controllers.split(',').any(|name| name == controller).then_some(path)
    });
    let relative = own.and_then(|path| Path::new(path).strip_prefix(mount.root).ok()).unwrap_or(Path::new(""));
    mount.point.join(relative)
}

/// A line of /proc/self/mountinfo.
struct Mount<'a> {
    root: &'a str,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (place, file_system) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, PathBuf::from(place.next()?));
        let mut file_system = file_system.split(' ');
        let (kind, _, options) = (file_system.next()?, file_system.next()?, file_system.next()?);
        Some(Self { root, point, kind, options })
    }
}

const PROCESSES: &str = "cgroup.procs";

/// Of version 1: single threads.
const TASKS: &str = "tasks";

/// Version 1 shows "none" as the largest multiple of a page.
const NO_LIMIT: u64 = 1 << 60;

/// From the signal to the last process's end; large guests take a while to let go of their memory.
const KILL_LIMIT: Duration = Duration::from_secs(20);

const KILL_PAUSE: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_version_2_alone() {
        let found = parse("31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n", "0::/system.slice/a.service\n");
        let expected = Hierarchies { unified: "/sys/fs/cgroup".into(), legacy: vec![] };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn finds_controllers_bound_to_version_1() {
        let mounts = "35 31 0:32 / /c/memory rw - cgroup cgroup rw,memory\n\
                      36 31 0:33 /docker/x /c/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      41 31 0:38 / /c/unified rw - cgroup2 cgroup2 rw\n";
        let found = parse(mounts, "4:memory:/a/b\n1:cpu,cpuacct:/docker/x\n0::/\n").unwrap();
        assert_eq!(found.unified, Path::new("/c/unified"));
        assert_eq!(found.legacy, [(Controller::Memory, "/c/memory/a/b".into()), (Controller::Cpu, "/c/cpu/".into())]);
    }

    #[test]
    fn says_when_version_2_is_missing() {
        assert_eq!(parse("35 31 0:32 / /c/memory rw - cgroup cgroup rw,memory\n", ""), None);
    }
}

//! What the forked child does between the fork and the image's program: namespaces, root, devices, user, filters.
//!
//! It runs as the first process of its pid namespace, so the image's program gets number 1 there, as with container
//! engines: it must handle SIGTERM itself if it wants to end gracefully, and everything it started ends with it.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions, Permissions},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{fs::PermissionsExt as _, fs::symlink, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_change,
        mount_remount, move_mount, open_tree, unmount,
    },
    process::{
        DumpableBehavior, Gid, Resource, Rlimit, Uid, chdir, getpid, getrlimit, pivot_root, set_dumpable_behavior, setrlimit,
        setsid, umask,
    },
    thread::{
        CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};
use seccompiler::BpfProgram;

use super::{program, user::Identity};
use crate::{
    boot::mounts::{self, Mount, NO_FILES, line},
    fatal::chain,
    storage::layers::ROOT,
    sys,
};

/// Everything that the child needs, decided before the fork.
pub(crate) struct Plan {
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: String,
    pub(crate) identity: Identity,
    pub(crate) host_name: String,
    pub(crate) binds: Vec<Bind>,
    pub(crate) network: Network,
    pub(crate) filter: BpfProgram,
}

/// What the process has beside loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// Nothing: in a machine its network namespace is its own and empty, in a container all of it has one without an interface.
    None,
    /// The interface in PID 1's own network namespace, which is up already. PID 1 itself has no socket there.
    Card,
}

/// A file or directory of the guest that the workload sees at `path`.
pub(crate) enum Bind {
    ReadOnlyFile { source: PathBuf, path: String },
    WritableDir { source: PathBuf, path: String },
}

/// What went wrong, for the message that ends the machine.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
struct SetupError {
    attempt: String,
    #[source]
    source: io::Error,
}

/// Becomes the workload. Returns what went wrong, on one line.
pub(crate) fn become_workload(plan: &Plan, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> String {
    match set_up(plan, stdout, stderr) {
        Err(error) => chain(&error),
        Ok(()) => execute(plan),
    }
}

/// Becomes the workload in a container, where everything is mounted already, beside the process that forked this one. Returns what went
/// wrong, on one line.
pub(crate) fn become_neighbour(plan: &Plan, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> String {
    match set_up_neighbour(plan, stdout, stderr) {
        Err(error) => chain(&error),
        Ok(()) => execute(plan),
    }
}

fn set_up_neighbour(plan: &Plan, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> Result<(), SetupError> {
    step("leave the guest's session", || Ok(setsid().map(drop)?))?;
    step("connect standard streams", || connect(stdout, stderr))?;
    offer_to_the_oom_killer();
    umask(Mode::empty());
    step("make the working directory", || make_dir(&plan.cwd))?;
    finish(plan)
}

/// When the group's memory is used up this process goes before the one that has its records; best effort, as the kernel allows it.
fn offer_to_the_oom_killer() {
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
}

fn set_up(plan: &Plan, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> Result<(), SetupError> {
    step("leave the guest's session", || Ok(setsid().map(drop)?))?;
    step("connect standard streams", || connect(stdout, stderr))?;
    step("close the control group in", sys::unshare_cgroup)?;
    umask(Mode::empty());
    let trees = enter_root(plan)?;
    for line in FILE_SYSTEMS {
        mounts::mount_line(line, line.target).map_err(|source| failed("prepare the root", io::Error::other(chain(&source))))?;
    }
    step("make device files", make_devices)?;
    for (bind, tree) in plan.binds.iter().zip(&trees) {
        bind.attach(tree)?;
    }
    step("hide parts of /proc and /sys", hide)?;
    step("set the host name", || Ok(rustix::system::sethostname(plan.host_name.as_bytes())?))?;
    step("take the loopback interface up", sys::loopback_up)?;
    step("make the working directory", || make_dir(&plan.cwd))?;
    finish(plan)
}

/// The last of it: from here on nothing more is made, and privileges are given up.
fn finish(plan: &Plan) -> Result<(), SetupError> {
    umask(Mode::from_raw_mode(0o022));
    step("limit resources", limit)?;
    step("drop privileges", || drop_privileges(&plan.identity))?;
    step("enter the working directory", || Ok(chdir(&plan.cwd)?))?;
    // Last: it forbids much of the above.
    step("filter system calls", || seccompiler::apply_filter(&plan.filter).map_err(io::Error::other))
}

fn execute(plan: &Plan) -> String {
    let (name, path) = (&plan.args[0], plan.env.get("PATH").map(String::as_str));
    let Some(file) = program::find(name, path) else {
        return format!("find the program {name:?} in the image: there is no such executable");
    };
    let error = Command::new(&file).arg0(name).args(&plan.args[1..]).env_clear().envs(&plan.env).exec();
    format!("execute {}: {error}", file.display())
}

fn connect(stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> io::Result<()> {
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    rustix::stdio::dup2_stdout(stdout)?;
    Ok(rustix::stdio::dup2_stderr(stderr)?)
}

/// Makes the image's root this namespace's only one. What is bound into it later is taken along as detached trees.
fn enter_root(plan: &Plan) -> Result<Vec<OwnedFd>, SetupError> {
    step("separate mounts", || Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?))?;
    let trees = plan.binds.iter().map(Bind::detach).collect::<Result<_, _>>()?;
    step("enter the root file system", || {
        chdir(ROOT)?;
        // Both at the same place: the old root lies on top of the new one for a moment, and is taken off.
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        Ok(chdir("/")?)
    })?;
    Ok(trees)
}

impl Bind {
    fn detach(&self) -> Result<OwnedFd, SetupError> {
        let (Self::ReadOnlyFile { source, path } | Self::WritableDir { source, path }) = self;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        step(&format!("take along what belongs at {path}"), || Ok(open_tree(CWD, source, flags)?))
    }

    /// Links in the image are followed, but only inside its root: there is no other one any more.
    fn attach(&self, tree: &OwnedFd) -> Result<(), SetupError> {
        let (Self::ReadOnlyFile { path, .. } | Self::WritableDir { path, .. }) = self;
        step(&format!("mount {path}"), || {
            let flags = match self {
                Self::ReadOnlyFile { .. } => {
                    let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
                    make_dir(parent)?;
                    OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
                    NO_FILES | MountFlags::RDONLY
                }
                Self::WritableDir { .. } => {
                    make_dir(path)?;
                    MountFlags::NOSUID | MountFlags::NODEV
                }
            };
            move_mount(tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            Ok(mount_remount(path, flags | MountFlags::BIND, c"")?)
        })
    }
}

/// Missing parents too, all readable: the mask is empty here.
fn make_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let missing: Vec<_> = path.as_ref().ancestors().take_while(|dir| !dir.exists()).collect();
    for dir in missing.into_iter().rev() {
        fs::create_dir(dir)?;
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn make_devices() -> io::Result<()> {
    for (name, major, minor) in DEVICES {
        mknodat(CWD, format!("/dev/{name}"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(*major, *minor))?;
    }
    LINKS.iter().try_for_each(|(name, to)| symlink(to, format!("/dev/{name}")))
}

fn hide() -> io::Result<()> {
    for path in HIDDEN.iter().map(Path::new).filter(|path| path.exists()) {
        if path.is_dir() {
            let flags = NO_FILES | MountFlags::RDONLY;
            mount("tmpfs", path, "tmpfs", flags, c"size=0,mode=0755")?;
        } else {
            mount_bind("/dev/null", path)?;
        }
    }
    for path in FIXED.iter().map(Path::new).filter(|path| path.exists()) {
        mount_bind(path, path)?;
        mount_remount(path, NO_FILES | MountFlags::RDONLY | MountFlags::BIND, c"")?;
    }
    Ok(())
}

fn limit() -> io::Result<()> {
    let equal = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(Resource::Core, equal(0))?;
    // In a container nobody can raise what came from outside.
    let most = getrlimit(Resource::Nofile).maximum.map_or(MAX_FILES, |most| most.min(MAX_FILES));
    let files = if getpid().is_init() { MAX_FILES } else { most };
    Ok(setrlimit(Resource::Nofile, equal(files))?)
}

/// No capability is left in any set, so a program of user 0 has none either, and none can come back by execution.
fn drop_privileges(identity: &Identity) -> io::Result<()> {
    for number in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Err(rustix::io::Errno::INVAL) => break,
            result => result?,
        }
    }
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(set_no_new_privs(true)?)
}

fn step<T>(attempt: &str, action: impl FnOnce() -> io::Result<T>) -> Result<T, SetupError> {
    action().map_err(|source| failed(attempt, source))
}

fn failed(attempt: &str, source: io::Error) -> SetupError {
    SetupError { attempt: attempt.into(), source }
}

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);

const FILE_SYSTEMS: &[Mount] = &[
    line("proc", "/proc", NO_FILES, "hidepid=invisible"),
    line("sysfs", "/sys", NO_FILES.union(MountFlags::RDONLY), ""),
    line("cgroup2", "/sys/fs/cgroup", NO_FILES.union(MountFlags::RDONLY), ""),
    line("tmpfs", "/dev", NO_PROGRAMS, "mode=0755,size=64k"),
    line("devpts", "/dev/pts", NO_PROGRAMS, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
    line("tmpfs", "/dev/shm", NO_FILES, "mode=1777,size=50%"),
    Mount { need: mounts::Need::Optional, ..line("mqueue", "/dev/mqueue", NO_FILES, "") },
    // Programs may run from here: execution in memory is a feature.
    line("tmpfs", "/tmp", MountFlags::NOSUID.union(MountFlags::NODEV), "mode=1777,size=50%"),
];

const DEVICES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

const HIDDEN: &[&str] = &[
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kallsyms",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/acpi",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/kernel/debug",
];

const FIXED: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

const MAX_FILES: u64 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dev_has_devices_and_only_tmp_has_programs() {
        for line in FILE_SYSTEMS {
            assert!(line.flags.contains(MountFlags::NOSUID), "{}", line.target);
            assert!(
                line.flags.contains(MountFlags::NODEV) != line.target.starts_with("/dev")
                    || line.source != "tmpfs"
                    || line.target == "/dev/shm"
            );
            assert_eq!(line.flags.contains(MountFlags::NOEXEC), line.target != "/tmp", "{}", line.target);
        }
    }

    #[test]
    fn missing_parents_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        make_dir(&deep).unwrap();
        make_dir(&deep).unwrap();
        assert_eq!(deep.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn a_failure_names_the_step() {
        let error = step::<()>("mount /data", || Err(io::Error::from_raw_os_error(2))).unwrap_err();
        assert_eq!(chain(&error), "mount /data: No such file or directory (os error 2)");
    }
}

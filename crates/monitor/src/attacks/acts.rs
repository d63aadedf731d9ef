//! The acts, by name.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, Timestamps, XattrFlags, mknodat, open, setxattr, utimensat},
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_change,
        move_mount, open_tree, unmount,
    },
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

use crate::{
    node::{self, FREE},
    sys::{self, bpf_command},
};

/// The exit status for an error without a number.
pub(crate) const NO_NUMBER: i32 = 250;

/// What an act is done to: the meaning of a case's `on`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Target {
    /// As it is written.
    pub(crate) on: String,
    /// The process, where it is one.
    pub(crate) pid: u32,
    /// A descriptor of that process, where it has one of guest memory.
    pub(crate) descriptor: i32,
    /// The path, where it is a file.
    pub(crate) path: PathBuf,
    /// A descriptor of guest memory that was open before the monitor began.
    pub(crate) early: i32,
}

impl Target {
    fn process(&self) -> io::Result<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no such process"))
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid).into()
    }

    fn entry(&self) -> PathBuf {
        self.path.join("new")
    }
}

type Act = fn(&Target) -> io::Result<()>;

/// Performs the act called `name`.
pub(crate) fn perform(name: &str, target: &Target) -> io::Result<()> {
    let act = ACTS.iter().find(|(known, _)| *known == name);
    let (_, act) = act.ok_or_else(|| io::Error::other(format!("there is no act {name:?}")))?;
    act(target)
}

/// The same as a number: 0, or that of the error.
pub(crate) fn number(name: &str, target: &Target) -> i32 {
    perform(name, target).err().map_or(0, |error| error.raw_os_error().unwrap_or(NO_NUMBER))
}

const ACTS: &[(&str, Act)] = &[
    // Processes.
    ("ptrace_attach", |t| sys::ptrace(sys::ATTACH, t.pid)),
    ("ptrace_seize", |t| sys::ptrace(sys::SEIZE, t.pid)),
    ("process_vm_read", |t| sys::process_vm(t.pid, false)),
    ("process_vm_write", |t| sys::process_vm(t.pid, true)),
    ("open_proc_mem", |t| read(&t.proc("mem"))),
    ("open_proc_maps", |t| read_some(&t.proc("maps"))),
    ("open_proc_environ", |t| read_some(&t.proc("environ"))),
    ("enter_root", |t| fs::read_dir(t.proc("root")).map(drop)),
    ("open_namespace", |t| read(&t.proc("ns/mnt"))),
    ("open_descriptor", |t| read(&t.proc(&format!("fd/{}", t.descriptor)))),
    ("take_descriptor", |t| {
        Ok(pidfd_getfd(pidfd_open(t.process()?, PidfdFlags::empty())?, 1, PidfdGetfdFlags::empty()).map(drop)?)
    }),
    ("compare", |t| sys::kcmp(t.pid, std::process::id())),
    ("compare_often", compare_often),
    ("ask_to_be_traced", ask_to_be_traced),
    ("ask_to_be_traced_as_orphan", |_| as_orphan("ask_to_be_traced")),
    ("orphan", orphan),
    // Guest memory.
    ("early_read", |t| early(t, sys::read_byte)),
    ("early_write", |t| early(t, sys::write_byte)),
    ("early_map", |t| early(t, sys::map_page)),
    ("receive", |t| early(t, sys::pass_to_oneself)),
    ("receive_faults", receive_faults),
    // Devices, sockets, namespaces, the node.
    ("early_control", |t| early(t, sys::control)),
    ("make_device", make_device),
    ("connect", |t| UnixStream::connect(&t.path).map(drop)),
    ("connect_by_symlink", |t| by_symlink(t, |path| UnixStream::connect(path).map(drop))),
    ("connect_by_root", |t| UnixStream::connect(by_root(&t.path)).map(drop)),
    ("send_datagram", |t| UnixDatagram::unbound()?.send_to(b"x", &t.path).map(drop)),
    ("write_elsewhere", write_elsewhere),
    ("enter_network", |t| sys::enter(&File::open(&t.path)?)),
    ("enter_network_of", |t| sys::enter(&pidfd_open(t.process()?, PidfdFlags::empty())?)),
    ("configure_network", |t| {
        if t.on == "network" {
            sys::enter(&t.early)?
        } else {
            sys::enter(&File::open(&t.path)?)?
        }
        sys::loopback_up()
    }),
    ("unload_kexec", |_| sys::unload_kexec()),
    ("load_kexec", |_| sys::load_kexec(&File::open(node::PLAYER)?)),
    ("reboot_without_magic", |_| sys::reboot_without_magic()),
    ("set_clock", |_| sys::set_clock()),
    ("perf_event", |t| sys::perf_event(if t.on == "software" { 1 } else { event_type(&t.on)? })),
    // Files.
    ("read", |t| read(&t.path)),
    ("write", |t| write(&t.path)),
    ("append", |t| OpenOptions::new().append(true).open(&t.path).map(drop)),
    ("write_by_root", |t| write(&by_root(&t.path))),
    ("write_by_reopening", write_by_reopening),
    ("write_by_handle", |t| sys::open_by_handle(&t.path)),
    ("write_by_uring", |t| sys::open_by_uring(&t.path)),
    ("write_by_bind_mount", write_by_bind_mount),
    ("write_by_symlink", |t| by_symlink(t, write)),
    ("truncate", |t| Ok(open(&t.path, OFlags::RDONLY | OFlags::TRUNC, Mode::empty()).map(drop)?)),
    ("chmod", |t| fs::set_permissions(&t.path, fs::Permissions::from_mode(0o777))),
    ("chown", |t| chown(&t.path, Some(1), None)),
    ("touch", touch),
    ("set_attribute", |t| Ok(setxattr(&t.path, "trusted.casemate", b"1", XattrFlags::empty())?)),
    ("remove", |t| fs::remove_file(&t.path)),
    ("rename", |t| fs::rename(&t.path, Path::new(FREE).join("renamed"))),
    ("replace", replace),
    ("link", |t| fs::hard_link(&t.path, Path::new(FREE).join("linked"))),
    ("remove_entry", |t| fs::remove_file(t.path.join("image"))),
    ("rename_entry", |t| fs::rename(t.path.join("image"), t.path.join("other"))),
    ("create_entry", |t| File::create(t.entry()).map(drop)),
    ("create_folder", |t| fs::create_dir(t.entry())),
    ("create_symlink", |t| symlink("/etc", t.entry())),
    ("create_node", |t| Ok(mknodat(CWD, t.entry(), FileType::Fifo, Mode::RUSR, 0)?)),
    ("move_folder", |t| fs::rename(&t.path, Path::new(FREE).join("moved"))),
    ("write_device", write_device),
    // Mounts.
    ("mount_over", |t| {
        mount("none", &t.path, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>)?;
        Ok(unmount(&t.path, UnmountFlags::DETACH)?)
    }),
    ("bind_over", |t| {
        mount_bind("/proc/version", &t.path)?;
        Ok(unmount(&t.path, UnmountFlags::DETACH)?)
    }),
    ("move_mount_over", move_mount_over),
    ("unmount", |t| Ok(unmount(&t.path, UnmountFlags::DETACH)?)),
    // Modules.
    ("load_module", load_module),
    ("load_module_blob", load_module_blob),
    ("load_module_only", |_| Ok(rustix::system::finit_module(File::open(node::MODULE)?.as_fd(), c"", 0)?)),
    ("unload_module", |_| sys::delete_module(node::MODULE_NAME)),
    ("request_module", |_| sys::unknown_family()),
    // BPF.
    ("bpf_load", |t| sys::bpf_load(program_type(&t.on)).map(drop)),
    ("bpf_map_by_id", bpf_map_by_id),
    ("bpf_program_by_id", |t| by_id(t, bpf_command::PROG_GET_NEXT_ID, bpf_command::PROG_GET_FD_BY_ID)),
    ("bpf_link_by_id", |t| by_id(t, bpf_command::LINK_GET_NEXT_ID, bpf_command::LINK_GET_FD_BY_ID)),
    ("bpf_get_pin", |t| sys::bpf_get(&t.path)),
    // Signals, cgroups, processors.
    ("kill", |t| Ok(kill_process(t.process()?, Signal::KILL)?)),
    ("stop", |t| Ok(kill_process(t.process()?, Signal::STOP)?)),
    ("terminate_thread", |t| sys::tgkill(t.pid, libc::SIGTERM)),
    ("kill_by_handle", |t| Ok(pidfd_send_signal(pidfd_open(t.process()?, PidfdFlags::empty())?, Signal::KILL)?)),
    ("freeze", |t| {
        write_text(&t.path.join("cgroup.freeze"), "1")?;
        write_text(&t.path.join("cgroup.freeze"), "0")
    }),
    ("end_cgroup", |t| write_text(&t.path.join("cgroup.kill"), "1")),
    ("move_process", |t| write_text(Path::new("/sys/fs/cgroup/free/cgroup.procs"), &t.pid.to_string())),
    ("starve", |t| sys::scheduler_idle(t.pid)),
    ("nice", |t| sys::nice(t.pid)),
    // Kernel settings: the value that is there.
    ("set", |t| {
        let path = Path::new("/proc/sys").join(&t.on);
        write_text(&path, fs::read_to_string(&path)?.trim_end())
    }),
    // A foreign program does not have its starter's rights.
    ("foreign_write", foreign_write),
    ("own_write", |t| child(node::PLAYER, t)),
];

/// With the descriptor from before the monitor, or, where the case is about another file, with a new one of that.
fn early(target: &Target, use_it: fn(i32) -> io::Result<()>) -> io::Result<()> {
    if ["memory", "device", "hardware"].contains(&target.on.as_str()) {
        return use_it(target.early);
    }
    use_it(OpenOptions::new().read(true).write(true).open(&target.path)?.as_raw_fd())
}

/// As often as the target's word says; each call must be refused.
fn compare_often(target: &Target) -> io::Result<()> {
    let times: u64 = target.on.parse().map_err(io::Error::other)?;
    let refused = |result: io::Result<()>| result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
    let own = std::process::id();
    if (0..times).all(|_| refused(sys::kcmp(target.pid, own))) { Ok(()) } else { Err(io::Error::other("a call was not refused")) }
}

/// Of the process that started this one.
fn ask_to_be_traced(_: &Target) -> io::Result<()> {
    sys::ptrace(sys::TRACEME, 0)
}

/// By a process whose parent has ended: the first process takes its place. The answer comes through a pipe that all of them have.
fn as_orphan(act: &str) -> io::Result<()> {
    let text = serde_json::to_string(&node::nobody(act))?;
    let mut parent = Command::new(node::PLAYER).args(["act", "orphan", &text]).stdout(Stdio::piped()).spawn()?;
    let mut answer = String::new();
    parent.stdout.take().expect("it is piped").read_to_string(&mut answer)?;
    parent.wait()?;
    match answer.trim().parse::<i32>().map_err(io::Error::other)? {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// Starts itself once more and ends; the second one waits for that, acts, and answers.
fn orphan(target: &Target) -> io::Result<()> {
    let again = std::env::var_os(ORPHANED).is_some();
    if !again {
        let text = serde_json::to_string(target)?;
        return Command::new(node::PLAYER).args(["act", "orphan", &text]).env(ORPHANED, "1").spawn().map(drop);
    }
    while std::os::unix::process::parent_id() != 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("{}", number(&target.on, target));
    Ok(())
}

const ORPHANED: &str = "CASEMATE_ORPHANED";

fn read(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    match file.read(&mut [0]) {
        // Memory at address 0, a namespace: opening it was the act.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => Ok(()),
        other => other.map(drop),
    }
}

/// What is read decides: such a file may open and hold nothing for who may not look into the process.
fn read_some(path: &Path) -> io::Result<()> {
    let length = File::open(path)?.read(&mut [0])?;
    if length > 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn write(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(path).map(drop)
}

fn write_text(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

fn write_by_reopening(target: &Target) -> io::Result<()> {
    let file = open(&target.path, OFlags::PATH, Mode::empty())?;
    write(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}

/// In a mount namespace of its own, where nothing is mounted over anything guarded.
fn write_by_bind_mount(target: &Target) -> io::Result<()> {
    let (folder, name) =
        (target.path.parent().expect("files lie in folders"), target.path.file_name().expect("files have names"));
    sys::own_mounts()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    fs::create_dir_all("/tmp/alias")?;
    mount_bind(folder, "/tmp/alias")?;
    write(&Path::new("/tmp/alias").join(name))
}

fn by_symlink(target: &Target, act: fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let link = Path::new(FREE).join("symlink");
    let _ = fs::remove_file(&link);
    symlink(&target.path, &link)?;
    act(&link)
}

fn by_root(path: &Path) -> PathBuf {
    Path::new("/proc/self/root").join(path.strip_prefix("/").unwrap_or(path))
}

/// The kernel's files where they are mounted once more: `KIND/PATH`.
fn write_elsewhere(target: &Target) -> io::Result<()> {
    let (kind, path) = target.on.split_once('/').expect("the case names a file system and a path in it");
    sys::own_mounts()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    fs::create_dir_all("/tmp/elsewhere")?;
    mount("none", "/tmp/elsewhere", kind, MountFlags::empty(), None::<&std::ffi::CStr>)?;
    write(&Path::new("/tmp/elsewhere").join(path))
}

/// From a machine that gives it to whoever asks.
fn receive_faults(_: &Target) -> io::Result<()> {
    let _ = fs::remove_file(node::WANTED);
    let listener = UnixListener::bind(node::WANTED)?;
    let outcome = sys::receive(&listener.accept()?.0);
    fs::remove_file(node::WANTED)?;
    outcome
}

/// A node of the kernel's memory, or of nothing.
fn make_device(target: &Target) -> io::Result<()> {
    let minor = if target.on == "zero" { 5 } else { 1 };
    let node = Path::new(FREE).join("device");
    Ok(mknodat(CWD, &node, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, rustix::fs::makedev(1, minor))?)
}

fn touch(target: &Target) -> io::Result<()> {
    let now = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
    Ok(utimensat(CWD, &target.path, &Timestamps { last_access: now, last_modification: now }, AtFlags::empty())?)
}

fn replace(target: &Target) -> io::Result<()> {
    let other = Path::new(FREE).join("replacement");
    File::create(&other)?;
    fs::rename(other, &target.path)
}

/// A node of the device that a path lies on (or, for `sink`, of one that takes everything), opened for writing.
fn write_device(target: &Target) -> io::Result<()> {
    let (kind, device) = match target.on.as_str() {
        "sink" => (FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        _ => (FileType::BlockDevice, fs::metadata(&target.path)?.dev()),
    };
    let node = Path::new(FREE).join("device");
    let _ = fs::remove_file(&node);
    mknodat(CWD, &node, kind, Mode::RUSR | Mode::WUSR, device)?;
    write(&node)
}

fn move_mount_over(target: &Target) -> io::Result<()> {
    let tree = open_tree(CWD, "/proc/version", OpenTreeFlags::OPEN_TREE_CLONE)?;
    move_mount(tree.as_fd(), "", CWD, &target.path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(unmount(&target.path, UnmountFlags::DETACH)?)
}

/// Loaded and taken out again, so that it can be done once more.
fn load_module(_: &Target) -> io::Result<()> {
    let module = File::open(node::MODULE)?;
    rustix::system::finit_module(module.as_fd(), c"", 0)?;
    sys::delete_module(node::MODULE_NAME)
}

fn load_module_blob(_: &Target) -> io::Result<()> {
    sys::init_module(&fs::read(node::MODULE)?)?;
    sys::delete_module(node::MODULE_NAME)
}

fn event_type(name: &str) -> io::Result<u32> {
    let text = fs::read_to_string(format!("/sys/bus/event_source/devices/{name}/type"))?;
    text.trim().parse().map_err(io::Error::other)
}

/// Types by the names of the cases; numbers of `enum bpf_prog_type`.
fn program_type(name: &str) -> u32 {
    match name {
        "socket_filter" => 1,
        "kprobe" => sys::KPROBE,
        "tracepoint" => 5,
        "perf_event" => 7,
        "raw_tracepoint" => 17,
        other => panic!("no type of programs is called {other}"),
    }
}

/// The first map there is, or one of the caller's own.
fn bpf_map_by_id(target: &Target) -> io::Result<()> {
    if target.on != "own" {
        return by_id(target, bpf_command::MAP_GET_NEXT_ID, bpf_command::MAP_GET_FD_BY_ID);
    }
    let _own = sys::bpf_map()?;
    let mut last = 0;
    while let Ok(next) = sys::bpf_next_id(bpf_command::MAP_GET_NEXT_ID, last) {
        last = next;
    }
    sys::bpf(bpf_command::MAP_GET_FD_BY_ID, &[last.into(), 0]).map(drop)
}

/// The first object there is, or one that is not there.
fn by_id(target: &Target, next: usize, get: usize) -> io::Result<()> {
    let id = if target.on == "nothing" { 0x7fff_fff0 } else { sys::bpf_next_id(next, 0)? };
    sys::bpf(get, &[id.into(), 0]).map(drop)
}

/// The same program under another inode, which keeps no label.
fn foreign_write(target: &Target) -> io::Result<()> {
    let copy = Path::new(FREE).join("foreign");
    let _ = fs::remove_file(&copy);
    fs::copy(node::PLAYER, &copy)?;
    child(copy.to_str().expect("paths of the suite are text"), target)
}

fn child(program: &str, target: &Target) -> io::Result<()> {
    let text = serde_json::to_string(target).map_err(io::Error::other)?;
    let status = Command::new(program).args(["act", "write", &text]).status()?;
    match status.code() {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number)),
        None => Err(io::Error::other("it was killed")),
    }
}

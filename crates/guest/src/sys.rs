//! The system calls that no safe library has. The only module with unsafe code.

#![allow(unsafe_code)]

use std::{
    fs::File,
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd},
};

use rustix::thread::UnshareFlags;
use tokio::io::{Interest, unix::AsyncFd};

use crate::workload::Network;

/// Size of `struct dm_ioctl`.
pub(crate) const DM_HEADER: usize = 312;

/// One device mapper command. `message` begins with a `struct dm_ioctl` whose `data_size` is its length.
pub(crate) fn device_mapper(control: &File, command: u8, message: &mut [u8]) -> io::Result<()> {
    let claimed = message.get(12..16).and_then(|size| size.try_into().ok()).map(u32::from_ne_bytes);
    if message.len() < DM_HEADER || claimed.and_then(|size| usize::try_from(size).ok()) != Some(message.len()) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // _IOWR(0xfd, command, struct dm_ioctl)
    let request = 0xc000_0000 | ((DM_HEADER as libc::c_ulong) << 16) | (0xfd << 8) | libc::c_ulong::from(command);
    // SAFETY: the kernel reads and writes `data_size` bytes at the pointer, which the check above holds to the slice.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), request, message.as_mut_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A descriptor that stays open and the same for as long as the value lives.
pub(crate) trait Steady: AsRawFd {}
impl Steady for OwnedFd {}
impl Steady for BorrowedFd<'_> {}

/// Lets the runtime watch a descriptor.
pub(crate) fn watch<T: Steady>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: `Steady` is implemented here only, for types whose descriptor is open and the same for as long as they live.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The child's handle.
    Parent { pidfd: OwnedFd },
    /// The first process of new mount, pid, ipc and uts namespaces, and of a network namespace where it has no network.
    Child,
}

/// Forks into new namespaces and into the control group whose directory is `group`. Being born there is cheaper than
/// moving there. Refused when there is a second thread: its locks would stay taken in the child.
pub(crate) fn fork_into_namespaces(group: BorrowedFd<'_>, network: Network) -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with several threads must not fork"));
    }
    let network = match network {
        Network::None => libc::CLONE_NEWNET,
        Network::Card => 0,
    };
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | network;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all-zero is a valid clone_args (plain integers): no stack, no tls, no set_tid.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = (namespaces | libc::CLONE_PIDFD) as u64 | CLONE_INTO_CGROUP;
    args.cgroup = u64::try_from(group.as_raw_fd()).map_err(io::Error::other)?;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM and with no stack given this is fork(2): the child continues here on a copy of the memory.
    // There is one thread, so no lock of another one is copied in a taken state. `pidfd` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, mem::size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        // SAFETY: the kernel stored a new descriptor in `pidfd` that nobody else owns.
        _ => Ok(Fork::Parent { pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Which side of a plain fork this is.
pub(crate) enum PlainFork {
    /// The child's number.
    Parent(rustix::process::Pid),
    /// The child.
    Child,
}

/// Forks. Refused when there is a second thread: its locks would stay taken in the child.
pub(crate) fn fork() -> io::Result<PlainFork> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with several threads must not fork"));
    }
    // SAFETY: there is one thread, so no lock of another one is copied in a taken state.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(PlainFork::Child),
        pid => {
            rustix::process::Pid::from_raw(pid).map(PlainFork::Parent).ok_or_else(|| io::Error::other("a child without a number"))
        }
    }
}

/// Ends every process of this PID namespace but this one, which must be its first.
pub(crate) fn kill_all_others() {
    if !rustix::process::getpid().is_init() {
        return;
    }
    // SAFETY: plain call. For the first process of a namespace -1 means all others of that namespace. There may be none.
    let _ = unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// Of `linux/sched.h`; it has more bits than the other flags.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// A cgroup namespace whose root is the current cgroup.
pub(crate) fn unshare_cgroup() -> io::Result<()> {
    // SAFETY: only `UnshareFlags::FILES` could be unsound.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }.map_err(io::Error::from)
}

/// Ends a forked child without running anything of the parent's.
pub(crate) fn exit_child(status: i32) -> ! {
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(status) }
}

/// Takes the loopback interface of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: plain call; the result is checked.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `socket` is a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all-zero is a valid ifreq (an empty name and a union of plain integers).
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which `request` is.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

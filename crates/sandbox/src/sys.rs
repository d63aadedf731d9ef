//! The few calls for which no safe wrapper exists. Everything unsafe of this crate is here.

#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd},
};

use rustix::{process::Pid, thread::UnshareFlags};
use tokio::io::{Interest, unix::AsyncFd};

/// Which side of [`fork`] this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(Pid),
}

/// Forks a process that has one thread.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: the callers run in the jail helper, which never starts a thread, so that no lock can be held by a thread
    // that the child does not have.
    let answer = unsafe { libc::fork() };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        id => Ok(Fork::Parent(Pid::from_raw(id).expect("fork returns a positive id to the parent"))),
    }
}

/// Forks a process that has one thread; the new one begins in the control group of version 2 whose directory `group` is, and is process 1
/// of a PID namespace of its own.
///
/// This is `clone3(2)` without the C library, which has no name for it. What the library does beside the call in [`fork`] is for handlers of
/// forks and for locks that other threads hold, of which there are none. It goes on with the old number of the thread, by which only locks
/// between processes are known, and there are none of these either.
pub(crate) fn fork_into(group: BorrowedFd<'_>) -> io::Result<Fork> {
    // SAFETY: all-zero is a valid argument: no flag, no address, no descriptor.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP | libc::CLONE_NEWPID as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = u64::try_from(group.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: as `fork`: without CLONE_VM the new process has a copy of the memory, and goes on with the caller's stack; the callers
    // run in the jail helper, which never starts a thread.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        id => {
            let id = i32::try_from(id).ok().and_then(Pid::from_raw);
            Ok(Fork::Parent(id.expect("clone3 returns a positive id to the parent")))
        }
    }
}

/// Leaves the named namespaces (and shared tables) of the caller.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the danger is CLONE_FILES, by which descriptors of other threads vanish; the jail helper has one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Closes every descriptor from `first` up. Only for the start of a process, before anything owns one of them.
pub(crate) fn close_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: the jail helper calls this first of all; nothing in its process owns a descriptor besides the standard three.
    match unsafe { libc::close_range(first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives a descriptor the number `number`, kept open over exec, and lets go of it.
pub(crate) fn place(descriptor: OwnedFd, number: RawFd) -> io::Result<()> {
    let from = descriptor.into_raw_fd();
    // SAFETY: the jail helper owns every descriptor of its process and holds no owner for the numbers that it assigns
    // (received descriptors were moved above them before), so nothing that is still in use is replaced.
    match unsafe { libc::dup2(from, number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A duplicate of a descriptor, numbered `least` or higher, closed at exec.
pub(crate) fn duplicate_above(descriptor: &OwnedFd, least: RawFd) -> io::Result<OwnedFd> {
    let new = rustix::io::fcntl_dupfd_cloexec(descriptor, least)?;
    debug_assert!(new.as_raw_fd() >= least);
    Ok(new)
}

/// Shows the owners of a detached mount through the map of a user namespace.
pub(crate) fn map_owners(tree: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    /// `struct mount_attr` of the kernel.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        users: u64,
    }
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let users = u64::try_from(users.as_raw_fd()).map_err(io::Error::other)?;
    let attributes = Attributes { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, users };
    // SAFETY: the path is a constant C string, and the kernel reads exactly the size that is given of a structure that lives
    // until the call returns; both descriptors are borrowed for as long.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The number of a loop device that nobody uses at this moment.
pub(crate) fn free_loop_device(control: BorrowedFd<'_>) -> io::Result<u32> {
    const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
    // SAFETY: the call takes no argument and writes nothing; the descriptor is borrowed until it returns.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Binds a loop device to a file, read-only, until its last user lets go of it. Reads go past the page cache where the file system
/// can do that.
pub(crate) fn bind_loop_device(device: BorrowedFd<'_>, file: BorrowedFd<'_>, block_size: u32) -> io::Result<()> {
    /// `struct loop_config` of the kernel, with its `struct loop_info64`.
    #[repr(C)]
    struct Binding {
        file: u32,
        block_size: u32,
        device: [u64; 5],
        number_and_cipher: [u32; 3],
        flags: u32,
        names_and_key: [u8; 160],
        init: [u64; 2],
        reserved: [u64; 8],
    }
    const _: () = assert!(size_of::<Binding>() == 304, "the kernel reads that much");
    const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
    const READ_ONLY: u32 = 1;
    const AUTOCLEAR: u32 = 4;
    const DIRECT_IO: u32 = 16;
    let binding = Binding {
        file: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
        block_size,
        device: [0; 5],
        number_and_cipher: [0; 3],
        flags: READ_ONLY | AUTOCLEAR | DIRECT_IO,
        names_and_key: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads one structure of this size, which lives until the call returns; both descriptors are borrowed for
    // as long.
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const binding) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Waits on a process's handle within a runtime.
pub(crate) fn watch(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same open descriptor for as long as it lives, and it moves into the answer.
    unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }.map_err(io::Error::from)
}

/// The host's end of a virtual Ethernet cable, made in the network namespace of the calling thread; it lives as long as the descriptor.
/// Frames come with the header of virtio, by which checksums and cutting into segments are left to who does it last.
pub(crate) fn open_tap(interface: &str) -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all-zero bytes are a valid `ifreq`, which has only numbers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name of an interface has at most 15 characters"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the whole call, and the kernel reads and writes one `ifreq`, which lives as long.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(device.into()) }
}

/// The CPU's time stamp counter.
#[cfg(target_arch = "x86_64")]
pub(crate) fn time_stamp_counter() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and Linux leaves it open to user space.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Flag of `clone3(2)`: `args.cgroup` is the descriptor of a control group. Linux 5.7, `include/uapi/linux/sched.h`.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

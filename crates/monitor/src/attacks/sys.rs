//! System calls that attacks are made of, each with the arguments that it takes.

use std::{
    ffi::CString,
    io,
    os::{
        fd::BorrowedFd,
        unix::{ffi::OsStrExt as _, net::UnixStream},
    },
    panic::{self, AssertUnwindSafe},
    path::Path,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, WaitOptions, waitpid};

/// `PTRACE_TRACEME`, `PTRACE_ATTACH`, `PTRACE_SEIZE`.
pub(crate) const TRACEME: usize = 0;
pub(crate) const ATTACH: usize = 16;
pub(crate) const SEIZE: usize = 0x4206;

/// Commands of bpf(2).
pub(crate) mod bpf_command {
    pub(crate) const MAP_CREATE: usize = 0;
    pub(crate) const PROG_LOAD: usize = 5;
    pub(crate) const OBJ_GET: usize = 7;
    pub(crate) const PROG_GET_NEXT_ID: usize = 11;
    pub(crate) const MAP_GET_NEXT_ID: usize = 12;
    pub(crate) const PROG_GET_FD_BY_ID: usize = 13;
    pub(crate) const MAP_GET_FD_BY_ID: usize = 14;
    pub(crate) const LINK_GET_FD_BY_ID: usize = 30;
    pub(crate) const LINK_GET_NEXT_ID: usize = 31;
}

fn call(number: libc::c_long, arguments: [usize; 6]) -> io::Result<usize> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the functions of this module pass numbers, or addresses of buffers that live until this call returns, with their lengths.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Does something in a copy of this process: what came of it, or the negative number of the signal that ended the copy.
pub(crate) fn in_child(what: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: node and agent of the suite have one thread each, so that no lock is held by somebody whom the copy lacks.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let outcome = panic::catch_unwind(AssertUnwindSafe(what)).unwrap_or(PANICKED);
        // SAFETY: ends this process, and nothing of what it shares with the first one.
        unsafe { libc::_exit(outcome) }
    }
    let child = Pid::from_raw(child).ok_or_else(io::Error::last_os_error)?;
    let (_, status) = waitpid(Some(child), WaitOptions::empty())?.expect("it was waited for without a limit");
    let ended = status.exit_status().or_else(|| status.terminating_signal().map(|signal| -signal));
    ended.ok_or_else(|| io::Error::other("a child neither ended nor was ended"))
}

/// What a copy that panicked ends with.
const PANICKED: i32 = 251;

fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("paths of the suite have no zero byte")
}

pub(crate) fn ptrace(request: usize, pid: u32) -> io::Result<()> {
    call(libc::SYS_ptrace, [request, pid as usize, 0, 0, 0, 0]).map(drop)
}

/// Reads (or writes) one byte at the address of a zero byte of this program: whether it is mapped there is decided after the permission.
pub(crate) fn process_vm(pid: u32, write: bool) -> io::Result<()> {
    let mut byte = [0_u8; 1];
    let local = [byte.as_mut_ptr() as usize, 1_usize];
    let remote = [0x1000_usize, 1_usize];
    let number = if write { libc::SYS_process_vm_writev } else { libc::SYS_process_vm_readv };
    match call(number, [pid as usize, local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0]) {
        // Permitted, and nothing there.
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        other => other.map(drop),
    }
}

/// Reads memory of a process.
pub(crate) fn read_memory(pid: u32, from: u64, into: &mut [u8]) -> io::Result<()> {
    let local = [into.as_mut_ptr() as usize, into.len()];
    let remote = [from as usize, into.len()];
    call(libc::SYS_process_vm_readv, [pid as usize, local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0]).map(drop)
}

/// A mount namespace of its own.
pub(crate) fn own_mounts() -> io::Result<()> {
    call(libc::SYS_unshare, [libc::CLONE_NEWNS as usize, 0, 0, 0, 0, 0]).map(drop)
}

/// A network namespace of its own, for this thread.
pub(crate) fn own_network() -> io::Result<()> {
    call(libc::SYS_unshare, [libc::CLONE_NEWNET as usize, 0, 0, 0, 0, 0]).map(drop)
}

/// Enters the network of a namespace or process that is open.
pub(crate) fn enter(of: &impl std::os::fd::AsRawFd) -> io::Result<()> {
    call(libc::SYS_setns, [of.as_raw_fd().unsigned_abs() as usize, libc::CLONE_NEWNET as usize, 0, 0, 0, 0]).map(drop)
}

/// Takes the loopback interface of this process's network up.
pub(crate) fn loopback_up() -> io::Result<()> {
    const UP: u16 = 1;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&UP.to_ne_bytes());
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&socket).unsigned_abs() as usize;
    call(libc::SYS_ioctl, [descriptor, libc::SIOCSIFFLAGS as usize, request.as_mut_ptr() as usize, 0, 0, 0]).map(drop)
}

/// A descriptor by which page faults are answered.
pub(crate) fn faults() -> io::Result<std::os::fd::OwnedFd> {
    let number = call(libc::SYS_userfaultfd, [libc::O_CLOEXEC as usize, 0, 0, 0, 0, 0])?;
    // SAFETY: the call has just opened it, and nobody else knows it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(number as i32) })
}

/// Takes a kernel that is loaded away: none is.
pub(crate) fn unload_kexec() -> io::Result<()> {
    call(libc::SYS_kexec_load, [0; 6]).map(drop)
}

/// Loads a file as the next kernel.
pub(crate) fn load_kexec(file: &std::fs::File) -> io::Result<()> {
    const NO_INITRAMFS: usize = 4;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(file).unsigned_abs() as usize;
    call(libc::SYS_kexec_file_load, [descriptor, usize::MAX, 1, c"".as_ptr() as usize, NO_INITRAMFS, 0]).map(drop)
}

/// Asks for a reboot without the numbers that make one of it.
pub(crate) fn reboot_without_magic() -> io::Result<()> {
    call(libc::SYS_reboot, [0; 6]).map(drop)
}

/// Sets the clock to what it shows.
pub(crate) fn set_clock() -> io::Result<()> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Ok(rustix::time::clock_settime(rustix::time::ClockId::Realtime, now)?)
}

/// An `ioctl` that only asks how much there is to read.
pub(crate) fn control(descriptor: i32) -> io::Result<()> {
    let mut answer = [0_i32];
    let arguments = [descriptor.unsigned_abs() as usize, libc::FIONREAD as usize, answer.as_mut_ptr() as usize, 0, 0, 0];
    match call(libc::SYS_ioctl, arguments) {
        // It may be done, and means nothing to that device.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => Ok(()),
        other => other.map(drop),
    }
}

pub(crate) fn kcmp(one: u32, other: u32) -> io::Result<()> {
    const KCMP_VM: usize = 1;
    call(libc::SYS_kcmp, [one as usize, other as usize, KCMP_VM, 0, 0, 0]).map(drop)
}

pub(crate) fn tgkill(pid: u32, signal: i32) -> io::Result<()> {
    call(libc::SYS_tgkill, [pid as usize, pid as usize, signal.unsigned_abs() as usize, 0, 0, 0]).map(drop)
}

pub(crate) fn scheduler_idle(pid: u32) -> io::Result<()> {
    let priority = [0_i32];
    call(libc::SYS_sched_setscheduler, [pid as usize, libc::SCHED_IDLE as usize, priority.as_ptr() as usize, 0, 0, 0]).map(drop)
}

pub(crate) fn nice(pid: u32) -> io::Result<()> {
    call(libc::SYS_setpriority, [libc::PRIO_PROCESS as usize, pid as usize, 19, 0, 0, 0]).map(drop)
}

/// A perf event of `kind`; the rest of the attributes is zero.
pub(crate) fn perf_event(kind: u32) -> io::Result<()> {
    let mut attributes = [0_u8; 128];
    attributes[..4].copy_from_slice(&kind.to_ne_bytes());
    attributes[4..8].copy_from_slice(&128_u32.to_ne_bytes());
    call(libc::SYS_perf_event_open, [attributes.as_ptr() as usize, 0, usize::MAX, usize::MAX, 0, 0]).map(drop)
}

pub(crate) fn bpf(command: usize, attributes: &[u64]) -> io::Result<usize> {
    let mut copy = attributes.to_vec();
    call(libc::SYS_bpf, [command, copy.as_mut_ptr() as usize, copy.len() * 8, 0, 0, 0])
}

/// What the kernel wrote to the second word for "the next id".
pub(crate) fn bpf_next_id(command: usize, after: u32) -> io::Result<u32> {
    let mut words = [after, 0, 0, 0];
    call(libc::SYS_bpf, [command, words.as_mut_ptr() as usize, 16, 0, 0, 0])?;
    Ok(words[1])
}

/// `BPF_PROG_TYPE_KPROBE`.
pub(crate) const KPROBE: u32 = 2;

/// Loads "return 0" as a program of type `kind`.
pub(crate) fn bpf_load(kind: u32) -> io::Result<std::os::fd::OwnedFd> {
    let program: [u64; 2] = [0xb7, 0x95];
    let licence = c"GPL";
    let attributes = [u64::from(kind) | 2 << 32, program.as_ptr() as u64, licence.as_ptr() as u64, 0, 0, 0, 0, 0];
    let number = bpf(bpf_command::PROG_LOAD, &attributes)?;
    // SAFETY: the call has just opened it, and nobody else knows it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(number as i32) })
}

pub(crate) fn bpf_get(pin: &Path) -> io::Result<()> {
    let pin = path(pin);
    bpf(bpf_command::OBJ_GET, &[pin.as_ptr() as u64, 0, 0]).map(drop)
}

/// A map with one number.
pub(crate) fn bpf_map() -> io::Result<usize> {
    let words: [u32; 4] = [2, 4, 4, 1];
    let attributes = [u64::from(words[0]) | u64::from(words[1]) << 32, u64::from(words[2]) | u64::from(words[3]) << 32, 0, 0];
    bpf(bpf_command::MAP_CREATE, &attributes)
}

pub(crate) fn init_module(bytes: &[u8]) -> io::Result<()> {
    call(libc::SYS_init_module, [bytes.as_ptr() as usize, bytes.len(), c"".as_ptr() as usize, 0, 0, 0]).map(drop)
}

pub(crate) fn delete_module(name: &str) -> io::Result<()> {
    let name = path(Path::new(name));
    call(libc::SYS_delete_module, [name.as_ptr() as usize, libc::O_NONBLOCK as usize, 0, 0, 0, 0]).map(drop)
}

/// Opens a file for writing by its handle, without its name.
pub(crate) fn open_by_handle(file: &Path) -> io::Result<()> {
    const HANDLE_BYTES: u32 = 128;
    let name = path(file);
    let mut handle = [0_u32; 2 + HANDLE_BYTES as usize / 4];
    handle[0] = HANDLE_BYTES;
    let mut mount = [0_i32];
    let here = libc::AT_FDCWD as isize as usize;
    call(
        libc::SYS_name_to_handle_at,
        [here, name.as_ptr() as usize, handle.as_mut_ptr() as usize, mount.as_mut_ptr() as usize, 0, 0],
    )?;
    let folder = std::fs::File::open(file.parent().expect("files lie in folders"))?;
    let folder = std::os::fd::AsRawFd::as_raw_fd(&folder) as usize;
    call(libc::SYS_open_by_handle_at, [folder, handle.as_ptr() as usize, libc::O_WRONLY as usize, 0, 0, 0]).map(drop)
}

/// Opens a file for writing by io_uring.
pub(crate) fn open_by_uring(file: &Path) -> io::Result<()> {
    const SETUP: usize = 30;
    const OPENAT: u8 = 18;
    const GETEVENTS: usize = 1;
    const RING_BYTES: usize = 4096;
    const SQ: usize = 0;
    const CQ: usize = 0x800_0000;
    const SQES: usize = 0x1000_0000;
    let name = path(file);
    let mut parameters = [0_u32; SETUP];
    let ring = call(libc::SYS_io_uring_setup, [1, parameters.as_mut_ptr() as usize, 0, 0, 0, 0])?;
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let map = |offset: usize| call(libc::SYS_mmap, [0, RING_BYTES, protection, libc::MAP_SHARED as usize, ring, offset]);
    let (submissions, completions, entries) = (map(SQ)?, map(CQ)?, map(SQES)?);
    let (tail, array) = (parameters[11] as usize, parameters[16] as usize);
    let results = parameters[25] as usize;
    // SAFETY: the three addresses are mappings of a page each, at whose offsets the kernel said that these fields lie; the entry is 64
    // zero bytes in which opcode, folder, address and flags are set; `name` lives until the end.
    unsafe {
        let entry = entries as *mut u8;
        *entry = OPENAT;
        *entry.add(4).cast::<i32>() = libc::AT_FDCWD;
        *entry.add(16).cast::<u64>() = name.as_ptr() as u64;
        *entry.add(28).cast::<u32>() = libc::O_WRONLY as u32;
        *((submissions + array) as *mut u32) = 0;
        *((submissions + tail) as *mut u32) = 1;
    }
    call(libc::SYS_io_uring_enter, [ring, 1, 1, GETEVENTS, 0, 0])?;
    // SAFETY: one completion is there, 16 bytes long, its result at the ninth.
    let result = unsafe { *((completions + results + 8) as *const i32) };
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// A socket of a family that only a module would bring.
pub(crate) fn unknown_family() -> io::Result<()> {
    match call(libc::SYS_socket, [libc::AF_X25 as usize, libc::SOCK_SEQPACKET as usize, 0, 0, 0, 0]) {
        // It looks the same whether there is no such module or nobody may ask for it.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        other => other.map(drop),
    }
}

/// Passes an open file through a socket and takes it out again. The kernel leaves out what may not be received, without an error.
pub(crate) fn pass_to_oneself(descriptor: i32) -> io::Result<()> {
    // SAFETY: the caller's descriptor is open and stays so until this returns.
    let file = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let (one, other) = UnixStream::pair()?;
    pass(&one, file)?;
    receive(&other)
}

/// Passes an open file.
pub(crate) fn pass(to: &UnixStream, file: BorrowedFd<'_>) -> io::Result<()> {
    let files = [file];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    Ok(sendmsg(to, &[io::IoSlice::new(b"x")], &mut control, SendFlags::empty()).map(drop)?)
}

/// Receives one.
pub(crate) fn receive(from: &UnixStream) -> io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let (mut control, mut byte) = (RecvAncillaryBuffer::new(&mut space), [0]);
    recvmsg(from, &mut [io::IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty())?;
    let mut files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files.count()),
        _ => None,
    });
    if files.any(|count| count > 0) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// Maps a page of an open file.
pub(crate) fn map_page(descriptor: i32) -> io::Result<()> {
    let shared = libc::MAP_SHARED as usize;
    call(libc::SYS_mmap, [0, 4096, libc::PROT_READ as usize, shared, descriptor.unsigned_abs() as usize, 0]).map(drop)
}

/// Reads a byte of an open file.
pub(crate) fn read_byte(descriptor: i32) -> io::Result<()> {
    let mut byte = [0_u8];
    call(libc::SYS_pread64, [descriptor.unsigned_abs() as usize, byte.as_mut_ptr() as usize, 1, 0, 0, 0]).map(drop)
}

/// Writes a byte to an open file.
pub(crate) fn write_byte(descriptor: i32) -> io::Result<()> {
    let byte = [0x5a_u8];
    call(libc::SYS_pwrite64, [descriptor.unsigned_abs() as usize, byte.as_ptr() as usize, 1, 0, 0, 0]).map(drop)
}

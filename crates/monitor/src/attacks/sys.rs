//! System calls that attacks are made of, each with the arguments that it takes.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt as _, path::Path};

/// `PTRACE_ATTACH`, `PTRACE_SEIZE`.
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

/// A mount namespace of its own.
pub(crate) fn own_mounts() -> io::Result<()> {
    call(libc::SYS_unshare, [libc::CLONE_NEWNS as usize, 0, 0, 0, 0, 0]).map(drop)
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

/// Loads "return 0" as a program of type `kind`.
pub(crate) fn bpf_load(kind: u32) -> io::Result<()> {
    let program: [u64; 2] = [0xb7, 0x95];
    let licence = c"GPL";
    let attributes = [u64::from(kind) | 2 << 32, program.as_ptr() as u64, licence.as_ptr() as u64, 0, 0, 0, 0, 0];
    bpf(bpf_command::PROG_LOAD, &attributes).map(drop)
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

//! The system calls that the probes ask for. The only module with unsafe code.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

/// A plain system call of numbers; none of them is an address.
pub(crate) fn call(number: libc::c_long, args: [u64; 5]) -> io::Result<i64> {
    // SAFETY: callers pass numbers only (flags, sizes, ids, descriptors, null), so that the kernel touches no memory of ours.
    checked(unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) })
}

/// A call whose second argument is the address of `bytes`, which the kernel reads or fills.
pub(crate) fn call_with(number: libc::c_long, first: u64, bytes: &mut [u8], rest: [u64; 3]) -> io::Result<i64> {
    // SAFETY: the calls that are made so take a structure of at most `bytes.len()` bytes at this address, which is writable.
    checked(unsafe { libc::syscall(number, first, bytes.as_mut_ptr(), rest[0], rest[1], rest[2]) })
}

/// A call whose first argument is the address of `bytes`, which the kernel reads or fills.
pub(crate) fn call_at(number: libc::c_long, bytes: &mut [u8], rest: [u64; 4]) -> io::Result<i64> {
    // SAFETY: as in `call_with`.
    checked(unsafe { libc::syscall(number, bytes.as_mut_ptr(), rest[0], rest[1], rest[2], rest[3]) })
}

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes over a descriptor that a call gave, so that it is closed.
pub(crate) fn own(descriptor: i64) -> Option<OwnedFd> {
    let number = i32::try_from(descriptor).ok().filter(|number| *number > 2)?;
    // SAFETY: the kernel made this descriptor a moment ago and nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// `mount`, of a file system without a device.
pub(crate) fn mount(kind: &CStr, target: &CString, options: &CStr) -> io::Result<()> {
    // SAFETY: all strings end with NUL and outlive the call.
    let result = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) };
    checked(result.into()).map(drop)
}

/// Takes a mount away again.
pub(crate) fn unmount(target: &CString) {
    // SAFETY: the string ends with NUL and outlives the call.
    let _ = unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
}

/// `mknod` of a block device.
pub(crate) fn make_device(path: &CString, major: u32, minor: u32) -> io::Result<()> {
    // SAFETY: the string ends with NUL and outlives the call.
    let result = unsafe { libc::mknod(path.as_ptr(), libc::S_IFBLK | 0o600, libc::makedev(major, minor)) };
    checked(result.into()).map(drop)
}

/// `name_to_handle_at` and `open_by_handle_at` of the root.
pub(crate) fn open_root_by_handle() -> io::Result<()> {
    let mut handle = [0_u8; 8 + 128];
    handle[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let mut mount = 0_i32;
    // SAFETY: `handle` has room for a struct file_handle of 128 bytes, as its first word says, and `mount` for an int.
    let named = unsafe {
        libc::syscall(libc::SYS_name_to_handle_at, libc::AT_FDCWD, c"/".as_ptr(), handle.as_mut_ptr(), &raw mut mount, 0)
    };
    // A file system without handles: what is asked for next is refused for want of rights before it is looked at.
    let _ = checked(named);
    // SAFETY: as above; the kernel only reads the handle.
    let opened = unsafe { libc::syscall(libc::SYS_open_by_handle_at, libc::AT_FDCWD, handle.as_mut_ptr(), libc::O_RDONLY) };
    checked(opened).map(|descriptor| drop(own(descriptor)))
}

/// Does `work` in a child; the error number of its answer, 0 for none.
pub(crate) fn in_child(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: there is one thread, so that no lock of another is copied in a taken state; the child leaves by _exit.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = work().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
            // SAFETY: _exit takes any status and does not return.
            unsafe { libc::_exit(code) }
        }
        _ => wait(child),
    }
}

fn wait(child: i32) -> io::Result<()> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        match unsafe { libc::waitpid(child, &raw mut status, 0) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(io::Error::last_os_error()),
            _ => break,
        }
    }
    if libc::WIFEXITED(status) {
        return match libc::WEXITSTATUS(status) {
            0 => Ok(()),
            number => Err(io::Error::from_raw_os_error(number)),
        };
    }
    // A filter that kills has refused.
    Err(io::Error::from_raw_os_error(libc::EPERM))
}

/// The id of the process that forked this one.
pub(crate) fn parent() -> i32 {
    // SAFETY: plain call.
    unsafe { libc::getppid() }
}

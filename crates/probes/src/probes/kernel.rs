//! System calls of the kernel itself.

use std::io;

use super::{Outcome, granted, permitted};
use crate::sys;

pub(super) fn keys(_: &[i32]) -> Outcome {
    let mut kind = *b"user\0";
    let mut name = *b"casemate-probe\0";
    let name = name.as_mut_ptr() as u64;
    // To the keyring of this process, with one byte of content.
    let added = sys::call_at(libc::SYS_add_key, &mut kind, [name, name, 1, PROCESS_KEYRING]);
    granted("a key", added)
}

pub(super) fn bpf(_: &[i32]) -> Outcome {
    // An array of one element of four bytes.
    let mut attributes = [0_u8; 72];
    for (at, value) in [(0, 2_u32), (4, 4), (8, 4), (12, 1)] {
        attributes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    descriptor("a map", sys::call_with(libc::SYS_bpf, 0, &mut attributes, [72, 0, 0]))
}

pub(super) fn perf(_: &[i32]) -> Outcome {
    // The software clock of this very process, without the kernel's part.
    let mut attributes = [0_u8; 112];
    attributes[..4].copy_from_slice(&1_u32.to_ne_bytes());
    attributes[4..8].copy_from_slice(&112_u32.to_ne_bytes());
    attributes[40] = 0b110_0001;
    descriptor("a counter", sys::call_at(libc::SYS_perf_event_open, &mut attributes, [0, u64::MAX, u64::MAX, 0]))
}

pub(super) fn io_uring(_: &[i32]) -> Outcome {
    let mut parameters = [0_u8; 120];
    descriptor("a ring", sys::call_with(libc::SYS_io_uring_setup, 1, &mut parameters, [0; 3]))
}

pub(super) fn userfaultfd(_: &[i32]) -> Outcome {
    descriptor("a descriptor", sys::call(libc::SYS_userfaultfd, [libc::O_CLOEXEC as u64, 0, 0, 0, 0]))
}

pub(super) fn load_module(_: &[i32]) -> Outcome {
    // No module is one byte long.
    let mut image = [0_u8; 8];
    let parameters = image.as_mut_ptr() as u64;
    permitted("loading a module", sys::call_at(libc::SYS_init_module, &mut image, [1, parameters, 0, 0]))
}

pub(super) fn load_kernel(_: &[i32]) -> Outcome {
    // More segments than there may be: refused after the rights were checked, and nothing that was loaded is touched.
    permitted("loading a kernel", sys::call(libc::SYS_kexec_load, [0, 10_000, 0, 0, 0]))
}

pub(super) fn reboot(_: &[i32]) -> Outcome {
    // Without the magic numbers nothing happens to whoever may.
    permitted("a restart", sys::call(libc::SYS_reboot, [0, 0, 0, 0, 0]))
}

pub(super) fn log(_: &[i32]) -> Outcome {
    let mut text = [0_u8; 64];
    granted("the log", sys::call_with(libc::SYS_syslog, 3, &mut text, [64, 0, 0]))
}

pub(super) fn ports(_: &[i32]) -> Outcome {
    granted("port 0x80", sys::call(libc::SYS_ioperm, [0x80, 1, 1, 0, 0]))
}

/// The descriptor is closed at once.
fn descriptor(what: &str, answer: io::Result<i64>) -> Outcome {
    granted(what, answer.map(|number| drop(sys::own(number))))
}

/// `KEY_SPEC_PROCESS_KEYRING`.
const PROCESS_KEYRING: u64 = -2_i64 as u64;

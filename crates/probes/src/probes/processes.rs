//! Other processes, namespaces and what was inherited.

use std::{
    fs, io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
};

use super::{Outcome, granted, writing};
use crate::sys;

pub(super) fn descriptors(inherited: &[i32]) -> Outcome {
    let leaked = inherited.iter().filter_map(|number| {
        let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        Some(format!("{number} is {}", target.display()))
    });
    match leaked.collect::<Vec<_>>() {
        none if none.is_empty() => Outcome::Blocked("only standard input, output and error".to_owned()),
        some => Outcome::Through(some.join(", ")),
    }
}

pub(super) fn capabilities(_: &[i32]) -> Outcome {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let users = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:")).map(str::trim).unwrap_or("unknown");
    let whole = users.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"];
    let none = held.bytes().all(|digit| digit == b'0');
    match (none, whole) {
        (true, _) => Outcome::Blocked("it has none".to_owned()),
        (false, false) => Outcome::Blocked(format!("{held}, in a user namespace of its own")),
        (false, true) => Outcome::Through(format!("{held}, in the first user namespace")),
    }
}

pub(super) fn host_processes(_: &[i32]) -> Outcome {
    let name = fs::read_to_string("/proc/2/comm").unwrap_or_default();
    if name.trim() == "kthreadd" {
        return Outcome::Through("the kernel's own threads are seen".to_owned());
    }
    Outcome::Blocked("only processes of its own are seen".to_owned())
}

pub(super) fn trace(_: &[i32]) -> Outcome {
    // A child that attaches to its parent lets go of it when it ends.
    let traced = sys::in_child(|| {
        let parent = u64::try_from(sys::parent()).unwrap_or_default();
        sys::call(libc::SYS_ptrace, [SEIZE, parent, 0, 0, 0]).map(drop)
    });
    granted("tracing", traced)
}

pub(super) fn join_namespaces(_: &[i32]) -> Outcome {
    let mut answer = Outcome::Absent("there are none to be joined".to_owned());
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let joined = sys::in_child(|| {
            let namespace = fs::File::open(format!("/proc/1/ns/{name}"))?;
            let number = u64::try_from(namespace.as_raw_fd()).unwrap_or_default();
            sys::call(libc::SYS_setns, [number, 0, 0, 0, 0]).map(drop)
        });
        answer = granted(name, joined);
        if matches!(answer, Outcome::Through(_)) {
            break;
        }
    }
    answer
}

/// How a runtime's own program was overwritten from inside of its container (CVE-2019-5736): by a process that it started.
pub(super) fn runtime_program(_: &[i32]) -> Outcome {
    let Ok(own) = fs::metadata("/proc/self/exe") else { return Outcome::Absent("/proc is not there".to_owned()) };
    let mut refused = None;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path().join("exe");
        let Ok(other) = fs::metadata(&path) else { continue };
        if (other.dev(), other.ino()) == (own.dev(), own.ino()) {
            continue;
        }
        match writing().open(&path) {
            Ok(_) => return Outcome::Through(format!("{} opened for writing", path.display())),
            // Only because it runs: nothing else is in the way.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                return Outcome::Through(format!("{} can be written once it has ended", path.display()));
            }
            Err(error) => refused = Some(format!("{}: {error}", path.display())),
        }
    }
    refused.map_or_else(|| Outcome::Absent("no program but its own is seen".to_owned()), Outcome::Blocked)
}

pub(super) fn user_namespace(_: &[i32]) -> Outcome {
    unshare("a user namespace", libc::CLONE_NEWUSER)
}

pub(super) fn mount_namespace(_: &[i32]) -> Outcome {
    unshare("a mount namespace", libc::CLONE_NEWNS)
}

fn unshare(what: &str, flag: i32) -> Outcome {
    let flag = u64::try_from(flag).unwrap_or_default();
    granted(what, sys::in_child(|| sys::call(libc::SYS_unshare, [flag, 0, 0, 0, 0]).map(drop)))
}

/// `PTRACE_SEIZE`: attaches without stopping.
const SEIZE: u64 = 0x4206;

//! Devices, mounts and the kernel's own files.

use std::{
    env,
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _},
    path::{Path, PathBuf},
};

use super::{Outcome, granted, open_any, permitted, reading, writing};
use crate::sys;

pub(super) fn raw_devices(_: &[i32]) -> Outcome {
    let is_disk = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
    let disks = fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_disk);
    let disks: Vec<String> = disks.map(|path| path.display().to_string()).collect();
    open_any(disks.iter().map(String::as_str).chain(MEMORY), &reading())
}

pub(super) fn make_device(_: &[i32]) -> Outcome {
    in_folder(|folder| {
        let path = folder.join("disk");
        // A number that no driver has: a machine whose disk it was shall not lose it.
        let made = sys::make_device(&c_path(&path)?, 240, 7);
        let _ = fs::remove_file(path);
        Ok(granted("a block device", made))
    })
}

pub(super) fn mount(_: &[i32]) -> Outcome {
    in_folder(|folder| {
        let target = c_path(folder)?;
        let mounted = sys::mount(c"tmpfs", &target, c"size=4k");
        if mounted.is_ok() {
            sys::unmount(&target);
        }
        Ok(granted("a tmpfs", mounted))
    })
}

pub(super) fn mount_new(_: &[i32]) -> Outcome {
    let mut kind = *b"tmpfs\0";
    let opened = sys::call_at(libc::SYS_fsopen, &mut kind, [0; 4]);
    granted("a file system's context", opened.map(|descriptor| drop(sys::own(descriptor))))
}

pub(super) fn change_root(_: &[i32]) -> Outcome {
    let changed = sys::in_child(|| {
        let mut root = *b"/\0";
        sys::call_at(libc::SYS_chroot, &mut root, [0; 4]).map(drop)
    });
    granted("chroot", changed)
}

pub(super) fn file_handle(_: &[i32]) -> Outcome {
    permitted("a file by its handle", sys::open_root_by_handle())
}

pub(super) fn kernel_memory(_: &[i32]) -> Outcome {
    open_any(["/proc/kcore"], &reading())
}

pub(super) fn system_request(_: &[i32]) -> Outcome {
    open_any(["/proc/sysrq-trigger"], &writing())
}

pub(super) fn helper_programs(_: &[i32]) -> Outcome {
    open_any(HELPERS, &writing())
}

pub(super) fn release_agent(_: &[i32]) -> Outcome {
    let folders = control_group_folders();
    let agents: Vec<String> = folders.iter().map(|folder| format!("{folder}/release_agent")).collect();
    match open_any(agents.iter().map(String::as_str), &writing()) {
        through @ Outcome::Through(_) => through,
        // Who may mount a hierarchy of version 1 has an agent of his own.
        _ => in_folder(|folder| {
            let target = c_path(folder)?;
            let mounted = sys::mount(c"cgroup", &target, c"none,name=casemate-probe");
            if mounted.is_ok() {
                sys::unmount(&target);
            }
            Ok(granted("a control group hierarchy", mounted))
        }),
    }
}

pub(super) fn control_groups(_: &[i32]) -> Outcome {
    let folders = control_group_folders();
    let lists: Vec<String> = folders.iter().map(|folder| format!("{folder}/cgroup.procs")).collect();
    open_any(lists.iter().map(String::as_str), &writing())
}

pub(super) fn kernel_tracing(_: &[i32]) -> Outcome {
    let full = |folder: &&&str| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    match TRACING.iter().find(full) {
        Some(folder) => Outcome::Through(format!("{folder} can be read")),
        None => Outcome::Blocked("none of them shows anything".to_owned()),
    }
}

/// Mount points of control groups, as far as they are seen.
fn control_group_folders() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = table.lines().filter(|line| line.contains(" - cgroup"));
    groups.filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

/// With an empty folder of our own, wherever one can be made.
fn in_folder(work: impl FnOnce(&Path) -> io::Result<Outcome>) -> Outcome {
    for place in [env::temp_dir(), "/dev/shm".into(), "/out".into(), "/run".into(), "/".into()] {
        let folder = place.join(format!("casemate-probe-{}", std::process::id()));
        if fs::create_dir(&folder).is_ok() {
            let outcome = work(&folder).unwrap_or_else(|error| Outcome::Blocked(error.to_string()));
            let _ = fs::remove_dir(folder);
            return outcome;
        }
    }
    // The kernel asks for rights before it looks at the folder.
    work(Path::new("/")).unwrap_or_else(|error| Outcome::Blocked(error.to_string()))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

const MEMORY: [&str; 5] = ["/dev/mem", "/dev/kmem", "/dev/port", "/dev/kvm", "/dev/kmsg"];

/// Files whose content the kernel executes.
const HELPERS: [&str; 5] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/sys/kernel/uevent_helper",
    "/proc/sys/fs/binfmt_misc/register",
];

const TRACING: [&str; 3] = ["/sys/kernel/debug", "/sys/kernel/tracing", "/sys/fs/bpf"];

//! The keeper's root: the runtime, what its dynamic linker needs, the image, the instance's own directories. Nothing else of the
//! host can be reached from it, by the runtime neither.

use std::{
    ffi::CStr,
    fs,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, unmount};

use super::{
    super::spec::{ContainerSpec, inside},
    NO_PROGRAMS, layers,
};
use crate::jail::{Access, Attempt, Failure, JailMount, root::bind};

/// Makes the root. `users` is the instance's user namespace, by whose map the image's owners are seen.
pub(super) fn build(spec: &ContainerSpec, users: BorrowedFd<'_>) -> Result<(), Failure> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .attempt("make mounts private")?;
    let root = &spec.root;
    mount("keeper", root, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, ROOT_OPTIONS)
        .attempt(format!("mount the root on {}", root.display()))?;
    for shown in shown(spec) {
        bind(root, &shown)?;
    }
    // Keeps the flags that it has on the host: programs may run from a part of it.
    let scratch = within(root, inside::SCRATCH);
    fs::create_dir_all(&scratch).attempt("make the place of scratch")?;
    rustix::mount::mount_bind(&spec.scratch, &scratch).attempt(format!("bind scratch {}", spec.scratch.display()))?;
    system(root)?;
    for (index, layer) in spec.layers.iter().enumerate() {
        layers::mount_layer(root, index, layer, spec.mounts, users)?;
    }
    layers::mount_rootfs(root, spec.layers.len())
}

/// Moves into it, with the control group that the process is in now.
pub(super) fn enter(spec: &ContainerSpec) -> Result<(), Failure> {
    let root = &spec.root;
    mount("cgroup2", within(root, "/sys/fs/cgroup"), "cgroup2", NO_PROGRAMS, None).attempt("mount the instance's cgroup")?;
    rustix::process::chdir(root).attempt("enter the root")?;
    rustix::process::pivot_root(".", ".").attempt("change the root")?;
    unmount(".", UnmountFlags::DETACH).attempt("leave the old root")?;
    rustix::process::chdir("/").attempt("enter the root")
}

/// The last of it, in the PID namespace that /proc is to show.
pub(super) fn close() -> Result<(), Failure> {
    fs::create_dir_all("/proc").attempt("make /proc")?;
    mount("proc", "/proc", "proc", NO_PROGRAMS, None).attempt("mount /proc")?;
    rustix::mount::mount_remount("/", MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, "")
        .attempt("make the root read-only")
}

fn shown(spec: &ContainerSpec) -> Vec<JailMount> {
    let show = |source: &Path, target: &str, access| JailMount { source: source.to_owned(), target: target.into(), access };
    let system = LIBRARIES.iter().map(Path::new).filter(|path| path.symlink_metadata().is_ok());
    let mut shown: Vec<JailMount> = system.map(|path| show(path, path.to_str().unwrap_or_default(), Access::ReadOnly)).collect();
    shown.extend(DEVICES.iter().map(|path| show(Path::new(path), path, Access::Device)));
    shown.push(show(&spec.program, inside::RUNTIME, Access::ReadOnly));
    shown.push(show(&spec.state, inside::STATE, Access::ReadWrite));
    shown.push(show(&spec.bundle, inside::BUNDLE, Access::ReadOnly));
    shown.push(show(&spec.init, inside::INIT, Access::ReadOnly));
    shown.extend(spec.disks.iter().map(|(name, path)| show(path, &format!("{}/{name}", inside::DISKS), Access::ReadOnly)));
    shown
}

/// Of the kernel's file systems a runtime looks at the group that it is in, which is mounted later, and at nothing else.
fn system(root: &Path) -> Result<(), Failure> {
    let sys = within(root, "/sys");
    fs::create_dir_all(&sys).attempt("make /sys")?;
    mount("sysfs", &sys, "sysfs", NO_PROGRAMS, None).attempt("mount /sys")?;
    for empty in ["/tmp", "/run"] {
        fs::create_dir_all(within(root, empty)).attempt(format!("make {empty}"))?;
    }
    Ok(())
}

pub(super) fn within(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// For a tmpfs that holds places to mount on.
pub(super) const ROOT_OPTIONS: &CStr = c"size=2m,nr_inodes=4096,mode=0755";

const LIBRARIES: [&str; 5] = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"];

/// What every container has, and a runtime without privileges can only pass on.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

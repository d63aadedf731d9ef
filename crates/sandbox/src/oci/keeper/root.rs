//! The keeper's root: the runtime, what its dynamic linker needs, the image, the instance's own directories. Nothing else of the
//! host can be reached from it, by the runtime neither.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree, unmount,
    },
};

use super::{
    super::spec::{ContainerSpec, inside},
    NO_PROGRAMS,
};
use crate::{
    jail::{Access, Attempt, Failure, JailMount, root::bind},
    sys,
};

/// Makes the root and moves into it. `users` is the instance's user namespace, by whose map the image's owners are seen.
pub(super) fn enter(spec: &ContainerSpec, users: BorrowedFd<'_>) -> Result<(), Failure> {
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
        mount_layer(&within(root, inside::LAYERS).join(index.to_string()), layer, users)?;
    }
    mount_rootfs(root, spec.layers.len())?;
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

/// Of the kernel's file systems a runtime looks at the group that it is in, and at nothing else.
fn system(root: &Path) -> Result<(), Failure> {
    let sys = within(root, "/sys");
    fs::create_dir_all(&sys).attempt("make /sys")?;
    mount("sysfs", &sys, "sysfs", NO_PROGRAMS, None).attempt("mount /sys")?;
    mount("cgroup2", sys.join("fs/cgroup"), "cgroup2", NO_PROGRAMS, None).attempt("mount the instance's cgroup")?;
    for empty in ["/tmp", "/run"] {
        fs::create_dir_all(within(root, empty)).attempt(format!("make {empty}"))?;
    }
    Ok(())
}

/// Mounts an EROFS file and shows its owners as those of the instance's user namespace.
fn mount_layer(target: &Path, file: &Path, users: BorrowedFd<'_>) -> Result<(), Failure> {
    let what = || format!("mount the layer {}", file.display());
    fs::create_dir_all(target).attempt(what())?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    mount(file, target, "erofs", flags, None).map_err(|error| explained(error.into())).attempt(what())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, target, flags).attempt(what())?;
    sys::map_owners(std::os::fd::AsFd::as_fd(&tree), users).attempt(what())?;
    unmount(target, UnmountFlags::empty()).attempt(what())?;
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).attempt(what())
}

fn explained(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOTBLK) => {
            io::Error::other("this kernel mounts EROFS from disks only; hint: Linux 6.12 mounts it from files")
        }
        Some(libc::ENODEV) => io::Error::other("this kernel has no EROFS; hint: modprobe erofs"),
        _ => error,
    }
}

/// The layers, and on top what the container changes, on scratch.
fn mount_rootfs(root: &Path, layers: usize) -> Result<(), Failure> {
    let target = within(root, inside::ROOTFS);
    fs::create_dir_all(&target).attempt("make the container's root")?;
    // Relative paths keep the options of the largest image within the page that mount takes.
    rustix::process::chdir(root).attempt("enter the keeper's root")?;
    let options = CString::new(overlay(layers)).map_err(io::Error::other).attempt("name the layers")?;
    mount("overlay", &target, "overlay", MountFlags::NODEV | MountFlags::NOSUID, options.as_c_str())
        .attempt("mount the layers as one root file system")
}

fn overlay(layers: usize) -> String {
    let lower: Vec<String> = (0..layers).rev().map(|index| format!("{}/{index}", &inside::LAYERS[1..])).collect();
    let scratch = &inside::SCRATCH[1..];
    format!("lowerdir={},upperdir={scratch}/upper,workdir={scratch}/work,volatile", lower.join(":"))
}

fn within(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

const ROOT_OPTIONS: &CStr = c"size=2m,nr_inodes=4096,mode=0755";

const LIBRARIES: [&str; 5] = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"];

/// What every container has, and a runtime without privileges can only pass on.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_layer_comes_first_and_the_largest_image_fits() {
        assert!(overlay(3).starts_with("lowerdir=layers/2:layers/1:layers/0,upperdir=scratch/upper"));
        assert!(overlay(127).len() < 4096);
    }
}

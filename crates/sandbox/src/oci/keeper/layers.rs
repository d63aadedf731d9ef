//! The image: layers as file systems, and one root file system of all of them.
//!
//! A layer is an EROFS file. Kernels from 6.12 on mount it as it is, if it lies on a file system that lets them; where they say that
//! they want a disk, it gets a loop device. Either way its owners are seen through the map of the instance's user namespace.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::{
    fs::CWD,
    mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree, unmount},
};

use super::{
    super::spec::{LayerMounts, inside},
    loops,
    root::within,
};
use crate::{
    jail::{Attempt, Failure},
    sys,
};

/// Mounts the file of layer `index`, and says how.
pub(super) fn mount_layer(
    root: &Path,
    index: usize,
    file: &Path,
    mounts: LayerMounts,
    users: BorrowedFd<'_>,
) -> Result<LayerMounts, Failure> {
    let what = || format!("mount the layer {}", file.display());
    let target = within(root, inside::LAYERS).join(index.to_string());
    fs::create_dir_all(&target).attempt(what())?;
    let mounted = match mounts {
        LayerMounts::Files => mount_file(file, &target),
        LayerMounts::LoopDevices => mount_device(file, &target),
    };
    let mounted = mounted.map_err(explained).attempt(what())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, &target, flags).attempt(what())?;
    sys::map_owners(tree.as_fd(), users).map_err(no_map).attempt(what())?;
    unmount(&target, UnmountFlags::empty()).attempt(what())?;
    move_mount(&tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).attempt(what())?;
    Ok(mounted)
}

/// The kernel's answer decides, not its version: backports exist, and not every file system lets it.
fn mount_file(file: &Path, target: &Path) -> io::Result<LayerMounts> {
    match mount(file, target, FILE_SYSTEM, LAYER_FLAGS, None) {
        Ok(()) => Ok(LayerMounts::Files),
        Err(rustix::io::Errno::NOTBLK) => mount_device(file, target),
        Err(error) => Err(error.into()),
    }
}

fn mount_device(file: &Path, target: &Path) -> io::Result<LayerMounts> {
    // Held until the mount holds it.
    let device = loops::attach(file)?;
    mount(&device.path, target, FILE_SYSTEM, LAYER_FLAGS, None)?;
    Ok(LayerMounts::LoopDevices)
}

fn explained(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENODEV) => io::Error::other("this kernel has no EROFS; hint: modprobe erofs"),
        _ => error,
    }
}

fn no_map(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS) => {
            io::Error::other("this kernel does not map the owners of EROFS to users of an instance; hint: Linux 5.19 does")
        }
        _ => error,
    }
}

/// The layers, and on top what the container changes, on scratch.
pub(super) fn mount_rootfs(root: &Path, layers: usize) -> Result<(), Failure> {
    let target = within(root, inside::ROOTFS);
    fs::create_dir_all(&target).attempt("make the container's root")?;
    // Relative paths keep the options of the largest image within the page that mount takes.
    rustix::process::chdir(root).attempt("enter the keeper's root")?;
    let options = CString::new(overlay(layers)).map_err(io::Error::other).attempt("name the layers")?;
    mount("overlay", &target, "overlay", MountFlags::NODEV | MountFlags::NOSUID, options.as_c_str())
        .map_err(|error| match error {
            rustix::io::Errno::NODEV => io::Error::other("this kernel has no overlay file system; hint: modprobe overlay"),
            error => error.into(),
        })
        .attempt("mount the layers as one root file system")
}

fn overlay(layers: usize) -> String {
    let lower: Vec<String> = (0..layers).rev().map(|index| format!("{}/{index}", &inside::LAYERS[1..])).collect();
    let scratch = &inside::SCRATCH[1..];
    format!("lowerdir={},upperdir={scratch}/upper,workdir={scratch}/work,volatile", lower.join(":"))
}

const FILE_SYSTEM: &str = "erofs";

const LAYER_FLAGS: MountFlags = MountFlags::RDONLY.union(MountFlags::NODEV).union(MountFlags::NOSUID);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_layer_comes_first_and_the_largest_image_fits() {
        assert!(overlay(3).starts_with("lowerdir=layers/2:layers/1:layers/0,upperdir=scratch/upper"));
        assert!(overlay(127).len() < 4096);
    }
}

//! Leaves the initrd for the verified root.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    mount::{MountFlags, mount, mount_move},
    process::{chdir, chroot},
};

/// Mounts `device` (EROFS), moves the early mounts into it, empties the initrd and makes it the root.
pub(crate) fn switch_to(device: &Path) -> io::Result<()> {
    fs::create_dir_all(NEW_ROOT)?;
    mount(device, NEW_ROOT, "erofs", MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID, None)?;
    for dir in ["dev", "proc", "sys"] {
        mount_move(format!("/{dir}"), format!("{NEW_ROOT}/{dir}"))?;
    }
    empty_initrd();
    chdir(NEW_ROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    Ok(chdir("/")?)
}

/// The initrd lives in RAM; its files are of no more use. What cannot be deleted stays, unreachable.
fn empty_initrd() {
    let Ok(root) = fs::metadata("/") else { return };
    let mut dirs = vec![PathBuf::from("/")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                // Never into another file system: that is the new root.
                Ok(found) if found.dev() != root.dev() => {}
                Ok(found) if found.is_dir() => dirs.push(entry.path()),
                Ok(_) => drop(fs::remove_file(entry.path())),
                Err(_) => {}
            }
        }
    }
}

const NEW_ROOT: &str = "/sysroot";

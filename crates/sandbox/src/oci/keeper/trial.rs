//! Mounts an image as a start does, before a node offers containers: what the kernel cannot do is known then, and by name.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount},
    thread::UnshareFlags,
};

use super::{
    super::spec::{LayerMounts, Trial, inside},
    layers,
    root::{ROOT_OPTIONS, within},
    users,
};
use crate::{
    jail::{Attempt, Failure},
    sys,
};

/// Everything that it makes ends with the process.
pub(super) fn run(trial: &Trial) -> Result<LayerMounts, Failure> {
    let users = users::make(trial.first_user)?;
    sys::unshare(UnshareFlags::NEWNS).attempt("unshare the mount namespace")?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .attempt("make mounts private")?;
    let root = &trial.root;
    mount("trial", root, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, ROOT_OPTIONS)
        .attempt(format!("mount a tmpfs on {}", root.display()))?;
    for side in ["upper", "work"] {
        fs::create_dir_all(within(root, inside::SCRATCH).join(side)).attempt("make the sides of the overlay")?;
    }
    let mounted = layers::mount_layer(root, 0, &trial.layer, trial.mounts, users.as_fd())?;
    layers::mount_rootfs(root, 1)?;
    let what = "look at the owner of a mounted image";
    let layer = fs::metadata(within(root, inside::LAYERS).join("0")).attempt(what)?;
    match (layer.uid(), layer.gid()) == (trial.first_user, trial.first_user) {
        true => Ok(mounted),
        false => Err(io::Error::other(format!("it is user {} and not {}", layer.uid(), trial.first_user))).attempt(what),
    }
}

//! The jail's root: a read-only tmpfs with a few read-only binds.

use std::{
    ffi::CStr,
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Component, Path, PathBuf},
};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::{
    Attempt, Failure,
    spec::{Access, JailMount, JailSpec},
};

/// Makes the root and moves into it; afterwards the host's file system cannot be reached.
pub(super) fn enter(spec: &JailSpec) -> Result<(), Failure> {
    // The program's user must be able to walk through the directories that are made here.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .attempt("make mounts private")?;
    rustix::mount::mount("jail", &spec.root, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, ROOT_OPTIONS)
        .attempt(format!("mount the root on {}", spec.root.display()))?;
    for mount in &spec.mounts {
        bind(&spec.root, mount)?;
    }
    rustix::process::chdir(&spec.root).attempt("enter the root")?;
    rustix::process::pivot_root(".", ".").attempt("change the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).attempt("leave the old root")?;
    rustix::process::chdir("/").attempt("enter the root")?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount_remount("/", flags, "").attempt("make the root read-only")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::system::sethostname(b"jail").attempt("set the host name")
}

/// Shows something of the host inside of `root`.
pub(crate) fn bind(root: &Path, mount: &JailMount) -> Result<(), Failure> {
    let what = || format!("bind {} in the jail", mount.source.display());
    let inside = within(root, &mount.target).attempt(what())?;
    let metadata = fs::symlink_metadata(&mount.source).attempt(what())?;
    let parent = inside.parent().expect("a path within the root has a parent");
    fs::create_dir_all(parent).attempt(what())?;
    if metadata.is_symlink() {
        let target = fs::read_link(&mount.source).attempt(what())?;
        return symlink(target, &inside).attempt(what());
    }
    if metadata.is_dir() {
        fs::create_dir_all(&inside).attempt(what())?;
    } else {
        File::create_new(&inside).attempt(what())?;
    }
    rustix::mount::mount_bind(&mount.source, &inside).attempt(what())?;
    rustix::mount::mount_remount(&inside, MountFlags::BIND | restrictions(mount.access), "").attempt(what())
}

fn restrictions(access: Access) -> MountFlags {
    match access {
        Access::ReadOnly => MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV,
        Access::ReadWrite => MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV,
        Access::Device => MountFlags::NOEXEC | MountFlags::NOSUID,
    }
}

/// The place of an absolute path inside of `root`; no way up.
fn within(root: &Path, target: &Path) -> io::Result<PathBuf> {
    let mut inside = root.to_owned();
    let mut components = target.components();
    if components.next() != Some(Component::RootDir) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the target is not absolute"));
    }
    for component in components {
        match component {
            Component::Normal(name) => inside.push(name),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "the target has a way up")),
        }
    }
    Ok(inside)
}

/// It holds directories and empty files only.
const ROOT_OPTIONS: &CStr = c"size=1m,nr_inodes=4096,mode=0755";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_stay_within_the_root() {
        let root = Path::new("/r");
        assert_eq!(within(root, Path::new("/usr/lib")).unwrap(), Path::new("/r/usr/lib"));
        assert!(within(root, Path::new("/usr/../..")).is_err());
        assert!(within(root, Path::new("usr")).is_err());
    }
}

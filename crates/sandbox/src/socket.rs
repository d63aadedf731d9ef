//! Unix sockets in directories whose paths are longer than a socket's address.

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
};

use crate::{DriverError, error::Context};

/// Listens on `name` in `directory`, in place of whoever did before.
pub(crate) fn listen(directory: &Path, name: &str) -> Result<OwnedFd, DriverError> {
    let path = directory.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context("remove", &path),
        _ => {}
    }
    let reach = reach(directory)?;
    let listener = UnixListener::bind(reach.path(name)).context("listen on", &path)?;
    // QEMU changes this mode itself, but the descriptor is shared with nobody else.
    listener.set_nonblocking(false).context("listen on", &path)?;
    Ok(listener.into())
}

/// A directory by a short path, since a socket's address has room for 107 bytes only.
pub(crate) struct Reach(File);

pub(crate) fn reach(directory: &Path) -> Result<Reach, DriverError> {
    File::open(directory).map(Reach).context("open", directory)
}

impl Reach {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }
}

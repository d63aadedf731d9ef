//! Finds the machine's disks by their virtio serial.

use std::{
    fs, io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// e.g. `vda`.
    pub(crate) name: String,
    /// `major:minor`, as device mapper tables take it.
    pub(crate) number: String,
    /// Size in 512-byte sectors.
    pub(crate) sectors: u64,
}

impl Disk {
    pub(crate) fn node(&self) -> PathBuf {
        PathBuf::from("/dev").join(&self.name)
    }
}

/// Why there is no such disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("no disk has the serial {serial:?}")]
    Missing { serial: String },
    #[error("look for the disk {serial:?} in /sys/block")]
    Look {
        serial: String,
        #[source]
        source: io::Error,
    },
}

/// The disk with this serial.
pub(crate) fn find(serial: &str) -> Result<Disk, DiskError> {
    match look(serial) {
        Ok(Some(disk)) => Ok(disk),
        Ok(None) => Err(DiskError::Missing { serial: serial.into() }),
        Err(source) => Err(DiskError::Look { serial: serial.into(), source }),
    }
}

/// The disk with this serial, as soon as the kernel shows it.
pub(crate) fn wait_for(serial: &str, limit: Duration) -> Result<Disk, DiskError> {
    let start = Instant::now();
    loop {
        match find(serial) {
            Err(DiskError::Missing { .. }) if start.elapsed() < limit => thread::sleep(Duration::from_millis(2)),
            found => return found,
        }
    }
}

fn look(serial: &str) -> io::Result<Option<Disk>> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let read = |file: &str| fs::read_to_string(entry.path().join(file));
        // Only virtio disks have a serial here; others are passed over.
        if !read("serial").is_ok_and(|found| found.trim_end() == serial) {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let sectors = read("size")?.trim_end().parse().map_err(io::Error::other)?;
        return Ok(Some(Disk { name, number: read("dev")?.trim_end().to_owned(), sectors }));
    }
    Ok(None)
}

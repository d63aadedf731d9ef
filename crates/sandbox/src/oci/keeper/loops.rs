//! Loop devices, for kernels and file systems that do not let EROFS be mounted from a file.
//!
//! A device is never freed by us: the kernel does it when the last descriptor and the last mount of it are gone, and so whatever
//! died between two steps.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::sys;

/// A loop device with a file behind it.
pub(super) struct LoopDevice {
    pub(super) path: PathBuf,
    /// Keeps it until it is mounted.
    _device: File,
}

/// Finds a free device and binds the file to it, read-only.
pub(super) fn attach(file: &Path) -> io::Result<LoopDevice> {
    let file = File::open(file)?;
    let control = OpenOptions::new().read(true).write(true).open(CONTROL).map_err(|error| unavailable(&error))?;
    let begin = Instant::now();
    loop {
        let number = sys::free_loop_device(control.as_fd()).map_err(|error| unavailable(&error))?;
        match bind(number, &file) {
            Err(error) if is_taken(&error) && begin.elapsed() < LIMIT => std::thread::sleep(PAUSE),
            outcome => return outcome.map_err(|error| unavailable(&error)),
        }
    }
}

fn bind(number: u32, file: &File) -> io::Result<LoopDevice> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let device = File::open(&path)?;
    sys::bind_loop_device(device.as_fd(), file.as_fd(), BLOCK_SIZE)?;
    Ok(LoopDevice { path, _device: device })
}

/// Others look for free devices as well, and remove them.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENXIO | libc::ENODEV))
}

fn unavailable(error: &io::Error) -> io::Error {
    let (attempt, hint) = ("it needs a loop device, as EROFS is not mounted from this file itself", "hint: modprobe loop");
    io::Error::new(error.kind(), format!("{attempt}, and none can be had: {error}; {hint}"))
}

const CONTROL: &str = "/dev/loop-control";

/// That of EROFS; no disk below has larger ones, so that reads can go past the page cache.
const BLOCK_SIZE: u32 = 4096;

/// Each failure is the success of another; fifty containers of many layers may start at once.
const LIMIT: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_micros(200);

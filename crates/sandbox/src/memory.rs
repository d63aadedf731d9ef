//! Guest memory: a file on a tmpfs of the instance's own, which outlives VMM and agent until it has been wiped.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use rustix::{
    fs::{FallocateFlags, SeekFrom},
    mount::{MountFlags, UnmountFlags},
};
use serde::{Deserialize, Serialize};

use crate::{DriverError, Placement, error::Context, layout::Places};

/// Mounts the instance's tmpfs, just large enough for `bytes`, with what the plan wishes of its pages.
pub(crate) fn mount(places: &Places, bytes: u64, wishes: impl Iterator<Item = Placement>) -> Result<(), DriverError> {
    let path = &places.memory;
    fs::create_dir_all(path).context("create", path)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let wished: String = wishes.map(option).collect();
    // Kernels before 6.4 do not know `noswap`; there the cgroup forbids swapping.
    let mounted = ["mode=0700,noswap", "mode=0700"].into_iter().find_map(|options| {
        let options = std::ffi::CString::new(format!("{options},size={bytes}{wished}")).ok()?;
        rustix::mount::mount("casemate", path, "tmpfs", flags, options.as_c_str()).ok()
    });
    mounted.ok_or_else(io::Error::last_os_error).context("mount guest memory at", path)
}

/// As a tmpfs is told.
fn option(wish: Placement) -> String {
    match wish {
        Placement::HugePages => ",huge=always".to_owned(),
        Placement::Node(number) => format!(",mpol=bind:{number}"),
        Placement::Cpus(_) => String::new(),
    }
}

/// Whether something is mounted at `path`.
pub(crate) fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == path))
}

/// Takes the tmpfs away; nothing happens where none is.
pub(crate) fn unmount(places: &Places) -> Result<(), DriverError> {
    while is_mounted(&places.memory) {
        let unmounted = match rustix::mount::unmount(&places.memory, UnmountFlags::empty()) {
            // Somebody looks at a file that was wiped and removed before; the rest goes with his descriptor.
            Err(rustix::io::Errno::BUSY) => rustix::mount::unmount(&places.memory, UnmountFlags::DETACH),
            outcome => outcome,
        };
        unmounted.context("unmount", &places.memory)?;
    }
    Ok(())
}

/// Makes the file that becomes the guest's RAM, for the VMM's user only.
pub(crate) fn create_ram(places: &Places, bytes: u64, user: u32) -> Result<(), DriverError> {
    let path = places.ram();
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).context("create guest memory", &path)?;
    file.set_len(bytes).context("size guest memory", &path)?;
    std::os::unix::fs::fchown(&file, Some(user), Some(user)).context("give guest memory to the VMM", &path)
}

/// What was found when a guest's memory was overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Overwritten {
    /// Size of the file.
    pub(crate) bytes: u64,
    /// What the guest had touched, and was overwritten.
    pub(crate) touched: u64,
    /// Pages that were read back.
    pub(crate) sampled: u64,
    /// Pages among them that were not zero.
    pub(crate) dirty: u64,
    /// How many threads wrote.
    #[serde(default)]
    pub(crate) threads: usize,
    /// How long the writing took.
    #[serde(default)]
    pub(crate) writing_us: u64,
}

impl Overwritten {
    /// MiB per second; `None` where too little was written to tell.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.touched.checked_mul(1_000_000)?.checked_div(self.writing_us).map(|bytes| bytes >> 20)
    }
}

/// Overwrites what was ever touched with zeros and reads a sample back; the file stays, so that this can be done again. `None`
/// when there is no such file. The VMM must be gone.
pub(crate) fn overwrite(path: &Path) -> Result<Option<Overwritten>, DriverError> {
    let Some(file) = open(path)? else { return Ok(None) };
    let bytes = file.metadata().context("measure guest memory", path)?.len();
    let extents = extents(&file, bytes).context("find the touched pages of", path)?;
    let touched = extents.iter().map(|(_, length)| length).sum();
    let begin = Instant::now();
    write_zeros(&file, &extents).context("overwrite", path)?;
    let writing_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (sampled, dirty) = sample(&file, &extents, touched).context("read back", path)?;
    Ok(Some(Overwritten { bytes, touched, sampled, dirty, threads: threads(extents.len()), writing_us }))
}

/// Gives the pages to the kernel and removes the file; the number of disk blocks that it still had then. One that is gone has
/// none.
pub(crate) fn release(path: &Path) -> Result<u64, DriverError> {
    let Some(file) = open(path)? else { return Ok(0) };
    let bytes = file.metadata().context("measure guest memory", path)?.len();
    if bytes > 0 {
        rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, bytes)
            .context("release the pages of", path)?;
    }
    let blocks_left = file.metadata().context("measure guest memory", path)?.blocks();
    fs::remove_file(path).context("remove", path)?;
    Ok(blocks_left)
}

fn open(path: &Path) -> Result<Option<File>, DriverError> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("open guest memory", path),
    }
}

/// Offset and length of what holds data; the rest are holes, which read as zeros because they have no page.
fn extents(file: &File, bytes: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(begin))?;
        let mut piece = begin;
        while piece < end {
            let length = PIECE.min(end - piece);
            found.push((piece, length));
            piece += length;
        }
        at = end;
    }
    Ok(found)
}

/// Writing is bound by one core's speed, so that several do it.
fn write_zeros(file: &File, extents: &[(u64, u64)]) -> io::Result<()> {
    in_threads(extents.len(), |index| {
        let (offset, length) = extents[index];
        let zeros = &ZEROS[..];
        let mut done = 0;
        while done < length {
            let count = usize::try_from((length - done).min(zeros.len() as u64)).expect("at most the length of the zeros");
            file.write_all_at(&zeros[..count], offset + done)?;
            done += count as u64;
        }
        Ok(0)
    })
    .map(drop)
}

/// Number of pages read back and of those that were not zero.
fn sample(file: &File, extents: &[(u64, u64)], touched: u64) -> io::Result<(u64, u64)> {
    if touched <= READ_ALL {
        let dirty = in_threads(extents.len(), |index| dirty_pages(file, extents[index]))?;
        return Ok((touched.div_ceil(PAGE), dirty));
    }
    let mut dirty = 0;
    for _ in 0..SAMPLES {
        let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let (offset, length) = extents[usize::try_from(random >> 32).unwrap_or_default() % extents.len()];
        dirty += is_dirty(file, offset + (random & 0xffff_ffff) % length.div_ceil(PAGE) * PAGE)?;
    }
    Ok((SAMPLES, dirty))
}

/// In one extent, which is at most [`PIECE`] long.
fn dirty_pages(file: &File, (offset, length): (u64, u64)) -> io::Result<u64> {
    let mut dirty = 0;
    let mut buffer = vec![0_u8; ZEROS.len()];
    let mut done = 0;
    while done < length {
        let wanted = usize::try_from((length - done).min(buffer.len() as u64)).expect("at most the buffer's length");
        file.read_exact_at(&mut buffer[..wanted], offset + done)?;
        let pages = buffer[..wanted].chunks(PAGE as usize);
        dirty += pages.filter(|page| *page != &ZEROS[..page.len()]).count() as u64;
        done += wanted as u64;
    }
    Ok(dirty)
}

fn is_dirty(file: &File, offset: u64) -> io::Result<u64> {
    let mut page = [0_u8; PAGE as usize];
    let count = file.read_at(&mut page, offset)?;
    Ok(u64::from(page[..count] != ZEROS[..count]))
}

/// How many threads share `count` pieces of work: as many as there are processors.
fn threads(count: usize) -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(count.max(1))
}

/// Does `work` for every index below `count` on all processors; the sum of the answers.
fn in_threads(count: usize, work: impl Fn(usize) -> io::Result<u64> + Sync) -> io::Result<u64> {
    let next = AtomicUsize::new(0);
    let run = || -> io::Result<u64> {
        let mut sum = 0;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(sum);
            }
            sum += work(index)?;
        }
    };
    let threads = threads(count);
    thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let first = run();
        workers
            .into_iter()
            .try_fold(first?, |sum, worker| Ok(sum + worker.join().map_err(|_| io::Error::other("a wiping thread panicked"))??))
    })
}

const PAGE: u64 = 4096;

/// Unit of work of one thread.
const PIECE: u64 = 8 << 20;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// Up to this much is read back as a whole.
const READ_ALL: u64 = 1 << 30;

/// Pages read back of larger memories.
const SAMPLES: u64 = 4096;

/// More only wait for memory.
const MOST_THREADS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overwrites_what_was_touched_and_only_that() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ram");
        let file = File::create_new(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(&[7; 3 * 4096], 10 << 20).unwrap();
        let keep = File::open(&path).unwrap();
        let wiped = overwrite(&path).unwrap().unwrap();
        let again = overwrite(&path).unwrap().unwrap();
        assert_eq!(Overwritten { writing_us: wiped.writing_us, ..again }, wiped, "it can be done again");
        assert_eq!((wiped.bytes, wiped.dirty), (64 << 20, 0));
        assert!(wiped.touched >= 3 * 4096 && wiped.touched < 1 << 20, "{wiped:?}");
        assert_eq!(wiped.sampled, wiped.touched / 4096);
        assert_eq!(release(&path).unwrap(), 0);
        let mut byte = [1];
        keep.read_exact_at(&mut byte, 10 << 20).unwrap();
        assert_eq!(byte, [0]);
        assert!(!path.exists());
        assert_eq!((overwrite(&path).unwrap(), release(&path).unwrap()), (None, 0));
    }

    #[test]
    fn the_rate_is_of_what_was_written() {
        let written =
            |touched, writing_us| Overwritten { bytes: touched, touched, sampled: 0, dirty: 0, threads: 1, writing_us }.rate();
        assert_eq!(written(64 << 20, 500_000), Some(128));
        assert_eq!(written(1 << 20, 0), None);
        assert!(threads(usize::MAX) >= 1 && threads(0) == 1 && threads(1) == 1);
    }

    #[test]
    fn a_page_that_survives_is_noticed() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0; 8192], 0).unwrap();
        file.write_all_at(&[1], 8191).unwrap();
        assert_eq!(sample(&file, &[(0, 8192)], 8192).unwrap(), (2, 1));
    }
}

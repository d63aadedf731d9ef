//! Sealed records of one instance on disk, from the guest's hand to the platform's.
//!
//! A record is acknowledged to the guest only after it is on disk here, and removed only after the platform stored it.
//! The spool is a row of segment files `records-<first number>.log`; a segment is a row of `u32 big-endian length, bytes`.
//! A half-written record at the end of the last segment, left by a crash, was never acknowledged and is cut off.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    ops::Range,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::files::{FileError, sync_parent};

/// Most bytes on disk; beyond it the guest has to wait for the platform.
pub(crate) const MAX_BYTES: u64 = 256 << 20;
/// Largest sealed record, in bytes: 256 KiB of text and what sealing adds.
pub(crate) const MAX_RECORD: usize = 512 << 10;
/// A new segment begins when the last one is longer.
const SEGMENT_BYTES: u64 = 4 << 20;
/// Largest batch for one message to the platform.
const BATCH_BYTES: usize = 1 << 20;

/// The records that are here.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    segments: VecDeque<Segment>,
    next: u64,
}

#[derive(Debug)]
struct Segment {
    first: u64,
    path: PathBuf,
    file: Arc<File>,
    /// End of each record.
    ends: Vec<u64>,
}

/// What became of a record from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    /// It is written, but maybe not on disk yet.
    Written,
    /// It was there already.
    Duplicate,
    /// It is not the next one.
    Gap,
    /// It is longer than [`MAX_RECORD`].
    TooLong,
}

impl Spool {
    /// Opens the spool in `folder` as the last process left it.
    pub(crate) fn open(folder: &Path) -> Result<Self, FileError> {
        let mut firsts: Vec<u64> = fs::read_dir(folder)
            .map_err(FileError::at("list", folder))?
            .filter_map(|entry| segment_number(entry.ok()?.file_name().to_str()?))
            .collect();
        firsts.sort_unstable();
        let mut spool = Self { folder: folder.to_owned(), segments: VecDeque::new(), next: 0 };
        for first in firsts {
            let segment = Segment::open(folder, first)?;
            spool.next = segment.next();
            spool.segments.push_back(segment);
        }
        Ok(spool)
    }

    /// Numbers of the records that are kept; its end is the next number to come from the guest.
    pub(crate) fn kept(&self) -> Range<u64> {
        self.segments.front().map_or(self.next, |segment| segment.first)..self.next
    }

    /// Whether the guest may send more.
    pub(crate) fn has_room(&self) -> bool {
        self.segments.iter().map(Segment::len).sum::<u64>() < MAX_BYTES
    }

    /// Takes record number `seq`; [`Spool::sync_point`] says what has to be synced before it is acknowledged.
    pub(crate) fn append(&mut self, seq: u64, sealed: &[u8]) -> Result<Appended, FileError> {
        if seq != self.next {
            return Ok(if seq < self.next { Appended::Duplicate } else { Appended::Gap });
        }
        if sealed.len() > MAX_RECORD {
            return Ok(Appended::TooLong);
        }
        if self.segments.back().is_none_or(|segment| segment.len() >= SEGMENT_BYTES) {
            let segment = Segment::open(&self.folder, self.next)?;
            sync_parent(&segment.path)?;
            self.segments.push_back(segment);
        }
        let segment = self.segments.back_mut().expect("the last branch made one");
        segment.append(sealed)?;
        self.next += 1;
        Ok(Appended::Written)
    }

    /// What makes everything up to the number that comes with it durable. Only the last segments can be dirty: the one
    /// before the last too, when the last one was begun since the last sync.
    pub(crate) fn sync_point(&self) -> SyncPoint {
        SyncPoint {
            files: self.segments.iter().rev().take(2).map(|s| (s.path.clone(), s.file.clone())).collect(),
            next: self.next,
        }
    }

    /// Records from number `from` on, as many as fit one message; the first one may be a later one.
    pub(crate) fn read(&self, from: u64, until: u64) -> Result<(u64, Vec<Vec<u8>>), FileError> {
        let from = from.max(self.kept().start);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut seq = from;
        for segment in &self.segments {
            while seq >= segment.first && seq < segment.next().min(until) && (batch.is_empty() || bytes < BATCH_BYTES) {
                let record = segment.read(seq)?;
                bytes += record.len();
                batch.push(record);
                seq += 1;
            }
        }
        Ok((from, batch))
    }

    /// The platform has everything below `next`: whole segments below it are removed. The last one stays, it knows the
    /// numbers.
    pub(crate) fn release(&mut self, next: u64) -> Result<(), FileError> {
        while self.segments.len() > 1 && self.segments[0].next() <= next {
            let segment = &self.segments[0];
            fs::remove_file(&segment.path).map_err(FileError::at("remove", &segment.path))?;
            self.segments.pop_front();
        }
        Ok(())
    }
}

/// See [`Spool::sync_point`].
#[derive(Debug)]
pub(crate) struct SyncPoint {
    files: Vec<(PathBuf, Arc<File>)>,
    next: u64,
}

impl SyncPoint {
    /// Waits for the disk; returns the number below which everything is durable.
    pub(crate) fn sync(self) -> Result<u64, FileError> {
        for (path, file) in &self.files {
            file.sync_data().map_err(FileError::at("sync", path))?;
        }
        Ok(self.next)
    }
}

impl Segment {
    fn open(folder: &Path, first: u64) -> Result<Self, FileError> {
        let path = folder.join(format!("{PREFIX}{first:020}{SUFFIX}"));
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(FileError::at("open", &path))?;
        let ends = scan(&file).map_err(FileError::at("read", &path))?;
        file.set_len(ends.last().copied().unwrap_or(0)).map_err(FileError::at("cut", &path))?;
        Ok(Self { first, path, file: Arc::new(file), ends })
    }

    fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn next(&self) -> u64 {
        self.first + self.ends.len() as u64
    }

    fn append(&mut self, sealed: &[u8]) -> Result<(), FileError> {
        let length = u32::try_from(sealed.len()).expect("MAX_RECORD fits u32");
        let bytes = [&length.to_be_bytes(), sealed].concat();
        if let Err(error) = (&*self.file).write_all(&bytes) {
            // Half a record must not stay before the next one.
            let _ = self.file.set_len(self.len());
            return Err(FileError::at("append to", &self.path)(error));
        }
        self.ends.push(self.len() + bytes.len() as u64);
        Ok(())
    }

    fn read(&self, seq: u64) -> Result<Vec<u8>, FileError> {
        let index = usize::try_from(seq - self.first).expect("an index into a Vec in memory");
        let start = if index == 0 { 0 } else { self.ends[index - 1] } + 4;
        let mut record = vec![0; usize::try_from(self.ends[index] - start).expect("at most MAX_RECORD")];
        self.file.read_exact_at(&mut record, start).map_err(FileError::at("read", &self.path))?;
        Ok(record)
    }
}

/// The ends of all whole records.
fn scan(file: &File) -> io::Result<Vec<u64>> {
    let length = file.metadata()?.len();
    let (mut ends, mut at) = (Vec::new(), 0);
    while at + 4 <= length {
        let mut header = [0; 4];
        file.read_exact_at(&mut header, at)?;
        let record = u32::from_be_bytes(header);
        if record as usize > MAX_RECORD || at + 4 + u64::from(record) > length {
            break;
        }
        at += 4 + u64::from(record);
        ends.push(at);
    }
    Ok(ends)
}

fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

const PREFIX: &str = "records-";
const SUFFIX: &str = ".log";

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(spool: &Spool) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut from = spool.kept().start;
        while from < spool.kept().end {
            let (first, batch) = spool.read(from, u64::MAX).unwrap();
            assert_eq!(first, from);
            from += batch.len() as u64;
            all.extend(batch);
        }
        all
    }

    #[test]
    fn keeps_records_over_a_restart_and_takes_none_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        assert_eq!(spool.append(0, b"zero").unwrap(), Appended::Written);
        assert_eq!(spool.append(1, b"").unwrap(), Appended::Written);
        assert_eq!(spool.append(0, b"zero").unwrap(), Appended::Duplicate);
        assert_eq!(spool.append(3, b"three").unwrap(), Appended::Gap);
        assert_eq!(spool.append(2, &vec![0; MAX_RECORD + 1]).unwrap(), Appended::TooLong);
        assert_eq!(spool.sync_point().sync().unwrap(), 2);
        let spool = Spool::open(dir.path()).unwrap();
        assert_eq!(spool.kept(), 0..2);
        assert_eq!(read_all(&spool), [b"zero".to_vec(), b"".to_vec()]);
        assert_eq!(spool.read(0, 1).unwrap().1.len(), 1, "nothing beyond what is durable is read");
    }

    #[test]
    fn cuts_off_what_a_crash_left_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        spool.append(0, b"zero").unwrap();
        let path = spool.segments[0].path.clone();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[0, 0, 0, 9, b'h', b'a']).unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        assert_eq!(spool.kept(), 0..1);
        spool.append(1, b"one").unwrap();
        assert_eq!(read_all(&Spool::open(dir.path()).unwrap()), [b"zero".to_vec(), b"one".to_vec()]);
    }

    #[test]
    fn removes_what_the_platform_has_and_still_knows_the_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        for seq in 0..40 {
            spool.append(seq, &vec![7; 300 << 10]).unwrap();
        }
        let files = || fs::read_dir(dir.path()).unwrap().count();
        let before = files();
        assert!(before > 2);
        spool.release(20).unwrap();
        assert!(files() < before);
        assert!(spool.kept().start > 0 && spool.kept().start <= 20);
        spool.release(40).unwrap();
        assert_eq!(files(), 1);
        let spool = Spool::open(dir.path()).unwrap();
        assert_eq!(spool.kept().end, 40);
        assert_eq!(spool.read(0, u64::MAX).unwrap().0, spool.kept().start);
    }
}

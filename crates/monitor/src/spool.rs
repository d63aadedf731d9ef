//! The monitor's own record: one JSON document per line, each with the digest of the line before, on disk before anything follows from it.
//!
//! ```text
//! {"sequence":0,"previous":"00..","at_unix_ms":..,"event":{"kind":"started",..}}
//! {"sequence":1,"previous":SHA-256 of the line above,"at_unix_ms":..,"event":{"kind":"violation",..}}
//! ```
//!
//! The chain shows that a line was changed, left out or added in the middle. It has no secret: whoever may write the whole file can
//! write another chain. So the head (the last line's digest) goes to whoever shall be able to tell later.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The longest line.
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// Why there is no spool.
#[derive(Debug, Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{what} the spool {}", path.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A line is not one of ours.
    #[error("line {line} of the spool {} is not a record: {why}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// The chain is broken.
    #[error(
        "line {line} of the spool {} does not follow from the line before: the record was changed (hint: keep the file as evidence, and begin a new one elsewhere)",
        path.display()
    )]
    Chain {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
    },
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// From 0, without a gap.
    pub sequence: u64,
    /// SHA-256 of the line before, in hexadecimal; zeros for the first.
    pub previous: String,
    /// By the node's clock.
    pub at_unix_ms: u64,
    /// What happened: an object with a `kind`.
    pub event: serde_json::Value,
}

/// A spool that is written to.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: File,
    length: u64,
    /// Room that is set aside on the disk before work begins, so that a full disk loses no report; and up to where it reaches now.
    reserve_bytes: u64,
    reserved: u64,
    head: Head,
}

/// Where a chain stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Head {
    /// How many records there are.
    pub records: u64,
    /// SHA-256 of the last line, in hexadecimal.
    pub digest: String,
}

impl Head {
    fn start() -> Self {
        Self { records: 0, digest: hex::encode([0; 32]) }
    }
}

impl Spool {
    /// Opens the spool at `path`, or begins it; checks all of it. A last line that a crash cut short is cut off, which the next record says.
    pub fn open(path: &Path, reserve_bytes: u64) -> Result<Self, Error> {
        let fail = |what| move |source| Error::File { what, path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(fail("open"))?;
        let checked = check(path, &file)?;
        file.set_len(checked.length).map_err(fail("cut"))?;
        file.seek(SeekFrom::End(0)).map_err(fail("open"))?;
        let mut spool =
            Self { path: path.to_owned(), file, length: checked.length, reserve_bytes, reserved: 0, head: checked.head };
        spool.reserve().map_err(fail("set room aside for"))?;
        if checked.torn_bytes > 0 {
            spool.append(serde_json::json!({"kind": "torn", "bytes": checked.torn_bytes}))?;
        }
        Ok(spool)
    }

    /// Writes an event down; when this returns it is on the disk.
    pub fn append(&mut self, event: serde_json::Value) -> Result<(), Error> {
        self.append_all([event])
    }

    /// The same for several, with one wait for the disk.
    pub fn append_all(&mut self, events: impl IntoIterator<Item = serde_json::Value>) -> Result<(), Error> {
        let (mut text, mut head) = (Vec::new(), self.head.clone());
        for event in events {
            let record = Record { sequence: head.records, previous: head.digest, at_unix_ms: now_unix_ms(), event };
            let line = serde_json::to_vec(&record).expect("a record of strings and numbers is JSON");
            head = Head { records: record.sequence + 1, digest: hex::encode(Sha256::digest(&line)) };
            text.extend(line);
            text.push(b'\n');
        }
        let path = &self.path;
        let fail = |source| Error::File { what: "write to", path: path.clone(), source };
        self.file.write_all(&text).and_then(|()| self.file.sync_data()).map_err(fail)?;
        self.length += text.len() as u64;
        self.head = head;
        // What is written needs no room any more; that a full disk gives no new room is told by `reserved`.
        if self.reserve_bytes() < self.reserve_bytes / 2 {
            let _ = self.reserve();
        }
        Ok(())
    }

    /// Where the chain stands.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// How much more can be written though the disk be full.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserved.saturating_sub(self.length)
    }

    fn reserve(&mut self) -> io::Result<()> {
        let flags = rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, self.length, self.reserve_bytes)?;
        self.reserved = self.length + self.reserve_bytes;
        Ok(())
    }
}

/// Checks the spool at `path` without changing it, calls `each` with every record, and says where its chain stands.
pub fn verify(path: &Path, mut each: impl FnMut(Record)) -> Result<Head, Error> {
    let file = File::open(path).map_err(|source| Error::File { what: "open", path: path.to_owned(), source })?;
    walk(path, &file, &mut each).map(|checked| checked.head)
}

struct Checked {
    head: Head,
    length: u64,
    torn_bytes: u64,
}

fn check(path: &Path, file: &File) -> Result<Checked, Error> {
    walk(path, file, &mut |_| ())
}

fn walk(path: &Path, file: &File, each: &mut dyn FnMut(Record)) -> Result<Checked, Error> {
    let mut reader = BufReader::new(file);
    let (mut head, mut length) = (Head::start(), 0_u64);
    loop {
        let number = head.records + 1;
        let bad = |why: String| Error::Line { path: path.to_owned(), line: number, why };
        let mut line = Vec::new();
        let mut limited = io::Read::take(&mut reader, MAX_LINE_BYTES as u64 + 1);
        limited.read_until(b'\n', &mut line).map_err(|source| Error::File { what: "read", path: path.to_owned(), source })?;
        let whole = line.pop_if(|byte| *byte == b'\n').is_some();
        if !whole {
            if line.len() > MAX_LINE_BYTES {
                return Err(bad(format!("longer than {MAX_LINE_BYTES} bytes")));
            }
            return Ok(Checked { head, length, torn_bytes: line.len() as u64 });
        }
        let record: Record = serde_json::from_slice(&line).map_err(|error| bad(error.to_string()))?;
        if record.previous != head.digest || record.sequence != head.records {
            return Err(Error::Chain { path: path.to_owned(), line: number });
        }
        head = Head { records: number, digest: hex::encode(Sha256::digest(&line)) };
        length += line.len() as u64 + 1;
        each(record);
    }
}

fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    const RESERVE_BYTES: u64 = 64 << 10;

    fn spool_of(events: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool.jsonl");
        let mut spool = Spool::open(&path, RESERVE_BYTES).unwrap();
        spool.append_all((0..events).map(|number| json!({"kind": "test", "number": number}))).unwrap();
        (folder, path)
    }

    #[test]
    fn a_spool_goes_on_where_it_ended() {
        let (_folder, path) = spool_of(2);
        let mut spool = Spool::open(&path, RESERVE_BYTES).unwrap();
        spool.append(json!({"kind": "test", "number": 2})).unwrap();
        let mut numbers = Vec::new();
        let head = verify(&path, |record| numbers.push(record.event["number"].as_u64().unwrap())).unwrap();
        assert_eq!((numbers, &head), (vec![0, 1, 2], spool.head()));
        assert!(spool.reserve_bytes() >= RESERVE_BYTES / 2);
    }

    #[test]
    fn every_changed_byte_shows_in_the_chain_or_in_the_head() {
        let (_folder, path) = spool_of(3);
        let bytes = fs::read(&path).unwrap();
        let head = verify(&path, |_| ()).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            fs::write(&path, changed).unwrap();
            // The last line is held by the head alone.
            assert!(verify(&path, |_| ()).map_or(true, |found| found != head), "byte {at}");
        }
    }

    #[test]
    fn a_line_left_out_or_moved_shows() {
        let (_folder, path) = spool_of(4);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for order in [vec![0, 2, 3], vec![1, 2, 3], vec![0, 2, 1, 3], vec![0, 1, 1, 2, 3]] {
            let changed: String = order.iter().map(|line| format!("{}\n", lines[*line])).collect();
            fs::write(&path, changed).unwrap();
            assert!(matches!(verify(&path, |_| ()), Err(Error::Chain { .. })), "{order:?}");
            assert!(matches!(Spool::open(&path, RESERVE_BYTES), Err(Error::Chain { .. })), "{order:?}");
        }
    }

    #[test]
    fn a_line_that_a_crash_cut_short_is_cut_off_and_told() {
        let (_folder, path) = spool_of(2);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        Spool::open(&path, RESERVE_BYTES).unwrap();
        let mut kinds = Vec::new();
        verify(&path, |record| kinds.push(record.event["kind"].as_str().unwrap().to_owned())).unwrap();
        assert_eq!(kinds, ["test", "torn"]);
    }

    #[test]
    fn a_line_without_an_end_is_not_read_into_memory() {
        let (_folder, path) = spool_of(1);
        let mut bytes = fs::read(&path).unwrap();
        bytes.resize(bytes.len() + MAX_LINE_BYTES + 2, b'x');
        fs::write(&path, bytes).unwrap();
        assert!(matches!(verify(&path, |_| ()), Err(Error::Line { line: 2, .. })));
    }
}

//! A bounded reader of tar streams: V7, ustar, PAX and GNU, with long names and sparse files.
//!
//! Not a general library: it reads what container layers hold, refuses the rest by name, never keeps file content, and never
//! allocates more than [`Limits`] allows (readers that load a "long name" of any size into memory are no use here). Where
//! formats contradict each other it decides like Go's `archive/tar`, which is what container engines use.

mod header;
mod pax;
mod sparse;

use std::io::{self, Read};

pub(crate) use self::{header::Kind, sparse::Content};
use self::{
    header::{BLOCK, Flavour, RawHeader},
    pax::Records,
};
use crate::{LayerError, Limits};

/// An entry's header, everything merged into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) link: Vec<u8>,
    /// Permission, setuid, setgid and sticky bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime_s: i64,
    pub(crate) mtime_ns: u32,
    /// Of the content as a reader of the file sees it.
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    /// Full names and values, in order, repetitions included.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    fragments: Option<Vec<sparse::Fragment>>,
}

/// Input that can pass over bytes.
pub(crate) trait Input: Read {
    /// Passes over `count` bytes, or fails.
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

/// Input that can only be read.
pub(crate) struct Streamed<R>(pub(crate) R);

impl<R: Read> Read for Streamed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Input for Streamed<R> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let passed = io::copy(&mut self.0.by_ref().take(count), &mut io::sink())?;
        if passed == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// Reads entries one after the other.
pub(crate) struct Reader<'a, R> {
    input: R,
    limits: &'a Limits,
    /// Bytes read or passed over so far.
    offset: u64,
    /// Stored bytes of the current entry that are still unread.
    unread: u64,
    /// Padding after them.
    padding: u64,
}

/// What headers of the kinds `x`, `L` and `K` say about the entry after them.
#[derive(Default)]
struct Extensions {
    records: Records,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Entry {
    /// Whether its content is not stored as it is.
    pub(crate) fn is_sparse(&self) -> bool {
        self.fragments.is_some()
    }
}

impl<'a, R: Input> Reader<'a, R> {
    pub(crate) fn new(input: R, limits: &'a Limits) -> Self {
        Self { input, limits, offset: 0, unread: 0, padding: 0 }
    }

    /// The next entry; none at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut extensions = Extensions::default();
        // Each extension header costs 512 bytes of a bounded stream, so that this loop ends.
        loop {
            self.skip_content()?;
            let Some(header) = self.read_header()? else { return Ok(None) };
            match header.typeflag() {
                b'x' | b'X' => extensions.records = Records::parse(&self.read_extension(&header)?).map_err(|p| self.bad(p))?,
                // Go and containerd do not apply global records either; `git archive` puts a comment there.
                b'g' => drop(self.read_extension(&header)?),
                b'L' => extensions.long_path = Some(header::until_nul(&self.read_extension(&header)?).to_vec()),
                b'K' => extensions.long_link = Some(header::until_nul(&self.read_extension(&header)?).to_vec()),
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// Where the stored bytes of the current entry begin.
    pub(crate) fn content_offset(&self) -> u64 {
        self.offset
    }

    /// The content of the entry that was returned last.
    pub(crate) fn content<'r>(&'r mut self, entry: &'r Entry) -> Content<'r, Stored<'r, R>> {
        let stored = Stored { input: &mut self.input, offset: &mut self.offset, unread: &mut self.unread };
        Content::new(stored, entry.size, entry.fragments.as_deref())
    }

    /// The input, for what comes after the archive.
    pub(crate) fn into_input(self) -> R {
        self.input
    }

    fn entry(&mut self, header: &RawHeader, extensions: Extensions) -> Result<Entry, LayerError> {
        let problem = |reader: &Self, field: &str| reader.bad(format!("its {field} is not a number in range"));
        let records = &extensions.records;
        let kind = header.kind(records).map_err(|p| self.bad(p))?;
        let header_size = header.number(header::SIZE).ok_or_else(|| problem(self, "size"))?;
        let stored = records.number(b"size").map_err(|p| self.bad(p))?.unwrap_or(header_size);
        self.expect_content(if kind == Kind::File { stored } else { 0 })?;
        let sparse_map = self.sparse_map(header, records, kind)?;
        let (mtime_s, mtime_ns) = match records.time(b"mtime").map_err(|p| self.bad(p))? {
            Some(time) => time,
            None => (header.signed(header::MTIME).ok_or_else(|| problem(self, "modification time"))?, 0),
        };
        let id = |reader: &Self, key: &[u8], field| {
            let value = match records.number(key).map_err(|p| reader.bad(p))? {
                Some(value) => Some(value),
                None => header.number(field),
            };
            value
                .and_then(|v| u32::try_from(v).ok())
                .filter(|v| *v != u32::MAX)
                .ok_or_else(|| reader.bad(format!("its {} is not a number below 2^32-1", String::from_utf8_lossy(key))))
        };
        Ok(Entry {
            kind,
            mode: (header.number(header::MODE).ok_or_else(|| problem(self, "mode"))? & 0o7777) as u16,
            uid: id(self, b"uid", header::UID)?,
            gid: id(self, b"gid", header::GID)?,
            mtime_s,
            mtime_ns,
            size: sparse_map.as_ref().map_or(self.unread, |map| map.size),
            device: header.device(kind).ok_or_else(|| problem(self, "device number"))?,
            xattrs: records.xattrs(),
            path: extensions.long_path.or_else(|| records.path()).unwrap_or_else(|| header.path()),
            link: extensions.long_link.or_else(|| records.link()).unwrap_or_else(|| header.link()),
            fragments: sparse_map.map(|map| map.fragments),
        })
    }

    fn sparse_map(&mut self, header: &RawHeader, records: &Records, kind: Kind) -> Result<Option<sparse::Map>, LayerError> {
        let most = self.limits.sparse_fragments;
        let map = if header.typeflag() == b'S' && header.flavour() == Flavour::Gnu {
            // The continuation blocks of the map stand before the content and are not counted in its size.
            let Self { input, offset, .. } = self;
            Some(sparse::Map::old_gnu(header, most, || read_block(input, offset)))
        } else if kind == Kind::File {
            let stored = &mut Stored { input: &mut self.input, offset: &mut self.offset, unread: &mut self.unread };
            sparse::Map::pax(records, most, stored).transpose()
        } else {
            None
        };
        let Some(map) = map.transpose().map_err(|fault| self.sparse_fault(fault))? else { return Ok(None) };
        map.check(self.unread).map_err(|p| self.bad(p))?;
        Ok(Some(map))
    }

    fn sparse_fault(&self, fault: sparse::Fault) -> LayerError {
        match fault {
            sparse::Fault::Form(problem) => self.bad(problem),
            sparse::Fault::TooMany(limit) => LayerError::Limit { name: "sparse_fragments", limit: limit as u64 },
            sparse::Fault::Io(source) => LayerError::read("read a sparse file's map", source),
        }
    }

    fn skip_content(&mut self) -> Result<(), LayerError> {
        let count = self.unread + self.padding;
        self.input.skip(count).map_err(|e| LayerError::read("pass over an entry's content", e))?;
        self.offset += count;
        (self.unread, self.padding) = (0, 0);
        Ok(())
    }

    fn expect_content(&mut self, stored: u64) -> Result<(), LayerError> {
        if stored > MAX_STORED {
            return Err(self.bad("its size is beyond any limit"));
        }
        self.unread = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        Ok(())
    }

    /// The next header; none at the end mark, or where the input ends between two entries.
    fn read_header(&mut self) -> Result<Option<RawHeader>, LayerError> {
        let mut block = [0; BLOCK];
        if !fill(&mut self.input, &mut block).map_err(|e| LayerError::read("read a tar header", e))? {
            return Ok(None);
        }
        let header = RawHeader::check(block).map_err(|p| self.bad(p))?;
        self.offset += BLOCK as u64;
        Ok(header)
    }

    fn read_extension(&mut self, header: &RawHeader) -> Result<Vec<u8>, LayerError> {
        let size = header.number(header::SIZE).ok_or_else(|| self.bad("its size is not a number in range"))?;
        if size > self.limits.pax_bytes {
            return Err(LayerError::Limit { name: "pax_bytes", limit: self.limits.pax_bytes });
        }
        self.expect_content(size)?;
        let mut bytes = vec![0; size as usize];
        self.input.read_exact(&mut bytes).map_err(|e| LayerError::read("read an extended tar header", e))?;
        self.offset += size;
        self.unread = 0;
        Ok(bytes)
    }

    fn bad(&self, problem: impl Into<String>) -> LayerError {
        LayerError::Tar { offset: self.offset, problem: problem.into() }
    }
}

/// The stored bytes of the current entry; the end of the input before the end of the entry is an error.
pub(crate) struct Stored<'r, R> {
    input: &'r mut R,
    offset: &'r mut u64,
    unread: &'r mut u64,
}

impl<R: Read> Read for Stored<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(*self.unread).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let n = self.input.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within an entry"));
        }
        *self.unread -= n as u64;
        *self.offset += n as u64;
        Ok(n)
    }
}

fn read_block(input: &mut impl Read, offset: &mut u64) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    input.read_exact(&mut block)?;
    *offset += BLOCK as u64;
    Ok(block)
}

/// Fills the block; false where the input ended before its first byte.
fn fill(input: &mut impl Read, block: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < block.len() {
        match input.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// Far above every limit and far below where sums of sizes overflow.
const MAX_STORED: u64 = 1 << 48;

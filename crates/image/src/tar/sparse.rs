//! Sparse files: where the stored bytes belong, in four notations of GNU tar, and their expansion.

use std::io::{self, Read};

use super::{
    header::{BLOCK, RawHeader, parse_number},
    pax::{Records, decimal},
};

/// Stored bytes: where they belong, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fragment {
    offset: u64,
    length: u64,
}

/// The map of a sparse file.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) size: u64,
    pub(super) fragments: Vec<Fragment>,
}

pub(super) enum Fault {
    Form(String),
    TooMany(usize),
    Io(io::Error),
}

impl Map {
    /// Type `S`: four fragments in the header, then blocks of 21.
    pub(super) fn old_gnu(
        header: &RawHeader,
        most: usize,
        mut next_block: impl FnMut() -> io::Result<[u8; BLOCK]>,
    ) -> Result<Self, Fault> {
        let bytes = header.bytes();
        let size = header.number(483..495).ok_or_else(|| form("its real size is no number"))?;
        let mut fragments = Vec::new();
        take_fields(&bytes[386..482], &mut fragments)?;
        let mut more = bytes[482] != 0;
        while more {
            let block = next_block().map_err(Fault::Io)?;
            take_fields(&block[..504], &mut fragments)?;
            more = block[504] != 0;
            if fragments.len() > most {
                return Err(Fault::TooMany(most));
            }
        }
        Ok(Self { size, fragments })
    }

    /// PAX notations 0.0 (repeated records), 0.1 (one record) and 1.0 (text before the content); none for ordinary files.
    pub(super) fn pax(records: &Records, most: usize, stored: &mut impl Read) -> Result<Option<Self>, Fault> {
        let version = (records.value(b"GNU.sparse.major"), records.value(b"GNU.sparse.minor"));
        let numbers = match version {
            (Some(b"1"), Some(b"0")) => text_map(most, stored)?,
            (None, None) | (Some(b"0"), Some(b"0" | b"1")) => match records_map(records)? {
                Some(numbers) => numbers,
                None => return Ok(None),
            },
            _ => return Err(form("its version of the sparse format is not known")),
        };
        if numbers.len() > 2 * most {
            return Err(Fault::TooMany(most));
        }
        let size = [&b"GNU.sparse.realsize"[..], b"GNU.sparse.size"].into_iter().find_map(|key| records.value(key));
        let size = size.and_then(decimal).ok_or_else(|| form("its real size is no number"))?;
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(form("its sparse map has an odd number of fields"));
        }
        let fragments = pairs.iter().map(|[offset, length]| Fragment { offset: *offset, length: *length }).collect();
        Ok(Some(Self { size, fragments }))
    }

    /// Fragments in order, apart, inside the file, and as long together as what is stored.
    pub(super) fn check(&self, stored: u64) -> Result<(), &'static str> {
        let mut end = 0;
        let mut sum = 0u64;
        for fragment in &self.fragments {
            let next = fragment.offset.checked_add(fragment.length).ok_or("its sparse map overflows")?;
            if fragment.offset < end || next > self.size {
                return Err("its sparse map is out of order or out of the file");
            }
            end = next;
            sum += fragment.length;
        }
        if sum == stored { Ok(()) } else { Err("its sparse map does not fit its stored size") }
    }
}

/// The content as a reader of the file sees it: zeros where nothing is stored.
pub(crate) struct Content<'r, R> {
    stored: R,
    /// Position in the file and its size.
    at: u64,
    size: u64,
    /// What is still to come; for an ordinary file none.
    fragments: Option<&'r [Fragment]>,
}

impl<'r, R: Read> Content<'r, R> {
    pub(super) fn new(stored: R, size: u64, fragments: Option<&'r [Fragment]>) -> Self {
        Self { stored, at: 0, size, fragments }
    }

    /// Bytes from here to the next change between stored bytes and a hole, and whether they are stored.
    fn run(&mut self) -> (u64, bool) {
        let Some(fragments) = &mut self.fragments else { return (self.size - self.at, true) };
        while let Some((first, rest)) = fragments.split_first() {
            if self.at < first.offset {
                return (first.offset - self.at, false);
            }
            let end = first.offset + first.length;
            if self.at < end {
                return (end - self.at, true);
            }
            *fragments = rest;
        }
        (self.size - self.at, false)
    }
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (run, is_stored) = self.run();
        let most = buffer.len().min(usize::try_from(run).unwrap_or(usize::MAX));
        let n = if is_stored {
            self.stored.read(&mut buffer[..most])?
        } else {
            buffer[..most].fill(0);
            most
        };
        self.at += n as u64;
        Ok(n)
    }
}

/// Old GNU fields: pairs of 12 bytes until the first empty one.
fn take_fields(bytes: &[u8], fragments: &mut Vec<Fragment>) -> Result<(), Fault> {
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let number = |field| parse_number(field).and_then(|n| u64::try_from(n).ok());
        let (Some(offset), Some(length)) = (number(&pair[..12]), number(&pair[12..])) else {
            return Err(form("its sparse map holds something that is no number"));
        };
        fragments.push(Fragment { offset, length });
    }
    Ok(())
}

/// PAX 1.0: decimal lines (their count, then offset and length of each) padded to whole blocks, before the content.
fn text_map(most: usize, stored: &mut impl Read) -> Result<Vec<u64>, Fault> {
    let mut lines = Lines { stored, block: [0; BLOCK], at: BLOCK };
    let count = lines.number()?;
    if count > most as u64 {
        return Err(Fault::TooMany(most));
    }
    (0..2 * count).map(|_| lines.number()).collect()
}

struct Lines<'r, R> {
    stored: &'r mut R,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64, Fault> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                self.stored.read_exact(&mut self.block).map_err(Fault::Io)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&digits).ok_or_else(|| form("its sparse map holds something that is no number")),
                _ if digits.len() > 20 => return Err(form("its sparse map holds something that is no number")),
                _ => digits.push(byte),
            }
        }
    }
}

/// PAX 0.1 and 0.0.
fn records_map(records: &Records) -> Result<Option<Vec<u64>>, Fault> {
    let no_number = || form("its sparse map holds something that is no number");
    if let Some(map) = records.value(b"GNU.sparse.map") {
        return map.split(|b| *b == b',').map(decimal).collect::<Option<_>>().ok_or_else(no_number).map(Some);
    }
    let is_part = |key: &[u8]| key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes";
    let parts: Vec<_> = records.iter().filter(|(key, _)| is_part(key)).collect();
    if !parts.iter().enumerate().all(|(i, (key, _))| (i % 2 == 0) == (*key == b"GNU.sparse.offset")) {
        return Err(form("its sparse map is out of order"));
    }
    if parts.is_empty() && records.value(b"GNU.sparse.size").is_none() {
        return Ok(None);
    }
    parts.into_iter().map(|(_, value)| decimal(value)).collect::<Option<_>>().ok_or_else(no_number).map(Some)
}

fn form(problem: &str) -> Fault {
    Fault::Form(problem.into())
}

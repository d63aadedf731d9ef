//! The 512-byte header block.

use std::ops::Range;

use super::pax::Records;

pub(super) const BLOCK: usize = 512;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header block whose checksum is right.
pub(super) struct RawHeader([u8; BLOCK]);

impl RawHeader {
    /// Checks the sum; none for a block of zeros, the end mark.
    pub(super) fn check(block: [u8; BLOCK]) -> Result<Option<Self>, String> {
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let said = parse_number(&block[CHECKSUM]).ok_or("its checksum is not a number")?;
        let sum = |signed: fn(u8) -> i128| {
            let field = i128::from(b' ') * CHECKSUM.len() as i128;
            let others = block.iter().enumerate().filter(|(i, _)| !CHECKSUM.contains(i));
            field + others.map(|(_, b)| signed(*b)).sum::<i128>()
        };
        // Some old tools summed signed bytes.
        if said != sum(i128::from) && said != sum(|b| i128::from(b as i8)) {
            return Err("its checksum does not fit: not a tar archive, or damaged".into());
        }
        Ok(Some(Self(block)))
    }

    pub(super) fn bytes(&self) -> &[u8; BLOCK] {
        &self.0
    }

    pub(super) fn typeflag(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn flavour(&self) -> Flavour {
        match (&self.0[257..263], &self.0[263..265], &self.0[508..512]) {
            (b"ustar\0", b"00", b"tar\0") => Flavour::Star,
            (b"ustar\0", b"00", _) => Flavour::Ustar,
            (b"ustar ", b" \0", _) => Flavour::Gnu,
            _ => Flavour::V7,
        }
    }

    pub(super) fn kind(&self, records: &Records) -> Result<Kind, String> {
        let folder_by_name = || records.path().unwrap_or_else(|| self.path()).ends_with(b"/");
        Ok(match self.typeflag() {
            0 if folder_by_name() => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'S' if self.flavour() == Flavour::Gnu => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(format!("the entry type {:?} is not known", other.escape_ascii().to_string())),
        })
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.0[0..100]);
        let prefix = match self.flavour() {
            Flavour::Ustar => until_nul(&self.0[345..500]),
            Flavour::Star => until_nul(&self.0[345..476]),
            Flavour::V7 | Flavour::Gnu => &[],
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        until_nul(&self.0[157..257]).to_vec()
    }

    /// Major and minor, for devices.
    pub(super) fn device(&self, kind: Kind) -> Option<(u32, u32)> {
        if !matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            return Some((0, 0));
        }
        let part = |range| self.number(range).and_then(|n| u32::try_from(n).ok());
        Some((part(329..337)?, part(337..345)?))
    }

    pub(super) fn number(&self, range: Range<usize>) -> Option<u64> {
        u64::try_from(parse_number(&self.0[range])?).ok()
    }

    pub(super) fn signed(&self, range: Range<usize>) -> Option<i64> {
        i64::try_from(parse_number(&self.0[range])?).ok()
    }
}

/// Octal text, or GNU's big-endian two's complement marked by the top bit. An empty field is 0, as for Go.
pub(super) fn parse_number(field: &[u8]) -> Option<i128> {
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        let negative = field[0] & 0x40 != 0;
        let first = i128::from(field[0] & 0x3f) - if negative { 0x40 } else { 0 };
        // Twelve bytes at most: 96 bits.
        return Some(field[1..].iter().fold(first, |value, b| (value << 8) | i128::from(*b)));
    }
    let is_space = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !is_space(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_space).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0, |value, b| match b {
        b'0'..=b'7' => Some((value << 3) | i128::from(b - b'0')),
        _ => None,
    })
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

const CHECKSUM: Range<usize> = 148..156;

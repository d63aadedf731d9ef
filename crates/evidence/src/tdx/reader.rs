//! Little-endian fields off the front of a slice.

use super::QuoteError;

pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn take(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], QuoteError> {
        let short = QuoteError::Short { field, need: count, have: self.rest.len() };
        let (head, rest) = self.rest.split_at_checked(count).ok_or(short)?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], QuoteError> {
        Ok(self.take(field, N)?.try_into().expect("take returned N bytes"))
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, QuoteError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, QuoteError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, QuoteError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A 32-bit size and as many bytes, which are a reader of their own.
    pub(super) fn sized(&mut self, field: &'static str) -> Result<Reader<'a>, QuoteError> {
        let size = self.u32(field)?;
        let size = usize::try_from(size).map_err(|_| QuoteError::Unknown { field, value: size })?;
        Ok(Reader::new(self.take(field, size)?))
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Nothing is left of a structure whose stated size was `size`.
    pub(super) fn finish(self, field: &'static str, size: usize) -> Result<(), QuoteError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(QuoteError::Size { field, expected: size - left, seen: size }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }
}

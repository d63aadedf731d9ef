//! Reading and writing big-endian fields with limits; also used to build commands and take responses apart.

use super::TpmDecodeError;

/// Takes fields off the front of a byte slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], TpmDecodeError> {
        let short = TpmDecodeError::Short { field, need: count, have: self.rest.len() };
        let (head, rest) = self.rest.split_at_checked(count).ok_or(short)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, TpmDecodeError> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    /// The next 16-bit integer.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, TpmDecodeError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    /// The next 32-bit integer.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, TpmDecodeError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    /// The next 64-bit integer.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, TpmDecodeError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }

    /// A TPM2B: a 16-bit size, at most `limit`, and as many bytes.
    pub fn sized(&mut self, field: &'static str, limit: usize) -> Result<&'a [u8], TpmDecodeError> {
        let size = usize::from(self.u16(field)?);
        if size > limit {
            return Err(TpmDecodeError::TooLarge { field, size, limit });
        }
        self.take(field, size)
    }

    /// A 32-bit count, at most `limit`.
    pub fn count(&mut self, field: &'static str, limit: usize) -> Result<usize, TpmDecodeError> {
        let count = self.u32(field)?;
        match usize::try_from(count) {
            Ok(count) if count <= limit => Ok(count),
            _ => Err(TpmDecodeError::TooLarge { field, size: count as usize, limit }),
        }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends the reading; bytes that are left are an error.
    pub fn finish(self, structure: &'static str) -> Result<(), TpmDecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(TpmDecodeError::Trailing { structure, count }),
        }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], TpmDecodeError> {
        let bytes = self.take(field, N)?;
        Ok(bytes.try_into().expect("take returned N bytes"))
    }
}

/// Appends fields to a buffer.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// Appends a byte.
    pub fn u8(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    /// Appends a 16-bit integer.
    pub fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a 32-bit integer.
    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a 64-bit integer.
    pub fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a TPM2B.
    ///
    /// # Panics
    /// If `bytes` is longer than 65535: no TPM structure is; callers check what comes from outside.
    pub fn sized(self, bytes: &[u8]) -> Self {
        let size = u16::try_from(bytes.len()).expect("a TPM2B is shorter than 64 KiB");
        self.u16(size).bytes(bytes)
    }

    /// The bytes written.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

//! An asset: a file encrypted under a data key, in chunks, so that it is read and written as a stream.
//!
//! ```text
//! "CMASSET1" || salt (25) || nonce prefix (7) || key check (32)      the header, 72 bytes
//! then chunks: AES-256-GCM ciphertext of 65536 bytes, the last one of 0 to 65536, each followed by its tag (16)
//! ```
//!
//! The STREAM construction: a chunk's nonce is `prefix (7) || number (u32) || 1 if it is the last, else 0`; the whole
//! header is associated data of each chunk. The file's key is `HMAC-SHA256(DEK, "casemate/asset-key/v1" || salt)`, so
//! that one DEK serves many files; the key check is `HMAC-SHA256(DEK, "casemate/asset-check/v1" || salt || prefix)`: it
//! names a wrong key as such, and a file opens under one key only.

use std::io::{self, Read, Write};

use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{AeadInOut as _, inout::InOutBuf},
};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::Dek;

/// Plaintext bytes of a chunk.
pub const CHUNK: usize = 64 << 10;
/// Bytes of the header.
pub const HEADER_LEN: usize = 72;
/// Most plaintext bytes of an asset: 1 TiB.
pub const MAX_BYTES: u64 = 1 << 40;

/// Why an asset could not be encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// The source failed.
    #[error("read the asset at chunk {chunk}")]
    Read {
        /// Number of the chunk, from 0.
        chunk: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The destination failed.
    #[error("write the asset at chunk {chunk}")]
    Write {
        /// Number of the chunk, from 0.
        chunk: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More than [`MAX_BYTES`].
    #[error("the asset is larger than the limit of {limit} bytes")]
    TooLong {
        /// The limit.
        limit: u64,
    },
    /// It does not start with the magic number.
    #[error("decrypt the asset: it is not in the format CMASSET1")]
    Format,
    /// The header is for another key (or was altered).
    #[error("decrypt the asset: the key is not the one that it was encrypted under")]
    WrongKey,
    /// The end is missing.
    #[error("decrypt the asset: it is cut short at chunk {chunk}")]
    Truncated {
        /// Number of the chunk, from 0.
        chunk: u32,
    },
    /// There is something after the end.
    #[error("decrypt the asset: there are bytes after chunk {chunk}, its last one")]
    Extended {
        /// Number of the chunk, from 0.
        chunk: u32,
    },
    /// A chunk of this file, but in another place.
    #[error("decrypt the asset: in place of chunk {chunk} stands chunk {found}")]
    OutOfOrder {
        /// Number of the chunk, from 0.
        chunk: u32,
        /// The chunk which is there.
        found: u32,
    },
    /// A chunk was altered.
    #[error("decrypt the asset: chunk {chunk} was altered")]
    Altered {
        /// Number of the chunk, from 0.
        chunk: u32,
    },
    /// The cipher refused to encrypt.
    #[error("encrypt chunk {chunk} of the asset: the cipher refused")]
    Cipher {
        /// Number of the chunk, from 0.
        chunk: u32,
    },
}

/// Encrypts all of `reader` to `writer` and returns the number of plaintext bytes.
///
/// `entropy` must be fresh randomness for each file: it becomes the salt and the nonce prefix (and is no secret).
pub fn encrypt(reader: impl Read, mut writer: impl Write, key: &Dek, entropy: [u8; 32]) -> Result<u64, AssetError> {
    let cipher = FileCipher::new(key, entropy);
    let written = |source| AssetError::Write { chunk: 0, source };
    writer.write_all(&cipher.header).map_err(written)?;
    let mut chunks = Chunks::new(reader, CHUNK);
    let mut total = 0u64;
    loop {
        let (number, last, chunk) = chunks.next_chunk()?;
        total += chunk.len() as u64;
        if total > MAX_BYTES {
            return Err(AssetError::TooLong { limit: MAX_BYTES });
        }
        let tag = cipher.seal(number, last, chunk)?;
        let written = |source| AssetError::Write { chunk: number, source };
        writer.write_all(chunk).and_then(|()| writer.write_all(&tag)).map_err(written)?;
        if last == Last::Yes {
            writer.flush().map_err(written)?;
            return Ok(total);
        }
    }
}

/// Decrypts all of `reader` to `writer` and returns the number of plaintext bytes.
///
/// Each chunk is verified before it is written, but that the file is *whole* is known only when this returns `Ok`. After
/// an error the caller throws away what was written.
pub fn decrypt(mut reader: impl Read, mut writer: impl Write, key: &Dek) -> Result<u64, AssetError> {
    let cipher = FileCipher::open(read_header(&mut reader)?, key)?;
    let mut chunks = Chunks::new(reader, CHUNK + TAG);
    let mut total = 0u64;
    loop {
        let (number, last, chunk) = chunks.next_chunk()?;
        let plain = cipher.open_chunk(number, last, chunk)?;
        total += plain.len() as u64;
        if total > MAX_BYTES {
            return Err(AssetError::TooLong { limit: MAX_BYTES });
        }
        let written = |source| AssetError::Write { chunk: number, source };
        writer.write_all(plain).map_err(written)?;
        if last == Last::Yes {
            writer.flush().map_err(written)?;
            return Ok(total);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    No,
    Yes,
}

/// The cipher of one file.
struct FileCipher {
    header: [u8; HEADER_LEN],
    prefix: [u8; 7],
    aead: Aes256Gcm,
}

impl FileCipher {
    fn new(key: &Dek, entropy: [u8; 32]) -> Self {
        let mut header = [0; HEADER_LEN];
        header[..8].copy_from_slice(MAGIC);
        header[8..40].copy_from_slice(&entropy);
        header[40..].copy_from_slice(mac(key, CHECK_LABEL, &entropy).as_slice());
        Self::with_header(key, header)
    }

    fn open(header: [u8; HEADER_LEN], key: &Dek) -> Result<Self, AssetError> {
        if header[..8] != MAGIC[..] {
            return Err(AssetError::Format);
        }
        let check = mac(key, CHECK_LABEL, &header[8..40]);
        if !bool::from(check.as_slice().ct_eq(&header[40..])) {
            return Err(AssetError::WrongKey);
        }
        Ok(Self::with_header(key, header))
    }

    fn with_header(key: &Dek, header: [u8; HEADER_LEN]) -> Self {
        let file_key = mac(key, KEY_LABEL, &header[8..33]);
        let aead = Aes256Gcm::new_from_slice(file_key.as_slice()).expect("32 bytes are an AES-256 key");
        let prefix = header[33..40].try_into().expect("7 bytes");
        Self { header, prefix, aead }
    }

    fn nonce(&self, number: u32, last: Last) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..7].copy_from_slice(&self.prefix);
        nonce[7..11].copy_from_slice(&number.to_be_bytes());
        nonce[11] = match last {
            Last::No => 0,
            Last::Yes => 1,
        };
        nonce
    }

    fn seal(&self, number: u32, last: Last, chunk: &mut [u8]) -> Result<[u8; TAG], AssetError> {
        self.aead
            .encrypt_inout_detached(&self.nonce(number, last).into(), &self.header, InOutBuf::from(chunk))
            .map(Into::into)
            .map_err(|_| AssetError::Cipher { chunk: number })
    }

    /// Decrypts in place.
    fn open_chunk<'a>(&self, number: u32, last: Last, chunk: &'a mut [u8]) -> Result<&'a [u8], AssetError> {
        let Some(len) = chunk.len().checked_sub(TAG) else {
            return Err(AssetError::Truncated { chunk: number });
        };
        if len == 0 && number > 0 {
            // Only an empty file has an empty last chunk; with another spelling a file would have two encodings.
            return Err(AssetError::Truncated { chunk: number });
        }
        if !self.try_open(number, last, chunk) {
            return Err(self.diagnose(number, last, chunk));
        }
        Ok(&chunk[..len])
    }

    fn try_open(&self, number: u32, last: Last, chunk: &mut [u8]) -> bool {
        let (body, tag) = chunk.split_at_mut(chunk.len() - TAG);
        let tag: [u8; TAG] = (&*tag).try_into().expect("TAG bytes");
        self.aead
            .decrypt_inout_detached(&self.nonce(number, last).into(), &self.header, InOutBuf::from(body), &tag.into())
            .is_ok()
    }

    /// Why a chunk did not open: is it genuine in another place?
    fn diagnose(&self, number: u32, last: Last, chunk: &[u8]) -> AssetError {
        let genuine_as = |number, last| {
            let mut copy = Zeroizing::new(chunk.to_vec());
            self.try_open(number, last, &mut copy)
        };
        match last {
            Last::Yes if genuine_as(number, Last::No) => return AssetError::Truncated { chunk: number },
            Last::No if genuine_as(number, Last::Yes) => return AssetError::Extended { chunk: number },
            Last::Yes | Last::No => {}
        }
        let near = number.saturating_sub(NEIGHBOURS)..number.saturating_add(NEIGHBOURS);
        near.filter(|&other| other != number)
            .find(|&other| genuine_as(other, Last::No) || genuine_as(other, Last::Yes))
            .map_or(AssetError::Altered { chunk: number }, |found| AssetError::OutOfOrder { chunk: number, found })
    }
}

/// Reads chunks one ahead, to know which one is the last.
struct Chunks<R> {
    reader: R,
    now: Zeroizing<Vec<u8>>,
    ahead: Zeroizing<Vec<u8>>,
    size: usize,
    next: Option<u32>,
}

impl<R: Read> Chunks<R> {
    fn new(reader: R, size: usize) -> Self {
        let buffer = || Zeroizing::new(Vec::with_capacity(size));
        Self { reader, now: buffer(), ahead: buffer(), size, next: Some(0) }
    }

    fn next_chunk(&mut self) -> Result<(u32, Last, &mut [u8]), AssetError> {
        let number = self.next.ok_or(AssetError::TooLong { limit: MAX_BYTES })?;
        let read = |source| AssetError::Read { chunk: number, source };
        if number == 0 {
            fill(&mut self.reader, &mut self.ahead, self.size).map_err(read)?;
        }
        std::mem::swap(&mut self.now, &mut self.ahead);
        self.ahead.clear();
        if self.now.len() == self.size {
            fill(&mut self.reader, &mut self.ahead, self.size).map_err(read)?;
        }
        let last = if self.ahead.is_empty() { Last::Yes } else { Last::No };
        self.next = number.checked_add(1);
        Ok((number, last, self.now.as_mut_slice()))
    }
}

fn fill(reader: &mut impl Read, buffer: &mut Vec<u8>, size: usize) -> io::Result<()> {
    buffer.clear();
    // Within the capacity: nothing is left behind in a freed allocation.
    reader.by_ref().take(size as u64).read_to_end(buffer).map(drop)
}

fn read_header(reader: &mut impl Read) -> Result<[u8; HEADER_LEN], AssetError> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    fill(reader, &mut header, HEADER_LEN).map_err(|source| AssetError::Read { chunk: 0, source })?;
    match <[u8; HEADER_LEN]>::try_from(header) {
        Ok(header) => Ok(header),
        Err(short) if short.starts_with(MAGIC) => Err(AssetError::Truncated { chunk: 0 }),
        Err(_) => Err(AssetError::Format),
    }
}

pub(crate) fn mac(key: &Dek, label: &[u8], data: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(label);
    mac.update(data);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

const MAGIC: &[u8; 8] = b"CMASSET1";
const TAG: usize = 16;
const KEY_LABEL: &[u8] = b"casemate/asset-key/v1";
const CHECK_LABEL: &[u8] = b"casemate/asset-check/v1";
/// How far around its place a wrong chunk is looked for, to name the fault.
const NEIGHBOURS: u32 = 16;

#[cfg(test)]
mod tests;

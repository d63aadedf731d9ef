//! Encrypted layers: the EROFS image of a layer, encrypted block by block by its owner.
//!
//! ```text
//! 0    89 "CMLAYR" 01      no tar archive begins so: it is no UTF-8, and no compression either
//! 8    number of blocks, u64, little-endian
//! 16   blocks of 4096 bytes
//! ```
//!
//! What a node makes of it is the verity tree over the blocks as they are. It learns neither their content nor whether it knows the layer.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use super::{BLOCK, BUFFER, Converted, IMAGE, LEAVES, chunks::Chunks, protect};
use crate::{BlobInfo, ConvertedLayer, Digest, ImageError, LayerError, Limits};

/// Media type of an encrypted layer.
pub const ENCRYPTED_TYPE: &str = "application/vnd.casemate.layer.v1.erofs+xts";

/// Encrypts whole blocks in place; told the number of the first one.
pub(crate) type Cipher<'a> = dyn FnMut(u64, &mut [u8]) + 'a;

/// Writes the encrypted form of a converted layer. Blocking.
pub(crate) fn encrypt_layer(
    layer: &ConvertedLayer,
    cipher: &mut Cipher<'_>,
    to: &mut File,
    path: &Path,
) -> Result<BlobInfo, ImageError> {
    let mut out = Hashed { inner: to, hash: Sha256::new(), count: 0 };
    let head = [MAGIC, &layer.data_blocks.to_le_bytes()[..]].concat();
    out.write_all(&head).map_err(ImageError::io("write", path))?;
    let file = File::open(&layer.path).map_err(ImageError::io("open", &layer.path))?;
    let mut from = BufReader::with_capacity(BUFFER, file);
    let mut buffer = vec![0; BUFFER];
    let mut done = 0;
    while done < layer.data_blocks {
        let count = (layer.data_blocks - done).min((BUFFER / BLOCK) as u64);
        let blocks = &mut buffer[..count as usize * BLOCK];
        from.read_exact(blocks).map_err(ImageError::io("read", &layer.path))?;
        cipher(done, blocks);
        out.write_all(blocks).map_err(ImageError::io("write", path))?;
        done += count;
    }
    let (digest, size) = (Digest::from_bytes(out.hash.finalize().into()), out.count);
    Ok(BlobInfo { digest, size, media_type: ENCRYPTED_TYPE.into() })
}

/// Converts an encrypted layer of `size` bytes.
pub(super) fn convert(mut raw: impl Read, size: u64, limits: &Limits, folder: &Path) -> Result<Converted, LayerError> {
    let data_blocks = data_blocks(&mut raw, size, limits)?;
    std::thread::scope(|scope| {
        let mut chunks = Chunks::create(scope, &folder.join(IMAGE), &folder.join(LEAVES))?;
        chunks.write_from(&mut raw, data_blocks * BLOCK as u64)?;
        protect(&chunks.finish()?, data_blocks, folder)
    })
}

/// What the head says, which must be what is there.
pub(crate) fn data_blocks(raw: &mut impl Read, size: u64, limits: &Limits) -> Result<u64, LayerError> {
    let mut head = [0; HEAD];
    raw.read_exact(&mut head).map_err(LayerError::io("read the head of an encrypted layer"))?;
    let blocks = u64::from_le_bytes(*head.last_chunk().expect("8 bytes are the last of 16"));
    let most = limits.layer_bytes / BLOCK as u64;
    if blocks > most {
        return Err(LayerError::Limit { name: "layer_bytes", limit: limits.layer_bytes });
    }
    let expected = HEAD as u64 + blocks * BLOCK as u64;
    if blocks == 0 || expected != size {
        return Err(LayerError::Encrypted { problem: format!("its head says {blocks} blocks, and it has {size} bytes") });
    }
    Ok(blocks)
}

struct Hashed<'a> {
    inner: &'a mut File,
    hash: Sha256,
    count: u64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.count += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The last byte is the version.
pub(super) const MAGIC: &[u8; 8] = b"\x89CMLAYR\x01";
const HEAD: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_says_exactly_what_is_there() {
        let limits = Limits { layer_bytes: 1 << 20, ..Limits::default() };
        let blocks = |blocks: u64, size: u64| {
            let head = [&MAGIC[..], &blocks.to_le_bytes()].concat();
            data_blocks(&mut &head[..], size, &limits)
        };
        assert_eq!(blocks(2, 16 + 8192).unwrap(), 2);
        for (count, size) in [(0, 16), (1, 16), (1, 16 + 4095), (1, 16 + 4097), (2, 16 + 4096), (256, 16)] {
            assert!(matches!(blocks(count, size), Err(LayerError::Encrypted { .. })), "{count} {size}");
        }
        for count in [257, u64::MAX, u64::MAX / 4096 + 1, 1 << 52] {
            assert!(matches!(blocks(count, 16), Err(LayerError::Limit { .. })), "{count}");
        }
        assert!(matches!(data_blocks(&mut &MAGIC[..], 8, &limits), Err(LayerError::Io { .. })));
    }
}

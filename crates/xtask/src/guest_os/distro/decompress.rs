//! The compressions that distributions use for kernels and modules, told apart by their first bytes.

use std::io::Read;

use anyhow::{Context as _, Result, bail};

/// The first bytes of what `lz4 -l` writes, which is how the kernel's build calls it.
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Recognised for the sake of the message.
const UNSUPPORTED: [(&[u8], &str); 3] = [(b"BZh", "bzip2"), (&[0x5d, 0, 0], "lzma"), (b"\x89LZO", "lzo")];
/// A block of the legacy format holds at most this many bytes of text (lz4's `LEGACY_BLOCKSIZE`).
const LZ4_BLOCK: usize = 8 << 20;
const XZ_MEMORY_KIB: u32 = 256 << 10;

/// What `bytes` hold, at most `limit` bytes of it.
pub(crate) fn decompress(bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
    if bytes.starts_with(&LZ4_LEGACY) {
        lz4_legacy(&bytes[LZ4_LEGACY.len()..], limit).context("decompressing lz4")
    } else if bytes.starts_with(&ZSTD) {
        let decoder = zstd::stream::read::Decoder::with_buffer(bytes).context("decompressing zstd")?;
        read_limited(decoder.single_frame(), limit).context("decompressing zstd")
    } else if bytes.starts_with(&XZ) {
        read_limited(lzma_rust2::XzReader::new_mem_limit(bytes, false, XZ_MEMORY_KIB), limit).context("decompressing xz")
    } else if bytes.starts_with(&GZIP) {
        read_limited(flate2::read::GzDecoder::new(bytes), limit).context("decompressing gzip")
    } else {
        let name = UNSUPPORTED.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, name)| *name);
        let first = hex::encode(&bytes[..bytes.len().min(XZ.len())]);
        bail!("its compression is {} (it begins with {first}); lz4, zstd, xz and gzip are read", name.unwrap_or("unknown"))
    }
}

/// Blocks, each after its length; a kernel's build writes no end mark, the end of the bytes is the end.
fn lz4_legacy(mut rest: &[u8], limit: usize) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>().context("the length of a block is truncated")?;
        let length = u32::from_le_bytes(*length) as usize;
        let (packed, behind) = behind.split_at_checked(length).context("a block is truncated")?;
        let filled = lz4_flex::block::decompress_into(packed, &mut block).context("a block is damaged")?;
        if filled > limit - text.len() {
            bail!("it holds more than {limit} bytes");
        }
        text.extend_from_slice(&block[..filled]);
        rest = behind;
    }
    Ok(text)
}

fn read_limited(reader: impl Read, limit: usize) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut text)?;
    if text.len() > limit {
        bail!("it holds more than {limit} bytes");
    }
    Ok(text)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use super::*;

    /// As `lz4 -l` packs it, here with blocks of `block` bytes.
    pub(in super::super) fn packed_lz4(text: &[u8], block: usize) -> Vec<u8> {
        let blocks = text.chunks(block).map(lz4_flex::block::compress);
        let framed = blocks.flat_map(|block| [(block.len() as u32).to_le_bytes().to_vec(), block].concat());
        LZ4_LEGACY.into_iter().chain(framed).collect()
    }

    fn packed() -> [(&'static str, Vec<u8>); 4] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text()).unwrap();
        [
            ("lz4", packed_lz4(&text(), 1000)),
            ("zstd", zstd::encode_all(text().as_slice(), 1).unwrap()),
            ("xz", hex::decode(TEXT_XZ).unwrap()),
            ("gzip", gzip.finish().unwrap()),
        ]
    }

    fn text() -> Vec<u8> {
        b"kernel ".repeat(600)
    }

    #[test]
    fn reads_what_was_packed() {
        for (name, packed) in packed() {
            assert_eq!(decompress(&packed, 4200).unwrap(), text(), "{name}");
        }
    }

    #[test]
    fn holds_the_limit_to_the_byte() {
        for (name, packed) in packed() {
            let error = format!("{:#}", decompress(&packed, 4199).unwrap_err());
            assert!(error.contains("more than 4199 bytes"), "{name}: {error}");
        }
    }

    #[test]
    fn refuses_truncated_data() {
        for (name, packed) in packed() {
            assert!(decompress(&packed[..packed.len() - 1], 4200).is_err(), "{name}");
        }
    }

    #[test]
    fn refuses_an_lz4_block_larger_than_blocks_are() {
        let packed = packed_lz4(&vec![0; LZ4_BLOCK + 1], LZ4_BLOCK + 1);
        let error = format!("{:#}", decompress(&packed, usize::MAX).unwrap_err());
        assert!(error.contains("a block is damaged"), "{error}");
        assert!(decompress(&[&LZ4_LEGACY[..], &[0xff; 8]].concat(), usize::MAX).is_err());
    }

    #[test]
    fn names_a_compression_that_it_does_not_read() {
        let said = |bytes: &[u8]| decompress(bytes, 1).unwrap_err().to_string();
        assert!(said(b"BZh91AY").contains("compression is bzip2 (it begins with 425a68393141)"), "{}", said(b"BZh91AY"));
        assert!(said(b"\x7fELF").contains("compression is unknown (it begins with 7f454c46)"), "{}", said(b"\x7fELF"));
    }

    /// [`text`] by `xz --check=crc32`, as modules are packed.
    const TEXT_XZ: &str = "fd377a585a0000016922de360200210116000000742fe5a3e0106700235d0035994aaba2e2af22d92361a2a9aa2aa27e6d9f83f83fdb5776e827e2e0305b3ccb3a000000c386044400013be82000000093007e153e300d8b020000000001595a";
}

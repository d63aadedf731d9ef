//! Which form a layer has, and the bounded removal of its compression.

use std::io::{self, BufRead, Read};

use super::encrypted::{ENCRYPTED_TYPE, MAGIC};
use crate::{LayerError, Limits, error::LimitHit};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// What a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A tar stream.
    Tar(Compression),
    /// Encrypted blocks.
    Encrypted,
}

/// Looks at the start of a blob, which must be what the media type says.
pub(super) fn form(blob: &mut impl BufRead, media_type: &str) -> Result<Form, LayerError> {
    choose(blob.fill_buf().map_err(|e| LayerError::read("read the layer blob", e))?, media_type)
}

/// The tar stream in a blob.
pub(super) fn open<'r>(
    blob: impl BufRead + Send + 'r,
    compression: Compression,
    most: LimitHit,
) -> Result<Box<dyn Read + Send + 'r>, LayerError> {
    let plain: Box<dyn Read + Send + 'r> = match compression {
        Compression::Plain => Box::new(blob),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(blob).map_err(LayerError::io("start zstd"))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(LayerError::io("bound the window of zstd"))?;
            Box::new(decoder)
        }
    };
    Ok(Box::new(Bounded { inner: plain, left: most.limit, hit: most }))
}

/// The most that a blob of `size` bytes may become.
pub(super) fn bound(size: u64, limits: &Limits) -> LimitHit {
    let by_ratio = size.saturating_mul(limits.ratio).max(limits.ratio_floor_bytes);
    if by_ratio < limits.layer_bytes {
        LimitHit { name: "ratio", limit: by_ratio }
    } else {
        LimitHit { name: "layer_bytes", limit: limits.layer_bytes }
    }
}

fn choose(start: &[u8], media_type: &str) -> Result<Form, LayerError> {
    let (form, found) = recognise(start);
    let mismatch = || LayerError::Compression { media_type: crate::error::shown(media_type.as_bytes()), found };
    let form = form.ok_or_else(mismatch)?;
    if said(media_type).ok_or_else(mismatch)?.is_none_or(|said| said == form) { Ok(form) } else { Err(mismatch()) }
}

/// What the media type says: none if unknown, none inside if it leaves it open.
fn said(media_type: &str) -> Option<Option<Form>> {
    match media_type {
        "" | "application/octet-stream" => return Some(None),
        ENCRYPTED_TYPE => return Some(Some(Form::Encrypted)),
        _ => {}
    }
    let suffix = LAYER_TYPES.iter().find_map(|base| media_type.strip_prefix(base))?;
    let compression = match suffix {
        "" => Compression::Plain,
        "+gzip" | ".gzip" => Compression::Gzip,
        "+zstd" | ".zstd" => Compression::Zstd,
        _ => return None,
    };
    Some(Some(Form::Tar(compression)))
}

/// Whether a layer of this media type can be converted.
pub(crate) fn is_layer_type(media_type: &str) -> bool {
    said(media_type).flatten().is_some()
}

fn recognise(start: &[u8]) -> (Option<Form>, &'static str) {
    let tar = |compression| Some(Form::Tar(compression));
    match start {
        _ if start.starts_with(MAGIC) => (Some(Form::Encrypted), "an encrypted layer"),
        [0x1f, 0x8b, ..] => (tar(Compression::Gzip), "gzip"),
        // A frame, or a frame to skip.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => (tar(Compression::Zstd), "zstd"),
        [b'B', b'Z', b'h', ..] => (None, "bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => (None, "xz"),
        [0x04, 0x22, 0x4d, 0x18, ..] => (None, "lz4"),
        _ => (tar(Compression::Plain), "tar"),
    }
}

/// Fails where more than the limit comes out.
struct Bounded<R> {
    inner: R,
    left: u64,
    hit: LimitHit,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other(self.hit))?;
        Ok(n)
    }
}

/// 128 MiB, what `zstd --long` uses.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

const LAYER_TYPES: [&str; 3] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_type_and_content_must_agree() {
        let gzip = [0x1f, 0x8b, 8, 0];
        let oci = "application/vnd.oci.image.layer.v1.tar";
        assert_eq!(choose(&gzip, &format!("{oci}+gzip")).unwrap(), Form::Tar(Compression::Gzip));
        assert_eq!(choose(&gzip, "").unwrap(), Form::Tar(Compression::Gzip));
        assert_eq!(choose(b"name", oci).unwrap(), Form::Tar(Compression::Plain));
        assert_eq!(choose(MAGIC, ENCRYPTED_TYPE).unwrap(), Form::Encrypted);
        assert_eq!(choose(MAGIC, "").unwrap(), Form::Encrypted);
        for (start, media_type) in [
            (&MAGIC[..], oci),
            (&gzip[..], ENCRYPTED_TYPE),
            (b"name", ENCRYPTED_TYPE),
            (&gzip[..], oci),
            (&gzip, "application/vnd.oci.image.layer.v1.tar+zstd"),
            (&gzip, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
            (&gzip, "application/json"),
            (b"BZh9", ""),
            (b"\xfd7zXZ\0", "application/octet-stream"),
        ] {
            assert!(matches!(choose(start, media_type), Err(LayerError::Compression { .. })), "{media_type}");
        }
    }
}

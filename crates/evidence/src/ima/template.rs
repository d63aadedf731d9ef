//! Which fields an entry has, and where they are.

use std::ops::Range;

use super::{DigestKind, Fields};
use crate::tpm::HashAlg;

/// The fields of an entry, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    fields: [Option<Field>; MAX_FIELDS],
    /// The first template there was: no lengths, the name filled up to 256 bytes.
    original: bool,
}

/// A field of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `d`: a digest of 20 bytes.
    Digest,
    /// `n`: a name.
    Name,
    /// `d-ng`: algorithm, colon, zero, digest.
    DigestNg,
    /// `d-ngv2`: kind and algorithm, each with a colon, zero, digest.
    DigestNgV2,
    /// `n-ng`: a name of any length.
    NameNg,
    /// `sig`: the file's signature.
    Signature,
    /// `buf`: the measured buffer itself.
    Buffer,
    /// `d-modsig`: the digest without the appended signature.
    ModsigDigest,
    /// `modsig`: the appended signature.
    Modsig,
}

impl Template {
    /// The template of this name, or of this list of fields.
    pub fn from_name(name: &str) -> Option<Self> {
        let fields = match name {
            "ima" => return Some(Self { original: true, ..Self::of("d|n")? }),
            "ima-ng" => "d-ng|n-ng",
            "ima-ngv2" => "d-ngv2|n-ng",
            "ima-sig" => "d-ng|n-ng|sig",
            "ima-sigv2" => "d-ngv2|n-ng|sig",
            "ima-buf" => "d-ng|n-ng|buf",
            "ima-modsig" => "d-ng|n-ng|sig|d-modsig|modsig",
            list => list,
        };
        Self::of(fields)
    }

    fn of(list: &str) -> Option<Self> {
        let mut fields = [None; MAX_FIELDS];
        for (at, name) in list.split('|').enumerate() {
            *fields.get_mut(at)? = Some(Field::from_name(name)?);
        }
        let template = Self { fields, original: false };
        // An entry about nothing, or with two meanings of one thing, is none.
        let count = |of: fn(&Field) -> bool| template.fields().filter(of).count();
        let digests = count(|field| matches!(field, Field::Digest | Field::DigestNg | Field::DigestNgV2));
        let names = count(|field| matches!(field, Field::Name | Field::NameNg));
        (digests == 1 && names == 1).then_some(template)
    }

    /// The fields, in order.
    pub fn fields(&self) -> impl Iterator<Item = Field> + '_ {
        self.fields.iter().flatten().copied()
    }

    /// Whether it is the first template there was, `ima`.
    pub fn is_original(&self) -> bool {
        self.original
    }

    /// Where the fields are in `data`, which is nothing but them.
    pub(super) fn locate(&self, data: &[u8]) -> Option<Fields> {
        if self.original {
            return original(data);
        }
        let (mut found, mut at) = (Fields::default(), 0);
        for field in self.fields() {
            let len: [u8; 4] = data.get(at..at + 4)?.try_into().ok()?;
            let len = usize::try_from(u32::from_le_bytes(len)).ok()?;
            let range = at + 4..at.checked_add(4)?.checked_add(len)?;
            at = range.end;
            field.locate(data.get(range.clone())?, range, &mut found)?;
        }
        (at == data.len()).then_some(found)
    }
}

impl Field {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "d" => Self::Digest,
            "n" => Self::Name,
            "d-ng" => Self::DigestNg,
            "d-ngv2" => Self::DigestNgV2,
            "n-ng" => Self::NameNg,
            "sig" => Self::Signature,
            "buf" => Self::Buffer,
            "d-modsig" => Self::ModsigDigest,
            "modsig" => Self::Modsig,
            _ => return None,
        })
    }

    fn locate(self, bytes: &[u8], range: Range<usize>, found: &mut Fields) -> Option<()> {
        match self {
            Self::Digest => {
                (found.digest_alg, found.digest) = (HashAlg::from_digest_len(bytes.len()), range);
            }
            Self::DigestNg => (found.digest_alg, found.digest) = labelled(bytes, range)?,
            Self::DigestNgV2 => {
                let prefix = bytes.iter().position(|byte| *byte == b':')? + 1;
                found.kind = match &bytes[..prefix] {
                    b"ima:" => DigestKind::Ima,
                    b"verity:" => DigestKind::Verity,
                    _ => return None,
                };
                (found.digest_alg, found.digest) = labelled(&bytes[prefix..], range.start + prefix..range.end)?;
            }
            Self::Name | Self::NameNg => found.name = name(bytes, range)?,
            Self::Signature => found.signature = Some(range),
            Self::Buffer => found.buffer = Some(range),
            Self::ModsigDigest if bytes.is_empty() => found.modsig_digest = None,
            Self::ModsigDigest => found.modsig_digest = Some(labelled(bytes, range)?),
            Self::Modsig => found.modsig = Some(range),
        }
        Some(())
    }
}

impl HashAlg {
    /// The old fields do not say which algorithm: MD5 or SHA-1.
    fn from_digest_len(len: usize) -> Option<Self> {
        (len == 20).then_some(Self::Sha1)
    }
}

/// `algorithm:` zero, digest.
fn labelled(bytes: &[u8], range: Range<usize>) -> Option<(Option<HashAlg>, Range<usize>)> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(bytes[..end].strip_suffix(b":")?).ok()?;
    let digest = range.start + end + 1..range.end;
    let alg = HashAlg::from_name(name);
    let fits = alg.is_none_or(|alg| alg.size() == digest.len());
    (fits && !digest.is_empty()).then_some((alg, digest))
}

/// A name ends with its only zero.
fn name(bytes: &[u8], range: Range<usize>) -> Option<Range<usize>> {
    let (last, text) = bytes.split_last()?;
    (*last == 0 && !text.contains(&0)).then_some(range.start..range.end - 1)
}

fn original(data: &[u8]) -> Option<Fields> {
    if data.len() != ORIGINAL_BYTES {
        return None;
    }
    let text = &data[ORIGINAL_DIGEST..];
    let end = text.iter().position(|byte| *byte == 0)?;
    text[end..].iter().all(|byte| *byte == 0).then(|| Fields {
        name: ORIGINAL_DIGEST..ORIGINAL_DIGEST + end,
        digest: 0..ORIGINAL_DIGEST,
        digest_alg: Some(HashAlg::Sha1),
        ..Fields::default()
    })
}

/// `ima-modsig` has five.
const MAX_FIELDS: usize = 6;
pub(super) const ORIGINAL_DIGEST: usize = 20;
/// Digest, and IMA_EVENT_NAME_LEN_MAX + 1.
pub(super) const ORIGINAL_BYTES: usize = ORIGINAL_DIGEST + 256;

//! IMA measurement lists: what the kernel measured before it was opened, mapped or executed.
//!
//! Formats (Linux, `Documentation/security/IMA-templates.rst` and `security/integrity/ima/ima_fs.c`): the text of
//! `ascii_runtime_measurements` and the records of `binary_runtime_measurements` (integers little-endian). Both are read to the
//! same [`Entry`], whose template data is in the binary form that the kernel hashed.
//!
//! A list is written by the host and can say anything. What is proven is decided by replaying it to a quoted PCR: each entry
//! extends the digest of its template data ([`Entry::template_digest`]), a *violation* (listed with an all-zero digest) extends
//! all ones and proves nothing about its fields.
//!
//! ```
//! use casemate_evidence::ima::{Format, Reader};
//!
//! let list = "10 790ff4fe72889b071a0f7585112710be6d0084fe ima-ng sha1:c90333979f56f38bbd41b81806015b0de502f3cc /bin/sh\n";
//! let mut reader = Reader::new(list.as_bytes(), Format::Ascii);
//! let entry = reader.next_entry()?.unwrap();
//! assert_eq!(entry.name(), b"/bin/sh");
//! assert_eq!(entry.template_digest(entry.listed_alg()).as_slice(), entry.listed().as_slice());
//! # Ok::<_, casemate_evidence::ima::ImaError>(())
//! ```

mod ascii;
mod binary;
mod template;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use self::template::{Field, Template};
use crate::tpm::{Digest, HashAlg};

/// Most bytes of one entry's template data.
pub const MAX_ENTRY_BYTES: usize = 256 << 10;
/// Most bytes of a name: PATH_MAX and what the kernel adds.
pub const MAX_NAME: usize = 4096 + 256;

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `ascii_runtime_measurements`, or the file of another bank.
    Ascii,
    /// `binary_runtime_measurements`, whose digests are of this algorithm: SHA-1, unless it is the file of another bank.
    Binary(HashAlg),
}

/// Reads a list, entry by entry.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    index: u64,
    format: Format,
    /// Template data, where it is not in the list as it was hashed.
    scratch: Vec<u8>,
}

/// One entry.
#[derive(Debug)]
pub struct Entry<'r> {
    pcr: u32,
    listed: Digest,
    listed_alg: HashAlg,
    template: Template,
    data: &'r [u8],
    fields: Fields,
}

/// Where the fields are in the template data.
#[derive(Debug, Clone, Default)]
struct Fields {
    name: Range<usize>,
    digest: Range<usize>,
    digest_alg: Option<HashAlg>,
    kind: DigestKind,
    signature: Option<Range<usize>>,
    buffer: Option<Range<usize>>,
    modsig_digest: Option<(Option<HashAlg>, Range<usize>)>,
    modsig: Option<Range<usize>>,
}

/// What a file's digest is of (`d-ngv2`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DigestKind {
    /// Of its content.
    #[default]
    Ima,
    /// Its fs-verity digest.
    Verity,
}

/// Why bytes are not an IMA list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImaError {
    /// The bytes end inside a field.
    #[error("entry {index} ends inside {field}")]
    Short {
        /// Which entry, from 0.
        index: u64,
        /// The field being read.
        field: &'static str,
    },
    /// A field is not what it must be.
    #[error("entry {index} has a {field} that is not well-formed")]
    Malformed {
        /// Which entry, from 0.
        index: u64,
        /// The field being read.
        field: &'static str,
    },
    /// A field is longer than the limit.
    #[error("entry {index} has a {field} of {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Which entry, from 0.
        index: u64,
        /// The field being read.
        field: &'static str,
        /// Found.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A template that is not known.
    #[error("entry {index} has the template \"{name}\", which is not known")]
    Template {
        /// Which entry, from 0.
        index: u64,
        /// As the list says, escaped.
        name: String,
    },
}

impl<'a> Reader<'a> {
    /// A reader at the start of `list`.
    pub fn new(list: &'a [u8], format: Format) -> Self {
        Self { bytes: list, at: 0, index: 0, format, scratch: Vec::new() }
    }

    /// Bytes read so far: where the next entry begins.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Entries read so far.
    pub fn count(&self) -> u64 {
        self.index
    }

    /// The next entry; `None` at the end of the list.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, ImaError> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let index = self.index;
        let (taken, head, data) = match self.format {
            Format::Ascii => {
                let (taken, head) = ascii::entry(rest, index, &mut self.scratch)?;
                (taken, head, &self.scratch[..])
            }
            Format::Binary(alg) => match binary::entry(rest, alg, index, &mut self.scratch)? {
                (taken, head, Some(data)) => (taken, head, data),
                (taken, head, None) => (taken, head, &self.scratch[..]),
            },
        };
        let fields = head.template.locate(data).ok_or(ImaError::Malformed { index, field: "template data" })?;
        if fields.name.len() > MAX_NAME {
            return Err(ImaError::TooLarge { index, field: "name", size: fields.name.len(), limit: MAX_NAME });
        }
        self.at += taken;
        self.index += 1;
        Ok(Some(Entry { pcr: head.pcr, listed: head.digest, listed_alg: head.alg, template: head.template, data, fields }))
    }
}

impl<'r> Entry<'r> {
    /// The PCR that it went into.
    pub fn pcr(&self) -> u32 {
        self.pcr
    }

    /// The digest of the template data, as listed.
    pub fn listed(&self) -> Digest {
        self.listed
    }

    /// The algorithm of [`Entry::listed`].
    pub fn listed_alg(&self) -> HashAlg {
        self.listed_alg
    }

    /// The file changed while it was measured: the list says nothing about its content.
    pub fn is_violation(&self) -> bool {
        self.listed.is_zero()
    }

    /// Which fields there are.
    pub fn template(&self) -> Template {
        self.template
    }

    /// What the kernel hashed.
    pub fn data(&self) -> &'r [u8] {
        self.data
    }

    /// The digest of the template data by `alg`: what a bank is extended with.
    pub fn template_digest(&self, alg: HashAlg) -> Digest {
        alg.digest(&[self.data])
    }

    /// The path or the name of the event.
    pub fn name(&self) -> &'r [u8] {
        &self.data[self.fields.name.clone()]
    }

    /// The file's (or buffer's) digest.
    pub fn digest(&self) -> &'r [u8] {
        &self.data[self.fields.digest.clone()]
    }

    /// The algorithm of [`Entry::digest`]; `None` for one that is not known here.
    pub fn digest_alg(&self) -> Option<HashAlg> {
        self.fields.digest_alg
    }

    /// What the digest is of.
    pub fn digest_kind(&self) -> DigestKind {
        self.fields.kind
    }

    /// The file's signature (`security.ima`), empty where there was none; `None` where the template has no such field.
    pub fn signature(&self) -> Option<&'r [u8]> {
        self.fields.signature.clone().map(|at| &self.data[at])
    }

    /// The measured buffer, of a template that has one.
    pub fn buffer(&self) -> Option<&'r [u8]> {
        self.fields.buffer.clone().map(|at| &self.data[at])
    }

    /// The digest that an appended signature is over, and its algorithm.
    pub fn modsig_digest(&self) -> Option<(Option<HashAlg>, &'r [u8])> {
        self.fields.modsig_digest.clone().map(|(alg, at)| (alg, &self.data[at]))
    }

    /// The appended signature (PKCS #7).
    pub fn modsig(&self) -> Option<&'r [u8]> {
        self.fields.modsig.clone().map(|at| &self.data[at])
    }
}

/// What stands before the template data.
struct Head {
    pcr: u32,
    digest: Digest,
    alg: HashAlg,
    template: Template,
}

//! Codecs of the TPM 2.0 structures that evidence is made of.
//!
//! Section numbers in the items' docs are those of "TPM 2.0 Library, Part 2: Structures", revision 1.59. All integers are
//! big-endian. Every decoder takes the whole structure: bytes after its end are an error. Only what an attestation key,
//! an endorsement key or a quote may contain is known; everything else is refused by name.
//!
//! Nothing here is checked: a signature that parses may be no signature of anything.

mod alg;
mod attest;
mod digest;
mod pcr;
mod public;
mod signature;
#[cfg(test)]
mod tests;
pub mod wire;

pub use alg::{Curve, HashAlg, alg_id};
pub use attest::{Attest, AttestBody, ClockInfo, MAGIC, st};
pub use digest::Digest;
pub use pcr::{MAX_PCR, PcrSelection, decode_selections, encode_selections, pcr_digest_sha256};
pub use public::{KeyScheme, ObjectAttributes, Public, PublicParams, Symmetric};
pub use signature::Signature;

/// Why bytes are not the TPM structure they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TpmDecodeError {
    /// The bytes end inside a field.
    #[error("{field} ends after {have} of {need} bytes")]
    Short {
        /// The field being read.
        field: &'static str,
        /// Bytes that were needed.
        need: usize,
        /// Bytes that were there.
        have: usize,
    },
    /// A size or count above what the specification (or this code) allows.
    #[error("{field} has size {size}, more than the limit of {limit}")]
    TooLarge {
        /// The field being read.
        field: &'static str,
        /// The size found.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Bytes after the end of the structure.
    #[error("{count} bytes after the end of {structure}")]
    Trailing {
        /// The structure.
        structure: &'static str,
        /// How many.
        count: usize,
    },
    /// Not `TPM_GENERATED_VALUE`: a TPM did not make this itself.
    #[error("attest magic is {found:#010x}, not 0xff544347")]
    Magic {
        /// The value found.
        found: u32,
    },
    /// An algorithm, curve or mode that does not belong here or is not known.
    #[error("{field} {id:#06x} is not supported")]
    Unsupported {
        /// The field being read.
        field: &'static str,
        /// The value found.
        id: u16,
    },
}

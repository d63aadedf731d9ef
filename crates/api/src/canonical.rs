//! Canonical JSON: one byte string for one value (RFC 8785, restricted to integers).
//!
//! `serde_json` writes object members in `BTreeMap` order here (by code point; RFC 8785 sorts by UTF-16 code unit, which
//! differs only beyond the BMP, and our keys are ASCII), no white space, and integers only.

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

/// Why bytes are not the canonical form of a type.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// Too many bytes.
    #[error("{len} bytes are more than the limit of {limit}")]
    TooLong {
        /// Found.
        len: usize,
        /// Allowed.
        limit: usize,
    },
    /// Not JSON of this type.
    #[error("not the expected JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// The same value, but other bytes.
    #[error("the JSON is not in canonical form (sorted members, no white space)")]
    NotCanonical,
}

/// The canonical bytes of `value`.
pub fn to_vec<T: Serialize>(value: &T) -> Vec<u8> {
    // Through `Value`, whose maps are ordered.
    let value = serde_json::to_value(value).expect("wire types always serialise");
    serde_json::to_vec(&value).expect("a JSON value always serialises")
}

/// The value in canonical `bytes`; any other spelling of it is refused.
pub fn from_slice<T: Serialize + DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, CanonicalError> {
    if bytes.len() > limit {
        return Err(CanonicalError::TooLong { len: bytes.len(), limit });
    }
    let value: T = serde_json::from_slice(bytes).map_err(CanonicalError::Json)?;
    if to_vec(&value) == bytes { Ok(value) } else { Err(CanonicalError::NotCanonical) }
}

/// `SHA-256(domain || 0x00 || bytes)`.
pub fn digest(domain: &str, bytes: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(domain.as_bytes());
    hash.update([0]);
    hash.update(bytes);
    hash.finalize().into()
}

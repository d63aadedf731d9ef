//! Signed JSON: `{"payload": "<JSON text>", "signature": "<base64>", "key": "<base64>"}`.
//!
//! The signature is Ed25519 over `domain || payload`; the domain ends with a zero byte and says what the payload is, so that
//! one kind of file never passes for another. The key in the file is a hint for people; the *pinned* key decides.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Largest file, in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// Why a signed file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Too many bytes.
    #[error("the file has {len} bytes, more than the limit of {MAX_BYTES}")]
    TooLong {
        /// Found.
        len: usize,
    },
    /// Not the expected JSON.
    #[error("the file is not the expected JSON")]
    Json(#[source] serde_json::Error),
    /// A field that is not base64 of the right length.
    #[error("field \"{field}\" of the file is not base64 of {len} bytes")]
    Base64 {
        /// Which.
        field: &'static str,
        /// Bytes that it should have.
        len: usize,
    },
    /// Signed by somebody else.
    #[error("the file is signed by key {seen}, the pinned key is {pinned}")]
    OtherKey {
        /// Hex.
        pinned: String,
        /// Hex.
        seen: String,
    },
    /// Not what was signed.
    #[error("the signature on the file is not that of the pinned key")]
    Signature,
    /// The pinned key is none.
    #[error("the pinned key is not an Ed25519 public key")]
    PinnedKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    key: String,
    payload: String,
    signature: String,
}

/// Verifies a file; its payload.
pub(crate) fn open(file: &[u8], pinned_key: &[u8; 32], domain: &[u8]) -> Result<String, EnvelopeError> {
    if file.len() > MAX_BYTES {
        return Err(EnvelopeError::TooLong { len: file.len() });
    }
    let envelope: Envelope = serde_json::from_slice(file).map_err(EnvelopeError::Json)?;
    let seen: [u8; 32] = base64(&envelope.key, "key")?;
    if &seen != pinned_key {
        return Err(EnvelopeError::OtherKey { pinned: hex::encode(pinned_key), seen: hex::encode(seen) });
    }
    let key = VerifyingKey::from_bytes(pinned_key).map_err(|_| EnvelopeError::PinnedKey)?;
    let signature = Signature::from_bytes(&base64(&envelope.signature, "signature")?);
    let signed = [domain, envelope.payload.as_bytes()].concat();
    key.verify_strict(&signed, &signature).map_err(|_| EnvelopeError::Signature)?;
    Ok(envelope.payload)
}

/// Signs a payload; the file.
pub(crate) fn sign(payload: String, key: &SigningKey, domain: &[u8]) -> String {
    let signature = key.sign(&[domain, payload.as_bytes()].concat());
    let (key, signature) = (STANDARD.encode(key.verifying_key().to_bytes()), STANDARD.encode(signature.to_bytes()));
    serde_json::to_string_pretty(&Envelope { key, payload, signature }).expect("text is plain data")
}

fn base64<const N: usize>(text: &str, field: &'static str) -> Result<[u8; N], EnvelopeError> {
    let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(EnvelopeError::Base64 { field, len: N })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_exactly_the_limit_is_read() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let mut file = sign("{}".to_owned(), &key, b"test\0").into_bytes();
        file.resize(MAX_BYTES, b' ');
        let pinned = key.verifying_key().to_bytes();
        assert_eq!(open(&file, &pinned, b"test\0").unwrap(), "{}");
        file.push(b' ');
        assert!(matches!(open(&file, &pinned, b"test\0"), Err(EnvelopeError::TooLong { .. })));
    }
}

//! Strict CBOR and COSE_Sign1, for tokens and manifests.
//!
//! Accepted is only what this encoder would write for the same value: definite lengths, shortest numbers, nothing after the
//! end (RFC 8949, section 4.2.1, without the order of keys), and no key of a map twice.

use ciborium::Value;

/// Deepest nesting.
const MAX_DEPTH: usize = 32;
/// Tag of COSE_Sign1 (RFC 9052, section 2).
const TAG_SIGN1: u64 = 18;

/// Why bytes were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CborError {
    /// Too many.
    #[error("{len} bytes are more than the limit of {limit}")]
    TooLong {
        /// Found.
        len: usize,
        /// Allowed.
        limit: usize,
    },
    /// Not CBOR, or not in its strict form.
    #[error("not CBOR in its deterministic form")]
    Form,
    /// Not what it should be.
    #[error("{what} is not {expected}")]
    Type {
        /// What was read.
        what: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A key that is there twice, or that must not be there.
    #[error("{what} has the key {key}, twice or without being known")]
    Key {
        /// Which map.
        what: &'static str,
        /// Which key.
        key: String,
    },
    /// A key that must be there.
    #[error("{what} lacks the key {key}")]
    Missing {
        /// Which map.
        what: &'static str,
        /// Which key.
        key: i64,
    },
}

/// Decodes one value, within `limit` bytes.
pub(crate) fn decode(bytes: &[u8], limit: usize) -> Result<Value, CborError> {
    if bytes.len() > limit {
        return Err(CborError::TooLong { len: bytes.len(), limit });
    }
    let value: Value = ciborium::de::from_reader_with_recursion_limit(bytes, MAX_DEPTH).map_err(|_| CborError::Form)?;
    // Also finds bytes after the end.
    if encode(&value) == bytes { Ok(value) } else { Err(CborError::Form) }
}

/// Encodes a value.
pub(crate) fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("writing to memory does not fail");
    bytes
}

/// A map with integer keys, each of them known and there once.
pub(crate) struct Fields {
    what: &'static str,
    fields: Vec<(i64, Value)>,
}

impl Fields {
    /// Reads the map `what`, which may have the keys of `known`.
    pub(crate) fn new(value: Value, what: &'static str, known: &[i64]) -> Result<Self, CborError> {
        let map = value.into_map().map_err(|_| CborError::Type { what, expected: "a map" })?;
        let mut fields: Vec<(i64, Value)> = Vec::with_capacity(map.len());
        for (key, value) in map {
            let refused = || CborError::Key { what, key: format!("{key:?}").chars().take(60).collect() };
            let number = key.as_integer().and_then(|key| i64::try_from(key).ok()).ok_or_else(refused)?;
            if !known.contains(&number) || fields.iter().any(|(other, _)| *other == number) {
                return Err(refused());
            }
            fields.push((number, value));
        }
        Ok(Self { what, fields })
    }

    /// The value of a key that may be absent.
    pub(crate) fn optional(&mut self, key: i64) -> Option<Value> {
        let at = self.fields.iter().position(|(other, _)| *other == key)?;
        Some(self.fields.swap_remove(at).1)
    }

    /// The value of a key that must be there.
    pub(crate) fn required(&mut self, key: i64) -> Result<Value, CborError> {
        self.optional(key).ok_or(CborError::Missing { what: self.what, key })
    }
}

pub(crate) fn array(value: Value, what: &'static str) -> Result<Vec<Value>, CborError> {
    value.into_array().map_err(|_| CborError::Type { what, expected: "an array" })
}

pub(crate) fn bytes(value: Value, what: &'static str) -> Result<Vec<u8>, CborError> {
    value.into_bytes().map_err(|_| CborError::Type { what, expected: "bytes" })
}

pub(crate) fn text(value: Value, what: &'static str) -> Result<String, CborError> {
    value.into_text().map_err(|_| CborError::Type { what, expected: "text" })
}

pub(crate) fn unsigned(value: &Value, what: &'static str) -> Result<u64, CborError> {
    let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
    number.ok_or(CborError::Type { what, expected: "an unsigned number" })
}

pub(crate) fn tagged(value: Value, tag: u64, what: &'static str) -> Result<Value, CborError> {
    match value {
        Value::Tag(seen, inner) if seen == tag => Ok(*inner),
        _ => Err(CborError::Type { what, expected: "of its tag" }),
    }
}

/// A map with integer keys.
pub(crate) fn map(fields: Vec<(i64, Value)>) -> Value {
    Value::Map(fields.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// COSE_Sign1 (RFC 9052, section 4.2): tagged, with an empty map of unprotected headers and its payload inside.
pub(crate) struct Sign1 {
    protected: Vec<u8>,
    /// What was signed.
    pub(crate) payload: Vec<u8>,
    /// Raw.
    pub(crate) signature: Vec<u8>,
}

impl Sign1 {
    pub(crate) fn decode(message: &[u8], limit: usize) -> Result<Self, CborError> {
        Self::from_value(decode(message, limit)?)
    }

    fn from_value(value: Value) -> Result<Self, CborError> {
        let parts = array(tagged(value, TAG_SIGN1, "the message")?, "COSE_Sign1")?;
        let Ok([protected, unprotected, payload, signature]) = <[Value; 4]>::try_from(parts) else {
            return Err(CborError::Type { what: "COSE_Sign1", expected: "an array of four" });
        };
        Fields::new(unprotected, "the unprotected headers", &[])?;
        Ok(Self {
            protected: bytes(protected, "the protected headers")?,
            payload: bytes(payload, "the payload")?,
            signature: bytes(signature, "the signature")?,
        })
    }

    /// The protected headers, which may have the keys of `known`.
    pub(crate) fn headers(&self, known: &[i64]) -> Result<Fields, CborError> {
        Fields::new(decode(&self.protected, self.protected.len())?, "the protected headers", known)
    }

    /// Sig_structure (RFC 9052, section 4.4).
    pub(crate) fn signed_bytes(&self) -> Vec<u8> {
        signed_bytes(&self.protected, &self.payload)
    }

    /// Signs `payload` under `headers`.
    pub(crate) fn encode(headers: Vec<(i64, Value)>, payload: Vec<u8>, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let protected = encode(&map(headers));
        let signature = sign(&signed_bytes(&protected, &payload));
        let parts = vec![Value::Bytes(protected), Value::Map(Vec::new()), Value::Bytes(payload), Value::Bytes(signature)];
        encode(&Value::Tag(TAG_SIGN1, Box::new(Value::Array(parts))))
    }
}

fn signed_bytes(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let context = Value::Text("Signature1".to_owned());
    let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
    encode(&Value::Array(vec![context, bytes(protected), bytes(&[]), bytes(payload)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_the_deterministic_form() {
        assert!(decode(&[0x82, 0x01, 0x02], 3).is_ok());
        for (name, bytes) in [
            ("indefinite length", &[0x9f, 0x01, 0xff][..]),
            ("a longer number than needed", &[0x18, 0x01]),
            ("a longer length than needed", &[0x58, 0x01, 0x00]),
            ("bytes after the end", &[0x01, 0x01]),
            ("too short", &[0x82, 0x01]),
            ("nothing", &[]),
            ("a length of 2^63", &[0x5b, 0x80, 0, 0, 0, 0, 0, 0, 0]),
            ("an array of 2^40", &[0x9b, 0, 0, 1, 0, 0, 0, 0, 0]),
        ] {
            assert!(decode(bytes, 64).is_err(), "{name}");
        }
        assert!(decode(&[0x81; 200], 200).is_err(), "too deep");
        assert!(matches!(decode(&[0x01; 3], 2), Err(CborError::TooLong { len: 3, limit: 2 })));
    }

    #[test]
    fn keys_are_known_and_there_once() {
        let fields = |pairs: Vec<(i64, Value)>| Fields::new(map(pairs), "a test", &[1, 2]);
        let mut good = fields(vec![(1, Value::Bool(true))]).unwrap();
        assert_eq!(good.required(1).unwrap(), Value::Bool(true));
        assert!(matches!(good.required(1), Err(CborError::Missing { key: 1, .. })));
        assert!(matches!(fields(vec![(1, Value::Null), (1, Value::Null)]), Err(CborError::Key { .. })));
        assert!(matches!(fields(vec![(3, Value::Null)]), Err(CborError::Key { .. })));
        let text = Value::Map(vec![(Value::Text("1".into()), Value::Null)]);
        assert!(matches!(Fields::new(text, "a test", &[1]), Err(CborError::Key { .. })));
    }
}

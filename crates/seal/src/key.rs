//! Keys that wipe themselves when dropped and never show themselves.

use std::fmt;

use hpke::{Kem as _, Serializable as _, rand_core::CryptoRng};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::suite::{Kem, SecretKey};

/// Why text is not a key. The text itself is never repeated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("read a key: 64 hexadecimal digits expected, found {len} characters or others than digits")]
pub struct KeyError {
    /// Length of what was found.
    len: usize,
}

/// A data encryption key: 32 bytes for one asset, volume or image.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Dek([u8; 32]);

impl Dek {
    /// The key with these bytes. The caller wipes his copy.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut key = Self([0; 32]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// The key in a key file: one line of 64 hexadecimal digits; white space around it is ignored.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        Ok(Self(*from_hex(text)?))
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(&self) -> Zeroizing<String> {
        to_hex(&self.0)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Dek {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Dek {}

impl fmt::Debug for Dek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dek(..)")
    }
}

/// The private half of an X25519 key pair for HPKE, derived from a seed of 32 bytes (RFC 9180, DeriveKeyPair).
#[derive(Clone)]
pub struct HpkeSecret {
    seed: Zeroizing<[u8; 32]>,
    // Wipes itself.
    secret: SecretKey,
    public: [u8; 32],
}

impl HpkeSecret {
    /// The key pair of `seed`, which must be random and secret.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let (secret, key) = Kem::derive_keypair(seed.as_slice());
        let mut public = [0; 32];
        key.write_exact(&mut public);
        Self { seed, secret, public }
    }

    /// A fresh key pair.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut_slice());
        Self::from_seed(*seed)
    }

    /// From what [`to_hex`](Self::to_hex) wrote.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        Ok(Self::from_seed(*from_hex(text)?))
    }

    /// The seed, as 64 hexadecimal digits, for a file that only its owner reads.
    pub fn to_hex(&self) -> Zeroizing<String> {
        to_hex(&self.seed)
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    pub(crate) fn secret(&self) -> &SecretKey {
        &self.secret
    }
}

impl fmt::Debug for HpkeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HpkeSecret(public {})", hex::encode(self.public))
    }
}

fn from_hex(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let text = text.trim();
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text, bytes.as_mut_slice()).map_err(|_| KeyError { len: text.len() })?;
    Ok(bytes)
}

fn to_hex(bytes: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_read_back_as_it_was_written() {
        let key = Dek::from_bytes([0xab; 32]);
        assert_eq!(Dek::from_hex(&format!("{}\n", *key.to_hex())), Ok(key));
        let pair = HpkeSecret::from_seed([7; 32]);
        assert_eq!(HpkeSecret::from_hex(&pair.to_hex()).unwrap().public(), pair.public());
    }

    #[test]
    fn refuses_text_that_is_not_a_key_without_repeating_it() {
        for text in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65), &"a".repeat(66)] {
            let error = Dek::from_hex(text).unwrap_err();
            assert!(!error.to_string().contains("aaaa"), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = "5a".repeat(32);
        assert!(!format!("{:?}", Dek::from_hex(&secret).unwrap()).contains("5a5a"));
        let pair = format!("{:?}", HpkeSecret::from_hex(&secret).unwrap());
        assert!(!pair.contains("5a5a") && !pair.contains("90, 90"), "{pair}");
    }

    #[test]
    fn keys_are_equal_by_their_bytes() {
        assert_eq!(Dek::from_bytes([1; 32]), Dek::from_bytes([1; 32]));
        assert_ne!(Dek::from_bytes([1; 32]), Dek::from_bytes([2; 32]));
    }
}

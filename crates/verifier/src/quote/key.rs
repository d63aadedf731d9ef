//! Public keys of a TPM, and signatures by them.

use casemate_evidence::tpm::{Curve, HashAlg, KeyScheme, PublicParams, Signature, Symmetric};
use rsa::{BoxedUint, RsaPublicKey};

use super::{KeyError, QuoteError};
use crate::signature::{self, Hash, Salt};

/// A public key of one of the kinds that are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    P256(p256::PublicKey),
    P384(p384::PublicKey),
    Rsa(RsaPublicKey),
}

/// A key with the scheme that it is bound to.
#[derive(Debug, Clone)]
pub(super) struct Verifier {
    key: Key,
    scheme: Scheme,
    hash: Hash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Ecdsa,
    Rsassa,
    Rsapss,
}

impl Verifier {
    pub(super) fn new(params: &PublicParams) -> Result<Self, KeyError> {
        let (scheme, hash) = match params {
            PublicParams::Ecc { symmetric: Symmetric::Null, scheme: KeyScheme::Ecdsa(hash), .. } => (Scheme::Ecdsa, *hash),
            PublicParams::Rsa { symmetric: Symmetric::Null, scheme: KeyScheme::Rsassa(hash), .. } => (Scheme::Rsassa, *hash),
            PublicParams::Rsa { symmetric: Symmetric::Null, scheme: KeyScheme::Rsapss(hash), .. } => (Scheme::Rsapss, *hash),
            PublicParams::Ecc { .. } | PublicParams::Rsa { .. } => return Err(KeyError::Scheme),
        };
        // SHA-1 signs nothing here, and no machine is known whose keys are bound to SHA-512.
        let hash = accepted(hash).ok_or(KeyError::Scheme)?;
        Ok(Self { key: Key::from_params(params)?, scheme, hash })
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// The hash of the scheme, if `signature` is this key's on `message`.
    pub(super) fn verify(&self, message: &[u8], signature: &Signature) -> Result<HashAlg, QuoteError> {
        let (scheme, hash) = match signature {
            Signature::Ecdsa { hash, .. } => (Scheme::Ecdsa, *hash),
            Signature::Rsassa { hash, .. } => (Scheme::Rsassa, *hash),
            Signature::Rsapss { hash, .. } => (Scheme::Rsapss, *hash),
        };
        if scheme != self.scheme || accepted(hash) != Some(self.hash) {
            return Err(QuoteError::Scheme);
        }
        let good = match (&self.key, signature) {
            (Key::P256(key), Signature::Ecdsa { r, s, .. }) => p256_signed(key, self.hash, message, r, s).unwrap_or(false),
            (Key::P384(key), Signature::Ecdsa { r, s, .. }) => p384_signed(key, self.hash, message, r, s).unwrap_or(false),
            (Key::Rsa(key), Signature::Rsassa { sig, .. }) => signature::rsa_pkcs1(key, self.hash, message, sig),
            // TPMs differ in the length of the salt: as long as fits, or as long as the digest.
            (Key::Rsa(key), Signature::Rsapss { sig, .. }) => signature::rsa_pss(key, self.hash, Salt::Any, message, sig),
            (Key::P256(_) | Key::P384(_) | Key::Rsa(_), _) => return Err(QuoteError::Scheme),
        };
        if good { Ok(hash) } else { Err(QuoteError::Signature) }
    }
}

impl Key {
    fn from_params(params: &PublicParams) -> Result<Self, KeyError> {
        let key = match params {
            PublicParams::Ecc { curve: Curve::P256, x, y, .. } => p256_point(x, y).map(Self::P256),
            PublicParams::Ecc { curve: Curve::P384, x, y, .. } => p384_point(x, y).map(Self::P384),
            PublicParams::Ecc { curve: Curve::P521, .. } => return Err(KeyError::Scheme),
            PublicParams::Rsa { bits, exponent, n, .. } => rsa_key(n, *bits, *exponent).map(Self::Rsa),
        };
        key.ok_or(KeyError::Numbers)
    }
}

/// A point of P-256 from coordinates that may lack leading zeros.
pub(crate) fn p256_point(x: &[u8], y: &[u8]) -> Option<p256::PublicKey> {
    let encoded = [&[0x04][..], &padded::<32>(x)?, &padded::<32>(y)?].concat();
    p256::PublicKey::from_sec1_bytes(&encoded).ok()
}

/// A point of P-384 from coordinates that may lack leading zeros.
pub(crate) fn p384_point(x: &[u8], y: &[u8]) -> Option<p384::PublicKey> {
    let encoded = [&[0x04][..], &padded::<48>(x)?, &padded::<48>(y)?].concat();
    p384::PublicKey::from_sec1_bytes(&encoded).ok()
}

/// An RSA key of exactly `bits`; exponent 0 stands for 65537.
pub(crate) fn rsa_key(n: &[u8], bits: u16, exponent: u32) -> Option<RsaPublicKey> {
    if n.len() * 8 != usize::from(bits) || n.first()? & 0x80 == 0 {
        return None;
    }
    let exponent = if exponent == 0 { 65537 } else { exponent };
    RsaPublicKey::new(BoxedUint::from_be_slice(n, u32::from(bits)).ok()?, BoxedUint::from(u64::from(exponent))).ok()
}

/// The hash of a scheme, if it is one that may sign.
fn accepted(hash: HashAlg) -> Option<Hash> {
    match hash {
        HashAlg::Sha256 => Some(Hash::Sha256),
        HashAlg::Sha384 => Some(Hash::Sha384),
        HashAlg::Sha1 | HashAlg::Sha512 => None,
    }
}

/// `None` where the numbers are not those of a signature.
fn p256_signed(key: &p256::PublicKey, hash: Hash, message: &[u8], r: &[u8], s: &[u8]) -> Option<bool> {
    let signature = p256::ecdsa::Signature::from_scalars(padded::<32>(r)?, padded::<32>(s)?).ok()?;
    Some(signature::p256(&(*key).into(), hash, message, &signature))
}

/// `None` where the numbers are not those of a signature.
fn p384_signed(key: &p384::PublicKey, hash: Hash, message: &[u8], r: &[u8], s: &[u8]) -> Option<bool> {
    let signature = p384::ecdsa::Signature::from_scalars(padded::<48>(r)?, padded::<48>(s)?).ok()?;
    Some(signature::p384(&(*key).into(), hash, message, &signature))
}

/// As many bytes as a number of the curve has, zeros first.
fn padded<const N: usize>(number: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    out[N.checked_sub(number.len())?..].copy_from_slice(number);
    Some(out)
}

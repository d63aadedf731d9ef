//! The key in a certificate, of the kinds that a TPM has.

use p256::pkcs8::DecodePublicKey as _;
use rsa::{RsaPublicKey, traits::PublicKeyParts as _};

use super::Certificate;
use crate::quote::Key;

/// The public key of `certificate`, if it is RSA of 2048, 3072 or 4096 bits, or ECC P-256 or P-384.
pub(crate) fn public_key(certificate: &Certificate) -> Option<Key> {
    let der = certificate.key_der().ok()?;
    let rsa = RsaPublicKey::from_public_key_der(&der).ok().filter(|key| matches!(key.n().bits_vartime(), 2048 | 3072 | 4096));
    rsa.map(Key::Rsa)
        .or_else(|| p256::PublicKey::from_public_key_der(&der).ok().map(Key::P256))
        .or_else(|| p384::PublicKey::from_public_key_der(&der).ok().map(Key::P384))
}

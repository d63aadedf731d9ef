//! The arithmetic of ECDSA and RSA signatures, in this one place.
//!
//! RustCrypto decodes keys and signatures and so judges their form: points on the curve, numbers in range, strict DER. Only what
//! has such a type comes here, and ring does the rest, in a fraction of the time, after it judged the form once more. What ring
//! lacks stays with RustCrypto. `docs/adr/0005-signature-arithmetic-by-ring.md` has the figures and the reasons.

use ring::signature::{self, EcdsaVerificationAlgorithm, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use rsa::{RsaPublicKey, pss, signature::Verifier as _, traits::PublicKeyParts as _};
use sha2::{Sha256, Sha384};

/// A hash that a signature may be over. There is no weaker one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
}

/// How many bytes of salt an RSASSA-PSS signature has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Salt {
    /// As many as the digest has.
    Digest,
    /// As many as the signature says.
    Any,
}

/// `key` signed the digest of `message`.
pub(crate) fn p256(key: &p256::ecdsa::VerifyingKey, hash: Hash, message: &[u8], signature: &p256::ecdsa::Signature) -> bool {
    let algorithm = match hash {
        Hash::Sha256 => &signature::ECDSA_P256_SHA256_ASN1,
        Hash::Sha384 => &signature::ECDSA_P256_SHA384_ASN1,
    };
    ecdsa(algorithm, key.to_sec1_point(false).as_bytes(), message, signature.to_der().as_bytes())
}

/// `key` signed the digest of `message`.
pub(crate) fn p384(key: &p384::ecdsa::VerifyingKey, hash: Hash, message: &[u8], signature: &p384::ecdsa::Signature) -> bool {
    let algorithm = match hash {
        Hash::Sha256 => &signature::ECDSA_P384_SHA256_ASN1,
        Hash::Sha384 => &signature::ECDSA_P384_SHA384_ASN1,
    };
    ecdsa(algorithm, key.to_sec1_point(false).as_bytes(), message, signature.to_der().as_bytes())
}

/// `key` signed the digest of `message` by RSASSA-PKCS1-v1_5. The size of the key is for the caller to judge.
pub(crate) fn rsa_pkcs1(key: &RsaPublicKey, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
    let parameters = match hash {
        Hash::Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Hash::Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
    };
    rsa(parameters, key, message, signature)
}

/// `key` signed the digest of `message` by RSASSA-PSS, with the same hash in MGF1. The size of the key is for the caller to judge.
pub(crate) fn rsa_pss(key: &RsaPublicKey, hash: Hash, salt: Salt, message: &[u8], signature: &[u8]) -> bool {
    match (salt, hash) {
        (Salt::Digest, Hash::Sha256) => rsa(&signature::RSA_PSS_2048_8192_SHA256, key, message, signature),
        (Salt::Digest, Hash::Sha384) => rsa(&signature::RSA_PSS_2048_8192_SHA384, key, message, signature),
        // ring knows one length of the salt only.
        (Salt::Any, _) => pss::Signature::try_from(signature).is_ok_and(|signature| any_salt(key, hash, message, &signature)),
    }
}

fn ecdsa(algorithm: &'static EcdsaVerificationAlgorithm, point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
}

fn rsa(parameters: &'static RsaParameters, key: &RsaPublicKey, message: &[u8], signature: &[u8]) -> bool {
    let components = RsaPublicKeyComponents { n: key.n_bytes(), e: key.e_bytes() };
    components.verify(parameters, message, signature).is_ok()
}

fn any_salt(key: &RsaPublicKey, hash: Hash, message: &[u8], signature: &pss::Signature) -> bool {
    let key = key.clone();
    match hash {
        Hash::Sha256 => pss::VerifyingKey::<Sha256>::new_with_auto_salt_len(key).verify(message, signature).is_ok(),
        Hash::Sha384 => pss::VerifyingKey::<Sha384>::new_with_auto_salt_len(key).verify(message, signature).is_ok(),
    }
}

#[cfg(test)]
mod tests;

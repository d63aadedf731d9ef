//! Signatures on certificates and revocation lists.

use rsa::{
    RsaPublicKey,
    pkcs1::RsaPssParams,
    pkcs8::{DecodePublicKey as _, spki::AlgorithmIdentifierOwned},
    traits::PublicKeyParts as _,
};
use x509_cert::der::{
    Decode as _, Encode as _,
    asn1::{Any, ObjectIdentifier},
    oid::db::rfc5912 as oid,
};

use crate::signature::{self, Hash, Salt};

/// Why something is not signed by its issuer.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// An algorithm outside the list.
    #[error("signature algorithm {oid} is not accepted here")]
    Algorithm {
        /// Which.
        oid: ObjectIdentifier,
    },
    /// A key of the wrong kind or size for the algorithm.
    #[error("the issuer's public key is not one of the kind and size that signature algorithm {oid} needs")]
    Key {
        /// The algorithm.
        oid: ObjectIdentifier,
    },
    /// It does not verify.
    #[error("the signature is not the issuer's")]
    Wrong,
}

/// A signature algorithm that some chain may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    RsaSha256,
    RsaSha384,
    /// RSASSA-PSS with SHA-384 as digest and in MGF1, and 48 bytes of salt.
    RsaPssSha384,
    EcdsaSha256,
    EcdsaSha384,
}

impl Algorithm {
    /// What vendors of TPMs use.
    pub(crate) const TPM: &[Self] = &[Self::RsaSha256, Self::RsaSha384, Self::EcdsaSha256, Self::EcdsaSha384];

    const fn oid(self) -> ObjectIdentifier {
        match self {
            Self::RsaSha256 => oid::SHA_256_WITH_RSA_ENCRYPTION,
            Self::RsaSha384 => oid::SHA_384_WITH_RSA_ENCRYPTION,
            Self::RsaPssSha384 => oid::ID_RSASSA_PSS,
            Self::EcdsaSha256 => oid::ECDSA_WITH_SHA_256,
            Self::EcdsaSha384 => oid::ECDSA_WITH_SHA_384,
        }
    }

    /// The algorithm of `identifier`, if it is one of `accepted` with the parameters that it must have.
    fn of(identifier: &AlgorithmIdentifierOwned, accepted: &[Self]) -> Result<Self, SignatureError> {
        let oid = identifier.oid;
        let found = accepted.iter().copied().find(|accepted| accepted.oid() == oid).ok_or(SignatureError::Algorithm { oid })?;
        match found {
            Self::RsaPssSha384 if !is_pss_sha384(identifier) => Err(SignatureError::Algorithm { oid }),
            Self::RsaPssSha384 | Self::RsaSha256 | Self::RsaSha384 | Self::EcdsaSha256 | Self::EcdsaSha384 => Ok(found),
        }
    }
}

/// `message` has `signature` by the key `issuer` (DER of a SubjectPublicKeyInfo), made with one of `accepted`.
pub(crate) fn verify(
    identifier: &AlgorithmIdentifierOwned,
    message: &[u8],
    signature: &[u8],
    issuer: &[u8],
    accepted: &[Algorithm],
) -> Result<(), SignatureError> {
    let oid = identifier.oid;
    let rsa = || rsa_key(issuer).ok_or(SignatureError::Key { oid });
    let good = match Algorithm::of(identifier, accepted)? {
        Algorithm::RsaSha256 => signature::rsa_pkcs1(&rsa()?, Hash::Sha256, message, signature),
        Algorithm::RsaSha384 => signature::rsa_pkcs1(&rsa()?, Hash::Sha384, message, signature),
        Algorithm::RsaPssSha384 => signature::rsa_pss(&rsa()?, Hash::Sha384, Salt::Digest, message, signature),
        Algorithm::EcdsaSha256 => ecdsa(issuer, oid, Hash::Sha256, message, signature)?,
        Algorithm::EcdsaSha384 => ecdsa(issuer, oid, Hash::Sha384, message, signature)?,
    };
    if good { Ok(()) } else { Err(SignatureError::Wrong) }
}

fn is_pss_sha384(identifier: &AlgorithmIdentifierOwned) -> bool {
    let Some(der) = identifier.parameters.as_ref().and_then(|any| any.to_der().ok()) else {
        return false;
    };
    RsaPssParams::<Any>::from_der(&der).is_ok_and(|params| {
        params.hash.oid == oid::ID_SHA_384
            && params.mask_gen.oid == oid::ID_MGF_1
            && params.mask_gen.parameters.is_some_and(|hash| hash.oid == oid::ID_SHA_384)
            && usize::from(params.salt_len) == SALT_LEN
    })
}

fn rsa_key(der: &[u8]) -> Option<RsaPublicKey> {
    RsaPublicKey::from_public_key_der(der).ok().filter(|key| (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&key.n().bits_vartime()))
}

/// The curve is the key's: P-256 or P-384.
fn ecdsa(key: &[u8], oid: ObjectIdentifier, hash: Hash, message: &[u8], signature: &[u8]) -> Result<bool, SignatureError> {
    if let Ok(key) = p256::ecdsa::VerifyingKey::from_public_key_der(key) {
        let signature = p256::ecdsa::Signature::from_der(signature).map_err(|_| SignatureError::Wrong)?;
        return Ok(signature::p256(&key, hash, message, &signature));
    }
    let key = p384::ecdsa::VerifyingKey::from_public_key_der(key).map_err(|_| SignatureError::Key { oid })?;
    let signature = p384::ecdsa::Signature::from_der(signature).map_err(|_| SignatureError::Wrong)?;
    Ok(signature::p384(&key, hash, message, &signature))
}

const MIN_RSA_BITS: u32 = 2048;
const MAX_RSA_BITS: u32 = 4096;
/// That of the digest.
const SALT_LEN: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
    }

    /// RSASSA-PSS-params.
    fn of(
        hash: ObjectIdentifier,
        mask: ObjectIdentifier,
        mask_hash: ObjectIdentifier,
        salt: u8,
    ) -> Result<Algorithm, SignatureError> {
        let named = |oid: ObjectIdentifier, parameter: &[u8]| tlv(0x30, &[&tlv(6, oid.as_bytes()), parameter].concat());
        let mask = named(mask, &named(mask_hash, &[5, 0]));
        let parts = [tlv(0xa0, &named(hash, &[5, 0])), tlv(0xa1, &mask), tlv(0xa2, &tlv(2, &[salt]))];
        let parameters = Some(Any::from_der(&tlv(0x30, &parts.concat())).unwrap());
        Algorithm::of(&AlgorithmIdentifierOwned { oid: oid::ID_RSASSA_PSS, parameters }, &[Algorithm::RsaPssSha384])
    }

    #[test]
    fn each_parameter_of_pss_must_be_the_one_that_is_verified_with() {
        let (sha384, sha256, mgf1) = (oid::ID_SHA_384, oid::ID_SHA_256, oid::ID_MGF_1);
        assert!(matches!(of(sha384, mgf1, sha384, 48), Ok(Algorithm::RsaPssSha384)));
        for refused in [
            of(sha256, mgf1, sha384, 48),
            of(sha384, sha384, sha384, 48),
            of(sha384, mgf1, sha256, 48),
            of(sha384, mgf1, sha384, 32),
        ] {
            assert!(matches!(refused, Err(SignatureError::Algorithm { .. })), "{refused:?}");
        }
        let bare = AlgorithmIdentifierOwned { oid: oid::ID_RSASSA_PSS, parameters: None };
        assert!(Algorithm::of(&bare, &[Algorithm::RsaPssSha384]).is_err());
    }
}

//! Signatures on certificates.

use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use rsa::{RsaPublicKey, pkcs1v15, pkcs8::DecodePublicKey as _, traits::PublicKeyParts as _};
use sha2::{Digest as _, Sha256, Sha384};
use x509_cert::der::{asn1::ObjectIdentifier, oid::db::rfc5912 as oid};

use super::Certificate;

/// Why a certificate is not signed by its issuer.
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
    EcdsaSha256,
    EcdsaSha384,
}

impl Algorithm {
    pub(crate) const ALL: &[Self] = &[Self::RsaSha256, Self::RsaSha384, Self::EcdsaSha256, Self::EcdsaSha384];

    const fn oid(self) -> ObjectIdentifier {
        match self {
            Self::RsaSha256 => oid::SHA_256_WITH_RSA_ENCRYPTION,
            Self::RsaSha384 => oid::SHA_384_WITH_RSA_ENCRYPTION,
            Self::EcdsaSha256 => oid::ECDSA_WITH_SHA_256,
            Self::EcdsaSha384 => oid::ECDSA_WITH_SHA_384,
        }
    }
}

/// `issuer` signed `certificate` with one of `accepted`.
pub(crate) fn verify(certificate: &Certificate, issuer: &Certificate, accepted: &[Algorithm]) -> Result<(), SignatureError> {
    let oid = certificate.parsed().signature_algorithm().oid;
    let algorithm = accepted.iter().find(|accepted| accepted.oid() == oid).ok_or(SignatureError::Algorithm { oid })?;
    let key = issuer.key_der().map_err(|_| SignatureError::Key { oid })?;
    let signature = certificate.parsed().signature().as_bytes().ok_or(SignatureError::Wrong)?;
    let message = certificate.signed_bytes();
    match algorithm {
        Algorithm::RsaSha256 => {
            let key = pkcs1v15::VerifyingKey::<Sha256>::new(rsa_key(&key).ok_or(SignatureError::Key { oid })?);
            verify_rsa(&key, &Sha256::digest(message), signature)
        }
        Algorithm::RsaSha384 => {
            let key = pkcs1v15::VerifyingKey::<Sha384>::new(rsa_key(&key).ok_or(SignatureError::Key { oid })?);
            verify_rsa(&key, &Sha384::digest(message), signature)
        }
        Algorithm::EcdsaSha256 => verify_ecdsa(&key, oid, &Sha256::digest(message), signature),
        Algorithm::EcdsaSha384 => verify_ecdsa(&key, oid, &Sha384::digest(message), signature),
    }
}

fn rsa_key(der: &[u8]) -> Option<RsaPublicKey> {
    RsaPublicKey::from_public_key_der(der).ok().filter(|key| (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&key.n().bits_vartime()))
}

fn verify_rsa<K>(key: &K, digest: &[u8], signature: &[u8]) -> Result<(), SignatureError>
where
    K: rsa::signature::hazmat::PrehashVerifier<pkcs1v15::Signature>,
{
    let signature = pkcs1v15::Signature::try_from(signature).map_err(|_| SignatureError::Wrong)?;
    key.verify_prehash(digest, &signature).map_err(|_| SignatureError::Wrong)
}

/// The curve is the key's: P-256 or P-384.
fn verify_ecdsa(key: &[u8], oid: ObjectIdentifier, digest: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    if let Ok(key) = p256::ecdsa::VerifyingKey::from_public_key_der(key) {
        let signature = p256::ecdsa::Signature::from_der(signature).map_err(|_| SignatureError::Wrong)?;
        return key.verify_prehash(digest, &signature).map_err(|_| SignatureError::Wrong);
    }
    let key = p384::ecdsa::VerifyingKey::from_public_key_der(key).map_err(|_| SignatureError::Key { oid })?;
    let signature = p384::ecdsa::Signature::from_der(signature).map_err(|_| SignatureError::Wrong)?;
    key.verify_prehash(digest, &signature).map_err(|_| SignatureError::Wrong)
}

const MIN_RSA_BITS: u32 = 2048;
const MAX_RSA_BITS: u32 = 4096;

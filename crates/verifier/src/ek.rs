//! Endorsement keys: is this a TPM of a vendor that the relying party pinned?

use casemate_evidence::tpm::{Curve, HashAlg, Public, PublicParams, Symmetric, TpmDecodeError};

use crate::{
    anchors::TrustAnchors,
    quote::{Key, p256_point, p384_point, rsa_key},
    time::UnixTime,
    x509::{PathError, Profile, public_key, verify_path},
};

/// Why an endorsement key is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum EkError {
    /// No path to a vendor root.
    #[error("verify the EK certificate against the pinned TPM vendor roots")]
    Path(#[source] PathError),
    /// A key that no credential can be made for.
    #[error("the EK certificate's key is neither RSA of 2048 to 4096 bits nor ECC P-256 or P-384")]
    KeyKind,
    /// The public area does not decode.
    #[error("read the public area of the EK")]
    PublicArea(#[source] TpmDecodeError),
    /// The public area is not that of an endorsement key.
    #[error("the public area is not that of an endorsement key: {problem}")]
    Template {
        /// What is wrong.
        problem: &'static str,
    },
    /// The public area is of another key than the certificate.
    #[error("the public area is of another key than the EK certificate")]
    OtherKey,
}

/// An EK certificate with a verified path to a pinned vendor root.
#[derive(Debug)]
pub struct VerifiedEk {
    certificate: [u8; 32],
    root_subject: String,
    root_fingerprint: [u8; 32],
    simulated: bool,
    key: Key,
}

/// An endorsement key that a credential can be made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EkPublic {
    pub(crate) key: Key,
    pub(crate) protection: Protection,
}

/// How an endorsement key protects a credential: the algorithms of its template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// SHA-256 and AES-128: templates L-1, L-2, H-1, H-2.
    Sha256Aes128,
    /// SHA-384 and AES-256: templates H-3, H-6.
    Sha384Aes256,
}

/// Verifies an EK certificate, DER, leaf first, with or without the root.
pub fn verify_chain(chain: &[Vec<u8>], anchors: &TrustAnchors, now: UnixTime) -> Result<VerifiedEk, EkError> {
    let path = verify_path(chain, anchors.vendors(), &Profile::EK, now).map_err(EkError::Path)?;
    Ok(VerifiedEk {
        certificate: path.leaf.fingerprint(),
        root_subject: path.anchor.certificate.subject(),
        root_fingerprint: path.anchor.certificate.fingerprint(),
        simulated: path.anchor.simulated,
        key: public_key(&path.leaf).ok_or(EkError::KeyKind)?,
    })
}

impl VerifiedEk {
    /// SHA-256 of the certificate, as it goes into the node certificate.
    pub fn certificate_digest(&self) -> [u8; 32] {
        self.certificate
    }

    /// Whether its root is a simulator's.
    pub fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// Subject of the root.
    pub fn root_subject(&self) -> &str {
        &self.root_subject
    }

    /// SHA-256 of the root.
    pub fn root_fingerprint(&self) -> [u8; 32] {
        self.root_fingerprint
    }

    /// The key for [`make_credential`](crate::credential::make_credential), if `tpmt_public`, which the node sent, is of this
    /// certificate's key and of the kind that [`make_credential`](crate::credential::make_credential) assumes: the templates of
    /// the low and the high range ("TCG EK Credential Profile", annex B) with SHA-256 and AES-128 or SHA-384 and AES-256.
    pub fn public_area(&self, tpmt_public: &[u8]) -> Result<EkPublic, EkError> {
        let public = Public::parse(tpmt_public).map_err(EkError::PublicArea)?;
        let a = public.attributes;
        let held = a.fixed_tpm() && a.fixed_parent() && a.sensitive_data_origin() && a.is_restricted();
        if !held || !a.is_decrypt() || a.is_sign() {
            let problem = "it must be fixedTPM, fixedParent, sensitiveDataOrigin, restricted, decrypt and not sign";
            return Err(EkError::Template { problem });
        }
        let (symmetric, key) = match &public.params {
            PublicParams::Rsa { symmetric, bits, exponent, n, .. } => (symmetric, rsa_key(n, *bits, *exponent).map(Key::Rsa)),
            PublicParams::Ecc { symmetric, curve: Curve::P256, x, y, .. } => (symmetric, p256_point(x, y).map(Key::P256)),
            PublicParams::Ecc { symmetric, curve: Curve::P384, x, y, .. } => (symmetric, p384_point(x, y).map(Key::P384)),
            PublicParams::Ecc { curve: Curve::P521, .. } => {
                return Err(EkError::Template { problem: "its curve must be P-256 or P-384" });
            }
        };
        let protection = match (public.name_alg, symmetric) {
            (HashAlg::Sha256, Symmetric::AesCfb { bits: 128 }) => Protection::Sha256Aes128,
            (HashAlg::Sha384, Symmetric::AesCfb { bits: 256 }) => Protection::Sha384Aes256,
            (_, Symmetric::AesCfb { .. } | Symmetric::Null) => {
                let problem = "its algorithms must be SHA-256 with AES-128-CFB or SHA-384 with AES-256-CFB";
                return Err(EkError::Template { problem });
            }
        };
        match key.filter(|key| *key == self.key) {
            Some(key) => Ok(EkPublic { key, protection }),
            None => Err(EkError::OtherKey),
        }
    }
}

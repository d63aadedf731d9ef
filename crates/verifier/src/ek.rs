//! Endorsement keys: is this a TPM of a vendor that the relying party pinned?

use casemate_evidence::tpm::{Curve, HashAlg, Public, PublicParams, Symmetric, TpmDecodeError};
use p256::pkcs8::DecodePublicKey as _;
use rsa::{RsaPublicKey, traits::PublicKeyParts as _};

use crate::{
    anchors::TrustAnchors,
    quote::{p256_point, rsa_2048},
    time::UnixTime,
    x509::{PathError, Profile, verify_path},
};

/// Why an endorsement key is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum EkError {
    /// No path to a vendor root.
    #[error("verify the EK certificate against the pinned TPM vendor roots")]
    Path(#[source] PathError),
    /// A key that no credential can be made for.
    #[error("the EK certificate's key is neither RSA-2048 nor ECC P-256")]
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
    key: EkPublic,
}

/// An endorsement key that a credential can be made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EkPublic(pub(crate) EkKey);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EkKey {
    Rsa(RsaPublicKey),
    P256(p256::PublicKey),
}

/// Verifies an EK certificate, DER, leaf first, with or without the root.
pub fn verify_chain(chain: &[Vec<u8>], anchors: &TrustAnchors, now: UnixTime) -> Result<VerifiedEk, EkError> {
    let path = verify_path(chain, anchors.vendors(), &Profile::EK, now).map_err(EkError::Path)?;
    let der = path.leaf.key_der().map_err(|_| EkError::KeyKind)?;
    let rsa = RsaPublicKey::from_public_key_der(&der).ok().filter(|key| key.n().bits_vartime() == 2048).map(EkKey::Rsa);
    let key = rsa.or_else(|| p256::PublicKey::from_public_key_der(&der).ok().map(EkKey::P256)).ok_or(EkError::KeyKind)?;
    Ok(VerifiedEk {
        certificate: path.leaf.fingerprint(),
        root_subject: path.anchor.certificate.subject(),
        root_fingerprint: path.anchor.certificate.fingerprint(),
        simulated: path.anchor.simulated,
        key: EkPublic(key),
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
    /// certificate's key and of the kind that [`make_credential`](crate::credential::make_credential) assumes: the default EK
    /// templates L-1 and L-2 and whatever has the same algorithms.
    pub fn public_area(&self, tpmt_public: &[u8]) -> Result<EkPublic, EkError> {
        let public = Public::parse(tpmt_public).map_err(EkError::PublicArea)?;
        let a = public.attributes;
        let held = a.fixed_tpm() && a.fixed_parent() && a.sensitive_data_origin() && a.is_restricted();
        if !held || !a.is_decrypt() || a.is_sign() {
            let problem = "it must be fixedTPM, fixedParent, sensitiveDataOrigin, restricted, decrypt and not sign";
            return Err(EkError::Template { problem });
        }
        if public.name_alg != HashAlg::Sha256 {
            return Err(EkError::Template { problem: "its name algorithm must be SHA-256" });
        }
        let key = match &public.params {
            PublicParams::Rsa { symmetric: AES_128, bits: 2048, exponent, n, .. } => rsa_2048(n, *exponent).map(EkKey::Rsa),
            PublicParams::Ecc { symmetric: AES_128, curve: Curve::P256, x, y, .. } => p256_point(x, y).map(EkKey::P256),
            PublicParams::Rsa { .. } | PublicParams::Ecc { .. } => {
                return Err(EkError::Template { problem: "it must be RSA-2048 or ECC P-256 with AES-128-CFB" });
            }
        };
        if key.as_ref() == Some(&self.key.0) { Ok(self.key.clone()) } else { Err(EkError::OtherKey) }
    }
}

const AES_128: Symmetric = Symmetric::AesCfb { bits: 128 };

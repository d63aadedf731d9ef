//! The node certificate: what the platform says about a node after a passing appraisal.

use x509_cert::der::{Encode as _, asn1::ObjectIdentifier, asn1::OctetStringRef};

use crate::{
    anchors::TrustAnchors,
    time::UnixTime,
    x509::{CertificateError, PathError, Profile, verify_path},
};

/// Extension with the TPM name of the node's attestation key. These three are of the project's own arc; the same numbers
/// stand in the wire definitions.
pub const AK_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.1.1");
/// Extension with the node's Ed25519 receipt key (32 bytes).
pub const RECEIPT_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.1.2");
/// Extension with the SHA-256 of the TPM's EK certificate (32 bytes).
pub const EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.1.3");

/// The value of one of these extensions, for whoever issues the certificate: a DER OCTET STRING of `content`.
pub fn extension_value(content: &[u8]) -> Vec<u8> {
    OctetStringRef::new(content).and_then(|octets| octets.to_der()).expect("a few bytes always have an encoding")
}

/// Why a node certificate is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum NodeCertificateError {
    /// No path to the platform CA.
    #[error("verify the node certificate against the pinned platform CA")]
    Path(#[source] PathError),
    /// An extension is absent or wrong.
    #[error("read what the node certificate says about the node")]
    Content(#[source] CertificateError),
    /// An extension of the wrong length.
    #[error("the {what} in the node certificate has {len} bytes")]
    Length {
        /// What it holds.
        what: &'static str,
        /// Found.
        len: usize,
    },
}

/// A node certificate with a verified path to a pinned platform CA, and what it says.
#[derive(Debug)]
pub(crate) struct NodeCertificate {
    pub(crate) subject: String,
    pub(crate) common_name: Option<String>,
    pub(crate) not_after: UnixTime,
    pub(crate) ak_name: Vec<u8>,
    pub(crate) receipt_key: [u8; 32],
    pub(crate) ek_certificate: [u8; 32],
    pub(crate) ca_subject: String,
    pub(crate) ca_fingerprint: [u8; 32],
}

impl NodeCertificate {
    pub(crate) fn verify(chain: &[Vec<u8>], anchors: &TrustAnchors, at: UnixTime) -> Result<Self, NodeCertificateError> {
        let path = verify_path(chain, anchors.platform(), &Profile::NODE, at).map_err(NodeCertificateError::Path)?;
        let octets = |oid, what| path.leaf.octets(oid, what).map_err(NodeCertificateError::Content);
        let digest = |oid, what| {
            let bytes = octets(oid, what)?;
            bytes.try_into().map_err(|_| NodeCertificateError::Length { what, len: bytes.len() })
        };
        Ok(Self {
            subject: path.leaf.subject(),
            common_name: path.leaf.common_name(),
            not_after: path.leaf.not_after(),
            ak_name: octets(AK_NAME, "TPM name of the attestation key")?.to_vec(),
            receipt_key: digest(RECEIPT_KEY, "receipt key")?,
            ek_certificate: digest(EK_CERTIFICATE, "digest of the EK certificate")?,
            ca_subject: path.anchor.certificate.subject(),
            ca_fingerprint: path.anchor.certificate.fingerprint(),
        })
    }
}

//! What to fetch so that devices can be judged: their chip's name, and questions to an OCSP responder.

use sha2::{Digest as _, Sha384};
use x509_cert::der::{Encode as _, oid::db::rfc5912::ID_SHA_384};

use super::{
    chain::model_of,
    der::{INTEGER, OCTET_STRING, SEQUENCE},
    dsig::{DsigError, SignedDocument},
};
use crate::x509::{Certificate, CertificateError};

/// Why no question can be made up.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// A certificate.
    #[error("read certificate {index} of the chain")]
    Certificate {
        /// Where, the leaf being 0.
        index: usize,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// A manifest.
    #[error("read the certificates in the manifest")]
    Manifest(#[source] DsigError),
}

/// The chip that a device's chain (DER, leaf first) names, such as `GH100`. Nothing is verified.
pub fn chip_named_by(chain: &[Vec<u8>]) -> Option<String> {
    model_of(&Certificate::from_der(chain.get(1)?).ok()?)
}

/// One OCSP request (DER) for each certificate of a device's chain whose revocation is judged: neither the leaf, which the device
/// makes itself, nor the root.
pub fn device_questions(chain: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, QuestionError> {
    questions(chain, 1)
}

/// Who signed a manifest (XML), DER, as it says itself. Nothing is verified.
pub fn manifest_chain(xml: &[u8]) -> Result<Vec<Vec<u8>>, QuestionError> {
    Ok(SignedDocument::parse(xml).map_err(QuestionError::Manifest)?.chain().to_vec())
}

/// One OCSP request for each certificate of who signed a manifest (XML), but the root.
pub fn manifest_questions(xml: &[u8]) -> Result<Vec<Vec<u8>>, QuestionError> {
    questions(&manifest_chain(xml)?, 0)
}

fn questions(chain: &[Vec<u8>], first: usize) -> Result<Vec<Vec<u8>>, QuestionError> {
    let read = |(index, der): (usize, &Vec<u8>)| {
        Certificate::from_der(der).map_err(|source| QuestionError::Certificate { index, source })
    };
    let certificates = chain.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let pairs = certificates.iter().zip(certificates.iter().skip(1)).skip(first);
    let question = |(index, (certificate, issuer)): (usize, (&Certificate, &Certificate))| {
        question(certificate, issuer).ok_or(QuestionError::Certificate {
            index,
            source: CertificateError::Malformed(x509_cert::der::ErrorKind::Failed.into()),
        })
    };
    pairs.enumerate().map(question).collect()
}

/// OCSPRequest (RFC 6960, section 4.1): one certificate, no nonce, so that the answer can be kept.
fn question(certificate: &Certificate, issuer: &Certificate) -> Option<Vec<u8>> {
    let name = issuer.parsed().tbs_certificate().subject().to_der().ok()?;
    let key = issuer.key().subject_public_key.as_bytes()?;
    // With the parameter NULL, as clients in use have it.
    let algorithm = element(SEQUENCE, &[ID_SHA_384.to_der().ok()?, vec![5, 0]]);
    let (name, key) = (element(OCTET_STRING, &[Sha384::digest(name)]), element(OCTET_STRING, &[Sha384::digest(key)]));
    let serial = element(INTEGER, &[certificate.parsed().tbs_certificate().serial_number().as_bytes()]);
    let id = element(SEQUENCE, &[algorithm, name, key, serial]);
    // CertID in Request in requestList in TBSRequest in OCSPRequest.
    Some((0..4).fold(id, |inner, _| element(SEQUENCE, &[inner])))
}

/// One element of DER. The contents here are far below 64 KiB.
fn element(tag: u8, parts: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let content: Vec<u8> = parts.iter().flat_map(|part| part.as_ref()).copied().collect();
    let [.., high, low] = content.len().to_be_bytes();
    let mut whole = match content.len() {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    whole.extend(content);
    whole
}

//! Signing certificate <- ASK or ASVK <- ARK, checked once and kept.

use std::time::Duration;

use casemate_evidence::snp::Generation;
use x509_cert::{crl::CertificateList, der::Decode as _};

use super::certificate::{SignerCertificate, SignerCertificateError};
use crate::{
    time::UnixTime,
    x509::{Algorithm, Certificate, CertificateError, CrlError, PathError, Profile, TrustAnchor, VerifiedCrl, verify_path},
};

/// Why a chain cannot be one of a key that signs reports.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Always three: the root, too, which is pinned by its fingerprint.
    #[error("the chain has {len} certificates, expected are signing certificate, intermediate and root")]
    Length {
        /// Found.
        len: usize,
    },
    /// The intermediate or the root is no certificate.
    #[error("certificate {index} of the chain")]
    Certificate {
        /// Where, the signing certificate being 0.
        index: usize,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// The signing certificate does not say what it must.
    #[error("read the signing certificate")]
    Signer(#[source] SignerCertificateError),
    /// One does not sign the next, or is no CA, or they were never valid together.
    #[error("check the chain")]
    Path(#[source] PathError),
}

/// A chain in which each certificate signed the one before it. Neither its root nor the time has been judged: that is done
/// in each appraisal, so that a chain can be kept for long.
#[derive(Debug)]
pub struct SignedChain {
    pub(super) signer: SignerCertificate,
    /// Leaf, intermediate, root.
    certificates: [Certificate; 3],
    root_fingerprint: [u8; 32],
    crl: Option<SignedCrl>,
}

impl SignedChain {
    /// The chain in `certificates`, DER, in the order signing certificate, ASK or ASVK, ARK.
    pub fn new(certificates: &[Vec<u8>]) -> Result<Self, ChainError> {
        let [leaf, intermediate, root] = certificates else {
            return Err(ChainError::Length { len: certificates.len() });
        };
        let parse = |index, der: &[u8]| Certificate::from_der(der).map_err(|source| ChainError::Certificate { index, source });
        let parsed = [parse(0, leaf)?, parse(1, intermediate)?, parse(2, root)?];
        let signer = SignerCertificate::of(&parsed[0]).map_err(ChainError::Signer)?;
        // The first moment at which all are valid; that there is one is part of the check.
        let begin = parsed.iter().map(Certificate::not_before).max().expect("there are three");
        let anchors = [TrustAnchor::new(parsed[2].clone(), false).map_err(ChainError::Path)?];
        verify_path(&certificates[..2], &anchors, &Profile::SNP, begin).map_err(ChainError::Path)?;
        let root_fingerprint = parsed[2].fingerprint();
        Ok(Self { signer, certificates: parsed, root_fingerprint, crl: None })
    }

    /// Adds the root's revocation list, DER, once its signature is checked; its time and content are judged in each appraisal.
    pub fn with_crl(mut self, der: &[u8]) -> Result<Self, CrlError> {
        self.crl = Some(SignedCrl::new(der, self.root())?);
        Ok(self)
    }

    /// The generation that the signing certificate is for.
    pub fn generation(&self) -> Generation {
        self.signer.generation
    }

    /// First and last second at which all certificates are valid.
    pub fn validity(&self) -> (UnixTime, UnixTime) {
        let begin = self.certificates.iter().map(Certificate::not_before).max();
        let end = self.certificates.iter().map(Certificate::not_after).min();
        (begin.expect("there are three"), end.expect("there are three"))
    }

    pub(super) fn require_valid_at(&self, at: UnixTime) -> Result<(), PathError> {
        let invalid = |certificate: &&Certificate| at < certificate.not_before() || certificate.not_after() < at;
        match self.certificates.iter().find(invalid) {
            None => Ok(()),
            Some(certificate) => Err(PathError::Time {
                subject: certificate.subject(),
                not_before: certificate.not_before(),
                not_after: certificate.not_after(),
                at,
            }),
        }
    }

    pub(super) const fn root_fingerprint(&self) -> &[u8; 32] {
        &self.root_fingerprint
    }

    pub(super) const fn root(&self) -> &Certificate {
        &self.certificates[2]
    }

    pub(super) const fn intermediate(&self) -> &Certificate {
        &self.certificates[1]
    }

    pub(super) const fn crl(&self) -> Option<&SignedCrl> {
        self.crl.as_ref()
    }
}

/// A revocation list that the root signed, at whatever time.
#[derive(Debug)]
pub(super) struct SignedCrl {
    list: VerifiedCrl,
    next_update: UnixTime,
    issuer: String,
}

impl SignedCrl {
    pub(super) fn new(der: &[u8], root: &Certificate) -> Result<Self, CrlError> {
        if der.len() > MAX_CRL_BYTES {
            return Err(CrlError::TooLong { len: der.len() });
        }
        let parsed: CertificateList = CertificateList::from_der(der).map_err(|_| CrlError::Malformed)?;
        let seconds = |time: Duration| UnixTime(time.as_secs());
        let this_update = seconds(parsed.tbs_cert_list.this_update.to_unix_duration());
        let next_update = parsed.tbs_cert_list.next_update.ok_or(CrlError::Malformed)?;
        let next_update = seconds(next_update.to_unix_duration());
        let list = VerifiedCrl::verify(der, root, &[Algorithm::RsaPssSha384], this_update)?;
        Ok(Self { list, next_update, issuer: root.subject() })
    }

    /// The list is valid at `at` and does not name `certificate`, which its issuer issued.
    pub(super) fn judge(&self, certificate: &Certificate, at: UnixTime) -> Result<(), CrlError> {
        let (this_update, next_update) = (self.this_update(), self.next_update);
        if at < this_update || next_update < at {
            return Err(CrlError::Time { issuer: self.issuer.clone(), this_update, next_update, at });
        }
        self.list.require_absent(certificate)
    }

    pub(super) fn this_update(&self) -> UnixTime {
        self.list.this_update()
    }
}

/// AMD's lists have a few entries.
const MAX_CRL_BYTES: usize = 64 << 10;

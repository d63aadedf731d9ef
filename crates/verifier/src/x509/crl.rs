//! Revocation lists (RFC 5280, section 5): complete lists of one issuer, without indirection.

use x509_cert::{
    crl::CertificateList,
    der::{Decode as _, Reader as _, SliceReader},
};

use super::{Certificate, SignatureError, signature};
use crate::time::UnixTime;

/// Largest list, in bytes. Vendors' lists have some hundred entries at most.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// Why a revocation list is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// Too many bytes.
    #[error("the revocation list has {len} bytes, more than the limit of {MAX_BYTES}")]
    TooLong {
        /// Found.
        len: usize,
    },
    /// Not DER of a list of version 2.
    #[error("the revocation list is not well-formed")]
    Malformed,
    /// Another issuer.
    #[error("the revocation list is by \"{seen}\", expected is one by \"{expected}\"")]
    Issuer {
        /// Subject of the certificate whose list is wanted.
        expected: String,
        /// Issuer in the list.
        seen: String,
    },
    /// Not signed by that issuer.
    #[error("the signature on the revocation list by \"{issuer}\"")]
    Signature {
        /// Its issuer.
        issuer: String,
        /// Why.
        #[source]
        source: SignatureError,
    },
    /// Outside its time.
    #[error("the revocation list by \"{issuer}\" is valid from {this_update} to {next_update}, the time is {at}")]
    Time {
        /// Its issuer.
        issuer: String,
        /// First second.
        this_update: UnixTime,
        /// Last second.
        next_update: UnixTime,
        /// The time it is judged at.
        at: UnixTime,
    },
    /// Critical extensions change what a list means (delta lists, lists for some reasons or certificates only).
    #[error("the revocation list by \"{issuer}\" has a critical extension, which is not understood here")]
    Critical {
        /// Its issuer.
        issuer: String,
    },
    /// It names a certificate of the chain.
    #[error("\"{subject}\" with serial number {serial} is revoked")]
    Revoked {
        /// Of the certificate.
        subject: String,
        /// Hex.
        serial: String,
    },
}

/// A list that its issuer signed, and that is valid at the time that it was judged at.
#[derive(Debug)]
pub(crate) struct VerifiedCrl(CertificateList);

impl VerifiedCrl {
    /// The list in `der`, by `issuer`, valid at `at`. A list without an end (`nextUpdate`) is refused.
    pub(crate) fn verify(
        der: &[u8],
        issuer: &Certificate,
        accepted: &[signature::Algorithm],
        at: UnixTime,
    ) -> Result<Self, CrlError> {
        if der.len() > MAX_BYTES {
            return Err(CrlError::TooLong { len: der.len() });
        }
        let list = CertificateList::from_der(der).map_err(|_| CrlError::Malformed)?;
        let signed = signed_part(der).ok_or(CrlError::Malformed)?;
        let body = &list.tbs_cert_list;
        if body.signature != list.signature_algorithm {
            return Err(CrlError::Malformed);
        }
        if &body.issuer != issuer.parsed().tbs_certificate().subject() {
            return Err(CrlError::Issuer { expected: issuer.subject(), seen: body.issuer.to_string() });
        }
        let key = issuer.key_der().map_err(|_| CrlError::Malformed)?;
        let bits = list.signature.as_bytes().ok_or(CrlError::Malformed)?;
        signature::verify(&list.signature_algorithm, signed, bits, &key, accepted)
            .map_err(|source| CrlError::Signature { issuer: issuer.subject(), source })?;
        let this_update = UnixTime(body.this_update.to_unix_duration().as_secs());
        let next_update = body.next_update.ok_or(CrlError::Malformed)?;
        let next_update = UnixTime(next_update.to_unix_duration().as_secs());
        if at < this_update || next_update < at {
            return Err(CrlError::Time { issuer: issuer.subject(), this_update, next_update, at });
        }
        let entries = body.revoked_certificates.iter().flatten().filter_map(|entry| entry.crl_entry_extensions.as_ref());
        if body.crl_extensions.iter().chain(entries).flatten().any(|extension| extension.critical) {
            return Err(CrlError::Critical { issuer: issuer.subject() });
        }
        Ok(Self(list))
    }

    /// `certificate`, which this list's issuer issued, is not in the list.
    pub(crate) fn require_absent(&self, certificate: &Certificate) -> Result<(), CrlError> {
        let serial = certificate.parsed().tbs_certificate().serial_number();
        let mut revoked = self.0.tbs_cert_list.revoked_certificates.iter().flatten();
        match revoked.find(|entry| &entry.serial_number == serial) {
            None => Ok(()),
            Some(_) => Err(CrlError::Revoked { subject: certificate.subject(), serial: serial.to_string() }),
        }
    }

    /// End of its validity.
    pub(crate) fn next_update(&self) -> UnixTime {
        let next_update = self.0.tbs_cert_list.next_update.expect("a list without an end is refused");
        UnixTime(next_update.to_unix_duration().as_secs())
    }

    /// Start of its validity.
    pub(crate) fn this_update(&self) -> UnixTime {
        UnixTime(self.0.tbs_cert_list.this_update.to_unix_duration().as_secs())
    }
}

fn signed_part(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = SliceReader::new(bytes).ok()?;
    reader
        .sequence(|inner| {
            let signed = inner.tlv_bytes()?;
            inner.drain(inner.remaining_len())?;
            Ok::<_, x509_cert::der::Error>(signed)
        })
        .ok()
}

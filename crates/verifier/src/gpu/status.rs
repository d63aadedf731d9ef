//! Is a certificate revoked? By OCSP responses, which is what NVIDIA answers with, and by lists, which it also publishes.

use super::ocsp::{Answer, CertStatus, OcspError, answer};
use crate::{
    time::UnixTime,
    x509::{Algorithm, Certificate, CrlError, VerifiedCrl},
};

/// Most OCSP responses, and most lists, that are looked at.
pub const MAX_SOURCES: usize = 256;

/// What somebody fetched about revocation. Whoever fetched it can only withhold: nothing here is believed unsigned.
#[derive(Debug, Clone, Copy, Default)]
pub struct Revocation<'a> {
    /// OCSP responses, DER. The certificate id must be of SHA-256 or SHA-384.
    pub ocsp: &'a [Vec<u8>],
    /// Revocation lists, DER.
    pub crls: &'a [Vec<u8>],
}

/// Why a certificate is not known to be good.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nothing says anything about it.
    #[error("neither an OCSP response nor a revocation list is about \"{subject}\", serial number {serial}")]
    Missing {
        /// Of the certificate.
        subject: String,
        /// Of the certificate.
        serial: String,
    },
    /// Too many responses or lists.
    #[error("{len} OCSP responses and revocation lists are more than the limit of {MAX_SOURCES}")]
    TooMany {
        /// Found.
        len: usize,
    },
    /// A response.
    #[error("use an OCSP response about \"{subject}\"")]
    Ocsp {
        /// Of the certificate.
        subject: String,
        /// Why.
        #[source]
        source: OcspError,
    },
    /// A list, or what it says.
    #[error("use a revocation list about \"{subject}\"")]
    Crl {
        /// Of the certificate.
        subject: String,
        /// Why.
        #[source]
        source: CrlError,
    },
    /// It is revoked, or the responder does not know it.
    #[error("\"{subject}\" with serial number {serial} is {status}")]
    NotGood {
        /// Of the certificate.
        subject: String,
        /// Of the certificate.
        serial: String,
        /// `revoked` or `unknown to the responder`.
        status: &'static str,
    },
    /// Too old, from the future, or past its end.
    #[error("what is known about revocation is of {this_update}, to be used until {until}; the time is {at}")]
    Time {
        /// When it was known.
        this_update: UnixTime,
        /// By itself and by the policy.
        until: UnixTime,
        /// Judged at.
        at: UnixTime,
    },
}

/// When what is known about revocation was known, and until when it may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StatusWindow {
    pub(crate) this_update: UnixTime,
    pub(crate) next_update: UnixTime,
}

impl StatusWindow {
    /// The worse of both.
    pub(crate) fn meet(self, other: Self) -> Self {
        let (this_update, next_update) = (self.this_update.min(other.this_update), self.next_update.min(other.next_update));
        Self { this_update, next_update }
    }

    pub(crate) fn require(self, max_age_s: u64, at: UnixTime) -> Result<(), StatusError> {
        let until = self.next_update.min(UnixTime(self.this_update.0.saturating_add(max_age_s)));
        if self.this_update <= at && at <= until {
            return Ok(());
        }
        Err(StatusError::Time { this_update: self.this_update, until, at })
    }
}

/// Everything that is about `certificate` says that it is good, and there is something.
pub(crate) fn require_good(
    certificate: &Certificate,
    issuer: &Certificate,
    revocation: &Revocation<'_>,
    max_age_s: u64,
    at: UnixTime,
) -> Result<StatusWindow, StatusError> {
    let len = revocation.ocsp.len().max(revocation.crls.len());
    if len > MAX_SOURCES {
        return Err(StatusError::TooMany { len });
    }
    let subject = || certificate.subject();
    let serial = || certificate.parsed().tbs_certificate().serial_number().to_string();
    let mut found: Option<StatusWindow> = None;
    for response in revocation.ocsp {
        let answer =
            answer(response, certificate, issuer, at).map_err(|source| StatusError::Ocsp { subject: subject(), source })?;
        let Some(Answer { status, this_update, next_update }) = answer else { continue };
        let not_good = |status| StatusError::NotGood { subject: subject(), serial: serial(), status };
        match status {
            CertStatus::Good => {}
            CertStatus::Revoked => return Err(not_good("revoked")),
            CertStatus::Unknown => return Err(not_good("unknown to the responder")),
        }
        let window = StatusWindow { this_update, next_update: next_update.unwrap_or(UnixTime(u64::MAX)) };
        window.require(max_age_s, at)?;
        found = Some(found.map_or(window, |found| found.meet(window)));
    }
    for crl in revocation.crls {
        let error = |source| StatusError::Crl { subject: subject(), source };
        let list = match VerifiedCrl::verify(crl, issuer, ALGORITHMS, at) {
            Ok(list) => list,
            Err(CrlError::Issuer { .. }) => continue,
            Err(source) => return Err(error(source)),
        };
        list.require_absent(certificate).map_err(error)?;
        let window = StatusWindow { this_update: list.this_update(), next_update: list.next_update() };
        window.require(max_age_s, at)?;
        found = Some(found.map_or(window, |found| found.meet(window)));
    }
    found.ok_or_else(|| StatusError::Missing { subject: subject(), serial: serial() })
}

const ALGORITHMS: &[Algorithm] = &[Algorithm::EcdsaSha384, Algorithm::EcdsaSha256];

//! One certificate, with the bytes that it was decoded from.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use x509_cert::{
    der::{self, Decode as _, Encode as _, Reader as _, SliceReader, asn1::ObjectIdentifier, oid::AssociatedOid},
    ext::{Extension, pkix::SubjectKeyIdentifier},
    spki::SubjectPublicKeyInfoOwned,
};

use crate::time::UnixTime;

/// Largest certificate, in bytes.
pub(crate) const MAX_BYTES: usize = 16 << 10;

/// Why bytes are not a certificate that can be judged.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Too many bytes.
    #[error("the certificate has {len} bytes, more than the limit of {MAX_BYTES}")]
    TooLong {
        /// Found.
        len: usize,
    },
    /// Not DER of a certificate.
    #[error("the certificate is not well-formed")]
    Malformed(#[source] der::Error),
    /// Not PEM.
    #[error("the text holds no certificate in PEM form, or a broken one")]
    Pem,
    /// Not version 3.
    #[error("the certificate is not of version 3")]
    Version,
    /// The algorithm outside is not the one inside.
    #[error("the certificate names two different signature algorithms")]
    Algorithms,
    /// An extension occurs twice.
    #[error("the certificate has extension {oid} twice")]
    DuplicateExtension {
        /// Which.
        oid: ObjectIdentifier,
    },
    /// An extension that is needed is absent.
    #[error("the certificate has no extension {oid} ({what})")]
    MissingExtension {
        /// Which.
        oid: ObjectIdentifier,
        /// What it holds.
        what: &'static str,
    },
    /// An extension with unexpected content.
    #[error("extension {oid} ({what}) of the certificate is not well-formed")]
    Extension {
        /// Which.
        oid: ObjectIdentifier,
        /// What it holds.
        what: &'static str,
    },
}

/// A well-formed certificate of version 3. Nothing about it is verified.
#[derive(Debug, Clone)]
pub(crate) struct Certificate(Arc<Decoded>);

#[derive(Debug)]
struct Decoded {
    der: Vec<u8>,
    /// Where in `der` that is what the issuer signed.
    signed: Range<usize>,
    parsed: x509_cert::Certificate,
    fingerprint: OnceLock<[u8; 32]>,
}

/// Certificates that one appraisal read from PEM text already: chains overlap, and reading a certificate takes longer than finding it.
/// Bounded by the limits on the texts.
#[derive(Debug, Default)]
pub(crate) struct Seen(Vec<(String, Certificate)>);

impl Certificate {
    pub(crate) fn from_der(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > MAX_BYTES {
            return Err(CertificateError::TooLong { len: bytes.len() });
        }
        let parsed = x509_cert::Certificate::from_der(bytes).map_err(CertificateError::Malformed)?;
        let tbs = parsed.tbs_certificate();
        if tbs.version() != x509_cert::Version::V3 {
            return Err(CertificateError::Version);
        }
        if tbs.signature() != parsed.signature_algorithm() {
            return Err(CertificateError::Algorithms);
        }
        let mut seen = Vec::new();
        for extension in tbs.extensions().into_iter().flatten() {
            if seen.contains(&extension.extn_id) {
                return Err(CertificateError::DuplicateExtension { oid: extension.extn_id });
            }
            seen.push(extension.extn_id);
        }
        let signed = signed_part(bytes).map_err(CertificateError::Malformed)?;
        Ok(Self(Arc::new(Decoded { der: bytes.to_vec(), signed, parsed, fingerprint: OnceLock::new() })))
    }

    /// All certificates in PEM text; text around them is ignored, an empty list is an error.
    pub(crate) fn all_from_pem(text: &str) -> Result<Vec<Self>, CertificateError> {
        Seen::default().all_from_pem(text)
    }

    /// One certificate, from what stands between the lines of begin and end.
    fn from_pem(text: &str) -> Result<Self, CertificateError> {
        let mut joined = Vec::with_capacity(text.len());
        text.lines().for_each(|line| joined.extend_from_slice(line.as_bytes()));
        // Nothing here is secret: the decoder need not take the same time for every character, which costs four times as much.
        Self::from_der(&STANDARD.decode(joined).map_err(|_| CertificateError::Pem)?)
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// The exact bytes that the issuer signed.
    pub(crate) fn signed_bytes(&self) -> &[u8] {
        &self.0.der[self.0.signed.clone()]
    }

    pub(crate) fn parsed(&self) -> &x509_cert::Certificate {
        &self.0.parsed
    }

    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        *self.0.fingerprint.get_or_init(|| Sha256::digest(self.der()).into())
    }

    pub(crate) fn subject(&self) -> String {
        self.parsed().tbs_certificate().subject().to_string()
    }

    pub(crate) fn issuer(&self) -> String {
        self.parsed().tbs_certificate().issuer().to_string()
    }

    pub(crate) fn common_name(&self) -> Option<String> {
        let name = self.parsed().tbs_certificate().subject().common_name().ok().flatten()?;
        Some(name.value().into_owned())
    }

    pub(crate) fn key(&self) -> &SubjectPublicKeyInfoOwned {
        self.parsed().tbs_certificate().subject_public_key_info()
    }

    /// DER of the public key.
    pub(crate) fn key_der(&self) -> Result<Vec<u8>, CertificateError> {
        self.key().to_der().map_err(CertificateError::Malformed)
    }

    pub(crate) fn not_before(&self) -> UnixTime {
        UnixTime(self.parsed().tbs_certificate().validity().not_before.to_unix_duration().as_secs())
    }

    pub(crate) fn not_after(&self) -> UnixTime {
        UnixTime(self.parsed().tbs_certificate().validity().not_after.to_unix_duration().as_secs())
    }

    pub(crate) fn extensions(&self) -> &[Extension] {
        self.parsed().tbs_certificate().extensions().map_or(&[], Vec::as_slice)
    }

    /// The standard extension `T`, if it is there.
    pub(crate) fn standard<'a, T: AssociatedOid + der::Decode<'a>>(
        &'a self,
        what: &'static str,
    ) -> Result<Option<T>, CertificateError> {
        let Some(extension) = self.extensions().iter().find(|extension| extension.extn_id == T::OID) else {
            return Ok(None);
        };
        T::from_der(extension.extn_value.as_bytes()).map(Some).map_err(|_| CertificateError::Extension { oid: T::OID, what })
    }

    /// The subject key identifier.
    pub(crate) fn key_identifier(&self) -> Option<Vec<u8>> {
        let id: SubjectKeyIdentifier = self.standard("subject key identifier").ok()??;
        Some(id.0.into_bytes().into())
    }

    /// The content of an extension whose value is an OCTET STRING.
    pub(crate) fn octets(&self, oid: ObjectIdentifier, what: &'static str) -> Result<&[u8], CertificateError> {
        let extension = self.extensions().iter().find(|extension| extension.extn_id == oid);
        let extension = extension.ok_or(CertificateError::MissingExtension { oid, what })?;
        <&der::asn1::OctetStringRef>::from_der(extension.extn_value.as_bytes())
            .map(|octets| octets.as_bytes())
            .map_err(|_| CertificateError::Extension { oid, what })
    }
}

impl Seen {
    /// As [`Certificate::all_from_pem`].
    pub(crate) fn all_from_pem(&mut self, text: &str) -> Result<Vec<Certificate>, CertificateError> {
        let mut found = Vec::new();
        let mut rest = text;
        while let Some(begin) = rest.find(BEGIN) {
            let (text, after) = rest[begin + BEGIN.len()..].split_once(END).ok_or(CertificateError::Pem)?;
            found.push(self.one(text)?);
            rest = after;
        }
        if found.is_empty() { Err(CertificateError::Pem) } else { Ok(found) }
    }

    fn one(&mut self, text: &str) -> Result<Certificate, CertificateError> {
        if let Some((_, known)) = self.0.iter().find(|(known, _)| known == text) {
            return Ok(known.clone());
        }
        let certificate = Certificate::from_pem(text)?;
        self.0.push((text.to_owned(), certificate.clone()));
        Ok(certificate)
    }
}

fn signed_part(bytes: &[u8]) -> der::Result<Range<usize>> {
    let mut reader = SliceReader::new(bytes)?;
    reader.sequence(|inner| {
        let begin = usize::try_from(inner.position())?;
        let len = inner.tlv_bytes()?.len();
        inner.drain(inner.remaining_len())?;
        Ok(begin..begin + len)
    })
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_around_certificates_is_ignored_and_within_them_nothing_is() {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        let pem = made.pem();
        let found = |text: &str| {
            Certificate::all_from_pem(text).map(|found| found.iter().map(|one| one.der().to_vec()).collect::<Vec<_>>())
        };
        let der = made.der().to_vec();
        for (text, count) in [(pem.clone(), 1), (pem.replace('\n', "\r\n"), 1), (format!("subject=x\n{pem}\0 y {pem}"), 2)] {
            assert_eq!(found(&text).unwrap(), vec![der.clone(); count], "{text}");
        }
        let inside = |text: &str| pem.replacen("-----\n", &format!("-----\n{text}"), 1);
        for broken in [
            String::new(),
            pem.replace("CERTIFICATE", "PRIVATE KEY"),
            pem.replace(END, ""),
            pem.replace(END, "-----END X509 CRL-----"),
            inside(" "),
            inside("="),
            inside("Proc-Type: 4,ENCRYPTED\n\n"),
            inside(BEGIN),
            pem.replace('M', "-"),
            format!("{BEGIN}\n{END}"),
            format!("{pem}{BEGIN}\nMIIB"),
        ] {
            assert!(found(&broken).is_err(), "{broken}");
        }
    }
}

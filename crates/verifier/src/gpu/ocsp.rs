//! OCSP responses (RFC 6960, section 4.2): what a certificate's issuer, or a responder that it certified, says about it.

use sha2::{Digest as _, Sha256, Sha384};
use x509_cert::{
    der::{Decode as _, asn1::GeneralizedTime, asn1::ObjectIdentifier, oid::db::rfc5912 as oid},
    ext::pkix::ExtendedKeyUsage,
    spki::AlgorithmIdentifierOwned,
};

use super::der::{
    BIT_STRING, ENUMERATED, Element, Elements, GENERALIZED_TIME, INTEGER, OCTET_STRING, OID, SEQUENCE, constructed, context, only,
};
use crate::{
    time::UnixTime,
    x509::{Algorithm, Certificate, PathError, Profile, SignatureError, TrustAnchor, verify_path, verify_signature},
};

/// Largest response, in bytes.
pub(crate) const MAX_BYTES: usize = 64 << 10;
/// Most answers in one response, and most certificates.
const MAX_ANSWERS: usize = 64;

/// Why an OCSP response is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum OcspError {
    /// Too many bytes.
    #[error("the OCSP response has {len} bytes, more than the limit of {MAX_BYTES}")]
    TooLong {
        /// Found.
        len: usize,
    },
    /// Not DER of a basic response, or with a critical extension.
    #[error("the OCSP response is not well-formed ({what})")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// The responder could not answer.
    #[error("the OCSP responder answered with status {status} instead of a response")]
    Unsuccessful {
        /// OCSPResponseStatus.
        status: u8,
    },
    /// Neither the issuer nor a responder that it certified signed it.
    #[error("the OCSP response about a certificate by \"{issuer}\" is signed neither by it nor by a responder that it certified")]
    Responder {
        /// The issuer.
        issuer: String,
    },
    /// The responder's certificate.
    #[error("the certificate of the OCSP responder")]
    Delegate(#[source] PathError),
    /// The signature.
    #[error("the signature on the OCSP response")]
    Signature(#[source] SignatureError),
}

/// What a response says about one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertStatus {
    Good,
    Revoked,
    Unknown,
}

/// One answer, by somebody entitled to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) status: CertStatus,
    pub(crate) this_update: UnixTime,
    pub(crate) next_update: Option<UnixTime>,
}

/// The answer in `response` (OCSPResponse, DER) about `certificate`, if there is one: authentic, but of any age.
pub(crate) fn answer(
    response: &[u8],
    certificate: &Certificate,
    issuer: &Certificate,
    at: UnixTime,
) -> Result<Option<Answer>, OcspError> {
    if response.len() > MAX_BYTES {
        return Err(OcspError::TooLong { len: response.len() });
    }
    let basic = Basic::parse(response)?;
    let Some(single) = basic.about(certificate, issuer)? else { return Ok(None) };
    basic.verify(issuer, at)?;
    Ok(Some(single))
}

struct Basic<'a> {
    signed: &'a [u8],
    responder: Element<'a>,
    answers: Vec<Elements<'a>>,
    algorithm: AlgorithmIdentifierOwned,
    signature: &'a [u8],
    certificates: Vec<&'a [u8]>,
}

impl<'a> Basic<'a> {
    fn parse(response: &'a [u8]) -> Result<Self, OcspError> {
        let mut outer = only(response, SEQUENCE).ok_or(malformed("envelope"))?.elements();
        let status = outer.expect(ENUMERATED).ok_or(malformed("status"))?;
        if status.content != [0] {
            return Err(OcspError::Unsuccessful { status: status.content.first().copied().unwrap_or_default() });
        }
        let basic = response_bytes(&mut outer).ok_or(malformed("response bytes"))?;
        let mut parts = only(basic, SEQUENCE).ok_or(malformed("basic response"))?.elements();
        let data = parts.expect(SEQUENCE).ok_or(malformed("response data"))?;
        let algorithm = parts.expect(SEQUENCE).ok_or(malformed("signature algorithm"))?;
        let algorithm = AlgorithmIdentifierOwned::from_der(algorithm.whole).map_err(|_| malformed("signature algorithm"))?;
        let signature =
            parts.expect(BIT_STRING).and_then(|bits| bits.content.strip_prefix(&[0])).ok_or(malformed("signature"))?;
        let certificates = certificates(&mut parts).ok_or(malformed("certificates"))?;
        let (responder, answers) = response_data(data).ok_or(malformed("response data"))?;
        Ok(Self { signed: data.whole, responder, answers, algorithm, signature, certificates })
    }

    fn about(&self, certificate: &Certificate, issuer: &Certificate) -> Result<Option<Answer>, OcspError> {
        for answer in &self.answers {
            let mut parts = *answer;
            let id = parts.expect(SEQUENCE).ok_or(malformed("certificate id"))?;
            if is_about(id, certificate, issuer).ok_or(malformed("certificate id"))? {
                return single(parts).map(Some).ok_or(malformed("answer"));
            }
        }
        Ok(None)
    }

    /// Signed by the issuer, or by a responder with a certificate that the issuer signed for this purpose. The responder id
    /// says which; a certificate that was sent without need is not looked at.
    fn verify(&self, issuer: &Certificate, at: UnixTime) -> Result<(), OcspError> {
        if self.is_responder(issuer) {
            return self.signed_by(issuer);
        }
        let of_responder = |der: &&[u8]| Certificate::from_der(der).ok().filter(|certificate| self.is_responder(certificate));
        let Some(delegate) = self.certificates.iter().find_map(of_responder) else {
            return Err(OcspError::Responder { issuer: issuer.subject() });
        };
        let anchor = TrustAnchor::new(issuer.clone(), false).map_err(OcspError::Delegate)?;
        verify_path(&[delegate.der().to_vec()], &[anchor], &Profile::OCSP_RESPONDER, at).map_err(OcspError::Delegate)?;
        // The profile accepts a certificate without any such usage; a responder's must have it (RFC 6960, section 4.2.2.2).
        if !matches!(delegate.standard::<ExtendedKeyUsage>("extended key usage"), Ok(Some(_))) {
            return Err(OcspError::Responder { issuer: issuer.subject() });
        }
        self.signed_by(&delegate)
    }

    fn is_responder(&self, certificate: &Certificate) -> bool {
        use x509_cert::der::Encode as _;
        let subject = || certificate.parsed().tbs_certificate().subject().to_der().ok();
        match self.responder.tag {
            BY_NAME => subject().as_deref() == Some(self.responder.content),
            BY_KEY => only(self.responder.content, OCTET_STRING)
                .is_some_and(|hash| certificate.key_identifier().is_some_and(|id| id == hash.content)),
            _ => false,
        }
    }

    fn signed_by(&self, signer: &Certificate) -> Result<(), OcspError> {
        let key = signer.key_der().map_err(|_| malformed("key of the responder"))?;
        verify_signature(&self.algorithm, self.signed, self.signature, &key, ALGORITHMS).map_err(OcspError::Signature)
    }
}

fn response_bytes<'a>(outer: &mut Elements<'a>) -> Option<&'a [u8]> {
    let explicit = outer.expect(constructed(0)).filter(|_| outer.is_empty())?;
    let mut parts = only(explicit.content, SEQUENCE)?.elements();
    let kind = ObjectIdentifier::from_der(parts.expect(OID)?.whole).ok()?;
    let octets = parts.expect(OCTET_STRING).filter(|_| parts.is_empty())?;
    (kind == OCSP_BASIC).then_some(octets.content)
}

fn certificates<'a>(parts: &mut Elements<'a>) -> Option<Vec<&'a [u8]>> {
    let mut found = Vec::new();
    if let Some(explicit) = parts.optional(constructed(0)) {
        let mut list = only(explicit.content, SEQUENCE)?.elements();
        while !list.is_empty() && found.len() < MAX_ANSWERS {
            found.push(list.expect(SEQUENCE)?.whole);
        }
        if !list.is_empty() {
            return None;
        }
    }
    parts.is_empty().then_some(found)
}

fn response_data(data: Element<'_>) -> Option<(Element<'_>, Vec<Elements<'_>>)> {
    let mut parts = data.elements();
    if let Some(version) = parts.optional(constructed(0)) {
        only(version.content, INTEGER).filter(|version| version.content == [0])?;
    }
    let responder = parts.next()?;
    parts.expect(GENERALIZED_TIME)?;
    let mut list = parts.expect(SEQUENCE)?.elements();
    let mut answers = Vec::new();
    while !list.is_empty() && answers.len() < MAX_ANSWERS {
        answers.push(list.expect(SEQUENCE)?.elements());
    }
    let extensions = parts.optional(constructed(1)).is_none_or(nothing_critical);
    (list.is_empty() && parts.is_empty() && extensions).then_some((responder, answers))
}

/// CertID: digests of the issuer's name and key, and the serial number.
fn is_about(id: Element<'_>, certificate: &Certificate, issuer: &Certificate) -> Option<bool> {
    use x509_cert::der::Encode as _;
    let mut parts = id.elements();
    let algorithm = AlgorithmIdentifierOwned::from_der(parts.expect(SEQUENCE)?.whole).ok()?;
    let (name, key) = (parts.expect(OCTET_STRING)?.content, parts.expect(OCTET_STRING)?.content);
    let serial = parts.expect(INTEGER).filter(|_| parts.is_empty())?.content;
    let issuer_name = issuer.parsed().tbs_certificate().subject().to_der().ok()?;
    let issuer_key = issuer.key().subject_public_key.as_bytes()?;
    let digest = |bytes: &[u8]| match algorithm.oid {
        oid::ID_SHA_256 => Some(Sha256::digest(bytes).to_vec()),
        oid::ID_SHA_384 => Some(Sha384::digest(bytes).to_vec()),
        // SHA-1 is what RFC 5019 asks for; whoever asked on our behalf can ask with another digest.
        _ => None,
    };
    let (Some(name_digest), Some(key_digest)) = (digest(&issuer_name), digest(issuer_key)) else { return Some(false) };
    Some(name_digest == name && key_digest == key && certificate.parsed().tbs_certificate().serial_number().as_bytes() == serial)
}

fn single(mut parts: Elements<'_>) -> Option<Answer> {
    let status = match parts.next()? {
        Element { tag: GOOD, content: [], .. } => CertStatus::Good,
        Element { tag: REVOKED, .. } => CertStatus::Revoked,
        Element { tag: UNKNOWN, .. } => CertStatus::Unknown,
        _ => return None,
    };
    let this_update = time(parts.expect(GENERALIZED_TIME)?)?;
    let next_update = match parts.optional(constructed(0)) {
        Some(explicit) => Some(time(only(explicit.content, GENERALIZED_TIME)?)?),
        None => None,
    };
    let extensions = parts.optional(constructed(1)).is_none_or(nothing_critical);
    (parts.is_empty() && extensions).then_some(Answer { status, this_update, next_update })
}

fn nothing_critical(extensions: Element<'_>) -> bool {
    let list = only(extensions.content, SEQUENCE).and_then(|list| x509_cert::ext::Extensions::from_der(list.whole).ok());
    list.is_some_and(|list| list.iter().all(|extension| !extension.critical))
}

fn time(element: Element<'_>) -> Option<UnixTime> {
    GeneralizedTime::from_der(element.whole).ok().map(|time| UnixTime(time.to_unix_duration().as_secs()))
}

fn malformed(what: &'static str) -> OcspError {
    OcspError::Malformed { what }
}

const ALGORITHMS: &[Algorithm] = &[Algorithm::EcdsaSha384, Algorithm::EcdsaSha256];
/// id-pkix-ocsp-basic.
const OCSP_BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");
const BY_NAME: u8 = constructed(1);
const BY_KEY: u8 = constructed(2);
const GOOD: u8 = context(0);
const REVOKED: u8 = constructed(1);
const UNKNOWN: u8 = context(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// One element with `content`.
    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        let header = if content.len() < 0x80 { vec![tag, low] } else { vec![tag, 0x81, low] };
        assert_eq!(high, 0);
        [header, content.to_vec()].concat()
    }

    #[test]
    fn as_many_answers_and_certificates_as_the_limit_are_read_and_no_more() {
        let empty = |len: usize| tlv(SEQUENCE, &[SEQUENCE, 0].repeat(len));
        let certificates_of = |len: usize| {
            let bytes = tlv(constructed(0), &empty(len));
            certificates(&mut Elements(&bytes)).map(|found| found.len())
        };
        assert_eq!((certificates_of(MAX_ANSWERS), certificates_of(MAX_ANSWERS + 1)), (Some(MAX_ANSWERS), None));
        let answers_of = |len: usize| {
            let data = [tlv(BY_KEY, &[]), tlv(GENERALIZED_TIME, &[]), empty(len)].concat();
            let data = tlv(SEQUENCE, &data);
            response_data(only(&data, SEQUENCE).unwrap()).map(|(_, answers)| answers.len())
        };
        assert_eq!((answers_of(MAX_ANSWERS), answers_of(MAX_ANSWERS + 1)), (Some(MAX_ANSWERS), None));
    }
}

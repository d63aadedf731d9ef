//! The path check.

use x509_cert::{
    der::asn1::ObjectIdentifier,
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage},
};

use super::{Certificate, CertificateError, SignatureError, names, signature};
use crate::time::UnixTime;

/// Most certificates that a sender may give.
pub(crate) const MAX_CHAIN: usize = 6;

/// Why a chain is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// No certificate, or too many.
    #[error("the chain has {len} certificates; 1 to {MAX_CHAIN} are accepted")]
    Length {
        /// Found.
        len: usize,
    },
    /// A certificate that cannot be judged.
    #[error("certificate {index} of the chain")]
    Certificate {
        /// Where, the leaf being 0.
        index: usize,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// No anchor has the name of the last issuer.
    #[error("the chain ends with issuer \"{issuer}\", which is no pinned root")]
    Untrusted {
        /// The issuer that is missing.
        issuer: String,
    },
    /// Issuer and subject do not meet.
    #[error("\"{subject}\" is issued by \"{issuer}\", but the next certificate is \"{next}\"")]
    Order {
        /// Of this certificate.
        subject: String,
        /// Of this certificate.
        issuer: String,
        /// Subject of the next.
        next: String,
    },
    /// Not signed by its issuer.
    #[error("the signature on \"{subject}\"")]
    Signature {
        /// Of this certificate.
        subject: String,
        /// Why.
        #[source]
        source: SignatureError,
    },
    /// Outside its time.
    #[error("\"{subject}\" is valid from {not_before} to {not_after}, the time is {at}")]
    Time {
        /// Of this certificate.
        subject: String,
        /// First second.
        not_before: UnixTime,
        /// Last second.
        not_after: UnixTime,
        /// The time it is judged at.
        at: UnixTime,
    },
    /// An issuer that is no CA, or a leaf that is one.
    #[error("\"{subject}\" {problem}")]
    Role {
        /// Of this certificate.
        subject: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A name that an issuer above may not give, or whose constraint cannot be judged.
    #[error("\"{subject}\" {problem}")]
    Constraint {
        /// Of the certificate with the name.
        subject: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A critical extension that is not understood.
    #[error("\"{subject}\" has the critical extension {oid}, which is not understood here")]
    Critical {
        /// Of this certificate.
        subject: String,
        /// Which.
        oid: ObjectIdentifier,
    },
}

/// A root that a relying party pinned.
#[derive(Debug, Clone)]
pub(crate) struct TrustAnchor {
    pub(crate) certificate: Certificate,
    pub(crate) simulated: bool,
}

impl TrustAnchor {
    /// A root must be able to be one.
    pub(crate) fn new(certificate: Certificate, simulated: bool) -> Result<Self, PathError> {
        require_ca(&certificate, MAX_CHAIN)?;
        Ok(Self { certificate, simulated })
    }
}

/// What a kind of chain may look like.
pub(crate) struct Profile {
    /// Accepted signature algorithms.
    pub(crate) algorithms: &'static [signature::Algorithm],
    /// Critical extensions of the leaf that are understood, beyond basic constraints and key usage.
    pub(crate) leaf_critical: &'static [ObjectIdentifier],
    /// An extended key usage that the leaf must list, where it lists any.
    pub(crate) extended_key_usage: Option<ObjectIdentifier>,
}

impl Profile {
    /// Node certificates: issued by the platform's CA, which has a P-256 key.
    pub(crate) const NODE: Self = Self {
        algorithms: &[signature::Algorithm::EcdsaSha256],
        leaf_critical: &[
            EXTENDED_KEY_USAGE,
            SUBJECT_ALT_NAME,
            crate::node_certificate::AK_NAME,
            crate::node_certificate::RECEIPT_KEY,
            crate::node_certificate::EK_CERTIFICATE,
        ],
        extended_key_usage: None,
    };
    /// EK certificates (TCG EK Credential Profile): the subject alternative name with manufacturer, model and version is
    /// critical where the subject is empty; some vendors mark the subject directory attributes critical, too.
    pub(crate) const EK: Self = Self {
        algorithms: signature::Algorithm::TPM,
        leaf_critical: &[EXTENDED_KEY_USAGE, SUBJECT_ALT_NAME, SUBJECT_DIRECTORY_ATTRIBUTES],
        extended_key_usage: Some(TCG_EK_CERTIFICATE),
    };
    /// VCEK and VLEK certificates (AMD 57230): nothing in the leaf is critical, its content is judged by the caller.
    pub(crate) const SNP: Self =
        Self { algorithms: &[signature::Algorithm::RsaPssSha384], leaf_critical: &[], extended_key_usage: None };
    /// NVIDIA's chains: of a device, and of who signs reference manifests. All keys are P-384.
    pub(crate) const NVIDIA: Self =
        Self { algorithms: &[signature::Algorithm::EcdsaSha384], leaf_critical: &[], extended_key_usage: None };
    /// An OCSP responder that an issuer of such a chain certified (RFC 6960, section 4.2.2.2).
    pub(crate) const OCSP_RESPONDER: Self = Self {
        algorithms: &[signature::Algorithm::EcdsaSha384],
        leaf_critical: &[EXTENDED_KEY_USAGE],
        extended_key_usage: Some(OCSP_SIGNING),
    };
    /// IAK certificates ("TPM 2.0 Keys for Device Identity and Attestation", section 8): the policies that say what the issuer
    /// verified are for [`iak`](crate::iak) to judge.
    pub(crate) const IAK: Self = Self {
        algorithms: signature::Algorithm::TPM,
        leaf_critical: &[EXTENDED_KEY_USAGE, SUBJECT_ALT_NAME, CERTIFICATE_POLICIES],
        extended_key_usage: Some(TCG_AIK_CERTIFICATE),
    };
}

/// A leaf with a verified path to an anchor.
#[derive(Debug)]
pub(crate) struct VerifiedPath<'a> {
    pub(crate) leaf: Certificate,
    pub(crate) anchor: &'a TrustAnchor,
}

/// Checks `chain`, DER, leaf first, with or without the root at its end, against `anchors` at time `at`.
pub(crate) fn verify_path<'a>(
    chain: &[Vec<u8>],
    anchors: &'a [TrustAnchor],
    profile: &Profile,
    at: UnixTime,
) -> Result<VerifiedPath<'a>, PathError> {
    require_length(chain.len())?;
    let parse =
        |(index, der): (usize, &Vec<u8>)| Certificate::from_der(der).map_err(|source| PathError::Certificate { index, source });
    verify_decoded_path(chain.iter().enumerate().map(parse).collect::<Result<_, _>>()?, anchors, profile, at)
}

/// As [`verify_path`], of certificates that were decoded already.
pub(crate) fn verify_decoded_path<'a>(
    mut path: Vec<Certificate>,
    anchors: &'a [TrustAnchor],
    profile: &Profile,
    at: UnixTime,
) -> Result<VerifiedPath<'a>, PathError> {
    require_length(path.len())?;
    if path.len() > 1 && anchors.iter().any(|anchor| Some(anchor.certificate.der()) == path.last().map(Certificate::der)) {
        path.pop();
    }
    let last = path.last().expect("at least one is left");
    let anchor = find_anchor(last, anchors, profile)?;
    for (index, certificate) in path.iter().enumerate() {
        let issuer = path.get(index + 1).unwrap_or(&anchor.certificate);
        check_link(certificate, issuer, profile)?;
        require_valid_at(certificate, at)?;
        require_ca(issuer, index)?;
    }
    require_valid_at(&anchor.certificate, at)?;
    names::require_permitted(&path, &anchor.certificate)?;
    let leaf = path.swap_remove(0);
    require_leaf(&leaf, profile)?;
    Ok(VerifiedPath { leaf, anchor })
}

fn require_length(len: usize) -> Result<(), PathError> {
    if len == 0 || len > MAX_CHAIN { Err(PathError::Length { len }) } else { Ok(()) }
}

/// The anchor that issued `last`. Several may have its name; then the signature decides.
fn find_anchor<'a>(last: &Certificate, anchors: &'a [TrustAnchor], profile: &Profile) -> Result<&'a TrustAnchor, PathError> {
    let issuer = last.parsed().tbs_certificate().issuer();
    let of_name = || anchors.iter().filter(|anchor| anchor.certificate.parsed().tbs_certificate().subject() == issuer);
    // The link is checked afterwards in any case: with only one of the name there is nothing to decide.
    let (first, only) = (of_name().next(), of_name().nth(1).is_none());
    let signed = |anchor: &&TrustAnchor| only || signed_by(last, &anchor.certificate, profile.algorithms).is_ok();
    // With none that signed, the first of the name, so that the refusal is about the signature.
    of_name().find(signed).or(first).ok_or_else(|| PathError::Untrusted { issuer: last.issuer() })
}

fn check_link(certificate: &Certificate, issuer: &Certificate, profile: &Profile) -> Result<(), PathError> {
    let (named, next) = (certificate.parsed().tbs_certificate().issuer(), issuer.parsed().tbs_certificate().subject());
    if named != next || named.is_empty() {
        let (subject, issuer, next) = (certificate.subject(), certificate.issuer(), issuer.subject());
        return Err(PathError::Order { subject, issuer, next });
    }
    signed_by(certificate, issuer, profile.algorithms)
        .map_err(|source| PathError::Signature { subject: certificate.subject(), source })
}

/// `issuer` signed `certificate` with one of `accepted`.
fn signed_by(certificate: &Certificate, issuer: &Certificate, accepted: &[signature::Algorithm]) -> Result<(), SignatureError> {
    let identifier = certificate.parsed().signature_algorithm();
    let key = issuer.key_der().map_err(|_| SignatureError::Key { oid: identifier.oid })?;
    let bits = certificate.parsed().signature().as_bytes().ok_or(SignatureError::Wrong)?;
    signature::verify(identifier, certificate.signed_bytes(), bits, &key, accepted)
}

fn require_valid_at(certificate: &Certificate, at: UnixTime) -> Result<(), PathError> {
    let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
    if not_before <= at && at <= not_after {
        return Ok(());
    }
    Err(PathError::Time { subject: certificate.subject(), not_before, not_after, at })
}

/// `certificate` may issue another, with `below` intermediates between it and the leaf.
fn require_ca(certificate: &Certificate, below: usize) -> Result<(), PathError> {
    let role = |problem| PathError::Role { subject: certificate.subject(), problem };
    let constraints = basic_constraints(certificate)?;
    let Some(constraints) = constraints.filter(|constraints| constraints.ca) else {
        return Err(role("issues certificates, but its basic constraints do not make it a CA"));
    };
    // For an anchor that is only loaded, `below` is not known yet and the limit is judged later.
    if below < MAX_CHAIN && constraints.path_len_constraint.is_some_and(|most| below > usize::from(most)) {
        return Err(role("issues certificates through more intermediates than its path length allows"));
    }
    if !key_usage(certificate)?.is_some_and(|usage| usage.key_cert_sign()) {
        return Err(role("issues certificates, but its key usage does not say keyCertSign"));
    }
    require_understood(certificate, &[])
}

fn require_leaf(leaf: &Certificate, profile: &Profile) -> Result<(), PathError> {
    let role = |problem| PathError::Role { subject: leaf.subject(), problem };
    if basic_constraints(leaf)?.is_some_and(|constraints| constraints.ca) {
        return Err(role("is a CA where an end-entity certificate is expected"));
    }
    if let Some(needed) = profile.extended_key_usage {
        let usage: Option<ExtendedKeyUsage> = standard(leaf, "extended key usage")?;
        if usage.is_some_and(|usage| !usage.0.contains(&needed)) {
            return Err(role("has an extended key usage, but not the expected one"));
        }
    }
    require_understood(leaf, profile.leaf_critical)
}

fn require_understood(certificate: &Certificate, also: &[ObjectIdentifier]) -> Result<(), PathError> {
    let understood = |oid: &ObjectIdentifier| match *oid {
        BASIC_CONSTRAINTS | KEY_USAGE => true,
        NAME_CONSTRAINTS => names::are_understood(certificate),
        CERTIFICATE_POLICIES => names::policies_are_understood(certificate),
        _ => also.contains(oid),
    };
    match certificate.extensions().iter().find(|extension| extension.critical && !understood(&extension.extn_id)) {
        None => Ok(()),
        Some(extension) => Err(PathError::Critical { subject: certificate.subject(), oid: extension.extn_id }),
    }
}

fn basic_constraints(certificate: &Certificate) -> Result<Option<BasicConstraints>, PathError> {
    standard(certificate, "basic constraints")
}

fn key_usage(certificate: &Certificate) -> Result<Option<KeyUsage>, PathError> {
    standard(certificate, "key usage")
}

fn standard<'a, T>(certificate: &'a Certificate, what: &'static str) -> Result<Option<T>, PathError>
where
    T: x509_cert::der::oid::AssociatedOid + x509_cert::der::Decode<'a>,
{
    let malformed =
        |_| PathError::Role { subject: certificate.subject(), problem: "has a standard extension that is not well-formed" };
    certificate.standard(what).map_err(malformed)
}

const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const SUBJECT_DIRECTORY_ATTRIBUTES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.9");
const NAME_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.30");
const CERTIFICATE_POLICIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.32");
/// tcg-kp-AIKCertificate.
const TCG_AIK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.3");
/// tcg-kp-EKCertificate.
const TCG_EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");
/// id-kp-OCSPSigning.
const OCSP_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");

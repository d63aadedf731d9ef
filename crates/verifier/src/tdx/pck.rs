//! The certificate of a processor's provisioning key.

use p256::{ecdsa::VerifyingKey, pkcs8::DecodePublicKey as _};

use super::{
    extension::{ExtensionError, SgxExtension},
    policy::{Root, TdxPolicy},
    window::{NotCurrent, Window, require_all},
};
use crate::{
    checks::Finding,
    time::UnixTime,
    x509::{Algorithm, Certificate, CertificateError, PathError, Profile, Seen, TrustAnchor, verify_decoded_path},
};

/// A processor whose PCK certificate leads to a pinned root. Comes out of an appraisal, and may be given to the next one of the
/// same processor, which then need not verify the same certificates again; their validity is judged anew each time.
#[derive(Debug)]
pub struct VerifiedPlatform {
    /// The text that was verified.
    pem: Vec<u8>,
    pub(super) leaf: Certificate,
    pub(super) intermediate: Certificate,
    pub(super) root: TrustAnchor,
    pub(super) key: VerifyingKey,
    pub(super) extension: SgxExtension,
    root_subject: String,
    windows: Vec<Window>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PckError {
    #[error("read the PCK certificate chain of the quote")]
    Certificates(#[source] CertificateError),
    #[error("there is other text around the PCK certificates than line ends")]
    Text,
    #[error("the PCK certificate chain has {0} certificates; expected are PCK certificate, PCK CA and root")]
    Length(usize),
    #[error("the chain ends with \"{subject}\" of fingerprint {fingerprint}, which is not Intel's root")]
    Root { subject: String, fingerprint: String },
    #[error("certificate \"{seen}\" stands where one of \"{expected}\" is expected")]
    Name { expected: &'static str, seen: String },
    #[error("the PCK certificate chain")]
    Path(#[from] PathError),
    #[error("read the SGX extension of the PCK certificate")]
    Extension(#[from] ExtensionError),
    #[error("the key in the PCK certificate is not one of P-256")]
    Key,
    #[error("a chain that was verified before")]
    Time(#[from] NotCurrent),
}

impl VerifiedPlatform {
    /// Unique identifier of the processor package within its family (PPID), as its PCK certificate has it.
    pub fn ppid(&self) -> &[u8; 16] {
        &self.extension.ppid
    }

    /// What the machine is known by: the platform instance id where there is one (several packages), else the PPID.
    pub fn identity(&self) -> &[u8; 16] {
        self.extension.platform_instance.as_ref().unwrap_or(&self.extension.ppid)
    }

    /// The processor's family (FMSPC).
    pub fn fmspc(&self) -> &[u8; 6] {
        &self.extension.fmspc
    }

    /// SHA-256 of the root certificate at the end of the chain.
    pub fn root_fingerprint(&self) -> [u8; 32] {
        self.root.certificate.fingerprint()
    }

    /// Subject of that root.
    pub fn root_subject(&self) -> &str {
        &self.root_subject
    }

    /// Verifies the chain in a quote: PCK certificate, PCK CA, root.
    pub(super) fn verify(pem: &[u8], seen: &mut Seen, policy: &TdxPolicy, now: UnixTime) -> Result<Self, PckError> {
        if !is_nothing_else(pem) {
            return Err(PckError::Text);
        }
        let certificates = certificates(pem, seen).map_err(PckError::Certificates)?;
        let [leaf, intermediate, root]: [Certificate; 3] =
            certificates.try_into().map_err(|found: Vec<_>| PckError::Length(found.len()))?;
        let root = anchor(root, policy)?;
        require_name(&leaf, &["Intel SGX PCK Certificate"])?;
        require_name(&intermediate, &["Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"])?;
        let anchors = [root];
        verify_decoded_path(vec![leaf.clone(), intermediate.clone()], &anchors, &INTEL, now)?;
        let [root] = anchors;
        let key = leaf.key_der().ok().and_then(|der| VerifyingKey::from_public_key_der(&der).ok()).ok_or(PckError::Key)?;
        let extension = SgxExtension::of(&leaf)?;
        let windows = [&leaf, &intermediate, &root.certificate].map(Window::of_certificate).to_vec();
        let root_subject = root.certificate.subject();
        Ok(Self { pem: pem.to_vec(), leaf, intermediate, root, key, extension, root_subject, windows })
    }

    /// Whether this is what `pem` holds.
    pub(super) fn is_of(&self, pem: &[u8]) -> bool {
        self.pem == pem
    }

    /// What was verified before is still accepted.
    pub(super) fn require_accepted(&self, policy: &TdxPolicy, now: UnixTime) -> Result<(), PckError> {
        whose(&self.root.certificate, policy)?;
        Ok(require_all(&self.windows, now)?)
    }

    /// The root is not Intel's.
    pub(super) fn is_simulated(&self) -> bool {
        self.root.simulated
    }

    pub(super) fn finding<T>(&self, value: T) -> Finding<T> {
        let mark = if self.is_simulated() { "SIMULATED, " } else { "" };
        let fmspc = hex::encode(self.extension.fmspc);
        Finding::new(value, format!("{mark}processor of family {fmspc} under \"{}\"", self.root_subject))
    }
}

/// Certificates in PEM form. A text that is not UTF-8 holds none.
pub(super) fn certificates(pem: &[u8], seen: &mut Seen) -> Result<Vec<Certificate>, CertificateError> {
    if pem.len() > MAX_CHAIN_BYTES {
        return Err(CertificateError::TooLong { len: pem.len() });
    }
    let text = std::str::from_utf8(pem).map_err(|_| CertificateError::Pem)?;
    seen.all_from_pem(text)
}

/// Around certificates there are line ends and a final zero at most. The signatures do not cover that text, so nothing may hide
/// there.
fn is_nothing_else(pem: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(pem) else {
        return false;
    };
    let mut outside = text.split(BEGIN);
    let is_blank = |text: &str| text.chars().all(|c| matches!(c, '\r' | '\n' | '\0'));
    let first = outside.next().is_some_and(is_blank);
    first && outside.all(|part| part.split_once(END).is_some_and(|(_, after)| is_blank(after)))
}

fn anchor(root: Certificate, policy: &TdxPolicy) -> Result<TrustAnchor, PckError> {
    let simulated = whose(&root, policy)? == Root::Simulated;
    Ok(TrustAnchor::new(root, simulated)?)
}

fn whose(root: &Certificate, policy: &TdxPolicy) -> Result<Root, PckError> {
    let fingerprint = root.fingerprint();
    let unknown = || PckError::Root { subject: root.subject(), fingerprint: hex::encode(fingerprint) };
    policy.root(&fingerprint).ok_or_else(unknown)
}

fn require_name(certificate: &Certificate, expected: &[&'static str]) -> Result<(), PckError> {
    match certificate.common_name() {
        Some(name) if expected.contains(&name.as_str()) => Ok(()),
        _ => Err(PckError::Name { expected: expected[0], seen: certificate.subject() }),
    }
}

/// All certificates of Intel's provisioning service: P-256 with SHA-256, nothing critical beyond the usual.
pub(super) const INTEL: Profile = Profile { algorithms: &[Algorithm::EcdsaSha256], leaf_critical: &[], extended_key_usage: None };
/// Longest text of a chain: far more than three certificates of the size that there is.
const MAX_CHAIN_BYTES: usize = 64 << 10;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

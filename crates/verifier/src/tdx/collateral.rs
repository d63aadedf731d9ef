//! What Intel's provisioning service says beside a quote: TCB info, the quoting enclave's identity, revocation lists.

use std::sync::Arc;

use p256::{
    ecdsa::{Signature, VerifyingKey},
    pkcs8::DecodePublicKey as _,
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    documents::{Date, QeIdentity, TcbInfo},
    pck::{INTEL, VerifiedPlatform, certificates},
    revocation::Lists,
    window::{NotCurrent, What, Window, require_all},
};
use crate::{
    signature::{self, Hash},
    time::UnixTime,
    x509::{Certificate, CertificateError, PathError, Seen, verify_decoded_path},
};

/// Largest collateral, in bytes of JSON text; revocation lists have at most 1 MiB each, in hex.
pub const MAX_COLLATERAL_BYTES: usize = 6 << 20;

/// Collateral that was verified, for one processor family. Comes out of an appraisal, and may be given to the next ones, which
/// then need not verify the same signatures again. Its validity is judged anew each time, and so is what depends on a quote.
#[derive(Debug)]
pub struct VerifiedCollateral {
    pub(super) lists: Arc<Lists>,
    pub(super) tcb_info: Arc<TcbInfo>,
    pub(super) qe_identity: Arc<QeIdentity>,
    pub(super) windows: Vec<Window>,
}

impl VerifiedCollateral {
    /// The first moment at which some part is no longer valid: fetch anew before.
    pub fn valid_until(&self) -> UnixTime {
        self.windows.iter().map(|window| window.to).min().unwrap_or(UnixTime(0))
    }

    pub(super) fn require_current(&self, now: UnixTime) -> Result<(), NotCurrent> {
        require_all(&self.windows, now)
    }
}

/// Collateral that is well-formed. Nothing about it is verified.
#[derive(Debug)]
pub(super) struct Unverified {
    pub(super) pck_crl_issuers: Vec<Certificate>,
    pub(super) root_crl: Vec<u8>,
    pub(super) pck_crl: Vec<u8>,
    pub(super) tcb_info: Signed<TcbInfo>,
    pub(super) qe_identity: Signed<QeIdentity>,
}

/// A document with a signature on its exact text.
#[derive(Debug)]
pub(super) struct Signed<T> {
    text: String,
    signature: Signature,
    pub(super) issuers: Vec<Certificate>,
    content: Arc<T>,
}

/// A TCB signing certificate that was verified.
#[derive(Debug, Clone)]
pub(super) struct Signer {
    der: Vec<u8>,
    key: VerifyingKey,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CollateralError {
    #[error(
        "there is none: TCB info, identity of the quoting enclave and revocation lists of Intel's provisioning service are needed"
    )]
    Missing,
    #[error("{len} bytes are more than the limit of {MAX_COLLATERAL_BYTES}")]
    TooLong { len: usize },
    #[error("read the collateral")]
    Json(#[source] serde_json::Error),
    #[error("read {what}")]
    Document { what: &'static str, source: serde_json::Error },
    #[error("read {what}")]
    Certificates { what: &'static str, source: CertificateError },
    #[error("{what} is not hex, or not of the right length")]
    Hex { what: &'static str },
    #[error("collateral that was verified before")]
    Time(#[from] NotCurrent),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SignedError {
    #[error("the chain of its signer has {0} certificates; expected are TCB signing certificate and root")]
    Length(usize),
    #[error("its signer is \"{seen}\", expected is \"{TCB_SIGNING}\"")]
    Name { seen: String },
    #[error("the chain of its signer does not end with the root of the PCK certificate")]
    Root,
    #[error("the chain of its signer")]
    Path(#[from] PathError),
    #[error("the key of its signer is not one of P-256")]
    Key,
    #[error("the signature is not that of the signer over exactly this text")]
    Signature,
    #[error("a document out of its time")]
    Time(#[from] NotCurrent),
    #[error("it is of version {seen}, expected is {expected}")]
    Version { expected: u32, seen: u32 },
    #[error("it is about \"{seen}\", expected is \"{expected}\"")]
    Id { expected: &'static str, seen: String },
    #[error("it is for {what} {seen}, the processor has {expected}")]
    Platform { what: &'static str, expected: String, seen: String },
    #[error("its TCB type is {0}, which is not known")]
    Type(u32),
    #[error("it is of evaluation {seen}, below the policy's floor of {expected}")]
    Evaluation { expected: u32, seen: u32 },
}

impl Unverified {
    pub(super) fn decode(json: &[u8], seen: &mut Seen) -> Result<Self, CollateralError> {
        if json.is_empty() {
            return Err(CollateralError::Missing);
        }
        if json.len() > MAX_COLLATERAL_BYTES {
            return Err(CollateralError::TooLong { len: json.len() });
        }
        let text: Text = serde_json::from_slice(json).map_err(CollateralError::Json)?;
        let hex = |what, text: &str| hex::decode(text).map_err(|_| CollateralError::Hex { what });
        let mut chain =
            |what, pem: &str| certificates(pem.as_bytes(), seen).map_err(|source| CollateralError::Certificates { what, source });
        let pck_crl_issuers = chain("pck_crl_issuer_chain", &text.pck_crl_issuer_chain)?;
        let (root_crl, pck_crl) = (hex("root_ca_crl", &text.root_ca_crl)?, hex("pck_crl", &text.pck_crl)?);
        let issuers = chain("tcb_info", &text.tcb_info_issuer_chain)?;
        let tcb_info = Signed::decode("tcb_info", text.tcb_info, &text.tcb_info_signature, issuers)?;
        let issuers = chain("qe_identity", &text.qe_identity_issuer_chain)?;
        let qe_identity = Signed::decode("qe_identity", text.qe_identity, &text.qe_identity_signature, issuers)?;
        Ok(Self { pck_crl_issuers, root_crl, pck_crl, tcb_info, qe_identity })
    }
}

impl<T: DeserializeOwned + Document> Signed<T> {
    fn decode(what: &'static str, text: String, signature: &str, issuers: Vec<Certificate>) -> Result<Self, CollateralError> {
        let mut bytes = [0; 64];
        hex::decode_to_slice(signature, &mut bytes).map_err(|_| CollateralError::Hex { what })?;
        let signature = Signature::from_slice(&bytes).map_err(|_| CollateralError::Hex { what })?;
        let content = serde_json::from_str(&text).map_err(|source| CollateralError::Document { what, source })?;
        Ok(Self { text, signature, issuers, content: Arc::new(content) })
    }

    /// The content, signed under the root of `platform`, and current. `known` is a signer that was verified in this appraisal.
    pub(super) fn verify(
        &self,
        platform: &VerifiedPlatform,
        known: Option<&Signer>,
        now: UnixTime,
    ) -> Result<(Arc<T>, Signer), SignedError> {
        let signer = self.signer(platform, known, now)?;
        if !signature::p256(&signer.key, Hash::Sha256, self.text.as_bytes(), &self.signature) {
            return Err(SignedError::Signature);
        }
        self.content.window().require(now)?;
        Ok((Arc::clone(&self.content), signer))
    }

    fn signer(&self, platform: &VerifiedPlatform, known: Option<&Signer>, now: UnixTime) -> Result<Signer, SignedError> {
        let [signer, root] = &self.issuers[..] else {
            return Err(SignedError::Length(self.issuers.len()));
        };
        if root.der() != platform.root.certificate.der() {
            return Err(SignedError::Root);
        }
        if let Some(known) = known.filter(|known| known.der == signer.der()) {
            return Ok(known.clone());
        }
        if signer.common_name().as_deref() != Some(TCB_SIGNING) {
            return Err(SignedError::Name { seen: signer.subject() });
        }
        let path = verify_decoded_path(vec![signer.clone()], std::slice::from_ref(&platform.root), &INTEL, now)?;
        let key = path.leaf.key_der().ok().and_then(|der| VerifyingKey::from_public_key_der(&der).ok());
        Ok(Signer { der: signer.der().to_vec(), key: key.ok_or(SignedError::Key)? })
    }

    /// When it is valid, and its signer's certificate.
    pub(super) fn windows(&self) -> Vec<Window> {
        let mut windows = vec![self.content.window()];
        windows.extend(self.issuers.iter().map(Window::of_certificate));
        windows
    }
}

/// A document that is valid from one date to another.
pub(super) trait Document {
    fn window(&self) -> Window;
}

impl Document for TcbInfo {
    fn window(&self) -> Window {
        window("TCB info", self.issue_date, self.next_update)
    }
}

impl Document for QeIdentity {
    fn window(&self) -> Window {
        window("the identity of the quoting enclave", self.issue_date, self.next_update)
    }
}

fn window(what: &'static str, from: Date, to: Date) -> Window {
    Window { what: What::Named(what), from: from.0, to: to.0 }
}

/// The JSON form in which caching services hand collateral out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    pck_crl_issuer_chain: String,
    /// DER in hex.
    root_ca_crl: String,
    /// DER in hex.
    pck_crl: String,
    tcb_info_issuer_chain: String,
    tcb_info: String,
    tcb_info_signature: String,
    qe_identity_issuer_chain: String,
    qe_identity: String,
    qe_identity_signature: String,
    /// Not read: accepted quotes bring their own.
    #[serde(default, rename = "pck_certificate_chain")]
    _pck_certificate_chain: Option<String>,
}

const TCB_SIGNING: &str = "Intel SGX TCB Signing";

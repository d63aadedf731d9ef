//! The quoting enclave: who it is, that this processor vouches for it, and what it signed.

use casemate_evidence::tdx::{EnclaveReport, Quote};
use p256::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    documents::QeIdentity,
    tcb::{Judged, software_level},
};
use crate::{
    checks::Finding,
    signature::{self, Hash},
};

#[derive(Debug, thiserror::Error)]
pub(super) enum QeError {
    #[error("the quoting enclave is of vendor {0}, which is not Intel")]
    Vendor(String),
    #[error("the report of the quoting enclave is not signed by the PCK of this processor")]
    Signature,
    #[error("{field} of the quoting enclave is {seen}, expected is {expected}{mask}")]
    Identity { field: &'static str, expected: String, seen: String, mask: String },
    #[error("the quoting enclave has SVN {0}, below every level that its identity knows")]
    Level(u16),
    #[error("the report of the quoting enclave does not bind the attestation key and the data beside it")]
    Binding,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum QuoteSignatureError {
    #[error("the attestation key is no point of P-256")]
    Key,
    #[error("the quote is not signed by the attestation key")]
    Wrong,
}

/// The quoting enclave's level, and the attestation key that it vouches for.
pub(super) struct Vouched {
    pub(super) judged: Judged,
    key: [u8; 64],
}

/// Judges the quoting enclave's report by the key of the processor and by Intel's identity for it.
pub(super) fn vouched(quote: &Quote, pck: &VerifyingKey, identity: &QeIdentity) -> Result<Finding<Vouched>, QeError> {
    if quote.header.qe_vendor != INTEL_QE_VENDOR {
        return Err(QeError::Vendor(hex::encode(quote.header.qe_vendor)));
    }
    let (auth, report) = (&quote.auth, &quote.auth.qe_report);
    if !is_signed(pck, &report.bytes, &auth.qe_report_signature) {
        return Err(QeError::Signature);
    }
    require_identity(report, identity)?;
    let judged = software_level(&identity.tcb_levels, report.isv_svn()).ok_or(QeError::Level(report.isv_svn()))?;
    let mut bound = [0; 64];
    bound[..32].copy_from_slice(&Sha256::new().chain_update(auth.attestation_key).chain_update(&auth.qe_auth).finalize());
    if !bool::from(bound.ct_eq(&report.report_data())) {
        return Err(QeError::Binding);
    }
    let detail = format!("Intel's quoting enclave, SVN {}, {}", report.isv_svn(), judged.status);
    Ok(Finding::new(Vouched { judged, key: auth.attestation_key }, detail))
}

fn require_identity(report: &EnclaveReport, identity: &QeIdentity) -> Result<(), QeError> {
    let differs = |field, expected: &[u8], seen: &[u8], mask: &[u8]| {
        let mask = if mask.is_empty() { String::new() } else { format!(" where mask {} has ones", hex::encode(mask)) };
        Err(QeError::Identity { field, expected: hex::encode(expected), seen: hex::encode(seen), mask })
    };
    let (misc, mask) = (report.misc_select(), identity.miscselect_mask);
    if !identity.miscselect.equals(&misc, &mask) {
        return differs("MISCSELECT", &identity.miscselect.0, &misc, &mask.0);
    }
    let (attributes, mask) = (report.attributes(), identity.attributes_mask);
    if !identity.attributes.equals(&attributes, &mask) {
        return differs("ATTRIBUTES", &identity.attributes.0, &attributes, &mask.0);
    }
    if report.mr_signer() != identity.mrsigner.0 {
        return differs("MRSIGNER", &identity.mrsigner.0, &report.mr_signer(), &[]);
    }
    if report.isv_prod_id() != identity.isvprodid {
        return differs("ISVPRODID", &identity.isvprodid.to_be_bytes(), &report.isv_prod_id().to_be_bytes(), &[]);
    }
    Ok(())
}

/// The signature on header and body, by the key that the quoting enclave vouched for.
pub(super) fn signature(quote: &Quote, vouched: &Vouched) -> Result<Finding<()>, QuoteSignatureError> {
    let mut point = [4; 65];
    point[1..].copy_from_slice(&vouched.key);
    let key = VerifyingKey::from_sec1_bytes(&point).map_err(|_| QuoteSignatureError::Key)?;
    if !is_signed(&key, &quote.signed_part(), &quote.auth.signature) {
        return Err(QuoteSignatureError::Wrong);
    }
    Ok(Finding::new((), "ECDSA P-256 by the attestation key"))
}

fn is_signed(key: &VerifyingKey, message: &[u8], signature: &[u8; 64]) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| signature::p256(key, Hash::Sha256, message, &signature))
}

/// UUID 939a7233-f79c-4ca9-940a-0db3957f0607, in the order of the bytes ("Intel TDX DCAP Quoting Library API", appendix A.3).
const INTEL_QE_VENDOR: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];

//! Intel TDX: quotes of a trust domain, by Intel's DCAP steps.
//!
//! ```text
//! root (pinned) -> PCK CA -> PCK certificate -> quoting enclave's report -> attestation key -> quote
//!      \-> TCB signing certificate -> TCB info (which levels are fit?), identity of the quoting enclave
//!      \-> revocation lists of root and PCK CA
//! ```
//!
//! Sources: "Intel TDX DCAP Quoting Library API", PCS API version 4, "Intel TDX Module ABI Specification". The status of the TCB is a
//! result with advisories and dates, and the policy decides which one is fit; strictly, it is `UpToDate` alone.
//!
//! Verified collateral and the verified certificates of a processor come out of a good appraisal and may be given to the next one
//! ([`Endorsements`]); then two signatures are left to verify for a quote.

mod claims;
mod collateral;
mod documents;
mod domain;
mod enclave;
mod expectation;
mod extension;
mod pck;
mod policy;
mod revocation;
mod stages;
mod status;
mod tcb;
mod wanted;
mod window;

use std::sync::Arc;

use casemate_evidence::tdx::TdReport;

pub use claims::{PlatformClaims, TcbClaims, TdxClaims};
pub use collateral::{MAX_COLLATERAL_BYTES, VerifiedCollateral};
pub use expectation::{Expectation, Rtmr, config_id};
pub use pck::VerifiedPlatform;
pub use policy::{INTEL_SGX_ROOT_CA, RootFingerprint, TCB_EVALUATION_FLOOR, TdxPolicy, XFAM_STRICT};
pub use status::TcbStatus;
pub use wanted::{CollateralWanted, PckCa, WantedError, collateral_wanted};

use crate::{
    checks::{Appraised, CheckName},
    time::UnixTime,
};

/// The checks of a quote of a trust domain, in order.
pub const TDX_CHECKS: &[CheckName] = &[
    CheckName::TdxFormat,
    CheckName::TdxKind,
    CheckName::TdxCollateral,
    CheckName::TdxPckChain,
    CheckName::TdxRevocation,
    CheckName::TdxTcbInfo,
    CheckName::TdxQeIdentity,
    CheckName::TdxQeReport,
    CheckName::TdxSignature,
    CheckName::TdxModule,
    CheckName::TdxTcbStatus,
    CheckName::TdxAttributes,
    CheckName::TdxXfam,
    CheckName::TdxMrtd,
    CheckName::TdxRtmr,
    CheckName::TdxConfigId,
    CheckName::TdxReportData,
];

/// What vouches for a quote. Comes from anybody, judged like the evidence.
#[derive(Debug, Clone, Copy)]
pub struct Endorsements<'a> {
    /// From Intel's provisioning service, or a cache of it.
    pub collateral: Collateral<'a>,
    /// The processor's certificates, where they were verified before. Not used if the quote brings others.
    pub platform: Option<&'a Arc<VerifiedPlatform>>,
}

/// Intel's word beside the quote.
#[derive(Debug, Clone, Copy)]
pub enum Collateral<'a> {
    /// None: the quote is refused.
    Missing,
    /// An object with `tcb_info`, `qe_identity`, their signatures and issuer chains, `root_ca_crl` and `pck_crl`.
    Json(&'a [u8]),
    /// What was verified before.
    Verified(&'a Arc<VerifiedCollateral>),
}

/// A trust domain of which every check passed.
#[derive(Debug)]
pub struct VerifiedTdx {
    report: TdReport,
    tcb: TcbClaims,
    platform: Arc<VerifiedPlatform>,
    collateral: Arc<VerifiedCollateral>,
}

impl VerifiedTdx {
    /// What the TDX module says of the domain.
    pub fn report(&self) -> &TdReport {
        &self.report
    }

    /// The status of the TCB, one that the policy accepts.
    pub fn tcb(&self) -> &TcbClaims {
        &self.tcb
    }

    /// The processor; may be given to the next appraisal.
    pub fn platform(&self) -> &Arc<VerifiedPlatform> {
        &self.platform
    }

    /// The collateral; may be given to the next appraisal.
    pub fn collateral(&self) -> &Arc<VerifiedCollateral> {
        &self.collateral
    }

    /// It rests on a root that is not Intel's.
    pub fn is_simulated(&self) -> bool {
        self.platform.is_simulated()
    }
}

/// Appraises a quote. Every check of [`TDX_CHECKS`] is in the result; the first that fails ends it. `event_log` is the content of the
/// ACPI table CCEL; one that is given must match.
pub fn appraise_tdx(
    quote: &[u8],
    event_log: Option<&[u8]>,
    endorsements: &Endorsements<'_>,
    policy: &TdxPolicy,
    expectation: &Expectation<'_>,
    now: UnixTime,
) -> Appraised<VerifiedTdx, TdxClaims> {
    stages::Appraisal::new(stages::Inputs { event_log, endorsements, policy, expectation, now }).run(quote)
}

/// For fuzzing: the SGX extension of a certificate.
pub(crate) fn decode_extension(certificate: &crate::x509::Certificate) {
    let _ = extension::SgxExtension::of(certificate);
}

/// For fuzzing: collateral, before anything of it is verified.
pub(crate) fn decode_collateral(json: &[u8]) {
    let _ = collateral::Unverified::decode(json, &mut crate::x509::Seen::default());
}

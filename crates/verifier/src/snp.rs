//! AMD SEV-SNP: may a report be believed, and is it of the expected guest?
//!
//! [`appraise_snp`] answers that in one go. The certificate chain is the expensive part and the same for every guest of a chip:
//! who appraises often keeps it as a [`SignedChain`], whose signatures were checked once; pins, validity and revocation are
//! judged anew each time. [`launch`] computes the launch measurement that a report should have.
//!
//! Source: "SEV Secure Nested Paging Firmware ABI Specification" (AMD 56860) for the report, "Versioned Chip Endorsement Key
//! (VCEK) Certificate and KDS Interface Specification" (AMD 57230) for the certificates.

mod certificate;
mod chain;
mod claims;
mod endorsement;
pub mod launch;
mod policy;
mod rules;
mod verified;

use casemate_evidence::snp::AttestationReport;
pub use casemate_evidence::snp::{Cpuid, FirmwareVersion, Generation, SigningKey, Tcb};

pub use self::{
    certificate::SignerCertificateError,
    chain::{ChainError, SignedChain},
    claims::{GuestPolicyClaims, PlatformClaims, SnpClaims},
    endorsement::{Endorsements, amd_root_fingerprint},
    policy::{
        AbiVersion, BitRule, GenerationRule, GuestPolicyRule, PlatformRule, RevocationRule, SignerRule, SimulatedRoot, SnpPolicy,
    },
    verified::VerifiedSnp,
};
use crate::{
    checks::{Appraised, CheckName, Finding, Ledger, Stop},
    time::UnixTime,
};

/// The checks of an SNP report, in order.
pub const SNP_CHECKS: &[CheckName] = &[
    CheckName::SnpFormat,
    CheckName::SnpSigner,
    CheckName::SnpChain,
    CheckName::SnpGeneration,
    CheckName::SnpRevocation,
    CheckName::SnpChipId,
    CheckName::SnpTcb,
    CheckName::SnpSignature,
    CheckName::SnpTcbFloor,
    CheckName::SnpGuestPolicy,
    CheckName::SnpPlatformInfo,
    CheckName::SnpVmpl,
    CheckName::SnpIdentity,
    CheckName::SnpMeasurement,
    CheckName::SnpHostData,
    CheckName::SnpReportData,
];

/// What this very report must say.
#[derive(Debug, Clone)]
pub struct Expectation<'a> {
    /// Launch measurements, any of which will do. An empty list accepts none.
    pub measurements: &'a [[u8; 48]],
    /// HOST_DATA: the workload digest.
    pub host_data: [u8; 32],
    /// REPORT_DATA: binds nonce and guest keys.
    pub report_data: [u8; 64],
    /// Privilege level that asked for the report, 0 to 3; 0 without an SVSM.
    pub vmpl: u8,
    /// The ID block.
    pub identity: Identity,
    /// CHIP_IDs that are no longer trusted.
    pub revoked_chips: &'a [[u8; 64]],
}

/// What is expected of the ID block, which the owner of a guest may sign (56860, "Identity Block").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// There is none: every field of it is zero.
    Absent,
    /// This one.
    Signed {
        /// SHA-384 of the key that signed it.
        id_key_digest: [u8; 48],
        /// SHA-384 of the key that certified that key; `None`: it was not certified.
        author_key_digest: Option<[u8; 48]>,
        /// FAMILY_ID.
        family_id: [u8; 16],
        /// IMAGE_ID.
        image_id: [u8; 16],
        /// Least GUEST_SVN.
        min_guest_svn: u32,
    },
    /// Whatever is there; shows in the claims' warnings.
    DangerAny,
}

/// Judges `report` with the vendor's `endorsements` at time `now`.
pub fn appraise_snp(
    report: &[u8],
    endorsements: &Endorsements<'_>,
    policy: &SnpPolicy,
    expectation: &Expectation<'_>,
    now: UnixTime,
) -> Appraised<VerifiedSnp, SnpClaims> {
    let mut ledger = Ledger::new(SNP_CHECKS);
    let mut claims = None;
    let found = judge(&mut ledger, &mut claims, report, &Inputs { endorsements, policy, expectation, now });
    Appraised::close(ledger, claims, found)
}

struct Inputs<'a> {
    endorsements: &'a Endorsements<'a>,
    policy: &'a SnpPolicy,
    expectation: &'a Expectation<'a>,
    now: UnixTime,
}

fn judge(ledger: &mut Ledger, claims: &mut Option<SnpClaims>, bytes: &[u8], inputs: &Inputs<'_>) -> Result<VerifiedSnp, Stop> {
    let Inputs { endorsements, policy, expectation, now } = *inputs;
    let decoded = AttestationReport::decode(bytes);
    let report =
        ledger.enter(CheckName::SnpFormat, decoded.map(|report| Finding::new(report, format!("{} bytes", bytes.len()))))?;
    let claims = claims.insert(SnpClaims::of(&report, policy, &expectation.identity));
    ledger.enter(CheckName::SnpSigner, endorsement::judge_signer(&report, policy))?;

    let chain = endorsements.chain();
    let judged = chain.and_then(|chain| endorsement::judge_chain(chain, &report, policy, now));
    let trusted = ledger.enter(CheckName::SnpChain, judged)?;
    claims.add_chain(&report, &trusted);
    let rule = ledger.enter(CheckName::SnpGeneration, endorsement::judge_generation(&report, &trusted, policy))?;
    let checked = ledger.enter(CheckName::SnpRevocation, endorsements.judge_revocation(&trusted, policy, now))?;
    claims.revocation_checked = checked;
    // Each TCB of each chip has a key of its own, so the signature would fail, too; these two say why.
    let chip_id = ledger.enter(CheckName::SnpChipId, endorsement::judge_chip(&report, &trusted, expectation.revoked_chips))?;
    let generation = trusted.generation();
    ledger.enter(CheckName::SnpTcb, rules::reported_tcb(&report, generation, trusted.tcb()))?;
    ledger.enter(CheckName::SnpSignature, endorsement::judge_signature(bytes, &report, &trusted))?;

    ledger.enter(CheckName::SnpTcbFloor, rules::tcb_floor(&report, generation, rule, policy.danger_provisional_firmware))?;
    ledger.enter(CheckName::SnpGuestPolicy, rules::guest_policy(report.policy, &policy.guest))?;
    ledger.enter(CheckName::SnpPlatformInfo, rules::platform_info(report.platform_info, &policy.platform))?;
    ledger.enter(CheckName::SnpVmpl, rules::vmpl(&report, expectation.vmpl))?;
    ledger.enter(CheckName::SnpIdentity, rules::identity(&report, &expectation.identity))?;
    ledger.enter(CheckName::SnpMeasurement, rules::measurement(&report.measurement, expectation.measurements))?;
    ledger.enter(CheckName::SnpHostData, rules::equal(&expectation.host_data, &report.host_data))?;
    ledger.enter(CheckName::SnpReportData, rules::equal(&expectation.report_data, &report.report_data))?;
    Ok(VerifiedSnp::new(&report, chip_id, &trusted))
}

/// For fuzzing: what a signing certificate says.
pub(crate) fn decode_certificate(certificate: &crate::x509::Certificate) {
    let _ = certificate::SignerCertificate::of(certificate);
}

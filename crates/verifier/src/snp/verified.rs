//! A report that passed.

use casemate_evidence::snp::{AttestationReport, Generation, SigningKey};

use super::endorsement::TrustedChain;

/// What a report says of its guest. Exists only if every check passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedSnp {
    generation: Generation,
    signing_key: SigningKey,
    chip_id: Option<[u8; 64]>,
    measurement: [u8; 48],
    host_data: [u8; 32],
    report_data: [u8; 64],
    root: [u8; 32],
    simulated: bool,
}

impl VerifiedSnp {
    pub(super) fn new(report: &AttestationReport, chip_id: Option<[u8; 64]>, trusted: &TrustedChain<'_>) -> Self {
        Self {
            generation: trusted.generation(),
            signing_key: report.signing_key,
            chip_id,
            measurement: report.measurement,
            host_data: report.host_data,
            report_data: report.report_data,
            root: *trusted.root_fingerprint(),
            simulated: trusted.simulated(),
        }
    }

    /// Generation of the processor.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What signed the report: VCEK or VLEK.
    pub fn signing_key(&self) -> SigningKey {
        self.signing_key
    }

    /// The chip. `None` where a VLEK signed and the platform hides it. With a VLEK it is only firmware's word; with a VCEK the
    /// certificate says the same.
    pub fn chip_id(&self) -> Option<&[u8; 64]> {
        self.chip_id.as_ref()
    }

    /// The launch measurement.
    pub fn measurement(&self) -> &[u8; 48] {
        &self.measurement
    }

    /// HOST_DATA.
    pub fn host_data(&self) -> &[u8; 32] {
        &self.host_data
    }

    /// REPORT_DATA.
    pub fn report_data(&self) -> &[u8; 64] {
        &self.report_data
    }

    /// SHA-256 of the root certificate at the end of the chain.
    pub fn root_fingerprint(&self) -> &[u8; 32] {
        &self.root
    }

    /// The chain ends at a root that is not AMD's, which the policy allowed.
    pub fn simulated(&self) -> bool {
        self.simulated
    }
}

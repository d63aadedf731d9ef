//! NVIDIA GPUs and NVSwitches: measurements that a device signs for a nonce (SPDM).
//!
//! ```text
//! report ── signed by ── leaf ── … ── NVIDIA Device Identity CA        gpu.chain, gpu.revocation, gpu.signature, gpu.nonce
//!   │ measurements
//! manifests of driver and VBIOS ── … ── NVIDIA CoRIM signing Root CA   gpu.rim, gpu.identity, gpu.measurements
//! ```
//!
//! * [`appraise_gpu`]: one device. [`appraise_gpus`]: all of an instance, and their number.
//! * [`VerifiedChain`], [`VerifiedManifest`]: what a caller may keep, so that only the report's signature is left to verify.
//! * A good verdict does not show that a device is on this machine's bus (no TDISP); the claims say so.

mod chain;
mod claims;
mod der;
mod device;
mod dsig;
mod fleet;
mod fwid;
mod manifest;
mod ocsp;
mod policy;
mod status;
mod swid;
mod wanted;
mod xml;

use std::collections::VecDeque;

use casemate_evidence::nvidia::{DeviceEvidence, DeviceKind, Field, MAX_DEVICES, Report};

pub use chain::{ChainError, DEVICE_ROOT, MANIFEST_ROOT, VerifiedChain, chain_from_pem};
pub use claims::GpuClaims;
pub use device::{ManifestIds, appraise_gpu, manifest_ids};
pub use dsig::DsigError;
pub use fwid::FwidError;
pub use manifest::{Manifest, ManifestDocument, ManifestError, VerifiedManifest};
pub use ocsp::OcspError;
pub use policy::{DeviceCount, Fingerprint, GpuExpectation, GpuMode, GpuPolicy};
pub use status::{MAX_SOURCES, Revocation, StatusError};
pub use swid::SwidError;
pub use wanted::{QuestionError, chip_named_by, device_questions, manifest_chain, manifest_questions};
pub use xml::XmlError;

use crate::{
    checks::{Appraised, Check, CheckName, Finding, Ledger, Outcome, Stop},
    time::UnixTime,
};

/// The checks of one device, in order.
pub const GPU_DEVICE_CHECKS: &[CheckName] = &[
    CheckName::GpuFormat,
    CheckName::GpuChain,
    CheckName::GpuRevocation,
    CheckName::GpuSignature,
    CheckName::GpuNonce,
    CheckName::GpuRim,
    CheckName::GpuIdentity,
    CheckName::GpuMeasurements,
    CheckName::GpuMode,
];

/// The checks of all devices of an instance, in order: each is passed only if each device passes it.
pub const GPU_CHECKS: &[CheckName] = &[
    CheckName::GpuFormat,
    CheckName::GpuChain,
    CheckName::GpuRevocation,
    CheckName::GpuSignature,
    CheckName::GpuNonce,
    CheckName::GpuRim,
    CheckName::GpuIdentity,
    CheckName::GpuMeasurements,
    CheckName::GpuMode,
    CheckName::GpuCount,
];

/// What there is to judge devices by.
#[derive(Debug, Clone, Copy, Default)]
pub struct GpuEndorsements<'a> {
    /// Chains that the caller verified before.
    pub chains: &'a [VerifiedChain],
    /// Reference manifests; only those that a device needs are looked at.
    pub manifests: &'a [Manifest<'a>],
    /// What is known about revocation, of devices' chains and of who signed manifests.
    pub revocation: Revocation<'a>,
}

/// A device that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedGpu {
    kind: DeviceKind,
    model: String,
    ueid: String,
    identity: [u8; 32],
    driver_version: Option<String>,
    mode: Option<GpuMode>,
    pdis: Vec<[u8; 8]>,
    gpu_pdis: Vec<[u8; 8]>,
    warnings: Vec<String>,
}

impl VerifiedGpu {
    fn new(kind: DeviceKind, report: &Report<'_>, chain: &VerifiedChain, mode: Option<GpuMode>, claims: &GpuClaims) -> Self {
        let opaque = &report.response.opaque;
        let gpu_pdis = match kind {
            DeviceKind::Gpu => None,
            DeviceKind::Switch => opaque.pdis(Field::SWITCH_GPU_PDIS, claims::GPUS_AT_SWITCH),
        };
        Self {
            kind,
            model: chain.model().to_owned(),
            ueid: chain.ueid().to_owned(),
            identity: chain.identity(),
            driver_version: claims.driver_version.clone(),
            mode,
            pdis: opaque.pdis(Field::PDI, claims::MAX_LINKS).unwrap_or_default(),
            gpu_pdis: gpu_pdis.unwrap_or_default(),
            warnings: claims.warnings.clone(),
        }
    }

    /// GPU or switch.
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// The chip: `GH100`.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Serial number of the device's certificate, in hex.
    pub fn ueid(&self) -> &str {
        &self.ueid
    }

    /// SHA-256 of the device's public key, which the vendor certified.
    pub fn identity(&self) -> [u8; 32] {
        self.identity
    }

    /// Version of the driver.
    pub fn driver_version(&self) -> Option<&str> {
        self.driver_version.as_deref()
    }

    /// Mode of a GPU.
    pub fn mode(&self) -> Option<GpuMode> {
        self.mode
    }

    /// What this verdict does not mean.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A GPU: the switches at it. A switch: itself.
    pub(crate) fn pdis(&self) -> &[[u8; 8]] {
        &self.pdis
    }

    pub(crate) fn gpu_pdis(&self) -> &[[u8; 8]] {
        &self.gpu_pdis
    }
}

/// All devices of an instance, as many as it was promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedGpus(Vec<VerifiedGpu>);

impl VerifiedGpus {
    /// In the order of the evidence.
    pub fn devices(&self) -> &[VerifiedGpu] {
        &self.0
    }
}

/// Appraises all GPUs and switches of an instance. Where a device fails, the check's detail names it, and its claims name the
/// check.
pub fn appraise_gpus(
    evidence: &[DeviceEvidence],
    endorsements: &GpuEndorsements<'_>,
    policy: &GpuPolicy,
    expectation: &GpuExpectation,
    now: UnixTime,
) -> Appraised<VerifiedGpus, Vec<GpuClaims>> {
    let mut ledger = Ledger::new(GPU_CHECKS);
    if evidence.is_empty() || evidence.len() > MAX_DEVICES {
        let found: Result<Finding<()>, _> = Err(Refused::Number { len: evidence.len() });
        let stop = ledger.enter(CheckName::GpuFormat, found).map(|()| VerifiedGpus(vec![]));
        return Appraised::close(ledger, None, stop);
    }
    let appraise = |device| appraise_gpu(device, endorsements, policy, &expectation.nonce, now);
    let devices: Vec<_> = evidence.iter().map(appraise).collect();
    let claims: Vec<_> = devices.iter().filter_map(|device| device.claims().cloned()).collect();
    let found = together(&mut ledger, &devices, expectation);
    Appraised::close(ledger, Some(claims), found)
}

fn together(
    ledger: &mut Ledger,
    devices: &[Appraised<VerifiedGpu, GpuClaims>],
    expectation: &GpuExpectation,
) -> Result<VerifiedGpus, Stop> {
    let mut columns: Vec<VecDeque<&Check>> = devices.iter().map(|device| device.checks().iter().collect()).collect();
    for name in GPU_DEVICE_CHECKS {
        let row: Vec<_> = columns.iter_mut().filter_map(VecDeque::pop_front).collect();
        ledger.enter(*name, all_pass(&row, devices))?;
    }
    let verified: Vec<_> = devices.iter().filter_map(|device| device.verified().cloned()).collect();
    ledger.enter(CheckName::GpuCount, fleet::require_fleet(&verified, expectation))?;
    Ok(VerifiedGpus(verified))
}

/// One check of every device.
fn all_pass(row: &[&Check], devices: &[Appraised<VerifiedGpu, GpuClaims>]) -> Result<Finding<()>, Refused> {
    match row.iter().position(|check| check.outcome != Outcome::Pass) {
        None => Ok(Finding::new((), row.first().map(|check| each(row.len(), check)).unwrap_or_default())),
        Some(index) => {
            let claims = devices[index].claims();
            let ueid = claims.map(|claims| claims.ueid.clone()).filter(|ueid| !ueid.is_empty());
            Err(Refused::Device {
                index,
                ueid: ueid.unwrap_or("of unknown identity".to_owned()),
                detail: row[index].detail.clone(),
            })
        }
    }
}

fn each(len: usize, first: &Check) -> String {
    if len == 1 { first.detail.clone() } else { format!("{len} devices; the first: {}", first.detail) }
}

/// Why a check is not passed by all.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("evidence of {len} devices; 1 to {MAX_DEVICES} are accepted")]
    Number { len: usize },
    #[error("device {index}, {ueid}: {detail}")]
    Device { index: usize, ueid: String, detail: String },
}

/// For fuzzing: a response about `certificate`, which issued itself.
pub(crate) fn decode_ocsp(response: &[u8], certificate: &crate::x509::Certificate, at: UnixTime) {
    let _ = ocsp::answer(response, certificate, certificate, at);
}

/// For fuzzing: what a manifest says, without its signature.
pub(crate) fn decode_manifest_content(content: &[u8]) {
    let _ = swid::Swid::parse(content);
}

/// For fuzzing: the digest of the firmware in a certificate.
pub(crate) fn decode_firmware_id(leaf: &crate::x509::Certificate) {
    let _ = fwid::firmware_id(leaf, &[]);
}

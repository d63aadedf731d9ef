//! The appraisal of one device.

use std::borrow::Cow;

use casemate_evidence::nvidia::{DeviceEvidence, DeviceKind, Field, Report, ReportError, split_signature};
use p384::ecdsa::Signature;

use super::{
    GPU_DEVICE_CHECKS, GpuEndorsements, VerifiedGpu,
    chain::{ChainError, DEVICE_ROOT, MANIFEST_ROOT, VerifiedChain},
    claims::{DISABLED, ENABLED, GpuClaims, NO_REVOCATION, PLAIN_NVLINK, SIMULATED, bios_version, stated_mode},
    manifest::{ManifestError, VerifiedManifest, find},
    policy::{Fingerprint, GpuMode, GpuPolicy},
    status::StatusError,
};
use crate::{
    checks::{Appraised, CheckName, Finding, Ledger, Mismatch, Stop},
    signature::{self, Hash},
    time::UnixTime,
};

/// Why a report is not accepted, beyond its certificates and manifests.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("read the report")]
    Report(#[source] ReportError),
    #[error("the report was not asked for with {what}")]
    Request { what: &'static str },
    #[error("the signature on the report is not that of the leaf's key")]
    Signature,
    #[error("the digest of the firmware that signed")]
    Firmware(#[source] Mismatch),
    #[error("the report names the firmware that signed it, but the leaf certificate has no digest of it")]
    FirmwareUncertified,
    #[error("the {what} of the manifest")]
    Manifest { what: &'static str, source: Mismatch },
    #[error("measurement {index} is active in both manifests")]
    Conflict { index: u16 },
    #[error("measurement {index} is missing")]
    Missing { index: u16 },
    #[error("measurement {index} ({manifest}) is {seen}, none of the {alternatives} reference values")]
    Measurement { index: u16, manifest: &'static str, seen: String, alternatives: usize },
    #[error("whether NVDEC0 is there is not said, so measurement {NVDEC0} cannot be judged")]
    Nvdec0,
    #[error("the fields that say the mode are unknown or contradict each other")]
    ModeUnclear,
    #[error("the mode is {mode}, which the policy does not accept")]
    Mode { mode: GpuMode },
}

/// Appraises one GPU or switch: is it one of the vendor's, does it run what the vendor published, and does it answer `nonce`?
///
/// That says nothing about how many there are; see [`appraise_gpus`](super::appraise_gpus).
pub fn appraise_gpu(
    evidence: &DeviceEvidence,
    endorsements: &GpuEndorsements<'_>,
    policy: &GpuPolicy,
    nonce: &[u8; 32],
    now: UnixTime,
) -> Appraised<VerifiedGpu, GpuClaims> {
    let mut ledger = Ledger::new(GPU_DEVICE_CHECKS);
    let mut claims = None;
    let run = Run { evidence, endorsements, policy, nonce, now };
    let found = run.all(&mut ledger, &mut claims);
    Appraised::close(ledger, claims, found)
}

/// As [`Ledger::enter`], and a refusal shows in the claims.
fn enter<T, E: std::error::Error>(
    ledger: &mut Ledger,
    claims: &mut GpuClaims,
    name: CheckName,
    found: Result<Finding<T>, E>,
) -> Result<T, Stop> {
    ledger.enter(name, found).inspect_err(|_| claims.refused = Some(name.to_string()))
}

struct Run<'a> {
    evidence: &'a DeviceEvidence,
    endorsements: &'a GpuEndorsements<'a>,
    policy: &'a GpuPolicy,
    nonce: &'a [u8; 32],
    now: UnixTime,
}

/// The manifests for a device: a switch has no driver of its own.
struct Manifests<'a> {
    driver: Option<Cow<'a, VerifiedManifest>>,
    bios: Cow<'a, VerifiedManifest>,
    ids: Vec<String>,
}

impl Run<'_> {
    fn all(&self, ledger: &mut Ledger, claims: &mut Option<GpuClaims>) -> Result<VerifiedGpu, Stop> {
        let kind = self.evidence.kind;
        let report = ledger.enter(CheckName::GpuFormat, self.report())?;
        let claims = claims.insert(GpuClaims::of_report(kind, &report));
        let chain = enter(ledger, claims, CheckName::GpuChain, self.chain())?;
        claims.of_chain(&chain);
        let known_at = enter(ledger, claims, CheckName::GpuRevocation, self.revocation(&chain))?;
        claims.revocation_known_at = known_at;
        enter(ledger, claims, CheckName::GpuSignature, self.signature(&chain))?;
        enter(ledger, claims, CheckName::GpuNonce, self.answers(&report))?;
        let manifests = enter(ledger, claims, CheckName::GpuRim, self.manifests(&report, &chain))?;
        claims.manifests.clone_from(&manifests.ids);
        claims.simulated = is_simulated(chain.root(), manifests.each().map(|(_, manifest)| manifest.root()));
        enter(ledger, claims, CheckName::GpuIdentity, self.identity(&report, &chain, &manifests))?;
        enter(ledger, claims, CheckName::GpuMeasurements, self.measurements(&report, &manifests))?;
        let mode = enter(ledger, claims, CheckName::GpuMode, self.mode(&report))?;
        let doubts = [
            (claims.simulated, SIMULATED),
            (claims.revocation_known_at.is_none(), NO_REVOCATION),
            (mode == Some(GpuMode::ProtectedPcie), PLAIN_NVLINK),
        ];
        for (_, warning) in doubts.iter().filter(|(applies, _)| *applies) {
            claims.warn(warning);
        }
        Ok(VerifiedGpu::new(kind, &report, &chain, mode, claims))
    }

    fn report(&self) -> Result<Finding<Report<'_>>, DeviceError> {
        let report = Report::parse(&self.evidence.report).map_err(DeviceError::Report)?;
        if report.request.param1 & SIGNATURE_REQUESTED == 0 {
            return Err(DeviceError::Request { what: "a signature" });
        }
        if report.request.param2 != ALL_MEASUREMENTS {
            return Err(DeviceError::Request { what: "all measurements" });
        }
        let detail = format!("SPDM 1.1, {} measurements", report.response.blocks.len());
        Ok(Finding::new(report, detail))
    }

    fn chain(&self) -> Result<Finding<Cow<'_, VerifiedChain>>, ChainError> {
        let known = self.endorsements.chains.iter().find(|known| known.is_of(&self.evidence.chain));
        let chain = match known {
            Some(chain) => chain.require(self.policy, self.now).map(|()| Cow::Borrowed(chain))?,
            None => Cow::Owned(VerifiedChain::path(&self.evidence.chain, self.policy, self.now)?),
        };
        let detail = format!("{} {} leads to root {}", chain.model(), chain.ueid(), chain.root());
        Ok(Finding::new(chain, detail))
    }

    fn revocation(&self, chain: &VerifiedChain) -> Result<Finding<Option<u64>>, StatusError> {
        if self.policy.danger_without_revocation {
            return Ok(Finding::new(None, NO_REVOCATION));
        }
        let window = chain.require_status(&self.endorsements.revocation, self.policy, self.now)?;
        Ok(Finding::new(Some(window.this_update.0), format!("nothing was revoked at {}", window.this_update)))
    }

    fn signature(&self, chain: &VerifiedChain) -> Result<Finding<()>, DeviceError> {
        let (signed, signature) = split_signature(&self.evidence.report).ok_or(DeviceError::Signature)?;
        let signature = Signature::from_slice(signature).map_err(|_| DeviceError::Signature)?;
        if !signature::p384(chain.key(), Hash::Sha384, signed, &signature) {
            return Err(DeviceError::Signature);
        }
        Ok(Finding::new((), "signed by the leaf's key"))
    }

    fn answers(&self, report: &Report<'_>) -> Result<Finding<()>, Mismatch> {
        Mismatch::unless_equal(self.nonce, &report.request.nonce)?;
        Ok(Finding::new((), "it answers the expected nonce"))
    }

    fn manifests(&self, report: &Report<'_>, chain: &VerifiedChain) -> Result<Finding<Manifests<'_>>, ManifestError> {
        let ids = manifest_ids(self.evidence.kind, chain.model(), report)?;
        let GpuEndorsements { manifests, revocation, .. } = self.endorsements;
        let find = |id: &str| find(id, manifests, revocation, self.policy, self.now);
        let driver = ids.driver.as_deref().map(find).transpose()?;
        let bios = find(&ids.bios)?;
        let ids: Vec<_> = ids.driver.into_iter().chain([ids.bios]).collect();
        let detail = ids.join(", ");
        Ok(Finding::new(Manifests { driver, bios, ids }, detail))
    }

    fn identity(
        &self,
        report: &Report<'_>,
        chain: &VerifiedChain,
        manifests: &Manifests<'_>,
    ) -> Result<Finding<()>, DeviceError> {
        if let Some(seen) = report.response.opaque.field(Field::FWID) {
            let certified = chain.fwid().ok_or(DeviceError::FirmwareUncertified)?;
            if seen != certified {
                return Err(DeviceError::Firmware(Mismatch::new(hex::encode(certified), hex::encode(seen))));
            }
        }
        let driver = report.response.opaque.text(Field::DRIVER_VERSION);
        let bios = bios_version(self.evidence.kind, report);
        for (what, manifest) in manifests.each() {
            let version = if what == DRIVER { driver } else { bios.as_deref() }.unwrap_or_default();
            require_same(version, manifest.version(), "version")?;
            require_same(chain.model(), &manifest.product().replace('_', ""), "product")?;
        }
        let driver = driver.filter(|_| manifests.driver.is_some()).unwrap_or("none");
        Ok(Finding::new((), format!("{}, driver {driver}, VBIOS {}", chain.model(), bios.unwrap_or_default())))
    }

    /// Every active measurement of the manifests, as NVIDIA's verifiers compare them: one index is active in one manifest only,
    /// and what concerns NVDEC0 does not count where that is disabled.
    fn measurements(&self, report: &Report<'_>, manifests: &Manifests<'_>) -> Result<Finding<()>, DeviceError> {
        if let Some(driver) = &manifests.driver
            && let Some(index) = driver.content.active.keys().find(|index| manifests.bios.content.active.contains_key(index))
        {
            return Err(DeviceError::Conflict { index: *index });
        }
        let mut compared = 0;
        for (manifest, (&index, values)) in manifests.each().flat_map(|(what, m)| m.content.active.iter().map(move |v| (what, v)))
        {
            if index == NVDEC0 && self.evidence.kind == DeviceKind::Gpu {
                match report.response.opaque.byte(Field::NVDEC0_STATUS) {
                    Some(DISABLED) => continue,
                    Some(ENABLED) => {}
                    _ => return Err(DeviceError::Nvdec0),
                }
            }
            let seen = report.measurement(index).ok_or(DeviceError::Missing { index })?;
            if !values.iter().any(|value| value == seen) {
                let (seen, alternatives) = (hex::encode(seen), values.len());
                return Err(DeviceError::Measurement { index, manifest, seen, alternatives });
            }
            compared += 1;
        }
        Ok(Finding::new((), format!("{compared} measurements are reference values")))
    }

    fn mode(&self, report: &Report<'_>) -> Result<Finding<Option<GpuMode>>, DeviceError> {
        if self.evidence.kind == DeviceKind::Switch {
            return Ok(Finding::new(None, "a switch has no mode of its own"));
        }
        let mode = stated_mode(report).ok_or(DeviceError::ModeUnclear)?;
        if !self.policy.modes.contains(&mode) {
            return Err(DeviceError::Mode { mode });
        }
        Ok(Finding::new(Some(mode), format!("mode {mode}; in a development mode other measurements would be seen")))
    }
}

impl Manifests<'_> {
    fn each(&self) -> impl Iterator<Item = (&'static str, &VerifiedManifest)> {
        self.driver.as_deref().map(|driver| (DRIVER, driver)).into_iter().chain([(BIOS, &*self.bios)])
    }
}

/// The ids that the vendor publishes the manifests for a device by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestIds {
    /// Of the driver. A switch has none.
    pub driver: Option<String>,
    /// Of the VBIOS, or the BIOS of a switch.
    pub bios: String,
}

/// The ids of the manifests for a device that made `report`, whose chip is `model`, verified or not: to fetch them.
pub fn manifest_ids(kind: DeviceKind, model: &str, report: &Report<'_>) -> Result<ManifestIds, ManifestError> {
    let unnamed = |problem| ManifestError::Unnamed { problem };
    let opaque = &report.response.opaque;
    let text = |field, problem| opaque.text(field).filter(|text| !text.is_empty()).ok_or(unnamed(problem));
    let bios = bios_version(kind, report).ok_or(unnamed("the version of the VBIOS is missing"))?.replace('.', "");
    match (kind, model) {
        (DeviceKind::Gpu, "GH100" | "GB100") => {
            let driver = text(Field::DRIVER_VERSION, "the version of the driver is missing")?;
            let prefix = if model == "GH100" { "NV_GPU_DRIVER_GH100" } else { "NV_GPU_CC_DRIVER_GB100" };
            let project = text(Field::PROJECT, "the project is missing")?;
            let project_sku = text(Field::PROJECT_SKU, "the SKU of the project is missing")?;
            let chip_sku = text(Field::CHIP_SKU, "the SKU of the chip is missing")?;
            let bios = format!("NV_GPU_VBIOS_{project}_{project_sku}_{chip_sku}_{bios}");
            Ok(ManifestIds { driver: Some(format!("{prefix}_{driver}")), bios })
        }
        (DeviceKind::Switch, "LS10") => Ok(ManifestIds { driver: None, bios: format!("NV_SWITCH_BIOS_5612_0002_890_{bios}") }),
        _ => Err(unnamed("the chip is none that manifests are known for, or another kind of device")),
    }
}

/// The device's root, or one of those who signed its manifests, is not the vendor's.
fn is_simulated(device: Fingerprint, mut manifests: impl Iterator<Item = Fingerprint>) -> bool {
    device != DEVICE_ROOT || manifests.any(|root| root != MANIFEST_ROOT)
}

fn require_same(seen: &str, of_manifest: &str, what: &'static str) -> Result<(), DeviceError> {
    if !seen.is_empty() && seen.eq_ignore_ascii_case(of_manifest) {
        return Ok(());
    }
    Err(DeviceError::Manifest { what, source: Mismatch::new(seen, of_manifest) })
}

const SIGNATURE_REQUESTED: u8 = 1;
const ALL_MEASUREMENTS: u8 = 0xff;
/// The measurement that concerns NVDEC0.
const NVDEC0: u16 = 35;
const DRIVER: &str = "driver";
const BIOS: &str = "VBIOS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_root_that_is_not_the_vendors_makes_it_simulated() {
        let own = Fingerprint([1; 32]);
        let judged = |device, manifests: &[Fingerprint]| is_simulated(device, manifests.iter().copied());
        assert!(!judged(DEVICE_ROOT, &[MANIFEST_ROOT, MANIFEST_ROOT]));
        assert!(judged(own, &[MANIFEST_ROOT, MANIFEST_ROOT]));
        assert!(judged(DEVICE_ROOT, &[MANIFEST_ROOT, own]));
        assert!(judged(DEVICE_ROOT, &[own, MANIFEST_ROOT]));
        // Each root in its own place only.
        assert!(judged(MANIFEST_ROOT, &[MANIFEST_ROOT]));
        assert!(judged(DEVICE_ROOT, &[DEVICE_ROOT]));
    }
}

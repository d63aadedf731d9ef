//! What one device says of itself.

use casemate_evidence::nvidia::{DeviceKind, Field, Report, switch_bios_version, vbios_version};
use serde::{Deserialize, Serialize};

use super::{chain::VerifiedChain, policy::GpuMode};

/// What a device says of itself, for people and for appraisal policies. True only where the verdict is good.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuClaims {
    /// `gpu` or `switch`.
    pub kind: String,
    /// Chip, by the certificate: `GH100`. Empty until the chain is verified, like the next four.
    pub model: String,
    /// Serial number in the leaf certificate.
    pub serial: Option<String>,
    /// Serial number of the device's certificate, in hex.
    pub ueid: String,
    /// SHA-256 of the device's public key, in hex.
    pub identity: String,
    /// SHA-256 of the root certificate, in hex.
    pub root: String,
    /// The root, or one of a manifest, is of a simulator.
    pub simulated: bool,
    /// Version of the driver.
    pub driver_version: Option<String>,
    /// Version of the VBIOS, or of a switch's BIOS.
    pub vbios_version: Option<String>,
    /// Project of the board.
    pub project: Option<String>,
    /// SKU of that project.
    pub project_sku: Option<String>,
    /// SKU of the chip.
    pub chip_sku: Option<String>,
    /// Board, in hex.
    pub board_id: Option<String>,
    /// Digest of the firmware that signed, in hex.
    pub firmware_id: Option<String>,
    /// Mode of a GPU; see [`GpuMode`].
    pub mode: Option<String>,
    /// A GPU: the switches at its links. A switch: itself. In hex.
    pub pdis: Vec<String>,
    /// A switch: the GPUs at it, in hex.
    pub gpu_pdis: Vec<String>,
    /// The nonce that it answers, in hex.
    pub nonce: String,
    /// Ids of the manifests that its measurements were compared to.
    pub manifests: Vec<String>,
    /// Revocation was looked at, and what was known then is of this time, in seconds since 1970.
    pub revocation_known_at: Option<u64>,
    /// The check that refused this device.
    pub refused: Option<String>,
    /// What a good verdict does not mean.
    pub warnings: Vec<String>,
}

impl GpuClaims {
    /// What the report alone says.
    pub(crate) fn of_report(kind: DeviceKind, report: &Report<'_>) -> Self {
        let opaque = &report.response.opaque;
        let text = |field| opaque.text(field).map(str::to_owned);
        let hex_of = |pdis: Option<Vec<[u8; 8]>>| pdis.unwrap_or_default().iter().map(hex::encode).collect();
        let mut warnings = vec![NO_TDISP.to_owned()];
        if opaque.field(Field::FWID).is_none() {
            warnings.push(NO_FIRMWARE.to_owned());
        }
        Self {
            kind: match kind {
                DeviceKind::Gpu => "gpu".to_owned(),
                DeviceKind::Switch => "switch".to_owned(),
            },
            driver_version: text(Field::DRIVER_VERSION),
            vbios_version: bios_version(kind, report),
            project: text(Field::PROJECT),
            project_sku: text(Field::PROJECT_SKU),
            chip_sku: text(Field::CHIP_SKU),
            board_id: opaque.field(Field::BOARD_ID).map(hex::encode),
            firmware_id: opaque.field(Field::FWID).map(hex::encode),
            mode: (kind == DeviceKind::Gpu).then(|| stated_mode(report).map(|mode| mode.to_string())).flatten(),
            pdis: hex_of(opaque.pdis(Field::PDI, MAX_LINKS)),
            gpu_pdis: match kind {
                DeviceKind::Gpu => vec![],
                DeviceKind::Switch => hex_of(opaque.pdis(Field::SWITCH_GPU_PDIS, GPUS_AT_SWITCH)),
            },
            nonce: hex::encode(report.request.nonce),
            warnings,
            ..Self::default()
        }
    }

    pub(crate) fn of_chain(&mut self, chain: &VerifiedChain) {
        chain.model().clone_into(&mut self.model);
        self.serial = chain.serial().map(str::to_owned);
        chain.ueid().clone_into(&mut self.ueid);
        self.identity = hex::encode(chain.identity());
        self.root = chain.root().to_string();
    }

    pub(crate) fn warn(&mut self, warning: &str) {
        if !self.warnings.iter().any(|known| known == warning) {
            self.warnings.push(warning.to_owned());
        }
    }
}

/// The version of the VBIOS, or of a switch's BIOS.
pub(crate) fn bios_version(kind: DeviceKind, report: &Report<'_>) -> Option<String> {
    let bytes = report.response.opaque.field(Field::VBIOS_VERSION)?;
    match kind {
        DeviceKind::Gpu => vbios_version(bytes).ok(),
        DeviceKind::Switch => switch_bios_version(bytes).ok(),
    }
}

/// The mode that a GPU states. `None` where its fields contradict each other or have unknown values.
pub(crate) fn stated_mode(report: &Report<'_>) -> Option<GpuMode> {
    let opaque = &report.response.opaque;
    let protected = match opaque.field(Field::PROTECTED_PCIE_STATUS) {
        None => None,
        Some([ENABLED]) => Some(true),
        Some([DISABLED]) => Some(false),
        Some(_) => return None,
    };
    let stated = match opaque.field(Field::FEATURE_FLAG) {
        None if protected == Some(true) => GpuMode::ProtectedPcie,
        None => GpuMode::Unsaid,
        Some([0, 0]) => GpuMode::MultiPassthrough,
        Some([1, 0]) => GpuMode::SinglePassthrough,
        Some([2, 0]) => GpuMode::ProtectedPcie,
        Some(_) => return None,
    };
    let agrees = protected.is_none_or(|protected| protected == (stated == GpuMode::ProtectedPcie));
    agrees.then_some(stated)
}

/// What a status of one byte says.
pub(crate) const ENABLED: u8 = 0xaa;
pub(crate) const DISABLED: u8 = 0x55;
/// Links of a GPU.
pub(crate) const MAX_LINKS: usize = 64;
/// GPUs that a switch names.
pub(crate) const GPUS_AT_SWITCH: usize = 8;
pub(crate) const NO_TDISP: &str =
    "nothing binds the device to this machine's bus (no TDISP): it could be a genuine device that answers from elsewhere";
const NO_FIRMWARE: &str = "the report does not name the firmware that signed it";
pub(crate) const NO_REVOCATION: &str = "whether certificates are revoked was not looked at";
pub(crate) const SIMULATED: &str = "the device or its reference values are simulated";
pub(crate) const PLAIN_NVLINK: &str = "protected PCIe: what goes over NVLink is not encrypted";

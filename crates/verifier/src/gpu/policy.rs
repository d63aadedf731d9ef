//! What is accepted of GPUs and switches, and what is expected of this evidence.

use std::{collections::BTreeSet, fmt};

use casemate_evidence::nvidia::nonce_for;
use serde::{Deserialize, Serialize};

/// Whether GPUs share memory with others, and what protects it on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuMode {
    /// Several GPUs passed through; NVLink is encrypted.
    MultiPassthrough,
    /// One GPU passed through.
    SinglePassthrough,
    /// Protected PCIe: all GPUs and switches of the machine; what goes over NVLink is not encrypted.
    ProtectedPcie,
    /// The driver is too old to say.
    Unsaid,
}

impl fmt::Display for GpuMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MultiPassthrough => "multi-passthrough",
            Self::SinglePassthrough => "single-passthrough",
            Self::ProtectedPcie => "protected-pcie",
            Self::Unsaid => "unsaid",
        })
    }
}

/// SHA-256 of a certificate's DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 32]);

impl TryFrom<String> for Fingerprint {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map(|()| Self(bytes))
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        hex::encode(fingerprint.0)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuPolicy {
    /// Modes of GPUs.
    pub modes: BTreeSet<GpuMode>,
    /// Oldest answer about revocation, in seconds before now.
    pub max_status_age_s: u64,
    /// Accept certificates about whose revocation nothing is known.
    #[serde(default)]
    pub danger_without_revocation: bool,
    /// Accept devices under these roots also: they are simulated.
    #[serde(default)]
    pub danger_simulated_device_roots: Vec<Fingerprint>,
    /// Accept reference manifests under these roots also: they are simulated.
    #[serde(default)]
    pub danger_simulated_manifest_roots: Vec<Fingerprint>,
}

impl GpuPolicy {
    /// NVIDIA's roots only, answers about revocation of the last day, a mode that the device states.
    pub fn strict() -> Self {
        Self {
            modes: [GpuMode::MultiPassthrough, GpuMode::SinglePassthrough, GpuMode::ProtectedPcie].into(),
            max_status_age_s: 86_400,
            danger_without_revocation: false,
            danger_simulated_device_roots: vec![],
            danger_simulated_manifest_roots: vec![],
        }
    }
}

/// A number of GPUs and of switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceCount {
    /// GPUs.
    pub gpus: u32,
    /// NVSwitches.
    pub switches: u32,
}

impl fmt::Display for DeviceCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} GPUs and {} switches", self.gpus, self.switches)
    }
}

/// What is expected of this evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuExpectation {
    /// The nonce that each device must answer.
    pub nonce: [u8; 32],
    /// The devices that the instance was promised.
    pub claimed: DeviceCount,
    /// The devices that the guest sees on its buses, by evidence that is verified already.
    pub seen: DeviceCount,
}

impl GpuExpectation {
    /// Devices that answer the nonce which follows from `cpu_evidence`; see [`nonce_for`].
    pub fn for_cpu_evidence(cpu_evidence: &[u8], claimed: DeviceCount, seen: DeviceCount) -> Self {
        Self { nonce: nonce_for(cpu_evidence), claimed, seen }
    }
}

//! The parts of the reference values, and what of them may stand in one file.

use std::collections::{BTreeMap, BTreeSet};

use casemate_evidence::container::ContainerLevel;
use serde::{Deserialize, Serialize};

use super::{CommandLine, ReferenceError};

/// One guest OS image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestOs {
    pub(crate) name: String,
    pub(crate) kernel: [u8; 32],
    pub(crate) initrd: [u8; 32],
    pub(crate) root_hash: [u8; 32],
    pub(crate) command_lines: Vec<CommandLine>,
}

/// What instances without a kernel of their own are made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ContainerReferences {
    /// OCI runtimes of level `container`.
    pub(crate) container_runtime: Vec<[u8; 32]>,
    /// OCI runtimes of level `sandbox`.
    pub(crate) sandbox_runtime: Vec<[u8; 32]>,
    /// Process 1 of a container.
    pub(crate) guest: Vec<[u8; 32]>,
}

impl ContainerReferences {
    /// Good OCI runtimes of a level.
    pub(crate) fn runtimes(&self, level: ContainerLevel) -> &[[u8; 32]] {
        match level {
            ContainerLevel::Container => &self.container_runtime,
            ContainerLevel::Sandbox => &self.sandbox_runtime,
        }
    }
}

/// The launch measurements of one guest image in hardware-encrypted memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfidentialGuest {
    /// Name of the image.
    pub name: String,
    /// Good values of the SNP launch measurement (one for each number of processors and firmware).
    pub snp: Vec<[u8; 48]>,
    /// Good measurements of a trust domain.
    pub tdx: Vec<TdxReference>,
}

/// Good measurements of one TDX launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxReference {
    /// The initial measurement.
    pub mrtd: [u8; 48],
    /// Good values of RTMR 0 to 3, at least one each.
    pub rtmr: [Vec<[u8; 48]>; 4],
}

/// A machine that was enrolled as a whole: what must be found together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// SHA-256 of the TPM's EK certificate.
    pub ek: [u8; 32],
    /// The processor, where it has an identity.
    pub processor: Option<Processor>,
    /// Its GPUs and switches: SHA-256 of the device's key, which the vendor certified, in lower-case hex.
    pub gpus: BTreeSet<String>,
}

/// The identity of a processor package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Processor {
    /// CHIP_ID of an SNP report.
    SnpChip([u8; 64]),
    /// Platform instance id of a TDX platform's PCK certificate, or its PPID where there is none.
    TdxPlatform([u8; 16]),
}

/// Digests by what they are of: a component of the boot chain, or the path of a file.
pub(crate) type Digests = BTreeMap<String, BTreeSet<[u8; 32]>>;

/// Everything, as it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Payload {
    pub(super) version: u16,
    #[serde(default)]
    pub(super) guest_os: Vec<WireGuestOs>,
    #[serde(default)]
    pub(super) node_software: WireNodeSoftware,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) confidential: Vec<WireConfidential>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) machines: Vec<WireMachine>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) boot: Vec<WireBoot>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ima: Vec<WireFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireGuestOs {
    pub(super) name: String,
    pub(super) kernel: Hex<32>,
    pub(super) initrd: Hex<32>,
    pub(super) root_hash: Hex<32>,
    pub(super) command_lines: Vec<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireNodeSoftware {
    pub(super) agent: Vec<Hex<32>>,
    pub(super) vmm: Vec<Hex<32>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) container_runtime: Vec<Hex<32>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) sandbox_runtime: Vec<Hex<32>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) container_guest: Vec<Hex<32>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireConfidential {
    pub(super) name: String,
    #[serde(default)]
    pub(super) snp: Vec<Hex<48>>,
    #[serde(default)]
    pub(super) tdx: Vec<WireTdx>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireTdx {
    pub(super) mrtd: Hex<48>,
    pub(super) rtmr: [Vec<Hex<48>>; 4],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireMachine {
    pub(super) ek: Hex<32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chip_id: Option<Hex<64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform_instance_id: Option<Hex<16>>,
    #[serde(default)]
    pub(super) gpus: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireBoot {
    pub(super) component: String,
    pub(super) sha256: Vec<Hex<32>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireFile {
    pub(super) path: String,
    pub(super) sha256: Vec<Hex<32>>,
}

/// Bytes of a fixed length, written in lower case hexadecimal digits; read in either case.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Hex<const N: usize>(pub(super) [u8; N]);

impl<const N: usize> TryFrom<String> for Hex<N> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut bytes = [0; N];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| format!("\"{text}\" is not {} hexadecimal digits", 2 * N))?;
        Ok(Self(bytes))
    }
}

impl<const N: usize> From<Hex<N>> for String {
    fn from(bytes: Hex<N>) -> Self {
        hex::encode(bytes.0)
    }
}

impl GuestOs {
    pub(super) fn new(wire: WireGuestOs) -> Result<Self, ReferenceError> {
        let lines = wire.command_lines.into_iter().map(|template| CommandLine::of_guest_os(&wire.name, template));
        Ok(Self {
            command_lines: lines.collect::<Result<_, _>>()?,
            kernel: wire.kernel.0,
            initrd: wire.initrd.0,
            root_hash: wire.root_hash.0,
            name: wire.name,
        })
    }
}

impl From<WireConfidential> for ConfidentialGuest {
    fn from(wire: WireConfidential) -> Self {
        let tdx = |wire: WireTdx| TdxReference { mrtd: wire.mrtd.0, rtmr: wire.rtmr.map(bytes) };
        Self { name: wire.name, snp: bytes(wire.snp), tdx: wire.tdx.into_iter().map(tdx).collect() }
    }
}

impl TryFrom<WireMachine> for Machine {
    type Error = ReferenceError;

    fn try_from(wire: WireMachine) -> Result<Self, ReferenceError> {
        let processor = match (wire.chip_id, wire.platform_instance_id) {
            (Some(chip), None) => Some(Processor::SnpChip(chip.0)),
            (None, Some(platform)) => Some(Processor::TdxPlatform(platform.0)),
            (None, None) => None,
            (Some(_), Some(_)) => return Err(ReferenceError::Machine { ek: hex::encode(wire.ek.0), problem: TWO_PROCESSORS }),
        };
        let (ek, count) = (wire.ek.0, wire.gpus.len());
        let gpus: BTreeSet<String> = wire.gpus.into_iter().collect();
        if gpus.len() != count {
            return Err(ReferenceError::Machine { ek: hex::encode(ek), problem: GPU_TWICE });
        }
        Ok(Self { ek, processor, gpus })
    }
}

pub(super) fn bytes<const N: usize>(list: Vec<Hex<N>>) -> Vec<[u8; N]> {
    list.into_iter().map(|digest| digest.0).collect()
}

pub(super) fn digests(list: impl IntoIterator<Item = (String, Vec<Hex<32>>)>) -> Digests {
    let mut digests = Digests::new();
    for (name, values) in list {
        digests.entry(name).or_default().extend(values.into_iter().map(|digest| digest.0));
    }
    digests
}

const TWO_PROCESSORS: &str = "it has both chip_id and platform_instance_id";
const GPU_TWICE: &str = "it has a GPU twice";

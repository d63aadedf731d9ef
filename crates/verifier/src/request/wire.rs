//! The JSON form: one structure for each kind, in which nothing is optional that is judged.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_evidence::{
    ima::Format,
    nvidia::{DeviceEvidence, DeviceKind},
    tpm::{HashAlg, PcrSelection},
};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::RequestKind;
use crate::{
    boot::{BootPolicy, HexDigest},
    gpu::DeviceCount,
    ima::ImaPolicy,
    node::Demand,
    snp, tdx,
    time::UnixTime,
};

/// What all kinds have in common; the rest is left for later.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    pub(super) version: u16,
    pub(super) kind: RequestKind,
    pub(super) at: Option<UnixTime>,
}

/// A whole request of one kind. Version, kind and time were read from the [`Head`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Whole<E, N, P, X> {
    #[serde(rename = "version")]
    _version: u16,
    #[serde(rename = "kind")]
    _kind: RequestKind,
    #[serde(rename = "at")]
    _at: Option<UnixTime>,
    pub(super) evidence: E,
    pub(super) endorsements: N,
    pub(super) policy: P,
    pub(super) expectation: X,
}

/// The same with what the asker trusts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trusting<E, N, P, X> {
    #[serde(rename = "version")]
    _version: u16,
    #[serde(rename = "kind")]
    _kind: RequestKind,
    #[serde(rename = "at")]
    _at: Option<UnixTime>,
    pub(super) evidence: E,
    pub(super) endorsements: N,
    pub(super) policy: P,
    pub(super) expectation: X,
    pub(super) anchors: Option<Anchors>,
    pub(super) references: Option<Signed>,
    pub(super) revocations: Option<Signed>,
}

/// Nothing: of endorsements that a kind does not have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// Roots, PEM.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Anchors {
    pub(super) platform_ca: String,
    pub(super) vendor_roots: Vec<String>,
}

/// A signed file and the key that must have signed it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signed {
    pub(super) signed: Bytes,
    pub(super) key: Hex<32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SnpEvidence {
    pub(super) report: Bytes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SnpEndorsements {
    pub(super) chain: Vec<Bytes>,
    pub(super) crl: Option<Bytes>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SnpExpectation {
    pub(super) measurements: Vec<Hex<48>>,
    pub(super) host_data: Hex<32>,
    pub(super) report_data: Hex<64>,
    pub(super) vmpl: u8,
    pub(super) identity: Identity,
    pub(super) revoked_chips: Vec<Hex<64>>,
}

/// See [`snp::Identity`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Identity {
    Absent,
    Signed {
        id_key_digest: Hex<48>,
        author_key_digest: Option<Hex<48>>,
        family_id: Hex<16>,
        image_id: Hex<16>,
        min_guest_svn: u32,
    },
    DangerAny,
}

impl From<&Identity> for snp::Identity {
    fn from(wire: &Identity) -> Self {
        match wire {
            Identity::Absent => Self::Absent,
            Identity::Signed { id_key_digest, author_key_digest, family_id, image_id, min_guest_svn } => Self::Signed {
                id_key_digest: id_key_digest.0,
                author_key_digest: author_key_digest.as_ref().map(|digest| digest.0),
                family_id: family_id.0,
                image_id: image_id.0,
                min_guest_svn: *min_guest_svn,
            },
            Identity::DangerAny => Self::DangerAny,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TdxEvidence {
    pub(super) quote: Bytes,
    pub(super) event_log: Option<Bytes>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TdxEndorsements {
    pub(super) collateral: Option<Bytes>,
}

impl TdxEndorsements {
    pub(super) fn as_input(&self) -> tdx::Endorsements<'_> {
        let collateral =
            self.collateral.as_ref().map_or(tdx::Collateral::Missing, |collateral| tdx::Collateral::Json(&collateral.0));
        tdx::Endorsements { collateral, platform: None }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TdxExpectation {
    pub(super) mrtd: Vec<Hex<48>>,
    pub(super) rtmrs: [Rtmr; 4],
    pub(super) config_id: Hex<48>,
    pub(super) owner: Hex<48>,
    pub(super) owner_config: Hex<48>,
    pub(super) service_td: Hex<48>,
    pub(super) report_data: Hex<64>,
}

/// See [`tdx::Rtmr`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Rtmr {
    OneOf(Vec<Hex<48>>),
    Events { required: Vec<Hex<48>>, allowed: Vec<Hex<48>> },
    DangerAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GpuEvidence {
    pub(super) devices: Vec<Device>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    kind: WireDeviceKind,
    report: Bytes,
    chain: Vec<Bytes>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WireDeviceKind {
    Gpu,
    Switch,
}

impl Device {
    pub(super) fn to_evidence(&self) -> DeviceEvidence {
        let kind = match self.kind {
            WireDeviceKind::Gpu => DeviceKind::Gpu,
            WireDeviceKind::Switch => DeviceKind::Switch,
        };
        DeviceEvidence { kind, report: self.report.0.clone(), chain: all(&self.chain) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GpuEndorsements {
    pub(super) manifests: Vec<Manifest>,
    pub(super) ocsp: Vec<Bytes>,
    pub(super) crls: Vec<Bytes>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) id: String,
    pub(super) document: Bytes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GpuExpectation {
    pub(super) nonce: Hex<32>,
    pub(super) claimed: DeviceCount,
    pub(super) seen: DeviceCount,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TpmEvidence {
    pub(super) ak_public: Bytes,
    pub(super) attest: Bytes,
    pub(super) signature: Bytes,
    pub(super) pcrs: BTreeMap<Bank, BTreeMap<u32, HexDigest>>,
    pub(super) event_log: Bytes,
    pub(super) ima: Option<ImaList>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImaList {
    pub(super) format: ImaFormat,
    pub(super) list: Bytes,
}

/// `"ascii"` or `{"binary": "sha1"}`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ImaFormat {
    Ascii,
    Binary(Bank),
}

impl From<ImaFormat> for Format {
    fn from(wire: ImaFormat) -> Self {
        match wire {
            ImaFormat::Ascii => Self::Ascii,
            ImaFormat::Binary(bank) => Self::Binary(bank.0),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TpmPolicy {
    pub(super) boot: BootPolicy,
    pub(super) ima: Option<ImaPolicy>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TpmExpectation {
    pub(super) ak: ExpectedAk,
    pub(super) nonce: HexBytes,
    pub(super) pcrs: Vec<Selection>,
}

/// Whose key must have signed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ExpectedAk {
    /// The key with this TPM name.
    Name(HexBytes),
    /// Any key that looks like an attestation key: whose TPM it is, if it is one, remains unknown.
    DangerAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    bank: Bank,
    pcrs: Vec<u32>,
}

impl From<&Selection> for PcrSelection {
    fn from(wire: &Selection) -> Self {
        Self { hash: wire.bank.0, pcrs: wire.pcrs.clone() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WholeEvidence {
    pub(super) evidence: Bytes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InstanceEndorsements {
    pub(super) node_chain: Vec<Bytes>,
    pub(super) ek_chain: Vec<Bytes>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InstancePolicy {
    #[serde(default)]
    pub(super) danger_allow_simulated: bool,
    #[serde(default)]
    pub(super) node_boot: Demand<BootPolicy>,
    #[serde(default)]
    pub(super) revocation_floor: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InstanceExpectation {
    pub(super) instance: String,
    pub(super) workload_digest: Hex<32>,
    pub(super) nonce: Hex<32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfidentialEndorsements {
    pub(super) node_chain: Vec<Bytes>,
    pub(super) ek_chain: Vec<Bytes>,
    pub(super) cpu: CpuEndorsements,
    pub(super) gpu: GpuEndorsements,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum CpuEndorsements {
    Snp(SnpEndorsements),
    Tdx(TdxEndorsements),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfidentialExpectation {
    pub(super) instance: String,
    pub(super) workload_digest: Hex<32>,
    pub(super) nonce: Hex<32>,
    pub(super) devices: DeviceCount,
}

/// Base64, padded.
#[derive(Debug)]
pub(super) struct Bytes(pub(super) Vec<u8>);

/// The bytes of each.
pub(super) fn all(parts: &[Bytes]) -> Vec<Vec<u8>> {
    parts.iter().map(|part| part.0.clone()).collect()
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text).map(Self).map_err(|_| D::Error::custom("expected base64 with padding"))
    }
}

/// Exactly N bytes in lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hex<const N: usize>(pub(super) [u8; N]);

/// The bytes of each.
pub(super) fn plain<const N: usize>(values: &[Hex<N>]) -> Vec<[u8; N]> {
    values.iter().map(|value| value.0).collect()
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let refused = || D::Error::custom(format!("expected {} lower-case hexadecimal digits", 2 * N));
        let bytes = lower_case(&String::deserialize(deserializer)?).ok_or_else(refused)?;
        bytes.try_into().map(Self).map_err(|_| refused())
    }
}

/// At most 64 bytes in lower-case hexadecimal digits, and at least one.
#[derive(Debug, Clone)]
pub(super) struct HexBytes(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = lower_case(&String::deserialize(deserializer)?).filter(|bytes| (1..=MAX_HEX).contains(&bytes.len()));
        bytes.map(Self).ok_or_else(|| D::Error::custom("expected 1 to 64 bytes in lower-case hexadecimal digits"))
    }
}

fn lower_case(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok().filter(|_| !text.bytes().any(|byte| byte.is_ascii_uppercase()))
}

/// The name of a bank: `sha256`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Bank(pub(super) HashAlg);

impl TryFrom<String> for Bank {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        HashAlg::from_name(&name).map(Self).ok_or_else(|| "expected sha1, sha256, sha384 or sha512".to_owned())
    }
}

const MAX_HEX: usize = 64;

//! The appraisal of a confidential VM: processor, GPUs and node in *one* verdict that links them.
//!
//! ```text
//! what the policy asks for is there, for this nonce                 head
//!   -> processor: SEV-SNP or TDX, as the *policy* says              binds guest keys, instance, workload, devices seen
//!   -> GPUs and switches, if any were promised                      answer a nonce that follows from the processor's evidence
//!   -> node: its TPM quoted all of the above                        and its boot chain, agent and VMM are known
//!   -> links: this processor and these GPUs were enrolled with that TPM
//!   -> nothing of it is revoked, no simulator, and the relying party's own rules
//! ```
//!
//! Each part has its own list of checks; the verdict is good only if every list was gone through and every check of it passed.

mod devices;
mod judge;
mod links;
mod sections;
pub(crate) mod submodules;

use serde::{Deserialize, Serialize};

use crate::{
    anchors::TrustAnchors,
    boot::BootPolicy,
    checks::CheckName,
    gpu::{DeviceCount, GpuEndorsements, GpuPolicy},
    instance::{Endorsements, Expectation},
    node::Demand,
    policy::Simulated,
    references::ReferenceValues,
    rego::{AppraisalPolicy, PolicyOptions, apply_policy},
    result::AttestationResult,
    revocation::RevocationList,
    snp::{self, SnpPolicy},
    tdx::{self, TdxPolicy},
    time::UnixTime,
};

/// The checks before any device is judged, in order.
pub const CONFIDENTIAL_HEAD_CHECKS: &[CheckName] =
    &[CheckName::PolicyPlatform, CheckName::EvidenceFormat, CheckName::EvidenceNonce, CheckName::EvidenceParts];

/// The checks of the node and of its link to the devices, in order.
pub const CONFIDENTIAL_NODE_CHECKS: &[CheckName] = &[
    CheckName::NodeCertificate,
    CheckName::NodeEk,
    CheckName::NodeAk,
    CheckName::NodeQuote,
    CheckName::NodePcrs,
    CheckName::NodeEventLog,
    CheckName::NodeBootPolicy,
    CheckName::NodeSoftware,
    CheckName::BatchInclusion,
    CheckName::LinkChip,
    CheckName::LinkGpus,
];

/// The checks over everything, in order; `policy.appraisal` follows.
pub const CONFIDENTIAL_TAIL_CHECKS: &[CheckName] = &[CheckName::PolicyRevoked, CheckName::PolicySimulated];

/// What a relying party insists on of a confidential VM. Policy files have this form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfidentialPolicy {
    /// Which technology, and what of it is accepted. The evidence has no say in this.
    pub cpu: CpuPolicy,
    /// What is accepted of GPUs and switches.
    pub gpu: GpuPolicy,
    /// What is demanded of the node's boot; without it that is left to the platform, and the result says so.
    #[serde(default)]
    pub node_boot: Demand<BootPolicy>,
    /// The highest serial of a revocation list that was seen; an older list is refused. 0 where none was.
    pub revocation_floor: u64,
    /// Simulated hardware is accepted; the result says so.
    #[serde(default)]
    pub danger_allow_simulated: bool,
}

/// The technology that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CpuPolicy {
    /// AMD SEV-SNP.
    Snp(Box<SnpPolicy>),
    /// Intel TDX.
    Tdx(Box<TdxPolicy>),
}

impl ConfidentialPolicy {
    pub(crate) fn simulated(&self) -> Simulated {
        if self.danger_allow_simulated { Simulated::Allow } else { Simulated::Refuse }
    }
}

/// What vouches for the parts. Comes from anybody, judged like the evidence.
#[derive(Debug, Clone, Copy)]
pub struct ConfidentialEndorsements<'a> {
    /// Of the node.
    pub node: Endorsements<'a>,
    /// Of the processor.
    pub cpu: CpuEndorsements<'a>,
    /// Of GPUs and switches.
    pub gpu: GpuEndorsements<'a>,
    /// The relying party's own list; without one everything is refused.
    pub revocations: Option<&'a RevocationList>,
}

/// What vouches for the processor.
#[derive(Debug, Clone, Copy)]
pub enum CpuEndorsements<'a> {
    /// AMD's certificates.
    Snp(snp::Endorsements<'a>),
    /// Intel's collateral.
    Tdx(tdx::Endorsements<'a>),
}

/// What the relying party asked for.
#[derive(Debug, Clone, Copy)]
pub struct ConfidentialExpectation<'a> {
    /// Instance, workload and nonce.
    pub instance: Expectation<'a>,
    /// The devices that the workload was promised.
    pub devices: DeviceCount,
}

/// What the relying party believes in to begin with, and its rules.
#[derive(Debug, Clone, Copy)]
pub struct Believes<'a> {
    /// Signed reference values: measurements, node software, which parts belong to which machine.
    pub references: &'a ReferenceValues,
    /// Pinned roots of the platform and of TPM vendors; those of the processors' and GPUs' vendors are built in.
    pub anchors: &'a TrustAnchors,
    /// What is accepted.
    pub policy: &'a ConfidentialPolicy,
    /// The last word, over typed claims; see [`AppraisalPolicy::strict`].
    pub rules: &'a AppraisalPolicy,
}

/// Appraises the evidence of a confidential VM at time `now`.
pub fn appraise_confidential(
    evidence: &[u8],
    endorsements: &ConfidentialEndorsements<'_>,
    believes: &Believes<'_>,
    expectation: &ConfidentialExpectation<'_>,
    now: UnixTime,
) -> AttestationResult {
    let inputs = judge::Inputs { endorsements, believes, expectation, now };
    let result = judge::Appraisal::new(&inputs).run(evidence);
    let options = PolicyOptions::from(believes.policy.simulated());
    apply_policy(result, believes.rules, options, expectation.devices.gpus)
}

/// Names of submodules.
const GUEST: &str = "guest";
const NODE: &str = "node";

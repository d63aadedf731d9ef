//! Which checks an appraisal goes through, in order.

use super::CheckName;

/// The checks of an instance, in order.
pub const INSTANCE_CHECKS: &[CheckName] = &[
    CheckName::PolicyPlatform,
    CheckName::EvidenceFormat,
    CheckName::EvidenceNonce,
    CheckName::NodeCertificate,
    CheckName::NodeEk,
    CheckName::NodeAk,
    CheckName::NodeQuote,
    CheckName::NodePcrs,
    CheckName::NodeEventLog,
    CheckName::NodeBootPolicy,
    CheckName::NodeSoftware,
    CheckName::BatchInclusion,
    CheckName::InstanceId,
    CheckName::WorkloadDigest,
    CheckName::GuestKernel,
    CheckName::GuestInitrd,
    CheckName::GuestCommandLine,
    CheckName::GuestRootHash,
    CheckName::VmmDigest,
    CheckName::VmmJail,
    CheckName::GuestAk,
    CheckName::GuestQuote,
    CheckName::GuestPcrs,
    CheckName::GuestBinding,
    CheckName::PolicyRevoked,
    CheckName::PolicySimulated,
];

/// The checks of an instance of level `container` or `sandbox`, in order.
pub const CONTAINER_CHECKS: &[CheckName] = &[
    CheckName::PolicyPlatform,
    CheckName::EvidenceFormat,
    CheckName::EvidenceNonce,
    CheckName::NodeCertificate,
    CheckName::NodeEk,
    CheckName::NodeAk,
    CheckName::NodeQuote,
    CheckName::NodePcrs,
    CheckName::NodeEventLog,
    CheckName::NodeBootPolicy,
    CheckName::NodeSoftware,
    CheckName::BatchInclusion,
    CheckName::InstanceId,
    CheckName::WorkloadDigest,
    CheckName::ContainerLevel,
    CheckName::ContainerRuntime,
    CheckName::ContainerGuest,
    CheckName::ContainerImage,
    CheckName::ContainerJail,
    CheckName::PolicyRevoked,
    CheckName::PolicySimulated,
];

/// The checks of a node that enrols or renews, in order.
pub const NODE_CHECKS: &[CheckName] = &[
    CheckName::NodeAk,
    CheckName::NodeQuote,
    CheckName::EvidenceNonce,
    CheckName::NodePcrs,
    CheckName::NodeEventLog,
    CheckName::NodeBootPolicy,
    CheckName::NodeSoftware,
    CheckName::NodeIma,
    CheckName::PolicyRevoked,
    CheckName::PolicySimulated,
];

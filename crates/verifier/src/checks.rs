//! The names of the checks, and the ledger that makes it impossible to forget one.

mod lists;

use std::{error::Error, fmt};

use serde::{Deserialize, Serialize};

pub use lists::{CONTAINER_CHECKS, INSTANCE_CHECKS, NODE_CHECKS};

/// A check of the verifier. The set is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckName {
    /// The policy names a platform kind that this verifier can appraise.
    PolicyPlatform,
    /// The evidence, its launch record and its guest keys decode.
    EvidenceFormat,
    /// The evidence answers the expected nonce.
    EvidenceNonce,
    /// The node certificate chains to the pinned platform CA and is valid now.
    NodeCertificate,
    /// The EK certificate chains to a pinned TPM vendor root and is the one that the node certificate names.
    NodeEk,
    /// The node's attestation key is a proper one, and the one that the node certificate names.
    NodeAk,
    /// The node's quote is a quote of a TPM, signed by that key.
    NodeQuote,
    /// The quoted PCR digest is that of the listed values, for exactly the expected PCRs.
    NodePcrs,
    /// The event log replays to the quoted PCRs.
    NodeEventLog,
    /// The measured agent and VMM are known to the reference values.
    NodeSoftware,
    /// The instance's leaf is in the batch that the node quoted.
    BatchInclusion,
    /// The launch record is of the expected instance.
    InstanceId,
    /// The launch record is of the expected workload.
    WorkloadDigest,
    /// The kernel is known to the reference values.
    GuestKernel,
    /// The initrd is known to the reference values, with this kernel.
    GuestInitrd,
    /// The command line is that of the reference values, with this kernel and initrd.
    GuestCommandLine,
    /// The root hash is that of the reference values and of the command line.
    GuestRootHash,
    /// The VMM is known to the reference values and is the measured one.
    VmmDigest,
    /// The VMM is held by its jail.
    VmmJail,
    /// The guest's attestation key is a proper one, and the one that the launch record endorses.
    GuestAk,
    /// The guest's quote is a quote of a TPM, signed by that key.
    GuestQuote,
    /// The guest's PCRs are those that follow from the launch record and the workload.
    GuestPcrs,
    /// The guest's quote binds nonce, guest keys, workload and instance.
    GuestBinding,
    /// The container launch is of the level that the policy asks for.
    ContainerLevel,
    /// The OCI runtime is known to the reference values for that level, and was measured at the node's start.
    ContainerRuntime,
    /// Process 1 of the container is known to the reference values.
    ContainerGuest,
    /// The layers are those of the workload.
    ContainerImage,
    /// Process 1 of the container is held by its jail.
    ContainerJail,
    /// No simulator was involved, or the policy allows it.
    PolicySimulated,
    /// The receipt's node certificate chains to the platform CA and was valid at the wipe.
    ReceiptNode,
    /// The receipt is signed by the receipt key in that certificate.
    ReceiptSignature,
    /// The report decodes and has a known version.
    SnpFormat,
    /// The processor's generation is one that the policy accepts.
    SnpGeneration,
    /// The kind of signing key (VCEK or VLEK) is the one that the policy wants.
    SnpSigner,
    /// The signing certificate chains to the pinned AMD root of that generation and is valid now.
    SnpChain,
    /// A fresh revocation list of the vendor does not name a certificate of the chain.
    SnpRevocation,
    /// The report is signed by the key of that certificate.
    SnpSignature,
    /// The chip in the report is the one in the certificate, and not revoked.
    SnpChipId,
    /// The reported TCB is exactly the one in the certificate.
    SnpTcb,
    /// No component of any TCB is below the floor of the policy.
    SnpTcbFloor,
    /// The guest policy forbids debugging, migration and whatever else the policy refuses.
    SnpGuestPolicy,
    /// The platform is in the state that the policy wants (SMT, alias check, memory encryption).
    SnpPlatformInfo,
    /// The report was made for the expected privilege level.
    SnpVmpl,
    /// Who signed the ID block, and what for, is as expected.
    SnpIdentity,
    /// The launch measurement is one of the expected ones.
    SnpMeasurement,
    /// HOST_DATA is the workload digest.
    SnpHostData,
    /// REPORT_DATA binds nonce and guest keys.
    SnpReportData,
    /// The quote decodes and has a known version.
    TdxFormat,
    /// It is a quote of a trust domain, not of an SGX enclave.
    TdxKind,
    /// All collateral is there, well-formed and current.
    TdxCollateral,
    /// The PCK certificate chains to Intel's pinned root and is valid now.
    TdxPckChain,
    /// Fresh revocation lists do not name a certificate of the chain.
    TdxRevocation,
    /// The TCB info is signed by Intel, current, and about this processor family.
    TdxTcbInfo,
    /// The identity of the quoting enclave is signed by Intel and current.
    TdxQeIdentity,
    /// The quoting enclave's report is signed by the PCK, is of that enclave, and binds the attestation key.
    TdxQeReport,
    /// The quote is signed by that attestation key.
    TdxSignature,
    /// The status of the TCB is one that the policy accepts.
    TdxTcbStatus,
    /// The TDX module is a known one.
    TdxModule,
    /// The attributes are those of a production trust domain.
    TdxAttributes,
    /// The extended features are within what the policy accepts.
    TdxXfam,
    /// The initial measurement is one of the expected ones.
    TdxMrtd,
    /// The event log replays to the run-time measurements, and they are expected ones.
    TdxRtmr,
    /// MRCONFIGID is the workload digest; owner and service domain are the expected ones.
    TdxConfigId,
    /// REPORTDATA binds nonce and guest keys.
    TdxReportData,
    /// The evidence decodes.
    GpuFormat,
    /// The device's certificate chains to the vendor's pinned root.
    GpuChain,
    /// Fresh revocation information does not name a certificate of the chain.
    GpuRevocation,
    /// The measurements are signed by that device.
    GpuSignature,
    /// They answer the nonce that is derived from the processor's evidence.
    GpuNonce,
    /// Model, firmware and driver version are the ones that the reference manifests are for.
    GpuIdentity,
    /// The reference manifests are signed by the vendor.
    GpuRim,
    /// Every measurement is one of the reference values.
    GpuMeasurements,
    /// The device is in confidential mode and not in a development mode.
    GpuMode,
    /// As many devices as claimed were seen and attested, each once.
    GpuCount,
    /// The boot chain that the event log shows is one that the policy accepts.
    NodeBootPolicy,
    /// The IMA log replays to the quoted PCR 10, and each file is known.
    NodeIma,
    /// The processor of the guest is the one that the platform enrolled for this node.
    LinkChip,
    /// The GPUs are the ones that the platform enrolled for this node.
    LinkGpus,
    /// A fresh revocation list names nothing that this evidence rests on.
    PolicyRevoked,
    /// The appraisal policy accepts the claims.
    PolicyAppraisal,
    /// The parts of the evidence are those that the policy asks for, and no others.
    EvidenceParts,
}

impl CheckName {
    /// The name that people and programs see.
    // A table: one line for each check.
    #[allow(clippy::too_many_lines)]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PolicyPlatform => "policy.platform",
            Self::EvidenceFormat => "evidence.format",
            Self::EvidenceNonce => "evidence.nonce",
            Self::NodeCertificate => "node.certificate",
            Self::NodeEk => "node.ek",
            Self::NodeAk => "node.ak",
            Self::NodeQuote => "node.quote",
            Self::NodePcrs => "node.pcrs",
            Self::NodeEventLog => "node.event-log",
            Self::NodeSoftware => "node.software",
            Self::BatchInclusion => "batch.inclusion",
            Self::InstanceId => "instance.id",
            Self::WorkloadDigest => "workload.digest",
            Self::GuestKernel => "guest.kernel",
            Self::GuestInitrd => "guest.initrd",
            Self::GuestCommandLine => "guest.command-line",
            Self::GuestRootHash => "guest.root-hash",
            Self::VmmDigest => "vmm.digest",
            Self::VmmJail => "vmm.jail",
            Self::GuestAk => "guest.ak",
            Self::GuestQuote => "guest.quote",
            Self::GuestPcrs => "guest.pcrs",
            Self::GuestBinding => "guest.binding",
            Self::ContainerLevel => "container.level",
            Self::ContainerRuntime => "container.runtime",
            Self::ContainerGuest => "container.guest",
            Self::ContainerImage => "container.image",
            Self::ContainerJail => "container.jail",
            Self::PolicySimulated => "policy.simulated",
            Self::ReceiptNode => "receipt.node",
            Self::ReceiptSignature => "receipt.signature",
            Self::SnpFormat => "snp.format",
            Self::SnpGeneration => "snp.generation",
            Self::SnpSigner => "snp.signer",
            Self::SnpChain => "snp.chain",
            Self::SnpRevocation => "snp.revocation",
            Self::SnpSignature => "snp.signature",
            Self::SnpChipId => "snp.chip-id",
            Self::SnpTcb => "snp.tcb",
            Self::SnpTcbFloor => "snp.tcb-floor",
            Self::SnpGuestPolicy => "snp.guest-policy",
            Self::SnpPlatformInfo => "snp.platform-info",
            Self::SnpVmpl => "snp.vmpl",
            Self::SnpIdentity => "snp.identity",
            Self::SnpMeasurement => "snp.measurement",
            Self::SnpHostData => "snp.host-data",
            Self::SnpReportData => "snp.report-data",
            Self::TdxFormat => "tdx.format",
            Self::TdxKind => "tdx.kind",
            Self::TdxCollateral => "tdx.collateral",
            Self::TdxPckChain => "tdx.pck-chain",
            Self::TdxRevocation => "tdx.revocation",
            Self::TdxTcbInfo => "tdx.tcb-info",
            Self::TdxQeIdentity => "tdx.qe-identity",
            Self::TdxQeReport => "tdx.qe-report",
            Self::TdxSignature => "tdx.signature",
            Self::TdxTcbStatus => "tdx.tcb-status",
            Self::TdxModule => "tdx.module",
            Self::TdxAttributes => "tdx.attributes",
            Self::TdxXfam => "tdx.xfam",
            Self::TdxMrtd => "tdx.mrtd",
            Self::TdxRtmr => "tdx.rtmr",
            Self::TdxConfigId => "tdx.config-id",
            Self::TdxReportData => "tdx.report-data",
            Self::GpuFormat => "gpu.format",
            Self::GpuChain => "gpu.chain",
            Self::GpuRevocation => "gpu.revocation",
            Self::GpuSignature => "gpu.signature",
            Self::GpuNonce => "gpu.nonce",
            Self::GpuIdentity => "gpu.identity",
            Self::GpuRim => "gpu.rim",
            Self::GpuMeasurements => "gpu.measurements",
            Self::GpuMode => "gpu.mode",
            Self::GpuCount => "gpu.count",
            Self::NodeBootPolicy => "node.boot-policy",
            Self::NodeIma => "node.ima",
            Self::LinkChip => "link.chip",
            Self::LinkGpus => "link.gpus",
            Self::PolicyRevoked => "policy.revoked",
            Self::PolicyAppraisal => "policy.appraisal",
            Self::EvidenceParts => "evidence.parts",
        }
    }
}

impl fmt::Display for CheckName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One line of a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Name of the check; see [`CheckName`].
    pub name: String,
    /// How it came out.
    pub outcome: Outcome,
    /// What was seen, and where it failed, what was expected. Empty when it was not reached.
    pub detail: String,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Pass,
    /// Not as it should be: rejected.
    Fail,
    /// An earlier check failed, so there was nothing to judge it by.
    NotReached,
}

/// For tables: a failure stands out.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::NotReached => "not reached",
        })
    }
}

/// What a check found: a value that nothing else can make, and what to tell people.
pub(crate) struct Finding<T> {
    pub(crate) value: T,
    pub(crate) detail: String,
}

impl<T> Finding<T> {
    pub(crate) fn new(value: T, detail: impl Into<String>) -> Self {
        Self { value, detail: detail.into() }
    }
}

/// How the appraisal of one device came out: its checks in order, what it claims, and the verified value if every check
/// passed.
#[derive(Debug)]
pub struct Appraised<T, C> {
    checks: Vec<Check>,
    claims: Option<C>,
    verified: Option<T>,
}

impl<T, C> Appraised<T, C> {
    /// Closes `ledger`. `claims` is what the evidence says of itself once it decoded, true or not; people want to see it
    /// especially after a refusal.
    pub(crate) fn close(ledger: Ledger, claims: Option<C>, found: Result<T, Stop>) -> Self {
        let (checks, passed) = ledger.close();
        Self { checks, claims, verified: found.ok().filter(|_| passed) }
    }

    /// Every check, in order.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// What the evidence claims. Verified only where [`verified`](Self::verified) has a value.
    pub fn claims(&self) -> Option<&C> {
        self.claims.as_ref()
    }

    /// The value that exists only if every check passed.
    pub fn verified(&self) -> Option<&T> {
        self.verified.as_ref()
    }

    /// The check that failed, if one did.
    pub fn failed(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.outcome == Outcome::Fail)
    }

    /// Checks and verified value.
    pub(crate) fn into_parts(self) -> (Vec<Check>, Option<T>) {
        (self.checks, self.verified)
    }
}

/// A check failed; which one is in the ledger.
#[derive(Debug)]
pub(crate) struct Stop;

/// Two things that should be equal and are not.
#[derive(Debug, thiserror::Error)]
#[error("expected {expected}, seen {seen}")]
pub(crate) struct Mismatch {
    pub(crate) expected: String,
    pub(crate) seen: String,
}

impl Mismatch {
    pub(crate) fn new(expected: impl fmt::Display, seen: impl fmt::Display) -> Self {
        Self { expected: expected.to_string(), seen: seen.to_string() }
    }

    /// `expected` and `seen` are equal digests.
    pub(crate) fn unless_equal(expected: &[u8; 32], seen: &[u8; 32]) -> Result<(), Self> {
        use subtle::ConstantTimeEq as _;
        if bool::from(expected.ct_eq(seen)) { Ok(()) } else { Err(Self::new(hex::encode(expected), hex::encode(seen))) }
    }
}

/// Takes the outcome of each check of a list, in order. A verdict is good only if *each* one passed, so a check that the
/// code forgot, or took out of order, is a rejection as well.
pub(crate) struct Ledger {
    list: &'static [CheckName],
    checks: Vec<Check>,
}

impl Ledger {
    pub(crate) fn new(list: &'static [CheckName]) -> Self {
        Self { list, checks: Vec::with_capacity(list.len()) }
    }

    /// Enters what `name` found. An error stops the appraisal.
    pub(crate) fn enter<T, E: Error>(&mut self, name: CheckName, found: Result<Finding<T>, E>) -> Result<T, Stop> {
        let next = self.list.get(self.checks.len()).copied();
        let open = self.checks.iter().all(|check| check.outcome == Outcome::Pass);
        if next != Some(name) || !open {
            // A mistake in this crate. There is no name that it could be blamed on but the one that was due.
            let due = next.unwrap_or(name);
            self.push(due, Outcome::Fail, format!("internal error: {name} was entered where {due} is due"));
            return Err(Stop);
        }
        match found {
            Ok(finding) => {
                self.push(name, Outcome::Pass, finding.detail);
                Ok(finding.value)
            }
            Err(error) => {
                self.push(name, Outcome::Fail, chain(&error));
                Err(Stop)
            }
        }
    }

    /// All checks of the list, and whether each one passed.
    pub(crate) fn close(mut self) -> (Vec<Check>, bool) {
        for name in &self.list[self.checks.len().min(self.list.len())..] {
            self.checks.push(Check { name: name.to_string(), outcome: Outcome::NotReached, detail: String::new() });
        }
        let passed = self.checks.iter().all(|check| check.outcome == Outcome::Pass);
        (self.checks, passed)
    }

    fn push(&mut self, name: CheckName, outcome: Outcome, detail: String) {
        self.checks.push(Check { name: name.to_string(), outcome, detail });
    }
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;

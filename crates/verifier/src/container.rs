//! The appraisal of an instance of level `container` or `sandbox`: from bytes to a verdict.
//!
//! ```text
//! Decoded -> Fresh --+
//!                    +-> Bound -> VerifiedGuest
//! NodeCertificate -> EndorsedNode -> TrustedNode --+
//! ```
//!
//! All that is proven here is proven by the node of itself: which software started, and which container it says to have started.
//! There is no guest quote, and the host's root reads everything. So the best verdict is a warning, and it releases keys only
//! where the relying party's policy asked for this very level.

use std::{collections::BTreeMap, sync::Arc};

use casemate_evidence::{
    container::{ContainerEvidence, ContainerLaunch, ContainerLevel, container_leaf},
    instance::{GuestKeys, Jail, Record as _},
    merkle,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    checks::{CONTAINER_CHECKS, CheckName, Finding, Ledger, Mismatch, Stop},
    instance::{self, Appraisal, Endorsements, Expectation, InclusionError, Inputs, NoAppraisal, RelyingParty},
    node::TrustedNode,
    policy::{PlatformKind, Policy},
    references::ReferenceValues,
    result::{
        AttestationResult, Kind, MonitorClaims, Submodule, Tier, TrustVector, VerifiedGuest, claim,
        microvm::{node_submodule, plain},
    },
    revocation::{self, NodeRests},
    time::UnixTime,
};

/// What the relying party asked for.
#[derive(Debug, Clone, Copy)]
pub struct ContainerExpectation<'a> {
    /// As of any instance.
    pub instance: Expectation<'a>,
    /// Root hashes of the workload's layers, lowest first.
    pub layers: &'a [[u8; 32]],
}

/// Appraises an instance of the level that the *policy* asks for, whatever the evidence says that it is.
pub fn appraise(
    evidence: &[u8],
    endorsements: &Endorsements<'_>,
    believes: &RelyingParty<'_>,
    expectation: &ContainerExpectation<'_>,
    now: UnixTime,
) -> AttestationResult {
    match believes.policy.platform() {
        PlatformKind::Container | PlatformKind::Sandbox => appraise_container(evidence, endorsements, believes, expectation, now),
        PlatformKind::Microvm | PlatformKind::Confidential => {
            instance::appraise_instance(evidence, endorsements, believes, &expectation.instance, now)
        }
    }
}

/// Appraises the evidence of a container. Every check of [`CONTAINER_CHECKS`] is in the result; the first that fails ends it.
pub fn appraise_container(
    evidence: &[u8],
    endorsements: &Endorsements<'_>,
    believes: &RelyingParty<'_>,
    expectation: &ContainerExpectation<'_>,
    now: UnixTime,
) -> AttestationResult {
    let mut appraisal = Appraisal::new(CONTAINER_CHECKS);
    let inputs = Inputs::new(endorsements, believes, &expectation.instance, now);
    let mut claims = None;
    let guest = run(&mut appraisal, evidence, &inputs, expectation.layers, &mut claims);
    close(appraisal, guest, claims.as_ref(), &inputs)
}

fn run(
    appraisal: &mut Appraisal,
    evidence: &[u8],
    inputs: &Inputs<'_>,
    layers: &[[u8; 32]],
    claims: &mut Option<ContainerClaims>,
) -> Result<VerifiedGuest, Stop> {
    let level = appraisal.ledger.enter(CheckName::PolicyPlatform, platform(inputs.policy))?;
    let decoded = appraisal.ledger.enter(CheckName::EvidenceFormat, Decoded::new(evidence))?;
    *claims = Some(ContainerClaims::new(&decoded.launch));
    let fresh = appraisal.ledger.enter(CheckName::EvidenceNonce, decoded.answering(&inputs.expectation.nonce))?;
    let (guest_program, runtime) = (fresh.0.launch.guest_program, fresh.0.launch.runtime.digest);
    let node = appraisal.node(&fresh.0.evidence.node, &fresh.0.evidence.node_event_log, inputs)?;
    let (ak_name, ek) = (node.ak_name.clone(), node.ek);
    let (agent, vmm) = (node.measured.software.agent(), node.measured.software.vmm());
    let bound = appraisal.ledger.enter(CheckName::BatchInclusion, fresh.covered_by(node))?;
    appraisal.notes.launch_record_digest = Some(bound.digest());
    let guest = bound.judge(&mut appraisal.ledger, inputs, level, layers)?;
    let images = [agent, vmm, guest_program, runtime];
    let rests = NodeRests { ak_name: &ak_name, ek: &ek, references: inputs.references, images: &images };
    let fresh = revocation::node_finding(inputs.revocations, &rests, inputs.now, inputs.policy.revocation_floor());
    appraisal.ledger.enter(CheckName::PolicyRevoked, fresh)?;
    let simulated = instance::simulated(&appraisal.notes.simulated, inputs.policy.simulated());
    appraisal.ledger.enter(CheckName::PolicySimulated, simulated)?;
    Ok(guest)
}

fn close(
    appraisal: Appraisal,
    guest: Result<VerifiedGuest, Stop>,
    claims: Option<&ContainerClaims>,
    inputs: &Inputs<'_>,
) -> AttestationResult {
    let mut closed = appraisal.close(inputs);
    let guest = guest.ok().filter(|_| closed.passed);
    let mut submodule = Submodule::judged(Kind::ContainerGuest, guest.is_some(), claims.is_some(), GUEST_TRUST);
    submodule.claims = claims.map_or(serde_json::Value::Null, plain);
    let node = node_submodule(closed.node.as_ref(), closed.node_verified, &closed.anchors);
    let (level, limit) = match inputs.policy.platform() {
        PlatformKind::Sandbox => ("sandbox", SANDBOX_LIMIT),
        PlatformKind::Container | PlatformKind::Microvm | PlatformKind::Confidential => ("container", CONTAINER_LIMIT),
    };
    let mut warnings = vec![format!("level {level}: {HOST_LIMIT}"), format!("level {level}: {limit}")];
    warnings.append(&mut closed.warnings);
    AttestationResult {
        version: 1,
        status: closed.status(guest.as_ref().map(|_| Tier::Warning)),
        platform: inputs.policy.platform().as_str().to_owned(),
        simulated: closed.simulated,
        instance: inputs.expectation.instance.to_owned(),
        workload_digest: hex::encode(inputs.expectation.workload_digest),
        nonce_sha256: hex::encode(Sha256::digest(inputs.expectation.nonce)),
        launch_record_digest: closed.launch_record_digest.map(hex::encode),
        guest_os: None,
        at: inputs.now,
        checks: closed.checks,
        anchors: closed.anchors,
        warnings,
        submodules: BTreeMap::from([("node".to_owned(), node), ("guest".to_owned(), submodule)]),
        guest: guest.map(Arc::new),
    }
}

/// What the launch says of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerClaims {
    /// `container` or `sandbox`.
    pub level: ContainerLevel,
    /// Digest of process 1, hex.
    pub guest_program: String,
    /// Name of the OCI runtime.
    pub runtime_name: String,
    /// Its version.
    pub runtime_version: String,
    /// Its digest, hex.
    pub runtime_digest: String,
    /// CPUs.
    pub cpus: u64,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The monitor that guarded the container, by the node's word; absent: none did.
    #[serde(default)]
    pub monitor: Option<MonitorClaims>,
}

impl ContainerClaims {
    fn new(launch: &ContainerLaunch) -> Self {
        Self {
            level: launch.level,
            guest_program: hex::encode(launch.guest_program),
            runtime_name: launch.runtime.name.clone(),
            runtime_version: launch.runtime.version.clone(),
            runtime_digest: hex::encode(launch.runtime.digest),
            cpus: launch.cpus.into(),
            memory_mib: launch.memory_mib,
            monitor: launch.monitor.as_ref().map(MonitorClaims::new),
        }
    }
}

/// Evidence that decodes.
struct Decoded {
    evidence: ContainerEvidence,
    launch: ContainerLaunch,
    keys: GuestKeys,
}

impl Decoded {
    fn new(bytes: &[u8]) -> Result<Finding<Self>, casemate_evidence::instance::DecodeError> {
        let evidence = ContainerEvidence::decode(bytes)?;
        let launch = ContainerLaunch::decode(&evidence.container_launch)?;
        let keys = GuestKeys::decode(&evidence.guest_keys)?;
        let detail = format!("container evidence, version 1, {} bytes", bytes.len());
        Ok(Finding::new(Self { evidence, launch, keys }, detail))
    }

    fn answering(self, nonce: &[u8; 32]) -> Result<Finding<Fresh>, Mismatch> {
        Mismatch::unless_equal(nonce, &self.evidence.nonce)?;
        Ok(Finding::new(Fresh(self), "answers the nonce of this challenge"))
    }
}

/// Evidence for the expected nonce.
struct Fresh(Decoded);

impl Fresh {
    fn covered_by(self, node: TrustedNode) -> Result<Finding<Bound>, InclusionError> {
        let Decoded { evidence, launch, keys } = self.0;
        let leaf = container_leaf(&evidence.nonce, &evidence.container_launch, &evidence.guest_keys);
        let root = merkle::root_of(&leaf, &evidence.batch).ok_or(InclusionError::Path)?;
        if !node.quote.is_for(&root) {
            let seen = hex::encode(node.quote.qualifying());
            return Err(InclusionError::ContainerRoot(Mismatch::new(hex::encode(root), seen)));
        }
        let detail = format!("leaf {} of {} under the node's quote", evidence.batch.index, evidence.batch.count);
        let bound = Bound { evidence, launch, keys, runtimes: node.measured.software.runtimes().to_vec() };
        Ok(Finding::new(bound, detail))
    }
}

/// A launch and guest keys that the node's TPM vouches for.
struct Bound {
    evidence: ContainerEvidence,
    launch: ContainerLaunch,
    keys: GuestKeys,
    /// Measured at the node's start.
    runtimes: Vec<[u8; 32]>,
}

/// Why a launch is not accepted.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("the {what} {digest} is not among the reference values of level {level}")]
    Unknown { what: &'static str, digest: String, level: &'static str },
    #[error("the OCI runtime {0} was not measured at the node's start")]
    NotMeasured(String),
    #[error("the layers that were started are not those of the workload: expected {expected}, seen {seen}")]
    Layers { expected: String, seen: String },
    #[error("process 1 {0}")]
    Jail(String),
}

impl Bound {
    fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.evidence.container_launch).into()
    }

    /// From `instance.id` to `container.jail`.
    fn judge(
        self,
        ledger: &mut Ledger,
        inputs: &Inputs<'_>,
        level: ContainerLevel,
        layers: &[[u8; 32]],
    ) -> Result<VerifiedGuest, Stop> {
        let expectation = inputs.expectation;
        ledger.enter(CheckName::InstanceId, self.of_instance(expectation.instance))?;
        ledger.enter(CheckName::WorkloadDigest, self.of_workload(&expectation.workload_digest))?;
        ledger.enter(CheckName::ContainerLevel, self.of_level(level))?;
        ledger.enter(CheckName::ContainerRuntime, self.runtime(level, inputs.references))?;
        ledger.enter(CheckName::ContainerGuest, self.guest_program(level, inputs.references))?;
        ledger.enter(CheckName::ContainerImage, self.image(layers))?;
        ledger.enter(CheckName::ContainerJail, jail(&self.launch.jail))?;
        let launch_record_digest = self.digest();
        let Self { evidence, launch, keys, .. } = self;
        Ok(VerifiedGuest {
            hpke: keys.hpke,
            tls: keys.tls,
            instance: launch.instance,
            workload_digest: launch.workload_digest,
            nonce: evidence.nonce,
            launch_record_digest,
        })
    }

    fn of_instance(&self, expected: &str) -> Result<Finding<()>, Mismatch> {
        if self.launch.instance == expected {
            Ok(Finding::new((), format!("instance {expected}")))
        } else {
            Err(Mismatch::new(expected, self.launch.instance.escape_debug()))
        }
    }

    fn of_workload(&self, expected: &[u8; 32]) -> Result<Finding<()>, Mismatch> {
        Mismatch::unless_equal(expected, &self.launch.workload_digest)?;
        Ok(Finding::new((), format!("workload {}", hex::encode(expected))))
    }

    fn of_level(&self, expected: ContainerLevel) -> Result<Finding<()>, Mismatch> {
        if self.launch.level == expected {
            Ok(Finding::new((), format!("level {}", expected.as_str())))
        } else {
            Err(Mismatch::new(expected.as_str(), self.launch.level.as_str()))
        }
    }

    fn runtime(&self, level: ContainerLevel, references: &ReferenceValues) -> Result<Finding<()>, LaunchError> {
        let runtime = &self.launch.runtime;
        let digest = hex::encode(runtime.digest);
        if !references.container.runtimes(level).contains(&runtime.digest) {
            return Err(LaunchError::Unknown { what: "OCI runtime", digest, level: level.as_str() });
        }
        if !self.runtimes.contains(&runtime.digest) {
            return Err(LaunchError::NotMeasured(digest));
        }
        let (name, version) = (runtime.name.escape_debug(), runtime.version.escape_debug());
        Ok(Finding::new((), format!("{name}, {version}, {digest}")))
    }

    fn guest_program(&self, level: ContainerLevel, references: &ReferenceValues) -> Result<Finding<()>, LaunchError> {
        let digest = hex::encode(self.launch.guest_program);
        if references.container.guest.contains(&self.launch.guest_program) {
            return Ok(Finding::new((), format!("process 1 is {digest}")));
        }
        Err(LaunchError::Unknown { what: "guest program", digest, level: level.as_str() })
    }

    fn image(&self, expected: &[[u8; 32]]) -> Result<Finding<()>, LaunchError> {
        if !expected.is_empty() && self.launch.layers.iter().map(|layer| &layer.0).eq(expected) {
            return Ok(Finding::new((), format!("{} layers, with the root hashes of the workload", expected.len())));
        }
        let text = |hashes: &mut dyn Iterator<Item = [u8; 32]>| hashes.map(hex::encode).collect::<Vec<_>>().join(" ");
        let seen = text(&mut self.launch.layers.iter().take(MAX_SHOWN).map(|layer| layer.0));
        Err(LaunchError::Layers { expected: text(&mut expected.iter().take(MAX_SHOWN).copied()), seen })
    }
}

/// What it may do in its user namespace it may not do on the host, so its capabilities are not counted.
fn jail(jail: &Jail) -> Result<Finding<()>, LaunchError> {
    let missing: Vec<_> = NAMESPACES.iter().filter(|name| !jail.namespaces.iter().any(|has| has == *name)).collect();
    let problem = if jail.uid == 0 {
        "runs as the host's root".to_owned()
    } else if !jail.no_new_privs {
        "may gain privileges (no_new_privs is not set)".to_owned()
    } else if !jail.seccomp {
        "has no seccomp filter".to_owned()
    } else if !missing.is_empty() {
        format!("shares the host's namespaces {missing:?}")
    } else if !jail.cgroup {
        "is in no cgroup with limits".to_owned()
    } else {
        let detail = format!("uid {}, no new privileges, seccomp, own {} and cgroup", jail.uid, jail.namespaces.join(" "));
        return Ok(Finding::new((), detail));
    };
    Err(LaunchError::Jail(problem))
}

fn platform(policy: &Policy) -> Result<Finding<ContainerLevel>, NoAppraisal> {
    match policy.platform() {
        PlatformKind::Container => Ok(Finding::new(ContainerLevel::Container, "the policy asks for container")),
        PlatformKind::Sandbox => Ok(Finding::new(ContainerLevel::Sandbox, "the policy asks for sandbox")),
        kind @ (PlatformKind::Microvm | PlatformKind::Confidential) => Err(NoAppraisal::new(kind, "a container")),
    }
}

/// Less than of a micro VM: nothing of its configuration and files, and its memory is only isolated, never hidden.
const GUEST_TRUST: TrustVector = TrustVector {
    instance_identity: claim::TRUSTWORTHY_INSTANCE,
    configuration: claim::NONE,
    executables: claim::APPROVED_BOOT,
    file_system: claim::NONE,
    hardware: claim::NONE,
    runtime_opaque: claim::ISOLATED_MEMORY,
    storage_opaque: claim::NONE,
    sourced_data: claim::NONE,
};

/// Namespaces that process 1 must have of its own.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
/// Most root hashes that are repeated.
const MAX_SHOWN: usize = 4;

const HOST_LIMIT: &str = "this does NOT protect you from the host: its root can read the memory, the keys and the files of this instance, \
    and could have forged what the node says of it; the evidence shows what the node started with, and no more";
const CONTAINER_LIMIT: &str =
    "the instance shares the host's kernel: a hole in that kernel is a way out of it, and into it from a neighbour";
const SANDBOX_LIMIT: &str =
    "between the instance and the host's kernel is a kernel in user space: a hole in both, or in the CPU, is a way out of it";

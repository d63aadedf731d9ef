//! The appraisal of one instance: from bytes to a verdict.
//!
//! ```text
//! Decoded -> Fresh --+
//!                    +-> BoundLaunch -> KnownLaunch -> VerifiedGuest
//! NodeCertificate -> EndorsedNode -> TrustedNode --+
//! ```
//!
//! Each of these exists only after its checks; the launch record is believed once the node's quote covers it.

use std::sync::Arc;

use casemate_evidence::{
    instance::{GuestKeys, InstanceEvidence, LaunchRecord, QuoteBundle, Record as _, instance_leaf},
    merkle,
};
use sha2::{Digest as _, Sha256};

use crate::{
    anchors::TrustAnchors,
    checks::{Check, CheckName, Finding, INSTANCE_CHECKS, Ledger, Mismatch, Outcome, Stop},
    ek::VerifiedEk,
    launch::BoundLaunch,
    node::{NodeInput, TrustedNode},
    node_certificate::NodeCertificate,
    policy::{PlatformKind, Policy, Simulated},
    references::ReferenceValues,
    result::{
        Anchor, AttestationResult, Tier, VerifiedGuest,
        microvm::{self, MicrovmClaims, NodeClaims, Seen},
    },
    revocation::{self, NodeRests, RevocationList},
    time::UnixTime,
};

/// Certificates that go with the evidence; relayed by anybody, judged like the evidence.
#[derive(Debug, Clone, Copy)]
pub struct Endorsements<'a> {
    /// Node certificate, DER, leaf first.
    pub node_chain: &'a [Vec<u8>],
    /// EK certificate of the node's TPM, DER, leaf first.
    pub ek_chain: &'a [Vec<u8>],
}

/// What the relying party asked for.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'a> {
    /// The instance.
    pub instance: &'a str,
    /// Digest of the canonical workload.
    pub workload_digest: [u8; 32],
    /// Its own single-use nonce.
    pub nonce: [u8; 32],
}

/// What the relying party believes in to begin with.
#[derive(Debug, Clone, Copy)]
pub struct RelyingParty<'a> {
    /// Signed reference values.
    pub references: &'a ReferenceValues,
    /// Pinned roots of the platform and of TPM vendors.
    pub anchors: &'a TrustAnchors,
    /// What is accepted.
    pub policy: &'a Policy,
    /// Its own list; without one everything is refused.
    pub revocations: Option<&'a RevocationList>,
}

/// Appraises the evidence of an instance. Every check of [`INSTANCE_CHECKS`] is in the result; the first that fails ends it.
pub fn appraise_instance(
    evidence: &[u8],
    endorsements: &Endorsements<'_>,
    believes: &RelyingParty<'_>,
    expectation: &Expectation<'_>,
    now: UnixTime,
) -> AttestationResult {
    let mut appraisal = Appraisal::new(INSTANCE_CHECKS);
    let inputs = Inputs::new(endorsements, believes, expectation, now);
    let guest = appraisal.run(evidence, &inputs);
    finish(appraisal, guest, &inputs)
}

/// All that an appraisal is given.
pub(crate) struct Inputs<'a> {
    endorsements: &'a Endorsements<'a>,
    pub(crate) references: &'a ReferenceValues,
    anchors: &'a TrustAnchors,
    pub(crate) policy: &'a Policy,
    pub(crate) revocations: Option<&'a RevocationList>,
    pub(crate) expectation: &'a Expectation<'a>,
    pub(crate) now: UnixTime,
}

impl<'a> Inputs<'a> {
    pub(crate) fn new(
        endorsements: &'a Endorsements<'a>,
        believes: &RelyingParty<'a>,
        expectation: &'a Expectation<'a>,
        now: UnixTime,
    ) -> Self {
        let RelyingParty { references, anchors, policy, revocations } = *believes;
        Self { endorsements, references, anchors, policy, revocations, expectation, now }
    }
}

/// An appraisal under way, of whatever level.
pub(crate) struct Appraisal {
    pub(crate) ledger: Ledger,
    pub(crate) notes: Notes,
}

/// One that came to its end.
pub(crate) struct Closed {
    pub(crate) checks: Vec<Check>,
    pub(crate) passed: bool,
    pub(crate) node: Option<NodeClaims>,
    /// And what vouches for it is allowed.
    pub(crate) node_verified: bool,
    pub(crate) anchors: Vec<Anchor>,
    pub(crate) warnings: Vec<String>,
    pub(crate) simulated: bool,
    pub(crate) launch_record_digest: Option<[u8; 32]>,
    guest_os: Option<String>,
    guest: Option<MicrovmClaims>,
    guest_simulated: bool,
}

/// What goes into the result beside the checks.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) simulated: Vec<String>,
    pub(crate) anchors: Vec<Anchor>,
    pub(crate) launch_record_digest: Option<[u8; 32]>,
    pub(crate) guest_os: Option<String>,
    pub(crate) warnings: Vec<String>,
    node: Option<NodeClaims>,
    node_verified: bool,
    guest: Option<MicrovmClaims>,
    pub(crate) guest_simulated: bool,
}

impl Appraisal {
    pub(crate) fn new(checks: &'static [CheckName]) -> Self {
        Self { ledger: Ledger::new(checks), notes: Notes::default() }
    }

    fn run(&mut self, evidence: &[u8], inputs: &Inputs<'_>) -> Result<VerifiedGuest, Stop> {
        self.ledger.enter(CheckName::PolicyPlatform, platform(inputs.policy))?;
        let decoded = self.ledger.enter(CheckName::EvidenceFormat, Decoded::new(evidence))?;
        self.notes.guest = Some(MicrovmClaims::new(&decoded.launch));
        let fresh = self.ledger.enter(CheckName::EvidenceNonce, decoded.answering(&inputs.expectation.nonce))?;
        let LaunchRecord { kernel, initrd, root_hash, .. } = fresh.0.launch;
        let node = self.node(&fresh.0.evidence.node, &fresh.0.evidence.node_event_log, inputs)?;
        let (ak_name, ek, software) = (node.ak_name.clone(), node.ek, node.measured.software.clone());
        let bound = self.ledger.enter(CheckName::BatchInclusion, fresh.covered_by(node))?;
        self.notes.launch_record_digest = Some(bound.digest());
        let known = bound.judge(&mut self.ledger, &mut self.notes, inputs.expectation, inputs.references)?;
        let guest = known.guest(&mut self.ledger)?;
        let images = [software.agent(), software.vmm(), kernel, initrd, root_hash];
        let rests = NodeRests { ak_name: &ak_name, ek: &ek, references: inputs.references, images: &images };
        let fresh = revocation::node_finding(inputs.revocations, &rests, inputs.now, inputs.policy.revocation_floor());
        self.ledger.enter(CheckName::PolicyRevoked, fresh)?;
        self.ledger.enter(CheckName::PolicySimulated, simulated(&self.notes.simulated, inputs.policy.simulated()))?;
        Ok(guest)
    }

    /// From `node.certificate` to `node.software`.
    pub(crate) fn node(&mut self, bundle: &QuoteBundle, event_log: &[u8], inputs: &Inputs<'_>) -> Result<TrustedNode, Stop> {
        let input = NodeInput {
            node_chain: inputs.endorsements.node_chain,
            ek_chain: inputs.endorsements.ek_chain,
            bundle,
            event_log,
            anchors: inputs.anchors,
            references: inputs.references,
            boot: inputs.policy.boot(),
            now: inputs.now,
        };
        let certificate = input.certificate(&mut self.ledger)?;
        self.notes.anchors.push(platform_anchor(&certificate));
        let (endorsed, ek) = input.endorsement(&mut self.ledger, certificate)?;
        self.notes.anchors.push(vendor_anchor(&ek));
        let claims = self.notes.node.insert(NodeClaims::new(&endorsed.certificate, &ek));
        if ek.is_simulated() {
            self.notes.simulated.push(format!("the node's TPM, under root {}", ek.root_subject()));
        }
        let node = input.measured(&mut self.ledger, endorsed)?;
        claims.measured(&node.measured);
        self.notes.warnings.extend(node.measured.warnings.iter().cloned());
        self.notes.node_verified = true;
        Ok(node)
    }

    pub(crate) fn close(self, inputs: &Inputs<'_>) -> Closed {
        let Self { ledger, notes } = self;
        let (checks, passed) = ledger.close();
        let allowed = notes.simulated.is_empty() || inputs.policy.simulated() == Simulated::Allow;
        let simulated = notes.simulated.iter();
        let mut warnings: Vec<_> =
            simulated.map(|what| format!("simulated: {what}; it proves nothing about real hardware")).collect();
        warnings.extend(notes.warnings);
        Closed {
            checks,
            passed,
            node: notes.node,
            node_verified: notes.node_verified && allowed,
            anchors: notes.anchors,
            warnings,
            simulated: !notes.simulated.is_empty(),
            launch_record_digest: notes.launch_record_digest,
            guest_os: notes.guest_os,
            guest: notes.guest,
            guest_simulated: notes.guest_simulated,
        }
    }
}

impl Closed {
    /// The tier of the whole; `good` is what full success earns, where there was one.
    pub(crate) fn status(&self, good: Option<Tier>) -> Tier {
        let nothing = self.checks.iter().take(2).any(|check| check.outcome == Outcome::Fail);
        match (good, nothing) {
            (Some(tier), _) => tier,
            (None, true) => Tier::None,
            (None, false) => Tier::Contraindicated,
        }
    }
}

fn finish(appraisal: Appraisal, guest: Result<VerifiedGuest, Stop>, inputs: &Inputs<'_>) -> AttestationResult {
    let closed = appraisal.close(inputs);
    let guest = guest.ok().filter(|_| closed.passed);
    let submodules = microvm::submodules(&Seen {
        node: closed.node.as_ref(),
        node_verified: closed.node_verified,
        guest: closed.guest.as_ref(),
        guest_verified: guest.is_some(),
        guest_simulated: closed.guest_simulated,
        anchors: &closed.anchors,
    });
    let status = closed.status(guest.as_ref().map(|_| Tier::Affirming));
    let mut warnings = vec![MICROVM_LIMIT.to_owned(), VTPM_LIMIT.to_owned()];
    warnings.extend(closed.warnings);
    AttestationResult {
        version: 1,
        status,
        platform: inputs.policy.platform().as_str().to_owned(),
        simulated: closed.simulated,
        instance: inputs.expectation.instance.to_owned(),
        workload_digest: hex::encode(inputs.expectation.workload_digest),
        nonce_sha256: hex::encode(Sha256::digest(inputs.expectation.nonce)),
        launch_record_digest: closed.launch_record_digest.map(hex::encode),
        guest_os: closed.guest_os,
        at: inputs.now,
        checks: closed.checks,
        anchors: closed.anchors,
        warnings,
        submodules,
        guest: guest.map(Arc::new),
    }
}

/// Evidence that decodes.
struct Decoded {
    evidence: InstanceEvidence,
    launch: LaunchRecord,
    keys: GuestKeys,
}

impl Decoded {
    fn new(bytes: &[u8]) -> Result<Finding<Self>, casemate_evidence::instance::DecodeError> {
        let evidence = InstanceEvidence::decode(bytes)?;
        let launch = LaunchRecord::decode(&evidence.launch_record)?;
        let keys = GuestKeys::decode(&evidence.guest_keys)?;
        let detail = format!("instance evidence, version 1, {} bytes", bytes.len());
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
    fn covered_by(self, node: TrustedNode) -> Result<Finding<BoundLaunch>, InclusionError> {
        let Decoded { evidence, launch, keys } = self.0;
        let leaf = instance_leaf(&evidence.nonce, &evidence.launch_record, &evidence.guest_keys, &evidence.guest.attest);
        let root = merkle::root_of(&leaf, &evidence.batch).ok_or(InclusionError::Path)?;
        if !node.quote.is_for(&root) {
            let seen = hex::encode(node.quote.qualifying());
            return Err(InclusionError::Root(Mismatch::new(hex::encode(root), seen)));
        }
        let detail = format!("leaf {} of {} under the node's quote", evidence.batch.index, evidence.batch.count);
        Ok(Finding::new(BoundLaunch::new(evidence, launch, keys, node.measured.software), detail))
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum InclusionError {
    #[error("the inclusion path does not fit its own index and count")]
    Path,
    #[error("the node's quote was not made for a batch with this launch record, guest keys, guest quote and nonce")]
    Root(#[source] Mismatch),
    #[error("the node's quote was not made for a batch with this container launch, guest keys and nonce")]
    ContainerRoot(#[source] Mismatch),
}

#[derive(Debug, thiserror::Error)]
#[error("the policy asks for \"{asked}\", and this is the appraisal of {of}")]
pub(crate) struct NoAppraisal {
    asked: &'static str,
    of: &'static str,
}

impl NoAppraisal {
    pub(crate) fn new(kind: PlatformKind, of: &'static str) -> Self {
        Self { asked: kind.as_str(), of }
    }
}

fn platform(policy: &Policy) -> Result<Finding<()>, NoAppraisal> {
    match policy.platform() {
        PlatformKind::Microvm => Ok(Finding::new((), "the policy asks for microvm")),
        kind @ (PlatformKind::Container | PlatformKind::Sandbox | PlatformKind::Confidential) => {
            Err(NoAppraisal::new(kind, "a micro VM"))
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the policy refuses simulators, but there is one: {0}")]
pub(crate) struct SimulatedRefused(String);

pub(crate) fn simulated(found: &[String], policy: Simulated) -> Result<Finding<()>, SimulatedRefused> {
    match (found, policy) {
        ([], Simulated::Refuse | Simulated::Allow) => Ok(Finding::new((), "no simulator was involved")),
        (found, Simulated::Allow) => Ok(Finding::new((), format!("SIMULATED, allowed by the policy: {}", found.join("; ")))),
        (found, Simulated::Refuse) => Err(SimulatedRefused(found.join("; "))),
    }
}

pub(crate) fn platform_anchor(certificate: &NodeCertificate) -> Anchor {
    Anchor {
        kind: "platform-ca".to_owned(),
        subject: certificate.ca_subject.clone(),
        fingerprint: hex::encode(certificate.ca_fingerprint),
        simulated: false,
        proved: format!("that node {} was appraised by the platform, with which TPM and attestation key", certificate.subject),
    }
}

pub(crate) fn vendor_anchor(ek: &VerifiedEk) -> Anchor {
    let (ek_digest, root) = (hex::encode(ek.certificate_digest()), ek.root_subject());
    Anchor {
        kind: "tpm-vendor-root".to_owned(),
        subject: root.to_owned(),
        fingerprint: hex::encode(ek.root_fingerprint()),
        simulated: ek.is_simulated(),
        proved: format!(
            "node TPM with EK certificate {ek_digest} under root {root}: anchor of the node's boot chain, its agent and VMM, and of the launch record"
        ),
    }
}

const MICROVM_LIMIT: &str = "level microvm: the evidence anchors in the node's TPM, not in the processor that runs the guest; a physical attack, a hole in the host's kernel, or whoever controls the host after its measured start is not stopped by it";
const VTPM_LIMIT: &str = "the guest's TPM is software on the same host: its quote is as strong as the node's measured launcher, and no root of trust of its own";

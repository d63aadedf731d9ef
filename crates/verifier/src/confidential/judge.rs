//! From bytes to a verdict.

use std::{collections::BTreeMap, sync::Arc};

use casemate_evidence::{
    confidential::{ConfidentialEvidence, CpuEvidence, MAX_GPUS, confidential_leaf},
    instance::{DecodeError, GuestKeys, Record as _},
    merkle,
};
use sha2::{Digest as _, Sha256};

use super::{
    Believes, CONFIDENTIAL_HEAD_CHECKS, CONFIDENTIAL_NODE_CHECKS, CONFIDENTIAL_TAIL_CHECKS, ConfidentialEndorsements,
    ConfidentialExpectation, CpuEndorsements, CpuPolicy, GUEST, NODE, devices::VerifiedCpu, links, sections::Sections,
    submodules::gpu_family,
};
use crate::{
    checks::{CheckName, Finding, Mismatch, Outcome, Stop},
    gpu::{DeviceCount, GPU_CHECKS, VerifiedGpus},
    instance::{InclusionError, platform_anchor, simulated, vendor_anchor},
    node::NodeInput,
    result::{Anchor, AttestationResult, NodeClaims, Submodule, Tier, VerifiedGuest, microvm},
    revocation::{self, RestsOn},
    snp::SNP_CHECKS,
    tdx::TDX_CHECKS,
    time::UnixTime,
};

pub(super) struct Inputs<'a> {
    pub(super) endorsements: &'a ConfidentialEndorsements<'a>,
    pub(super) believes: &'a Believes<'a>,
    pub(super) expectation: &'a ConfidentialExpectation<'a>,
    pub(super) now: UnixTime,
}

pub(super) struct Appraisal<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) sections: Sections,
    pub(super) submodules: BTreeMap<String, Submodule>,
    pub(super) anchors: Vec<Anchor>,
    pub(super) warnings: Vec<String>,
    pub(super) simulated: Vec<String>,
    leaf: Option<[u8; 32]>,
}

/// Evidence whose parts are the ones that were asked for.
struct Complete {
    evidence: ConfidentialEvidence,
    keys: GuestKeys,
}

/// A node that the processor and the GPUs belong to: what of it may be revoked.
struct LinkedNode {
    ak_name: Vec<u8>,
    /// SHA-256 of its TPM's EK certificate.
    ek: [u8; 32],
    agent: [u8; 32],
    vmm: [u8; 32],
}

impl<'a> Appraisal<'a> {
    pub(super) fn new(inputs: &'a Inputs<'a>) -> Self {
        let cpu = match &inputs.believes.policy.cpu {
            CpuPolicy::Snp(_) => SNP_CHECKS,
            CpuPolicy::Tdx(_) => TDX_CHECKS,
        };
        let mut due = vec![CONFIDENTIAL_HEAD_CHECKS, cpu];
        if promised(&inputs.expectation.devices) {
            due.push(GPU_CHECKS);
        }
        due.extend([CONFIDENTIAL_NODE_CHECKS, CONFIDENTIAL_TAIL_CHECKS]);
        Self {
            inputs,
            sections: Sections::new(due),
            submodules: BTreeMap::new(),
            anchors: Vec::new(),
            warnings: Vec::new(),
            simulated: Vec::new(),
            leaf: None,
        }
    }

    pub(super) fn run(mut self, evidence: &[u8]) -> AttestationResult {
        let found = self.judge(evidence);
        self.close(found)
    }

    fn judge(&mut self, evidence: &[u8]) -> Result<VerifiedGuest, Stop> {
        let inputs = self.inputs;
        let Complete { evidence, keys } = self.sections.judge(|ledger| {
            ledger.enter(CheckName::PolicyPlatform, platform(&inputs.believes.policy.cpu))?;
            let complete = ledger.enter(CheckName::EvidenceFormat, decode(evidence))?;
            ledger.enter(CheckName::EvidenceNonce, fresh(&complete, &inputs.expectation.instance.nonce))?;
            ledger.enter(CheckName::EvidenceParts, parts(&complete, inputs))?;
            Ok(complete)
        })?;
        let leaf = confidential_leaf(&evidence);
        let cpu = self.processor(&evidence)?;
        let gpus = if promised(&inputs.expectation.devices) { Some(self.gpus(&evidence)?) } else { None };
        let node = self.node(&evidence, &leaf, &cpu, gpus.as_ref())?;
        self.tail(&cpu, gpus.as_ref(), &node)?;
        let expected = &inputs.expectation.instance;
        Ok(VerifiedGuest {
            hpke: keys.hpke,
            tls: keys.tls,
            instance: expected.instance.to_owned(),
            workload_digest: expected.workload_digest,
            nonce: expected.nonce,
            launch_record_digest: leaf,
        })
    }

    fn node(
        &mut self,
        evidence: &ConfidentialEvidence,
        leaf: &[u8; 32],
        cpu: &VerifiedCpu,
        gpus: Option<&VerifiedGpus>,
    ) -> Result<LinkedNode, Stop> {
        let Inputs { endorsements, believes, now, .. } = *self.inputs;
        let input = NodeInput {
            node_chain: endorsements.node.node_chain,
            ek_chain: endorsements.node.ek_chain,
            bundle: &evidence.node.quote,
            event_log: &evidence.node.event_log,
            anchors: believes.anchors,
            references: believes.references,
            boot: &believes.policy.node_boot,
            now,
        };
        let devices_anchors = self.anchors.len();
        let (anchors, simulated, covered_leaf) = (&mut self.anchors, &mut self.simulated, &mut self.leaf);
        let warnings = &mut self.warnings;
        let mut claims = None;
        let found = self.sections.judge(|ledger| {
            let certificate = input.certificate(ledger)?;
            anchors.push(platform_anchor(&certificate));
            let (endorsed, ek) = input.endorsement(ledger, certificate)?;
            anchors.push(vendor_anchor(&ek));
            if ek.is_simulated() {
                simulated.push(format!("the node's TPM, under root {}", ek.root_subject()));
            }
            let claims = claims.insert(NodeClaims::new(&endorsed.certificate, &ek));
            let node = input.measured(ledger, endorsed)?;
            claims.measured(&node.measured);
            warnings.extend(node.measured.warnings.iter().cloned());
            let covered = covered(&node.quote, leaf, &evidence.node.batch);
            ledger.enter(CheckName::BatchInclusion, covered)?;
            *covered_leaf = Some(*leaf);
            let linked = links::chip(believes.references, &ek.certificate_digest(), cpu.identity().as_ref());
            let machine = ledger.enter(CheckName::LinkChip, linked)?;
            ledger.enter(CheckName::LinkGpus, links::gpus(machine, gpus))?;
            let software = node.measured.software;
            Ok(LinkedNode { ak_name: node.ak_name, ek: node.ek, agent: software.agent(), vmm: software.vmm() })
        });
        let allowed = self.simulated.is_empty() || believes.policy.danger_allow_simulated;
        let submodule = microvm::node_submodule(claims.as_ref(), found.is_ok() && allowed, &self.anchors[devices_anchors..]);
        self.submodules.insert(NODE.to_owned(), submodule);
        found
    }

    fn tail(&mut self, cpu: &VerifiedCpu, gpus: Option<&VerifiedGpus>, node: &LinkedNode) -> Result<(), Stop> {
        let Inputs { endorsements, believes, now, .. } = *self.inputs;
        let policy = believes.policy;
        let devices = gpus.map_or(&[][..], VerifiedGpus::devices);
        let identities: Vec<[u8; 32]> = devices.iter().map(|device| device.identity()).collect();
        let chips: Vec<&[u8]> =
            cpu.chips().into_iter().chain(identities.iter().map(<[u8; 32]>::as_slice)).chain([node.ek.as_slice()]).collect();
        let images: Vec<&[u8]> = cpu.images().into_iter().chain([node.agent.as_slice(), &node.vmm]).collect();
        let families = devices.iter().filter_map(|device| gpu_family(device.model())).map(str::to_owned);
        let models = devices.iter().map(|device| device.model().to_lowercase());
        let generations: Vec<String> = families.chain(models).chain([cpu.generation()]).collect();
        let generations: Vec<&str> = generations.iter().map(String::as_str).collect();
        let rests_on = RestsOn { chips: &chips, aks: &[&node.ak_name], images: &images, silicon_generations: &generations };
        let simulators = &self.simulated;
        self.sections.judge(|ledger| {
            let fresh = revocation::finding(endorsements.revocations, &rests_on, now, policy.revocation_floor);
            ledger.enter(CheckName::PolicyRevoked, fresh)?;
            ledger.enter(CheckName::PolicySimulated, simulated(simulators, policy.simulated()))
        })
    }

    fn close(self, guest: Result<VerifiedGuest, Stop>) -> AttestationResult {
        let Self { inputs, sections, mut submodules, anchors, mut warnings, simulated, leaf } = self;
        let (checks, passed) = sections.close();
        let guest = guest.ok().filter(|_| passed);
        let nothing = checks.iter().take(2).any(|check| check.outcome == Outcome::Fail);
        let status = match (&guest, nothing) {
            (Some(_), _) => Tier::Affirming,
            (None, true) => Tier::None,
            (None, false) => Tier::Contraindicated,
        };
        let allowed = inputs.believes.policy.danger_allow_simulated;
        for (name, part) in &mut submodules {
            // A processor's evidence alone is not a guest: nobody may read one out of a refusal.
            if (name == GUEST && guest.is_none()) || (part.simulated && !allowed) {
                part.refuse();
            }
        }
        warnings.extend(simulated.iter().map(|what| format!("simulated: {what}; it proves nothing about real hardware")));
        warnings.dedup();
        let expected = &inputs.expectation.instance;
        AttestationResult {
            version: 1,
            status,
            platform: "confidential".to_owned(),
            simulated: !simulated.is_empty(),
            instance: expected.instance.to_owned(),
            workload_digest: hex::encode(expected.workload_digest),
            nonce_sha256: hex::encode(Sha256::digest(expected.nonce)),
            launch_record_digest: leaf.map(hex::encode),
            guest_os: None,
            at: inputs.now,
            checks,
            anchors,
            warnings,
            submodules,
            guest: guest.map(Arc::new),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum PlatformError {
    #[error("the policy asks for {SNP}, but accepts no generation of it")]
    NoGeneration,
    #[error("the policy asks for {TDX}, but accepts no status of its TCB")]
    NoStatus,
}

/// The policy asks for something that there can be.
fn platform(policy: &CpuPolicy) -> Result<Finding<()>, PlatformError> {
    match policy {
        CpuPolicy::Snp(snp) if [&snp.genoa, &snp.turin, &snp.danger_milan].iter().all(|rule| rule.is_none()) => {
            Err(PlatformError::NoGeneration)
        }
        CpuPolicy::Tdx(tdx) if tdx.accepted_tcb.is_empty() => Err(PlatformError::NoStatus),
        CpuPolicy::Snp(_) | CpuPolicy::Tdx(_) => {
            Ok(Finding::new((), format!("the policy asks for confidential, by {}", cpu_name(policy))))
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Finding<Complete>, DecodeError> {
    let evidence = ConfidentialEvidence::decode(bytes)?;
    let keys = GuestKeys::decode(&evidence.guest_keys)?;
    Ok(Finding::new(Complete { evidence, keys }, format!("confidential evidence, version 1, {} bytes", bytes.len())))
}

fn fresh(complete: &Complete, nonce: &[u8; 32]) -> Result<Finding<()>, Mismatch> {
    Mismatch::unless_equal(nonce, &complete.evidence.nonce)?;
    Ok(Finding::new((), "answers the nonce of this challenge"))
}

#[derive(Debug, thiserror::Error)]
enum PartsError {
    #[error("the policy asks for {expected}, the evidence is of {seen}")]
    Processor { expected: &'static str, seen: &'static str },
    #[error("the policy asks for {expected}, the endorsements are for {seen}")]
    Endorsements { expected: &'static str, seen: &'static str },
    #[error("{0} devices are more than the limit of {MAX_GPUS}")]
    TooMany(usize),
    #[error("devices were promised, but there is evidence of none")]
    Lacking,
    #[error("no device was promised, but there is evidence of {given}, and the guest sees {seen}")]
    Unasked { given: usize, seen: u32 },
}

/// The parts are those that the policy asks for, and no others.
fn parts(complete: &Complete, inputs: &Inputs<'_>) -> Result<Finding<()>, PartsError> {
    let evidence = &complete.evidence;
    let expected = cpu_name(&inputs.believes.policy.cpu);
    let seen = match &evidence.cpu {
        CpuEvidence::Snp { .. } => SNP,
        CpuEvidence::Tdx { .. } => TDX,
    };
    if seen != expected {
        return Err(PartsError::Processor { expected, seen });
    }
    let seen = match &inputs.endorsements.cpu {
        CpuEndorsements::Snp(_) => SNP,
        CpuEndorsements::Tdx(_) => TDX,
    };
    if seen != expected {
        return Err(PartsError::Endorsements { expected, seen });
    }
    let given = evidence.gpus.len();
    if given > MAX_GPUS {
        return Err(PartsError::TooMany(given));
    }
    if promised(&inputs.expectation.devices) && given == 0 {
        return Err(PartsError::Lacking);
    }
    let on_bus = evidence.seen.gpus.saturating_add(evidence.seen.switches);
    if !promised(&inputs.expectation.devices) && (given, on_bus) != (0, 0) {
        return Err(PartsError::Unasked { given, seen: on_bus });
    }
    Ok(Finding::new((), format!("{expected}, {given} GPUs and switches, and the node")))
}

fn covered(
    quote: &crate::quote::AuthenticQuote,
    leaf: &[u8; 32],
    batch: &merkle::InclusionPath,
) -> Result<Finding<()>, InclusionError> {
    let root = merkle::root_of(leaf, batch).ok_or(InclusionError::Path)?;
    if !quote.is_for(&root) {
        let seen = hex::encode(quote.qualifying());
        return Err(InclusionError::Root(Mismatch::new(hex::encode(root), seen)));
    }
    Ok(Finding::new((), format!("leaf {} of {} under the node's quote", batch.index, batch.count)))
}

fn promised(devices: &DeviceCount) -> bool {
    (devices.gpus, devices.switches) != (0, 0)
}

fn cpu_name(policy: &CpuPolicy) -> &'static str {
    match policy {
        CpuPolicy::Snp(_) => SNP,
        CpuPolicy::Tdx(_) => TDX,
    }
}

const SNP: &str = "SEV-SNP";
const TDX: &str = "TDX";

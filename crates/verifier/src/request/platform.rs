//! Whole attesters: an instance of level `microvm`, a confidential VM.

use sha2::{Digest as _, Sha256};

use super::{Judged, Pinned, RequestError, devices::with_gpu_endorsements, wire};
use crate::{
    anchors::{TrustAnchors, VendorRoot},
    checks::{CheckName, Finding, Ledger},
    confidential::{
        Believes, ConfidentialEndorsements, ConfidentialExpectation, ConfidentialPolicy, CpuEndorsements, appraise_confidential,
    },
    instance::{Endorsements, Expectation, RelyingParty, appraise_instance},
    policy::{Policy, Simulated},
    references::ReferenceValues,
    rego::{PolicyOptions, apply_policy},
    result::{AttestationResult, Tier},
    revocation::RevocationList,
    snp,
    time::UnixTime,
};

/// What the asker trusts.
#[derive(Debug)]
struct Brought {
    anchors: Option<TrustAnchors>,
    references: Option<ReferenceValues>,
    revocations: Option<RevocationList>,
}

impl Brought {
    fn new(
        anchors: Option<&wire::Anchors>,
        references: Option<&wire::Signed>,
        revocations: Option<&wire::Signed>,
    ) -> Result<Self, RequestError> {
        let anchors = anchors.map(trust_anchors).transpose()?;
        let references = references.map(|file| ReferenceValues::from_signed(&file.signed.0, &file.key.0));
        let revocations = revocations.map(|file| RevocationList::from_signed(&file.signed.0, &file.key.0));
        Ok(Self {
            anchors,
            references: references.transpose().map_err(RequestError::References)?,
            revocations: revocations.transpose().map_err(RequestError::Revocations)?,
        })
    }

    fn any(&self) -> bool {
        self.anchors.is_some() || self.references.is_some() || self.revocations.is_some()
    }

    /// What is judged by: each from exactly one side.
    fn with<'a>(&'a self, pinned: &Pinned<'a>) -> Result<Trust<'a>, TrustError> {
        Ok(Trust {
            anchors: one("anchors", self.anchors.as_ref(), pinned.anchors)?.ok_or(TrustError::Missing("anchors"))?,
            references: one("references", self.references.as_ref(), pinned.references)?
                .ok_or(TrustError::Missing("references"))?,
            revocations: one("revocations", self.revocations.as_ref(), pinned.revocations)?,
        })
    }
}

fn trust_anchors(wire: &wire::Anchors) -> Result<TrustAnchors, RequestError> {
    let roots = wire.vendor_roots.iter().map(|pem| VendorRoot::from_pem(pem)).collect::<Result<Vec<_>, _>>();
    TrustAnchors::new(&wire.platform_ca, &roots.map_err(RequestError::Anchors)?).map_err(RequestError::Anchors)
}

struct Trust<'a> {
    anchors: &'a TrustAnchors,
    references: &'a ReferenceValues,
    revocations: Option<&'a RevocationList>,
}

#[derive(Debug, thiserror::Error)]
enum TrustError {
    #[error("the request brings {0}, but this verifier judges by its own")]
    Brought(&'static str),
    #[error("neither the request nor this verifier has {0}")]
    Missing(&'static str),
}

fn one<'a, T>(what: &'static str, brought: Option<&'a T>, pinned: Option<&'a T>) -> Result<Option<&'a T>, TrustError> {
    match (brought, pinned) {
        (Some(_), Some(_)) => Err(TrustError::Brought(what)),
        (brought, pinned) => Ok(brought.or(pinned)),
    }
}

/// Of kind `instance`.
#[derive(Debug)]
pub(super) struct InstanceRequest {
    evidence: Vec<u8>,
    node_chain: Vec<Vec<u8>>,
    ek_chain: Vec<Vec<u8>>,
    policy: wire::InstancePolicy,
    expectation: wire::InstanceExpectation,
    brought: Brought,
}

type WireInstance =
    wire::Trusting<wire::WholeEvidence, wire::InstanceEndorsements, wire::InstancePolicy, wire::InstanceExpectation>;

impl InstanceRequest {
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, RequestError> {
        let wire: WireInstance = serde_json::from_slice(bytes).map_err(RequestError::Json)?;
        Ok(Self {
            evidence: wire.evidence.evidence.0,
            node_chain: wire::all(&wire.endorsements.node_chain),
            ek_chain: wire::all(&wire.endorsements.ek_chain),
            policy: wire.policy,
            expectation: wire.expectation,
            brought: Brought::new(wire.anchors.as_ref(), wire.references.as_ref(), wire.revocations.as_ref())?,
        })
    }

    pub(super) fn nonce(&self) -> [u8; 32] {
        self.expectation.nonce.0
    }

    pub(super) fn brings_trust(&self) -> bool {
        self.brought.any()
    }

    pub(super) fn judge(&self, pinned: &Pinned<'_>, now: UnixTime) -> Judged {
        let simulated = both(self.policy.danger_allow_simulated, pinned.simulated);
        let expectation = Expectation {
            instance: &self.expectation.instance,
            workload_digest: self.expectation.workload_digest.0,
            nonce: self.expectation.nonce.0,
        };
        let trust = match self.brought.with(pinned) {
            Ok(trust) => trust,
            Err(error) => return Judged::composite(refused(&error, "microvm", &expectation, now)),
        };
        let endorsements = Endorsements { node_chain: &self.node_chain, ek_chain: &self.ek_chain };
        let policy = Policy::microvm(simulated)
            .with_boot(self.policy.node_boot.clone())
            .with_revocation_floor(self.policy.revocation_floor);
        let Trust { references, anchors, revocations } = trust;
        let believes = RelyingParty { references, anchors, policy: &policy, revocations };
        let result = appraise_instance(&self.evidence, &endorsements, &believes, &expectation, now);
        Judged::composite(apply_policy(result, pinned.rules, PolicyOptions::from(simulated), 0))
    }
}

/// Of kind `confidential`.
#[derive(Debug)]
pub(super) struct ConfidentialRequest {
    wire: WireConfidential,
    brought: Brought,
}

type WireConfidential =
    wire::Trusting<wire::WholeEvidence, wire::ConfidentialEndorsements, ConfidentialPolicy, wire::ConfidentialExpectation>;

impl ConfidentialRequest {
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, RequestError> {
        let wire: WireConfidential = serde_json::from_slice(bytes).map_err(RequestError::Json)?;
        let brought = Brought::new(wire.anchors.as_ref(), wire.references.as_ref(), wire.revocations.as_ref())?;
        Ok(Self { wire, brought })
    }

    pub(super) fn nonce(&self) -> [u8; 32] {
        self.wire.expectation.nonce.0
    }

    pub(super) fn brings_trust(&self) -> bool {
        self.brought.any()
    }

    pub(super) fn judge(&self, pinned: &Pinned<'_>, now: UnixTime) -> Judged {
        let wire::Trusting { evidence, endorsements, policy, expectation, .. } = &self.wire;
        let instance = Expectation {
            instance: &expectation.instance,
            workload_digest: expectation.workload_digest.0,
            nonce: expectation.nonce.0,
        };
        let trust = match self.brought.with(pinned) {
            Ok(trust) => trust,
            Err(error) => return Judged::composite(refused(&error, "confidential", &instance, now)),
        };
        let mut policy = policy.clone();
        policy.danger_allow_simulated = both(policy.danger_allow_simulated, pinned.simulated) == Simulated::Allow;
        let believes = Believes { references: trust.references, anchors: trust.anchors, policy: &policy, rules: pinned.rules };
        let (node_chain, ek_chain) = (wire::all(&endorsements.node_chain), wire::all(&endorsements.ek_chain));
        let chain = match &endorsements.cpu {
            wire::CpuEndorsements::Snp(snp) => wire::all(&snp.chain),
            wire::CpuEndorsements::Tdx(_) => Vec::new(),
        };
        let cpu = match &endorsements.cpu {
            wire::CpuEndorsements::Snp(snp) => {
                CpuEndorsements::Snp(snp::Endorsements::new(&chain, snp.crl.as_ref().map(|crl| crl.0.as_slice())))
            }
            wire::CpuEndorsements::Tdx(tdx) => CpuEndorsements::Tdx(tdx.as_input()),
        };
        let expected = ConfidentialExpectation { instance, devices: expectation.devices };
        let result = with_gpu_endorsements(&endorsements.gpu, |gpu| {
            let node = Endorsements { node_chain: &node_chain, ek_chain: &ek_chain };
            let endorsements = ConfidentialEndorsements { node, cpu, gpu: *gpu, revocations: trust.revocations };
            appraise_confidential(&evidence.evidence.0, &endorsements, &believes, &expected, now)
        });
        Judged::composite(result)
    }
}

/// Simulators are believed only where the request and the judging side both say so.
fn both(request: bool, pinned: Simulated) -> Simulated {
    if request { pinned } else { Simulated::Refuse }
}

/// There is nothing to judge by.
fn refused(error: &TrustError, platform: &str, expectation: &Expectation<'_>, now: UnixTime) -> AttestationResult {
    let mut ledger = Ledger::new(&[CheckName::PolicyPlatform]);
    let _refused = ledger.enter::<(), _>(CheckName::PolicyPlatform, Err::<Finding<()>, _>(error));
    AttestationResult {
        version: 1,
        status: Tier::None,
        platform: platform.to_owned(),
        simulated: false,
        instance: expectation.instance.to_owned(),
        workload_digest: hex::encode(expectation.workload_digest),
        nonce_sha256: hex::encode(Sha256::digest(expectation.nonce)),
        launch_record_digest: None,
        guest_os: None,
        at: now,
        checks: ledger.close().0,
        anchors: Vec::new(),
        warnings: Vec::new(),
        submodules: std::collections::BTreeMap::new(),
        guest: None,
    }
}

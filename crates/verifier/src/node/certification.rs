//! A node that enrols or renews its certificate: the platform's own appraisal.

use std::collections::BTreeMap;

use casemate_evidence::instance::Pcr;
use sha2::{Digest as _, Sha256};

use super::{
    attestation_key, authentic_quote,
    demand::NodePolicy,
    list::{self, ImaMemory, ImaPart},
    measured,
};
use crate::{
    checks::{Check, CheckName, Finding, Ledger, Mismatch, NODE_CHECKS, Outcome, Stop},
    ek::VerifiedEk,
    instance::{simulated, vendor_anchor},
    log::NodeSoftware,
    policy::Simulated,
    quote::AuthenticQuote,
    references::ReferenceValues,
    rego::{AppraisalPolicy, PolicyOptions, apply_policy},
    result::{AttestationResult, NodeClaims, Tier, microvm},
    revocation::{self, NodeRests, RevocationList},
    time::UnixTime,
};

/// What a node that enrols or renews sends, and what is known of it.
#[derive(Debug, Clone)]
pub struct NodeQuoteInput<'a> {
    /// Its name.
    pub node: &'a str,
    /// Its TPM, by the vendor's certificate.
    pub ek: &'a VerifiedEk,
    /// TPMS_ATTEST.
    pub attest: &'a [u8],
    /// TPMT_SIGNATURE.
    pub signature: &'a [u8],
    /// TPMT_PUBLIC of the attestation key. Whether it is *the node's* is for the caller: MakeCredential at enrolment, the
    /// TPM name in the old certificate at renewal.
    pub ak_public: &'a [u8],
    /// SHA-256 PCR values by index.
    pub pcrs: &'a BTreeMap<u32, [u8; 32]>,
    /// TCG event log.
    pub event_log: &'a [u8],
    /// The kernel's list of files, or what was added to it.
    pub ima: Option<ImaPart<'a>>,
    /// What [`VerifiedNode::ima`] was the last time.
    pub remembered: Option<&'a ImaMemory>,
}

/// What the platform insists on of its nodes.
#[derive(Debug, Clone, Copy)]
pub struct NodeBeliefs<'a> {
    /// Known software.
    pub references: &'a ReferenceValues,
    /// Of boot and files.
    pub policy: &'a NodePolicy,
    /// The last word.
    pub rules: &'a AppraisalPolicy,
    /// Whether a simulator may stand in for a TPM.
    pub simulated: Simulated,
    /// Without a list every node is refused.
    pub revocations: Option<&'a RevocationList>,
    /// The highest serial of a list that was seen.
    pub revocation_floor: u64,
}

/// How the appraisal of a node came out.
#[derive(Debug)]
pub struct NodeAppraisal {
    /// The result, with every check of [`NODE_CHECKS`] in order, and `policy.appraisal`.
    pub result: AttestationResult,
    verified: Option<VerifiedNode>,
}

impl NodeAppraisal {
    /// The node, if every check passed and the policy accepts it.
    pub fn verified(&self) -> Option<&VerifiedNode> {
        self.verified.as_ref().filter(|_| self.result.is_affirming())
    }
}

/// A node whose software is known.
#[derive(Debug)]
pub struct VerifiedNode {
    ak_name: Vec<u8>,
    software: NodeSoftware,
    ima: Option<ImaMemory>,
}

impl VerifiedNode {
    /// TPM name of the attestation key that quoted.
    pub fn ak_name(&self) -> &[u8] {
        &self.ak_name
    }

    /// What it runs.
    pub fn software(&self) -> &NodeSoftware {
        &self.software
    }

    /// From where its list of files goes on; `None` where it was not judged.
    pub fn ima(&self) -> Option<&ImaMemory> {
        self.ima.as_ref()
    }
}

/// Appraises a node that enrols or renews, at time `now`: a proper attestation key, its quote for `qualifying`, the PCRs, the logs, the
/// software.
pub fn appraise_node(
    input: &NodeQuoteInput<'_>,
    qualifying: &[u8; 32],
    beliefs: &NodeBeliefs<'_>,
    now: UnixTime,
) -> NodeAppraisal {
    let mut ledger = Ledger::new(NODE_CHECKS);
    let mut seen = Seen::default();
    let appraisal = Appraisal { input, qualifying, beliefs, now };
    let found = appraisal.run(&mut ledger, &mut seen);
    let (checks, passed) = ledger.close();
    let verified = found.ok().filter(|_| passed);
    let result = appraisal.result(checks, seen, verified.is_some());
    let result = apply_policy(result, beliefs.rules, PolicyOptions::from(beliefs.simulated), 0);
    NodeAppraisal { result, verified }
}

struct Appraisal<'a> {
    input: &'a NodeQuoteInput<'a>,
    qualifying: &'a [u8; 32],
    beliefs: &'a NodeBeliefs<'a>,
    now: UnixTime,
}

/// What goes into the result beside the checks.
#[derive(Default)]
struct Seen {
    claims: Option<NodeClaims>,
    warnings: Vec<String>,
}

impl Appraisal<'_> {
    fn run(&self, ledger: &mut Ledger, seen: &mut Seen) -> Result<VerifiedNode, Stop> {
        let Self { input, beliefs, .. } = *self;
        let key = ledger.enter(CheckName::NodeAk, attestation_key(input.ak_public))?;
        let claims = seen.claims.insert(NodeClaims::of(input.node, key.name(), input.ek));
        let quote = ledger.enter(CheckName::NodeQuote, authentic_quote(&key, input.attest, input.signature))?;
        ledger.enter(CheckName::EvidenceNonce, for_qualifying(&quote, self.qualifying))?;
        let pcrs = input.pcrs.iter().map(|(index, value)| (*index, Pcr(*value))).collect();
        let is_simulated = input.ek.is_simulated();
        let demand = measured::Wanted {
            references: beliefs.references,
            boot: &beliefs.policy.boot,
            simulated: is_simulated,
            certified: false,
        };
        let node = measured::judge(ledger, &quote, &pcrs, input.event_log, &demand)?;
        claims.measured(&node);
        seen.warnings.extend(node.warnings);
        let list = list::judge(input.ima.as_ref(), input.remembered, (&quote, &node.pcrs), &beliefs.policy.ima, is_simulated);
        let list = ledger.enter(CheckName::NodeIma, list)?;
        claims.files = Some(list.not_judged.map_or("judged", |why| why.claim()).to_owned());
        seen.warnings.extend(list.not_judged.map(|why| format!("the node's list of files was not judged: {}", why.text())));
        seen.warnings.extend(list.warnings);
        let (ek, software) = (input.ek.certificate_digest(), node.software);
        let images = [software.agent(), software.vmm()];
        let rests = NodeRests { ak_name: key.name(), ek: &ek, references: beliefs.references, images: &images };
        let fresh = revocation::node_finding(beliefs.revocations, &rests, self.now, beliefs.revocation_floor);
        ledger.enter(CheckName::PolicyRevoked, fresh)?;
        ledger.enter(CheckName::PolicySimulated, simulated(&self.simulators(), beliefs.simulated))?;
        Ok(VerifiedNode { ak_name: key.name().to_vec(), software, ima: list.memory })
    }

    fn simulators(&self) -> Vec<String> {
        let ek = self.input.ek;
        ek.is_simulated().then(|| format!("the node's TPM, under root {}", ek.root_subject())).into_iter().collect()
    }

    fn result(&self, checks: Vec<Check>, seen: Seen, verified: bool) -> AttestationResult {
        let anchors = vec![vendor_anchor(self.input.ek)];
        let nothing = checks.first().is_none_or(|check| check.outcome == Outcome::Fail);
        let status = match (verified, nothing) {
            (true, _) => Tier::Affirming,
            (false, true) => Tier::None,
            (false, false) => Tier::Contraindicated,
        };
        let simulators = self.simulators();
        let mut warnings: Vec<String> =
            simulators.iter().map(|what| format!("simulated: {what}; it proves nothing about real hardware")).collect();
        warnings.extend(seen.warnings);
        let node = microvm::node_submodule(seen.claims.as_ref(), verified, &anchors);
        AttestationResult {
            version: 1,
            status,
            platform: PLATFORM.to_owned(),
            simulated: !simulators.is_empty(),
            instance: self.input.node.to_owned(),
            workload_digest: String::new(),
            nonce_sha256: hex::encode(Sha256::digest(self.qualifying)),
            launch_record_digest: None,
            guest_os: None,
            at: self.now,
            checks,
            anchors,
            warnings,
            submodules: BTreeMap::from([("node".to_owned(), node)]),
            guest: None,
        }
    }
}

fn for_qualifying(quote: &AuthenticQuote, qualifying: &[u8; 32]) -> Result<Finding<()>, Mismatch> {
    if quote.is_for(qualifying) {
        Ok(Finding::new((), "the quote was made for this challenge"))
    } else {
        Err(Mismatch::new(hex::encode(qualifying), hex::encode(quote.qualifying())))
    }
}

/// What policies know this kind of appraisal by.
const PLATFORM: &str = "node";

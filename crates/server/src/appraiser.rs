//! The verifier with this platform's anchors, reference values and policy: the only module that calls it.

use std::{collections::BTreeMap, sync::Arc};

use casemate_api::{canonical, node, receipt, workload::Isolation};
use casemate_verifier::{
    AnchorError, AttestationResult, ContainerLevel, Demand, Endorsements, Expectation, ImaMemory, ImaPart, NodeBeliefs,
    NodePolicy, NodeQuoteInput, Policy, ReferenceValues, RelyingParty, TrustAnchors, UnixTime, VendorRoot,
    boot::BootPolicy,
    container::{ContainerExpectation, appraise},
    credential::{Credential, CredentialError, Randomness, make_credential},
    ek::VerifiedEk,
    rego::{AppraisalPolicy, PolicyOptions, apply_policy},
    revocation::RevocationList,
    verify_receipt,
};
use sha2::{Digest as _, Sha256};

use crate::{
    config::Simulated,
    fault::{Fault, chain},
    revocations::Held,
    store::{Instance, Node},
};

/// Largest receipt body, in bytes.
const MAX_RECEIPT: usize = 64 << 10;
/// Attempts to draw an ephemeral scalar; one in 2^32 fails.
const CREDENTIAL_ATTEMPTS: usize = 4;

/// The verifier, set up.
#[derive(Debug)]
pub struct Appraiser {
    anchors: TrustAnchors,
    references: ReferenceValues,
    simulated: Simulated,
    node_policy: NodePolicy,
    instance_boot: Demand<BootPolicy>,
}

/// What may change while the server runs.
#[derive(Debug)]
pub struct Judgement {
    /// The last word.
    pub rules: AppraisalPolicy,
    /// The revocation list in force; without one everything is refused.
    pub revocations: Option<Arc<Held>>,
}

impl Judgement {
    fn list(&self) -> Option<&RevocationList> {
        self.revocations.as_ref().map(|held| &held.list)
    }
}

/// What a node sends to get a certificate, and what is known of it.
#[derive(Debug)]
pub struct NodeEvidence<'a> {
    /// The node.
    pub node: &'a str,
    /// Its TPM.
    pub ek: &'a VerifiedEk,
    /// TPMT_PUBLIC of its attestation key.
    pub ak_public: &'a [u8],
    /// Quote and logs.
    pub quote: &'a node::NodeQuote,
    /// What the quote is to be about.
    pub qualifying: [u8; 32],
    /// What was remembered of its list of files.
    pub remembered: Option<&'a ImaMemory>,
    /// The time of the appraisal.
    pub now_ms: u64,
}

/// A node that passed.
#[derive(Debug)]
pub struct PassedNode {
    /// What a person must know of it, in words.
    pub notes: String,
    /// What to remember of its list of files.
    pub ima: Option<ImaMemory>,
}

/// What evidence should answer.
#[derive(Debug)]
pub struct Questioned {
    /// Node certificate chain, DER.
    pub node_chain: Vec<Vec<u8>>,
    /// EK certificate chain, DER.
    pub ek_chain: Vec<Vec<u8>>,
    /// Which instance.
    pub instance: String,
    /// Placed at which level.
    pub level: Isolation,
    /// Running what.
    pub workload_digest: [u8; 32],
    /// Root hashes of its image's layers.
    pub layers: Vec<[u8; 32]>,
    /// For this nonce.
    pub nonce: [u8; 32],
    /// The time of the appraisal.
    pub now_ms: u64,
}

/// The outcome for an instance.
#[derive(Debug)]
pub struct Verdict {
    /// The tier, as people read it.
    pub status: String,
    /// The attestation result, whole.
    pub json: serde_json::Value,
    /// Why it is not accepted: the first failed check and what was seen.
    pub failed: Option<(String, String)>,
}

impl Verdict {
    /// Name of the first failed check.
    pub fn failed_check(&self) -> Option<&str> {
        self.failed.as_ref().map(|(check, _)| check.as_str())
    }
}

impl Appraiser {
    /// Pins the platform's own CA, the vendors' roots and the reference values.
    pub fn new(
        platform_ca_pem: &str,
        vendor_roots: &[VendorRoot],
        references: ReferenceValues,
        simulated: Simulated,
        node_policy: NodePolicy,
    ) -> Result<Self, AnchorError> {
        let anchors = TrustAnchors::new(platform_ca_pem, vendor_roots)?;
        let instance_boot = node_policy.boot.clone();
        Ok(Self { anchors, references, simulated, node_policy, instance_boot })
    }

    /// Judges the evidence of an instance.
    pub fn instance(&self, evidence: &[u8], question: &Questioned, by: &Judgement) -> Verdict {
        let endorsements = Endorsements { node_chain: &question.node_chain, ek_chain: &question.ek_chain };
        let expectation =
            Expectation { instance: &question.instance, workload_digest: question.workload_digest, nonce: question.nonce };
        let believes = RelyingParty {
            references: &self.references,
            anchors: &self.anchors,
            policy: &self.instance_policy(question.level),
            revocations: by.list(),
        };
        let now = seconds(question.now_ms);
        let expectation = ContainerExpectation { instance: expectation, layers: &question.layers };
        let result = appraise(evidence, &endorsements, &believes, &expectation, now);
        // An instance of this level is promised no GPU.
        verdict(&apply_policy(result, &by.rules, PolicyOptions::from(self.simulated), 0))
    }

    /// The level comes from where this platform placed the instance, never from its evidence.
    fn instance_policy(&self, level: Isolation) -> Policy {
        let policy = match level {
            Isolation::Container => Policy::container(ContainerLevel::Container, self.simulated),
            Isolation::Sandbox => Policy::container(ContainerLevel::Sandbox, self.simulated),
            Isolation::Microvm => Policy::microvm(self.simulated),
            Isolation::Confidential => Policy::confidential(self.simulated),
        };
        policy.with_boot(self.instance_boot.clone())
    }

    /// Verifies an EK certificate chain up to a pinned vendor root.
    pub fn endorsement_key(&self, ek_chain: &[Vec<u8>], now_ms: u64) -> Result<VerifiedEk, Fault> {
        let failed = |check: &str, detail: String| Fault::Appraisal { check: check.to_owned(), detail };
        let ek = casemate_verifier::ek::verify_chain(ek_chain, &self.anchors, seconds(now_ms))
            .map_err(|error| failed("node.ek", chain(&error)))?;
        if ek.is_simulated() && self.simulated == Simulated::Refuse {
            let detail = "the TPM is a simulator, and this platform does not allow simulators (allow_simulated)";
            return Err(failed("policy.simulated", detail.into()));
        }
        Ok(ek)
    }

    /// Judges a node's quote over its own state.
    pub fn node(&self, evidence: &NodeEvidence<'_>, by: &Judgement) -> Result<PassedNode, Fault> {
        let failed = |check: &str, detail: String| Fault::Appraisal { check: check.to_owned(), detail };
        let quote = evidence.quote;
        let pcrs: Option<BTreeMap<u32, [u8; 32]>> =
            quote.pcrs.iter().map(|(index, value)| Some((*index, value.as_slice().try_into().ok()?))).collect();
        let pcrs = pcrs.ok_or_else(|| failed("node.pcrs", "a PCR value does not have 32 bytes".into()))?;
        let limits = [
            ("node.event-log", quote.event_log.len(), node::MAX_EVENT_LOG),
            ("node.ima", quote.ima_list.as_ref().map_or(0, Vec::len), node::MAX_IMA_LIST),
        ];
        if let Some((check, len, limit)) = limits.into_iter().find(|(_, len, limit)| len > limit) {
            return Err(failed(check, format!("the log has {len} bytes, more than the limit of {limit}")));
        }
        let input = NodeQuoteInput {
            node: evidence.node,
            ek: evidence.ek,
            attest: &quote.attest,
            signature: &quote.signature,
            ak_public: evidence.ak_public,
            pcrs: &pcrs,
            event_log: &quote.event_log,
            ima: quote.ima_list.as_ref().map(|list| ImaPart { list, offset: quote.ima_offset }),
            remembered: evidence.remembered,
        };
        let beliefs = NodeBeliefs {
            references: &self.references,
            policy: &self.node_policy,
            rules: &by.rules,
            simulated: self.simulated,
            revocations: by.list(),
            revocation_floor: 0,
        };
        let appraisal = casemate_verifier::appraise_node(&input, &evidence.qualifying, &beliefs, seconds(evidence.now_ms));
        match (appraisal.verified(), appraisal.result.failed()) {
            (Some(node), None) => Ok(PassedNode { notes: appraisal.result.warnings.join("; "), ima: node.ima().cloned() }),
            (_, Some(check)) => Err(failed(&check.name, check.detail.clone())),
            (None, None) => Err(failed("node.quote", "the appraisal came to no result".into())),
        }
    }

    /// Verifies a receipt's signature and that it is of this instance; returns its body.
    pub fn receipt(&self, message: &node::Receipt, node: &Node, instance: &Instance, now_ms: u64) -> Result<String, String> {
        verify_receipt(&message.body, &message.signature, &node.node_chain, &self.anchors, seconds(now_ms))
            .map_err(|error| format!("{}: {}", error.check(), chain(&error)))?;
        let body: receipt::Body =
            canonical::from_slice(&message.body, MAX_RECEIPT).map_err(|error| format!("receipt.content: {}", chain(&error)))?;
        let ours = body.version == 1
            && body.instance == instance.id.as_str()
            && body.node == node.id.as_str()
            && body.workload_digest == hex::encode(instance.workload_digest);
        if !ours {
            return Err("receipt.content: it is of another instance, node or workload".into());
        }
        String::from_utf8(message.body.clone()).map_err(|_| "receipt.content: not text".into())
    }
}

/// Qualifying data of an enrolling or renewing node's quote.
pub fn node_binding(domain: &str, nonce: &[u8; 32], csr: &[u8], receipt_key: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(domain.as_bytes());
    hash.update(nonce);
    hash.update(Sha256::digest(csr));
    hash.update(receipt_key);
    hash.finalize().into()
}

/// A credential that only the TPM of `ek` can open, and only if the attestation key is in it.
pub fn credential(ek: &VerifiedEk, ek_public: &[u8], ak_name: &[u8], secret: &[u8; 32]) -> Result<Credential, Fault> {
    let failed = |detail| Fault::Appraisal { check: "node.ek".to_owned(), detail };
    let public = ek.public_area(ek_public).map_err(|error| failed(chain(&error)))?;
    for _ in 0..CREDENTIAL_ATTEMPTS {
        let mut random = Randomness { seed: [0; 32], oaep: [0; 32], ephemeral: [0; 32] };
        for part in [&mut random.seed, &mut random.oaep, &mut random.ephemeral] {
            getrandom::fill(part).map_err(|error| Fault::internal("draw randomness")(error.into()))?;
        }
        match make_credential(&public, ak_name, secret, &random) {
            Err(CredentialError::Scalar) => {}
            other => return other.map_err(|error| failed(chain(&error))),
        }
    }
    Err(Fault::internal("draw randomness")("no scalar in several attempts".into()))
}

fn verdict(result: &AttestationResult) -> Verdict {
    let failed = match (result.is_accepted(), result.failed()) {
        (true, _) => None,
        (false, Some(check)) => Some((check.name.clone(), check.detail.clone())),
        (false, None) => Some(("evidence.format".to_owned(), "the appraisal came to no result".to_owned())),
    };
    let json = serde_json::to_value(result).expect("an attestation result always serialises");
    let status = json.get("status").and_then(|status| status.as_str()).unwrap_or("none").to_owned();
    Verdict { status, json, failed }
}

fn seconds(ms: u64) -> UnixTime {
    UnixTime(ms / 1000)
}

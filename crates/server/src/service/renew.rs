//! Renewal of a node's certificate: a fresh appraisal each time. No passing appraisal, no certificate, no trust.

use casemate_api::node::{NodeCredential, RenewNonce, RenewProof};
use casemate_lifecycle::NodeId;

use super::{
    Service,
    nodes::{NodeQuestion, with_notes},
    random,
};
use crate::{
    appraiser::{PassedNode, node_binding},
    authority::NodeSubject,
    clock::now_ms,
    fault::Fault,
    store::{Node, Trust},
};

/// Domain of the qualifying data.
const DOMAIN: &str = "casemate/renew/v1";
/// Life of a nonce.
const NONCE_LIFE_MS: u64 = 120_000;

impl Service {
    /// A fresh nonce; an older one of the node is worth nothing from now on.
    pub async fn renew_challenge(&self, node: &NodeId) -> Result<RenewNonce, Fault> {
        let known = self.store().node(node).await?;
        let ima_offset = known.and_then(|node| node.ima).map_or(0, |memory| memory.offset());
        let nonce = random::<32>()?;
        self.store().begin_renewal(node, &nonce, now_ms() + NONCE_LIFE_MS).await?;
        Ok(RenewNonce { nonce: nonce.to_vec(), ima_offset })
    }

    /// Appraises the node anew; a passing appraisal gives a certificate, and trust back if it was lost.
    pub async fn renew(&self, id: &NodeId, proof: RenewProof) -> Result<NodeCredential, Fault> {
        let now_ms = now_ms();
        let open = self.store().take_renewal(id, now_ms).await?;
        let nonce = open.filter(|nonce| proof.nonce == nonce).ok_or(Fault::NonceUsed)?;
        let receipt_key: [u8; 32] = proof.receipt_key.as_slice().try_into().map_err(|_| Fault::Invalid {
            what: "receipt_key",
            detail: "must have 32 bytes".into(),
            hint: "use an agent of this platform's version",
        })?;
        let node = self.store().node(id).await?.ok_or_else(|| Fault::NotFound { what: "node", id: id.to_string() })?;
        let passed = match self.appraise_again(&node, &proof, &nonce, &receipt_key, now_ms).await {
            Ok(passed) => passed,
            Err(fault) => {
                if let Fault::Appraisal { check, detail } = &fault {
                    self.distrust(id, check, detail).await?;
                    let why = format!("{check}: {detail}");
                    self.store().judge_maintenance(id, &nonce, Err(&why), now_ms).await?;
                }
                return Err(fault);
            }
        };
        let since_ms = if node.receipt_key == receipt_key { node.enrolled_at_ms } else { now_ms };
        let subject = NodeSubject { id, ak_name: &node.ak_name, ek_digest: &node.ek_digest, receipt_key: &receipt_key, since_ms };
        let certificate = self.certify(&proof.csr, &subject, now_ms)?;
        let node = Node {
            node_chain: certificate.chain.clone(),
            receipt_key,
            certificate_ends_ms: certificate.ends_at_ms,
            trust: Trust::Trusted,
            trust_detail: with_notes("the last renewal's appraisal passed", &passed.notes),
            ima: passed.ima,
            enrolled_at_ms: since_ms,
            last_seen_ms: now_ms,
            ..node
        };
        self.store().upsert_node(&node).await?;
        self.store().judge_maintenance(id, &nonce, Ok(()), now_ms).await?;
        tracing::info!(node.id = %id, "node certificate renewed");
        Ok(self.credential(id, certificate))
    }

    /// The vendor's chain as well: roots and policy may have changed since.
    async fn appraise_again(
        &self,
        node: &Node,
        proof: &RenewProof,
        nonce: &[u8; 32],
        receipt_key: &[u8; 32],
        now_ms: u64,
    ) -> Result<PassedNode, Fault> {
        let question = NodeQuestion {
            node: node.id.clone(),
            ek: self.0.parts.appraiser.endorsement_key(&node.ek_chain, now_ms)?,
            ak_public: node.ak_public.clone(),
            quote: proof.quote.clone().unwrap_or_default(),
            qualifying: node_binding(DOMAIN, nonce, &proof.csr, receipt_key),
            remembered: node.ima.clone(),
        };
        self.judge_node(question, now_ms).await
    }
}

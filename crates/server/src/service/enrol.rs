//! Enrolment of a node: its TPM's identity, proof that it is that TPM, the state that it quotes, and then a certificate.
//!
//! `begin` makes a secret that only the TPM with the presented endorsement key can open, and only if the attestation key
//! lives in that same TPM. `finish` wants the secret back, with a quote over a fresh nonce.

use casemate_api::node::{EnrolChallenge, EnrolProof, EnrolRequest, NodeCredential};
use casemate_lifecycle::NodeId;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    Service,
    nodes::{NodeQuestion, inventory_json, with_notes},
    random,
    tokens::hash,
};
use crate::{
    appraiser::{PassedNode, credential, node_binding},
    authority::{AuthorityError, NodeCertificate, NodeSubject},
    clock::now_ms,
    fault::Fault,
    life::clipped,
    store::{Drain, Enrolment, Node, Trust},
};

/// Domain of the qualifying data.
const DOMAIN: &str = "casemate/enrol/v1";
/// Time between `begin` and `finish`.
const SESSION_LIFE_MS: u64 = 120_000;
/// Most enrolments under way.
const MAX_SESSIONS: u64 = 64;
/// Most certificates of a chain.
const MAX_CHAIN: usize = 6;
/// Largest certificate, request or public area, in bytes.
const MAX_DER: usize = 8 << 10;

impl Service {
    /// Checks the TPM's identity and answers with a challenge for it.
    pub async fn begin_enrolment(&self, request: EnrolRequest) -> Result<EnrolChallenge, Fault> {
        let now_ms = now_ms();
        let token = hash(&request.bootstrap_token);
        self.store().bootstrap_token(&token, now_ms).await?.ok_or(Fault::Unauthenticated)?;
        let receipt_key = bounded(&request)?;
        let appraiser = &self.0.parts.appraiser;
        let ek = appraiser.endorsement_key(&request.ek_chain, now_ms)?;
        let (secret, nonce) = (random::<32>()?, random::<32>()?);
        let credential = credential(&ek, &request.ek_public, &ak_name(&request.ak_public), &secret)?;
        let enrolment = Enrolment {
            token,
            secret_digest: Sha256::digest(secret).into(),
            nonce,
            node: node_id(&request.ek_public),
            ek_chain: request.ek_chain,
            ak_public: request.ak_public,
            csr: request.csr,
            receipt_key,
            agent_version: clipped(&request.agent_version, 100),
            expires_at_ms: now_ms + SESSION_LIFE_MS,
        };
        let name = hex::encode(random::<16>()?);
        if !self.store().begin_enrolment(&name, &enrolment, now_ms, MAX_SESSIONS).await? {
            return Err(Fault::Busy("enrolments"));
        }
        Ok(EnrolChallenge {
            session: name,
            credential_blob: credential.blob,
            encrypted_secret: credential.encrypted_secret,
            nonce: nonce.to_vec(),
        })
    }

    /// Checks the proof and the node's state; a passing appraisal gives the certificate.
    pub async fn finish_enrolment(&self, proof: EnrolProof) -> Result<NodeCredential, Fault> {
        let now_ms = now_ms();
        // One try: a wrong answer needs a new challenge.
        let session = self.store().take_enrolment(&proof.session, now_ms).await?;
        let session = session.ok_or(Fault::NotFound { what: "enrolment", id: String::new() })?;
        if !bool::from(Sha256::digest(&proof.secret).as_slice().ct_eq(&session.secret_digest)) {
            let detail = "the TPM did not open the credential: the attestation key is not in the TPM with this endorsement key";
            return Err(Fault::Appraisal { check: "node.ak".into(), detail: detail.into() });
        }
        let quote = proof.quote.unwrap_or_default();
        let binding = node_binding(DOMAIN, &session.nonce, &session.csr, &session.receipt_key);
        let ek = self.0.parts.appraiser.endorsement_key(&session.ek_chain, now_ms)?;
        let (ek_digest, simulated) = (ek.certificate_digest(), ek.is_simulated());
        let question = NodeQuestion {
            node: session.node.clone(),
            ek,
            ak_public: session.ak_public.clone(),
            quote,
            qualifying: binding,
            // A node that enrols sends its logs whole.
            remembered: None,
        };
        let passed = self.judged_or_distrusted(question, now_ms).await?;
        let known = self.store().node(&session.node).await?;
        let hoster = self.hoster_of(&session.token, known.as_ref(), now_ms).await?;
        if !self.store().use_bootstrap_token(&session.token, session.node.as_str(), now_ms).await? {
            return Err(Fault::Unauthenticated);
        }
        let since_ms = key_since(known.as_ref(), &session.ak_public, &session.receipt_key).unwrap_or(now_ms);
        let inventory = inventory_json(&proof.inventory.unwrap_or_default());
        let ak_name = ak_name(&session.ak_public);
        let subject = NodeSubject {
            id: &session.node,
            ak_name: &ak_name,
            ek_digest: &ek_digest,
            receipt_key: &session.receipt_key,
            since_ms,
        };
        let certificate = self.certify(&session.csr, &subject, now_ms)?;
        let node = Node {
            id: session.node.clone(),
            ek_digest,
            ek_chain: session.ek_chain,
            node_chain: certificate.chain.clone(),
            ak_public: session.ak_public,
            ak_name: ak_name.clone(),
            receipt_key: session.receipt_key,
            certificate_ends_ms: certificate.ends_at_ms,
            inventory,
            trust: Trust::Trusted,
            trust_detail: with_notes("enrolled with a passing appraisal", &passed.notes),
            simulated,
            ima: passed.ima,
            agent_version: session.agent_version,
            enrolled_at_ms: since_ms,
            last_seen_ms: now_ms,
            suspended: None,
            revoked: false,
            hoster: None,
            drain: Drain::No,
        };
        self.store().upsert_node(&node).await?;
        if let Some(hoster) = &hoster {
            self.store().claim_node(&node.id, hoster).await?;
        }
        self.store().forget_monitor_record(&node.id).await?;
        tracing::info!(node.id = %node.id, node.simulated = node.simulated, "node enrolled");
        Ok(self.credential(&node.id, certificate))
    }

    /// Whose the node will be. A hoster's token takes no other hoster's node.
    async fn hoster_of(&self, token: &[u8; 32], known: Option<&Node>, now_ms: u64) -> Result<Option<String>, Fault> {
        let token = self.store().bootstrap_token(token, now_ms).await?.ok_or(Fault::Unauthenticated)?;
        match (known.and_then(|node| node.hoster.as_ref()), token.hoster) {
            (Some(has), Some(wants)) if *has != wants => Err(Fault::Conflict {
                detail: "this node belongs to another hoster; an operator gives it to a new one first".to_owned(),
            }),
            (_, hoster) => Ok(hoster),
        }
    }

    /// A node that was known before and fails now is not trusted any more.
    async fn judged_or_distrusted(&self, question: NodeQuestion, now_ms: u64) -> Result<PassedNode, Fault> {
        let id = question.node.clone();
        let judged = self.judge_node(question, now_ms).await;
        if let (Err(Fault::Appraisal { check, detail }), Some(known)) = (&judged, self.store().node(&id).await?) {
            self.distrust(&known.id, check, detail).await?;
        }
        judged
    }

    /// A certificate for a node whose appraisal has just passed.
    pub(super) fn certify(&self, csr: &[u8], subject: &NodeSubject<'_>, now_ms: u64) -> Result<NodeCertificate, Fault> {
        self.authority().node_certificate(csr, subject, self.limits().certificate, now_ms).map_err(|error| match error {
            AuthorityError::Request(detail) => {
                Fault::Invalid { what: "csr", detail, hint: "send a PKCS#10 request for an ECDSA P-256 key" }
            }
            other => Fault::internal("make a node certificate")(other.into()),
        })
    }

    pub(super) fn credential(&self, node: &NodeId, certificate: NodeCertificate) -> NodeCredential {
        NodeCredential {
            node: node.to_string(),
            chain: certificate.chain,
            renew_at_ms: certificate.renew_at_ms,
            platform_key: self.authority().assignment_public().to_vec(),
        }
    }
}

/// TPM name of a public area with SHA-256 as its name algorithm; that it has, is checked with the quote.
pub(super) fn ak_name(public: &[u8]) -> Vec<u8> {
    [&[0x00, 0x0b][..], &Sha256::digest(public)].concat()
}

/// Since when the node has had these keys, if it has them.
fn key_since(known: Option<&Node>, ak_public: &[u8], receipt_key: &[u8; 32]) -> Option<u64> {
    known.filter(|node| node.ak_public == ak_public && node.receipt_key == *receipt_key).map(|node| node.enrolled_at_ms)
}

/// The same TPM is the same node, however often it enrols.
fn node_id(ek_public: &[u8]) -> NodeId {
    let mut hash = Sha256::new();
    hash.update(b"casemate/node-id/v1\0");
    hash.update(ek_public);
    let digest: [u8; 32] = hash.finalize().into();
    format!("n-{}", hex::encode(&digest[..8])).parse().expect("hex digits after a letter are an id")
}

fn bounded(request: &EnrolRequest) -> Result<[u8; 32], Fault> {
    let invalid =
        |what, detail: &str| Fault::Invalid { what, detail: detail.into(), hint: "use an agent of this platform's version" };
    let parts = request.ek_chain.iter().chain([&request.ek_public, &request.ak_public, &request.csr]);
    if request.ek_chain.is_empty() || request.ek_chain.len() > MAX_CHAIN || parts.into_iter().any(|part| part.len() > MAX_DER) {
        return Err(invalid("enrolment", "a part is absent or too large"));
    }
    request.receipt_key.as_slice().try_into().map_err(|_| invalid("receipt_key", "must have 32 bytes"))
}

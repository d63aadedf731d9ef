//! Evidence for a tenant's nonce, and keys on their way back. Both are opaque here.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_api::rest;
use casemate_lifecycle::{Admission, InstanceId, NodeId, Request, admit};
use tokio::{sync::oneshot, time::Instant};

use super::{Caller, Service, instances::unknown, random};
use crate::{
    clock::now_ms,
    fault::Fault,
    sessions::Command,
    store::{Answer, NewEvent, Question},
};

/// How long a used nonce is remembered.
pub(super) const NONCE_MEMORY_MS: u64 = 30 * 24 * 3_600_000;
/// Largest sealed key release.
const MAX_RELEASE: usize = 256 << 10;

impl Service {
    /// Asks the guest for evidence over the tenant's nonce. The nonce is used up by this, whatever the answer.
    pub async fn challenge(
        &self,
        caller: &Caller,
        id: &str,
        request: &rest::NewChallenge,
    ) -> Result<rest::EvidenceBundle, Fault> {
        let nonce = STANDARD.decode(&request.nonce).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let nonce = nonce.ok_or_else(|| Fault::Invalid {
            what: "nonce",
            detail: "must be the base64 of 32 bytes".into(),
            hint: "make a fresh random nonce for every challenge",
        })?;
        let instance = self.find(caller, id).await?;
        match admit(&instance.actual, instance.intent, Request::Challenge) {
            Admission::Accept | Admission::Ignore => {}
            Admission::Refuse(refusal) => return Err(Fault::Refused(refusal)),
        }
        let level = instance.placed_at();
        let node = instance.node.ok_or_else(|| unknown(id))?;
        let reply = self.ask(&node, &instance.id, nonce).await?;
        let node = self.store().node(&node).await?.ok_or_else(|| Fault::NotFound { what: "node", id: node.to_string() })?;
        let list = |chain: &[Vec<u8>]| chain.iter().map(|der| STANDARD.encode(der)).collect();
        Ok(rest::EvidenceBundle {
            instance: instance.id.to_string(),
            level: level.as_str().to_owned(),
            media_type: reply.media_type,
            evidence: STANDARD.encode(&reply.evidence),
            node_chain: list(&node.node_chain),
            ek_chain: list(&node.ek_chain),
        })
    }

    /// Takes sealed keys and sends them to the guest. They stay in the store until the guest has opened them, so that a
    /// node that loses its connection gets them again.
    pub async fn release_keys(&self, caller: &Caller, id: &str, request: &rest::KeyRelease) -> Result<(), Fault> {
        let sealed = STANDARD.decode(&request.sealed).map_err(|_| Fault::Invalid {
            what: "sealed",
            detail: "must be base64".into(),
            hint: "send the HPKE message in standard base64 with padding",
        })?;
        if sealed.len() > MAX_RELEASE {
            return Err(Fault::TooLarge { what: "the sealed release", limit: MAX_RELEASE as u64 });
        }
        let instance = self.find(caller, id).await?;
        if let Some(node) = &instance.node
            && self.store().maintenance(node).await?.is_some()
        {
            return Err(Fault::Conflict { detail: "the instance's node is in maintenance and gets no keys".to_owned() });
        }
        let changed = self
            .change(&instance.id, |instance, out| {
                match admit(&instance.actual, instance.intent, Request::ReleaseKeys) {
                    Admission::Refuse(refusal) => return Err(Fault::Refused(refusal)),
                    Admission::Ignore => return Ok(()),
                    Admission::Accept => {}
                }
                if instance.sealed_release.as_ref() == Some(&sealed) {
                    return Ok(());
                }
                instance.sealed_release = Some(sealed);
                out.push(NewEvent { kind: "keys", text: "sealed keys are on their way to the guest".into(), data: None });
                Ok(())
            })
            .await?;
        match changed {
            Some((_, taken)) => taken,
            None => Err(unknown(id)),
        }
    }

    /// Uses up a nonce and asks the node for evidence over it, wherever its session is.
    pub(super) async fn ask(&self, node: &NodeId, instance: &InstanceId, nonce: [u8; 32]) -> Result<Answer, Fault> {
        if !self.store().use_nonce(&nonce, now_ms().saturating_add(NONCE_MEMORY_MS)).await? {
            return Err(Fault::NonceUsed);
        }
        let (answer, receiver) = oneshot::channel();
        let answer = if self.0.sessions.send(node, Command::Challenge { instance: instance.clone(), nonce, answer }) {
            let reply = tokio::time::timeout(self.limits().challenge, receiver).await;
            let reply = reply.map_err(|_| self.no_answer(node))?;
            reply.map_err(|_| Fault::NodeUnreachable { node: node.to_string() })?
        } else {
            let question = Question { id: hex::encode(random::<16>()?), instance: instance.clone(), nonce };
            self.ask_through_the_store(node, &question).await?
        };
        match answer.failure {
            Some((check, detail)) => Err(Fault::NoEvidence { check, detail }),
            None => Ok(answer),
        }
    }

    /// The node's session is on another replica, or will be in a moment on any.
    async fn ask_through_the_store(&self, node: &NodeId, question: &Question) -> Result<Answer, Fault> {
        if !self.store().is_connected(node).await? {
            return Err(Fault::NodeUnreachable { node: node.to_string() });
        }
        let limit = self.limits().challenge;
        let deadline = Instant::now() + limit;
        let mut waiter = self.0.answers.watch(&question.id);
        self.store().ask_node(node, question, u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)).await?;
        loop {
            if let Some(answer) = self.store().take_answer(&question.id).await? {
                return Ok(answer);
            }
            if !waiter.changed(deadline).await {
                return Err(self.no_answer(node));
            }
        }
    }

    fn no_answer(&self, node: &NodeId) -> Fault {
        let limit_ms = u64::try_from(self.limits().challenge.as_millis()).unwrap_or(u64::MAX);
        Fault::NodeTimeout { node: node.to_string(), limit_ms }
    }
}

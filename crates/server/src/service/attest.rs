//! The platform's own appraisal of an instance: with its own nonce, before any key may go there.

use std::sync::PoisonError;

use casemate_api::workload::Workload;
use casemate_lifecycle::{Event, InstanceId, Step, due_for_appraisal};

use super::{Service, random};
use crate::{
    appraiser::{Questioned, Verdict},
    clock::now_ms,
    fault::Fault,
    life,
    store::{Instance, NewEvent},
};

impl Service {
    /// Appraises an instance that has booted; does nothing for any other, or while an appraisal of it is under way.
    /// A lost connection leaves it as it is: the next session asks again, with a new nonce.
    pub(super) async fn attest(self, id: InstanceId) {
        let Some(_turn) = Turn::take(&self, &id) else { return };
        if let Err(fault) = self.appraise(&id).await {
            fault.log();
            tracing::warn!(instance.id = %id, reason = %fault, "the instance could not be appraised");
        }
    }

    async fn appraise(&self, id: &InstanceId) -> Result<(), Fault> {
        let Some(instance) = self.store().instance(id).await?.filter(is_due) else { return Ok(()) };
        let Some(node_id) = instance.node.clone() else { return Ok(()) };
        let Some(node) = self.store().node(&node_id).await? else { return Ok(()) };
        let nonce = random::<32>()?;
        let evidence = match self.ask(&node_id, id, nonce).await {
            Ok(answer) => answer.evidence,
            Err(Fault::NodeUnreachable { .. }) => return Ok(()),
            Err(Fault::NodeTimeout { limit_ms, .. }) => {
                return self.give_up(id, "verdict.timeout", format!("no evidence within {limit_ms} ms")).await;
            }
            Err(Fault::NoEvidence { check, detail }) => return self.give_up(id, &check, detail).await,
            Err(other) => return Err(other),
        };
        let judgement = match self.judgement(&self.0.parts.last_word.instances).await {
            Ok(judgement) => judgement,
            Err(fault @ Fault::NotFound { .. }) => return self.give_up(id, "policy.appraisal", fault.to_string()).await,
            Err(other) => return Err(other),
        };
        let level = instance.placed_at();
        let workload = Workload::from_canonical(instance.workload.as_bytes())
            .map_err(|error| Fault::internal("read a stored workload")(error.into()))?;
        if level < workload.isolation {
            let (least, placed) = (workload.isolation.as_str(), level.as_str());
            let detail = format!("the workload asks for level {least} at least, and was placed at {placed}");
            return self.give_up(id, "policy.platform", detail).await;
        }
        let service = self.clone();
        let question = Questioned {
            level,
            layers: workload.layer_roots(),
            node_chain: node.node_chain,
            ek_chain: node.ek_chain,
            instance: id.to_string(),
            workload_digest: instance.workload_digest,
            nonce,
            now_ms: now_ms(),
        };
        // Signatures take milliseconds: not on the threads that serve connections.
        let judged =
            tokio::task::spawn_blocking(move || service.0.parts.appraiser.instance(&evidence, &question, &judgement)).await;
        let verdict = judged.map_err(|error| Fault::internal("appraise evidence")(error.into()))?;
        tracing::info!(instance.id = %id, verdict.status = %verdict.status, verdict.failed = verdict.failed_check(), "instance appraised");
        self.change(id, |instance, out| conclude(instance, verdict, out)).await?;
        Ok(())
    }

    async fn give_up(&self, id: &InstanceId, check: &str, detail: String) -> Result<(), Fault> {
        self.change(id, |instance, out| life::fail(instance, Step::Attested, check, detail, out)).await?;
        Ok(())
    }
}

pub(super) fn is_due(instance: &Instance) -> bool {
    due_for_appraisal(&instance.actual, instance.intent)
}

fn conclude(instance: &mut Instance, verdict: Verdict, out: &mut Vec<NewEvent>) {
    if !is_due(instance) {
        return;
    }
    instance.verdict = Some(verdict.json.to_string());
    let text = match &verdict.failed {
        None => verdict.status.clone(),
        Some((check, _)) => format!("{}: {check} failed", verdict.status),
    };
    out.push(NewEvent { kind: "verdict", text, data: Some(verdict.json) });
    match verdict.failed {
        None => {
            instance.attested_at_ms = Some(now_ms());
            life::happen(instance, Event::Reached(Step::Attested), out);
        }
        Some((check, detail)) => life::fail(instance, Step::Attested, &check, detail, out),
    }
}

/// The right to appraise one instance.
struct Turn<'a> {
    service: &'a Service,
    id: InstanceId,
}

impl<'a> Turn<'a> {
    fn take(service: &'a Service, id: &InstanceId) -> Option<Self> {
        let mut running = service.0.attesting.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(id.clone()).then(|| Self { service, id: id.clone() })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.service.0.attesting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

//! Sealed records and receipts, from the node to the tenant.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_api::{node, rest};
use casemate_lifecycle::{Event, InstanceId, NodeId, Step};
use tokio::time::Duration;

use super::{Caller, Service, session::Speaker};
use crate::{
    clock::now_ms,
    fault::Fault,
    life,
    store::{Appended, Instance, NewEvent, StoredReceipt},
};

/// Most bytes of records in one answer, before base64.
const MAX_ANSWER: usize = 3 << 20;

impl Service {
    /// Records from number `from` on; waits for one, if there is none, at most `wait`.
    pub async fn records(&self, caller: &Caller, id: &str, from: u64, wait: Duration) -> Result<rest::Records, Fault> {
        let id = self.find(caller, id).await?.id;
        let (deadline, _permit) = self.begin_poll(wait)?;
        let mut draining = self.draining();
        let mut waiter = self.0.changes.watch(&id);
        let mut last_look = false;
        loop {
            // The state is read before the records: an end that is seen here has all its records in the store.
            let instance = self.find(caller, id.as_str()).await?;
            let records = self.store().records(&id, from, MAX_ANSWER).await?;
            let ended = instance.has_receipt || instance.actual.step == Step::Gone;
            let complete = ended && from.saturating_add(records.len() as u64) >= instance.next_record;
            if !records.is_empty() || complete || last_look || *draining.borrow_and_update() {
                let records = records.iter().map(|sealed| STANDARD.encode(sealed)).collect();
                return Ok(rest::Records { from, records, complete });
            }
            last_look = tokio::select! {
                more = waiter.changed(deadline) => !more,
                _ = draining.changed() => true,
            };
        }
    }

    /// The receipt of an instance.
    pub async fn receipt(&self, caller: &Caller, id: &str) -> Result<rest::Receipt, Fault> {
        let instance = self.find(caller, id).await?;
        let receipt = self.store().receipt(&instance.id).await?;
        let receipt = receipt.ok_or_else(|| Fault::NotFound { what: "receipt of instance", id: instance.id.to_string() })?;
        Ok(receipt_view(receipt))
    }

    /// Stores records that a node sends; the answer says from where to go on. Records of an instance that is not (or no
    /// longer) the node's are acknowledged and dropped, so that the node can forget them.
    pub(super) async fn store_records(&self, by: &Speaker, message: node::Records) -> Result<node::RecordsStored, Fault> {
        let count = message.sealed.len() as u64;
        let dropped = message.seq.saturating_add(count);
        let Some(instance) = self.on_node(&by.node, &message.instance).await? else {
            return Ok(node::RecordsStored { instance: message.instance, next: dropped });
        };
        let limit = self.limits().record_bytes;
        let records = (message.seq, message.sealed.as_slice());
        let next = match self.store().append_records(&instance.id, records, limit, &by.fence).await? {
            Some(Appended::Next(next)) => next,
            Some(Appended::TooMany) => {
                let detail = format!("the records have more than {limit} bytes");
                self.change_as(&by.fence, &instance.id, |instance, out| {
                    life::fail(instance, life::next_step(instance.actual.step), "records.limit", detail, out);
                })
                .await?;
                dropped
            }
            None => dropped,
        };
        Ok(node::RecordsStored { instance: message.instance, next })
    }

    /// Stores a receipt after checking it; `true` when the node may forget the instance.
    pub(super) async fn store_node_receipt(&self, by: &Speaker, message: node::Receipt) -> Result<bool, Fault> {
        let Some(instance) = self.on_node(&by.node, &message.instance).await? else { return Ok(true) };
        if instance.has_receipt {
            return Ok(true);
        }
        let Some(node) = self.store().node(&by.node).await? else { return Ok(false) };
        let body = match self.0.parts.appraiser.receipt(&message, &node, &instance, now_ms()) {
            Ok(body) => body,
            Err(why) => {
                tracing::warn!(instance.id = %instance.id, node.id = %node.id, reason = %why, "a receipt was refused");
                return Ok(false);
            }
        };
        let receipt = StoredReceipt { body, signature: message.signature, node_chain: node.node_chain };
        self.store().store_receipt(&instance.id, &receipt, now_ms(), &by.fence, received).await?;
        tracing::info!(instance.id = %instance.id, node.id = %node.id, "receipt stored");
        Ok(true)
    }

    /// The instance of this name, if it was placed on this node.
    pub(super) async fn on_node(&self, node: &NodeId, instance: &str) -> Result<Option<Instance>, Fault> {
        let Ok(id) = instance.parse::<InstanceId>() else { return Ok(None) };
        Ok(self.store().instance(&id).await?.filter(|instance| instance.node.as_ref() == Some(node)))
    }
}

pub(super) fn receipt_view(receipt: StoredReceipt) -> rest::Receipt {
    rest::Receipt {
        body: receipt.body,
        signature: STANDARD.encode(&receipt.signature),
        node_chain: receipt.node_chain.iter().map(|der| STANDARD.encode(der)).collect(),
    }
}

/// With its receipt stored, nothing of the instance is left on the node.
fn received(instance: &mut Instance, out: &mut Vec<NewEvent>) {
    life::wiped(instance, out);
    out.push(NewEvent { kind: "receipt", text: "the node's signed receipt is stored".into(), data: None });
    life::happen(instance, Event::Reached(Step::Gone), out);
    instance.has_receipt = true;
}

//! Nodes: who they are on a connection, what they offer, how they look to clients.

use casemate_api::{
    node::{Inventory, NodeQuote},
    rest,
};
use casemate_lifecycle::NodeId;
use casemate_verifier::{ImaMemory, ek::VerifiedEk};
use serde_json::{Value, json};

use super::{Caller, Service};
use crate::{
    appraiser::{NodeEvidence, PassedNode},
    fault::Fault,
    life::{self, clipped},
    schedule::{Candidate, MACHINE_OVERHEAD_MIB},
    store::{Load, Node, Trust},
};

/// What a connection's client certificate says, after TLS has verified it.
#[derive(Debug, Clone)]
pub struct PeerNode {
    /// The subject.
    pub id: NodeId,
    /// The attestation key it was made for.
    pub ak_name: Vec<u8>,
    /// Its end.
    pub ends_at_ms: u64,
}

impl Service {
    /// The node behind a certificate. A certificate that was made for another attestation key of the node is refused.
    pub async fn known_node(&self, peer: &PeerNode) -> Result<Node, Fault> {
        let node = self.store().node(&peer.id).await?;
        node.filter(|node| node.ak_name == peer.ak_name).ok_or(Fault::Forbidden("act as this node; enrol it again"))
    }

    /// All nodes.
    pub async fn nodes(&self, _caller: &Caller) -> Result<rest::Nodes, Fault> {
        let live = self.store().live_instances().await?;
        let nodes = self.store().nodes().await?.into_iter().map(|node| {
            let count = live.iter().filter(|instance| instance.node.as_ref() == Some(&node.id)).count();
            rest::Node {
                connected: self.0.sessions.is_connected(&node.id),
                id: node.id.to_string(),
                trust: node.trust.as_str().to_owned(),
                detail: node.trust_detail,
                simulated: node.simulated,
                inventory: node.inventory,
                instances: u32::try_from(count).unwrap_or(u32::MAX),
                certificate_ends_at_ms: node.certificate_ends_ms,
            }
        });
        Ok(rest::Nodes { nodes: nodes.collect() })
    }

    /// Takes the trust from a node after a failed appraisal: its instances are told to stop, and why.
    pub(super) async fn distrust(&self, id: &NodeId, check: &str, detail: &str) -> Result<(), Fault> {
        tracing::warn!(node.id = %id, check, "a node failed its appraisal and is not trusted any more");
        self.store().distrust_node(id, &format!("{check}: {detail}")).await?;
        for instance in self.store().instances_of_node(id).await? {
            self.change(&instance.id, |instance, out| {
                let step = life::next_step(instance.actual.step);
                let detail = format!("the node failed its appraisal: {detail}");
                life::fail(instance, step, check, detail, out);
                life::intend(instance, casemate_lifecycle::Intent::Stop);
            })
            .await?;
        }
        Ok(())
    }

    /// Judges a node that wants a certificate, by what is in force now.
    pub(super) async fn judge_node(&self, question: NodeQuestion, now_ms: u64) -> Result<PassedNode, Fault> {
        let judgement = self.judgement(&self.0.parts.last_word.nodes).await?;
        let service = self.clone();
        // Signatures and long lists take milliseconds: not on the threads that serve connections.
        let judged = tokio::task::spawn_blocking(move || {
            let evidence = NodeEvidence {
                node: question.node.as_str(),
                ek: &question.ek,
                ak_public: &question.ak_public,
                quote: &question.quote,
                qualifying: question.qualifying,
                remembered: question.remembered.as_ref(),
                now_ms,
            };
            service.0.parts.appraiser.node(&evidence, &judgement)
        });
        judged.await.map_err(|error| Fault::internal("appraise a node")(error.into()))?
    }

    /// What the scheduler needs to know of a node.
    pub(super) fn candidate(&self, node: &Node, load: Option<&Load>) -> Candidate {
        let load = load.copied().unwrap_or_default();
        let number = |name: &str| node.inventory.get(name).and_then(Value::as_u64).unwrap_or(0);
        let levels = node.inventory.get("isolation_levels").cloned().unwrap_or_default();
        let drivers = node.inventory.get("drivers").and_then(Value::as_array).into_iter().flatten();
        let with_network = drivers.filter(|driver| driver["network"] == true).map(|driver| driver["level"].clone());
        Candidate {
            id: node.id.clone(),
            trusted: node.trust == Trust::Trusted,
            connected: self.0.sessions.is_connected(&node.id),
            levels: serde_json::from_value(levels).unwrap_or_default(),
            levels_with_network: with_network.filter_map(|level| serde_json::from_value(level).ok()).collect(),
            cpus: u32::try_from(number("cpus")).unwrap_or(u32::MAX),
            memory_mib: number("memory_mib"),
            used_cpus: load.cpus,
            used_memory_mib: load.memory_mib + u64::from(load.instances) * MACHINE_OVERHEAD_MIB,
        }
    }
}

/// What a node that wants a certificate has to answer.
pub(super) struct NodeQuestion {
    pub(super) node: NodeId,
    pub(super) ek: VerifiedEk,
    pub(super) ak_public: Vec<u8>,
    pub(super) quote: NodeQuote,
    pub(super) qualifying: [u8; 32],
    pub(super) remembered: Option<ImaMemory>,
}

/// Why a node is trusted, with what its appraisal left open.
pub(super) fn with_notes(why: &str, notes: &str) -> String {
    if notes.is_empty() { why.to_owned() } else { clipped(&format!("{why}; {notes}"), MAX_DETAIL) }
}

/// Most characters of a node's detail.
const MAX_DETAIL: usize = 1000;

/// The inventory as stored and shown.
pub(super) fn inventory_json(inventory: &Inventory) -> Value {
    let text = |text: &str| clipped(text, 300);
    let levels: Vec<String> = inventory.isolation_levels.iter().take(8).map(|level| text(level)).collect();
    let drivers: Vec<Value> = inventory
        .drivers
        .iter()
        .take(8)
        .map(|driver| {
            let problem = text(&driver.problem);
            json!({
                "name": text(&driver.name),
                "level": text(&driver.level),
                "version": text(&driver.version),
                "problem": problem,
                "network": driver.network,
            })
        })
        .collect();
    json!({
        "hostname": text(&inventory.hostname),
        "cpus": inventory.cpus,
        "memory_mib": inventory.memory_mib,
        "disk_mib": inventory.disk_mib,
        "cpu_model": text(&inventory.cpu_model),
        "kernel": text(&inventory.kernel),
        "accel": text(&inventory.accel),
        "accel_reason": text(&inventory.accel_reason),
        "isolation_levels": levels,
        "vmm_version": text(&inventory.vmm_version),
        "drivers": drivers,
    })
}

//! Nodes: who they are on a connection, what they offer, how they look to clients.

use casemate_api::{
    node::{Inventory, NodeQuote},
    rest,
};
use casemate_lifecycle::{NodeId, reach};
use casemate_verifier::{ImaMemory, ek::VerifiedEk};
use serde_json::{Value, json};

use super::{Caller, Service, upkeep::ms};
use crate::{
    appraiser::{NodeEvidence, PassedNode},
    fault::Fault,
    life::{self, clipped},
    store::{Drain, Node, Role, Store, intent_as_str},
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
        let node = node.filter(|node| !node.revoked);
        node.filter(|node| node.ak_name == peer.ak_name).ok_or(Fault::Forbidden("act as this node; enrol it again"))
    }

    /// All nodes, where they can be rented and operated; a hoster who does neither sees his own.
    pub async fn nodes(&self, caller: &Caller) -> Result<rest::Nodes, Fault> {
        let all = caller.is(Role::Tenant) || caller.is(Role::Operator);
        let own = |node: &Node| caller.is(Role::Hoster) && node.hoster.as_ref() == Some(&caller.account);
        let maintenances = self.store().maintenances().await?;
        let live = self.store().live_instances().await?;
        let connected = self.store().connected_nodes().await?;
        let (now_ms, lost_ms) = (self.store().now_ms().await?, ms(self.limits().node_lost));
        let nodes = self.store().nodes().await?.into_iter().filter(|node| all || own(node)).map(|node| {
            let silent = (!connected.contains(&node.id)).then(|| now_ms.saturating_sub(node.last_seen_ms));
            let count = live.iter().filter(|instance| instance.node.as_ref() == Some(&node.id)).count();
            let hoster = node.hoster.clone().filter(|_| caller.is(Role::Operator) || own(&node));
            let maintenance = maintenances.iter().find(|one| one.node == node.id);
            let detail = match maintenance {
                // For those who may know whose it is.
                Some(one) if caller.is(Role::Operator) || own(&node) => {
                    Some(format!("maintenance by {}: {}", one.begun_by, one.reason))
                }
                Some(_) => Some("it is being changed".to_owned()),
                None => None,
            };
            rest::Node {
                hoster,
                connected: silent.is_none(),
                reach: reach(silent, lost_ms).as_str().to_owned(),
                last_seen_ms: node.last_seen_ms,
                draining: node.drain != Drain::No,
                drain_until_ms: node.drain.until_ms(),
                id: node.id.to_string(),
                trust: if maintenance.is_some() { in_maintenance(&node) } else { standing(&node) }.to_owned(),
                detail: node.suspended.or(detail).unwrap_or(node.trust_detail),
                simulated: node.simulated,
                inventory: node.inventory,
                instances: u32::try_from(count).unwrap_or(u32::MAX),
                certificate_ends_at_ms: node.certificate_ends_ms,
            }
        });
        Ok(rest::Nodes { nodes: nodes.collect() })
    }

    /// What a node of the caller has: what the instances take, and not what they are.
    pub async fn hosted(&self, caller: &Caller, id: &str) -> Result<rest::HostedInstances, Fault> {
        let node = self.own_node(caller, id).await?;
        let instances = self.store().instances_of_node(&node.id).await?.into_iter().map(|instance| rest::HostedInstance {
            level: instance.placed_at().as_str().to_owned(),
            id: instance.id.to_string(),
            intent: intent_as_str(instance.intent).to_owned(),
            step: instance.actual.step.to_string(),
            cpus: instance.cpus,
            memory_mib: instance.memory_mib,
            created_at_ms: instance.created_at_ms,
        });
        Ok(rest::HostedInstances { instances: instances.collect() })
    }

    /// Gives a node to a hoster, or back to the platform.
    pub async fn give_node(&self, caller: &Caller, id: &str, hoster: Option<&str>) -> Result<(), Fault> {
        caller.must_operate("give a node to a hoster; that needs an operator's token")?;
        let node = self.own_node(caller, id).await?;
        if let Some(name) = hoster {
            known_hoster(self.store(), name).await?;
        }
        self.store().give_node(&node.id, hoster).await.map(drop).map_err(Fault::from)
    }

    /// A node that the caller has or operates; others do not exist.
    pub(super) async fn own_node(&self, caller: &Caller, id: &str) -> Result<Node, Fault> {
        let absent = || Fault::NotFound { what: "node", id: clipped(id, 100) };
        let parsed = id.parse::<NodeId>().map_err(|_| absent())?;
        let node = self.store().node(&parsed).await?.ok_or_else(absent)?;
        let may = caller.is(Role::Operator) || node.hoster.as_ref() == Some(&caller.account);
        if may { Ok(node) } else { Err(absent()) }
    }

    /// Takes the trust from a node after a failed appraisal: its instances are told to stop, and why.
    pub(super) async fn distrust(&self, id: &NodeId, check: &str, detail: &str) -> Result<(), Fault> {
        tracing::warn!(node.id = %id, check, "a node failed its appraisal and is not trusted any more");
        self.store().distrust_node(id, &format!("{check}: {detail}")).await?;
        self.end_work_of(id, check, &format!("the node failed its appraisal: {detail}")).await
    }

    /// Ends all instances of a node, and tells their tenants why.
    pub(super) async fn end_work_of(&self, id: &NodeId, check: &str, detail: &str) -> Result<(), Fault> {
        for instance in self.store().instances_of_node(id).await? {
            self.change(&instance.id, |instance, out| {
                let step = life::next_step(instance.actual.step);
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
}

/// Refuses an account that has no nodes.
pub(super) async fn known_hoster(store: &Store, name: &str) -> Result<(), Fault> {
    let account = store.account(name).await?;
    match account {
        Some(account) if account.disabled_at_ms.is_none() && account.roles.has(Role::Hoster) => Ok(()),
        Some(_) => Err(Fault::Conflict { detail: format!("the account {name:?} is no hoster, or disabled") }),
        None => Err(Fault::NotFound { what: "account", id: clipped(name, 80) }),
    }
}

/// What its trust comes to.
fn standing(node: &Node) -> &'static str {
    match (node.revoked, &node.suspended) {
        (true, _) => "revoked",
        (false, Some(_)) => "suspended",
        (false, None) => node.trust.as_str(),
    }
}

/// The same in maintenance; what is worse comes first.
fn in_maintenance(node: &Node) -> &'static str {
    if node.revoked || node.suspended.is_some() { standing(node) } else { "maintenance" }
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
        "monitor": inventory.monitor.as_ref().map(|monitor| {
            let without: Vec<String> = monitor.without.iter().take(32).map(|group| text(group)).collect();
            json!({ "class": text(&monitor.class), "without": without })
        }),
        "dedicated": inventory.dedicated.map(|look| json!({ "findings": look.findings, "held": look.held })),
        "drivers": drivers,
    })
}

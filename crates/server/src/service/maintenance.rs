//! Maintenance of nodes: who begins and ends it, what a node is told, and what its word is worth.
//!
//! The phases are `casemate_lifecycle::maintenance::Phase`; a node's word moves them only where it is waited for, and only its appraisal leads out.

use casemate_api::{
    node::{self, maintenance, maintenance_report},
    rest,
};
use casemate_lifecycle::maintenance::{Wanted, Word};
use serde_json::json;

use super::{Caller, Service, session::Speaker};
use crate::{
    clock::now_ms,
    fault::Fault,
    life::clipped,
    store::{By, Maintenance, NodeEvent, Role, Saying, Wished},
};

/// Name of the check of instances that are ended for it.
pub(super) const CHECK: &str = "node.maintenance";
/// What their tenants are told.
pub(super) const ENDED: &str = "an operator has begun the maintenance of its node";
/// Longest reason, in bytes.
const MAX_REASON: usize = 500;
/// Longest text of a node about it.
const MAX_DETAIL: usize = 1000;
/// Most names in a list of a node.
const MAX_NAMES: usize = 32;
/// Events in an answer.
const EVENTS: u32 = 50;

impl Service {
    /// Begins the maintenance of a node on which nothing runs; an operator may force it.
    pub async fn begin_maintenance(&self, caller: &Caller, id: &str, new: &rest::NewMaintenance) -> Result<(), Fault> {
        if new.reason.trim().is_empty() || new.reason.len() > MAX_REASON {
            let detail = format!("must have 1 to {MAX_REASON} bytes");
            return Err(Fault::Invalid { what: "reason", detail, hint: "say in a few words what the maintenance is for" });
        }
        if new.forced {
            caller.must_operate("end what runs on a node for its maintenance; that needs an operator's token")?;
        }
        let node = self.own_node(caller, id).await?.id;
        let reason = clipped(new.reason.trim(), MAX_REASON);
        done(self.store().begin_maintenance(&node, by(caller), &reason, new.forced).await?)?;
        tracing::info!(node.id = %node, by = caller.account, forced = new.forced, reason, "the maintenance of a node begins");
        if new.forced {
            // Upkeep does the same, should this server die here.
            self.end_work_of(&node, CHECK, ENDED).await?;
        }
        Ok(())
    }

    /// Asks the node to be sealed and appraised; it is trusted again when that passes.
    pub async fn end_maintenance(&self, caller: &Caller, id: &str) -> Result<(), Fault> {
        let node = self.own_node(caller, id).await?.id;
        done(self.store().end_maintenance(&node, by(caller)).await?)?;
        tracing::info!(node.id = %node, by = caller.account, "the maintenance of a node is to end");
        Ok(())
    }

    /// The last maintenance of a node, and what happened to the node.
    pub async fn node_maintenance(&self, caller: &Caller, id: &str) -> Result<rest::NodeMaintenance, Fault> {
        let node = self.own_node(caller, id).await?.id;
        let maintenance = self.store().last_maintenance(&node).await?.map(view);
        let events = self.store().node_events(&node, EVENTS).await?.into_iter().map(event).collect();
        Ok(rest::NodeMaintenance { maintenance, events })
    }

    /// What the node is to be told of the maintenance that it is in.
    pub(super) async fn maintenance_for(&self, by: &Speaker) -> Result<Option<node::Maintenance>, Fault> {
        let Some(Maintenance { number, attempt, forced, phase: Some(phase), .. }) = self.store().maintenance(&by.node).await?
        else {
            return Ok(None);
        };
        let wanted = match phase.wanted() {
            Wanted::Open => maintenance::Wanted::Open,
            Wanted::Sealed => maintenance::Wanted::Sealed,
            Wanted::Attested => maintenance::Wanted::Attested,
        };
        Ok(Some(node::Maintenance { number, attempt, wanted: wanted.into(), forced }))
    }

    /// Takes the node's word about it.
    pub(super) async fn heard_of_maintenance(&self, by: &Speaker, report: node::MaintenanceReport) -> Result<(), Fault> {
        let word = match report.word() {
            maintenance_report::Word::Opened => Word::Opened,
            maintenance_report::Word::Sealed => Word::Sealed,
            maintenance_report::Word::Refused => Word::Refused,
            // Of a newer agent.
            maintenance_report::Word::Unspecified => return Ok(()),
        };
        let detail = match word {
            Word::Opened => opened(&report).to_string(),
            Word::Sealed if report.monitored => "the monitor has sealed it".to_owned(),
            Word::Sealed => "no monitor guards it: there was nothing to seal".to_owned(),
            Word::Refused => clipped(&report.why, MAX_DETAIL),
        };
        let saying = Saying { number: report.number, attempt: report.attempt, word, detail: &detail };
        if !self.store().heard_of_maintenance((&by.node, &by.fence), saying, now_ms()).await? {
            tracing::warn!(node.id = %by.node, ?word, "a node said something of its maintenance that nobody waits for");
        }
        Ok(())
    }
}

fn by(caller: &Caller) -> By<'_> {
    let role = if caller.is(Role::Operator) { Role::Operator } else { Role::Hoster };
    By { account: &caller.account, role, now_ms: now_ms() }
}

fn done(wished: Wished) -> Result<(), Fault> {
    let detail = match wished {
        Wished::Done => return Ok(()),
        Wished::InstancesRun(count) => {
            format!("{count} instances are on the node: drain it and wait for their end, or have an operator force it")
        }
        Wished::UnderWay(phase) => format!("the node is in maintenance already ({})", phase.as_str()),
        Wished::NoneUnderWay => "the node is not in maintenance".to_owned(),
        Wished::AnOperators => "an operator began the maintenance, and only an operator changes that".to_owned(),
        Wished::Revoked => "the node is revoked: its certificate is worth nothing any more".to_owned(),
    };
    Err(Fault::Conflict { detail })
}

/// As it is stored; names of a node are not passed on as they are.
fn opened(report: &node::MaintenanceReport) -> serde_json::Value {
    let names = |names: &[String]| names.iter().take(MAX_NAMES).map(|name| clipped(name, 64)).collect::<Vec<_>>();
    json!({
        "monitored": report.monitored, "class": clipped(&report.class, 64), "without": names(&report.without),
        "until_reboot": names(&report.until_reboot),
    })
}

fn view(one: Maintenance) -> rest::Maintenance {
    rest::Maintenance {
        number: one.number,
        phase: one.phase.map_or("over", |phase| phase.as_str()).to_owned(),
        begun_by: one.begun_by,
        begun_at_ms: one.begun_at_ms,
        reason: one.reason,
        forced: one.forced,
        opened: one.opened.and_then(|text| serde_json::from_str(&text).ok()),
        failed: one.failed,
        ended_at_ms: one.ended_at_ms,
    }
}

fn event(one: NodeEvent) -> rest::NodeEvent {
    rest::NodeEvent { seq: one.seq, at_ms: one.at_ms, kind: one.kind, caused_by: one.caused_by, text: one.text }
}

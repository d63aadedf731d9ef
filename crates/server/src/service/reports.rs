//! What nodes report about instances, and what of it is believed.

use casemate_api::{
    node,
    rest::NetworkUse,
    score::{Observation, Observer, believable},
    workload::Workload,
};
use casemate_lifecycle::{Failure, Reported, Step, believed, ends_at_ms};

use super::{Service, nodes::inventory_json, session::Speaker};
use crate::{
    clock::now_ms,
    fault::Fault,
    life,
    store::{Instance, NewEvent, Observed},
};

/// Most stages that a node may time.
const MAX_STAGES: usize = 64;

impl Service {
    /// Takes a whole report: instances that the platform believes to be there but the node does not know are lost.
    pub(super) async fn take_report(&self, by: &Speaker, report: node::Report) -> Result<Vec<node::RecordsStored>, Fault> {
        self.heard_of(by, report.inventory.as_ref().map(inventory_json).as_ref()).await?;
        for instance in self.store().instances_of_node(&by.node).await? {
            let known = report.instances.iter().any(|reported| reported.instance == instance.id.as_str());
            if !known && instance.actual.step >= Step::Accepted && instance.actual.step < Step::Wiped {
                self.change_as(&by.fence, &instance.id, lost_by_node).await?;
            }
        }
        let mut stored = Vec::new();
        for reported in report.instances {
            stored.extend(self.take_instance_report(by, reported).await?);
        }
        Ok(stored)
    }

    /// Takes the report of one instance; the answer says which records are stored.
    pub(super) async fn take_instance_report(
        &self,
        by: &Speaker,
        report: node::InstanceReport,
    ) -> Result<Option<node::RecordsStored>, Fault> {
        let Some(instance) = self.on_node(&by.node, &report.instance).await? else {
            tracing::warn!(node.id = %by.node, "a node reports an instance that is not its own");
            return Ok(None);
        };
        let id = instance.id;
        let name = report.instance.clone();
        let changed = self.change_as(&by.fence, &id, |instance, out| believe(instance, report, out)).await?;
        Ok(changed.map(|(instance, ())| node::RecordsStored { instance: name, next: instance.next_record }))
    }
}

fn believe(instance: &mut Instance, report: node::InstanceReport, out: &mut Vec<NewEvent>) {
    life::note(instance, &report.note, out);
    if report.stages_ms.len() <= MAX_STAGES {
        instance.stages_ms.extend(report.stages_ms.into_iter().map(|(name, ms)| (life::clipped(&name, 60), ms)));
        while instance.stages_ms.len() > MAX_STAGES {
            instance.stages_ms.pop_last();
        }
    }
    let said = |list: Vec<node::Observation>| {
        list.into_iter().map(|node::Observation { item, held, seen }| Observation { item, held, seen })
    };
    let agent = believable(Observer::Agent, said(report.observed));
    let guest = believable(Observer::Guest, said(report.guest_observed));
    if !agent.is_empty() || !guest.is_empty() {
        instance.observed = Some(Observed { at_ms: report.observed_at_ms, agent, guest });
    }
    if let Some(counted) = report.network {
        instance.network = Some(network_use(counted));
    }
    let failure = report.failure.map(|failure| Failure {
        step: Step::parse(&failure.step).unwrap_or(life::next_step(instance.actual.step)),
        check: life::clipped(&failure.check, 100),
        detail: life::clipped(&failure.detail, 1000),
    });
    let reported = Reported { step: Step::parse(&report.step), exit_code: report.exit_code, failure };
    for event in believed(&instance.actual, reported) {
        life::happen(instance, event, out);
    }
    if instance.ends_at_ms.is_none() && (Step::Keyed..Step::Wiped).contains(&instance.actual.step) {
        // What is stored was checked when it came.
        let ttl_s = Workload::from_canonical(instance.workload.as_bytes()).map(|workload| workload.ttl_s);
        instance.ends_at_ms = ttl_s.ok().map(|ttl_s| ends_at_ms(now_ms(), ttl_s));
    }
}

fn network_use(counted: node::NetworkUse) -> NetworkUse {
    NetworkUse {
        sent_bytes: counted.sent_bytes,
        sent_packets: counted.sent_packets,
        sent_dropped: counted.sent_dropped,
        received_bytes: counted.received_bytes,
        received_packets: counted.received_packets,
        received_dropped: counted.received_dropped,
        names_asked: counted.names_asked,
        names_refused: counted.names_refused,
        names_failed: counted.names_failed,
    }
}

fn lost_by_node(instance: &mut Instance, out: &mut Vec<NewEvent>) {
    let text = "the node no longer knows this instance";
    out.push(NewEvent { kind: "node-lost", text: text.into(), data: None });
    let step = life::next_step(instance.actual.step);
    life::fail(instance, step, "node.lost", text, out);
    life::intend(instance, casemate_lifecycle::Intent::Stop);
}

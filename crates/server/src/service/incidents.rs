//! Records of the nodes' monitors: taken as they are, read for what ends a node's work.
//!
//! A line is believed to be the monitor's only as far as the chain goes: whoever holds the node could have begun another one, but can
//! not take back what the platform has.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_api::{node, rest};
use casemate_lifecycle::{NodeId, maintenance::Phase};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Caller, Service, session::Speaker};
use crate::{
    clock::now_ms,
    fault::Fault,
    life::clipped,
    store::{Incident, Maintenance, NewIncident, RecordHead, RecordLine, Role},
};

/// Most lines of one message.
const MAX_LINES: usize = 64;
/// Longest line.
const MAX_LINE: usize = 64 << 10;
/// Most lines that are shown with an incident, its own included, and most bytes of them; its own is shown in any case.
const MAX_SHOWN: usize = 16;
const MAX_SHOWN_BYTES: usize = 64 << 10;
/// Longest text about an incident.
const MAX_DETAIL: usize = 500;
/// Kinds of records after which a node gets no work: what it ran was ended, or could no longer be guarded.
const INCIDENTS: [&str; 3] = ["instances_ended", "monitor_ended", "canary_missed"];
/// Kind of the record that a monitor was opened.
const UNSEALED: &str = "unsealed";
/// Why a monitor ends instances for a maintenance that is forced.
const FORCED: &str = "maintenance is forced";
/// The check that instances of such a node fail.
const CHECK: &str = "monitor.violation";

/// A line, as far as the platform reads it.
#[derive(Debug, Deserialize)]
struct Line {
    sequence: u64,
    previous: String,
    at_unix_ms: u64,
    event: Value,
}

/// Lines that continue a record.
struct Continued {
    lines: Vec<RecordLine>,
    incidents: Vec<NewIncident>,
    /// Whether the node is unsealed, as the last of them leaves it.
    unsealed: bool,
}

impl Service {
    /// Where the record of a node's monitor stands here.
    pub(super) async fn monitor_stored(&self, node: &NodeId) -> Result<node::MonitorStored, Fault> {
        Ok(node::MonitorStored { next: self.store().record_head(node).await?.lines })
    }

    /// Stores lines of a node's monitor. What does not continue its record suspends the node: somebody changed it.
    pub(super) async fn store_monitor_records(
        &self,
        by: &Speaker,
        message: node::MonitorRecords,
    ) -> Result<node::MonitorStored, Fault> {
        let node = &by.node;
        let head = self.store().record_head(node).await?;
        if message.from != head.lines || message.lines.is_empty() {
            return Ok(node::MonitorStored { next: head.lines });
        }
        let maintenance = self.store().maintenance(node).await?.filter(|one| one.phase.is_some_and(Phase::may_be_open));
        let continued = match continued(node, head, message.lines, maintenance.as_ref()) {
            Ok(continued) => continued,
            Err(why) => {
                let detail = format!("line {} of the monitor's record: {why}", head.lines);
                tracing::warn!(node.id = %node, detail, "a monitor's record was refused");
                self.store().suspend_node(node, &detail, now_ms()).await?;
                self.end_work_of(node, "monitor.record", &detail).await?;
                return Ok(node::MonitorStored { next: head.lines });
            }
        };
        let Continued { lines, incidents, unsealed } = continued;
        let limit = self.limits().strikes;
        let standing =
            self.store().store_monitor_record((node, &by.fence), head.lines, (&lines, unsealed), &incidents, limit).await?;
        if let (Some(standing), Some(first)) = (standing, incidents.first()) {
            tracing::warn!(node.id = %node, strikes = standing.strikes, revoked = standing.revoked, detail = first.incident.detail, "a node is suspended");
            self.end_work_of(node, CHECK, &first.incident.detail).await?;
        }
        Ok(node::MonitorStored { next: head.lines + lines.len() as u64 })
    }

    /// The newest incidents: of all nodes, or of those that the caller has.
    pub async fn incidents(&self, caller: &Caller, node: Option<&str>) -> Result<rest::Incidents, Fault> {
        let node = match node {
            Some(id) => Some(self.own_node(caller, id).await?.id),
            None => None,
        };
        let hoster = (!caller.is(Role::Operator)).then_some(caller.account.as_str());
        let incidents = self.store().incidents(node.as_ref(), hoster).await?;
        let shown = incidents.into_iter().map(|one| rest::Incident {
            node: one.node.to_string(),
            sequence: one.sequence,
            kind: one.kind,
            detail: one.detail,
            at_ms: one.at_ms,
            received_at_ms: one.received_at_ms,
        });
        Ok(rest::Incidents { incidents: shown.collect() })
    }

    /// Gives a suspended node work again, after an operator has looked.
    pub async fn restore_node(&self, caller: &Caller, id: &str) -> Result<(), Fault> {
        caller.must_operate("restore a node; that needs an operator's token")?;
        let node = self.own_node(caller, id).await?.id;
        if self.store().restore_node(&node, now_ms()).await? {
            tracing::info!(node.id = %node, by = caller.account, "a suspended node was restored");
            return Ok(());
        }
        Err(Fault::Conflict { detail: "the node is not suspended, or it is revoked".to_owned() })
    }
}

/// The lines, if each continues the record, with the incidents that they tell of; `maintenance` is the one that the node may be open for.
fn continued(
    node: &NodeId,
    head: RecordHead,
    lines: Vec<Vec<u8>>,
    maintenance: Option<&Maintenance>,
) -> Result<Continued, String> {
    if lines.len() > MAX_LINES {
        return Err(format!("the message has {} lines, more than the limit of {MAX_LINES}", lines.len()));
    }
    let (mut stored, mut incidents, begin, mut head) = (Vec::new(), Vec::new(), head.lines, head);
    let mut detectors: Vec<String> = Vec::new();
    for line in lines {
        let read = read(&line, &head)?;
        let digest: [u8; 32] = Sha256::digest(&line).into();
        let kind = read.event["kind"].as_str().unwrap_or_default();
        let unsealed = match kind {
            UNSEALED => true,
            "started" | "sealed" | "stopped" => false,
            _ => head.unsealed,
        };
        head = RecordHead { lines: head.lines + 1, digest, unsealed };
        if let (true, Some(detector)) = (kind == "violation", read.event["detector"].as_str()) {
            detectors.push(clipped(detector, 64));
        }
        if is_incident(kind, &read.event, unsealed, maintenance) {
            let because = ["because", "how"].iter().find_map(|field| read.event[*field].as_str());
            let because = because.unwrap_or(if kind == UNSEALED { "not as the platform wanted it" } else { "without a reason" });
            incidents.push(Incident {
                node: node.clone(),
                sequence: read.sequence,
                kind: kind.to_owned(),
                detail: clipped(&format!("{kind}: {because}"), MAX_DETAIL),
                at_ms: read.at_unix_ms,
                received_at_ms: now_ms(),
            });
        }
        stored.push(RecordLine { line, digest });
    }
    detectors.sort();
    detectors.dedup();
    if !detectors.is_empty() {
        // The reaction is written down first, then what it was to.
        for incident in &mut incidents {
            incident.detail = clipped(&format!("{} ({})", incident.detail, detectors.join(", ")), MAX_DETAIL);
        }
    }
    let incidents = incidents.into_iter().map(|incident| with_evidence(incident, begin, &stored, &head)).collect();
    Ok(Continued { lines: stored, incidents, unsealed: head.unsealed })
}

/// What the tenants of an incident are shown: its line and what came with it after that, since the reaction is written down first.
fn with_evidence(incident: Incident, begin: u64, stored: &[RecordLine], head: &RecordHead) -> NewIncident {
    let at = usize::try_from(incident.sequence.saturating_sub(begin)).unwrap_or(usize::MAX);
    let shown = stored.get(at..).unwrap_or_default();
    let mut bytes = 0;
    let fits = shown.iter().take(MAX_SHOWN).take_while(|one| {
        bytes += one.line.len();
        bytes <= MAX_SHOWN_BYTES
    });
    let count = fits.count().max(1).min(shown.len());
    let evidence = rest::NoticeEvidence {
        from: incident.sequence,
        lines: shown[..count].iter().map(|one| STANDARD.encode(&one.line)).collect(),
        stored: head.lines,
        head: hex::encode(head.digest),
    };
    NewIncident { line: shown.first().map(|one| one.digest).unwrap_or_default(), incident, evidence }
}

/// What the monitor sees on a node that is lawfully open is none. That it was opened, or that its instances were ended for it, is one where
/// the platform did not want that.
fn is_incident(kind: &str, event: &Value, unsealed: bool, maintenance: Option<&Maintenance>) -> bool {
    let forced = maintenance.is_some_and(|one| one.forced);
    match kind {
        UNSEALED => maintenance.is_none() || (event["forced"] == true && !forced),
        "instances_ended" if event["because"] == FORCED => !forced,
        _ => INCIDENTS.contains(&kind) && !(unsealed && maintenance.is_some()),
    }
}

fn read(line: &[u8], head: &RecordHead) -> Result<Line, String> {
    if line.len() > MAX_LINE {
        return Err(format!("it has {} bytes, more than the limit of {MAX_LINE}", line.len()));
    }
    let read: Line = serde_json::from_slice(line).map_err(|error| format!("it is no record: {error}"))?;
    if read.sequence != head.lines {
        return Err(format!("it has number {}", read.sequence));
    }
    if read.previous != hex::encode(head.digest) {
        return Err("it does not follow from the line before".to_owned());
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn head() -> RecordHead {
        RecordHead { lines: 0, digest: [0; 32], unsealed: false }
    }

    /// A record of these events.
    fn record(events: &[Value]) -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for event in events {
            let previous = lines.last().map_or([0; 32], |line| Sha256::digest(line).into());
            let line = json!({"sequence": lines.len(), "previous": hex::encode(previous), "at_unix_ms": 7, "event": event});
            lines.push(line.to_string().into_bytes());
        }
        lines
    }

    fn told(events: &[Value]) -> Vec<(String, String)> {
        let found = continued(&"n-1".parse().unwrap(), head(), record(events), None).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(found.lines.len(), events.len());
        found.incidents.into_iter().map(|one| (one.incident.kind, one.incident.detail)).collect()
    }

    #[test]
    fn what_was_ended_is_an_incident_and_what_was_only_noted_is_none() {
        assert_eq!(told(&[json!({"kind": "started"}), json!({"kind": "violation", "detector": "ptrace.inspect"}), json!(1)]), []);
        let ended = told(&[
            json!({"kind": "instances_ended", "because": "a violation"}),
            json!({"kind": "violation", "detector": "memory.open"}),
            json!({"kind": "monitor_ended", "how": "signal: 9"}),
        ]);
        let expected = [
            ("instances_ended", "instances_ended: a violation (memory.open)"),
            ("monitor_ended", "monitor_ended: signal: 9 (memory.open)"),
        ];
        assert_eq!(ended, expected.map(|(kind, detail)| (kind.to_owned(), detail.to_owned())));
    }

    #[test]
    fn an_incident_is_shown_with_what_followed_it_and_no_more_than_that() {
        let shown = |events: &[Value]| {
            let lines = record(events);
            let found = continued(&"n-1".parse().unwrap(), head(), lines.clone(), None).unwrap_or_else(|why| panic!("{why}"));
            let [NewIncident { incident, line, evidence }] = &found.incidents[..] else { panic!("one incident") };
            assert_eq!((incident.sequence, evidence.from), (1, 1));
            assert_eq!(*line, <[u8; 32]>::from(Sha256::digest(&lines[1])));
            assert_eq!(evidence.stored, lines.len() as u64);
            assert_eq!(evidence.head, hex::encode(Sha256::digest(lines.last().unwrap())));
            let shown: Vec<_> = evidence.lines.iter().map(|line| STANDARD.decode(line).unwrap()).collect();
            assert_eq!(shown, lines[1..=shown.len()]);
            shown.len()
        };
        let (started, ended) = (json!({"kind": "started"}), json!({"kind": "instances_ended", "because": "x"}));
        let noted = json!({"kind": "violation", "detector": "y"});
        assert_eq!(shown(&[started.clone(), ended.clone(), noted.clone()]), 2);
        let many = [vec![started.clone(), ended.clone()], vec![noted; 40]].concat();
        assert_eq!(shown(&many), MAX_SHOWN);
        let long = json!({"kind": "note", "text": "z".repeat(30 << 10)});
        assert_eq!(shown(&[started.clone(), ended, long.clone(), long.clone(), long]), 3);
        let huge = json!({"kind": "instances_ended", "because": "z".repeat(MAX_LINE - 200)});
        assert_eq!(shown(&[started, huge, json!({"kind": "note"})]), 1);
    }

    #[test]
    fn a_record_that_was_changed_is_refused() {
        let events = [json!({"kind": "started"}), json!({"kind": "violation", "detector": "x"}), json!({"kind": "stopped"})];
        let good = record(&events);
        let refused = |lines: Vec<Vec<u8>>| continued(&"n-1".parse().unwrap(), head(), lines, None).is_err();
        assert!(!refused(good.clone()));
        assert!(refused(good[1..].to_vec()), "the first was left out");
        assert!(refused(vec![good[0].clone(), good[2].clone()]), "one was left out");
        assert!(refused(vec![good[1].clone(), good[0].clone(), good[2].clone()]));
        for at in 0..good[0].len() {
            let mut changed = good.clone();
            changed[0][at] ^= 1;
            assert!(refused(changed), "byte {at} of a line that another one names");
        }
        assert!(refused(vec![vec![b' '; MAX_LINE + 1]]));
        assert!(refused(vec![b"{}".to_vec()]));
        assert!(refused(record(&vec![json!({}); MAX_LINES + 1])));
    }
}

//! Records of a node's monitor: what they end, and what becomes of the node.

use casemate_api::{
    assignment,
    node::{MonitorRecords, from_node, to_node},
    rest,
};
use casemate_server::store::Role;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    node::{Session, SoftNode},
    platform::Platform,
};

/// What a monitor writes.
#[derive(Default)]
pub(crate) struct Record(pub(crate) Vec<Vec<u8>>);

impl Record {
    /// Appends events; the message with them.
    pub(crate) fn write(&mut self, events: &[Value]) -> MonitorRecords {
        let from = self.0.len();
        for event in events {
            let previous: [u8; 32] = self.0.last().map_or([0; 32], |line| Sha256::digest(line).into());
            let line = json!({"sequence": self.0.len(), "previous": hex::encode(previous), "at_unix_ms": 5, "event": event});
            self.0.push(line.to_string().into_bytes());
        }
        MonitorRecords { from: from as u64, lines: self.0[from..].to_vec() }
    }
}

/// Sends lines; up to which number the platform has them then.
pub(crate) async fn send(session: &mut Session, message: MonitorRecords) -> u64 {
    session.send(from_node::Message::Monitor(message)).await;
    session.monitor_stored().await
}

impl Session {
    pub(crate) async fn monitor_stored(&mut self) -> u64 {
        self.expect(|message| match message {
            to_node::Message::MonitorStored(stored) => Some(stored.next),
            _ => None,
        })
        .await
    }
}

async fn trust(platform: &Platform) -> (String, String) {
    let operator = platform.token(Role::Operator).await;
    let nodes: rest::Nodes = operator.get("/nodes").await.json(200);
    (nodes.nodes[0].trust.clone(), nodes.nodes[0].detail.clone())
}

pub(crate) fn breach() -> [Value; 2] {
    [json!({"kind": "instances_ended", "because": "a violation"}), json!({"kind": "violation", "detector": "memory.open"})]
}

#[tokio::test]
async fn a_breach_ends_the_instances_and_suspends_the_node_until_an_operator_has_looked() {
    let platform = Platform::start().await;
    let (tenant, operator) = (platform.token(Role::Tenant).await, platform.token(Role::Operator).await);
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    assert_eq!(session.monitor_stored().await, 0, "the platform says what it has");
    let instance = tenant.create().await;
    let begun = session.assignment().await;
    let mut record = Record::default();
    let started = record.write(&[json!({"kind": "started"}), json!({"kind": "violation", "detector": "ptrace.inspect"})]);
    assert_eq!(send(&mut session, started.clone()).await, 2);
    assert_eq!(send(&mut session, started).await, 2, "what is there already is not taken twice");
    assert_eq!(trust(&platform).await.0, "trusted", "what was only noted ends nobody's work");

    let ended = record.write(&breach());
    assert_eq!(send(&mut session, ended).await, 4);
    let stop = session.assignment().await;
    assert_eq!((stop.instance, stop.intent), (begun.instance, assignment::Intent::Stop));
    let told: rest::Instance = tenant.get(&format!("/instances/{}", instance.id)).await.json(200);
    let failure = told.failure.unwrap();
    assert_eq!(failure.check, "monitor.violation");
    assert_eq!(failure.detail, "instances_ended: a violation (memory.open)");
    assert_eq!(trust(&platform).await, ("suspended".into(), failure.detail));
    let refused = tenant.create().await.failure.unwrap();
    assert_eq!(refused.detail, "no node will do: 1 suspended");

    assert_eq!(tenant.get("/incidents").await.status, 403);
    assert_eq!(tenant.post(&format!("/nodes/{}/restore", session.credential.node), &()).await.status, 403);
    let incidents: rest::Incidents = operator.get(&format!("/incidents?node={}", session.credential.node)).await.json(200);
    let [incident] = &incidents.incidents[..] else { panic!("{incidents:?}") };
    assert_eq!((incident.sequence, incident.kind.as_str(), incident.at_ms), (2, "instances_ended", 5));
    assert_eq!(operator.get("/incidents?node=n-0").await.status, 404);
    assert_eq!(operator.get("/incidents?more=1").await.status, 422);

    // A fresh appraisal does not lift it; an operator does.
    let credential = session.credential.clone();
    node.renew(&platform, &credential).await.unwrap();
    assert_eq!(trust(&platform).await.0, "suspended");
    let restore = format!("/nodes/{}/restore", credential.node);
    assert_eq!(operator.post(&restore, &()).await.status, 204);
    assert_eq!(trust(&platform).await.0, "trusted");
    assert_eq!(operator.post(&restore, &()).await.status, 409);
}

#[tokio::test]
async fn a_node_with_too_many_incidents_is_revoked() {
    let platform = Platform::with("strikes = 2").await;
    let operator = platform.token(Role::Operator).await;
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    session.monitor_stored().await;
    let restore = format!("/nodes/{}/restore", session.credential.node);
    let mut record = Record::default();
    send(&mut session, record.write(&breach())).await;
    assert_eq!(operator.post(&restore, &()).await.status, 204);
    send(&mut session, record.write(&[json!({"kind": "monitor_ended", "how": "signal: 9 (SIGKILL)"})])).await;
    assert_eq!(trust(&platform).await, ("revoked".into(), "monitor_ended: signal: 9 (SIGKILL)".into()));
    assert_eq!(operator.post(&restore, &()).await.status, 409);
    let credential = session.credential.clone();
    let refused = node.renew(&platform, &credential).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "its certificate is worth nothing any more");
}

#[tokio::test]
async fn a_record_that_does_not_go_on_from_what_is_known_suspends_the_node() {
    let mut record = Record::default();
    let good = record.write(&[json!({"kind": "started"}), json!({"kind": "watched"}), json!({"kind": "unwatched"})]);
    let with = |change: fn(&mut MonitorRecords)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    let bad = [
        with(|message| drop(message.lines.remove(0))),
        with(|message| drop(message.lines.remove(1))),
        with(|message| message.lines.swap(0, 1)),
        with(|message| message.lines[0][40] ^= 1),
        with(|message| message.lines[2] = b"{".to_vec()),
        with(|message| message.lines[2] = vec![b' '; 70_000]),
        with(|message| message.lines = vec![message.lines[0].clone(); 65]),
    ];
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    session.monitor_stored().await;
    for (at, message) in bad.into_iter().enumerate() {
        assert_eq!(send(&mut session, message).await, 0, "case {at}: nothing of it is stored");
        let (trust, detail) = trust(&platform).await;
        assert_eq!(trust, "suspended", "case {at}");
        assert!(detail.starts_with("line 0 of the monitor's record: "), "case {at}: {detail}");
        assert_eq!(operator.post(&format!("/nodes/{}/restore", session.credential.node), &()).await.status, 204);
    }
    assert_eq!(send(&mut session, good).await, 3);
    // From elsewhere than where the platform is: told so, and nothing else.
    assert_eq!(send(&mut session, MonitorRecords { from: 9, lines: vec![b"x".to_vec()] }).await, 3);
    assert_eq!(trust(&platform).await.0, "trusted");
    assert_eq!(operator.get("/incidents").await.json::<rest::Incidents>(200).incidents, []);
}

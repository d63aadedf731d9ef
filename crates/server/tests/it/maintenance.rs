//! Lawful changes of nodes: who begins and ends them, what a node's word is worth, and what alone leads out.

use casemate_api::{
    assignment::Intent,
    node::{
        Maintenance, MaintenanceReport, RenewProof, RenewRequest, from_node, maintenance::Wanted, maintenance_report::Word,
        to_node,
    },
    rest,
};
use casemate_server::store::Role;
use serde_json::{Value, json};

use crate::{
    accounts::account,
    evidence,
    incidents::{Record, breach, send},
    node::{Session, SoftNode},
    platform::{Answer, Client, Platform, new_instance, workload},
};

async fn begin(client: &Client, node: &str, forced: bool) -> Answer {
    client.post(&format!("/nodes/{node}/maintenance"), &json!({"reason": "a new kernel", "forced": forced})).await
}

async fn end(client: &Client, node: &str) -> Answer {
    client.post(&format!("/nodes/{node}/maintenance/end"), &()).await
}

async fn status(client: &Client, node: &str) -> rest::Maintenance {
    let answer = client.get(&format!("/nodes/{node}/maintenance")).await.json::<rest::NodeMaintenance>(200);
    answer.maintenance.expect("there was one")
}

/// Polls until the maintenance is in this phase.
async fn wait_for(client: &Client, node: &str, phase: &str) -> rest::Maintenance {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let now = status(client, node).await;
        if now.phase == phase {
            return now;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited for {phase}: {now:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn trust(client: &Client) -> String {
    client.get("/nodes").await.json::<rest::Nodes>(200).nodes[0].trust.clone()
}

impl Session {
    /// Waits until the node is told that this is wanted.
    async fn wanted(&mut self, wanted: Wanted) -> Maintenance {
        self.expect(|message| match message {
            to_node::Message::Maintenance(order) if order.wanted() == wanted => Some(order),
            _ => None,
        })
        .await
    }

    async fn say(&self, order: Maintenance, word: Word) {
        let Maintenance { number, attempt, .. } = order;
        let report = MaintenanceReport {
            number,
            attempt,
            word: word.into(),
            monitored: true,
            class: "enforcing".into(),
            until_reboot: vec!["kernel.modules_disabled".into()],
            why: "because".into(),
            ..Default::default()
        };
        self.send(from_node::Message::Maintenance(report)).await;
    }

    /// What was sent before is dealt with when this returns.
    async fn dealt_with(&mut self, record: &mut Record) {
        let next = record.0.len() as u64 + 1;
        assert_eq!(send(self, record.write(&[json!({"kind": "watched"})])).await, next);
    }
}

fn unsealed(forced: bool) -> Value {
    json!({"kind": "unsealed", "forced": forced})
}

#[tokio::test]
async fn a_node_in_maintenance_gets_no_work_and_only_a_fresh_appraisal_leads_out() {
    let platform = Platform::start().await;
    let (tenant, operator) = (platform.token(Role::Tenant).await, platform.token(Role::Operator).await);
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    session.monitor_stored().await;
    let (credential, id) = (session.credential.clone(), session.credential.node.clone());
    assert_eq!(operator.get(&format!("/nodes/{id}/maintenance")).await.json::<rest::NodeMaintenance>(200).maintenance, None);
    assert_eq!(begin(&operator, &id, false).await.status, 202);
    assert_eq!(trust(&tenant).await, "maintenance");
    assert_eq!(tenant.create().await.failure.unwrap().detail, "no node will do: 1 in maintenance");
    assert_eq!(begin(&operator, &id, false).await.problem(), "409 conflict: the node is in maintenance already (opening)");

    let order = session.wanted(Wanted::Open).await;
    assert!(!order.forced);
    session.say(order, Word::Opened).await;
    let open = wait_for(&operator, &id, "open").await.opened.unwrap();
    assert_eq!((open.monitored, open.class.as_str()), (true, "enforcing"));
    assert_eq!(open.until_reboot, ["kernel.modules_disabled"]);
    // What its monitor sees meanwhile, and that it dies, is written down and no incident.
    let mut record = Record::default();
    let mut lines = vec![json!({"kind": "started"}), unsealed(false)];
    lines.extend(breach());
    lines.push(json!({"kind": "monitor_ended", "how": "signal: 9"}));
    assert_eq!(send(&mut session, record.write(&lines)).await, 5);
    assert_eq!(trust(&tenant).await, "maintenance");
    assert_eq!(operator.get("/incidents").await.json::<rest::Incidents>(200).incidents, []);
    // It starts anew, and is asked again. A passing appraisal before the end is none after it.
    drop(session);
    let (mut session, desired) = node.open(&platform, &credential, Vec::new()).await;
    assert_eq!(desired, []);
    session.wanted(Wanted::Open).await;
    node.renew(&platform, &credential).await.unwrap();
    assert_eq!(status(&operator, &id).await.phase, "open");

    assert_eq!(end(&operator, &id).await.status, 202);
    let order = session.wanted(Wanted::Sealed).await;
    // A challenge that was drawn before the seal.
    let mut client = node.client(&platform, &credential).await;
    let nonce = client.renew_challenge(RenewRequest {}).await.unwrap().into_inner().nonce;
    send(&mut session, record.write(&[json!({"kind": "started"})])).await;
    session.say(order, Word::Sealed).await;
    session.wanted(Wanted::Attested).await;
    let csr = node.csr();
    let quote = Some(node.quote("casemate/renew/v1", &nonce, &csr));
    let receipt_key = node.receipt_key.verifying_key().to_bytes().to_vec();
    client.renew(RenewProof { csr, quote, nonce, receipt_key }).await.unwrap();
    assert_eq!((status(&operator, &id).await.phase.as_str(), trust(&tenant).await.as_str()), ("appraising", "maintenance"));
    // One that fails after it.
    node.log = evidence::event_log([9; 32]);
    node.tpm = evidence::node_tpm(1, &node.log);
    node.renew(&platform, &credential).await.unwrap_err();
    let closed = wait_for(&operator, &id, "closed").await;
    assert!(closed.failed.as_ref().is_some_and(|why| why.starts_with("node.software: ")), "{closed:?}");
    assert_eq!(trust(&tenant).await, "maintenance");
    // It is opened once more, repaired, sealed, and shows it.
    assert_eq!(begin(&operator, &id, false).await.status, 202);
    let order = session.wanted(Wanted::Open).await;
    session.say(order, Word::Opened).await;
    wait_for(&operator, &id, "open").await;
    node.log = evidence::good_log();
    node.tpm = evidence::node_tpm(1, &node.log);
    assert_eq!(end(&operator, &id).await.status, 202);
    let order = session.wanted(Wanted::Sealed).await;
    session.say(order, Word::Sealed).await;
    session.wanted(Wanted::Attested).await;
    node.renew(&platform, &credential).await.unwrap();
    let over = status(&operator, &id).await;
    assert_eq!((over.phase.as_str(), over.failed.as_ref(), over.ended_at_ms.is_some()), ("over", None, true));
    assert_eq!((trust(&tenant).await.as_str(), tenant.create().await.step.as_str()), ("trusted", "scheduled"));
    told_all_of_it(&operator, &id).await;
}

async fn told_all_of_it(operator: &Client, id: &str) {
    let told = operator.get(&format!("/nodes/{id}/maintenance")).await.json::<rest::NodeMaintenance>(200).events;
    let kinds: Vec<&str> = told.iter().rev().map(|event| event.kind.trim_start_matches("maintenance-")).collect();
    assert_eq!(kinds, ["begun", "opened", "ending", "sealed", "failed", "begun", "opened", "ending", "sealed", "ended"]);
    let first = told.last().unwrap();
    assert!(first.caused_by.is_some() && first.text == "a new kernel", "{first:?}");
    let audit: rest::AuditLines = operator.get("/audit").await.json(200);
    let of_it = audit.lines.iter().filter(|line| line.action == "nodes.maintain" && line.status == Some(202)).count();
    assert_eq!(of_it, 4);
    assert!(audit.lines.iter().any(|line| line.detail.as_deref() == Some("a new kernel")));
}

#[tokio::test]
async fn hosters_maintain_their_own_empty_nodes_and_only_operators_force() {
    let platform = Platform::start().await;
    let (tenant, operator) = (platform.token(Role::Tenant).await, platform.token(Role::Operator).await);
    let holly = account(&platform, &operator, "holly", &["hoster"]).await;
    let other = account(&platform, &operator, "other", &["hoster"]).await;
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    let id = session.credential.node.clone();
    operator.put(&format!("/nodes/{id}/hoster"), &json!({"hoster": "holly"})).await;
    assert_eq!(end(&holly, &id).await.problem(), "409 conflict: the node is not in maintenance");
    assert_eq!(
        (begin(&other, &id, false).await.status, end(&other, &id).await.status),
        (404.try_into().unwrap(), 404.try_into().unwrap())
    );
    assert_eq!(other.get(&format!("/nodes/{id}/maintenance")).await.status, 404);
    assert_eq!(begin(&tenant, &id, false).await.status, 403);
    assert_eq!(begin(&holly, &id, true).await.status, 403);
    for body in [
        json!({"reason": ""}),
        json!({"reason": " "}),
        json!({"reason": "x".repeat(501)}),
        json!({}),
        json!({"reason": "x", "more": 1}),
    ] {
        assert_eq!(operator.post(&format!("/nodes/{id}/maintenance"), &body).await.status, 422, "{body}");
    }
    let instance = tenant.create().await.id;
    let assignment = session.assignment().await;
    let refused = begin(&holly, &id, false).await.problem();
    assert!(refused.starts_with("409 conflict: 1 instances are on the node"), "{refused}");
    assert_eq!(begin(&operator, &id, false).await.status, 409, "nor does an operator by chance");
    assert_eq!(trust(&tenant).await, "trusted");

    assert_eq!(begin(&operator, &id, true).await.status, 202);
    assert_eq!(tenant.wait_for_failure(&instance).await.check, "node.maintenance");
    // In either order.
    let first = session.expect(|message| match message {
        to_node::Message::Maintenance(order) => Some(Some(order)),
        to_node::Message::Assignment(_) => Some(None),
        _ => None,
    });
    let order = match first.await {
        Some(order) => {
            assert_eq!(session.assignment().await.intent, Intent::Stop);
            order
        }
        None => session.wanted(Wanted::Open).await,
    };
    assert!(order.forced && order.wanted() == Wanted::Open);
    let release = json!({"sealed": "AAAA"});
    assert_eq!(tenant.post(&format!("/instances/{instance}/keys"), &release).await.status, 409);
    assert_eq!(end(&holly, &id).await.status, 409, "an operator began it");
    let receipt = node.receipt(&session, &assignment, "stopped");
    session.send(from_node::Message::Receipt(receipt)).await;
    session.receipt_stored().await;
    assert_eq!(end(&operator, &id).await.status, 202);
    let order = session.wanted(Wanted::Sealed).await;
    session.say(order, Word::Sealed).await;
    session.wanted(Wanted::Attested).await;
    node.renew(&platform, &session.credential.clone()).await.unwrap();
    assert_eq!(status(&holly, &id).await.phase, "over");
    assert_eq!(begin(&holly, &id, false).await.status, 202, "nothing runs there");
    assert_eq!(end(&holly, &id).await.status, 202);
}

#[tokio::test]
async fn a_nodes_word_counts_only_where_it_is_waited_for() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    session.monitor_stored().await;
    let id = session.credential.node.clone();
    let mut record = Record::default();
    for word in [Word::Opened, Word::Sealed, Word::Refused, Word::Unspecified] {
        session.say(Maintenance { number: 1, attempt: 1, ..Default::default() }, word).await;
    }
    session.dealt_with(&mut record).await;
    assert_eq!(trust(&operator).await, "trusted", "nobody wants maintenance");

    begin(&operator, &id, false).await;
    let order = session.wanted(Wanted::Open).await;
    let forged = [(order.number + 1, order.attempt), (order.number, order.attempt + 1), (u64::MAX, u64::MAX)];
    for (number, attempt) in forged {
        session.say(Maintenance { number, attempt, ..Default::default() }, Word::Opened).await;
    }
    session.say(order, Word::Sealed).await;
    session.dealt_with(&mut record).await;
    assert_eq!(status(&operator, &id).await.phase, "opening");
    session.say(order, Word::Refused).await;
    session.dealt_with(&mut record).await;
    let refused = status(&operator, &id).await;
    assert_eq!((refused.phase.as_str(), refused.failed.as_deref()), ("opening", Some("because")));
    session.say(order, Word::Opened).await;
    send(&mut session, record.write(&[unsealed(false)])).await;
    assert_eq!(status(&operator, &id).await.phase, "open");
    // It says that it is sealed, and its monitor's record does not.
    end(&operator, &id).await;
    let order = session.wanted(Wanted::Sealed).await;
    session.say(order, Word::Sealed).await;
    session.dealt_with(&mut record).await;
    let open = status(&operator, &id).await;
    let why = "the record of its monitor says that it is unsealed";
    assert_eq!((open.phase.as_str(), open.failed.as_deref()), ("open", Some(why)));
    // Enrolling anew is no way out, either.
    let token = platform.bootstrap_token().await;
    node.enrol(&platform, &token).await.unwrap();
    assert_eq!((status(&operator, &id).await.phase.as_str(), trust(&operator).await.as_str()), ("open", "maintenance"));
}

#[tokio::test]
async fn a_monitor_that_is_unsealed_without_the_platform_is_an_incident() {
    let platform = Platform::with("strikes = 100").await;
    let operator = platform.token(Role::Operator).await;
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    session.monitor_stored().await;
    let id = session.credential.node.clone();
    let restore = format!("/nodes/{id}/restore");
    let mut record = Record::default();
    send(&mut session, record.write(&[unsealed(false)])).await;
    assert_eq!(trust(&operator).await, "suspended", "nobody has begun a maintenance");
    assert_eq!(operator.post(&restore, &()).await.status, 204);
    // What follows it is not excused by it.
    send(&mut session, record.write(&breach())).await;
    assert_eq!(trust(&operator).await, "suspended");
    assert_eq!(operator.post(&restore, &()).await.status, 204);
    send(&mut session, record.write(&[json!({"kind": "sealed"})])).await;
    // Nor is what was before the unsealing of a lawful one, nor a force that nobody gave.
    begin(&operator, &id, false).await;
    send(&mut session, record.write(&breach())).await;
    assert_eq!(operator.post(&restore, &()).await.status, 204, "it was suspended");
    send(&mut session, record.write(&[unsealed(true)])).await;
    assert_eq!(operator.post(&restore, &()).await.status, 204, "it was suspended");
    send(&mut session, record.write(&[json!({"kind": "sealed"}), unsealed(false)])).await;
    send(&mut session, record.write(&breach())).await;
    assert_eq!(operator.post(&restore, &()).await.status, 409, "lawful");
    // After the seal it is as ever.
    send(&mut session, record.write(&[json!({"kind": "sealed"})])).await;
    send(&mut session, record.write(&breach())).await;
    assert_eq!(operator.post(&restore, &()).await.status, 204, "it was suspended");
}

/// Of a placement and a maintenance at the same moment one is first, and the other one sees it.
#[tokio::test]
async fn a_maintenance_never_begins_beside_a_placement() {
    let platform = Platform::start().await;
    let (tenant, operator) = (platform.token(Role::Tenant).await, platform.token(Role::Operator).await);
    tenant.create().await;
    let mut nodes = Vec::new();
    for seed in 1..=6 {
        nodes.push(SoftNode::new(seed, &platform).connect(&platform).await);
    }
    let rounds = nodes.iter().map(|session| {
        let id = session.credential.node.clone();
        let (tenant, operator) = (tenant.clone(), operator.clone());
        async move {
            let wanted = rest::NewInstance { node: Some(id.clone()), ..new_instance(&workload()) };
            let (made, begun) = tokio::join!(tenant.post("/instances", &wanted), begin(&operator, &id, false));
            let placed = made.json::<rest::Instance>(201).node.is_some();
            assert_ne!(placed, begun.status == 202, "{}", begun.problem());
        }
    });
    futures::future::join_all(rounds).await;
}

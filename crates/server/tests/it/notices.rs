//! What tenants are told of the nodes of their instances: each project once, with the evidence, and nobody else's.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_api::rest;
use casemate_lifecycle::{InstanceId, Step};
use casemate_server::store::{Created, Incident, NewEvent, NewIncident, OccasionKind, RecordLine, Role, Store, Whose};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{
    incidents::{Record, breach, send},
    node::SoftNode,
    platform::{Client, Platform},
    store::{access, first_fit, new, node, node_id, store},
};

async fn notices(client: &Client, query: &str) -> Vec<rest::Notice> {
    client.get(&format!("/notices{query}")).await.json::<rest::Notices>(200).notices
}

fn kinds(notices: &[rest::Notice]) -> Vec<&str> {
    notices.iter().map(|one| one.kind.as_str()).collect()
}

#[tokio::test]
async fn a_breach_is_told_to_each_project_on_the_node_with_the_evidence_and_to_nobody_else() {
    let platform = Platform::start().await;
    let (ann, bob, stranger) =
        (platform.token(Role::Tenant).await, platform.token(Role::Tenant).await, platform.token(Role::Tenant).await);
    let (hoster, operator) = (platform.token(Role::Hoster).await, platform.token(Role::Operator).await);
    let mut soft = SoftNode::new(1, &platform);
    let mut session = soft.connect(&platform).await;
    session.monitor_stored().await;
    let (first, second) = (ann.create().await.id, ann.create().await.id);
    let other = bob.create().await.id;
    let mut record = Record::default();
    send(&mut session, record.write(&[json!({"kind": "started"})])).await;
    let message = record.write(&breach());
    assert_eq!(send(&mut session, message.clone()).await, 3);
    assert_eq!(send(&mut session, message).await, 3, "what is there already is not taken twice");

    let told = notices(&ann, "").await;
    assert_eq!(kinds(&told), ["suspended", "incident"]);
    let [_, head] = &told[..] else { panic!("{told:?}") };
    let mut instances = vec![first.clone(), second.clone()];
    instances.sort();
    assert_eq!((&head.instances, head.evidence.as_ref(), head.node_at_ms), (&instances, None, Some(5)));
    assert_eq!(head.detail, "instances_ended: a violation (memory.open)");
    let full: rest::Notice = ann.get(&format!("/notices/{}", head.id)).await.json(200);
    let evidence = full.evidence.unwrap();
    let lines: Vec<_> = evidence.lines.iter().map(|line| STANDARD.decode(line).unwrap()).collect();
    assert_eq!((evidence.from, evidence.stored), (1, 3));
    assert_eq!(lines, record.0[1..], "as the node sent them");
    assert_eq!(evidence.head, hex::encode(Sha256::digest(&record.0[2])));
    assert_eq!(full.endings[0].failure.as_ref().unwrap().check, "monitor.violation");
    let event = ann.wait_for(&first, |event| event.kind == "notice").await;
    assert!(event.text.contains(&format!("casemate notices show {}", head.id)), "{}", event.text);
    assert_eq!(event.data.unwrap()["notice"], head.id.as_str());

    // Each sees its own and no other's.
    assert_eq!(notices(&bob, "").await.iter().map(|one| one.instances.clone()).collect::<Vec<_>>(), [[other.clone()], [other]]);
    assert_eq!(notices(&stranger, "").await, []);
    let theirs = stranger.get(&format!("/notices/{}", head.id)).await.problem();
    let none = stranger.get("/notices/nt-none").await.problem();
    assert_eq!(theirs.replace(&head.id, "nt-none"), none);
    assert_eq!(notices(&stranger, &format!("?instance={first}")).await, []);
    assert_eq!(notices(&bob, &format!("?instance={first}")).await, []);
    assert_eq!(hoster.get("/notices").await.status, 403);
    assert_eq!(hoster.get(&format!("/notices/{}", head.id)).await.status, 403);
    assert_eq!(notices(&operator, "").await.len(), 4);
    // A token of another project of the same tenant sees none of these.
    let project = ann.post("/projects", &json!({"name": "other"})).await.json::<rest::Project>(201).id;
    let made: rest::MadeToken = ann.post("/tokens", &json!({"project": project})).await.json(201);
    let narrow = platform.client(made.token);
    assert_eq!(notices(&narrow, "").await, []);
    assert_eq!(narrow.get(&format!("/notices/{}", head.id)).await.status, 404);

    // Page by page, and of one instance.
    let page: rest::Notices = ann.get("/notices?limit=1").await.json(200);
    assert_eq!(kinds(&page.notices), ["suspended"]);
    let page: rest::Notices = ann.get(&format!("/notices?limit=1&before={}", page.next.unwrap())).await.json(200);
    assert_eq!(kinds(&page.notices), ["incident"]);
    assert_eq!(notices(&ann, &format!("?instance={second}")).await.len(), 2);
    for bad in ["?limit=0", "?limit=101", "?more=1", "?before=x"] {
        assert_eq!(ann.get(&format!("/notices{bad}")).await.status, 422, "{bad}");
    }

    // Who was told of the suspension is told of its end.
    assert_eq!(operator.post(&format!("/nodes/{}/restore", session.credential.node), &()).await.status, 204);
    assert_eq!(kinds(&notices(&ann, "").await), ["restored", "suspended", "incident"]);
    assert_eq!(notices(&stranger, "").await, []);
}

#[tokio::test]
async fn a_refused_record_and_a_revocation_are_told_and_a_revoked_node_tells_nobody_anything() {
    let platform = Platform::with("strikes = 2").await;
    let (tenant, operator) = (platform.token(Role::Tenant).await, platform.token(Role::Operator).await);
    let mut soft = SoftNode::new(1, &platform);
    let mut session = soft.connect(&platform).await;
    session.monitor_stored().await;
    tenant.create().await;
    let mut record = Record::default();
    let mut forged = record.write(&[json!({"kind": "started"})]);
    let good = forged.clone();
    forged.lines[0] = b"{}".to_vec();
    for _ in 0..2 {
        assert_eq!(send(&mut session, forged.clone()).await, 0);
    }
    assert_eq!(kinds(&notices(&tenant, "").await), ["suspended"], "once, however often it is sent");
    send(&mut session, good).await;
    assert_eq!(operator.post(&format!("/nodes/{}/restore", session.credential.node), &()).await.status, 204);
    send(&mut session, record.write(&breach())).await;
    assert_eq!(kinds(&notices(&tenant, "").await)[..2], ["suspended", "incident"]);
    send(&mut session, record.write(&[json!({"kind": "monitor_ended", "how": "signal: 9"})])).await;
    let told = notices(&tenant, "").await;
    assert_eq!(kinds(&told)[..2], ["revoked", "incident"]);
    assert_eq!(told[0].detail, "2 incidents, the last: monitor_ended: signal: 9");
    for _ in 0..3 {
        send(&mut session, record.write(&[json!({"kind": "canary_missed"})])).await;
    }
    assert_eq!(notices(&tenant, "").await, told, "it may say what it likes");
    let incidents: rest::Incidents = operator.get("/incidents").await.json(200);
    assert_eq!(incidents.incidents.len(), 5, "which is kept");
}

/// An incident in this line of a node's record.
fn incident(number: usize, line: u8, at_ms: u64) -> NewIncident {
    let evidence = rest::NoticeEvidence { from: 0, lines: Vec::new(), stored: 1, head: String::new() };
    let incident = Incident {
        node: node_id(number),
        sequence: 0,
        kind: "canary_missed".into(),
        detail: "canary_missed: test".into(),
        at_ms,
        received_at_ms: NOW_MS,
    };
    NewIncident { incident, line: [line; 32], evidence }
}

const NOW_MS: u64 = 1_000_000_000_000;

async fn placed(store: &Store, number: usize) -> InstanceId {
    match first_fit(store, &new(number, 1, None)).await {
        Created::New(instance) => instance.id,
        other => panic!("{other:?}"),
    }
}

async fn end(store: &Store, id: &InstanceId, at_ms: u64) {
    let wiped = store.change_instance(id, at_ms, None, |instance, out| {
        instance.actual.step = Step::Gone;
        out.push(NewEvent { kind: "step", text: "gone".into(), data: None });
    });
    wiped.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_incident_concerns_who_was_there_when_it_happened() {
    let (_dir, store, replica) = store().await;
    store.upsert_node(&node(0, 100)).await.unwrap();
    let fence = store.open_session(&node_id(0), &replica).await.unwrap();
    let (long_ago, lately, now) = (placed(&store, 1).await, placed(&store, 2).await, placed(&store, 3).await);
    end(&store, &long_ago, NOW_MS - 3_600_000).await;
    end(&store, &lately, NOW_MS - 1000).await;
    let lines = [RecordLine { line: b"{}".to_vec(), digest: [1; 32] }];
    let taken = [incident(0, 1, NOW_MS - 60_000)];
    store.store_monitor_record((&node_id(0), &fence), 0, (&lines, false), &taken, 9).await.unwrap().unwrap();
    let told = store.notices(Whose::default(), None, u64::MAX, 10).await.unwrap();
    let told: Vec<_> = told.into_iter().map(|one| (one.occasion.kind, one.instances)).collect();
    assert_eq!(
        told,
        [(OccasionKind::Suspended, vec![now.clone()]), (OccasionKind::Incident, vec![lately, now])],
        "the one that ended an hour before is not concerned"
    );
}

#[tokio::test]
async fn a_record_that_begins_anew_counts_and_is_told_although_its_numbers_are_the_same() {
    let (_dir, store, replica) = store().await;
    store.upsert_node(&node(0, 100)).await.unwrap();
    let fence = store.open_session(&node_id(0), &replica).await.unwrap();
    placed(&store, 1).await;
    for strikes in 1..=3_u8 {
        let lines = [RecordLine { line: b"{}".to_vec(), digest: [strikes; 32] }];
        let taken = [incident(0, strikes, NOW_MS)];
        let standing = store.store_monitor_record((&node_id(0), &fence), 0, (&lines, false), &taken, 3).await.unwrap().unwrap();
        assert_eq!((standing.strikes, standing.revoked), (u64::from(strikes), strikes == 3));
        store.forget_monitor_record(&node_id(0)).await.unwrap();
    }
    let told = store.notices(Whose::default(), None, u64::MAX, 10).await.unwrap();
    assert_eq!(told.iter().filter(|one| one.occasion.kind == OccasionKind::Incident).count(), 3);
    assert_eq!(store.incidents(None, None).await.unwrap().len(), 3);
    // The very same line is the same incident, whoever sends it again.
    let lines = [RecordLine { line: b"{}".to_vec(), digest: [3; 32] }];
    let again = [incident(0, 3, NOW_MS)];
    let standing = store.store_monitor_record((&node_id(0), &fence), 0, (&lines, false), &again, 9).await.unwrap().unwrap();
    assert_eq!(standing.strikes, 3);
    assert_eq!(store.notices(Whose::default(), None, u64::MAX, 10).await.unwrap(), told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_suspend_a_node_at_the_same_time_tell_it_once() {
    let (dir, store, replica) = store().await;
    let other = Store::open(&access(dir.path())).await.unwrap();
    store.upsert_node(&node(0, 100)).await.unwrap();
    store.open_session(&node_id(0), &replica).await.unwrap();
    placed(&store, 1).await;
    let both = [&store, &other];
    let all: Vec<_> = (0..12)
        .map(|number| both[number % 2].clone())
        .map(|store| tokio::spawn(async move { store.suspend_node(&node_id(0), "why", NOW_MS).await }))
        .collect();
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!(store.notices(Whose::default(), None, u64::MAX, 10).await.unwrap().len(), 1);
    let all: Vec<_> = (0..12)
        .map(|number| both[number % 2].clone())
        .map(|store| tokio::spawn(async move { store.restore_node(&node_id(0), NOW_MS).await }))
        .collect();
    let mut restored = 0;
    for one in all {
        restored += u32::from(one.await.unwrap().unwrap());
    }
    assert_eq!(restored, 1);
    assert_eq!(store.notices(Whose::default(), None, u64::MAX, 10).await.unwrap().len(), 2);
}

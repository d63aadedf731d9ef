//! An instance's life, with a node that plays its part or does not.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_api::{
    assignment::Intent,
    node::{BlobRequest, Failure, from_node},
    rest,
    workload::format_digest,
};
use casemate_server::store::Role;
use reqwest::Method;
use sha2::{Digest as _, Sha256};

use crate::{
    evidence::GOOD_KERNEL,
    node::{SoftNode, report},
    platform::{ASSET, Client, Platform},
};

fn keys(sealed: &[u8]) -> rest::KeyRelease {
    rest::KeyRelease { sealed: STANDARD.encode(sealed) }
}

fn nonce(byte: u8) -> rest::NewChallenge {
    rest::NewChallenge { nonce: STANDARD.encode([byte; 32]) }
}

async fn scheduled() -> (Platform, SoftNode, crate::node::Session, Client, casemate_api::assignment::Body) {
    scheduled_with("").await
}

async fn scheduled_with(timing: &str) -> (Platform, SoftNode, crate::node::Session, Client, casemate_api::assignment::Body) {
    let platform = Platform::with(timing).await;
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    let tenant = platform.token(Role::Tenant).await;
    tenant.create().await;
    let assignment = session.assignment().await;
    (platform, node, session, tenant, assignment)
}

#[tokio::test]
async fn a_whole_life() {
    let (platform, mut node, mut session, tenant, assignment) = scheduled().await;
    let id = assignment.instance.clone();
    let instances = format!("/instances/{id}");

    // The node fetches what the assignment names, and nothing else.
    let mut client = node.client(&platform, &session.credential).await;
    let digest = format_digest(&Sha256::digest(ASSET).into());
    let whole = ASSET.len() as u64;
    for from in [0, 1, whole - 1] {
        let request = BlobRequest { digest: digest.clone(), from };
        let mut chunks = client.fetch_blob(request).await.unwrap().into_inner();
        let chunk = chunks.message().await.unwrap().unwrap();
        assert_eq!((chunk.from, &chunk.data[..]), (Some(from), &ASSET[usize::try_from(from).unwrap()..]));
    }
    let mut nothing = client.fetch_blob(BlobRequest { digest: digest.clone(), from: whole }).await.unwrap().into_inner();
    assert_eq!(nothing.message().await.unwrap(), None);
    for from in [whole + 1, u64::MAX] {
        let refused = client.fetch_blob(BlobRequest { digest: digest.clone(), from }).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    }
    assert!(client.fetch_blob(BlobRequest { digest: format_digest(&[9; 32]), from: 0 }).await.is_err());

    // No keys before the platform's own verdict.
    let answer = tenant.post(&format!("{instances}/keys"), &keys(b"too early")).await;
    assert_eq!(answer.problem(), "409 not-attested: the guest is not attested yet (wait for the step in the instance's events)");
    assert_eq!(tenant.post(&format!("{instances}/challenges"), &nonce(1)).await.status, 409);

    node.attest(&mut session, &assignment).await;
    tenant.wait_for_step(&id, "attested").await;
    let verdict = tenant.instance(&id).await.platform_verdict.unwrap();
    assert_eq!((&verdict["status"], &verdict["simulated"]), (&"affirming".into(), &true.into()));

    // The tenant's own challenge, with a nonce that is good once.
    let path = format!("{instances}/challenges");
    let challenge = nonce(2);
    let (answer, ()) =
        tokio::join!(tenant.post(&path, &challenge), node.answer_challenge(&mut session, &assignment, GOOD_KERNEL));
    let bundle: rest::EvidenceBundle = answer.json(200);
    assert_eq!((bundle.node_chain.len(), bundle.ek_chain.len()), (1, 1));
    let answer = tenant.post(&path, &nonce(2)).await;
    assert_eq!(answer.problem(), "409 nonce-used: this nonce was used before (make a fresh random nonce for every challenge)");

    assert_eq!(tenant.post(&format!("{instances}/keys"), &keys(b"sealed")).await.status, 202);
    assert_eq!(session.delivery().await, b"sealed");
    session.report(&id, "keyed").await;
    session.report(&id, "running").await;
    session.records(&id, 0, &[b"one", b"two"]).await;
    while session.stored().await != 2 {}
    // Repeated and gapped numbers: what is missing is asked for again.
    session.records(&id, 1, &[b"two", b"three"]).await;
    assert_eq!(session.stored().await, 3);
    session.records(&id, 7, &[b"eight"]).await;
    assert_eq!(session.stored().await, 3);

    let mut exit = report(&id, "stopping");
    exit.exit_code = Some(0);
    session.send(from_node::Message::Instance(exit)).await;
    session.send(from_node::Message::Receipt(node.receipt(&session, &assignment, "exited"))).await;
    assert_eq!(session.receipt_stored().await, id);

    let instance = tenant.instance(&id).await;
    assert_eq!((instance.step.as_str(), instance.exit_code, instance.failure), ("gone", Some(0), None));
    let records: rest::Records = tenant.get(&format!("{instances}/records?from=1")).await.json(200);
    assert_eq!((records.records, records.complete), (vec![STANDARD.encode("two"), STANDARD.encode("three")], true));
    assert!(tenant.get(&format!("{instances}/receipt")).await.json::<rest::Receipt>(200).body.contains("exited"));
    let kinds: Vec<_> = tenant.events(&id).await.into_iter().map(|e| if e.kind == "step" { e.text } else { e.kind }).collect();
    let life =
        "requested scheduled accepted prepared booted verdict attested keys keyed running stopping exit wiped receipt gone";
    assert_eq!(kinds.join(" "), life);

    // Sent again, it is acknowledged again.
    session.send(from_node::Message::Receipt(node.receipt(&session, &assignment, "exited"))).await;
    assert_eq!(session.receipt_stored().await, id);
    assert_eq!(tenant.send(tenant.request(Method::DELETE, &instances)).await.status, 204);
    assert_eq!(tenant.get(&instances).await.status, 404);
    session.send(from_node::Message::Receipt(node.receipt(&session, &assignment, "exited"))).await;
    assert_eq!(session.receipt_stored().await, id);
}

#[tokio::test]
async fn an_unknown_kernel_fails_by_name_and_gets_no_keys() {
    let (_platform, mut node, mut session, tenant, assignment) = scheduled().await;
    let id = assignment.instance.clone();
    for step in ["accepted", "prepared", "booted"] {
        session.report(&id, step).await;
    }
    node.answer_challenge(&mut session, &assignment, [0xcc; 32]).await;
    let failure = tenant.wait_for_failure(&id).await;
    assert_eq!((failure.step.as_str(), failure.check.as_str()), ("attested", "guest.kernel"));
    let stop = session.assignment().await;
    assert_eq!((stop.intent, stop.generation), (Intent::Stop, assignment.generation + 1));
    let answer = tenant.post(&format!("/instances/{id}/keys"), &keys(b"x")).await;
    assert_eq!(answer.problem(), "409 ended: the instance is ending or has ended");
    let verdict = tenant.instance(&id).await.platform_verdict.unwrap();
    assert_eq!(verdict["status"], "contraindicated");
}

#[tokio::test]
async fn evidence_for_another_nonce_is_refused() {
    let (_platform, mut node, mut session, tenant, assignment) = scheduled().await;
    session.report(&assignment.instance, "booted").await;
    let challenge = session.challenge().await;
    node.answer(&mut session, &assignment, &challenge, [0; 32], GOOD_KERNEL).await;
    assert_eq!(tenant.wait_for_failure(&assignment.instance).await.check, "evidence.nonce");
}

#[tokio::test]
async fn a_node_cannot_say_that_an_instance_is_attested_or_has_keys() {
    let (_platform, mut node, mut session, tenant, assignment) = scheduled().await;
    for step in ["attested", "keyed", "running", "nonsense"] {
        session.report(&assignment.instance, step).await;
        session.stored().await;
        assert_eq!(tenant.instance(&assignment.instance).await.step, "scheduled", "{step}");
    }
    node.attest(&mut session, &assignment).await;
    tenant.wait_for_step(&assignment.instance, "attested").await;
}

#[tokio::test]
async fn a_node_that_gives_no_evidence_in_time_fails() {
    let (_platform, _node, mut session, tenant, assignment) = scheduled_with("challenge_timeout_ms = 100").await;
    session.report(&assignment.instance, "booted").await;
    session.challenge().await;
    assert_eq!(tenant.wait_for_failure(&assignment.instance).await.check, "verdict.timeout");
}

#[tokio::test]
async fn without_keys_in_time_the_instance_stops() {
    let (_platform, mut node, mut session, tenant, assignment) = scheduled_with("keys_timeout_ms = 100").await;
    node.attest(&mut session, &assignment).await;
    assert_eq!(tenant.wait_for_failure(&assignment.instance).await.check, "keys.timeout");
    assert_eq!(session.assignment().await.intent, Intent::Stop);
}

#[tokio::test]
async fn the_failure_that_a_node_reports_reaches_the_tenant() {
    let (_platform, _node, mut session, tenant, assignment) = scheduled().await;
    let mut failed = report(&assignment.instance, "prepared");
    failed.failure = Some(Failure { step: "prepared".into(), check: "image.layer-root".into(), detail: "layer 0".into() });
    session.send(from_node::Message::Instance(failed)).await;
    let failure = tenant.wait_for_failure(&assignment.instance).await;
    assert_eq!((failure.check.as_str(), failure.detail.as_str()), ("image.layer-root", "layer 0"));
    assert_eq!(session.assignment().await.intent, Intent::Stop);
}

#[tokio::test]
async fn a_stopped_instance_is_wiped_and_says_that_it_was_stopped() {
    let (_platform, node, mut session, tenant, assignment) = scheduled().await;
    let id = assignment.instance.clone();
    let delete = || tenant.send(tenant.request(Method::DELETE, &format!("/instances/{id}")));
    assert_eq!(delete().await.status, 409);
    for _ in 0..2 {
        assert_eq!(tenant.post(&format!("/instances/{id}/stop"), &()).await.status, 202);
    }
    let stop = session.assignment().await;
    assert_eq!((stop.intent, stop.generation), (Intent::Stop, 2));
    session.send(from_node::Message::Receipt(node.receipt(&session, &assignment, "stopped"))).await;
    session.receipt_stored().await;
    assert_eq!(tenant.instance(&id).await.failure.unwrap().check, "stopped");
    assert_eq!(delete().await.status, 204);
}

#[tokio::test]
async fn an_altered_or_foreign_receipt_is_not_taken() {
    let (_platform, node, mut session, tenant, assignment) = scheduled().await;
    let mut altered = node.receipt(&session, &assignment, "stopped");
    let at = altered.body.len() / 2;
    altered.body[at] ^= 1;
    let mut foreign = assignment.clone();
    foreign.workload.push(' ');
    let foreign = node.receipt(&session, &foreign, "stopped");
    for bad in [altered, foreign] {
        session.send(from_node::Message::Receipt(bad)).await;
    }
    session.send(from_node::Message::Receipt(node.receipt(&session, &assignment, "exited"))).await;
    session.receipt_stored().await;
    let receipt: rest::Receipt = tenant.get(&format!("/instances/{}/receipt", assignment.instance)).await.json(200);
    assert!(receipt.body.contains("exited"), "only the authentic one is stored: {}", receipt.body);
}

#[tokio::test]
async fn another_nodes_instance_is_out_of_reach() {
    let (platform, _node, _session, tenant, assignment) = scheduled().await;
    let mut intruder = SoftNode::new(2, &platform);
    let mut session = intruder.connect(&platform).await;
    let mut failed = report(&assignment.instance, "booted");
    failed.exit_code = Some(0);
    session.send(from_node::Message::Instance(failed)).await;
    session.records(&assignment.instance, 0, &[b"forged"]).await;
    assert_eq!(session.stored().await, 1, "dropped, and the node may forget it");
    let instance = tenant.instance(&assignment.instance).await;
    assert_eq!((instance.step.as_str(), instance.exit_code), ("scheduled", None));
    let records: rest::Records = tenant.get(&format!("/instances/{}/records", assignment.instance)).await.json(200);
    assert!(records.records.is_empty());
}

#[tokio::test]
async fn a_node_that_comes_back_gets_everything_again() {
    let (platform, mut node, mut session, tenant, assignment) = scheduled().await;
    let id = assignment.instance.clone();
    node.attest(&mut session, &assignment).await;
    tenant.wait_for_step(&id, "attested").await;
    let credential = session.credential.clone();
    drop(session);
    // Whether or not the platform has noticed: the keys wait for the next session.
    assert_eq!(tenant.post(&format!("/instances/{id}/keys"), &keys(b"sealed")).await.status, 202);
    let (mut session, desired) = node.open(&platform, &credential, vec![report(&id, "booted")]).await;
    assert_eq!(desired.iter().map(|body| (&*body.instance, body.intent)).collect::<Vec<_>>(), [(&*id, Intent::Run)]);
    assert_eq!(session.delivery().await, b"sealed");
    session.report(&id, "keyed").await;
    tenant.wait_for_step(&id, "keyed").await;
    // A newer session takes over; the older one is told.
    let (_newer, _) = node.open(&platform, &credential, vec![report(&id, "keyed")]).await;
    assert!(session.end().await.unwrap().message().contains("newer session"));
}

#[tokio::test]
async fn an_instance_that_its_node_forgot_is_stopped_and_not_started_again() {
    let (platform, node, session, tenant, assignment) = scheduled().await;
    session.report(&assignment.instance, "accepted").await;
    tenant.wait_for_step(&assignment.instance, "accepted").await;
    let (_session, desired) = node.open(&platform, &session.credential, Vec::new()).await;
    assert_eq!(desired[0].intent, Intent::Stop);
    assert_eq!(tenant.instance(&assignment.instance).await.failure.unwrap().check, "node.lost");
}

#[tokio::test]
async fn a_lost_node_gives_up_its_instances() {
    let (_platform, _node, session, tenant, assignment) = scheduled_with("node_lost_ms = 300").await;
    drop(session);
    assert_eq!(tenant.wait_for_failure(&assignment.instance).await.check, "node.lost");
    let kinds: Vec<_> = tenant.events(&assignment.instance).await.into_iter().map(|event| event.kind).collect();
    assert!(kinds.contains(&"node-lost".to_owned()));
    assert_eq!(tenant.instance(&assignment.instance).await.intent, "stop");
}

#[tokio::test]
async fn a_restart_of_the_platform_loses_nothing() {
    let (platform, mut node, mut session, tenant, assignment) = scheduled().await;
    let id = assignment.instance.clone();
    session.report(&id, "booted").await;
    session.challenge().await;
    session.records(&id, 0, &[b"one"]).await;
    while session.stored().await != 1 {}
    let (events, credential) = (tenant.events(&id).await, session.credential.clone());
    let platform = platform.restart().await;
    assert!(session.end().await.is_some());
    let tenant = platform.client(tenant.token.clone());
    assert_eq!(tenant.events(&id).await, events);
    // The appraisal that the restart cut off is done anew.
    let (mut session, desired) = node.open(&platform, &credential, vec![report(&id, "booted")]).await;
    assert_eq!(desired[0], casemate_api::assignment::Body { issued_at_ms: desired[0].issued_at_ms, ..assignment.clone() });
    node.answer_challenge(&mut session, &assignment, GOOD_KERNEL).await;
    tenant.wait_for_step(&id, "attested").await;
    let records: rest::Records = tenant.get(&format!("/instances/{id}/records")).await.json(200);
    assert_eq!((records.records, records.complete), (vec![STANDARD.encode("one")], false));
}

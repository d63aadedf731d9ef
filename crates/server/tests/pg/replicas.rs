//! Several servers on one database: what is said to one reaches the node of another, and the death of one loses nothing.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_api::{
    assignment::{Body, Intent},
    node::{EnrolProof, RenewProof, RenewRequest, enrolment_client::EnrolmentClient, from_node, node_client::NodeClient},
    rest,
};
use casemate_server::{config::Config, server::Server, store::Role};
use ed25519_dalek::SigningKey;
use reqwest::Method;
use tokio::sync::watch;

use crate::{
    appraisals::revoking,
    evidence::GOOD_KERNEL,
    hooks::{Hook, LOOPBACK},
    node::{Session, SoftNode, channel, connect_to, report},
    platform::{Client, Platform, write_replica_config},
    postgres::Cluster,
};

fn keys(sealed: &[u8]) -> rest::KeyRelease {
    rest::KeyRelease { sealed: STANDARD.encode(sealed) }
}

fn nonce(byte: u8) -> rest::NewChallenge {
    rest::NewChallenge { nonce: STANDARD.encode([byte; 32]) }
}

/// Two replicas, a node on the first, and a tenant at each.
async fn pair(timing: &str) -> (Platform, Platform, SoftNode, Session, [Client; 2]) {
    let first = Platform::with(timing).await;
    let second = first.replica(2).await;
    let mut node = SoftNode::new(1, &first);
    let session = node.connect(&first).await;
    let tenant = first.token(Role::Tenant).await;
    let there = second.client(tenant.token.clone());
    (first, second, node, session, [tenant, there])
}

#[tokio::test]
async fn what_is_said_to_one_replica_reaches_the_node_of_another() {
    let (_first, _second, mut node, mut session, [here, there]) = pair("").await;
    let nodes: rest::Nodes = there.get("/nodes").await.json(200);
    assert!(nodes.nodes[0].connected, "the session is the platform's, not one server's");
    let created = there.create().await;
    assert_eq!((created.step.as_str(), created.node.as_ref()), ("scheduled", Some(&session.credential.node)));
    let assignment = session.assignment().await;
    let (id, path) = (created.id.clone(), format!("/instances/{}", created.id));
    assert_eq!(assignment.instance, id);
    node.attest(&mut session, &assignment).await;
    there.wait_for_step(&id, "attested").await;

    // A tenant's challenge: through the store to the node, and back.
    let (asked, answered) = (nonce(7), there.clone());
    let challenges = format!("{path}/challenges");
    let ask = answered.post(&challenges, &asked);
    let (bundle, ()) = tokio::join!(ask, node.answer_challenge(&mut session, &assignment, GOOD_KERNEL));
    assert_eq!(bundle.json::<rest::EvidenceBundle>(200).instance, id);
    // A nonce is used up everywhere.
    assert_eq!(here.post(&challenges, &nonce(7)).await.status, 409);

    assert_eq!(there.post(&format!("{path}/keys"), &keys(b"sealed there")).await.status, 202);
    assert_eq!(session.delivery().await, b"sealed there");
    for step in ["keyed", "running"] {
        session.report(&id, step).await;
        there.wait_for_step(&id, step).await;
    }
    session.records(&id, 0, &[b"a record"]).await;
    let records = there.get(&format!("{path}/records?from=0&wait_ms=20000")).await.json::<rest::Records>(200).records;
    assert_eq!(records, [STANDARD.encode("a record")]);
    assert_eq!(there.post(&format!("{path}/stop"), &()).await.status, 202);
    assert_eq!(session.assignment().await.intent, Intent::Stop);
    session.send(from_node::Message::Receipt(node.receipt(&session, &assignment, "stopped"))).await;
    session.receipt_stored().await;
    assert_eq!(there.send(there.request(Method::DELETE, &path)).await.status, 204);
    assert_eq!(here.get(&path).await.status, 404);
}

#[tokio::test]
async fn a_node_that_says_why_it_has_no_evidence_is_heard_elsewhere() {
    let (_first, _second, mut node, mut session, [_, there]) = pair("").await;
    let id = there.create().await.id;
    let assignment = session.assignment().await;
    node.attest(&mut session, &assignment).await;
    there.wait_for_step(&id, "attested").await;
    let challenges = format!("/instances/{id}/challenges");
    let refuse = async {
        let challenge = session.challenge().await;
        let failure =
            casemate_api::node::Failure { step: "attested".into(), check: "launch\0.vmm".into(), detail: "gone".into() };
        let reply = casemate_api::node::EvidenceReply {
            instance: challenge.instance,
            id: challenge.id,
            media_type: "\0".into(),
            failure: Some(failure),
            ..Default::default()
        };
        session.send(from_node::Message::Evidence(reply)).await;
    };
    let asked = nonce(1);
    let (answer, ()) = tokio::join!(there.post(&challenges, &asked), refuse);
    assert!(
        answer.problem().starts_with("502 no-evidence: the node gave no evidence: launch .vmm: gone"),
        "{}",
        answer.problem()
    );
}

#[tokio::test]
async fn a_question_outlives_the_session_that_it_was_asked_in() {
    let (first, second, mut node, mut session, [_, there]) = pair("").await;
    let id = there.create().await.id;
    let assignment = session.assignment().await;
    node.attest(&mut session, &assignment).await;
    there.wait_for_step(&id, "attested").await;
    let challenges = format!("/instances/{id}/challenges");
    let third = first.replica(3).await;
    let moves = async {
        session.challenge().await;
        // The node's connection breaks before it answers; it comes back at a third server.
        let credential = session.credential.clone();
        drop(session);
        let (mut session, _) = node.open(&third, &credential, vec![report(&id, "booted")]).await;
        node.answer_challenge(&mut session, &assignment, GOOD_KERNEL).await;
        session
    };
    let asked = nonce(2);
    let (answer, _session) = tokio::join!(there.post(&challenges, &asked), moves);
    assert_eq!(answer.json::<rest::EvidenceBundle>(200).instance, id);
    drop(second);
}

#[tokio::test]
async fn a_session_elsewhere_ends_the_older_one_and_what_that_says_too_late_counts_nothing() {
    let (_first, second, node, mut session, [here, _]) = pair("").await;
    let id = here.create().await.id;
    session.assignment().await;
    session.report(&id, "accepted").await;
    here.wait_for_step(&id, "accepted").await;
    let (_newer, desired) = node.open(&second, &session.credential.clone(), vec![report(&id, "accepted")]).await;
    assert_eq!(desired[0].intent, Intent::Run);
    assert!(session.end().await.unwrap().message().contains("newer session"));
    let instance = here.instance(&id).await;
    assert_eq!((instance.step.as_str(), instance.intent.as_str()), ("accepted", "run"));
}

#[tokio::test]
async fn enrolment_and_renewal_may_begin_at_one_replica_and_end_at_another() {
    let first = Platform::start().await;
    let second = first.replica(2).await;
    let mut node = SoftNode::new(1, &first);
    let request = node.request(&first.bootstrap_token().await);
    let csr = request.csr.clone();
    let challenge = EnrolmentClient::new(channel(&first, None).await).begin(request).await.unwrap().into_inner();
    let proof = EnrolProof {
        session: challenge.session.clone(),
        secret: node.ek.activate(node.tpm.name(), &challenge.credential_blob, &challenge.encrypted_secret).unwrap(),
        quote: Some(node.quote("casemate/enrol/v1", &challenge.nonce, &csr)),
        inventory: Some(crate::node::inventory()),
    };
    let mut there = EnrolmentClient::new(channel(&second, None).await);
    let credential = there.finish(proof.clone()).await.unwrap().into_inner();
    assert!(there.finish(proof).await.is_err(), "one try, wherever");

    let nonce = node.client(&first, &credential).await.renew_challenge(RenewRequest {}).await.unwrap().into_inner().nonce;
    let quote = node.quote("casemate/renew/v1", &nonce, &csr);
    let receipt_key = node.receipt_key.verifying_key().to_bytes().to_vec();
    let proof = RenewProof { csr, quote: Some(quote), nonce, receipt_key };
    let renewed = node.client(&second, &credential).await.renew(proof.clone()).await.unwrap().into_inner();
    assert!(node.client(&first, &renewed).await.renew(proof).await.is_err());
    assert!(matches!(node.client(&second, &renewed).await.fetch_blob(casemate_api::node::BlobRequest::default()).await,
        Err(status) if status.code() != tonic::Code::Unauthenticated));
}

#[tokio::test]
async fn what_one_replica_revokes_is_revoked_at_the_next_request_to_any() {
    const KEY: [u8; 32] = [6; 32];
    let key = STANDARD.encode(SigningKey::from_bytes(&KEY).verifying_key().to_bytes());
    let first = Platform::with(&format!("[verifier]\nrevocation_key = \"{key}\"")).await;
    let second = first.replica(2).await;
    first.put_revocations(&revoking(1, KEY, |_| ())).await;
    let mut node = SoftNode::new(1, &first);
    let credential = node.enrol(&second, &second.bootstrap_token().await).await.unwrap();
    let ak = hex::encode(node.tpm.name());
    first.put_revocations(&revoking(2, KEY, |list| list.aks = [ak].into())).await;
    let refused = node.renew(&second, &credential).await.unwrap_err();
    assert!(refused.message().contains("is revoked"), "{refused:?}");
    let there: rest::Revocations = second.token(Role::Operator).await.get("/appraisals/revocations").await.json(200);
    assert_eq!(there.serial, 2);
}

#[tokio::test]
async fn a_replica_with_other_keys_does_not_start() {
    let first = Platform::start().await;
    let path = write_replica_config(first.dir.path(), "", 2);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("shared_dir")).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    let config: Config = casemate_daemon::config::load(&path).unwrap();
    let refused = Server::start(config.check().unwrap(), watch::channel(false).1).await.unwrap_err();
    assert!(refused.to_string().contains("all replicas need the same shared_dir"), "{refused}");
}

#[tokio::test]
async fn a_replica_that_drains_lets_go_of_everything_at_once() {
    // With a life of a minute nobody could take anything over by waiting.
    let (first, second, node, mut session, [_, there]) = pair("node_lost_ms = 300\nreplica_life_ms = 60000").await;
    let id = there.create().await.id;
    session.assignment().await;
    let credential = session.credential.clone();
    let (stopped, _) = tokio::join!(first.stop(), session.end());
    let () = stopped;
    let nodes: rest::Nodes = there.get("/nodes").await.json(200);
    assert!(!nodes.nodes[0].connected);
    // Upkeep goes on at the other one.
    assert_eq!(there.wait_for_failure(&id).await.check, "node.lost");
    let (_session, desired) = node.open(&second, &credential, vec![report(&id, "accepted")]).await;
    assert_eq!(desired[0].intent, Intent::Stop);
}

#[tokio::test]
async fn a_crash_of_the_database_loses_nothing() {
    // Of its own: other tests may be using the common one at this moment.
    let cluster = Cluster::launch(|_| vec!["listen_addresses=".to_owned()]);
    let store = format!("[store]\nurl = \"{}\"", cluster.database(Path::new("crash")));
    let (first, _second, mut node, mut session, [here, there]) = pair(&store).await;
    let id = here.create().await.id;
    let assignment = session.assignment().await;
    node.attest(&mut session, &assignment).await;
    here.wait_for_step(&id, "attested").await;
    let events = here.events(&id).await;
    cluster.crash();
    // Whoever asks meanwhile is told to try again, and nothing else.
    let deadline = Instant::now() + Duration::from_secs(60);
    let release = keys(b"after the crash");
    loop {
        let answer = there.post(&format!("/instances/{id}/keys"), &release).await;
        if answer.status == 202 {
            break;
        }
        assert!(answer.problem().starts_with("503 store-unavailable"), "{}", answer.problem());
        assert!(Instant::now() < deadline, "the database did not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(here.events(&id).await[..events.len()], events);
    // The node's session may have lived through it or not.
    let again = node.open(&first, &session.credential.clone(), vec![report(&id, "booted")]).await;
    let (mut session, desired) = again;
    assert_eq!((desired[0].intent, desired[0].generation), (Intent::Run, assignment.generation));
    assert_eq!(session.delivery().await, b"after the crash");
    session.report(&id, "keyed").await;
    // Notifications are heard again.
    there.wait_for_step(&id, "keyed").await;
}

const BINARY: &str = env!("CARGO_BIN_EXE_casemate-server");

/// A replica in a process of its own, which can be killed.
struct Process {
    child: Child,
    rest: String,
    node: u16,
}

impl Process {
    async fn start(config: &Path, data: &Path) -> Self {
        let run = data.join("run.json");
        let _ = std::fs::remove_file(&run);
        let mut process = Self {
            child: Command::new(BINARY).args(["serve", "--config"]).arg(config).stderr(Stdio::null()).spawn().unwrap(),
            rest: String::new(),
            node: 0,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(told) = std::fs::read(&run).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
            {
                process.node = told["node"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
                told["rest"].as_str().unwrap().clone_into(&mut process.rest);
                return process;
            }
            assert!(Instant::now() < deadline, "the server did not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The node's session at a process.
async fn open(node: &SoftNode, at: &Process, ca: &str, session: &Session, known: &str, step: &str) -> (Session, Vec<Body>) {
    let credential = &session.credential;
    let channel = connect_to(at.node, ca, Some((credential, &node.tls_key))).await.unwrap();
    node.open_on(NodeClient::new(channel), credential, vec![report(known, step)]).await.unwrap()
}

/// At each step of an instance's life the replica that has the node's session is killed without a word.
#[tokio::test]
async fn the_replica_with_the_session_may_be_killed_at_every_step() {
    let timing = "replica_life_ms = 1000";
    let (first, _second, mut node, mut session, [_, tenant]) = pair(timing).await;
    let (dir, ca) = (first.dir.path().to_owned(), first.ca_pem());
    for step in ["accepted", "prepared", "booted", "attested", "keyed", "running", "exited"] {
        let number = 10 + step.len() as u32;
        let doomed_config = write_replica_config(&dir, timing, number);
        let mut doomed = Process::start(&doomed_config, &dir.join(format!("data-{number}"))).await;
        assert!(!doomed.rest.is_empty());
        let credential = session.credential.clone();
        let channel = connect_to(doomed.node, &ca, Some((&credential, &node.tls_key))).await.unwrap();
        (session, _) = node.open_on(NodeClient::new(channel), &credential, Vec::new()).await.unwrap();
        let id = tenant.create().await.id;
        let assignment = session.assignment().await;
        let mut reached = "requested";
        for next in ["accepted", "prepared", "booted", "attested", "keyed", "running", "exited"] {
            play(&mut node, &mut session, &tenant, &assignment, next).await;
            reached = if next == "attested" { "booted" } else { next };
            if next == step {
                break;
            }
        }
        doomed.kill();
        // The node finds another one, and the platform has forgotten nothing.
        let survivor =
            Process::start(&write_replica_config(&dir, timing, number + 20), &dir.join(format!("data-{}", number + 20))).await;
        let desired;
        let known = if reached == "exited" { "running" } else { reached };
        (session, desired) = open(&node, &survivor, &ca, &session, &id, known).await;
        assert_eq!(desired.len(), 1, "{step}");
        assert_eq!((desired[0].instance.as_str(), desired[0].generation), (id.as_str(), assignment.generation), "{step}");
        if step == "attested" {
            play(&mut node, &mut session, &tenant, &assignment, "keyed").await;
        }
        let kinds: Vec<String> = tenant.events(&id).await.into_iter().map(|event| event.kind).collect();
        assert!(!kinds.iter().any(|kind| kind == "failure" || kind == "node-lost"), "{step}: {kinds:?}");
        // To its end, by the survivor.
        assert_eq!(tenant.post(&format!("/instances/{id}/stop"), &()).await.status, 202);
        if step != "exited" {
            assert_eq!(session.assignment().await.intent, Intent::Stop, "{step}");
        }
        session.send(from_node::Message::Receipt(node.receipt(&session, &assignment, "stopped"))).await;
        session.receipt_stored().await;
        assert!(tenant.instance(&id).await.has_receipt, "{step}");
    }
}

async fn play(node: &mut SoftNode, session: &mut Session, tenant: &Client, assignment: &Body, step: &str) {
    let id = &assignment.instance;
    match step {
        "attested" => {
            node.answer_challenge(session, assignment, GOOD_KERNEL).await;
            tenant.wait_for_step(id, "attested").await;
        }
        "keyed" => {
            let released = tenant.post(&format!("/instances/{id}/keys"), &keys(b"sealed")).await;
            assert_eq!(released.status, 202);
            assert_eq!(session.delivery().await, b"sealed");
            session.report(id, "keyed").await;
            tenant.wait_for_step(id, "keyed").await;
        }
        "exited" => {
            let mut exited = report(id, "running");
            exited.exit_code = Some(0);
            session.send(from_node::Message::Instance(exited)).await;
            tenant.wait_for(id, |event| event.kind == "exit").await;
        }
        step => {
            session.report(id, step).await;
            tenant.wait_for_step(id, step).await;
        }
    }
}

#[tokio::test]
async fn upkeep_goes_over_to_another_replica_when_its_own_is_killed() {
    let timing = "replica_life_ms = 1000\nnode_lost_ms = 1500";
    let first = Platform::with(timing).await;
    let mut node = SoftNode::new(1, &first);
    let mut session = node.connect(&first).await;
    let tenant = first.token(Role::Tenant).await;
    let id = tenant.create().await.id;
    session.assignment().await;
    let (dir, ca) = (first.dir.clone(), first.ca_pem());
    let token = tenant.token.clone();
    // The process takes upkeep over from the one that drains, and then dies with the node's session.
    let mut doomed = Process::start(&write_replica_config(dir.path(), timing, 2), &dir.path().join("data-2")).await;
    let (held, _) = open(&node, &doomed, &ca, &session, &id, "accepted").await;
    first.stop().await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let third = Process::start(&write_replica_config(dir.path(), timing, 3), &dir.path().join("data-3")).await;
    doomed.kill();
    drop(held);
    let http =
        reqwest::Client::builder().tls_certs_only([reqwest::Certificate::from_pem(ca.as_bytes()).unwrap()]).build().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let url = format!("https://{}/api/v1/instances/{id}", third.rest);
        let instance: rest::Instance = http.get(url).bearer_auth(&token).send().await.unwrap().json().await.unwrap();
        if let Some(failure) = instance.failure {
            assert_eq!((failure.check.as_str(), instance.intent.as_str()), ("node.lost", "stop"));
            break;
        }
        assert!(Instant::now() < deadline, "nobody noticed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks both servers at once, alternately; how many were placed, over quota, and refused for want of CPUs.
async fn crowd(tenants: &[Client; 2], count: usize) -> (usize, usize, usize) {
    let asked: Vec<_> = (0..count)
        .map(|number| {
            let tenant = tenants[number % 2].clone();
            let request = crate::platform::new_instance(&crate::platform::workload());
            tokio::spawn(async move { tenant.post("/instances", &request).await })
        })
        .collect();
    let (mut placed, mut over, mut refused) = (0, 0, 0);
    for answer in asked {
        let answer = answer.await.unwrap();
        if answer.status == 409 {
            over += 1;
            continue;
        }
        match answer.json::<rest::Instance>(201) {
            rest::Instance { node: Some(_), .. } => placed += 1,
            rest::Instance { failure: Some(failure), .. } => {
                assert_eq!(failure.detail, "no node will do: 1 without enough CPUs");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    (placed, over, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_servers_give_nothing_away_twice_and_no_project_more_than_its_quota() {
    let (first, _second, _node, _session, tenants) = pair("").await;
    tenants[0].create().await;
    let project = tenants[0].get("/me").await.json::<rest::Me>(200).account;
    let operator = first.token(Role::Operator).await;
    let quota = format!("/projects/{project}/quota");
    assert_eq!(operator.put(&quota, &serde_json::json!({ "instances": 5 })).await.status, 204);
    assert_eq!(crowd(&tenants, 10).await, (4, 6, 0));
    // Two CPUs are eight virtual ones. Another project is not counted here, but at the node.
    assert_eq!(operator.put(&quota, &serde_json::json!({})).await.status, 204);
    assert_eq!(crowd(&tenants, 10).await, (3, 0, 7));
}

#[tokio::test]
async fn of_several_replicas_one_makes_the_calls_and_each_once() {
    let (_first, _second, _node, _session, [here, there]) = pair(LOOPBACK).await;
    let mut hook = Hook::new(&[]).await;
    let mut expected = Vec::new();
    for _ in 0..2 {
        let made: rest::MadeWebhook = here.post("/webhooks", &serde_json::json!({"url": hook.url})).await.json(201);
        let path = format!("/webhooks/{}/test", made.webhook.id);
        for client in [&here, &there, &here, &there] {
            expected.push(client.post(&path, &()).await.json::<rest::Queued>(202).delivery);
        }
    }
    let mut came = Vec::new();
    for _ in &expected {
        came.push(hook.next().await.header("webhook-id").to_owned());
    }
    // Longer than a round of looking for what is due.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(hook.others().len(), 0, "a call that was answered is not made again");
    came.sort();
    expected.sort();
    assert_eq!(came, expected);
}

//! REST on instances, without a node or with one that does little.

use std::time::Instant;

use casemate_api::{rest, workload::format_digest};
use casemate_server::store::Role;
use reqwest::Method;

use crate::{
    node::SoftNode,
    platform::{Platform, new_instance, workload},
};

#[tokio::test]
async fn wants_a_valid_token_of_the_right_kind() {
    let platform = Platform::start().await;
    let anybody = platform.client("casemate-tenant-guessed".into());
    let answer = anybody.get("/instances").await;
    insta::assert_snapshot!(answer.problem(), @"401 unauthenticated: a valid bearer token is needed (send `Authorization: Bearer <token>`; make a token with `casemate-server token`)");
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
    let bootstrap = platform.client(platform.bootstrap_token().await);
    assert_eq!(bootstrap.get("/instances").await.status, 403);
    let tenant = platform.token(Role::Tenant).await;
    assert_eq!(tenant.post("/bootstrap-tokens", &()).await.status, 403);
    let operator = platform.token(Role::Operator).await;
    assert!(
        operator.post("/bootstrap-tokens", &()).await.json::<rest::BootstrapToken>(201).token.starts_with("casemate-bootstrap-")
    );
    assert_eq!(tenant.get("/nothing").await.status, 404);
}

#[tokio::test]
async fn refuses_a_bad_workload_and_stores_nothing() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let mut bad = workload();
    bad.process.cwd = "/a/../b".into();
    let answer = tenant.post("/instances", &new_instance(&bad)).await;
    insta::assert_snapshot!(answer.problem(), @"422 invalid: workload: workload field process.cwd: must be an absolute path without empty, '.' or '..' parts (send the canonical form that `casemate run` makes; docs/api describes it)");
    let mut spaced = new_instance(&workload());
    spaced.workload = spaced.workload.replacen(':', ": ", 1);
    assert_eq!(tenant.post("/instances", &spaced).await.status, 422);
    let answer = tenant.send(tenant.request(Method::POST, "/instances").body("{")).await;
    assert_eq!(answer.status, 422);
    assert!(tenant.get("/instances").await.json::<rest::Instances>(200).instances.is_empty());
}

#[tokio::test]
async fn names_the_blobs_that_are_missing() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let mut wanting = workload();
    wanting.image.layers[0].blob = format_digest(&[0; 32]);
    wanting.assets[0].digest = format_digest(&[0xff; 32]);
    let answer = tenant.post("/instances", &new_instance(&wanting)).await;
    insta::assert_snapshot!(answer.problem(), @"422 missing-blobs: the workload names blobs that were not uploaded: sha256:0000000000000000000000000000000000000000000000000000000000000000, sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff (PUT each of them to /api/v1/blobs/{digest} first)");
    // With a source, the node pulls the layers itself.
    wanting.image.source = "registry.example/demo".into();
    let answer = tenant.post("/instances", &new_instance(&wanting)).await;
    assert!(!answer.problem().contains("sha256:00"), "{}", answer.problem());
    assert!(tenant.get("/instances").await.json::<rest::Instances>(200).instances.is_empty());
}

#[tokio::test]
async fn the_same_request_with_the_same_key_makes_one_instance() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let first = tenant.create().await;
    let post = |key: &str, request: rest::NewInstance| {
        let request = tenant.request(Method::POST, "/instances").header("Idempotency-Key", key).json(&request);
        tenant.send(request)
    };
    let made: rest::Instance = post("k1", new_instance(&workload())).await.json(201);
    let again: rest::Instance = post("k1", new_instance(&workload())).await.json(200);
    assert_eq!(made.id, again.id);
    assert_ne!(made.id, first.id);
    let mut other = workload();
    other.name = "other".into();
    let answer = post("k1", new_instance(&other)).await;
    assert_eq!(
        answer.problem(),
        "422 idempotency-key-taken: this Idempotency-Key was used for another request (use a new key for a new request)"
    );
    // Another tenant's key is another key.
    let stranger = platform.token(Role::Tenant).await;
    let request = stranger.request(Method::POST, "/instances").header("Idempotency-Key", "k1").json(&new_instance(&workload()));
    assert_eq!(stranger.send(request).await.status, 201);
    assert_eq!(tenant.get("/instances").await.json::<rest::Instances>(200).instances.len(), 2);
}

#[tokio::test]
async fn without_a_suitable_node_it_ends_and_says_why() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let instance = tenant.create().await;
    let failure = instance.failure.unwrap();
    assert_eq!((failure.check.as_str(), failure.detail.as_str()), ("schedule.no-node", "no node is enrolled"));
    assert_eq!(instance.step, "gone");
    let events: Vec<_> =
        tenant.events(&instance.id).await.into_iter().map(|event| format!("{} {}", event.kind, event.text)).collect();
    assert_eq!(events, ["step requested", "failure schedule.no-node: no node is enrolled", "step gone"]);
    let mut confidential = workload();
    confidential.isolation = casemate_api::workload::Isolation::Confidential;
    let instance: rest::Instance = tenant.post("/instances", &new_instance(&confidential)).await.json(201);
    assert!(instance.failure.unwrap().detail.contains("hardware memory encryption"));
}

#[tokio::test]
async fn tenants_see_only_their_own_instances() {
    let platform = Platform::start().await;
    let (tenant, stranger) = (platform.token(Role::Tenant).await, platform.token(Role::Tenant).await);
    let operator = platform.token(Role::Operator).await;
    let id = tenant.create().await.id;
    assert!(stranger.get("/instances").await.json::<rest::Instances>(200).instances.is_empty());
    for path in ["", "/events", "/records", "/receipt", "/score-card"] {
        let answer = stranger.get(&format!("/instances/{id}{path}")).await;
        assert_eq!(answer.problem(), format!("404 not-found: there is no instance {id:?}"));
    }
    for path in ["/stop", "/keys", "/challenges"] {
        let body = match path {
            "/keys" => serde_json::json!({ "sealed": "" }),
            _ => serde_json::json!({ "nonce": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" }),
        };
        assert_eq!(stranger.post(&format!("/instances/{id}{path}"), &body).await.status, 404, "{path}");
    }
    assert_eq!(stranger.send(stranger.request(Method::DELETE, &format!("/instances/{id}"))).await.status, 404);
    assert_eq!(operator.instance(&id).await.id, id);
}

#[tokio::test]
async fn a_long_poll_wakes_when_something_happens() {
    let platform = Platform::start().await;
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    let tenant = platform.token(Role::Tenant).await;
    let instance = tenant.create().await;
    assert_eq!((instance.step.as_str(), instance.node.as_ref()), ("scheduled", Some(&session.credential.node)));
    session.assignment().await;
    let after = tenant.events(&instance.id).await.len();
    let path = format!("/instances/{}/events?after={after}&wait_ms=30000", instance.id);
    let begun = Instant::now();
    let (answer, ()) = tokio::join!(tenant.get(&path), session.report(&instance.id, "accepted"));
    let events = answer.json::<rest::Events>(200).events;
    assert_eq!(events[0].text, "accepted");
    assert!(begun.elapsed().as_secs() < 20, "it did not wait to the end");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let mut large = new_instance(&workload());
    large.workload = "x".repeat(2 << 20);
    assert_eq!(tenant.post("/instances", &large).await.status, 413);
}

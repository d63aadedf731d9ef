//! Nodes that go out of service, and what time ends.

use casemate_api::{assignment::Intent, rest};
use casemate_server::store::Role;
use reqwest::Method;

use crate::{
    accounts::account,
    node::{SoftNode, report},
    platform::{Client, Platform},
};

async fn drain(operator: &Client, node: &str, deadline_s: Option<u64>) -> u16 {
    operator.post(&format!("/nodes/{node}/drain"), &rest::NodeDrain { deadline_s }).await.status.as_u16()
}

async fn node(client: &Client) -> rest::Node {
    client.get("/nodes").await.json::<rest::Nodes>(200).nodes.remove(0)
}

#[tokio::test]
async fn a_drained_node_gets_nothing_new_and_keeps_what_it_has() {
    let platform = Platform::start().await;
    let mut soft = SoftNode::new(1, &platform);
    let mut session = soft.connect(&platform).await;
    let (tenant, operator) = (platform.token(Role::Tenant).await, platform.token(Role::Operator).await);
    let old = tenant.create().await.id;
    session.assignment().await;
    let id = session.credential.node.clone();
    for _ in 0..2 {
        assert_eq!(drain(&operator, &id, None).await, 204, "again is the same");
    }
    let seen = node(&tenant).await;
    assert_eq!((seen.draining, seen.drain_until_ms, seen.reach.as_str()), (true, None, "connected"));
    let refused = tenant.create().await.failure.unwrap();
    assert_eq!(
        (refused.check.as_str(), refused.detail.as_str()),
        ("schedule.no-node", "no node will do: 1 out of service soon (drained)")
    );
    session.report(&old, "accepted").await;
    tenant.wait_for_step(&old, "accepted").await;
    assert_eq!(tenant.instance(&old).await.intent, "run");
    // A session more changes nothing of it; only an operator does.
    let (mut session, desired) = soft.open(&platform, &session.credential.clone(), vec![report(&old, "accepted")]).await;
    assert_eq!(desired[0].intent, Intent::Run);
    assert!(node(&tenant).await.draining);
    let undrain = operator.request(Method::POST, &format!("/nodes/{id}/undrain"));
    assert_eq!(operator.send(undrain).await.status, 204);
    assert_eq!(tenant.create().await.step, "scheduled");
    session.assignment().await;
}

#[tokio::test]
async fn what_still_runs_at_the_deadline_of_a_drain_is_ended_and_told_why() {
    let platform = Platform::start().await;
    let mut soft = SoftNode::new(1, &platform);
    let mut session = soft.connect(&platform).await;
    let (tenant, operator) = (platform.token(Role::Tenant).await, platform.token(Role::Operator).await);
    let id = tenant.create().await.id;
    session.assignment().await;
    assert_eq!(drain(&operator, &session.credential.node, Some(0)).await, 204);
    assert_eq!(tenant.wait_for_failure(&id).await.check, "node.drained");
    assert_eq!(session.assignment().await.intent, Intent::Stop);
}

#[tokio::test]
async fn tenants_do_not_drain_and_nobody_drains_what_there_is_not() {
    let platform = Platform::start().await;
    let mut soft = SoftNode::new(1, &platform);
    let session = soft.connect(&platform).await;
    let (tenant, operator) = (platform.token(Role::Tenant).await, platform.token(Role::Operator).await);
    let id = &session.credential.node;
    assert_eq!(drain(&tenant, id, None).await, 403);
    let undrain = tenant.request(Method::POST, &format!("/nodes/{id}/undrain"));
    assert_eq!(tenant.send(undrain).await.status, 403);
    for unknown in ["n-0000000000000000", "..", "%00"] {
        assert_eq!(drain(&operator, unknown, None).await, 404, "{unknown}");
    }
    for body in [
        r#"{"deadline_s":-1}"#,
        r#"{"deadline_s":1e99}"#,
        r#"{"deadline_s":18446744073709551615}"#,
        r#"{"until":1}"#,
        "[]",
        "[1]",
        "",
    ] {
        let request = operator.request(Method::POST, &format!("/nodes/{id}/drain")).body(body);
        assert_eq!(operator.send(request).await.status, 422, "{body}");
    }
    assert!(!node(&tenant).await.draining, "nothing of it changed anything");
}

#[tokio::test]
async fn a_hoster_drains_his_own_node_and_undoes_nothing_of_an_operator() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let holly = account(&platform, &operator, "holly", &["hoster"]).await;
    let other = account(&platform, &operator, "other", &["hoster"]).await;
    let mut soft = SoftNode::new(1, &platform);
    let session = soft.connect(&platform).await;
    let id = &session.credential.node;
    assert_eq!(drain(&holly, id, None).await, 404, "not his yet");
    assert_eq!(operator.put(&format!("/nodes/{id}/hoster"), &serde_json::json!({"hoster": "holly"})).await.status, 204);
    assert_eq!(drain(&other, id, None).await, 404);
    assert_eq!(drain(&holly, id, Some(0)).await, 403, "he does not end the work of others");
    let undrain = |client: &Client| {
        let request = client.request(Method::POST, &format!("/nodes/{id}/undrain"));
        let client = client.clone();
        async move { client.send(request).await.status.as_u16() }
    };
    assert_eq!((drain(&holly, id, None).await, undrain(&holly).await), (204, 204));
    assert_eq!(drain(&operator, id, Some(1_000)).await, 204);
    let until = node(&holly).await.drain_until_ms;
    assert_eq!((drain(&holly, id, None).await, undrain(&holly).await, undrain(&other).await), (409, 409, 404));
    let seen = node(&holly).await;
    assert_eq!((seen.draining, seen.drain_until_ms), (true, until));
    assert_eq!(undrain(&operator).await, 204);
    assert!(!node(&holly).await.draining);
}

#[tokio::test]
async fn a_silent_node_is_unreachable_and_then_lost() {
    let platform = Platform::with("node_lost_ms = 1500").await;
    let mut soft = SoftNode::new(1, &platform);
    let session = soft.connect(&platform).await;
    let tenant = platform.token(Role::Tenant).await;
    assert_eq!(node(&tenant).await.reach, "connected");
    drop(session);
    let mut reached = vec!["connected".to_owned()];
    while reached.last().unwrap() != "lost" {
        let now = node(&tenant).await.reach;
        if reached.last() != Some(&now) {
            reached.push(now);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(reached == ["connected", "unreachable", "lost"] || reached == ["connected", "lost"], "{reached:?}");
}

/// The platform ends what neither guest nor agent ended; here it only sees when the time to live began.
#[tokio::test]
async fn a_time_to_live_begins_when_the_keys_are_open() {
    let platform = Platform::start().await;
    let mut soft = SoftNode::new(1, &platform);
    let mut session = soft.connect(&platform).await;
    let tenant = platform.token(Role::Tenant).await;
    let id = tenant.create().await.id;
    let assignment = session.assignment().await;
    soft.attest(&mut session, &assignment).await;
    tenant.wait_for_step(&id, "attested").await;
    let before = tenant.instance(&id).await;
    assert_eq!(before.ends_at_ms, None);
    session.report(&id, "keyed").await;
    let keyed = tenant.wait_for_step(&id, "keyed").await;
    let ends = tenant.instance(&id).await.ends_at_ms.unwrap();
    // The workload of these tests has a minute.
    assert!(ends.abs_diff(keyed.at_ms + 60_000) < 5_000, "{ends} after {}", keyed.at_ms);
    session.report(&id, "running").await;
    tenant.wait_for_step(&id, "running").await;
    assert_eq!(tenant.instance(&id).await.ends_at_ms, Some(ends), "it does not begin anew");
}

//! What has the last word over nodes and instances: policies by name, and a revocation list that is always asked for.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_api::rest;
use casemate_server::{config::Config, store::Role};
use casemate_verifier::revocation::RevocationList;
use ed25519_dalek::SigningKey;
use reqwest::Method;
use tonic::Code;

use crate::{
    appraisals::{REVOCATION_KEY, revoking},
    evidence::GOOD_KERNEL,
    node::SoftNode,
    platform::{Platform, write_config, write_inputs},
};

const NO: &str = "package casemate.appraisal\nimport rego.v1\ndefault allow := false\nallow if input.platform == \"microvm\"\n\
                  deny contains \"closed today\" if input.platform == \"microvm\"\n";

async fn put_policy(platform: &Platform, name: &str, text: &str) {
    let operator = platform.token(Role::Operator).await;
    let request = operator.request(Method::PUT, &format!("/appraisals/policies/{name}")).body(text.to_owned());
    assert!(operator.send(request).await.status.is_success());
}

/// What the platform's own appraisal of a sound instance comes to.
async fn verdict(platform: &Platform) -> (rest::Failure, Option<serde_json::Value>) {
    let mut node = SoftNode::new(1, platform);
    let mut session = node.connect(platform).await;
    let tenant = platform.token(Role::Tenant).await;
    tenant.create().await;
    let assignment = session.assignment().await;
    for step in ["accepted", "prepared", "booted"] {
        session.report(&assignment.instance, step).await;
    }
    node.answer_challenge(&mut session, &assignment, GOOD_KERNEL).await;
    let failure = tenant.wait_for_failure(&assignment.instance).await;
    (failure, tenant.instance(&assignment.instance).await.platform_verdict)
}

#[tokio::test]
async fn an_instance_that_the_operators_policy_denies_is_refused_with_all_its_parts() {
    let platform = Platform::with("instance_rules = \"ours\"").await;
    put_policy(&platform, "ours", NO).await;
    let (failure, verdict) = verdict(&platform).await;
    assert_eq!(failure.check, "policy.appraisal");
    assert!(failure.detail.contains("closed today") && failure.detail.contains("ours/1@sha256:"), "{}", failure.detail);
    let verdict = verdict.unwrap();
    assert_eq!(verdict["status"], "contraindicated");
    for part in ["guest", "node"] {
        assert_eq!(verdict["submodules"][part]["status"], "contraindicated", "{part}");
    }
}

#[tokio::test]
async fn rules_that_are_not_there_accept_nothing() {
    let (failure, verdict) = verdict(&Platform::with("instance_rules = \"ours\"").await).await;
    assert_eq!((failure.check.as_str(), verdict), ("policy.appraisal", None));
    assert!(failure.detail.contains("\"ours\""), "{}", failure.detail);

    let platform = Platform::with("node_rules = \"ours\"").await;
    let token = platform.bootstrap_token().await;
    let mut node = SoftNode::new(1, &platform);
    assert_eq!(node.enrol(&platform, &token).await.unwrap_err().code(), Code::NotFound);
    put_policy(&platform, "ours", NO).await;
    let refused = node.enrol(&platform, &token).await.unwrap_err();
    assert!(refused.message().contains("policy.appraisal"), "{refused:?}");
    put_policy(&platform, "ours", &NO.replace("allow if input.platform == \"microvm\"", "allow if input.platform == \"node\""))
        .await;
    node.enrol(&platform, &token).await.unwrap();
}

#[tokio::test]
async fn a_node_is_refused_without_a_fresh_list_and_by_one_that_names_it() {
    let key = STANDARD.encode(SigningKey::from_bytes(&REVOCATION_KEY).verifying_key().to_bytes());
    let platform = Platform::with(&format!("[verifier]\nrevocation_key = \"{key}\"")).await;
    let token = platform.bootstrap_token().await;
    let mut node = SoftNode::new(1, &platform);
    let refused = node.enrol(&platform, &token).await.unwrap_err();
    assert!(refused.message().contains("policy.revoked: there is no revocation list"), "{refused:?}");
    platform.put_revocations(&revoking(1, REVOCATION_KEY, |_| ())).await;
    let credential = node.enrol(&platform, &token).await.unwrap();
    node.renew(&platform, &credential).await.unwrap();
    let ak = hex::encode(node.tpm.name());
    platform.put_revocations(&revoking(2, REVOCATION_KEY, |list| list.aks = [ak].into())).await;
    let refused = node.renew(&platform, &credential).await.unwrap_err();
    assert!(refused.message().contains("policy.revoked") && refused.message().contains("is revoked"), "{refused:?}");
    let nodes: rest::Nodes = platform.token(Role::Operator).await.get("/nodes").await.json(200);
    assert_eq!(nodes.nodes[0].trust, "untrusted");
}

#[tokio::test]
async fn a_development_platform_issues_its_own_list_and_says_by_which_key() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let list: rest::Revocations = tenant.get("/appraisals/revocations").await.json(200);
    let public = |platform: &Platform| std::fs::read_to_string(platform.dir.path().join("data/public/revocation-key")).unwrap();
    let key = STANDARD.decode(public(&platform)).unwrap().try_into().unwrap();
    assert_eq!(RevocationList::from_signed(list.file.as_bytes(), &key).unwrap().serial(), list.serial);
    assert!(list.next_update > casemate_server::clock::now_ms() / 1000 + 12 * 3600);
    let operator = platform.token(Role::Operator).await;
    let put = operator.request(Method::PUT, "/appraisals/revocations").body(revoking(u64::MAX >> 1, REVOCATION_KEY, |_| ()));
    assert!(operator.send(put).await.problem().contains("own_revocation_list"));
    let before = public(&platform);
    let platform = platform.restart().await;
    assert_eq!(public(&platform), before);
    let again: rest::Revocations = platform.token(Role::Tenant).await.get("/appraisals/revocations").await.json(200);
    assert_eq!(again, list, "half of its life is not over");
}

#[tokio::test]
async fn tenants_get_the_list_also_from_a_platform_that_is_no_verifier() {
    let platform = Platform::with("roles = [\"api\", \"nodes\"]").await;
    let tenant = platform.token(Role::Tenant).await;
    tenant.get("/appraisals/revocations").await.json::<rest::Revocations>(200);
    assert!(platform.client("guessed".into()).get("/appraisals/revocations").await.problem().starts_with("401"));
    assert!(tenant.get("/appraisals/keys").await.problem().starts_with("404 role-absent"));
}

#[test]
fn a_platform_says_where_its_list_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path(), &crate::platform::Vendor::new("Simulated TPM vendor"));
    let config: Config = casemate_daemon::config::load(&write_config(dir.path(), "")).unwrap();
    config.clone().check().unwrap();
    let key = STANDARD.encode([1; 32]);
    let fault = |change: &dyn Fn(&mut Config)| {
        let mut config = config.clone();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    assert!(fault(&|config| config.own_revocation_list = false).contains("own_revocation_list = true"));
    assert!(fault(&|config| config.verifier.revocation_key = Some(key.clone())).contains("give one of them"));
    let lonely = fault(&|config| {
        config.roles = vec!["api".into(), "nodes".into()];
        config.own_revocation_list = false;
        config.verifier.revocation_key = Some(key.clone());
    });
    assert!(lonely.contains("which this server lacks"), "{lonely}");
    let path = dir.path().join("node-policy.json");
    for (policy, expected) in
        [("{}", "missing field"), ("{\"boot\": \"left_to_platform\", \"ima\": \"danger_not_judged\"}", "is for others")]
    {
        std::fs::write(&path, policy).unwrap();
        let text = fault(&|config| config.node_policy = Some(path.clone()));
        assert!(text.contains("node_policy") && text.contains(expected), "{text}");
    }
}

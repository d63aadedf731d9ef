//! The role `verifier`, over HTTP.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_api::{
    rest::{self, Appraisal, AppraisalChallenge, PolicyVersion, PolicyVersions},
    workload::digest_of,
};
use casemate_server::{config::Config, store::Role};
use casemate_verifier::{
    UnixTime,
    ear::{EXTENSION, VerifierPublicKey, verify_cwt},
    revocation::Revocations,
};
use ed25519_dalek::SigningKey;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    evidence::{self, GOOD_KERNEL},
    node::SoftNode,
    platform::{Answer, Client, Platform},
};

pub(crate) const INSTANCE: &str = "0190f1d2-0000-7000-8000-000000000001";
pub(crate) const REVOCATION_KEY: [u8; 32] = [9; 32];

/// What can be asked about one enrolled node.
struct Bench {
    platform: Platform,
    tenant: Client,
    node: SoftNode,
    node_chain: Vec<Vec<u8>>,
}

impl Bench {
    async fn start() -> Self {
        Self::with("").await
    }

    async fn with(lines: &str) -> Self {
        let key = STANDARD.encode(SigningKey::from_bytes(&REVOCATION_KEY).verifying_key().to_bytes());
        let platform = Platform::with(&format!("[verifier]\nrevocation_key = \"{key}\"\n{lines}")).await;
        platform.put_revocations(&revocations(1, REVOCATION_KEY)).await;
        let mut node = SoftNode::new(1, &platform);
        let credential = node.enrol(&platform, &platform.bootstrap_token().await).await.unwrap();
        let tenant = platform.token(Role::Tenant).await;
        Self { platform, tenant, node, node_chain: credential.chain }
    }

    /// A question about an instance that booted `kernel`; the evidence answers `nonce`.
    fn question(&mut self, nonce: [u8; 32], kernel: [u8; 32]) -> Value {
        let digest = digest_of(b"workload");
        let evidence = evidence::instance_evidence(&mut self.node.tpm, &self.node.log, INSTANCE, digest, nonce, kernel);
        let list = |chain: &[Vec<u8>]| chain.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>();
        json!({
            "version": 1, "kind": "instance",
            "evidence": { "evidence": STANDARD.encode(evidence) },
            "endorsements": { "node_chain": list(&self.node_chain), "ek_chain": list(&self.node.ek_chain) },
            "policy": { "danger_allow_simulated": true },
            "expectation": { "instance": INSTANCE, "workload_digest": hex::encode(digest), "nonce": hex::encode(nonce) },
        })
    }

    async fn challenge(&self) -> (String, [u8; 32]) {
        let made: AppraisalChallenge = self.tenant.post("/appraisals/challenges", &()).await.json(201);
        (made.id, STANDARD.decode(made.nonce).unwrap().try_into().unwrap())
    }

    async fn ask(&self, body: Value) -> Answer {
        self.tenant.post("/appraisals", &body).await
    }

    async fn metrics(&self) -> String {
        let answer = self.tenant.send(self.tenant.outside("/metrics")).await;
        assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        String::from_utf8(answer.body).unwrap()
    }
}

#[tokio::test]
async fn accepts_good_evidence_over_its_own_challenge_and_signs_it() {
    let mut bench = Bench::start().await;
    let (id, nonce) = bench.challenge().await;
    assert!(bench.metrics().await.contains("casemate_challenges_outstanding 1\n"));
    let question = bench.question(nonce, GOOD_KERNEL);
    let verdict: Appraisal = bench.ask(json!({"challenge": id, "request": question, "token": "jwt"})).await.json(200);
    assert!(verdict.accepted, "{:?}", verdict.failed);
    assert_eq!((verdict.failed, verdict.freshness.as_str()), (None, "verifier"));

    let jwks: rest::Jwks = bench.platform.client(String::new()).get("/appraisals/keys").await.json(200);
    let claims = claims(&verdict.ear.unwrap(), &jwks.keys[0]);
    assert_eq!(claims["ear_status"], "affirming");
    assert_eq!(claims[EXTENSION]["freshness"], "verifier");
    assert_eq!(claims[EXTENSION]["instance"], INSTANCE);
    assert_eq!(claims["submods"]["node"]["ear_appraisal_policy_ids"], json!([verdict.policy_id]));
    let known: rest::Jwks = bench.tenant.send(bench.tenant.outside("/.well-known/jwks.json")).await.json(200);
    assert_eq!(known, jwks);
    let metrics = bench.metrics().await;
    for line in [
        "casemate_appraisals_total{kind=\"instance\",outcome=\"accepted\"} 1",
        "casemate_appraisal_seconds_count 1",
        "casemate_challenges_outstanding 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
    assert!(!metrics.contains(INSTANCE));
}

#[tokio::test]
async fn says_whose_nonce_it_was_and_takes_each_once() {
    let mut bench = Bench::start().await;
    let question = bench.question([4; 32], GOOD_KERNEL);
    let verdict: Appraisal = bench.ask(json!({"request": question, "token": "cwt"})).await.json(200);
    assert!(verdict.accepted, "{:?}", verdict.failed);
    assert_eq!(verdict.freshness, "relying-party");
    let jwks: rest::Jwks = bench.tenant.get("/appraisals/keys").await.json(200);
    let token = STANDARD.decode(verdict.ear.unwrap()).unwrap();
    let ear = verify_cwt(&token, &public(&jwks.keys[0]), now()).unwrap();
    assert_eq!(serde_json::to_value(ear.extension.freshness).unwrap(), "relying-party");
    assert!(bench.ask(json!({"request": question})).await.problem().starts_with("409 nonce-used"));
}

#[tokio::test]
async fn a_refusal_is_a_verdict_with_a_token() {
    let mut bench = Bench::start().await;
    let question = bench.question([5; 32], [0xee; 32]);
    let verdict: Appraisal = bench.ask(json!({"request": question, "token": "jwt"})).await.json(200);
    assert!(!verdict.accepted);
    let failed = verdict.failed.unwrap();
    assert!(verdict.checks.contains(&failed));
    let jwks: rest::Jwks = bench.tenant.get("/appraisals/keys").await.json(200);
    let claims = claims(&verdict.ear.unwrap(), &jwks.keys[0]);
    assert_eq!((&claims["ear_status"], &claims[EXTENSION]["failed"]), (&json!("contraindicated"), &json!(failed.name)));
    let line = format!("casemate_appraisal_failures_total{{check=\"{}\"}} 1\n", failed.name);
    assert!(bench.metrics().await.contains(&line), "{line}");

    // Evidence that does not decode gets a token as well: nothing is known of it.
    let mut question = bench.question([6; 32], GOOD_KERNEL);
    question["evidence"]["evidence"] = STANDARD.encode(b"nothing").into();
    let verdict: Appraisal = bench.ask(json!({"request": question, "token": "jwt"})).await.json(200);
    assert_eq!(verdict.failed.unwrap().name, "evidence.format");
    assert_eq!(self::claims(&verdict.ear.unwrap(), &jwks.keys[0])["ear_status"], "none");
}

#[tokio::test]
async fn a_challenge_is_good_once_for_its_nonce_and_its_owner() {
    let mut bench = Bench::start().await;
    let (id, nonce) = bench.challenge().await;
    let good = bench.question(nonce, GOOD_KERNEL);
    let stranger = bench.platform.token(Role::Tenant).await;
    let body = json!({"challenge": id, "request": good});
    let answer = stranger.post("/appraisals", &body).await.problem();
    assert!(answer.starts_with("409 challenge-unusable: this caller has no such challenge"), "{answer}");
    let verdict: Appraisal = bench.ask(body.clone()).await.json(200);
    assert!(verdict.accepted);
    assert!(bench.ask(body).await.problem().contains("the challenge was used before"));

    let (id, nonce) = bench.challenge().await;
    let foreign = bench.question([7; 32], GOOD_KERNEL);
    assert!(bench.ask(json!({"challenge": id, "request": foreign})).await.problem().contains("another nonce"));
    let good = bench.question(nonce, GOOD_KERNEL);
    let answer = bench.ask(json!({"challenge": id, "request": good})).await.problem();
    assert!(answer.contains("the challenge was used before"), "used up by the refusal: {answer}");
}

#[tokio::test]
async fn limits_challenges_in_time_and_number() {
    let bench = Bench::with("challenge_s = 1\nmax_challenges = 1").await;
    let store = bench.platform.server.store();
    // Of today: what expired long ago is forgotten by the server at any moment.
    let now_ms = u64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let times = casemate_server::store::ChallengeTimes { now_ms, expires_at_ms: now_ms + 1000 };
    assert!(store.insert_challenge("old", &[1; 32], "me", times, 1).await.unwrap());
    assert!(!store.insert_challenge("more", &[2; 32], "me", times, 1).await.unwrap());
    use casemate_server::store::Challenge;
    assert_eq!(store.take_challenge("old", "me", now_ms + 1000).await.unwrap(), Challenge::Expired);
    assert_eq!(store.take_challenge("old", "me", now_ms + 999).await.unwrap(), Challenge::Taken([1; 32]));
    let (_, _) = bench.challenge().await;
    assert!(bench.tenant.post("/appraisals/challenges", &()).await.problem().starts_with("429 busy"));
}

/// A policy of the asker's is not sold as this verifier's: whoever reads the token must see which one decided.
#[tokio::test]
async fn the_token_of_a_lone_device_names_the_request_s_own_policy() {
    let bench = Bench::start().await;
    let either =
        |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), json!("either"))).collect::<serde_json::Map<_, _>>();
    let mut guest =
        either(&["smt", "single_socket", "cxl", "aes_256_xts", "rapl_disabled", "ciphertext_hiding", "page_swap_disabled"]);
    guest.insert("min_abi".into(), json!({"major": 0, "minor": 0}));
    let platform = either(&["smt", "tsme", "ecc", "rapl_disabled", "ciphertext_hiding", "iommu_write_safe", "tio"]);
    let mut ids = Vec::new();
    for max_age_s in [1, 2] {
        let revocation = json!({"fresh": {"max_age_s": max_age_s}});
        let policy = json!({"signer": "vcek", "revocation": revocation, "guest": guest, "platform": platform});
        let (host_data, report_data) = ("00".repeat(32), "00".repeat(64));
        let request = json!({
            "version": 1, "kind": "snp", "evidence": {"report": ""}, "endorsements": {"chain": []}, "policy": policy,
            "expectation": {"measurements": [], "host_data": host_data, "report_data": report_data, "vmpl": 0,
                "identity": "absent", "revoked_chips": []},
        });
        let verdict: Appraisal = bench.ask(json!({"request": request, "token": "jwt"})).await.json(200);
        assert_eq!(verdict.failed.unwrap().name, "snp.format");
        assert!(verdict.policy_id.starts_with("request@sha256:"), "{}", verdict.policy_id);
        let jwks: rest::Jwks = bench.tenant.get("/appraisals/keys").await.json(200);
        let claims = claims(&verdict.ear.unwrap(), &jwks.keys[0]);
        for (name, submodule) in claims["submods"].as_object().unwrap() {
            assert_eq!(submodule["ear_appraisal_policy_ids"], json!([verdict.policy_id]), "{name}");
        }
        ids.push(verdict.policy_id);
    }
    assert_ne!(ids[0], ids[1], "another policy has another name");
}

#[tokio::test]
async fn refuses_what_is_no_question_for_it() {
    let mut bench = Bench::start().await;
    let good = bench.question([8; 32], GOOD_KERNEL);
    let with = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        json!({ "request": changed })
    };
    let anchors = json!({"platform_ca": bench.platform.ca_pem(), "vendor_roots": [bench.platform.vendor.pem]});
    for (body, expected) in [
        (with("at", json!(1)), "judges now"),
        (with("anchors", anchors), "judges by its own"),
        (with("kind", json!("none")), "request"),
        (with("surplus", json!(1)), "request"),
        (json!({"request": good, "rules": "allow := true"}), "unknown field"),
        (json!({"request": []}), "request"),
        (json!({"request": good, "token": "exe"}), "unknown variant"),
    ] {
        let problem = bench.ask(body).await.problem();
        assert!(problem.starts_with("422 invalid") && problem.contains(expected), "{problem}");
    }
    let problem = bench.ask(json!({"request": good, "policy": "lenient"})).await.problem();
    assert!(problem.starts_with("404 not-found"), "{problem}");
    let raw = |bytes: Vec<u8>| bench.tenant.send(bench.tenant.request(Method::POST, "/appraisals").body(bytes));
    for hostile in [b"[".repeat(100_000), b"[0,".repeat(4 << 20), b"{\"request\":".repeat(300), vec![0xff; 9]] {
        assert!(raw(hostile).await.problem().starts_with("422 invalid"));
    }
    assert!(raw(vec![b' '; (12 << 20) + 1]).await.problem().starts_with("413 too-large"));
    let verdict: Appraisal = bench.ask(json!({"request": good})).await.json(200);
    assert!(verdict.accepted, "none of it used the nonce");
    let anybody = bench.platform.client(String::new());
    assert!(anybody.post("/appraisals", &json!({"request": good})).await.problem().starts_with("401"));
    assert!(bench.metrics().await.contains("casemate_appraisal_requests_refused_total{reason=\"invalid\"} 11\n"));
}

const RULES: &str =
    "package casemate.appraisal\nimport rego.v1\ndefault allow := false\nallow if input.platform == \"microvm\"\n";

#[tokio::test]
async fn keeps_every_version_of_a_policy_and_judges_by_the_last() {
    let mut bench = Bench::start().await;
    let operator = bench.platform.token(Role::Operator).await;
    let put = |client: &Client, name: &str, text: String| {
        let request = client.request(Method::PUT, &format!("/appraisals/policies/{name}")).body(text);
        let client = client.clone();
        async move { client.send(request).await }
    };
    let yes = format!("{RULES}deny contains \"never\" if false\n");
    let no = format!("{RULES}deny contains \"closed\" if true\n");
    assert!(put(&bench.tenant, "ours", yes.clone()).await.problem().starts_with("403"));
    let strict: PolicyVersion = bench.tenant.get("/appraisals/policies/strict").await.json(200);
    assert!(put(&operator, "strict", yes.clone()).await.problem().contains("built-in"));
    assert!(put(&operator, "ours", "package other".into()).await.problem().starts_with("422"));
    assert!(put(&operator, "Ours", yes.clone()).await.problem().starts_with("422"));
    assert_eq!(bench.tenant.get("/appraisals/policies/strict").await.json::<PolicyVersion>(200), strict);

    let first: PolicyVersion = put(&operator, "ours", yes.clone()).await.json(201);
    let again: PolicyVersion = put(&operator, "ours", yes.clone()).await.json(200);
    assert_eq!((first.version, &first), (1, &again));
    let question = bench.question([10; 32], GOOD_KERNEL);
    let verdict: Appraisal = bench.ask(json!({"request": question, "policy": "ours"})).await.json(200);
    assert!(verdict.accepted && verdict.policy_id.starts_with("ours/1@sha256:"), "{verdict:?}");
    let second: PolicyVersion = put(&operator, "ours", no).await.json(201);
    let question = bench.question([11; 32], GOOD_KERNEL);
    let verdict: Appraisal = bench.ask(json!({"request": question, "policy": "ours"})).await.json(200);
    let failed = verdict.failed.unwrap();
    assert_eq!((verdict.accepted, failed.name.as_str()), (false, "policy.appraisal"));
    assert!(failed.detail.contains("closed"), "{}", failed.detail);
    let back: PolicyVersion = put(&operator, "ours", yes).await.json(201);
    assert_eq!((back.version, &back.previous), (3, &second.digest), "back is forward");
    let all: PolicyVersions = bench.tenant.get("/appraisals/policies/ours/versions").await.json(200);
    assert_eq!(all.versions, [first, second, back]);
}

#[tokio::test]
async fn never_goes_back_to_an_older_revocation_list() {
    let bench = Bench::start().await;
    let operator = bench.platform.token(Role::Operator).await;
    let put = |client: &Client, text: String| {
        let request = client.request(Method::PUT, "/appraisals/revocations").body(text);
        let client = client.clone();
        async move { client.send(request).await }
    };
    assert!(put(&bench.tenant, revocations(5, REVOCATION_KEY)).await.problem().starts_with("403"));
    assert!(put(&operator, revocations(5, [8; 32])).await.problem().starts_with("422"));
    let stored: rest::Revocations = put(&operator, revocations(5, REVOCATION_KEY)).await.json(200);
    assert_eq!(bench.tenant.get("/appraisals/revocations").await.json::<rest::Revocations>(200), stored);
    assert!(bench.metrics().await.contains("casemate_revocation_list_serial 5\n"));
    assert!(put(&operator, revocations(4, REVOCATION_KEY)).await.problem().starts_with("409 conflict"));
    let platform = bench.platform.restart().await;
    let operator = platform.token(Role::Operator).await;
    assert!(put(&operator, revocations(4, REVOCATION_KEY)).await.problem().starts_with("409 conflict"));
    assert_eq!(operator.get("/appraisals/revocations").await.json::<rest::Revocations>(200).serial, 5);
    put(&operator, revocations(6, REVOCATION_KEY)).await.json::<rest::Revocations>(200);
}

#[tokio::test]
async fn runs_alone() {
    let alone = Platform::alone().await;
    assert_eq!(alone.server.node(), None);
    assert!(alone.server.service().is_none());
    for absent in ["blobs", "keys/ca.key.pem", "keys/assignment.key", "public/ca.pem"] {
        assert!(!alone.dir.path().join("data").join(absent).exists(), "{absent}");
    }
    let pinned = std::fs::read(alone.dir.path().join("data/public/server.pem")).unwrap();
    let tenant = alone.token(Role::Tenant).await;
    let status: rest::Platform = tenant.get("/platform").await.json(200);
    assert_eq!(status.roles, ["verifier"]);
    for path in ["/instances", "/instances/x/events", "/nodes", "/blobs/sha256:00"] {
        let problem = tenant.get(path).await.problem();
        assert!(problem.starts_with("404 role-absent") && problem.contains("\"api\""), "{problem}");
    }
    tenant.post("/appraisals/challenges", &()).await.json::<AppraisalChallenge>(201);
    let key = alone.dir.path().join("data/keys/appraisals.key");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    let before: rest::Jwks = tenant.get("/appraisals/keys").await.json(200);
    let again = alone.restart().await;
    assert_eq!(std::fs::read(again.dir.path().join("data/public/server.pem")).unwrap(), pinned);
    assert_eq!(again.client(String::new()).get("/appraisals/keys").await.json::<rest::Jwks>(200), before);
}

#[test]
fn the_example_configuration_is_one() {
    let config: Config =
        casemate_daemon::config::load(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/verifier.toml").as_ref()).unwrap();
    let settings = config.clone().check().unwrap();
    assert!(settings.platform.is_none() && settings.verifier.is_some());
    for (roles, fault) in [(&[][..], "roles: at least one"), (&["broker"], "\"broker\""), (&["nodes"], "come together")] {
        let config = Config { roles: roles.iter().map(|role| (*role).to_owned()).collect(), ..config.clone() };
        let faults = config.check().unwrap_err().to_string();
        assert!(faults.contains(fault), "{faults}");
    }
    let all = Config { roles: vec!["api".into(), "nodes".into()], ..config };
    let faults = all.check().unwrap_err().to_string();
    assert!(["node_addr", "reference_values", "vendor_roots"].iter().all(|name| faults.contains(name)), "{faults}");
}

pub(crate) fn claims(token: &str, jwk: &Value) -> Value {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, jwk::Jwk};
    let jwk: Jwk = serde_json::from_value(jwk.clone()).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_required_spec_claims(&["exp"]);
    decode::<Value>(token, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).unwrap().claims
}

fn public(jwk: &Value) -> VerifierPublicKey {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    VerifierPublicKey::from_sec1(&[vec![4], part("x"), part("y")].concat()).unwrap()
}

fn now() -> UnixTime {
    UnixTime(casemate_server::clock::now_ms() / 1000)
}

fn revocations(serial: u64, key: [u8; 32]) -> String {
    revoking(serial, key, |_| ())
}

/// A list that names what `change` says.
pub(crate) fn revoking(serial: u64, key: [u8; 32], change: impl FnOnce(&mut Revocations)) -> String {
    let (issued_at, next_update) = (now(), UnixTime(now().0 + 3600));
    let none = Default::default;
    let mut list = Revocations {
        version: 1,
        serial,
        issued_at,
        next_update,
        chips: none(),
        aks: none(),
        images: none(),
        silicon_generations: none(),
    };
    change(&mut list);
    list.to_signed(&SigningKey::from_bytes(&key))
}

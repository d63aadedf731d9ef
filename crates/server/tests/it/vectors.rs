//! Real reports and quotes over HTTP, and what a service under load answers.

use std::{
    env, fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_api::rest::{self, Appraisal, AppraisalChallenge};
use casemate_evidence::tdx::Quote;
use casemate_server::store::Role;
use casemate_verifier::{
    gpu::chain_from_pem,
    snp::{FirmwareVersion, GenerationRule, RevocationRule, SnpPolicy, Tcb},
    tdx::TdxPolicy,
};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    appraisals::claims,
    platform::{Client, Platform},
};

/// A file of the folder that `CASEMATE_VECTORS` names, which is not in the repository. Tests that need it are ignored, so that a run
/// without it says so; what is run without it fails.
fn vector(name: &str) -> Vec<u8> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let path = env::var_os("CASEMATE_VECTORS").map_or_else(|| PathBuf::from(default), PathBuf::from).join(name);
    fs::read(&path).unwrap_or_else(|error| {
        panic!("read {}, evidence of real machines: {error}; hint: set CASEMATE_VECTORS to its folder", path.display())
    })
}

/// A report of a real machine, expected to be what it is.
fn genoa() -> Value {
    let report = vector("snp/genoa-v3.report.bin");
    let pems = ["snp/genoa-v3.vcek.pem", "snp/certs/genoa_ask.pem", "snp/certs/genoa_ark.pem"];
    let ders = |name: &str| chain_from_pem(&String::from_utf8(vector(name)).unwrap()).unwrap();
    let chain: Vec<String> = pems.into_iter().flat_map(ders).map(|der| STANDARD.encode(der)).collect();
    let rule = GenerationRule {
        tcb: Tcb { fmc: 0, bootloader: 10, tee: 0, snp: 23, microcode: 84 },
        firmware: FirmwareVersion { major: 1, minor: 55, build: 40 },
        mitigations: 0,
    };
    let policy = SnpPolicy { revocation: RevocationRule::DangerWithout, ..SnpPolicy::strict(Some(rule), None) };
    json!({
        "version": 1, "kind": "snp",
        "evidence": { "report": STANDARD.encode(&report) },
        "endorsements": { "chain": chain },
        "policy": policy,
        "expectation": {
            "measurements": [hex::encode(&report[0x90..0xc0])], "host_data": hex::encode(&report[0xc0..0xe0]),
            "report_data": hex::encode(&report[0x50..0x90]), "vmpl": 0, "identity": "danger_any", "revoked_chips": [],
        },
    })
}

async fn token_of(client: &Client, verdict: &Appraisal) -> Value {
    let jwks: rest::Jwks = client.get("/appraisals/keys").await.json(200);
    claims(verdict.ear.as_ref().unwrap(), &jwks.keys[0])
}

#[tokio::test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
async fn a_real_snp_report_gets_a_token_from_a_verifier_that_runs_alone() {
    let good = genoa();
    let alone = Platform::alone().await;
    let caller = alone.token(Role::Tenant).await;
    let ask = async |request: &Value| -> Appraisal {
        caller.post("/appraisals", &json!({"request": request, "token": "jwt"})).await.json(200)
    };
    let verdict = ask(&good).await;
    assert!(verdict.accepted, "{:?}", verdict.failed);
    let token = token_of(&caller, &verdict).await;
    assert_eq!((&token["ear_status"], &token["submods"]["guest"]["ear_status"]), (&json!("affirming"), &json!("affirming")));
    assert!(verdict.policy_id.starts_with("request@sha256:"));

    let mut report = STANDARD.decode(good["evidence"]["report"].as_str().unwrap()).unwrap();
    report[0x60] ^= 1;
    let mut forged = good.clone();
    forged["evidence"]["report"] = json!(STANDARD.encode(report));
    let verdict = ask(&forged).await;
    assert_eq!(verdict.failed.as_ref().unwrap().name, "snp.signature");
    assert_eq!(token_of(&caller, &verdict).await["ear_status"], "contraindicated");

    // Its report data are no nonce of 32 bytes: a challenge would say more than was checked.
    let made: AppraisalChallenge = caller.post("/appraisals/challenges", &()).await.json(201);
    let answer = caller.post("/appraisals", &json!({"challenge": made.id, "request": good})).await;
    assert!(answer.problem().starts_with("422 invalid: challenge"), "{}", answer.problem());
}

/// Intel's collateral of that time is over; this verifier judges now.
#[tokio::test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
async fn a_real_tdx_quote_with_old_collateral_is_refused_by_name_in_a_token() {
    let quote = vector("tdx/v4-uptodate.quote.bin");
    let decoded = Quote::decode(&quote).unwrap();
    let td = decoded.td_report().unwrap();
    let request = json!({
        "version": 1, "kind": "tdx",
        "evidence": { "quote": STANDARD.encode(&quote) },
        "endorsements": { "collateral": STANDARD.encode(vector("tdx/v4-uptodate.collateral.json")) },
        "policy": TdxPolicy::strict(),
        "expectation": {
            "mrtd": [hex::encode(td.mr_td)], "rtmrs": td.rtmr.map(|value| json!({ "one_of": [hex::encode(value)] })),
            "config_id": hex::encode(td.mr_config_id), "owner": hex::encode(td.mr_owner),
            "owner_config": hex::encode(td.mr_owner_config), "service_td": "00".repeat(48),
            "report_data": hex::encode(td.report_data),
        },
    });
    let alone = Platform::alone().await;
    let caller = alone.token(Role::Tenant).await;
    let ask = json!({"request": request, "token": "jwt"});
    let verdict: Appraisal = caller.post("/appraisals", &ask).await.json(200);
    let failed = verdict.failed.as_ref().unwrap();
    assert!(["tdx.collateral", "tdx.revocation", "tdx.tcb-info"].contains(&failed.name.as_str()), "{failed:?}");
    assert_eq!(token_of(&caller, &verdict).await["ear_status"], "contraindicated");
    let mut judged_then = ask;
    judged_then["request"]["at"] = json!(1_750_420_800);
    assert!(caller.post("/appraisals", &judged_then).await.problem().contains("judges now"));
}

#[tokio::test]
async fn a_full_service_says_429_and_lets_the_next_one_in_when_there_is_room() {
    let platform = Platform::with("[verifier]\nmax_requests = 1\n").await;
    let caller = platform.token(Role::Tenant).await;
    let head = format!(
        "POST /api/v1/appraisals HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{",
        caller.token
    );
    // The slow one may come while the other is being answered, and is refused itself then.
    let slow = loop {
        let mut slow = connect(&platform).await;
        slow.write_all(head.as_bytes()).await.unwrap();
        slow.flush().await.unwrap();
        if comes(&caller, 429, Duration::from_secs(2)).await {
            break slow;
        }
    };
    let answer = caller.post("/appraisals", &json!({})).await;
    assert!(answer.problem().starts_with("429 busy: too many appraisals"), "{}", answer.problem());
    assert_eq!(answer.headers["retry-after"], "1");
    let metrics = caller.send(caller.outside("/metrics")).await;
    assert!(String::from_utf8(metrics.body).unwrap().contains("casemate_appraisal_requests_refused_total{reason=\"busy\"}"));
    drop(slow);
    until(&caller, 422).await;
}

#[tokio::test]
async fn what_takes_too_long_is_given_up_with_503() {
    let platform = Platform::with("[verifier]\ntimeout_ms = 1\n").await;
    let caller = platform.token(Role::Tenant).await;
    // Reading this takes many times that long on any machine.
    let question = json!({ "request": { "version": 1, "kind": "snp", "evidence": { "report": "A".repeat(7 << 20) } } });
    let answer = caller.post("/appraisals", &question).await;
    assert!(answer.problem().starts_with("503 too-slow: the judgement took longer than 1 ms"), "{}", answer.problem());
    assert_eq!(answer.headers["retry-after"], "1");
}

/// Asks until the answer has this status.
async fn until(caller: &Client, status: u16) {
    assert!(comes(caller, status, Duration::from_secs(60)).await, "no answer with status {status}");
}

/// The same, for no longer than `limit`.
async fn comes(caller: &Client, status: u16, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while caller.post("/appraisals", &json!({})).await.status != status {
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

async fn connect(platform: &Platform) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(platform.ca_pem().as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let socket = TcpStream::connect(platform.server.rest()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
}

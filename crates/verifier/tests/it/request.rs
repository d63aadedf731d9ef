//! Requests of every kind: what is accepted, what is refused by which check, and what is no request.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_attester::{Attester as _, quote_bundle, sim::SoftTpm};
use casemate_evidence::{
    eventlog::{Event, EventLog, EventType},
    instance::Record as _,
    nvidia::Report,
    tdx::Quote,
    tpm::Public,
};
use casemate_verifier::{
    Outcome, Simulated, UnixTime,
    boot::{BootPolicy, CommandLineRule, DigestRule, SecureBootRule},
    gpu::{GpuPolicy, chain_from_pem},
    rego::AppraisalPolicy,
    request::{MAX_REQUEST, Pinned, Request, RequestError, RequestKind, Response},
    snp::{FirmwareVersion, GenerationRule, RevocationRule, SnpPolicy, Tcb},
    tdx::TdxPolicy,
};
use serde_json::{Value, json};

use crate::{
    vectors,
    world::{Case, INSTANCE, NONCE, NOW, Spec, WORKLOAD},
};

fn ders(pem: &[u8]) -> Vec<String> {
    let chain = chain_from_pem(std::str::from_utf8(pem).unwrap()).unwrap();
    chain.iter().map(|der| BASE64.encode(der)).collect()
}

fn judge(request: &Value) -> Response {
    judge_by(request, &AppraisalPolicy::strict())
}

fn judge_by(request: &Value, rules: &AppraisalPolicy) -> Response {
    let request = Request::from_json(request.to_string().as_bytes()).unwrap();
    let pinned = Pinned { anchors: None, references: None, rules, revocations: None, simulated: Simulated::Refuse };
    let response = request.judge(&pinned, request.at().unwrap_or(NOW));
    assert_eq!(response.kind, request.kind().as_str());
    assert_eq!(response.accepted, response.failed.is_none(), "{:?}", response.checks);
    assert_eq!(response.accepted, response.result.is_affirming());
    response
}

/// The check that failed.
fn refused(request: &Value) -> String {
    judge(request).failed.expect("a refusal").name
}

fn accepted(request: &Value) {
    let response = judge(request);
    assert!(response.accepted, "{:?}", response.failed);
}

/// A report of a real machine, expected to be what it is.
fn genoa() -> Value {
    let report = vectors::read("snp/genoa-v3.report.bin");
    let certificates = ["snp/genoa-v3.vcek.pem", "snp/certs/genoa_ask.pem", "snp/certs/genoa_ark.pem"];
    let chain: Vec<String> = certificates.into_iter().flat_map(|name| ders(&vectors::read(name))).collect();
    let rule = GenerationRule {
        tcb: Tcb { fmc: 0, bootloader: 10, tee: 0, snp: 23, microcode: 84 },
        firmware: FirmwareVersion { major: 1, minor: 55, build: 40 },
        mitigations: 0,
    };
    let policy = SnpPolicy { revocation: RevocationRule::DangerWithout, ..SnpPolicy::strict(Some(rule), None) };
    json!({
        "version": 1, "kind": "snp", "at": 1_780_272_000,
        "evidence": { "report": BASE64.encode(&report) },
        "endorsements": { "chain": chain },
        "policy": policy,
        "expectation": {
            "measurements": [hex::encode(&report[0x90..0xc0])],
            "host_data": hex::encode(&report[0xc0..0xe0]),
            "report_data": hex::encode(&report[0x50..0x90]),
            "vmpl": 0, "identity": "danger_any", "revoked_chips": [],
        },
    })
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_report_is_accepted_and_each_change_is_refused_by_its_check() {
    let good = genoa();
    accepted(&good);
    let response = judge(&good);
    assert_eq!((response.result.platform.as_str(), response.result.submodules.len()), ("device", 1));
    assert_eq!(response.claims["generation"], "genoa");

    let change = |path: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(path).unwrap() = value;
        refused(&changed)
    };
    assert_eq!(change("/expectation/measurements", json!([])), "snp.measurement");
    assert_eq!(change("/expectation/host_data", json!("ab".repeat(32))), "snp.host-data");
    assert_eq!(change("/expectation/report_data", json!("ab".repeat(64))), "snp.report-data");
    assert_eq!(change("/expectation/identity", json!("absent")), "snp.identity");
    assert_eq!(change("/policy/genoa/tcb/microcode", json!(255)), "snp.tcb-floor");
    assert_eq!(change("/policy/revocation", json!({ "fresh": { "max_age_s": 1 } })), "snp.revocation");
    assert_eq!(change("/endorsements/chain", json!([])), "snp.chain");
    assert_eq!(change("/at", json!(0)), "snp.chain");
    let mut report = BASE64.decode(good["evidence"]["report"].as_str().unwrap()).unwrap();
    report[0x60] ^= 1;
    assert_eq!(change("/evidence/report", json!(BASE64.encode(report))), "snp.signature");
    assert_eq!(change("/evidence/report", json!("AAAA")), "snp.format");
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_policy_that_is_given_has_the_last_word_over_a_lone_device() {
    let good = genoa();
    let rego = |rule: &str| {
        let text = format!(
            "package casemate.appraisal\nimport rego.v1\ndefault allow := false\nallow if {rule}\ndeny contains \"no\" if false\n"
        );
        AppraisalPolicy::compile("mine", &text).unwrap()
    };
    assert!(judge_by(&good, &rego("input.submodules.guest.claims.generation == \"genoa\"")).accepted);
    let response = judge_by(&good, &rego("input.submodules.guest.claims.generation == \"turin\""));
    assert_eq!(response.failed.unwrap().name, "policy.appraisal");
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn silicon_that_is_broken_is_refused_with_a_reason() {
    let report = vectors::read("snp/milan-v2.report.bin");
    let mut request = genoa();
    let mut chain = vec![BASE64.encode(vectors::read("snp/milan-v2.vcek.der"))];
    chain.extend(["snp/certs/milan_ask.pem", "snp/certs/milan_ark.pem"].into_iter().flat_map(|name| ders(&vectors::read(name))));
    request["at"] = json!(1_748_736_000);
    request["evidence"]["report"] = json!(BASE64.encode(&report));
    request["endorsements"]["chain"] = json!(chain);
    request["expectation"]["measurements"] = json!([hex::encode(&report[0x90..0xc0])]);
    request["expectation"]["host_data"] = json!(hex::encode(&report[0xc0..0xe0]));
    request["expectation"]["report_data"] = json!(hex::encode(&report[0x50..0x90]));
    assert_eq!(refused(&request), "snp.generation");

    request["policy"]["danger_milan"] = json!({
        "tcb": { "bootloader": 3, "tee": 0, "snp": 8, "microcode": 0x73 },
        "firmware": { "major": 1, "minor": 52, "build": 4 },
    });
    request["policy"]["platform"]["danger_without_alias_check"] = json!(true);
    request["policy"]["danger_provisional_firmware"] = json!(true);
    let failed = judge(&request).failed.unwrap();
    assert_eq!(failed.name, "policy.appraisal");
    assert!(failed.detail.contains("milan"), "{}", failed.detail);
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_quote_of_a_trust_domain_is_accepted_and_without_collateral_refused() {
    let quote = vectors::read("tdx/v4-uptodate.quote.bin");
    let decoded = Quote::decode(&quote).unwrap();
    let td = decoded.td_report().unwrap();
    let good = json!({
        "version": 1, "kind": "tdx", "at": 1_750_420_800,
        "evidence": { "quote": BASE64.encode(&quote) },
        "endorsements": { "collateral": BASE64.encode(vectors::read("tdx/v4-uptodate.collateral.json")) },
        "policy": TdxPolicy::strict(),
        "expectation": {
            "mrtd": [hex::encode(td.mr_td)],
            "rtmrs": td.rtmr.map(|value| json!({ "one_of": [hex::encode(value)] })),
            "config_id": hex::encode(td.mr_config_id),
            "owner": hex::encode(td.mr_owner),
            "owner_config": hex::encode(td.mr_owner_config),
            "service_td": "00".repeat(48),
            "report_data": hex::encode(td.report_data),
        },
    });
    accepted(&good);
    let mut changed = good.clone();
    changed["endorsements"] = json!({});
    assert_eq!(refused(&changed), "tdx.collateral");
    let mut changed = good.clone();
    changed["expectation"]["rtmrs"][3] = json!({ "events": { "required": [], "allowed": [] } });
    assert_eq!(refused(&changed), "tdx.rtmr");
    let mut changed = good.clone();
    changed["evidence"]["quote"] = json!(BASE64.encode(vectors::read("tdx/v4-debug-td.quote.bin")));
    assert!(refused(&changed).starts_with("tdx."));
    let mut changed = good;
    changed["evidence"]["quote"] = json!(BASE64.encode(vectors::read("tdx/sgx-v3.quote.bin")));
    assert_eq!(refused(&changed), "tdx.kind");
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_gpu_without_the_manifest_of_its_firmware_is_refused_and_a_bad_signature_named() {
    let text = vectors::read("nvidia/hopper.report.txt");
    let bytes = |text: &[u8]| hex::decode(std::str::from_utf8(text).unwrap().trim()).unwrap();
    let report = bytes(&text);
    let nonce = Report::parse(&report).unwrap().request.nonce;
    let good = json!({
        "version": 1, "kind": "gpu", "at": 1_748_736_000,
        "evidence": { "devices": [{
            "kind": "gpu",
            "report": BASE64.encode(&report),
            "chain": ders(&vectors::read("nvidia/hopper.chain.txt")),
        }] },
        "endorsements": { "manifests": [], "ocsp": [], "crls": [] },
        "policy": GpuPolicy { danger_without_revocation: true, ..GpuPolicy::strict() },
        "expectation": {
            "nonce": hex::encode(nonce),
            "claimed": { "gpus": 1, "switches": 0 },
            "seen": { "gpus": 1, "switches": 0 },
        },
    });
    // Everything before the manifests is good; there is none for this VBIOS among the vectors.
    assert_eq!(refused(&good), "gpu.rim");
    assert_eq!(Request::from_json(good.to_string().as_bytes()).unwrap().nonce(), Some(nonce));
    let mut changed = good.clone();
    changed["expectation"]["nonce"] = json!("00".repeat(32));
    assert_eq!(refused(&changed), "gpu.nonce");
    let mut changed = good;
    let bad = bytes(&vectors::read("nvidia/hopper-bad-signature.report.txt"));
    changed["evidence"]["devices"][0]["report"] = json!(BASE64.encode(bad));
    assert_eq!(refused(&changed), "gpu.signature");
}

/// A machine with a software TPM that measured little.
pub(crate) fn tpm() -> Value {
    let mut tpm = SoftTpm::new(&[9; 32]);
    let separator = |pcr| Event::of_data(pcr, EventType::SEPARATOR, [0; 4]);
    let events: Vec<Event> =
        [Event::of_data(0, EventType::S_CRTM_VERSION, *b"v\x001\0\0\0")].into_iter().chain((0..8).map(separator)).collect();
    for event in &events {
        tpm.pcr_extend(event.pcr, event.measured_sha256().unwrap()).unwrap();
    }
    let pcrs: Vec<u32> = (0..8).collect();
    let bundle = quote_bundle(&mut tpm, &NONCE, &pcrs).unwrap();
    let values: serde_json::Map<String, Value> =
        bundle.pcrs.iter().map(|(pcr, value)| (pcr.to_string(), json!(hex::encode(value.0)))).collect();
    let policy = BootPolicy {
        secure_boot: SecureBootRule::DangerAny,
        authorities: DigestRule::DangerAny,
        min_dbx_entries: 0,
        command_lines: CommandLineRule::DangerAny,
        ..BootPolicy::strict()
    };
    json!({
        "version": 1, "kind": "tpm", "at": 1_800_000_000,
        "evidence": {
            "ak_public": BASE64.encode(&bundle.ak_public),
            "attest": BASE64.encode(&bundle.attest),
            "signature": BASE64.encode(&bundle.signature),
            "pcrs": { "sha256": values },
            "event_log": BASE64.encode(EventLog { events, ..EventLog::sha256() }.encode()),
        },
        "endorsements": {},
        "policy": { "boot": policy },
        "expectation": {
            "ak": { "name": hex::encode(Public::parse(&bundle.ak_public).unwrap().name()) },
            "nonce": hex::encode(NONCE),
            "pcrs": [{ "bank": "sha256", "pcrs": pcrs }],
        },
    })
}

#[test]
fn a_quote_with_its_log_is_accepted_and_each_change_is_refused_by_its_check() {
    let good = tpm();
    accepted(&good);
    assert_eq!(judge(&good).claims["boot"]["secure_boot"], false);

    let change = |path: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(path).unwrap() = value;
        refused(&changed)
    };
    assert_eq!(change("/expectation/ak/name", json!("000b".to_owned() + &"ab".repeat(32))), "node.ak");
    assert_eq!(change("/evidence/signature", json!("AAAA")), "node.quote");
    assert_eq!(change("/expectation/nonce", json!("ab")), "evidence.nonce");
    assert_eq!(change("/evidence/pcrs/sha256/3", json!("ab".repeat(32))), "node.pcrs");
    assert_eq!(change("/expectation/pcrs/0/pcrs", json!([0])), "node.pcrs");
    assert_eq!(change("/evidence/event_log", json!("AAAA")), "node.event-log");
    assert_eq!(change("/policy/boot/min_dbx_entries", json!(1)), "node.boot-policy");
    let mut changed = good.clone();
    changed["evidence"]["ima"] = json!({ "format": { "binary": "sha1" }, "list": "" });
    assert_eq!(refused(&changed), "node.ima");
}

/// The world's instance, as a request.
fn instance(case: &Case) -> Value {
    let chain = |chain: &[Vec<u8>]| chain.iter().map(|der| BASE64.encode(der)).collect::<Vec<_>>();
    json!({
        "version": 1, "kind": "instance",
        "evidence": { "evidence": BASE64.encode(case.evidence.encode()) },
        "endorsements": { "node_chain": chain(&case.node_chain), "ek_chain": chain(&case.ek_chain) },
        "policy": {},
        "expectation": {
            "instance": INSTANCE, "workload_digest": hex::encode(WORKLOAD), "nonce": hex::encode(NONCE),
        },
    })
}

#[test]
fn an_instance_is_judged_by_what_the_judging_side_pins() {
    let case = Spec::good().build();
    let good = instance(&case);
    let rules = AppraisalPolicy::strict();
    let judge = |request: &Value, trusts: bool| {
        let request = Request::from_json(request.to_string().as_bytes()).unwrap();
        let pinned = Pinned {
            anchors: trusts.then_some(&case.anchors),
            references: Some(&case.references),
            rules: &rules,
            revocations: case.revocations.as_ref(),
            simulated: Simulated::Refuse,
        };
        request.judge(&pinned, NOW)
    };
    let parsed = Request::from_json(good.to_string().as_bytes()).unwrap();
    assert!(parsed.nonce() == Some(NONCE) && !parsed.brings_trust());
    let response = judge(&good, true);
    assert!(response.accepted, "{:?}", response.failed);
    assert_eq!(response.checks.last().unwrap().name, "policy.appraisal");
    assert!(response.claims["node"]["agent"].is_string());

    let mut changed = good.clone();
    changed["policy"] = json!({ "revocation_floor": 18 });
    assert_eq!(judge(&changed, true).failed.unwrap().name, "policy.revoked");
    changed["policy"] = json!({ "node_boot": { "required": BootPolicy::strict() } });
    assert_eq!(judge(&changed, true).failed.unwrap().name, "node.boot-policy");
    let mut changed = good.clone();
    changed["expectation"]["nonce"] = json!("00".repeat(32));
    assert_eq!(judge(&changed, true).failed.unwrap().name, "evidence.nonce");
    assert_eq!(judge(&good, false).failed.unwrap().name, "policy.platform");

    let key = ed25519_dalek::SigningKey::from_bytes(&[3; 32]);
    let mut brings = good;
    brings["references"] = json!({
        "signed": BASE64.encode(case.references.to_signed(&key)),
        "key": hex::encode(key.verifying_key().as_bytes()),
    });
    assert!(Request::from_json(brings.to_string().as_bytes()).unwrap().brings_trust());
    assert_eq!(judge(&brings, true).failed.unwrap().name, "policy.platform");
    brings["references"]["key"] = json!("00".repeat(32));
    assert!(matches!(Request::from_json(brings.to_string().as_bytes()), Err(RequestError::References(_))));
}

#[test]
fn what_is_no_request_is_told_from_what_is_refused() {
    let parse = |request: &Value| Request::from_json(request.to_string().as_bytes());
    let good = tpm();
    assert_eq!(parse(&good).unwrap().kind(), RequestKind::Tpm);
    for name in ["snp", "tdx", "gpu", "tpm", "instance", "confidential"] {
        assert_eq!(serde_json::from_value::<RequestKind>(json!(name)).unwrap().as_str(), name);
    }
    assert_eq!(parse(&good).unwrap().at(), Some(UnixTime(1_800_000_000)));
    assert_eq!(parse(&good).unwrap().nonce(), Some(NONCE));
    let mut short = good.clone();
    short["expectation"]["nonce"] = json!("ab");
    assert_eq!(parse(&short).unwrap().nonce(), None);

    let mut version = good.clone();
    version["version"] = json!(2);
    assert!(matches!(parse(&version), Err(RequestError::Version { version: 2 })));
    for (path, value) in [
        ("/kind", json!("sgx")),
        ("/evidence/attest", json!("not base64")),
        ("/expectation/nonce", json!("")),
        ("/expectation/nonce", json!("AB")),
        ("/expectation/nonce", json!("ab".repeat(65))),
        ("/expectation/pcrs/0/bank", json!("md5")),
        ("/expectation", json!({})),
        ("/policy/boot", json!(null)),
    ] {
        let mut changed = good.clone();
        *changed.pointer_mut(path).unwrap() = value;
        assert!(matches!(parse(&changed), Err(RequestError::Json(_))), "{path}");
    }
    for place in ["", "/evidence", "/endorsements", "/policy", "/expectation"] {
        let mut changed = good.clone();
        changed.pointer_mut(place).unwrap()["more"] = json!(1);
        assert!(matches!(parse(&changed), Err(RequestError::Json(_))), "{place}");
    }
    // An anchor in a request that has no use for it would be believed to count.
    let mut changed = good;
    changed["anchors"] = json!({ "platform_ca": "", "vendor_roots": [] });
    assert!(matches!(parse(&changed), Err(RequestError::Json(_))));
    assert!(matches!(Request::from_json(b"{\"version\":1,\"version\":1,\"kind\":\"tpm\"}"), Err(RequestError::Json(_))));
    assert!(matches!(Request::from_json(&vec![b' '; MAX_REQUEST]), Err(RequestError::Json(_))));
    assert!(matches!(Request::from_json(&vec![b' '; MAX_REQUEST + 1]), Err(RequestError::TooLong { .. })));
}

#[test]
fn an_answer_names_every_check_also_those_that_were_not_reached() {
    let mut request = tpm();
    request["expectation"]["nonce"] = json!("ab");
    let response = judge(&request);
    let names: Vec<&str> = response.checks.iter().map(|check| check.name.as_str()).collect();
    let expected =
        ["node.ak", "node.quote", "evidence.nonce", "node.pcrs", "node.event-log", "node.boot-policy", "policy.simulated"];
    assert_eq!(names, expected);
    assert!(response.checks[3..].iter().all(|check| check.outcome == Outcome::NotReached));
    let json = serde_json::to_value(&response).unwrap();
    assert_eq!(json["accepted"], false);
    assert_eq!(json["result"]["submodules"]["node"]["kind"], "node");
}

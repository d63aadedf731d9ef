//! What a verdict says of each part: trust vectors, tiers and anchors as they are judged, and nothing good of what was refused.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_verifier::{
    AttestationResult, Simulated, Submodule, Tier, TrustVector, claim,
    rego::{AppraisalPolicy, PolicyOptions, apply_policy},
    request::{Pinned, Request, Response},
    snp::{Generation, RevocationRule},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    confidential_world::{self, World},
    request::tpm,
    snp_world,
    world::{self, Case, INSTANCE, NONCE, NOW, References, WORKLOAD, only_failure, signed_references},
};

const REFUSED: TrustVector = TrustVector {
    instance_identity: claim::CRYPTO_FAILED,
    configuration: claim::NONE,
    executables: claim::NONE,
    file_system: claim::NONE,
    hardware: claim::NONE,
    runtime_opaque: claim::NONE,
    storage_opaque: claim::NONE,
    sourced_data: claim::NONE,
};

fn said(part: &Submodule) -> (Tier, TrustVector) {
    (part.status, part.trust)
}

fn judge(request: &Value) -> Response {
    let request = Request::from_json(request.to_string().as_bytes()).unwrap();
    let rules = AppraisalPolicy::strict();
    let pinned = Pinned { anchors: None, references: None, rules: &rules, revocations: None, simulated: Simulated::Refuse };
    request.judge(&pinned, request.at().unwrap_or(NOW))
}

#[test]
fn a_microvm_is_said_to_be_what_was_checked() {
    let case = Case::good();
    let result = case.appraise();
    let expected = TrustVector {
        instance_identity: claim::TRUSTWORTHY_INSTANCE,
        configuration: claim::APPROVED_CONFIGURATION,
        executables: claim::APPROVED_BOOT,
        file_system: claim::APPROVED_FILES,
        ..TrustVector::default()
    };
    assert_eq!(said(&result.submodules["guest"]), (Tier::Affirming, expected));
    let record = hex::encode(Sha256::digest(&case.evidence.launch_record));
    assert_eq!(result.launch_record_digest, Some(record));

    // A policy that refuses takes all of it back.
    let never = "package casemate.appraisal\nimport rego.v1\nallow := true\ndeny contains \"never\"\n";
    let never = AppraisalPolicy::compile("never", never).unwrap();
    let refused = apply_policy(result, &never, PolicyOptions::strict(), 0);
    assert!(refused.submodules.values().all(|part| said(part) == (Tier::Contraindicated, REFUSED)));
}

#[test]
fn a_lone_tpm_is_said_to_have_booted_what_is_approved_and_a_failed_one_nothing() {
    let good = judge(&tpm()).result;
    let expected = TrustVector {
        instance_identity: claim::TRUSTWORTHY_INSTANCE,
        executables: claim::APPROVED_BOOT,
        ..TrustVector::default()
    };
    assert_eq!((good.status, good.simulated), (Tier::Affirming, false));
    assert_eq!(said(&good.submodules["node"]), (Tier::Affirming, expected));

    let mut stale = tpm();
    stale["expectation"]["nonce"] = json!("ab");
    let stale = judge(&stale).result;
    assert_eq!((stale.status, said(&stale.submodules["node"])), (Tier::Contraindicated, (Tier::Contraindicated, REFUSED)));

    // Where not even the key is known there was nothing to judge.
    let mut nobody = tpm();
    nobody["expectation"]["ak"]["name"] = json!("000b".to_owned() + &"ab".repeat(32));
    let nobody = judge(&nobody).result;
    assert_eq!((nobody.status, said(&nobody.submodules["node"])), (Tier::None, (Tier::None, TrustVector::default())));
}

/// A report by a chip of our own, whose root a policy pins: only `policy.simulated` stands before a verdict on it.
#[test]
fn a_lone_simulator_is_refused_as_one() {
    let case = snp_world::Case::new(Generation::Genoa);
    let mut policy = case.policy.clone();
    policy.revocation = RevocationRule::DangerWithout;
    let response = judge(&json!({
        "version": 1, "kind": "snp", "at": case.now,
        "evidence": { "report": BASE64.encode(case.signed()) },
        "endorsements": { "chain": case.chain().iter().map(|der| BASE64.encode(der)).collect::<Vec<_>>() },
        "policy": policy,
        "expectation": {
            "measurements": case.measurements.iter().map(hex::encode).collect::<Vec<_>>(),
            "host_data": hex::encode(case.host_data),
            "report_data": hex::encode(case.report_data),
            "vmpl": 0, "identity": "absent", "revoked_chips": [],
        },
    }));
    assert_eq!(response.failed.unwrap().name, "policy.simulated");
    assert!(!response.accepted && response.result.simulated);
    assert!(response.result.warnings.iter().any(|warning| warning.starts_with("simulated: ")));
}

fn refused(name: &str, change: impl FnOnce(&mut confidential_world::Case)) -> AttestationResult {
    let mut case = World::snp(0).build();
    change(&mut case);
    let result = case.appraise();
    assert_eq!(only_failure(&result).0, name);
    result
}

/// The processor's evidence is good in both: nobody may take the guest out of such a verdict.
#[test]
fn neither_a_failed_node_nor_the_guest_on_it_is_said_to_be_good() {
    let result = refused("node.quote", |case| *case.evidence.node.quote.signature.last_mut().unwrap() ^= 1);
    assert_eq!(said(&result.submodules["guest"]), (Tier::Contraindicated, REFUSED));
    assert_eq!(said(&result.submodules["node"]), (Tier::Contraindicated, REFUSED));
    let result = refused("policy.revoked", |case| case.revocations = None);
    assert_eq!(said(&result.submodules["guest"]), (Tier::Contraindicated, REFUSED));
    assert_eq!(result.submodules["node"].status, Tier::Affirming, "nothing was found against it");
}

/// Two good values may begin with the same firmware: the one that fits whole is the reference.
#[test]
fn a_trust_domain_is_held_against_the_values_that_it_fits_whole() {
    let mut case = World::tdx(0).build();
    case.change_references(|payload| {
        let domains = payload["confidential"][0]["tdx"].as_array_mut().unwrap();
        let mut newer = domains.last().unwrap().clone();
        newer["rtmr"][2] = json!(["5c".repeat(48)]);
        domains.insert(0, newer);
    });
    assert_eq!(case.appraise().failed(), None);
}

#[test]
fn as_many_devices_as_the_limit_are_looked_at() {
    let mut case = World::snp(1).build();
    case.evidence.gpus = vec![case.evidence.gpus[0].clone(); 32];
    let (failed, detail) = only_failure(&case.appraise());
    assert!(failed.starts_with("gpu."), "{failed}: {detail}");
}

/// A list may name a chip of Turin by the eight bytes that it has, and no other chip by its first eight.
#[test]
fn the_enrolled_processor_of_a_revoked_chip_is_refused() {
    let judge = |chip: &str, listed: &str| {
        let mut case = Case::good();
        let mut payload: Value = serde_json::from_str(&References::good().payload()).unwrap();
        payload["machines"] = json!([{ "ek": hex::encode(Sha256::digest(&case.ek_chain[0])), "chip_id": chip, "gpus": [] }]);
        case.references = crate::references::of(&payload).unwrap();
        case.revocations = Some(world::revocations(|list| _ = list.chips.insert(listed.to_owned())));
        case.appraise().failed().map(|check| check.name.clone())
    };
    let (turin, genoa, eight) = ("c5".repeat(8) + &"00".repeat(56), "c5".repeat(64), "c5".repeat(8));
    let revoked = Some("policy.revoked".to_owned());
    assert_eq!(judge(&turin, &"99".repeat(8)), None);
    assert_eq!(judge(&turin, &eight), revoked);
    assert_eq!(judge(&turin, &turin), revoked);
    assert_eq!(judge(&genoa, &eight), None);
    assert_eq!(judge(&genoa, &genoa), revoked);
}

#[test]
fn a_request_about_a_confidential_vm_says_its_nonce_and_whether_it_brings_trust() {
    let case = World::snp(0).build();
    let good = json!({
        "version": 1, "kind": "confidential",
        "evidence": { "evidence": BASE64.encode(case.encoded()) },
        "endorsements": {
            "node_chain": [], "ek_chain": [], "cpu": { "snp": { "chain": [] } },
            "gpu": { "manifests": [], "ocsp": [], "crls": [] },
        },
        "policy": case.policy,
        "expectation": {
            "instance": INSTANCE, "workload_digest": hex::encode(WORKLOAD), "nonce": hex::encode(NONCE),
            "devices": { "gpus": 0, "switches": 0 },
        },
    });
    let parse = |request: &Value| Request::from_json(request.to_string().as_bytes()).unwrap();
    assert_eq!((parse(&good).nonce(), parse(&good).brings_trust()), (Some(NONCE), false));
    let key = world::reference_key();
    let mut brings = good;
    brings["references"] = json!({
        "signed": BASE64.encode(signed_references(&case.payload.to_string(), &key)),
        "key": hex::encode(key.verifying_key().as_bytes()),
    });
    assert!(parse(&brings).brings_trust());
}

#[test]
fn what_was_left_to_the_platform_is_said() {
    let result = Case::good().appraise();
    let said = |text: &String| text.contains("it is left to the platform, which judges it before it certifies a node");
    assert!(result.warnings.iter().chain(result.checks.iter().map(|check| &check.detail)).any(said), "{:?}", result.warnings);
}

//! The JSON that people see and that is stored.

use casemate_verifier::AttestationResult;

use crate::world::Case;

#[test]
fn a_stored_result_reads_back_but_never_holds_a_guest() {
    let result = Case::good().appraise();
    let json = serde_json::to_string(&result).unwrap();
    let stored: AttestationResult = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::to_string(&stored).unwrap(), json);
    assert!(result.guest().is_some() && stored.is_affirming() && stored.guest().is_none());
}

#[test]
fn a_result_with_a_failed_check_is_not_affirming_whatever_its_status_says() {
    let mut value = serde_json::to_value(Case { nonce: [0; 32], ..Case::good() }.appraise()).unwrap();
    value["status"] = "affirming".into();
    let forged: AttestationResult = serde_json::from_value(value.clone()).unwrap();
    assert!(!forged.is_affirming());
    value["checks"] = serde_json::json!([]);
    let forged: AttestationResult = serde_json::from_value(value).unwrap();
    assert!(!forged.is_affirming());
}

#[test]
fn a_result_that_was_stored_before_submodules_still_reads() {
    let mut value = serde_json::to_value(Case::good().appraise()).unwrap();
    value.as_object_mut().unwrap().remove("submodules");
    let stored: AttestationResult = serde_json::from_value(value).unwrap();
    assert!(stored.submodules.is_empty() && stored.is_affirming() && stored.guest().is_none());
}

#[test]
fn a_result_with_a_bad_submodule_is_not_affirming() {
    let mut result = Case::good().appraise();
    result.submodules.get_mut("node").unwrap().status = casemate_verifier::Tier::Warning;
    assert!(!result.is_affirming() && result.guest().is_none());
    assert_eq!(result.worst(), casemate_verifier::Tier::Warning);
}

#[test]
fn the_shape_is_stable() {
    let mut result = Case { nonce: [0; 32], ..Case::good() }.appraise();
    result.checks.truncate(4);
    let guest = result.submodules.get_mut("guest").unwrap();
    assert_eq!(guest.claims["cpus"], 1);
    guest.claims = serde_json::Value::Null;
    let len = Case::good().encoded().len().to_string();
    assert_eq!(serde_json::to_string_pretty(&result).unwrap(), REFUSED.replace("LEN", &len));
    let good = serde_json::to_value(Case::good().appraise()).unwrap();
    let fields = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(fields(&good["anchors"][0]), "fingerprint kind proved simulated subject");
    assert_eq!(good["anchors"][0]["subject"], "CN=Casemate platform authority");
    assert_eq!(good["anchors"][1]["kind"], "tpm-vendor-root");
    assert_eq!(good["guest_os"], "casemate-guest-os 1");
    assert_eq!(good["checks"].as_array().unwrap().len(), 26);
    assert_eq!(good["submodules"]["node"]["trust"], serde_json::json!({"instance-identity": 2, "executables": 3, "hardware": 2}));
    assert_eq!(good["submodules"]["guest"]["claims"]["accel"], "kvm");
}

const REFUSED: &str = r#"{
  "version": 1,
  "status": "contraindicated",
  "platform": "microvm",
  "simulated": false,
  "instance": "0198c1f2-0000-7000-8000-000000000001",
  "workload_digest": "7777777777777777777777777777777777777777777777777777777777777777",
  "nonce_sha256": "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925",
  "launch_record_digest": null,
  "guest_os": null,
  "at": 1800000000,
  "checks": [
    {
      "name": "policy.platform",
      "outcome": "pass",
      "detail": "the policy asks for microvm"
    },
    {
      "name": "evidence.format",
      "outcome": "pass",
      "detail": "instance evidence, version 1, LEN bytes"
    },
    {
      "name": "evidence.nonce",
      "outcome": "fail",
      "detail": "expected 0000000000000000000000000000000000000000000000000000000000000000, seen a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5"
    },
    {
      "name": "node.certificate",
      "outcome": "not-reached",
      "detail": ""
    }
  ],
  "anchors": [],
  "warnings": [
    "level microvm: the evidence anchors in the node's TPM, not in the processor that runs the guest; a physical attack, a hole in the host's kernel, or whoever controls the host after its measured start is not stopped by it",
    "the guest's TPM is software on the same host: its quote is as strong as the node's measured launcher, and no root of trust of its own"
  ],
  "submodules": {
    "guest": {
      "kind": "microvm-guest",
      "status": "contraindicated",
      "trust": {
        "instance-identity": 99
      },
      "claims": null,
      "anchors": [],
      "tcb_age_s": null,
      "silicon": null,
      "simulated": false
    },
    "node": {
      "kind": "node",
      "status": "none",
      "trust": {},
      "claims": null,
      "anchors": [],
      "tcb_age_s": null,
      "silicon": null,
      "simulated": false
    }
  }
}"#;

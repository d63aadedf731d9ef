//! Requests: what is accepted, what is refused by which check, and what is no request.

use std::fs;

use serde_json::{Value, json};

use crate::{KINDS, answer, casemate, done, example, example_path};

#[test]
fn a_good_request_exits_with_0_and_a_refused_one_with_2() {
    let good = example("tdx");
    let output = casemate(&["verify", "--json"], good.to_string().as_bytes());
    let response = answer(&output);
    assert_eq!((output.status.code(), response["accepted"].as_bool()), (Some(0), Some(true)), "{response}");

    let mut bad = good.clone();
    bad["expectation"]["report_data"] = json!("ab".repeat(64));
    let output = casemate(&["verify", "--json"], bad.to_string().as_bytes());
    let response = answer(&output);
    assert_eq!((output.status.code(), response["accepted"].as_bool()), (Some(2), Some(false)));
    assert_eq!(response["failed"]["name"], "tdx.report-data");

    let output = casemate(&["verify", "--json", "--at", "2035-01-01T00:00:00Z"], good.to_string().as_bytes());
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(answer(&output)["failed"]["name"], "tdx.pck-chain");
}

#[test]
fn a_request_in_a_file_is_judged_without_a_context_and_by_the_policy_that_is_given() {
    let good = example("tdx");
    let folder = tempfile::tempdir().unwrap();
    let (request, policy) = (folder.path().join("request.json"), folder.path().join("never.rego"));
    fs::write(&request, good.to_string()).unwrap();
    fs::write(&policy, "package casemate.appraisal\nimport rego.v1\ndefault allow := false\ndeny contains \"never\" if true\n")
        .unwrap();
    let (request, policy) = (request.to_str().unwrap(), policy.to_str().unwrap());

    let output = casemate(&["verify", "--evidence", request], b"");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("verdict: affirming") && !text.contains("\npolicy: "), "{text}");

    let output = casemate(&["verify", "--evidence", request, "--policy", policy, "--output", "json"], b"");
    assert_eq!(output.status.code(), Some(2));
    let failed = &answer(&output)["failed"];
    assert_eq!(failed["name"], "policy.appraisal");
    assert!(failed["detail"].as_str().unwrap().contains("never@sha256:"), "{failed}");
}

#[test]
fn what_is_no_request_exits_with_1_and_says_why_in_json() {
    for input in [&b""[..], b"{", b"[]", br#"{"version": 9, "kind": "snp"}"#, br#"{"version": 1, "kind": "sgx"}"#] {
        let output = casemate(&["verify", "--json"], input);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(answer(&output)["error"].is_string());
    }
}

#[test]
fn a_command_line_without_a_question_is_wrong_usage() {
    for args in [&["verify"][..], &["verify", "--json", "--save", "x"], &["verify", "i", "--evidence", "x"]] {
        let output = casemate(args, b"{}");
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn each_example_of_the_documentation_is_accepted_on_standard_input_and_as_a_file() {
    for kind in KINDS {
        let output = casemate(&["verify", "--json"], example(kind).to_string().as_bytes());
        let response = answer(&output);
        assert_eq!((output.status.code(), &response["accepted"]), (Some(0), &json!(true)), "{kind}: {}", response["failed"]);
        assert_eq!((&response["kind"], &response["failed"], &response["version"]), (&json!(kind), &Value::Null, &json!(1)));
        assert!(response["checks"].as_array().unwrap().iter().all(|check| check["outcome"] == "pass"), "{kind}");

        let path = example_path(kind);
        let path = path.to_str().unwrap();
        let table = done(&["verify", "--evidence", path]);
        assert!(table.contains("verdict: affirming") && table.contains("OUTCOME"), "{kind}: {table}");
        let from_file: Value = serde_json::from_str(&done(&["verify", "--evidence", path, "--output", "json"])).unwrap();
        assert_eq!(from_file, response, "{kind}");
    }
}

#[test]
fn each_kind_is_refused_by_the_check_that_fails() {
    let changes = [
        ("tpm", "/expectation/nonce", json!("00".repeat(32)), "evidence.nonce"),
        ("tpm", "/expectation/ak", json!({ "name": format!("000b{}", "00".repeat(32)) }), "node.ak"),
        ("tpm", "/policy/boot/min_dbx_entries", json!(1), "node.boot-policy"),
        ("instance", "/expectation/nonce", json!("00".repeat(32)), "evidence.nonce"),
        ("instance", "/expectation/workload_digest", json!("00".repeat(32)), "workload.digest"),
        ("instance", "/policy", json!({}), "policy.simulated"),
        ("instance", "/endorsements/node_chain", json!([]), "node.certificate"),
        ("confidential", "/expectation/nonce", json!("00".repeat(32)), "evidence.nonce"),
        ("confidential", "/expectation/devices/gpus", json!(2), "gpu.count"),
        ("confidential", "/policy/revocation_floor", json!(18), "policy.revoked"),
        ("confidential", "/endorsements/gpu/ocsp", json!([]), "gpu.revocation"),
        ("confidential", "/policy/danger_allow_simulated", json!(false), "policy.simulated"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("request.json");
    for (kind, place, value, check) in changes {
        let mut request = example(kind);
        *request.pointer_mut(place).unwrap() = value;
        let output = casemate(&["verify", "--json"], request.to_string().as_bytes());
        let response = answer(&output);
        assert_eq!(output.status.code(), Some(2), "{kind} {place}: {output:?}");
        assert_eq!((&response["accepted"], &response["failed"]["name"]), (&json!(false), &json!(check)), "{kind} {place}");

        fs::write(&file, request.to_string()).unwrap();
        let output = casemate(&["verify", "--evidence", file.to_str().unwrap(), "--output", "table"], b"");
        assert_eq!(output.status.code(), Some(2), "{kind} {place}");
        let (table, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(table.contains(check) && !table.contains("verdict: affirming"), "{table}");
        assert!(said.contains(&format!("refused: check {check} failed")) && said.contains("hint: "), "{said}");
    }
}

#[test]
fn the_time_that_is_given_decides_over_the_requests() {
    for kind in ["snp", "tdx", "gpu", "instance", "confidential"] {
        for at in ["2035-01-01T00:00:00Z", "1000000000"] {
            let path = example_path(kind);
            let output = casemate(&["verify", "--evidence", path.to_str().unwrap(), "--at", at, "--output", "json"], b"");
            assert_eq!(output.status.code(), Some(2), "{kind} at {at}");
            assert_eq!(answer(&output)["accepted"], false);
        }
    }
}

#[test]
fn a_request_with_a_fault_in_its_form_says_where() {
    let faults = [
        ("tpm", "/evidence", "more"),
        ("instance", "/expectation", "more"),
        ("confidential", "/policy", "more"),
        ("snp", "", "anchors"),
    ];
    for (kind, place, name) in faults {
        let mut request = example(kind);
        request.pointer_mut(place).unwrap()[name] = json!({});
        let output = casemate(&["verify", "--json"], request.to_string().as_bytes());
        assert_eq!(output.status.code(), Some(1), "{kind}");
        let error = answer(&output)["error"].as_str().unwrap().to_owned();
        assert!(error.contains(&format!("unknown field `{name}`")), "{kind}: {error}");
    }
    let mut request = example("instance");
    request["references"]["key"] = json!("00".repeat(32));
    let output = casemate(&["verify", "--json"], request.to_string().as_bytes());
    assert_eq!(output.status.code(), Some(1));
    assert!(answer(&output)["error"].as_str().unwrap().contains("reference values"));
}

//! The program judges requests: answers on standard output, and exit statuses.

// Clippy knows tests by their attribute; these are helpers of tests.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_verifier::tdx::TdxPolicy;
use serde_json::{Value, json};

const ZERO: &str = "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";

fn casemate(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_casemate"))
        .args(args)
        .env_remove("CASEMATE_CONTEXT")
        .env("HOME", "/nonexistent")
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may be done before it has read anything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn answer(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn vector(name: &str) -> Option<Vec<u8>> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    let folder = std::env::var_os("CASEMATE_VECTORS").map_or_else(default, PathBuf::from);
    if !folder.is_dir() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no vectors at {}; set CASEMATE_VECTORS to their folder", folder.display());
        return None;
    }
    Some(fs::read(folder.join(name)).unwrap())
}

/// A quote of a real machine, expected to be what it is. Offsets: header 48, then TD report 1.0.
fn tdx() -> Option<Value> {
    let quote = vector("tdx/v4-uptodate.quote.bin")?;
    let field = |at: usize, len: usize| hex::encode(&quote[48 + at..48 + at + len]);
    let rtmr = |index: usize| json!({ "one_of": [field(328 + 48 * index, 48)] });
    Some(json!({
        "version": 1, "kind": "tdx", "at": 1_750_420_800,
        "evidence": { "quote": BASE64.encode(&quote) },
        "endorsements": { "collateral": BASE64.encode(vector("tdx/v4-uptodate.collateral.json").unwrap()) },
        "policy": TdxPolicy::strict(),
        "expectation": {
            "mrtd": [field(136, 48)], "rtmrs": [rtmr(0), rtmr(1), rtmr(2), rtmr(3)],
            "config_id": field(184, 48), "owner": field(232, 48), "owner_config": field(280, 48),
            "service_td": ZERO, "report_data": field(520, 64),
        },
    }))
}

#[test]
fn a_good_request_exits_with_0_and_a_refused_one_with_2() {
    let Some(good) = tdx() else { return };
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
    assert_eq!(answer(&output)["failed"]["name"], "tdx.collateral");
}

#[test]
fn a_request_in_a_file_is_judged_without_a_context_and_by_the_policy_that_is_given() {
    let Some(good) = tdx() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (request, policy) = (folder.path().join("request.json"), folder.path().join("never.rego"));
    fs::write(&request, good.to_string()).unwrap();
    fs::write(&policy, "package casemate.appraisal\nimport rego.v1\ndefault allow := false\ndeny contains \"never\" if true\n")
        .unwrap();
    let (request, policy) = (request.to_str().unwrap(), policy.to_str().unwrap());

    let output = casemate(&["verify", "--evidence", request], b"");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("verdict: Affirming") && text.contains("policy: casemate-strict@sha256:"), "{text}");

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
fn evidence_is_shown_and_what_is_none_is_an_error_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nothing");
    fs::write(&file, "\u{1b}[2J").unwrap();
    let output = casemate(&["evidence", "show", file.to_str().unwrap()], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("hint:"));

    let Some(log) = vector("tdx/ovmf.ccel.bin") else { return };
    fs::write(&file, log).unwrap();
    let output = casemate(&["evidence", "show", file.to_str().unwrap(), "--output", "json"], b"");
    let shown = answer(&output);
    let expected = "775b9f6bfe99f8a31396f0d0218e67ffa796d3b96ccf961cbb0deba48c79c00f082cda1a5567c1c16305f1fc210c13c6";
    assert_eq!(shown["content"]["replayed"]["rtmr"][1], expected);
    let output = casemate(&["--json", "reference", "compute", "tdx-rtmr", "--event-log", file.to_str().unwrap()], b"");
    assert_eq!(answer(&output)["rtmr1"], expected);
}

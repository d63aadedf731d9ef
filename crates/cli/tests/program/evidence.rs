//! `casemate evidence show`: every kind, readable and as JSON.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use crate::{bytes, done, example, example_path, fails};

/// Writes `content`, shows it as JSON: its kind and its content.
fn shown(file: &Path, content: &[u8]) -> (String, Value) {
    fs::write(file, content).unwrap();
    let shown: Value = serde_json::from_str(&done(&["evidence", "show", file.to_str().unwrap(), "--output", "json"])).unwrap();
    (shown["kind"].as_str().unwrap().to_owned(), shown["content"].clone())
}

fn parts() -> Vec<(&'static str, Vec<u8>)> {
    let (snp, tdx, gpu, tpm) = (example("snp"), example("tdx"), example("gpu"), example("tpm"));
    let device = &gpu["evidence"]["devices"][0];
    let pem = |der: &Value| {
        let text = der.as_str().unwrap().as_bytes();
        let lines: Vec<&str> = text.chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    let chain: String = device["chain"].as_array().unwrap().iter().map(pem).collect();
    let devices = json!([{ "arch": "HOPPER", "evidence": device["report"], "certificate": BASE64.encode(&chain) }]);
    vec![
        ("AMD SEV-SNP report", bytes(&snp["evidence"]["report"])),
        ("X.509 certificate", bytes(&snp["endorsements"]["chain"][0])),
        ("X.509 revocation list", bytes(&snp["endorsements"]["crl"])),
        ("Intel TDX or SGX quote", bytes(&tdx["evidence"]["quote"])),
        ("TDX collateral", bytes(&tdx["endorsements"]["collateral"])),
        ("NVIDIA device report", bytes(&device["report"])),
        ("NVIDIA device evidence (JSON)", devices.to_string().into_bytes()),
        ("NVIDIA reference manifest", bytes(&gpu["endorsements"]["manifests"][0]["document"])),
        ("PEM", chain.into_bytes()),
        ("TPM attestation (TPMS_ATTEST)", bytes(&tpm["evidence"]["attest"])),
        ("TPM signature (TPMT_SIGNATURE)", bytes(&tpm["evidence"]["signature"])),
        ("TPM public area (TPMT_PUBLIC)", bytes(&tpm["evidence"]["ak_public"])),
        ("firmware event log", bytes(&tpm["evidence"]["event_log"])),
        ("evidence of an instance", bytes(&example("instance")["evidence"]["evidence"])),
        ("evidence of a confidential VM", bytes(&example("confidential")["evidence"]["evidence"])),
        ("signed values", bytes(&example("instance")["references"]["signed"])),
        ("appraisal request", fs::read(example_path("confidential")).unwrap()),
    ]
}

#[test]
fn each_kind_is_known_raw_and_as_text_and_shown_without_the_programs_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("evidence");
    for (kind, content) in parts() {
        let (seen, value) = shown(&file, &content);
        assert_eq!((seen.as_str(), value.is_object()), (kind, true));
        assert_eq!(shown(&file, BASE64.encode(&content).as_bytes()), (seen.clone(), value.clone()), "{kind} in base64");
        assert_eq!(shown(&file, hex::encode(&content).as_bytes()), (seen, value), "{kind} in hexadecimal digits");

        let tree = done(&["evidence", "show", file.to_str().unwrap()]);
        assert!(tree.starts_with(&format!("{kind}, not verified\n")), "{tree}");
        for word in ["Some(", "None", "Ok(", " { ", "Bytes(", "Alg::", "\\u"] {
            assert!(!tree.contains(word), "{kind}: {word} in {tree}");
        }
    }
}

#[test]
fn the_trees_are_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("evidence");
    let names = [
        ("AMD SEV-SNP report", "snp_report"),
        ("X.509 certificate", "certificate"),
        ("X.509 revocation list", "revocation_list"),
        ("Intel TDX or SGX quote", "tdx_quote"),
        ("TPM attestation (TPMS_ATTEST)", "tpm_attest"),
        ("TPM public area (TPMT_PUBLIC)", "tpm_public"),
        ("firmware event log", "event_log"),
    ];
    for (kind, name) in names {
        let (_, content) = parts().into_iter().find(|(known, _)| *known == kind).unwrap();
        fs::write(&file, content).unwrap();
        insta::assert_snapshot!(name, done(&["evidence", "show", file.to_str().unwrap()]));
    }
}

#[test]
fn what_is_no_evidence_is_an_error_that_says_what_was_tried() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nothing");
    let report = bytes(&example("snp")["evidence"]["report"]);
    let certificate = bytes(&example("snp")["endorsements"]["chain"][0]);
    for content in [&b"\x1b[2J"[..], b"", b"{}", &report[..100], &certificate[..certificate.len() - 1]] {
        fs::write(&file, content).unwrap();
        let said = fails(&["evidence", "show", file.to_str().unwrap()], 1);
        for part in ["hint: ", "AMD SEV-SNP report: ", "X.509 certificate: ", "IMA list (ASCII): "] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!said.contains('\x1b'));
    }
    assert!(fails(&["evidence", "show", "/nonexistent/file"], 1).contains("read /nonexistent/file"));
}

#[test]
fn a_private_key_is_named_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    let secret = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
    fs::write(&file, format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n")).unwrap();
    let tree = done(&["evidence", "show", file.to_str().unwrap()]);
    assert!(tree.contains("PRIVATE KEY") && !tree.contains("9d61b19d"), "{tree}");
}

#[test]
fn a_log_is_shown_and_computed_with_the_same_registers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let (_, content) = shown(&file, &bytes(&example("tpm")["evidence"]["event_log"]));
    let quoted = &example("tpm")["evidence"]["pcrs"]["sha256"];
    for args in [&["--json", "reference", "compute", "pcrs"][..], &["reference", "compute", "pcrs", "--output", "json"]] {
        let computed: Value = serde_json::from_str(&done(&[args, &["--event-log", file.to_str().unwrap()]].concat())).unwrap();
        for pcr in 0..8 {
            let shown = &content["replayed"]["sha256"][pcr.to_string()];
            assert_eq!((shown, &computed[format!("pcr{pcr}")]), (&quoted[pcr.to_string()], &quoted[pcr.to_string()]), "{pcr}");
        }
    }
}

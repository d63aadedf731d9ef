//! The main job, and what anybody can check of it afterwards.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_evidence::instance::{InstanceEvidence, Record as _};
use casemate_testbed::{Bed, BedOptions};
use serde_json::Value;

use crate::support::{Background, MARKER, prepare, run_args};

#[test]
fn runs_a_workload_on_encrypted_data_and_leaves_nothing() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    prepare(&bed);
    let run = bed.casemate(&run_args(&["--output", "out"], &[])).expect_code(0);
    assert!(run.stdout.contains("hello from uid 65534 pid 1\n"), "{}", run.stdout);
    assert!(run.stdout.contains(&format!("data has {} bytes", MARKER.len() + 1)), "{}", run.stdout);
    for step in ["scheduled", "prepared", "booted", "attested", "keyed", "wiped", "receipt"] {
        assert!(run.stderr.contains(&format!("ok {step}")), "no {step} in:\n{}", run.stderr);
    }
    for by in ["platform", "you"] {
        for check in ["node.quote", "guest.binding", "workload.digest", "guest.kernel"] {
            let line = |line: &&str| line.contains(&format!("ok {by} ")) && line.contains(check);
            assert!(run.stderr.lines().any(|l| line(&l)), "{by} did not show {check}:\n{}", run.stderr);
        }
    }
    assert_eq!(fs::read_to_string(bed.work().join("out/result.txt")).unwrap(), format!("result {}\n", MARKER.len() + 1));
    bed.assert_no_instance_remains();

    let instance = run.instance();
    let receipt = bed.casemate(&["receipt", "verify", &instance, "--output", "json"]).expect_code(0);
    refuses_an_altered_receipt(&bed, &receipt.stdout);
    let logs = bed.casemate(&["logs", &instance, "--results", "again"]).expect_code(0);
    assert!(logs.stdout.contains("done\n"));
    assert!(bed.work().join("again/result.txt").is_file());

    let failed = bed.casemate(&run_args(&[], &["0", "7"])).expect_code(3);
    assert!(failed.stderr.contains("status 7"), "{}", failed.stderr);
    bed.casemate(&["rm", &instance]).expect_code(0);
    assert!(bed.instances().iter().all(|other| other["id"] != instance.as_str()));
    no_secret_is_stored(&bed);
    bed.finish();
}

fn refuses_an_altered_receipt(bed: &Bed, receipt: &str) {
    let file = bed.work().join("receipt.json");
    let check = |value: &Value| {
        fs::write(&file, value.to_string()).unwrap();
        bed.casemate(&["receipt", "verify", "--file", "receipt.json"])
    };
    let good: Value = serde_json::from_str(receipt).unwrap();
    check(&good).expect_code(0);
    let mut altered = good.clone();
    altered["body"] = good["body"].as_str().unwrap().replace("overwritten", "overwrittem").into();
    assert_ne!(altered, good, "the receipt names how memory was wiped, or this test proves nothing");
    check(&altered).expect_refusal("receipt.signature");
    let mut foreign = good.clone();
    let mut signature = BASE64.decode(good["signature"].as_str().unwrap()).unwrap();
    signature[7] ^= 1;
    foreign["signature"] = BASE64.encode(signature).into();
    check(&foreign).expect_refusal("receipt.signature");
}

/// Greps everything that platform, node and tenant keep for the data and its key.
fn no_secret_is_stored(bed: &Bed) {
    let key = fs::read_to_string(bed.work().join("data.key")).unwrap().trim().to_owned();
    let raw: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&key[2 * i..2 * i + 2], 16).unwrap()).collect();
    let needles: [&[u8]; 3] = [MARKER.as_bytes(), key.as_bytes(), &raw];
    let mut files = 0;
    walk(&bed.state(), &mut |path| {
        files += 1;
        let bytes = fs::read(path).unwrap_or_default();
        for needle in needles {
            assert!(!bytes.windows(needle.len()).any(|window| window == needle), "a secret is in {}", path.display());
        }
    });
    assert!(files > 10, "looked at only {files} files");
    let mode = fs::metadata(bed.state()).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others can enter the state folder (mode {mode:o})");
}

pub(crate) fn walk(dir: &Path, see: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), see),
            Ok(kind) if kind.is_file() => see(&entry.path()),
            _ => {}
        }
    }
}

#[test]
fn evidence_can_be_judged_by_anybody_and_only_for_its_question() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    prepare(&bed);
    let mut run = Background::start(&bed, &run_args(&[], &["20"]));
    let instance = run.instance();
    run.wait_for("ok running");
    secrets_are_not_in_process_tables(&bed);
    bed.casemate(&["verify", &instance, "--save", "evidence.json"]).expect_code(0);
    let saved: Value = serde_json::from_slice(&fs::read(bed.work().join("evidence.json")).unwrap()).unwrap();
    let at = saved["received_at"].as_u64().unwrap();
    let offline = |at: u64| bed.casemate(&["verify", "--evidence", "evidence.json", "--at", &at.to_string(), "--output", "json"]);
    let good = offline(at).expect_code(0);
    assert!(good.stdout.contains("\"simulated\": true"), "{}", good.stdout);
    assert_eq!(good.stdout, offline(at).stdout, "the same question has the same answer");
    offline(at + 3 * 3600).expect_refusal("node.certificate");
    outside_tool_accepts_the_quote(&bed, &saved);
    let mut strict: Value = serde_json::from_slice(&fs::read(bed.context()).unwrap()).unwrap();
    strict["allow_simulated"] = false.into();
    let strict_file = bed.work().join("strict.json");
    fs::write(&strict_file, strict.to_string()).unwrap();
    let at_text = at.to_string();
    bed.casemate_in(&["verify", "--evidence", "evidence.json", "--at", &at_text], Some(&strict_file))
        .expect_refusal("policy.simulated");
    bed.casemate(&["stop", &instance]).expect_code(0);
    assert_ne!(run.finish().code, 0, "a stopped run has not succeeded");
    bed.assert_no_instance_remains();
    bed.finish();
}

fn secrets_are_not_in_process_tables(bed: &Bed) {
    let key = fs::read_to_string(bed.work().join("data.key")).unwrap().trim().to_owned();
    let context: Value = serde_json::from_slice(&fs::read(bed.context()).unwrap()).unwrap();
    let token = context["token"].as_str().unwrap();
    let mut looked = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            looked += usize::from(!bytes.is_empty());
            for secret in [MARKER, &key, token] {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "a secret is in {:?}", entry.path());
            }
        }
    }
    assert!(looked > 10);
}

/// `tpm2_checkquote` of tpm2-tools judges the node's quote by itself.
fn outside_tool_accepts_the_quote(bed: &Bed, saved: &Value) {
    let bytes = BASE64.decode(saved["bundle"]["evidence"].as_str().unwrap()).unwrap();
    let evidence = InstanceEvidence::decode(&bytes).unwrap();
    let dir = bed.work().join("quote");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("msg"), &evidence.node.attest).unwrap();
    fs::write(dir.join("sig"), &evidence.node.signature).unwrap();
    fs::write(dir.join("ak.tpmt"), &evidence.node.ak_public).unwrap();
    // tpm2_checkquote wants a TPM2B_PUBLIC or PEM: a size in front makes it one.
    let size = u16::try_from(evidence.node.ak_public.len()).unwrap().to_be_bytes();
    fs::write(dir.join("ak.pub"), [&size[..], &evidence.node.ak_public].concat()).unwrap();
    let leaf = casemate_evidence::instance::instance_leaf(
        &evidence.nonce,
        &evidence.launch_record,
        &evidence.guest_keys,
        &evidence.guest.attest,
    );
    let root = casemate_evidence::merkle::root_of(&leaf, &evidence.batch).unwrap();
    let check = |qualifying: &[u8; 32]| {
        let hex: String = qualifying.iter().map(|byte| format!("{byte:02x}")).collect();
        Command::new("tpm2_checkquote")
            .args(["-u", "ak.pub", "-m", "msg", "-s", "sig", "-g", "sha256", "-q", &hex])
            .current_dir(&dir)
            .output()
            .unwrap()
    };
    let good = check(&root);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(!check(&[7; 32]).status.success(), "another nonce must be refused, or the tool checked nothing");
}

//! What protects an instance: the score card of a real one, and the ways out tried from the inside.

use std::{
    fs,
    time::{Duration, Instant},
};

use casemate_testbed::{Bed, BedOptions, static_program};
use serde_json::Value;

use crate::support::{Background, prepare, run_args};

#[test]
fn the_score_card_of_a_machine_says_what_was_seen_and_by_whom() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    prepare(&bed);
    let mut run = Background::start(&bed, &run_args(&[], &["30"]));
    let instance = run.instance();
    run.wait_for("ok running");
    let card = card_with_the_guests_lines(&bed, &instance);
    assert!(card["observed_at_ms"].as_u64().is_some(), "{card}");
    let line = |item: &str| line_of(&card, item);
    let held = [
        "jail-user",
        "jail-no-new-privs",
        "jail-seccomp",
        "jail-landlock",
        "jail-capabilities",
        "jail-namespaces",
        "jail-cgroup",
        "jail-verified",
        "memory-private",
        "memory-no-merge",
        "memory-no-dump",
        "vmm-verified",
        "node-software-verified",
        "guest-verified",
        "guest-root-verity",
        "guest-scratch-encrypted",
        "guest-no-swap",
        "guest-lockdown",
        "guest-modules-off",
        "guest-settings",
        "guest-kernel-options",
        "guest-workload-confined",
    ];
    for item in held {
        assert_eq!(line(item)["state"], "held", "{}", line(item));
    }
    // A TPM in software proves no hardware, and the bed's agent is nobody's child.
    assert_eq!(line("tpm-verified")["state"], "missing", "{}", line("tpm-verified"));
    assert_ne!(line("monitor")["state"], "held");
    let emulated = line("vmm-kvm")["state"] == "missing";
    assert_eq!(emulated, bed.casemate(&["nodes", "--output", "json"]).expect_code(0).stdout.contains("\"tcg\""));
    let table = bed.casemate(&["inspect", &instance]).expect_code(0).stdout;
    assert!(
        table.lines().any(|line| line.starts_with("L1 ") && line.contains("held") && line.contains("launch record")),
        "{table}"
    );
    bed.casemate(&["stop", &instance]).expect_code(0);
    run.finish();
    bed.finish();
}

/// The guest looks after the workload's first words.
fn card_with_the_guests_lines(bed: &Bed, instance: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let inspected = bed.casemate(&["inspect", instance, "--output", "json"]).expect_code(0);
        let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
        let card = inspected["score_card"].clone();
        if line_of(&card, "guest-kernel-options")["state"] != "not-observed" {
            return card;
        }
        assert!(Instant::now() < deadline, "the guest never said what it sees: {card}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn line_of(card: &Value, item: &str) -> Value {
    card["lines"].as_array().unwrap().iter().find(|line| line["item"] == item).unwrap().clone()
}

#[test]
fn nothing_gets_out_of_a_machine() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    let tried = bed.casemate(&["selftest", "--level", "microvm", "--output", "json"]).expect_code(0);
    let report: Value = serde_json::from_str(&tried.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.len() >= 30, "{report}");
    let blocked = findings.iter().filter(|finding| finding["outcome"] == "blocked").count();
    assert!(blocked >= 20 && findings.iter().all(|finding| finding["outcome"] != "through"), "{report}");
    a_report_is_taken_for_what_it_is(&bed);
    bed.assert_no_instance_remains();
    bed.finish();
}

#[test]
fn nothing_gets_out_of_a_container_or_sandbox_and_the_card_says_what_holds_it() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    for level in ["container", "sandbox"] {
        let tried = bed.casemate(&["selftest", "--level", level, "--output", "json"]).expect_code(0);
        let report: Value = serde_json::from_str(&tried.stdout).unwrap();
        assert_eq!(report["level"], level);
        let findings = report["findings"].as_array().unwrap();
        let blocked = findings.iter().filter(|finding| finding["outcome"] == "blocked").count();
        assert!(blocked >= 15 && findings.iter().all(|finding| finding["outcome"] != "through"), "{report}");
        let instance = report["instance"].as_str().unwrap();
        let inspected = bed.casemate(&["inspect", instance, "--output", "json"]).expect_code(0);
        let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
        let lines = inspected["score_card"]["lines"].as_array().unwrap();
        let state = |item: &str| lines.iter().find(|line| line["item"] == item).unwrap()["state"].clone();
        for item in ["jail-user", "jail-seccomp", "jail-namespaces", "jail-cgroup", "jail-verified", "vmm-verified"] {
            assert_eq!(state(item), "held", "{level}: {item}");
        }
        // There is neither a VMM nor a kernel of the guest's own.
        for item in ["jail-landlock", "vmm-kvm", "memory-private", "guest-root-verity", "guest-lockdown", "guest-verified"] {
            assert_eq!(state(item), "not-observed", "{level}: {item}");
        }
    }
    bed.assert_no_instance_remains();
    bed.finish();
}

/// A program in the place of the probes, which says what the test wants.
fn a_report_is_taken_for_what_it_is(bed: &Bed) {
    let through = r#"{\"version\":1,\"findings\":[{\"probe\":\"p\",\"tries\":\"t\",\"outcome\":\"through\",\"reason\":\"r\"}]}"#;
    for (name, report, code, expected) in
        [("through", through, 1, "GOT THROUGH"), ("contradicts", through, 0, "contradict"), ("empty", "{}", 0, "understand")]
    {
        let source = format!(
            "#include <stdio.h>\nint main(int argc, char **argv) {{ FILE *out = fopen(argv[2], \"w\"); fputs(\"{report}\", out); \
             fclose(out); return {code}; }}\n"
        );
        let program = bed.work().join(name);
        fs::write(&program, static_program(&source).unwrap()).unwrap();
        let said = bed.casemate(&["selftest", "--program", name]).expect_code(1);
        assert!(said.stdout.contains(expected) || said.stderr.contains(expected), "{name}: {}{}", said.stdout, said.stderr);
    }
}

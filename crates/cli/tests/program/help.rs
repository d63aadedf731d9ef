//! Help texts and completions. The texts are kept as snapshots: a change shows in review.

use crate::{casemate, done};

#[test]
fn help_texts_are_as_they_were() {
    let commands = [
        ("help", &["--help"][..]),
        ("help_verify", &["verify", "--help"]),
        ("help_evidence_show", &["evidence", "show", "--help"]),
        ("help_endorsements_fetch", &["endorsements", "fetch", "--help"]),
        ("help_reference", &["reference", "--help"]),
        ("help_reference_export", &["reference", "export", "--help"]),
        ("help_reference_compute_snp", &["reference", "compute", "snp", "--help"]),
    ];
    for (name, args) in commands {
        insta::assert_snapshot!(name, done(args));
    }
}

#[test]
fn completions_know_each_command_and_option() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = done(&["completions", shell]);
        for word in ["endorsements", "fetch", "reference", "export", "import", "amd-kds", "max-age", "evidence"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    assert_eq!(casemate(&["completions", "csh"], b"").status.code(), Some(64));
}

#[test]
fn the_script_for_bash_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("completions");
    std::fs::write(&file, done(&["completions", "bash"])).unwrap();
    let check = std::process::Command::new("bash").arg("-n").arg(&file).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

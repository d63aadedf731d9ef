//! The attack suite on every kernel: one boot each, side by side.

use std::{fs, path::Path, thread};

use casemate_testbed::node_guest::{Archive, Kernel, boot, kernels};
use serde_json::{Value, json};

/// What comes after the cases of `attacks/`.
const DRILLS: usize = 19;

/// A real virtual machine of the node's own is one more, on a kernel that lacks nothing.
/// With what it loads to emulate, which it looks for by its own place.
const VMM: [&str; 2] = ["usr/bin/qemu-system-x86_64", "usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so"];

/// What a kernel cannot refuse, for lack of a hook that is told enough: its class must say so, and these cases must show it.
const LACKS: [(&str, &str, [&str; 2]); 2] = [("6.12.", "memory", PROBES), ("7.", "memory", PROBES)];
const PROBES: [&str; 2] = ["set a probe into a program", "set a probe into the kernel"];

fn lack(kernel: &Kernel) -> Option<&'static (&'static str, &'static str, [&'static str; 2])> {
    LACKS.iter().find(|(version, ..)| kernel.version.starts_with(version))
}

#[test]
fn every_attack_is_met_and_every_lawful_act_passes_on_every_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let kernels = kernels(&folder.path().join("kernels"));
    let written = written_cases();
    assert!(written >= 120, "attacks/ has only {written} cases");
    let problems: Vec<String> = thread::scope(|scope| {
        let plays: Vec<_> = kernels.iter().map(|kernel| scope.spawn(|| play(kernel, folder.path(), written))).collect();
        plays.into_iter().flat_map(|one| one.join().unwrap()).collect()
    });
    assert!(problems.is_empty(), "{problems:#?}");
}

fn play(kernel: &Kernel, folder: &Path, written: usize) -> Vec<String> {
    let path = folder.join(format!("initrd-{}", kernel.version));
    fs::write(&path, initrd(kernel)).unwrap();
    let console = boot(kernel, &path, "/attacks");
    let told = |word: &str| -> Vec<Value> {
        let lines = console.iter().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    assert!(console.iter().any(|line| line == "SUITE-END"), "{}: the suite did not end: {console:#?}", kernel.version);
    assert!(!console.iter().any(|line| line.starts_with("SUITE-BROKEN")), "{}: {console:#?}", kernel.version);
    let (status, cases) = (told("STATUS"), told("CASE"));
    let lack = lack(kernel);
    let class =
        lack.map_or(json!({"name": "enforcing"}), |(_, group, _)| json!({"name": "enforcing_without", "groups": [group]}));
    assert_eq!(status[0]["class"], class, "{}: {}", kernel.version, status[0]);
    let drills = DRILLS + usize::from(lack.is_none());
    assert_eq!(cases.len(), written + drills, "{}: cases were left out: {console:#?}", kernel.version);
    eprintln!("{}: {} cases, {}, {:?}", kernel.version, cases.len(), told("RECORD")[0], told("NESTED"));
    let lacking = |case: &Value| lack.is_some_and(|(.., names)| names.iter().any(|name| case["name"] == *name));
    let passed = |case: &Value| case["problems"].as_array().is_some_and(Vec::is_empty);
    let wrong = cases.iter().filter(|case| passed(case) == lacking(case));
    wrong.map(|case| format!("{}: {case}", kernel.version)).collect()
}

/// The initrd of a node guest that plays `attacks/`.
fn initrd(kernel: &Kernel) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.program("monitor", Path::new(env!("CARGO_BIN_EXE_casemate-monitor")));
    archive.program("attacks", Path::new(env!("CARGO_BIN_EXE_casemate-attacks")));
    if lack(kernel).is_none() {
        VMM.iter().for_each(|path| archive.program(path, &Path::new("/").join(path)));
    }
    archive.file("module.ko", kernel.plain_module());
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../attacks");
    for entry in fs::read_dir(cases).unwrap() {
        let path = entry.unwrap().path();
        archive.file(&format!("cases/{}", path.file_name().unwrap().to_str().unwrap()), fs::read(&path).unwrap());
    }
    archive.bytes()
}

/// Counted here by their names, not by the player.
fn written_cases() -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../attacks");
    let texts = fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    texts.map(|text| text.matches("\n  - name: ").count()).sum()
}

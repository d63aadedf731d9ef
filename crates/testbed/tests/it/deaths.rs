//! What the tests of sudden ends share.

use std::{fs, path::Path, time::Duration};

use casemate_testbed::{Bed, BedOptions, Outcome};
use rustix::process::{Pid, Signal};

use crate::support::prepare;

/// Kills, and waits until the kernel has taken everything from it, as a service manager would before a restart.
pub(crate) fn kill(number: i32) {
    if let Some(pid) = Pid::from_raw(number) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    // A dead process may still have threads on their way out, which hold its files.
    let threads = || fs::read_dir(format!("/proc/{number}/task")).map_or(0, Iterator::count);
    let alive = || fs::read_to_string(format!("/proc/{number}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while alive() || threads() > 1 {
        std::thread::yield_now();
    }
}

/// How long the platform of a test waits for keys, where nobody lets it wait and where somebody does.
pub(crate) const PATIENT_MS: u64 = 30_000;
pub(crate) const IMPATIENT_MS: u64 = 4_000;

/// A platform that waits so long for keys.
pub(crate) fn start(keys_timeout_ms: u64) -> Bed {
    start_with(keys_timeout_ms, Vec::new())
}

/// The same with lines for the agent's configuration.
pub(crate) fn start_with(keys_timeout_ms: u64, agent_config: Vec<String>) -> Bed {
    let server_config = vec![format!("keys_timeout_ms = {keys_timeout_ms}")];
    let bed = Bed::start(&BedOptions { server_config, agent_config, ..BedOptions::default() }).unwrap();
    prepare(&bed);
    bed
}

/// A run told the truth: it succeeded with all of its output, or it failed and named why. Either way nothing is left.
#[track_caller]
pub(crate) fn told_the_truth(bed: &Bed, step: &str, run: Outcome) {
    match run.code {
        0 => assert!(run.stdout.contains("hello from") && run.stdout.contains("done\n"), "{step}: {}", run.stdout),
        2 => assert!(run.stderr.contains("refused: check "), "{step}: {}", run.stderr),
        code => panic!("{step}: status {code}\n{}", run.stderr),
    }
    assert!(run.stdout.matches("hello from").count() <= 1, "{step}: the workload ran twice:\n{}", run.stdout);
    bed.wait_instance(Duration::from_secs(30), |i| i["has_receipt"] == true);
    bed.assert_no_instance_remains();
}

/// Process numbers of the VMMs of this instance, of which there must be one.
pub(crate) fn machines(instance: &str) -> Vec<i32> {
    let found = running_machines(instance);
    assert!(!found.is_empty(), "no VMM of {instance}");
    found
}

/// Process numbers of the VMMs of this instance.
pub(crate) fn running_machines(instance: &str) -> Vec<i32> {
    processes_of(instance).into_iter().filter(|(_, program)| program == "qemu-system-x86_64").map(|(pid, _)| pid).collect()
}

/// The processes in the cgroup of this instance, and their programs.
pub(crate) fn processes_of(instance: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if cgroup.contains(instance) {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            // It has ended, and only its parent has not asked how yet.
            if command.is_empty() {
                continue;
            }
            let program = String::from_utf8_lossy(command.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
            let name = Path::new(&program).file_name().map(|name| name.to_string_lossy().into_owned());
            found.push((pid, name.unwrap_or_default()));
        }
    }
    found
}

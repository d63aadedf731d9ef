//! `kill -9` of each part at each step: afterwards the state is right, nothing leaks, nothing was started twice, and the
//! tenant is told the truth.

use std::{fs, path::Path, time::Duration};

use casemate_testbed::{Bed, BedOptions, Outcome};
use rustix::process::{Pid, Signal};

use crate::support::{Background, prepare, run_args};

/// Progress lines after which a part is killed.
const STEPS: [&str; 7] = ["ok instance", "ok accepted", "ok prepared", "ok booted", "ok attested", "ok keyed", "ok running"];

/// Kills, and waits until the kernel has taken everything from it, as a service manager would before a restart.
fn kill(number: i32) {
    if let Some(pid) = Pid::from_raw(number) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    let alive = || fs::read_to_string(format!("/proc/{number}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while alive() {
        std::thread::yield_now();
    }
}

fn start() -> Bed {
    let server_config = vec!["keys_timeout_ms = 4000".to_owned()];
    let bed = Bed::start(&BedOptions { server_config, ..BedOptions::default() }).unwrap();
    prepare(&bed);
    bed
}

/// A run told the truth: it succeeded with all of its output, or it failed and named why. Either way nothing is left.
#[track_caller]
fn told_the_truth(bed: &Bed, step: &str, run: Outcome) {
    match run.code {
        0 => assert!(run.stdout.contains("hello from") && run.stdout.contains("done\n"), "{step}: {}", run.stdout),
        2 => assert!(run.stderr.contains("refused: check "), "{step}: {}", run.stderr),
        code => panic!("{step}: status {code}\n{}", run.stderr),
    }
    assert!(run.stdout.matches("hello from").count() <= 1, "{step}: the workload ran twice:\n{}", run.stdout);
    bed.wait_instance(Duration::from_secs(30), |i| i["has_receipt"] == true);
    bed.assert_no_instance_remains();
}

#[test]
fn the_agent_may_die_at_any_step() {
    let bed = start();
    let mut survived = 0;
    for step in STEPS {
        let mut run = Background::start(&bed, &run_args(&[], &["3"]));
        run.wait_for(step);
        kill(bed.pid("agent").unwrap());
        bed.restart("agent").unwrap();
        let outcome = run.finish();
        survived += usize::from(outcome.code == 0);
        told_the_truth(&bed, step, outcome);
    }
    assert!(survived >= 3, "running machines must be adopted; only {survived} runs survived");
    bed.casemate(&run_args(&[], &[])).expect_code(0);
    bed.finish();
}

#[test]
fn the_server_may_die_at_any_step() {
    let bed = start();
    let mut survived = 0;
    for step in STEPS {
        let mut run = Background::start(&bed, &run_args(&[], &["3"]));
        run.wait_for(step);
        kill(bed.pid("server").unwrap());
        bed.restart("server").unwrap();
        let outcome = run.finish();
        survived += usize::from(outcome.code == 0);
        told_the_truth(&bed, step, outcome);
    }
    assert!(survived >= 4, "only {survived} runs survived a restart of the server");
    bed.casemate(&run_args(&[], &[])).expect_code(0);
    bed.finish();
}

#[test]
fn the_machine_may_die_at_any_step() {
    let bed = start();
    for step in &STEPS[3..] {
        let mut run = Background::start(&bed, &run_args(&[], &["30"]));
        let instance = run.instance();
        run.wait_for(step);
        machines(&instance).into_iter().for_each(kill);
        let outcome = run.finish();
        assert!(!outcome.stdout.contains("done\n"), "{}", outcome.stdout);
        told_the_truth(&bed, step, outcome.expect_refusal("launch.vmm"));
    }
    bed.finish();
}

#[test]
fn the_command_line_may_die_at_any_step() {
    let bed = start();
    for step in STEPS {
        let mut run = Background::start(&bed, &run_args(&[], &["1"]));
        let instance = run.instance();
        if step != "ok instance" {
            run.wait_for(step);
        }
        run.kill();
        let ended = bed.wait_instance(Duration::from_secs(60), |i| i["id"] == instance.as_str() && i["has_receipt"] == true);
        let released = matches!(step, "ok keyed" | "ok running");
        if released {
            assert_eq!(ended["exit_code"], 0, "{step}: {ended}");
            let logs = bed.casemate(&["logs", "--follow", &instance]).expect_code(0);
            assert!(logs.stdout.contains("done\n"), "{step}: {}", logs.stdout);
        } else if ended["failure"].is_object() {
            assert_eq!(ended["failure"]["check"], "keys.timeout", "{step}: {ended}");
        }
        bed.assert_no_instance_remains();
    }
    bed.finish();
}

/// Process numbers of the VMMs of this instance.
fn machines(instance: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let name = String::from_utf8_lossy(&command);
        if cgroup.contains(instance) && Path::new(name.split('\0').next().unwrap_or_default()).ends_with("qemu-system-x86_64") {
            found.push(pid);
        }
    }
    assert!(!found.is_empty(), "no VMM of {instance}");
    found
}

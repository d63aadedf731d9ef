//! `kill -9` of each part at each step: afterwards the state is right, nothing leaks, nothing was started twice, and the
//! tenant is told the truth.

use std::time::Duration;

use crate::{
    deaths::{IMPATIENT_MS, PATIENT_MS, kill, machines, start, told_the_truth},
    support::{Background, run_args},
};

/// Progress lines after which the agent is killed; its failpoints are between them.
const STEPS: [&str; 7] = ["ok instance", "ok accepted", "ok prepared", "ok booted", "ok attested", "ok keyed", "ok running"];
/// After which server and command line are killed: they take part in more.
const MORE_STEPS: [&str; 12] = [
    "ok instance",
    "ok scheduled",
    "ok accepted",
    "ok prepared",
    "ok booted",
    "ok attested",
    "ok evidence",
    "ok keys",
    "ok keyed",
    "ok running",
    "ok exit",
    "ok wiped",
];

#[test]
fn the_agent_may_die_at_any_step() {
    let bed = start(PATIENT_MS);
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
    let bed = start(PATIENT_MS);
    let mut survived = 0;
    for step in MORE_STEPS {
        let mut run = Background::start(&bed, &run_args(&[], &["1"]));
        run.wait_for(step);
        kill(bed.pid("server").unwrap());
        bed.restart("server").unwrap();
        let outcome = run.finish();
        survived += usize::from(outcome.code == 0);
        told_the_truth(&bed, step, outcome);
    }
    assert!(survived >= 9, "only {survived} runs survived a restart of the server");
    bed.casemate(&run_args(&[], &[])).expect_code(0);
    bed.finish();
}

#[test]
fn the_server_may_die_before_there_is_an_instance() {
    let bed = start(PATIENT_MS);
    kill(bed.pid("server").unwrap());
    let run = bed.casemate(&run_args(&[], &[])).expect_code(1);
    assert!(run.stderr.contains("ok workload") && !run.stderr.contains("ok instance"), "{}", run.stderr);
    bed.restart("server").unwrap();
    bed.wait_connected().unwrap();
    assert_eq!(bed.instances().len(), 0, "nothing was created");
    bed.casemate(&run_args(&[], &[])).expect_code(0);
    bed.finish();
}

#[test]
fn the_machine_may_die_at_any_step() {
    let bed = start(PATIENT_MS);
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
    let bed = start(IMPATIENT_MS);
    for step in MORE_STEPS {
        let mut run = Background::start(&bed, &run_args(&[], &["1"]));
        let instance = run.instance();
        if step != "ok instance" {
            run.wait_for(step);
        }
        run.kill();
        let ended = bed.wait_instance(Duration::from_secs(60), |i| i["id"] == instance.as_str() && i["has_receipt"] == true);
        let released = matches!(step, "ok keys" | "ok keyed" | "ok running" | "ok exit" | "ok wiped");
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

//! The node under the security monitor, in the class that this machine's kernel allows: what it sees, it ends.

use std::{
    fs,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_testbed::{Bed, BedOptions};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    deaths::{kill, machines},
    hook::Hook,
    support::{Background, prepare, run_args, run_args_at},
};

/// Under the monitor, on a platform that revokes nobody so soon: each death is more than one incident.
pub(crate) fn options() -> BedOptions {
    BedOptions { monitored: true, server_config: SERVER.map(str::to_owned).to_vec(), ..BedOptions::default() }
}

const SERVER: [&str; 2] = ["strikes = 100", "webhooks.insecure_loopback = true"];

pub(crate) fn monitored() -> Bed {
    let bed = Bed::start(&options()).unwrap();
    prepare(&bed);
    bed
}

/// A context of the platform's operator.
pub(crate) fn operator(bed: &Bed) -> std::path::PathBuf {
    let server = casemate_testbed::build_dir().join("casemate-server");
    let config = bed.state().join("server.toml");
    let made = std::process::Command::new(server)
        .args(["token", "--role", "operator", "--subject", "operator-test", "--config"])
        .arg(config)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut context: Value = serde_json::from_slice(&fs::read(bed.context()).unwrap()).unwrap();
    context["token"] = String::from_utf8(made.stdout).unwrap().trim().into();
    let path = bed.work().join("operator.json");
    fs::write(&path, context.to_string()).unwrap();
    path
}

pub(crate) fn node(bed: &Bed) -> Value {
    let nodes: Value = serde_json::from_str(&bed.casemate(&["nodes", "--output", "json"]).expect_code(0).stdout).unwrap();
    nodes["nodes"][0].clone()
}

#[test]
fn a_breach_ends_the_machine_suspends_the_node_and_everybody_is_told() {
    let bed = monitored();
    assert_eq!(node(&bed)["inventory"]["monitor"]["class"], "observe_and_kill");
    // A good run under the monitor is like any other, and its score card says what the monitor can do.
    let run = bed.casemate(&run_args(&[], &["0"])).expect_code(0);
    let card = bed.casemate(&["inspect", &run.instance()]).expect_code(0).stdout;
    assert!(card.contains("class observe_and_kill"), "{card}");
    for level in ["container", "sandbox"] {
        bed.casemate(&run_args_at(level, &[], &["0"])).expect_code(0);
    }
    assert_eq!(node(&bed)["trust"], "trusted");
    let hook = Hook::start(&[500]);
    let secret = bed.casemate(&["webhooks", "add", &hook.url, "--kind", "incident"]).expect_code(0).stdout;

    let mut victim = Background::start(&bed, &run_args(&[], &["600"]));
    let instance = victim.instance();
    victim.wait_for("running");
    // Harmless by itself: it is not what ends the machine.
    let vmm = machines(&instance)[0];
    kill_process(Pid::from_raw(vmm).unwrap(), Signal::CONT).unwrap();
    let ended = bed.wait_instance(Duration::from_secs(60), |one| one["id"] == instance.as_str() && one["has_receipt"] == true);
    assert_eq!(ended["failure"]["check"], "monitor.violation", "{ended}");
    let told = victim.finish();
    assert_eq!(told.code, 2, "{}", told.stderr);
    assert!(told.stderr.contains("monitor.violation"), "{}", told.stderr);
    bed.assert_no_instance_remains();

    assert_eq!(node(&bed)["trust"], "suspended");
    let refused = bed.casemate(&run_args(&[], &["0"]));
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("1 suspended"), "{}", refused.stderr);
    bed.casemate(&["incidents"]).expect_code(1);
    let operator = operator(&bed);
    let as_operator = |words: &[&str]| bed.casemate_in(words, Some(&operator));
    let incidents = as_operator(&["incidents", "--output", "json"]).expect_code(0).stdout;
    let incidents: Value = serde_json::from_str(&incidents).unwrap();
    let [incident] = incidents["incidents"].as_array().unwrap().as_slice() else { panic!("{incidents}") };
    assert_eq!(incident["detail"], "instances_ended: a violation (signal.instance)");
    tenant_is_told(&bed, &instance, (hook, secret.trim()));
    let id = node(&bed)["id"].as_str().unwrap().to_owned();
    as_operator(&["nodes", "restore", &id]).expect_code(0);
    assert_eq!(node(&bed)["trust"], "trusted");
    // The monitor was cleared when the platform had its record: work begins again.
    bed.casemate(&run_args(&[], &["0"])).expect_code(0);
    bed.finish();
}

/// A notice with the node's own lines, and a signed call that was made again after a bad answer.
fn tenant_is_told(bed: &Bed, instance: &str, (hook, secret): (Hook, &str)) {
    let list = bed.casemate(&["notices", "--instance", instance, "--output", "json"]).expect_code(0).stdout;
    let list: Value = serde_json::from_str(&list).unwrap();
    let notices = list["notices"].as_array().unwrap();
    let incidents: Vec<_> = notices.iter().filter(|one| one["kind"] == "incident").collect();
    let [incident] = incidents.as_slice() else { panic!("{list}") };
    let id = incident["id"].as_str().unwrap();
    // The command checks that the lines are one chain.
    let shown = bed.casemate(&["notices", "show", id]).expect_code(0).stdout;
    for part in ["instances_ended", "a violation (signal.instance)", "a receipt is there", instance] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let notice = bed.casemate(&["notices", "show", id, "--output", "json"]).expect_code(0).stdout;
    let notice: Value = serde_json::from_str(&notice).unwrap();
    let spool = fs::read_to_string(bed.state().join("monitor/spool.jsonl")).unwrap();
    let from = usize::try_from(notice["evidence"]["from"].as_u64().unwrap()).unwrap();
    let lines = notice["evidence"]["lines"].as_array().unwrap();
    assert!(!lines.is_empty());
    for (line, written) in lines.iter().zip(spool.lines().skip(from)) {
        assert_eq!(STANDARD.decode(line.as_str().unwrap()).unwrap(), written.as_bytes(), "as the monitor wrote it");
    }
    assert!(bed.casemate(&["inspect", instance]).expect_code(0).stdout.contains(id));

    let calls = [hook.next(), hook.next()];
    assert_eq!(calls[0].body, calls[1].body, "the call that was answered badly is made again");
    for call in &calls {
        assert!(call.is_signed(secret, &call.body), "{call:?}");
        let mut changed = call.body.clone();
        changed[10] ^= 1;
        assert!(!call.is_signed(secret, &changed));
        let event: Value = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(event["notice"], notice["id"]);
        // With those that had just ended: clocks differ.
        assert!(event["instances"].as_array().unwrap().contains(&Value::from(instance)), "{event}");
        assert_eq!(event["evidence"], notice["evidence"]);
    }
}

#[test]
fn an_orderly_end_of_the_agent_leaves_neither_instances_nor_monitor_nor_an_incident() {
    let mut bed = monitored();
    let mut machine = Background::start(&bed, &run_args(&[], &["600"]));
    machine.wait_for("running");
    let mut container = Background::start(&bed, &run_args_at("container", &[], &["600"]));
    container.wait_for("running");
    let monitor = bed.pid("monitor").unwrap();
    let left = std::process::Command::new(casemate_testbed::build_dir().join("casemate-agent"))
        .args(["leave", "--config"])
        .arg(bed.state().join("agent.toml"))
        .output()
        .unwrap();
    assert!(left.status.success(), "{left:?}");
    for run in [machine, container] {
        let ended = run.finish();
        assert_ne!(ended.code, 0, "{}", ended.stderr);
        assert!(!ended.stderr.contains("monitor."), "nothing was violated: {}", ended.stderr);
    }
    bed.assert_no_instance_remains();
    let deadline = Instant::now() + Duration::from_secs(30);
    while fs::exists(format!("/proc/{monitor}")).unwrap() {
        assert!(Instant::now() < deadline, "the monitor goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
    let instances = bed.casemate(&["ps", "--all", "--output", "json"]).expect_code(0).stdout;
    let instances: Value = serde_json::from_str(&instances).unwrap();
    for instance in instances["instances"].as_array().unwrap() {
        assert_eq!(instance["has_receipt"], true, "{instance}");
    }
    // It was no incident, nor was `dev down`: the next start finds a node that is trusted.
    for _ in 0..2 {
        bed.down().expect_code(0);
        bed.up(&options()).unwrap();
        assert_eq!(node(&bed)["trust"], "trusted");
    }
    bed.casemate(&run_args_at("container", &[], &["0"])).expect_code(0);
    bed.finish();
}

#[test]
fn without_its_agent_or_its_monitor_nothing_goes_on_running() {
    let mut bed = monitored();
    for part in ["agent", "monitor"] {
        let mut victim = Background::start(&bed, &run_args(&[], &["600"]));
        let instance = victim.instance();
        victim.wait_for("running");
        let vmm = machines(&instance)[0];
        kill(bed.pid(part).unwrap());
        let alive = || fs::read_to_string(format!("/proc/{vmm}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        let deadline = Instant::now() + Duration::from_secs(30);
        while alive() {
            assert!(Instant::now() < deadline, "the machine goes on without its {part}");
            std::thread::sleep(Duration::from_millis(5));
        }
        victim.kill();
        // The next start wipes what is left, and reports what happened.
        bed.down().expect_code(0);
        bed.up(&options()).unwrap();
        bed.wait_instance(Duration::from_secs(60), |one| one["id"] == instance.as_str() && one["has_receipt"] == true);
        let deadline = Instant::now() + Duration::from_secs(30);
        while node(&bed)["trust"] != "suspended" {
            assert!(Instant::now() < deadline, "{}", node(&bed));
            std::thread::sleep(Duration::from_millis(50));
        }
        let id = node(&bed)["id"].as_str().unwrap().to_owned();
        let operator = operator(&bed);
        bed.casemate_in(&["nodes", "restore", &id], Some(&operator)).expect_code(0);
    }
    bed.finish();
}

#[test]
fn a_node_is_changed_lawfully_and_comes_back_by_its_appraisal() {
    let mut bed = monitored();
    let id = node(&bed)["id"].as_str().unwrap().to_owned();
    // The platform's address is another one after a new start.
    let as_operator = |bed: &Bed, words: &[&str]| bed.casemate_in(words, Some(&operator(bed)));
    let maintenance = |bed: &Bed, words: &[&str]| as_operator(bed, &[&["nodes", "maintenance"], words].concat());
    let mut victim = Background::start(&bed, &run_args(&[], &["600"]));
    victim.wait_for("running");
    let begin = ["begin", id.as_str(), "--reason", "a new kernel"];
    let refused = maintenance(&bed, &begin);
    assert!(refused.code != 0 && refused.stderr.contains("1 instances are on the node"), "{}", refused.stderr);
    let open = maintenance(&bed, &[&begin[..], &["--force"]].concat()).expect_code(0).stdout;
    assert!(open.contains("maintenance 1: open, forced") && open.contains("class observe_and_kill"), "{open}");
    let told = victim.finish();
    assert!(told.code != 0 && told.stderr.contains("node.maintenance"), "{}", told.stderr);
    bed.assert_no_instance_remains();
    assert_eq!(node(&bed)["trust"], "maintenance");
    let refused = bed.casemate(&run_args(&[], &["0"]));
    assert!(refused.code != 0 && refused.stderr.contains("1 in maintenance"), "{}", refused.stderr);

    // Its monitor dies, which is lawful now; the next one finds itself in the same maintenance.
    kill(bed.pid("monitor").unwrap());
    bed.down().expect_code(0);
    bed.up(&options()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = maintenance(&bed, &["status", &id, "--output", "json"]).expect_code(0).stdout;
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["maintenance"]["phase"], "open");
        if unsealed_lines(&bed) == 2 {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let ended = maintenance(&bed, &["end", &id]).expect_code(0);
    assert!(ended.stderr.contains("passed its appraisal"), "{}", ended.stderr);
    assert_eq!(node(&bed)["trust"], "trusted");
    let incidents = as_operator(&bed, &["incidents", "--output", "json"]).expect_code(0).stdout;
    assert!(incidents.contains("\"incidents\": []"), "{incidents}");
    bed.casemate(&run_args(&[], &["0"])).expect_code(0);
    bed.finish();
}

/// How often its monitor's record says that the node was opened.
fn unsealed_lines(bed: &Bed) -> usize {
    let spool = bed.state().join("monitor/spool.jsonl");
    fs::read_to_string(&spool).unwrap_or_else(|error| panic!("{}: {error}", spool.display())).matches("\"unsealed\"").count()
}

//! What is not one act: the switch that could blind the programs, the record, and the monitor's own end.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};
use casemate_monitor::spool;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    acts::{self, Target},
    agent::Ask,
    deaths::signal,
    nested,
    node::{self, CONFIG, MONITOR, Node, PLAYER, SPOOL, until},
    sys,
};

/// Plays them all; each says what is wrong with it.
pub(crate) fn play(node: &mut Node) -> Result<()> {
    let canaries = rounds(node);
    say("the canary goes round and is heard", canaries);
    say("the record holds every violation in one chain", record());
    say("what was open before is stated, and the layer below", stated(node));
    say("a flood of reports hides no violation", flood(node));
    say("a network that two machines share is guarded until the last has ended", shared(node));
    nested::play(node);
    say("maintenance opens the node when no instance is left, and closes it again", maintenance(node));
    // After this one nothing can be played any more.
    say(
        "with guard and worker ended in one moment, the kernel ends the machine and the programs go on denying",
        both_killed(node),
    );
    Ok(())
}

/// Says on the console what came of one.
pub(crate) fn say(name: &str, outcome: Result<()>) {
    let problems: Vec<String> = outcome.err().map(|error| format!("{error:#}")).into_iter().collect();
    println!("CASE {}", json!({"name": name, "problems": problems}));
}

fn rounds(node: &mut Node) -> Result<()> {
    let mut now = || -> Result<u64> { Ok(node.ask::<Value>(&Ask::Status)?["canary"]["rounds"].as_u64().unwrap_or(0)) };
    let before = now()?;
    until("the canary has gone round twice", || Ok(now()? >= before + 2))?;
    let text = std::fs::read_to_string(SPOOL)?;
    anyhow::ensure!(!text.contains("canary_missed"), "a canary was missed");
    Ok(())
}

fn record() -> Result<()> {
    let mut kinds = std::collections::BTreeMap::<String, u64>::new();
    let mut latencies: Vec<u64> = Vec::new();
    let head = spool::verify(Path::new(SPOOL), |record| {
        let event = &record.event;
        if let (Some(tripped), Some(killed)) = (event["tripped_at_ns"].as_u64(), event["killed_at_ns"].as_u64()) {
            latencies.push(killed.saturating_sub(tripped) / 1000);
        }
        let kind = event["detector"].as_str().or(event["kind"].as_str()).unwrap_or("?");
        *kinds.entry(kind.to_owned()).or_default() += 1;
    })?;
    latencies.sort_unstable();
    let middle = latencies.get(latencies.len() / 2);
    println!(
        "RECORD {}",
        json!({"records": head.records, "kinds": kinds, "violation_to_kill_us": {"median": middle, "most": latencies.last()}})
    );
    for kind in [
        "started",
        "watched",
        "instances_ended",
        "cleared",
        "ptrace.attach",
        "memory.open",
        "file.write",
        "module.load",
        "bpf.load",
    ] {
        anyhow::ensure!(kinds.contains_key(kind), "the record has no {kind}");
    }
    Ok(())
}

/// The first process had the node's memory open before the monitor began.
fn stated(node: &mut Node) -> Result<()> {
    let status: Value = node.ask(&Ask::Status)?;
    let findings = status["scan"]["findings"].as_array().context("the status has findings")?;
    let open = findings.iter().find(|one| one["of"] == "/dev/mem");
    anyhow::ensure!(open.is_some_and(|one| one["kind"] == "descriptor" && one["pid"] == 1), "found: {findings:?}");
    let layer = &status["static"];
    println!("STATIC {layer}");
    anyhow::ensure!(layer["kernel.yama.ptrace_scope"] == "2", "it was not set");
    anyhow::ensure!(layer["lockdown"].is_string() && layer["kernel.ftrace_enabled"] == "1", "it is not stated");
    Ok(())
}

/// What noise there is: refused and reported, and nobody's end.
const NOISE: &str = "ptrace.inspect";
const NOISY: usize = 2;
/// Of each; together far more than the ring has room for.
const CALLS: u64 = 10_000;
/// Violations that are written down one by one in a second; a flood takes a few of those.
const FEW: usize = 4096;

/// Processes that make reports as fast as they can while nobody takes them away; and when no report fits any more, one violation.
fn flood(node: &mut Node) -> Result<()> {
    let target = node.target("agent")?;
    let memory = node.target(node::MEMORY)?;
    let count = |seen: &Value, name: &str, what: &str| seen[name]["count"][what].as_u64().unwrap_or(0);
    let (before, lines) = (node.seen()?, records()?.len());
    let text = serde_json::to_string(&Target { on: CALLS.to_string(), ..target })?;
    signal(node.worker_pid, Signal::STOP)?;
    let start = std::time::Instant::now();
    let noisy: Vec<_> = (0..NOISY).map(|_| Command::new(PLAYER).args(["act", "compare_often", &text]).spawn()).collect();
    for child in noisy {
        anyhow::ensure!(child?.wait()?.success(), "not every call of the flood was refused");
    }
    let took = start.elapsed();
    anyhow::ensure!(node::perform("read", &memory)? == libc::EPERM, "the violation was not refused");
    signal(node.worker_pid, Signal::CONT)?;
    until("the instance is ended", || Ok(!node.ask::<bool>(&Ask::Alive)?))?;
    let after = node.seen()?;
    let more = |name, what| count(&after, name, what) - count(&before, name, what);
    println!(
        "FLOOD {}",
        json!({"reports": more(NOISE, "seen"), "lost": more(NOISE, "lost"), "per_second": (more(NOISE, "seen") as f64 / took.as_secs_f64()) as u64})
    );
    anyhow::ensure!(more(NOISE, "seen") == NOISY as u64 * CALLS, "the counters lost some: {}", more(NOISE, "seen"));
    anyhow::ensure!(more("memory.open", "seen") == 1, "the violation was counted {} times", more("memory.open", "seen"));
    anyhow::ensure!(more("memory.open", "lost") == 1, "there was room for the violation's report: it was no flood");
    let new = records()?.split_off(lines);
    let has = |kind: &str, what: &str| new.iter().any(|event| event[kind] == what);
    anyhow::ensure!(has("detector", "memory.open") && has("kind", "instances_ended"), "the record has no violation");
    anyhow::ensure!(has("kind", "violations_beyond") && new.len() < FEW, "the flood is in the record: {} lines", new.len());
    Ok(())
}

fn shared(node: &mut Node) -> Result<()> {
    let network = node.target(node::NETWORK)?;
    let count = |seen: &Value| seen["namespace.enter"]["count"]["seen"].as_u64();
    let before = count(&node.seen()?);
    node.ask::<()>(&Ask::Join)?;
    node.ask::<()>(&Ask::Part)?;
    anyhow::ensure!(count(&node.seen()?) == before && node.ask(&Ask::Alive)?, "a machine may be where it is");
    anyhow::ensure!(node::perform("enter_network", &network)? == libc::EPERM, "with the second machine the guard ended");
    until("the instance is ended", || Ok(!node.ask::<bool>(&Ask::Alive)?))
}

const SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";

fn maintenance(node: &mut Node) -> Result<()> {
    let file = node.target("agent.conf")?;
    let says = |outcome: Result<()>, word: &str| {
        let why = outcome.err().map(|error| format!("{error:#}")).unwrap_or_default();
        anyhow::ensure!(why.contains(word), "the answer is {why:?}, not {word:?}");
        Ok(())
    };
    says(node.ask(&Ask::Seal), "there is none")?;
    says(node.ask(&Ask::Unseal { forced: false }), "instances are watched")?;
    anyhow::ensure!(node::perform("write", &file)? == libc::EPERM, "a refused beginning opened the node");
    node.target("instance")?;
    node.ask::<()>(&Ask::Unseal { forced: true })?;
    until("the instance is ended", || Ok(!node.ask::<bool>(&Ask::Alive)?))?;
    let scope = std::fs::read_to_string(SCOPE)?;
    anyhow::ensure!(scope.trim() != "2", "a setting was not restored: {scope}");
    anyhow::ensure!(node::perform("replace", &file)? == 0, "a file could not be replaced");
    anyhow::ensure!(node::perform("load_module", &node::nobody(""))? == 0, "a module could not be loaded");
    says(node.target("instance").map(drop), "in maintenance")?;
    let loaded = sys::bpf_load(sys::KPROBE)?;
    node.ask::<()>(&Ask::Seal)?;
    drop(loaded);
    anyhow::ensure!(
        node.ask::<Value>(&Ask::Status)?["scan"].to_string().contains("\"bpf\""),
        "what came meanwhile was not found"
    );
    node.target("instance")?;
    // The file is another one than before.
    anyhow::ensure!(node::perform("write", &file)? == libc::EPERM, "the new file is not guarded");
    until("the instance is ended", || Ok(!node.ask::<bool>(&Ask::Alive)?))?;
    anyhow::ensure!(std::fs::read_to_string(SCOPE)?.trim() == "2", "a setting was not made again");
    node.target("instance")?;
    rounds(node)
}

/// All that is on record.
pub(crate) fn records() -> Result<Vec<Value>> {
    let mut events = Vec::new();
    spool::verify(Path::new(SPOOL), |record| events.push(record.event))?;
    Ok(events)
}

/// Neither of the two can do anything for the instances: stopped before they are ended, so that none notices the other's end. The record of
/// it is the programs' alone, as is the machine's end.
fn both_killed(node: &mut Node) -> Result<()> {
    let file = node.target("agent.conf")?;
    let start = std::time::Instant::now();
    for (pid, how) in [(0, Signal::STOP), (1, Signal::STOP), (0, Signal::KILL), (1, Signal::KILL)] {
        signal([node.guard.id(), node.worker_pid][pid], how).context("the first process may end the monitor")?;
    }
    until("the instance is ended", || Ok(!node.ask::<bool>(&Ask::Alive)?))?;
    // Sooner than the worker's silence alone would have ended it.
    anyhow::ensure!(start.elapsed() < node::WATCHDOG, "the worker's end was not seen");
    anyhow::ensure!(
        acts::perform("write", &file).is_err_and(|error| error.raw_os_error() == Some(libc::EPERM)),
        "files are open"
    );
    let loaded = node::perform("bpf_load", &node::nobody("kprobe"))?;
    anyhow::ensure!(loaded == libc::EPERM, "BPF is open: {loaded}");
    let again = Command::new(MONITOR).args(["run", "--config", CONFIG]).status()?;
    anyhow::ensure!(!again.success(), "a second monitor starts beside the first one's programs");
    Ok(())
}

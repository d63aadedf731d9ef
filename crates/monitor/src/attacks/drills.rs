//! What is not one act: the switch that could blind the programs, the record, and the monitor's own end.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};
use casemate_monitor::spool;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    acts,
    agent::Ask,
    node::{self, MONITOR, Node, SPOOL, until},
};

/// Plays them all; each says what is wrong with it.
pub(crate) fn play(node: &mut Node) -> Result<()> {
    let canaries = rounds(node);
    say("the canary goes round and is heard", canaries);
    say("the record holds every violation in one chain", record());
    // After this one nothing can be played any more.
    say("the monitor's end ends the instances and the programs go on denying", monitor_ends(node));
    Ok(())
}

fn say(name: &str, outcome: Result<()>) {
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

fn monitor_ends(node: &mut Node) -> Result<()> {
    let file = node.target("agent.conf")?;
    let pid = i32::try_from(node.worker_pid).ok().and_then(Pid::from_raw).context("the worker has a number")?;
    kill_process(pid, Signal::KILL).context("the first process may end the monitor")?;
    until("the guard is gone", || Ok(node.guard.try_wait()?.is_some()))?;
    until("the instance is ended", || Ok(!node.ask::<bool>(&Ask::Alive)?))?;
    anyhow::ensure!(
        acts::perform("write", &file).is_err_and(|error| error.raw_os_error() == Some(libc::EPERM)),
        "files are open"
    );
    let loaded = node::perform("bpf_load", &node::nobody("kprobe"))?;
    anyhow::ensure!(loaded == libc::EPERM, "BPF is open: {loaded}");
    let again = Command::new(MONITOR).args(["run", "--config", "/run/monitor.toml"]).status()?;
    anyhow::ensure!(!again.success(), "a second monitor starts beside the first one's programs");
    let mut last = Value::Null;
    spool::verify(Path::new(SPOOL), |record| last = record.event)?;
    anyhow::ensure!(last["kind"] == "monitor_ended", "the record ends with {last}");
    Ok(())
}

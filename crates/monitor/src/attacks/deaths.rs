//! The ends of monitor and agent, in a monitor that refuses nothing: the watch over each other is the same in every class, and its programs go
//! with it, so that the next one can start. Whoever acts here is the first process, whose signals are nobody's violation.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use casemate_monitor::spool;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;

use crate::{
    agent::Ask,
    drills::say,
    node::{self, CONFIG, MONITOR, Node, perform, until},
    sys,
};

/// Small enough to be filled.
const DISK: &std::ffi::CStr = c"size=2m";
const FILL: &str = "/run/disk/fill";
const STATE: &str = "/run/disk/monitor";
const SPOOL: &str = "/run/disk/monitor/spool.jsonl";

const CONFIGURATION: &str = r#"
mode = "observe"
state = "/run/disk/monitor"
instances = "/sys/fs/cgroup/casemate"
watchdog_ms = 3000
record_reserve_kib = 256
"#;

type Drill = (&'static str, fn(&mut Node) -> Result<()>);

/// A start of the monitor takes long under emulation: the first one does not end it.
const FIRST: [Drill; 3] = [
    ("a frozen machine is seen and ended", frozen),
    ("a machine that a stranger ends by its cgroup is on record", ended_by_stranger),
    ("the guard's end ends the instances", guard_killed),
];
const DRILLS: &[Drill] = &[
    ("the worker's end ends the instances and is on record", worker_killed),
    ("the agent's end ends the instances", agent_killed),
    ("a stopped guard is noticed", guard_stopped),
    ("a stopped worker is noticed and ended", worker_stopped),
    ("with both stopped, the kernel ends the machine", both_stopped),
    ("a full disk loses no report, and one that takes none ends the instances", disk_full),
    ("a worker without memory does not outlive its watch", out_of_memory),
];

/// Plays them all, each with a monitor of its own.
pub(crate) fn play() {
    say("what the policy does not refuse any more is none of the class", lowered());
    say("work is refused while others hold what is guarded", refused());
    alone(&FIRST);
    for drill in DRILLS {
        alone(&[*drill]);
    }
}

/// All hooks are there, and the canary is not met. The monitor refuses the rest, and goes away when it is told to.
fn lowered() -> Result<()> {
    let policy = "\"socket.connect\" = [\"note\"]\n";
    fs::write(CONFIG, node::CONFIGURATION.to_owned() + policy)?;
    let mut node = Node::start()?;
    let status: Value = node.ask(&Ask::Status)?;
    let class = &status["class"];
    let without = class["groups"].as_array().is_some_and(|groups| groups.iter().any(|group| group == "sockets"));
    ensure!(class["name"] == "enforcing_without" && without, "the class is {class}");
    let missing = status["groups"]["sockets"]["missing"].to_string();
    ensure!(missing.contains("canary: socket.connect"), "the status says {missing}");
    // Settings go back to what they were.
    node.ask::<()>(&Ask::Unseal { forced: false })?;
    node.ask::<()>(&Ask::Stop)?;
    until("the monitor has ended", || Ok(node.guard.try_wait()?.is_some()))?;
    node.stranger.kill()?;
    node.stranger.wait()?;
    // The kernel takes programs away a moment after their last pin, one after the other.
    until("the programs are gone", || Ok(sys::bpf_next_id(sys::bpf_command::PROG_GET_NEXT_ID, 0).is_err()))?;
    Ok(fs::remove_dir_all("/run/monitor")?)
}

/// A descriptor and a program of somebody else are found; once they are gone, the start succeeds.
fn refused() -> Result<()> {
    let tail = "scan = \"refuse\"\n[[files]]\npath = \"/run/node/agent.conf\"\nguard = [\"write\"]\n";
    let start = || -> Result<(bool, String)> {
        fs::write(CONFIG, format!("{CONFIGURATION}{tail}"))?;
        let output = Command::new(MONITOR).args(["run", "--config", CONFIG, "--", "/attacks", "none"]).output()?;
        let found = recorded("found").map_or_else(|_| String::new(), |event| event.to_string());
        fs::remove_dir_all(STATE)?;
        Ok((String::from_utf8_lossy(&output.stderr).contains("accept work: others hold"), found))
    };
    let open = fs::File::options().append(true).open("/run/node/agent.conf")?;
    let program = sys::bpf_load(sys::KPROBE)?;
    let (refused, found) = start()?;
    ensure!(refused && found.contains("/run/node/agent.conf") && found.contains("\"pid\":1"), "a descriptor: {refused}, {found}");
    ensure!(found.contains("\"kind\":\"bpf\""), "a program: {found}");
    drop(open);
    drop(program);
    // Its agent ends at once, and with it the monitor; but it was started.
    until("the program is gone", || Ok(start()? == (false, String::new())))
}

/// With a monitor of their own, the last of which it does not outlive.
fn alone(drills: &[Drill]) {
    let mut node = small_disk().and_then(|()| Node::start());
    for (name, drill) in drills {
        let outcome = match &mut node {
            Ok(node) => node.target("instance").and_then(|_| drill(node)),
            Err(error) => Err(anyhow::anyhow!("the monitor does not start: {error:#}")),
        };
        say(name, outcome);
    }
    let cleared = node.and_then(clear_away).and_then(|()| Ok(unmount("/run/disk", UnmountFlags::DETACH)?));
    if let Err(error) = cleared {
        println!("SUITE-BROKEN {error:#}");
    }
}

fn small_disk() -> Result<()> {
    fs::write(CONFIG, CONFIGURATION)?;
    fs::create_dir_all("/run/disk")?;
    mount("none", "/run/disk", "tmpfs", MountFlags::empty(), DISK).context("mount a small disk")
}

/// Whatever is left: nothing of it may disturb the next one.
fn clear_away(mut node: Node) -> Result<()> {
    for pid in [node.worker_pid, node.guard.id(), node.agent_pid, node.stranger.id()] {
        let _ = signal(pid, Signal::KILL);
    }
    node.guard.wait()?;
    fs::write("/sys/fs/cgroup/casemate/cgroup.kill", "1")?;
    until("the machine's cgroup is empty", || {
        Ok(fs::read_to_string("/sys/fs/cgroup/casemate/cgroup.events")?.contains("populated 0"))
    })?;
    [node.worker_pid, node.agent_pid].into_iter().try_for_each(|pid| until("monitor and agent are gone", || Ok(gone(pid))))
}

/// Sends a signal by number.
pub(crate) fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("processes have numbers")?;
    Ok(kill_process(pid, signal)?)
}

/// Whether a process has ended, waited for or not.
pub(crate) fn gone(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |text| text.contains(") Z "))
}

fn ended(node: &mut Node) -> Result<()> {
    until("the instance is ended", || Ok(!node.ask::<bool>(&Ask::Alive)?))
}

/// What the record says last of this kind.
fn recorded(kind: &str) -> Result<Value> {
    let mut last = Value::Null;
    spool::verify(Path::new(SPOOL), |record| {
        if record.event["kind"] == kind {
            last = record.event;
        }
    })?;
    ensure!(!last.is_null(), "the record has no {kind}");
    Ok(last)
}

fn says(kind: &str, field: &str, text: &str) -> Result<()> {
    let event = recorded(kind)?;
    ensure!(event[field].as_str().is_some_and(|found| found.contains(text)), "the record says {event}, not {text:?}");
    Ok(())
}

/// Waits until a violation of this detector is on record.
fn violated(detector: &str) -> Result<()> {
    until(&format!("{detector} is on record"), || {
        let mut found = false;
        spool::verify(Path::new(SPOOL), |record| found |= record.event["detector"] == detector)?;
        Ok(found)
    })
}

fn guard_ended(node: &mut Node) -> Result<()> {
    until("the guard is gone", || Ok(node.guard.try_wait()?.is_some()))
}

fn frozen(node: &mut Node) -> Result<()> {
    let target = node.target("/sys/fs/cgroup/casemate/machine")?;
    ensure!(perform("freeze", &target)? == 0, "it could not be frozen");
    ended(node)?;
    violated("cgroup.freeze")
}

fn ended_by_stranger(node: &mut Node) -> Result<()> {
    let target = node.target("/sys/fs/cgroup/casemate/machine")?;
    ensure!(perform("end_cgroup", &target)? == 0, "it could not be ended");
    ended(node)?;
    violated("signal.instance")
}

fn guard_killed(node: &mut Node) -> Result<()> {
    signal(node.guard.id(), Signal::KILL)?;
    ended(node)?;
    until("the worker is gone", || Ok(gone(node.worker_pid)))?;
    says("instances_ended", "because", "the guard is gone")
}

fn worker_killed(node: &mut Node) -> Result<()> {
    signal(node.worker_pid, Signal::KILL)?;
    ended(node)?;
    guard_ended(node)?;
    says("monitor_ended", "how", "signal: 9")
}

fn agent_killed(node: &mut Node) -> Result<()> {
    let machine = node.target("instance")?.pid;
    signal(node.agent_pid, Signal::KILL)?;
    until("the instance is ended", || Ok(gone(machine)))?;
    guard_ended(node)?;
    says("instances_ended", "because", "the agent")
}

fn guard_stopped(node: &mut Node) -> Result<()> {
    signal(node.guard.id(), Signal::STOP)?;
    ended(node)?;
    until("the worker is gone", || Ok(gone(node.worker_pid)))?;
    says("instances_ended", "because", "the guard does not answer")
}

fn worker_stopped(node: &mut Node) -> Result<()> {
    signal(node.worker_pid, Signal::STOP)?;
    ended(node)?;
    guard_ended(node)?;
    says("monitor_ended", "why", "it did not answer")
}

fn both_stopped(node: &mut Node) -> Result<()> {
    signal(node.guard.id(), Signal::STOP)?;
    signal(node.worker_pid, Signal::STOP)?;
    ended(node)?;
    ensure!(!gone(node.worker_pid) && !gone(node.guard.id()), "it was not the kernel that ended it");
    Ok(())
}

fn disk_full(node: &mut Node) -> Result<()> {
    let full = |error: std::io::Error| error.raw_os_error() == Some(libc::ENOSPC);
    ensure!(fs::write(FILL, vec![1; 4 << 20]).is_err_and(full), "the disk is not full");
    let target = node.target("instance")?;
    ensure!(perform("stop", &target)? == 0, "the machine could not be signalled");
    ended(node)?;
    violated("signal.instance")?;
    // A new machine; and records until there is no room for one.
    let machine = node.target("instance")?.pid;
    let rounds: u32 = node.ask(&Ask::Fill)?;
    ensure!(rounds > 0, "there was no room at all");
    until("the instance is ended", || Ok(gone(machine)))?;
    guard_ended(node)
}

/// With a limit on its memory that is too small for anything.
fn out_of_memory(node: &mut Node) -> Result<()> {
    const GROUP: &str = "/sys/fs/cgroup/small";
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory").context("limit memory by cgroup")?;
    fs::create_dir_all(GROUP)?;
    fs::write(format!("{GROUP}/memory.max"), "0")?;
    fs::write(format!("{GROUP}/cgroup.procs"), node.worker_pid.to_string())?;
    ended(node)?;
    guard_ended(node)?;
    println!("OUT-OF-MEMORY {}", recorded("monitor_ended")?);
    Ok(())
}

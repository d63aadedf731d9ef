//! Machines between agents and monitors: an agent that hangs, and machines that an agent without a monitor had started.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use casemate_testbed::{Bed, build_dir};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    deaths::{kill, machines},
    monitor::{monitored, node, operator},
    support::{Background, run_args},
};

/// Failpoints that only an agent under a monitor passes.
pub(crate) const POINTS: [&str; 2] = ["handing", "guarded"];

/// What the monitor bears where nothing is configured, and what a busy machine adds.
const SILENCE: Duration = Duration::from_secs(30);
const LATE: Duration = Duration::from_secs(30);

/// A group of version 2 of its own for one process, which goes back where it was.
struct Frozen {
    pid: i32,
    group: PathBuf,
    home: PathBuf,
}

impl Frozen {
    fn new(pid: i32) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
        let root = Path::new(line.expect("a cgroup hierarchy of version 2 is mounted").split(' ').nth(1).unwrap()).to_owned();
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let home = root.join(own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap());
        let group = root.join(format!("casemate-frozen-{pid}"));
        fs::create_dir(&group).unwrap();
        let frozen = Self { pid, group, home };
        fs::write(frozen.group.join("cgroup.procs"), pid.to_string()).unwrap();
        frozen
    }

    fn freeze(&self, word: &str) {
        fs::write(self.group.join("cgroup.freeze"), word).unwrap();
        let done = || fs::read_to_string(self.group.join("cgroup.events")).unwrap().contains(&format!("frozen {word}"));
        until("the agent is frozen, or thawed", Duration::from_secs(10), done);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = fs::write(self.group.join("cgroup.freeze"), "0");
        let _ = fs::write(self.home.join("cgroup.procs"), self.pid.to_string());
        let _ = fs::remove_dir(&self.group);
    }
}

#[test]
fn an_agent_that_does_not_run_keeps_no_machine_and_comes_back_to_an_empty_node() {
    let bed = monitored();
    let mut victim = Background::start(&bed, &run_args(&[], &["600"]));
    let instance = victim.instance();
    victim.wait_for("running");
    let vmm = machines(&instance)[0];
    let frozen = Frozen::new(bed.pid("agent").unwrap());
    // For a while it is nobody's end.
    frozen.freeze("1");
    std::thread::sleep(SILENCE / 5);
    assert!(lives(vmm), "a pause ended the machine");
    frozen.freeze("0");
    let thawed = Instant::now();
    while thawed.elapsed() < SILENCE / 5 {
        assert!(lives(vmm), "the pause was counted on");
        std::thread::sleep(Duration::from_millis(20));
    }
    frozen.freeze("1");
    let begin = Instant::now();
    until("the machine has ended without its agent", SILENCE + LATE, || !lives(vmm));
    eprintln!("a frozen agent's machine ended after {:?}", begin.elapsed());
    assert!(begin.elapsed() > SILENCE / 2, "it was not the silence that ended it");
    frozen.freeze("0");
    let ended = bed.wait_instance(Duration::from_secs(60), |one| one["id"] == instance.as_str() && one["has_receipt"] == true);
    assert_eq!(ended["failure"]["check"], "monitor.violation", "{ended}");
    assert!(victim.finish().stderr.contains("does not say that it lives"));
    bed.assert_no_instance_remains();
    // Agent and monitor are those of before; an operator looks, and the node works again.
    restore(&bed);
    bed.casemate(&run_args(&[], &["0"])).expect_code(0);
    drop(frozen);
    bed.finish();
}

#[test]
fn machines_of_an_agent_without_a_monitor_are_guarded_or_ended_by_the_one_that_takes_them_over() {
    let bed = monitored();
    for point in [Some(POINTS[0]), Some(POINTS[1]), None] {
        leave(&bed);
        bed.restart("agent").unwrap();
        bed.wait_connected().unwrap();
        let mut run = Background::start(&bed, &run_args(&[], &["600"]));
        let instance = run.instance();
        run.wait_for("running");
        let vmm = machines(&instance)[0];
        // Nobody guards it yet.
        kill_process(Pid::from_raw(vmm).unwrap(), Signal::CONT).unwrap();
        kill(bed.pid("agent").unwrap());
        assert!(lives(vmm), "without a monitor it outlives its agent");
        let watched = watched(&bed, &instance);
        bed.configure_agent("failpoint", point.map(|point| format!("{point:?}")).as_deref()).unwrap();
        let monitor = bed.restart_monitored().unwrap();
        if let Some(point) = point {
            // The agent dies on the way: before it is guarded, and after.
            until("the machine has ended", LATE, || !lives(vmm));
            until("the monitor has ended", LATE, || !lives(monitor.try_into().unwrap()));
            assert_eq!(self::watched(&bed, &instance) - watched, usize::from(point == POINTS[1]), "{point}");
            bed.configure_agent("failpoint", None).unwrap();
            bed.restart_monitored().unwrap();
            bed.note_agent().unwrap();
        } else {
            bed.note_agent().unwrap();
            until("it is guarded", LATE, || self::watched(&bed, &instance) == watched + 1);
            assert!(lives(vmm), "it was ended, not taken over");
            // What was harmless before is a breach now.
            kill_process(Pid::from_raw(vmm).unwrap(), Signal::CONT).unwrap();
            until("the machine has ended", LATE, || !lives(vmm));
        }
        let receipted = || bed.instances().iter().any(|one| one["id"] == instance.as_str() && one["has_receipt"] == true);
        until("it is wiped", Duration::from_secs(60), receipted);
        assert_ne!(run.finish().code, 0);
        restore(&bed);
    }
    bed.finish();
}

/// Ends agent and monitor in order.
fn leave(bed: &Bed) {
    let monitor = bed.pid("monitor").unwrap();
    let mut command = Command::new(build_dir().join("casemate-agent"));
    let left = command.args(["leave", "--config"]).arg(bed.state().join("agent.toml")).output().unwrap();
    assert!(left.status.success(), "{left:?}");
    until("the monitor has ended", LATE, || !lives(monitor));
}

/// How often the record says that the instance was guarded.
fn watched(bed: &Bed, instance: &str) -> usize {
    let spool = fs::read_to_string(bed.state().join("monitor/spool.jsonl")).unwrap();
    let events = spool.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone());
    events.filter(|event| event["kind"] == "watched" && event["instance"] == instance).count()
}

/// Once the platform has the record of the breach.
fn restore(bed: &Bed) {
    until("the node is suspended", Duration::from_secs(60), || node(bed)["trust"] == "suspended");
    let id = node(bed)["id"].as_str().unwrap().to_owned();
    bed.casemate_in(&["nodes", "restore", &id], Some(&operator(bed))).expect_code(0);
}

fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[track_caller]
fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

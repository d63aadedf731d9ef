//! Where nothing may be refused, on this machine's own kernel: what is seen ends the instance. Only processes and a cgroup of the test's
//! own are labelled, and nothing of it stays.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use casemate_monitor::spool;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Seconds on an idle machine, minutes on a busy one.
const LIMIT: Duration = Duration::from_secs(300);

/// `agent_silence_ms` of the test's monitor.
const SILENCE: Duration = Duration::from_secs(6);

/// Moves a process to the instance's cgroup, has it watched, and holds the control socket. It says that it lives until it is told not to.
const AGENT: &str = r#"
mkdir -p "$1/machine"
sleep 3600 </dev/null & machine=$!
echo "$machine" > "$1/machine/cgroup.procs"
printf '{"request":"watch","instance":"machine","cgroup":"%s/machine","processes":[%s]}\n' "$1" "$machine" >&0
read -r answer <&0
echo "$machine $answer" > "$2"
while [ ! -e "$2.hush" ] && [ -e "/proc/$machine" ]; do
  printf '{"request":"alive"}\n' >&0
  read -r answer <&0
  read -t 0.5 -r nothing <&0
done
wait
read -r nothing <&0
"#;

struct Place {
    folder: tempfile::TempDir,
    instances: PathBuf,
    monitor: Child,
}

impl Place {
    fn start(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let instances = hierarchy().join(format!("casemate-test-{name}-{}", std::process::id()));
        let (config, agent) = (folder.path().join("monitor.toml"), folder.path().join("agent.sh"));
        let (state, silence) = (folder.path().join("state"), SILENCE.as_millis());
        let text = format!("mode = \"observe\"\nstate = {state:?}\ninstances = {instances:?}\nagent_silence_ms = {silence}\n");
        fs::write(&config, text).unwrap();
        fs::write(&agent, AGENT).unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        let mut start = Command::new(env!("CARGO_BIN_EXE_casemate-monitor"));
        start.arg("run").arg("--config").arg(&config).args(["--", "/bin/bash"]).arg(&agent).arg(&instances);
        let monitor = start.arg(folder.path().join("told")).spawn().unwrap();
        Self { folder, instances, monitor }
    }

    /// The instance's process, once it is watched.
    fn machine(&self) -> i32 {
        let path = self.folder.path().join("told");
        until("the instance is watched", || fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
        let text = fs::read_to_string(path).unwrap();
        let (pid, answer) = text.split_once(' ').unwrap();
        assert_eq!(answer.trim(), "{\"answer\":\"done\"}");
        pid.parse().unwrap()
    }

    fn spool(&self) -> Vec<Value> {
        let mut events = Vec::new();
        spool::verify(&self.folder.path().join("state/spool.jsonl"), |record| events.push(record.event)).unwrap();
        events
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::write(self.instances.join("cgroup.kill"), "1");
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
        let end = Instant::now() + LIMIT;
        while fs::remove_dir(self.instances.join("machine")).is_err()
            && self.instances.join("machine").exists()
            && Instant::now() < end
        {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_dir(&self.instances);
    }
}

#[test]
fn a_signal_to_an_instance_that_cannot_be_refused_ends_it_and_is_on_record() {
    let place = Place::start("signal");
    let pid = place.machine();
    // Harmless by itself: it is not what ends the process.
    kill_process(Pid::from_raw(pid).unwrap(), Signal::CONT).unwrap();
    until("the instance is ended", || !Path::new(&format!("/proc/{pid}")).exists());
    until("it is on record", || place.spool().iter().any(|event| event["kind"] == "violation"));
    let events = place.spool();
    let named = |kind: &str| events.iter().find(|event| event["kind"] == kind).unwrap();
    let started = named("started");
    assert_eq!(started["class"]["name"], "observe_and_kill");
    let blind = started["class"]["blind"].as_array().unwrap();
    assert!(blind.contains(&"ptrace".into()) && blind.contains(&"files".into()), "{started}");
    assert!(!blind.contains(&"signals".into()), "the first canary was not seen: {started}");
    let violation = named("violation");
    assert_eq!((&violation["detector"], &violation["violation"]["denied"]), (&"signal.instance".into(), &false.into()));
    assert_eq!(named("instances_ended")["instances"][0], "machine");
}

#[test]
fn an_agent_that_hangs_keeps_no_instance_and_one_that_works_keeps_it() {
    let place = Place::start("silence");
    let pid = place.machine();
    let lives = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    let working = Instant::now();
    while working.elapsed() < SILENCE * 2 {
        assert!(lives(), "the agent said that it lives: {:?}", place.spool());
        thread::sleep(Duration::from_millis(20));
    }
    // Its process and its end of the socket are there as before.
    fs::write(place.folder.path().join("told.hush"), "").unwrap();
    let hushed = Instant::now();
    until("the instance is ended", || !lives());
    assert!(hushed.elapsed() > SILENCE / 2, "it was not the silence that ended it");
    until("it is on record", || place.spool().iter().any(|event| event["kind"] == "instances_ended"));
    let events = place.spool();
    let ended = events.iter().find(|event| event["kind"] == "instances_ended").unwrap();
    assert_eq!((&ended["because"], &ended["instances"][0]), (&"the agent does not say that it lives".into(), &"machine".into()));
    assert!(!events.iter().any(|event| event["kind"] == "violation"), "{events:?}");
}

/// Where the hierarchy of version 2 is mounted here.
fn hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    line.expect("a cgroup hierarchy of version 2 is mounted").split(' ').nth(1).unwrap().into()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {LIMIT:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

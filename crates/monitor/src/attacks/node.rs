//! The first process of a node guest: makes the place, starts the monitor, plays the cases, and says on the console what came of them.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::{
        fd::AsRawFd as _,
        unix::{net::UnixStream, process::ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, reboot},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    acts::Target,
    agent::{Ask, SOCKET, Told, send},
    cases::{self, By, Case, Fate, Outcome},
    drills,
};

pub(crate) const PLAYER: &str = "/attacks";
pub(crate) const MONITOR: &str = "/monitor";
pub(crate) const MODULE: &str = "/module.ko";
pub(crate) const MODULE_NAME: &str = "dummy";
pub(crate) const MEMORY: &str = "/run/machine/ram";
pub(crate) const FREE: &str = "/run/node/free";
const PLACE: &str = "/run/node";
const CONFIG: &str = "/run/monitor.toml";
pub(crate) const SPOOL: &str = "/run/monitor/spool.jsonl";

/// A wait that takes longer than this has failed; emulation on a busy machine is slow.
const LIMIT: Duration = Duration::from_secs(300);

const CONFIGURATION: &str = r#"
state = "/run/monitor"
instances = "/sys/fs/cgroup/casemate"
canary_interval_ms = 2000
canary_timeout_ms = 240000
[[files]]
path = "/attacks"
guard = ["write", "name", "keeps"]
[[files]]
path = "/run/node/agent.conf"
guard = ["write", "name"]
device = true
[[files]]
path = "/run/node/secret"
guard = ["read", "write", "name"]
[[files]]
path = "/run/node/images"
guard = ["entries", "name"]
[policy]
"module.load" = ["deny", "note", "trip", "kill"]
"#;

/// The node as the suite sees it.
pub(crate) struct Node {
    pub(crate) guard: Child,
    agent: BufReader<UnixStream>,
    agent_pid: u32,
    pub(crate) worker_pid: u32,
    stranger: Child,
    early: File,
}

/// Plays everything and switches the machine off.
pub(crate) fn run() -> Result<()> {
    let outcome = play();
    match &outcome {
        Ok(()) => println!("SUITE-END"),
        Err(error) => println!("SUITE-BROKEN {error:#}"),
    }
    thread::sleep(Duration::from_millis(200));
    reboot(RebootCommand::Restart).context("switch off")?;
    outcome
}

fn play() -> Result<()> {
    make_place()?;
    let cases = cases::load(Path::new("/cases"))?;
    let mut node = Node::start()?;
    let status: Value = node.ask(&Ask::Status)?;
    println!("STATUS {}", json!({"class": status["class"], "groups": status["groups"]}));
    for case in &cases {
        let problems = match node.play(case) {
            Ok(problems) => problems,
            Err(error) => vec![format!("it could not be played: {error:#}")],
        };
        println!("CASE {}", json!({"name": case.name, "problems": problems}));
    }
    drills::play(&mut node)
}

fn make_place() -> Result<()> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        fs::create_dir_all(place).with_context(|| format!("make {place}"))?;
        mount("none", place, kind, MountFlags::empty(), None::<&std::ffi::CStr>).with_context(|| format!("mount {place}"))?;
    }
    for folder in ["images", "freedir", "free"] {
        fs::create_dir_all(Path::new(PLACE).join(folder))?;
    }
    fs::create_dir_all("/run/machine")?;
    fs::create_dir_all("/sys/fs/cgroup/free")?;
    for file in ["agent.conf", "secret", "images/image"] {
        fs::write(Path::new(PLACE).join(file), "guarded")?;
    }
    fs::write(MEMORY, [0x5a; 4096])?;
    fs::write(CONFIG, CONFIGURATION)?;
    Ok(())
}

/// What is like the guarded files, and nobody's: made anew before each lawful act.
fn renew_free() -> Result<()> {
    let _ = fs::remove_dir_all(Path::new(PLACE).join("freedir"));
    let _ = fs::remove_dir_all(FREE);
    fs::create_dir_all(Path::new(PLACE).join("freedir"))?;
    fs::create_dir_all(FREE)?;
    for file in ["free.conf", "freedir/image"] {
        fs::write(Path::new(PLACE).join(file), "free")?;
    }
    Ok(())
}

/// Performs an act in a process of its own: its error's number, 0, or the negative number of the signal that ended it.
pub(crate) fn perform(name: &str, target: &Target) -> Result<i32> {
    let text = serde_json::to_string(target)?;
    let status = Command::new(PLAYER).args(["act", name, &text]).status().with_context(|| format!("start the act {name}"))?;
    Ok(status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)))
}

/// Waits for `done`.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !done()? {
        if Instant::now() > end {
            bail!("{what}: not within {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn stranger() -> Result<Child> {
    Command::new(PLAYER).arg("idle").spawn().context("start a stranger")
}

impl Node {
    fn start() -> Result<Self> {
        renew_free()?;
        let early = File::options().read(true).write(true).open(MEMORY)?;
        let mut start = Command::new(MONITOR);
        let mut guard = start.args(["run", "--config", CONFIG, "--", PLAYER, "agent"]).spawn().context("start the monitor")?;
        let mut stream = None;
        until("the agent listens", || {
            if let Some(status) = guard.try_wait()? {
                bail!("the monitor ended with {status}");
            }
            stream = UnixStream::connect(SOCKET).ok();
            Ok(stream.is_some())
        })?;
        let agent = BufReader::new(stream.context("the agent listens")?);
        let mut node = Self { guard, agent, agent_pid: 0, worker_pid: 0, stranger: stranger()?, early };
        [node.agent_pid, node.worker_pid] = node.ask(&Ask::Who)?;
        Ok(node)
    }

    /// Asks the agent.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, what: &Ask) -> Result<T> {
        send(self.agent.get_mut(), what)?;
        let mut line = String::new();
        self.agent.read_line(&mut line).context("hear the agent")?;
        let told: Told = serde_json::from_str(&line).with_context(|| format!("read the agent's answer {line:?}"))?;
        match told.problem {
            Some(problem) => bail!("the agent: {problem}"),
            None => Ok(serde_json::from_value(told.value)?),
        }
    }

    /// A case's target.
    pub(crate) fn target(&mut self, on: &str) -> Result<Target> {
        let (machine, descriptor, child): (u32, i32, u32) = self.ask(&Ask::Machine)?;
        if self.stranger.try_wait()?.is_some() {
            self.stranger = stranger()?;
        }
        let pid = match on {
            "instance" => machine,
            "instance_child" => child,
            "agent" => self.agent_pid,
            "monitor" => self.worker_pid,
            "guard" => self.guard.id(),
            _ => self.stranger.id(),
        };
        let path = if on.starts_with('/') { PathBuf::from(on) } else { Path::new(PLACE).join(on) };
        let descriptor = if on == "stranger" { 1 } else { descriptor };
        Ok(Target { on: on.to_owned(), pid, descriptor, path, early: self.early.as_raw_fd() })
    }

    fn act(&mut self, by: By, name: &str, target: &Target) -> Result<i32> {
        match by {
            By::Agent => self.ask(&Ask::Act { name: name.to_owned(), target: target.clone() }),
            By::Stranger => {
                rustix::io::fcntl_setfd(&self.early, rustix::io::FdFlags::empty())?;
                perform(name, target)
            }
        }
    }

    fn seen(&mut self) -> Result<Value> {
        Ok(self.ask::<Value>(&Ask::Status)?["detectors"].clone())
    }

    /// Plays one case: the attack with what must come of it, then the lawful act. What is wrong comes back.
    pub(crate) fn play(&mut self, case: &Case) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        renew_free()?;
        let target = self.target(&case.on)?;
        let count = |seen: &Value| seen[&case.expect.detector]["count"]["seen"].as_u64();
        let before = count(&self.seen()?).with_context(|| format!("no detector is called {}", case.expect.detector))?;
        let result = self.act(case.by, &case.act, &target)?;
        let fits = match case.expect.result {
            Outcome::Denied => matches!(result, libc::EPERM | libc::EACCES),
            Outcome::Killed => result == -libc::SIGKILL,
            Outcome::Done => result == 0,
        };
        if !fits {
            problems.push(format!("the attack ended with {result}, not {:?}", case.expect.result));
        }
        match case.expect.instance {
            Fate::Ended if fits => until("the instance is ended", || Ok(!self.ask::<bool>(&Ask::Alive)?))?,
            Fate::Ended => {}
            Fate::Alive => {
                self.seen()?;
                if !self.ask::<bool>(&Ask::Alive)? {
                    problems.push("the instance was ended".to_owned());
                }
            }
        }
        let after = self.seen()?;
        if count(&after).is_none_or(|after| after <= before) {
            problems.push(format!("{} did not count it: {}", case.expect.detector, brief(&after)));
        }
        problems.extend(self.play_lawful(case)?);
        Ok(problems)
    }

    fn play_lawful(&mut self, case: &Case) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        renew_free()?;
        let target = self.target(case.lawful.on.as_ref().unwrap_or(&case.on))?;
        let before = self.seen()?;
        let result = self.act(case.lawful.by, case.lawful.act.as_ref().unwrap_or(&case.act), &target)?;
        if result != case.lawful.error {
            problems.push(format!("the lawful act ended with {result}"));
        }
        let after = self.seen()?;
        if brief(&after) != brief(&before) {
            problems.push(format!("the lawful act was counted: {}", brief(&after)));
        }
        if !self.ask::<bool>(&Ask::Alive)? {
            problems.push("the lawful act ended the instance".to_owned());
        }
        if target.pid == self.stranger.id() {
            self.stranger.kill()?;
            self.stranger.wait()?;
        }
        Ok(problems)
    }
}

/// Detectors that counted something.
fn brief(detectors: &Value) -> String {
    let Some(detectors) = detectors.as_object() else { return String::new() };
    let seen = detectors.iter().map(|(name, about)| (name, about["count"]["seen"].as_u64().unwrap_or(0)));
    seen.filter(|(_, seen)| *seen > 0).map(|(name, seen)| format!("{name} {seen} ")).collect()
}

/// A target that is only a word.
pub(crate) fn nobody(on: &str) -> Target {
    Target { on: on.to_owned(), pid: 0, descriptor: 0, path: PathBuf::new(), early: 0 }
}

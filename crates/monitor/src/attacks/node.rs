//! The first process of a node guest: makes the place, starts the monitor, plays the cases, and says on the console what came of them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::{
        fd::AsRawFd as _,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    mount::{MountFlags, mount, mount_bind},
    system::{RebootCommand, reboot},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    acts::{self, Target},
    agent::{Ask, SOCKET, Told, send},
    cases::{self, By, Case, Fate, Outcome},
    deaths, drills, sys,
};

pub(crate) const PLAYER: &str = "/attacks";
pub(crate) const MONITOR: &str = "/monitor";
pub(crate) const MODULE: &str = "/module.ko";
pub(crate) const MODULE_NAME: &str = "dummy";
pub(crate) const MEMORY: &str = "/run/machine/ram";
pub(crate) const FREE: &str = "/run/node/free";
/// The machine's control socket, its network, and where it gives its page faults to whoever listens.
pub(crate) const API: &str = "/run/machine/api.socket";
pub(crate) const NETWORK: &str = "/run/node/machine.network";
pub(crate) const WANTED: &str = "/tmp/faults.socket";
/// `watchdog_ms` of the configuration below.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(240);
const PLACE: &str = "/run/node";
pub(crate) const CONFIG: &str = "/run/monitor.toml";
pub(crate) const SPOOL: &str = "/run/monitor/spool.jsonl";

/// A wait that takes longer than this has failed; emulation on a busy machine is slow.
const LIMIT: Duration = Duration::from_secs(300);

/// The monitor's.
pub(crate) const CONFIGURATION: &str = r#"
state = "/run/monitor"
instances = "/sys/fs/cgroup/casemate"
canary_interval_ms = 2000
canary_timeout_ms = 240000
watchdog_ms = 240000
agent_silence_ms = 240000
settings = { "kernel.yama.ptrace_scope" = 2 }
sockets = ["/run/node/engine.socket", "/run/node/engine.datagram"]
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
    pub(crate) agent_pid: u32,
    pub(crate) worker_pid: u32,
    pub(crate) stranger: Child,
    /// Opened before the monitor began, by the words of the cases.
    early: BTreeMap<&'static str, File>,
    /// What the detectors had counted when they were last asked.
    last: Value,
}

/// Does what the machine was started for, and switches it off.
pub(crate) fn run(what: fn() -> Result<()>) -> Result<()> {
    let outcome = what();
    match &outcome {
        Ok(()) => println!("SUITE-END"),
        Err(error) => println!("SUITE-BROKEN {error:#}"),
    }
    thread::sleep(Duration::from_millis(200));
    reboot(RebootCommand::Restart).context("switch off")?;
    outcome
}

/// Everything that is there before the monitor; the sockets must stay.
pub(crate) fn make_all() -> Result<(Vec<UnixListener>, Vec<UnixDatagram>)> {
    make_place()?;
    for network in [NETWORK, "/run/node/free.network"] {
        thread::spawn(|| make_network(network)).join().expect("it does not panic")?;
    }
    make_sockets()
}

/// Plays all cases and drills.
pub(crate) fn play() -> Result<()> {
    let _sockets = make_all()?;
    let cases = cases::load(Path::new("/cases"))?;
    deaths::play();
    fs::write(CONFIG, CONFIGURATION)?;
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
        ("securityfs", "/sys/kernel/security"),
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
    // Made before the monitor begins: later nobody may.
    let memory = rustix::fs::makedev(1, 1);
    mknodat(CWD, "/run/node/alias", FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, memory).context("make an alias")?;
    for file in ["agent.conf", "secret", "images/image"] {
        fs::write(Path::new(PLACE).join(file), "guarded")?;
    }
    Ok(fs::write(MEMORY, [0x5a; 4096])?)
}

/// Somebody listens at each of them, and answers nobody.
fn make_sockets() -> Result<(Vec<UnixListener>, Vec<UnixDatagram>)> {
    let streams = [API, "/run/node/engine.socket", "/run/node/free.socket"].map(UnixListener::bind);
    let datagrams = ["/run/node/engine.datagram", "/run/node/free.datagram"].map(UnixDatagram::bind);
    Ok((streams.into_iter().collect::<Result<_, _>>()?, datagrams.into_iter().collect::<Result<_, _>>()?))
}

/// A network of a thread of its own, with a name in the file system.
fn make_network(path: &str) -> Result<()> {
    sys::own_network().context("make a network")?;
    File::create(path)?;
    mount_bind("/proc/thread-self/ns/net", path).context("name the network")
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

/// Performs an act in a process of its own: its error's number, 0, or the negative number of the signal that ended it. A copy of this one: a
/// program that is started anew takes long under emulation.
pub(crate) fn perform(name: &str, target: &Target) -> Result<i32> {
    sys::in_child(|| acts::number(name, target)).with_context(|| format!("begin the act {name}"))
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
    /// Starts the monitor as it is configured, and with it the agent.
    pub(crate) fn start() -> Result<Self> {
        renew_free()?;
        let open = |path| File::options().read(true).write(true).open(path);
        let early = BTreeMap::from([
            ("memory", open(MEMORY)?),
            ("device", open("/dev/mem")?),
            ("hardware", open("/sys/bus/pci/drivers_autoprobe")?),
            ("network", File::open(NETWORK)?),
        ]);
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
        let mut node = Self { guard, agent, agent_pid: 0, worker_pid: 0, stranger: stranger()?, early, last: Value::Null };
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
        Ok(Target { on: on.to_owned(), pid, descriptor, path, early: self.early.get(on).map_or(-1, File::as_raw_fd) })
    }

    fn act(&mut self, by: By, name: &str, target: &Target) -> Result<i32> {
        match by {
            By::Agent => self.ask(&Ask::Act { name: name.to_owned(), target: target.clone() }),
            By::Stranger => perform(name, target),
        }
    }

    /// What the detectors have counted.
    pub(crate) fn seen(&mut self) -> Result<Value> {
        self.last = self.ask::<Value>(&Ask::Status)?["detectors"].clone();
        Ok(self.last.clone())
    }

    /// Plays one case: the attack with what must come of it, then the lawful act. What is wrong comes back.
    pub(crate) fn play(&mut self, case: &Case) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        renew_free()?;
        let target = self.target(&case.on)?;
        self.prepare(case, &target)?;
        let count = |seen: &Value| seen[&case.expect.detector]["count"]["seen"].as_u64();
        // Whatever comes between two cases is nobody's violation: what was counted last is what there was before.
        if self.last.is_null() {
            self.seen()?;
        }
        let before = count(&self.last).with_context(|| format!("no detector is called {}", case.expect.detector))?;
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
            Fate::Ended | Fate::Alive => {}
        }
        // The monitor reacts before it answers.
        let after = self.seen()?;
        if case.expect.instance == Fate::Alive && !self.ask::<bool>(&Ask::Alive)? {
            problems.push("the instance was ended".to_owned());
        }
        if count(&after).is_none_or(|after| after <= before) {
            problems.push(format!("{} did not count it: {}", case.expect.detector, brief(&after)));
        }
        problems.extend(self.play_lawful(case)?);
        Ok(problems)
    }

    /// What an act needs beforehand is the agent's to do.
    fn prepare(&mut self, case: &Case, target: &Target) -> Result<()> {
        let Some(name) = &case.prepare else { return Ok(()) };
        match self.act(By::Agent, name, target)? {
            0 => Ok(()),
            error => bail!("{name}, which prepares it, ended with {error}"),
        }
    }

    fn play_lawful(&mut self, case: &Case) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        renew_free()?;
        let target = self.target(case.lawful.on.as_ref().unwrap_or(&case.on))?;
        self.prepare(case, &target)?;
        let before = self.last.clone();
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

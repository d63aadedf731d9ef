//! The worker: owns programs, labels, record and reaction. One thread, one loop.
//!
//! ```text
//! forbidden act -> denied by a program -> tripped, first violation and counter in maps -> ring
//!                                                        worker: cgroup.kill -> spool, on disk -> status, answer to the agent
//! ```

mod canaries;
mod instances;
mod maintenance;
mod namespaces;
mod place;
mod requests;
mod scan;
mod status;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use libbpf_rs::{RingBuffer, RingBufferBuilder};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    time::{ClockId, clock_gettime},
};
use serde_json::{Value, json};

use self::{
    canaries::Canaries,
    instances::Watched,
    namespaces::Namespaces,
    scan::{Found, Place},
};
use crate::{
    class::Class,
    config::{Config, Mode},
    control::Lines,
    detector::{Actions, Detector, Group},
    guard::KillSwitch,
    heart::{Heard, LOOKS, Line, Silence, go_first_and_last},
    kernel::{Sensors, layout::Violation},
    spool::Spool,
};

/// Violations that are written down one by one per second; of the rest, their number: the counters have all.
const MAX_RECORDED: usize = 64;
/// Violations that are kept between wake-ups.
const MAX_PENDING: usize = 4096;
/// The worker beats this often per time that counts as silence.
const BEATS: u32 = 4;
/// How many times the guard's patience the programs have with a worker that is silent.
const LAST_RESORT: u32 = 2;
/// Why instances are ended that nobody looks after.
const AGENT_SILENT: &str = "the agent does not say that it lives";
/// The worker's rest after reports that end nothing. It goes before all others: a flood shall come in bundles, and leave them the processor.
const REST: Duration = Duration::from_micros(500);
/// How often a flood is written down.
const RECORD_INTERVAL: Duration = Duration::from_secs(1);

struct Worker {
    config: Config,
    sensors: Sensors,
    class: Class,
    /// Groups in which the first canary was not met.
    blind: BTreeSet<Group>,
    switch: KillSwitch,
    spool: Spool,
    ring: RingBuffer<'static>,
    pending: Rc<RefCell<Pending>>,
    /// Labelled files stay open: their inode numbers stay theirs.
    held: Vec<File>,
    /// The same for what the configuration names.
    configured: Vec<File>,
    /// Settings of the kernel as they were before this monitor made them.
    layer_before: BTreeMap<String, String>,
    /// What is guarded about the files that were labelled so far.
    guarded: BTreeMap<Place, u32>,
    found: Found,
    instances: BTreeMap<String, Watched>,
    namespaces: Namespaces,
    ended: Option<Value>,
    canaries: Option<Canaries>,
    agent: Option<Agent>,
    guard: OwnedFd,
    line: Line,
    /// The guard's, and when it was last called.
    silence: Silence,
    called: Option<Instant>,
    /// The agent's, while instances depend on it.
    agent_silence: Silence,
    flood: Flood,
    /// Something could not be written down: whoever asked was told so, but the monitor does not go on.
    mute: bool,
    /// The status file does not say how things stand.
    stale: bool,
    stopping: bool,
}

/// How much was written down one by one in this second, and what was not.
struct Flood {
    since: Instant,
    recorded: usize,
    beyond: u64,
}

/// The agent, seen from here.
struct Agent {
    process: OwnedFd,
    control: UnixStream,
    lines: Lines,
}

#[derive(Default)]
struct Pending {
    violations: Vec<Violation>,
    beyond: u64,
}

/// Runs until the agent asks for an end; anything else that ends it is a failure, on which the guard ends the instances.
pub fn run(config: &Path, agent: &[OsString]) -> Result<()> {
    let mut worker = Worker::start(Config::load(config)?)?;
    worker.begin(agent)?;
    let outcome = worker.serve();
    if let Err(error) = &outcome {
        worker.end_instances(&format!("the monitor fails: {error:#}"))?;
    }
    outcome
}

/// What this kernel lets the monitor promise.
pub fn probe() -> Result<Value> {
    let sensors = Sensors::load(Path::new("/nonexistent"), Mode::Enforce)?;
    Ok(json!({"class": Class::of(&sensors.attached, &BTreeSet::new()), "groups": status::groups(&sensors.attached)}))
}

/// Nanoseconds since boot, as the programs count them.
fn boot_ns() -> u64 {
    clock_ns(ClockId::Boottime)
}

fn clock_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

impl Worker {
    fn start(config: Config) -> Result<Self> {
        std::fs::create_dir_all(&config.state).with_context(|| format!("make the folder {}", config.state.display()))?;
        let switch = KillSwitch::open(&config.instances)?;
        let spool = Spool::open(&config.spool(), config.reserve_bytes())?;
        let sensors = Sensors::load(&config.pins, config.mode)?;
        let pending = Rc::new(RefCell::new(Pending::default()));
        let ring = ring(&sensors, &pending)?;
        Ok(Self {
            class: Class::of(&sensors.attached, &BTreeSet::new()),
            blind: BTreeSet::new(),
            guard: place::parent()?,
            silence: Silence::new(config.watchdog(), Instant::now()),
            agent_silence: Silence::new(config.agent_silence(), Instant::now()),
            config,
            sensors,
            switch,
            spool,
            ring,
            pending,
            held: Vec::new(),
            configured: Vec::new(),
            layer_before: BTreeMap::new(),
            guarded: BTreeMap::new(),
            found: Found::default(),
            instances: BTreeMap::new(),
            namespaces: Namespaces::new(),
            ended: None,
            canaries: None,
            agent: None,
            line: Line::of_standard_input()?,
            called: None,
            flood: Flood { since: Instant::now(), recorded: 0, beyond: 0 },
            mute: false,
            stale: false,
            stopping: false,
        })
    }

    /// Policy, labels, pins, seal, first canaries, and only then the agent.
    fn begin(&mut self, agent: &[OsString]) -> Result<()> {
        for detector in Detector::ALL {
            let actions = self.config.actions(*detector);
            self.sensors.set_policy(*detector, actions)?;
        }
        self.label_place()?;
        // Programs that only see are of no use without somebody who reacts: they go with the monitor.
        let refuses = self.refuses();
        if refuses {
            self.sensors.pin()?;
            self.label_pins()?;
        }
        self.set_sealed(true)?;
        self.scan()?;
        self.set_layer()?;
        if self.class != Class::DetectOnly {
            self.first_round()?;
        }
        self.record([json!({"kind": "started", "class": self.class, "groups": status::groups(&self.sensors.attached)})])?;
        if !agent.is_empty() {
            self.agent = Some(self.start_agent(agent)?);
        }
        // Not before: it would be handed on to the agent and its machines.
        go_first_and_last();
        self.silence.end(Instant::now());
        self.write_status()
    }

    /// Whether forbidden acts are refused.
    fn refuses(&self) -> bool {
        matches!(self.class, Class::Enforcing | Class::EnforcingWithout { .. })
    }

    fn serve(&mut self) -> Result<()> {
        while !self.stopping {
            self.beat()?;
            let ready = self.wait()?;
            let noted = self.react()?;
            if ready.guard {
                bail!("the guard is gone");
            }
            self.hear_guard()?;
            if ready.canary {
                self.hear_canary()?;
            }
            if ready.control {
                self.answer_agent()?;
            }
            if self.mute {
                bail!("the record takes nothing more");
            }
            if ready.agent {
                bail!("the agent is gone");
            }
            self.end_unattended()?;
            self.release_canary()?;
            if std::mem::take(&mut self.stale) {
                self.write_status()?;
            }
            if noted {
                std::thread::sleep(REST);
            }
        }
        self.write_status()
    }

    /// Tells guard and programs that the worker is there.
    fn beat(&mut self) -> Result<()> {
        let limit = self.config.watchdog();
        if self.called.is_some_and(|at| at.elapsed() < limit / BEATS) {
            return Ok(());
        }
        self.line.beat();
        self.called = Some(Instant::now());
        let until = clock_ns(ClockId::Monotonic) + u64::try_from((limit * LAST_RESORT).as_nanos()).unwrap_or(u64::MAX / 2);
        Ok(self.sensors.set_deadline(if self.instances.is_empty() { 0 } else { until })?)
    }

    /// A guard that does not answer is as good as none. What it said while this process was not running counts as said now.
    fn hear_guard(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.line.hear() == Heard::Beat {
            self.silence.end(now);
        }
        if self.silence.too_long(now) {
            bail!("the guard does not answer");
        }
        Ok(())
    }

    /// An agent that is stopped, frozen or hangs is not gone: nobody looks after its instances, and they end. It may come back to clear.
    fn end_unattended(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.instances.is_empty() || self.ended.is_some() {
            self.agent_silence.end(now);
        } else if self.agent_silence.too_long(now) {
            return self.end_instances(AGENT_SILENT);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Ready> {
        let longest = RECORD_INTERVAL.min(self.config.watchdog() / LOOKS).min(self.config.agent_silence() / LOOKS);
        let until = self.canaries.as_ref().map_or(longest, |one| one.next(Instant::now()).min(longest));
        let timeout = Timespec { tv_sec: until.as_secs() as i64, tv_nsec: until.subsec_nanos().into() };
        let events = self.sensors.map("events");
        let (mut fds, flags) =
            (vec![PollFd::new(&events, PollFlags::IN), PollFd::new(&self.guard, PollFlags::IN)], PollFlags::IN);
        fds.push(PollFd::new(&self.line, flags));
        let canary = self.canaries.as_ref().map(|one| {
            fds.push(PollFd::from_borrowed_fd(one.output(), flags));
            fds.len() - 1
        });
        let agent = self.agent.as_ref().map(|agent| {
            fds.push(PollFd::new(&agent.process, flags));
            fds.push(PollFd::new(&agent.control, flags));
            fds.len() - 2
        });
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for something to happen"),
        }
        let is = |at: Option<usize>| at.is_some_and(|at| !fds[at].revents().is_empty());
        Ok(Ready { guard: is(Some(1)), canary: is(canary), agent: is(agent), control: is(agent.map(|at| at + 1)) })
    }

    /// The reaction: first the end of the instances, then the record, then everything else. Whether there were reports, none of which ended
    /// the instances.
    fn react(&mut self) -> Result<bool> {
        let state = self.sensors.state()?;
        let mut events = Vec::new();
        let news = state.tripped_at_ns != 0 && self.ended.is_none();
        if news {
            let noticed = boot_ns();
            let outcome = self.switch.pull();
            let at = boot_ns();
            let swept = self.sweep();
            let ended = json!({"kind": "instances_ended", "because": "a violation", "tripped_at_ns": state.tripped_at_ns,
                "noticed_at_ns": noticed, "killed_at_ns": at, "swept": swept, "outcome": word(&outcome), "instances": self.instances.keys().collect::<Vec<_>>()});
            self.ended = Some(ended.clone());
            events.push(ended);
        }
        // Bounded: a flood shall not keep the worker here.
        if self.ring.consume_raw_n(MAX_PENDING) < 0 {
            bail!("read what the programs report: the ring is damaged");
        }
        let Pending { violations, beyond } = self.pending.take();
        let noted = !news && (beyond > 0 || !violations.is_empty());
        let turn = self.flood.since.elapsed() >= RECORD_INTERVAL;
        if turn {
            self.flood = Flood { since: Instant::now(), recorded: 0, beyond: self.flood.beyond };
        }
        let room = (MAX_RECORDED - self.flood.recorded).min(violations.len());
        let (recorded, rest) = violations.split_at(room);
        self.flood.recorded += room;
        self.flood.beyond += rest.len() as u64 + beyond;
        events.extend(recorded.iter().map(violation));
        if news {
            events.extend(self.firsts_that_were_lost(recorded)?);
        }
        if self.flood.beyond > 0 && (turn || news) {
            events.push(json!({"kind": "violations_beyond", "count": self.flood.beyond}));
            self.flood.beyond = 0;
        }
        if !events.is_empty() {
            self.record(events)?;
            self.stale = true;
        }
        Ok(noted)
    }

    /// What a flood kept out of the ring is in the map of first violations.
    fn firsts_that_were_lost(&self, seen: &[Violation]) -> Result<Vec<Value>> {
        let mut lost = Vec::new();
        for detector in Detector::ALL {
            if let Some(first) = self.sensors.first(*detector)?
                && !seen.iter().any(|one| one.detector == first.detector)
            {
                lost.push(violation(&first));
            }
        }
        Ok(lost)
    }

    /// Ends the instances for a reason that is not a violation in the kernel.
    fn end_instances(&mut self, because: &str) -> Result<()> {
        let outcome = self.switch.pull();
        self.sweep();
        let mut state = self.sensors.state()?;
        let at = boot_ns();
        if state.tripped_at_ns == 0 {
            state.tripped_at_ns = at;
            self.sensors.set_state(state)?;
        }
        let ended = json!({"kind": "instances_ended", "because": because, "killed_at_ns": at, "outcome": word(&outcome),
            "instances": self.instances.keys().collect::<Vec<_>>()});
        self.ended = Some(ended.clone());
        self.record([ended])?;
        self.write_status()
    }

    /// On disk, or the instances end.
    fn record(&mut self, events: impl IntoIterator<Item = Value>) -> Result<()> {
        let written = self.spool.append_all(events);
        if written.is_err() {
            self.mute = true;
            self.switch.pull().context("end the instances, as nothing can be written down")?;
        }
        written.context("write down what happened")
    }
}

struct Ready {
    guard: bool,
    canary: bool,
    agent: bool,
    control: bool,
}

fn ring(sensors: &Sensors, pending: &Rc<RefCell<Pending>>) -> Result<RingBuffer<'static>> {
    let (events, pending) = (sensors.map("events"), Rc::clone(pending));
    let mut builder = RingBufferBuilder::new();
    let take = move |bytes: &[u8]| {
        let mut pending = pending.borrow_mut();
        match Violation::parse(bytes) {
            Some(violation) if pending.violations.len() < MAX_PENDING => pending.violations.push(violation),
            _ => pending.beyond += 1,
        }
        0
    };
    builder.add(&events, take).context("attach to the programs' reports")?;
    builder.build().context("attach to the programs' reports")
}

fn violation(one: &Violation) -> Value {
    let name = Detector::numbered(one.detector).map_or_else(|| one.detector.to_string(), |detector| detector.name().to_owned());
    json!({"kind": "violation", "detector": name, "violation": one})
}

fn word(outcome: &io::Result<()>) -> String {
    outcome.as_ref().map_or_else(ToString::to_string, |()| "done".to_owned())
}

/// What the policy makes of a detector, for the status.
fn actions(config: &Config, detector: Detector) -> Actions {
    config.actions(detector)
}

//! The worker: owns programs, labels, record and reaction. One thread, one loop.
//!
//! ```text
//! forbidden act -> denied by a program -> tripped, first violation and counter in maps -> ring
//!                                                        worker: cgroup.kill -> spool, on disk -> status, answer to the agent
//! ```

mod canaries;
mod instances;
mod place;
mod requests;
mod status;

use std::{
    cell::RefCell,
    collections::BTreeMap,
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

use self::{canaries::Canaries, instances::Watched};
use crate::{
    class::Class,
    config::{Config, Mode},
    control::Lines,
    detector::{Actions, Detector},
    guard::KillSwitch,
    kernel::{Sensors, layout::Violation},
    spool::Spool,
};

/// Violations that are written down one by one per wake-up; of the rest, their number: the counters have all.
const MAX_RECORDED: usize = 64;
/// Violations that are kept between wake-ups.
const MAX_PENDING: usize = 4096;

struct Worker {
    config: Config,
    sensors: Sensors,
    class: Class,
    switch: KillSwitch,
    spool: Spool,
    ring: RingBuffer<'static>,
    pending: Rc<RefCell<Pending>>,
    /// Labelled files stay open: their inode numbers stay theirs.
    held: Vec<File>,
    instances: BTreeMap<String, Watched>,
    ended: Option<Value>,
    canaries: Option<Canaries>,
    agent: Option<Agent>,
    guard: OwnedFd,
    stopping: bool,
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
    Ok(json!({"class": Class::of(&sensors.attached), "groups": status::groups(&sensors.attached)}))
}

/// Nanoseconds since boot, as the programs count them.
fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

impl Worker {
    fn start(config: Config) -> Result<Self> {
        std::fs::create_dir_all(&config.state).with_context(|| format!("make the folder {}", config.state.display()))?;
        let switch = KillSwitch::open(&config.instances)?;
        let spool = Spool::open(&config.spool())?;
        let sensors = Sensors::load(&config.pins, config.mode)?;
        let pending = Rc::new(RefCell::new(Pending::default()));
        let ring = ring(&sensors, &pending)?;
        Ok(Self {
            class: Class::of(&sensors.attached),
            guard: place::parent()?,
            config,
            sensors,
            switch,
            spool,
            ring,
            pending,
            held: Vec::new(),
            instances: BTreeMap::new(),
            ended: None,
            canaries: None,
            agent: None,
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
        let refuses = matches!(self.class, Class::Enforcing | Class::EnforcingWithout { .. });
        if refuses {
            self.sensors.pin()?;
            self.label_pins()?;
        }
        self.seal()?;
        if refuses {
            self.canaries = Some(self.start_canaries()?);
        }
        self.record([json!({"kind": "started", "class": self.class, "groups": status::groups(&self.sensors.attached)})])?;
        if !agent.is_empty() {
            self.agent = Some(self.start_agent(agent)?);
        }
        self.write_status()
    }

    fn serve(&mut self) -> Result<()> {
        while !self.stopping {
            let ready = self.wait()?;
            self.react()?;
            if ready.guard {
                bail!("the guard is gone");
            }
            if ready.canary {
                self.hear_canary()?;
            }
            if ready.control {
                self.answer_agent()?;
            }
            if ready.agent {
                bail!("the agent is gone");
            }
            self.release_canary()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Ready> {
        let until = self.canaries.as_ref().map_or(Duration::from_secs(1), |one| one.next(Instant::now()));
        let timeout = Timespec { tv_sec: until.as_secs() as i64, tv_nsec: until.subsec_nanos().into() };
        let events = self.sensors.map("events");
        let (mut fds, flags) =
            (vec![PollFd::new(&events, PollFlags::IN), PollFd::new(&self.guard, PollFlags::IN)], PollFlags::IN);
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

    /// The reaction: first the end of the instances, then the record, then everything else.
    fn react(&mut self) -> Result<()> {
        let state = self.sensors.state()?;
        let mut events = Vec::new();
        let news = state.tripped_at_ns != 0 && self.ended.is_none();
        if news {
            let outcome = self.switch.pull();
            let at = boot_ns();
            let swept = self.sweep();
            let ended = json!({"kind": "instances_ended", "because": "a violation", "tripped_at_ns": state.tripped_at_ns,
                "killed_at_ns": at, "swept": swept, "outcome": word(&outcome), "instances": self.instances.keys().collect::<Vec<_>>()});
            self.ended = Some(ended.clone());
            events.push(ended);
        }
        self.ring.consume().context("read what the programs report")?;
        let Pending { violations, beyond } = self.pending.take();
        events.extend(violations.iter().take(MAX_RECORDED).map(violation));
        let more = violations.len().saturating_sub(MAX_RECORDED) as u64 + beyond;
        if more > 0 {
            events.push(json!({"kind": "violations_beyond", "count": more}));
        }
        if news {
            events.extend(self.firsts_that_were_lost(&violations)?);
        }
        if !events.is_empty() {
            self.record(events)?;
            self.write_status()?;
        }
        Ok(())
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

//! The canary's process, seen from the worker.

use std::{
    io::{Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixListener,
    },
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use libbpf_rs::MapCore as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::Worker;
use crate::{
    canary::{ACTS, HARDWARE, Outcome, Targets, seen_by},
    class::Class,
    control::Lines,
    detector::{Detector, Group},
    guard::own_path,
    kernel::layout::{Label, Role, guard},
};

/// Patience with the first round: nothing depends on it yet.
const FIRST: Duration = Duration::from_secs(120);

/// The canary's process and its rounds.
#[derive(Debug)]
pub(super) struct Canaries {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    lines: Lines,
    /// It never accepts: nobody shall come so far.
    _listener: UnixListener,
    /// A kernel without PCI, found at the start, has nothing of it to guard.
    no_hardware: bool,
    targets: Targets,
    next: Instant,
    /// Since when an answer is awaited, and the counters from before.
    sent: Option<(Instant, Vec<u64>)>,
    rounds: u64,
    interval: Duration,
    timeout: Duration,
}

impl Canaries {
    /// How long there is nothing to do.
    pub(super) fn next(&self, now: Instant) -> Duration {
        let due = self.sent.as_ref().map_or(self.next, |(at, _)| *at + self.timeout);
        due.saturating_duration_since(now) + Duration::from_millis(1)
    }

    /// Where it answers.
    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// For the status.
    pub(super) fn last(&self) -> Value {
        json!({"rounds": self.rounds})
    }
}

impl Drop for Canaries {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    /// Makes what it tries its acts on, starts it, and takes its rights.
    pub(super) fn start_canaries(&mut self) -> Result<Canaries> {
        let state = self.config.state.clone();
        let (file, folder, memory) = (state.join("canary.file"), state.join("canary.folder"), state.join("canary.memory"));
        std::fs::create_dir_all(&folder).context("make the canary's folder")?;
        for path in [&file, &memory] {
            std::fs::write(path, "canary").context("make the canary's file")?;
        }
        self.hold(&file, guard::READ | guard::WRITE | guard::NAME, Role::Monitor, 0)?;
        self.hold(&folder, guard::ENTRIES | guard::NAME, Role::Monitor, 0)?;
        self.hold(&memory, guard::MEMORY | guard::READ | guard::WRITE, Role::Monitor, 0)?;
        let (free, namespace, socket) = (state.join("canary.free"), state.join("canary.namespace"), state.join("canary.socket"));
        std::fs::create_dir_all(&free).context("make the canary's own folder")?;
        std::fs::write(&namespace, "canary").context("make the canary's file")?;
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).context("listen for the canary")?;
        self.hold(&namespace, guard::ENTER, Role::Monitor, 0)?;
        self.hold(&socket, guard::CONNECT | guard::NAME, Role::Monitor, 0)?;
        let map = self.sensors.map("policy").info().context("find a map's number")?.info.id;
        let targets = Targets {
            monitor: std::process::id(),
            file,
            folder,
            memory,
            map,
            free,
            namespace,
            socket,
            only_seen: !self.refuses(),
        };
        let mut start = Command::new(own_path()?);
        let mut child = start.arg("canary").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the canary")?;
        self.sensors.label_process(child.id(), Label { role: Role::Canary, instance: 0 })?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut input = input.context("the canary listens")?;
        input.write_all(&[0]).context("tell the canary that it is labelled")?;
        Ok(Canaries {
            child,
            input,
            output: output.context("the canary answers")?,
            lines: Lines::default(),
            _listener: listener,
            no_hardware: !Path::new(HARDWARE).exists(),
            targets,
            next: Instant::now(),
            sent: None,
            rounds: 0,
            interval: self.config.canary_interval(),
            timeout: self.config.canary_timeout(),
        })
    }

    /// Sends it out when it is time; one that does not come back was silenced.
    pub(super) fn release_canary(&mut self) -> Result<()> {
        if self.canaries.as_ref().is_some_and(|one| one.sent.is_none() && Instant::now() >= one.next) {
            self.guard_characters()?;
        }
        let counts = self.canary_counts()?;
        let Some(canaries) = &mut self.canaries else { return Ok(()) };
        let now = Instant::now();
        match &canaries.sent {
            Some((at, _)) if now >= *at + canaries.timeout => {
                canaries.sent = None;
                canaries.next = now + canaries.interval;
                return self.canary_missed("it does not answer");
            }
            Some(_) => return Ok(()),
            None if now < canaries.next => return Ok(()),
            None => {}
        }
        let mut line = serde_json::to_vec(&canaries.targets).context("write to the canary")?;
        line.push(b'\n');
        canaries.sent = Some((now, counts));
        if canaries.input.write_all(&line).is_err() {
            return self.canary_missed("it is gone");
        }
        Ok(())
    }

    /// Before anything depends on the programs: what a kernel does not refuse although all hooks are there is none of the class.
    pub(super) fn first_round(&mut self) -> Result<()> {
        self.canaries = Some(self.start_canaries()?);
        self.release_canary()?;
        let end = Instant::now() + FIRST;
        let mut missed = Vec::new();
        while let Some(canaries) = self.canaries.as_ref().filter(|one| one.rounds == 0) {
            let left = end.saturating_duration_since(Instant::now()).as_secs() as i64;
            let timeout = Timespec { tv_sec: left, tv_nsec: 0 };
            if poll(&mut [PollFd::new(&canaries.output, PollFlags::IN)], Some(&timeout)).context("wait for the canary")? == 0 {
                bail!("wait for the first canary: it does not answer");
            }
            missed = self.judge_canary()?.context("the canary ended in its first round")?;
        }
        for (group, why) in missed {
            self.blind.insert(group);
            self.sensors.attached.entry(group).or_default().push(Err(format!("canary: {why}")));
        }
        self.class = Class::of(&self.sensors.attached, &self.blind);
        // Programs that only see are proved once: on a busy machine a canary that is late shall not end what nobody attacks.
        if !self.refuses() {
            self.canaries = None;
        }
        Ok(())
    }

    /// Judges its answer: every act refused, every refusal counted.
    pub(super) fn hear_canary(&mut self) -> Result<()> {
        match self.judge_canary()? {
            None => self.canary_missed("it is gone"),
            Some(missed) => missed.first().map_or(Ok(()), |(_, why)| self.canary_missed(why)),
        }
    }

    /// The groups in which it was not met, and how; nothing if it is gone.
    fn judge_canary(&mut self) -> Result<Option<Vec<(Group, String)>>> {
        let counts = self.canary_counts()?;
        let refuses = self.refuses();
        let attached = &self.sensors.attached;
        let Some(canaries) = &mut self.canaries else { return Ok(Some(Vec::new())) };
        let mut bytes = [0; 4096];
        let length = canaries.output.read(&mut bytes).context("hear the canary")?;
        if length == 0 {
            return Ok(None);
        }
        let lines = canaries.lines.take(&bytes[..length]).context("the canary's answer is too long")?;
        let Some(line) = lines.first() else { return Ok(Some(Vec::new())) };
        let outcome: Outcome = serde_json::from_slice(line).context("read the canary's answer")?;
        let Some((_, before)) = canaries.sent.take() else { bail!("the canary answers without being asked") };
        canaries.rounds += 1;
        canaries.next = Instant::now() + canaries.interval;
        let no_hardware = canaries.no_hardware;
        let promised = |group: &Group, detector: Detector| {
            let Some(hooks) = attached.get(group) else { return false };
            let seen = |hook| hooks.iter().flatten().any(|there| there == hook);
            match seen_by(detector) {
                Some(hook) if !refuses => seen(hook),
                _ => hooks.iter().all(Result::is_ok) && !(no_hardware && *group == Group::Hardware),
            }
        };
        let mut missed = Vec::new();
        for (at, (group, detector)) in ACTS.iter().enumerate().filter(|(_, (group, detector))| promised(group, *detector)) {
            let counted = counts[at] > before[at];
            match outcome.get(detector.name()) {
                Some(None) if counted => {}
                Some(Some(_)) if counted && !refuses => {}
                Some(Some(why)) => missed.push((*group, format!("{detector}: {why}"))),
                Some(None) => missed.push((*group, format!("{detector} was refused, but not by the monitor's program"))),
                None => missed.push((*group, format!("{detector} was not tried"))),
            }
        }
        Ok(Some(missed))
    }

    fn canary_missed(&mut self, why: &str) -> Result<()> {
        self.record([json!({"kind": "canary_missed", "why": why})])?;
        if self.ended.is_none() { self.end_instances(&format!("the canary: {why}")) } else { Ok(()) }
    }

    fn canary_counts(&self) -> Result<Vec<u64>> {
        ACTS.iter().map(|(_, detector): &(Group, Detector)| Ok(self.sensors.count(*detector)?.canary)).collect()
    }
}

//! The canary's process, seen from the worker.

use std::{
    io::{Read as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use libbpf_rs::MapCore as _;
use serde_json::{Value, json};

use super::Worker;
use crate::{
    canary::{ACTS, Outcome, Targets},
    control::Lines,
    detector::{Detector, Group},
    guard::own_path,
    kernel::layout::{Label, Role, guard},
};

/// The canary's process and its rounds.
#[derive(Debug)]
pub(super) struct Canaries {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    lines: Lines,
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
        self.hold(&file, guard::WRITE | guard::NAME, Role::Monitor, 0)?;
        self.hold(&folder, guard::ENTRIES | guard::NAME, Role::Monitor, 0)?;
        self.hold(&memory, guard::MEMORY | guard::READ | guard::WRITE, Role::Monitor, 0)?;
        let map = self.sensors.map("policy").info().context("find a map's number")?.info.id;
        let targets = Targets { monitor: std::process::id(), file, folder, memory, map };
        let mut start = Command::new(own_path()?);
        let mut child = start.arg("canary").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the canary")?;
        self.sensors.label_process(child.id(), Label { role: Role::Canary, instance: 0 })?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        Ok(Canaries {
            child,
            input: input.context("the canary listens")?,
            output: output.context("the canary answers")?,
            lines: Lines::default(),
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

    /// Judges its answer: every act refused, every refusal counted.
    pub(super) fn hear_canary(&mut self) -> Result<()> {
        let counts = self.canary_counts()?;
        let attached = self.sensors.attached.clone();
        let Some(canaries) = &mut self.canaries else { return Ok(()) };
        let mut bytes = [0; 4096];
        let length = canaries.output.read(&mut bytes).context("hear the canary")?;
        if length == 0 {
            return self.canary_missed("it is gone");
        }
        let lines = canaries.lines.take(&bytes[..length]).context("the canary's answer is too long")?;
        let Some(line) = lines.first() else { return Ok(()) };
        let outcome: Outcome = serde_json::from_slice(line).context("read the canary's answer")?;
        let Some((_, before)) = canaries.sent.take() else { bail!("the canary answers without being asked") };
        canaries.rounds += 1;
        canaries.next = Instant::now() + canaries.interval;
        let whole = |group: &Group| attached.get(group).is_some_and(|hooks| hooks.iter().all(Result::is_ok));
        for (at, (_, detector)) in ACTS.iter().enumerate().filter(|(_, (group, _))| whole(group)) {
            match outcome.get(detector.name()) {
                Some(None) if counts[at] > before[at] => {}
                Some(None) => return self.canary_missed(&format!("{detector} was refused, but not by the monitor's program")),
                Some(Some(why)) => return self.canary_missed(&format!("{detector}: {why}")),
                None => return self.canary_missed(&format!("{detector} was not tried")),
            }
        }
        Ok(())
    }

    fn canary_missed(&mut self, why: &str) -> Result<()> {
        self.record([json!({"kind": "canary_missed", "why": why})])?;
        if self.ended.is_none() { self.end_instances(&format!("the canary: {why}")) } else { Ok(()) }
    }

    fn canary_counts(&self) -> Result<Vec<u64>> {
        ACTS.iter().map(|(_, detector): &(Group, Detector)| Ok(self.sensors.count(*detector)?.canary)).collect()
    }
}

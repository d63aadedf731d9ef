//! The phases of a guest's life and when each was reached.

use std::{collections::BTreeMap, io::Write as _, sync::OnceLock};

use casemate_api::guest;
use rustix::time::{ClockId, clock_gettime};

/// Names of phases, as on the console and in `Status.reached_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Booted,
    Configured,
    Keyed,
    Running,
    Exited,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Booted => "booted",
            Self::Configured => "configured",
            Self::Keyed => "keyed",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }

    pub(crate) fn to_wire(self) -> guest::Phase {
        match self {
            Self::Booted => guest::Phase::Booted,
            Self::Configured => guest::Phase::Configured,
            Self::Keyed => guest::Phase::Keyed,
            Self::Running => guest::Phase::Running,
            Self::Exited => guest::Phase::Exited,
        }
    }
}

/// The current phase and the times of all so far.
#[derive(Debug)]
pub(crate) struct Progress {
    phase: Phase,
    reached_ms: BTreeMap<Phase, u64>,
    observed: Vec<guest::Observation>,
}

impl Progress {
    /// Begins, and says so.
    pub(crate) fn booted() -> Self {
        let mut progress = Self { phase: Phase::Booted, reached_ms: BTreeMap::new(), observed: Vec::new() };
        progress.reach(Phase::Booted);
        progress
    }

    /// Goes on to `phase`, and says so on the console.
    pub(crate) fn reach(&mut self, phase: Phase) {
        self.phase = phase;
        self.reached_ms.insert(phase, mark(phase.name()));
    }

    /// What is told of the machine's protection from now on.
    pub(crate) fn observed(&mut self, seen: impl IntoIterator<Item = guest::Observation>) {
        self.observed.extend(seen);
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn to_status(&self, exit_code: Option<i32>, next_record: u64) -> guest::Status {
        guest::Status {
            phase: self.phase.to_wire().into(),
            exit_code,
            next_record,
            reached_ms: self.reached_ms.iter().map(|(phase, ms)| (phase.name().to_owned(), *ms)).collect(),
            observed: self.observed.clone(),
        }
    }
}

/// Counts from now on: in a container the kernel's start is another one's business.
pub(crate) fn begin_here() {
    let _ = BEGIN.set(now_ms());
}

fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

static BEGIN: OnceLock<u64> = OnceLock::new();

/// Writes `CASEMATE-PHASE <name> <ms>` and returns the milliseconds since the kernel's start, or the container's.
pub(crate) fn mark(name: &str) -> u64 {
    let ms = now_ms().saturating_sub(BEGIN.get().copied().unwrap_or(0));
    say(&format!("CASEMATE-PHASE {name} {ms}"));
    ms
}

/// Writes a line to the console. A console that does not take it is no reason to stop.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

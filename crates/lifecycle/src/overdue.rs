//! What time alone brings: a node that is away, keys that never come, a time to live, a node's drain.
//!
//! ```text
//! node:  connected --- its session ends ---> unreachable --- node_lost_ms ---> lost
//! ```
//!
//! What runs on an unreachable node is believed to run. On a lost one its state is unknown: it is told to stop, and never started a
//! second time elsewhere.

use crate::{Actual, Intent, Step};

/// From the end of a time to live to the end of patience with the guest, which ends its workload itself. The agent sees to it first, and
/// the platform to an agent that does not.
pub const AGENT_PATIENCE_MS: u64 = 15_000;
/// See [`AGENT_PATIENCE_MS`].
pub const PLATFORM_PATIENCE_MS: u64 = 60_000;

/// Whether a node can be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// It has a session.
    Connected,
    /// It has none, and may come back.
    Unreachable,
    /// It was silent for too long.
    Lost,
}

impl Reach {
    /// The name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Unreachable => "unreachable",
            Self::Lost => "lost",
        }
    }
}

/// Of a node that has been silent for so long, or has a session.
pub fn reach(silent_ms: Option<u64>, node_lost_ms: u64) -> Reach {
    match silent_ms {
        None => Reach::Connected,
        Some(silent) if silent > node_lost_ms => Reach::Lost,
        Some(_) => Reach::Unreachable,
    }
}

/// When a workload whose keys were opened at this time is to end.
pub fn ends_at_ms(keyed_at_ms: u64, ttl_s: u64) -> u64 {
    keyed_at_ms.saturating_add(ttl_s.saturating_mul(1000))
}

/// What bounds an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dates {
    /// Not to be started later.
    pub start_before_ms: u64,
    /// When the platform's appraisal passed.
    pub attested_at_ms: Option<u64>,
    /// End of its time to live, once its keys are opened.
    pub ends_at_ms: Option<u64>,
    /// When what still runs on its node is ended, where the node drains.
    pub drained_at_ms: Option<u64>,
    /// Whether its node is in maintenance.
    pub maintenance: bool,
}

/// What time it is, and how patient the platform is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Now.
    pub now_ms: u64,
    /// How long the node has not been heard of, if it has no session.
    pub silent_ms: Option<u64>,
    /// After which silence a node is lost.
    pub node_lost_ms: u64,
    /// How long keys are waited for.
    pub keys_ms: u64,
}

/// What is overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Overdue {
    /// The node is lost.
    Node,
    /// The keys did not come.
    Keys,
    /// The node did not begin.
    Start,
    /// Its time to live is over, and neither guest nor agent ended it.
    Life,
    /// Its node goes out of service.
    Drain,
    /// Its node is in maintenance.
    Maintenance,
}

/// The first thing that is overdue with an instance that has not ended.
pub fn overdue(actual: &Actual, intent: Intent, dates: &Dates, times: &Times) -> Option<Overdue> {
    if actual.failure.is_some() || actual.exit_code.is_some() || actual.step >= Step::Wiped {
        return None;
    }
    if reach(times.silent_ms, times.node_lost_ms) == Reach::Lost {
        return Some(Overdue::Node);
    }
    if intent != Intent::Run {
        return None;
    }
    let past = |at: Option<u64>, patience: u64| at.is_some_and(|at| times.now_ms > at.saturating_add(patience));
    if dates.maintenance {
        return Some(Overdue::Maintenance);
    }
    if past(dates.drained_at_ms, 0) {
        return Some(Overdue::Drain);
    }
    if past(dates.ends_at_ms, PLATFORM_PATIENCE_MS) {
        return Some(Overdue::Life);
    }
    match actual.step {
        Step::Scheduled if past(Some(dates.start_before_ms), 0) => Some(Overdue::Start),
        Step::Attested if past(Some(dates.attested_at_ms.unwrap_or(0)), times.keys_ms) => Some(Overdue::Keys),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Failure;

    const NONE: Dates =
        Dates { start_before_ms: 1_000, attested_at_ms: None, ends_at_ms: None, drained_at_ms: None, maintenance: false };

    fn at(step: Step) -> Actual {
        Actual { step, ..Actual::new() }
    }

    fn times(now_ms: u64, silent_ms: Option<u64>) -> Times {
        Times { now_ms, silent_ms, node_lost_ms: 30, keys_ms: 50 }
    }

    #[test]
    fn a_silent_node_is_unreachable_first_and_lost_later() {
        for (silent, reached) in
            [(None, Reach::Connected), (Some(0), Reach::Unreachable), (Some(30), Reach::Unreachable), (Some(31), Reach::Lost)]
        {
            assert_eq!(reach(silent, 30), reached);
        }
    }

    #[test]
    fn each_limit_holds_to_the_millisecond() {
        let keyed = Dates { ends_at_ms: Some(ends_at_ms(5, 2)), ..NONE };
        let drained = Dates { drained_at_ms: Some(700), ..NONE };
        let attested = Dates { attested_at_ms: Some(100), ..NONE };
        for (step, dates, last, due) in [
            (Step::Scheduled, NONE, 1_000, Overdue::Start),
            (Step::Attested, attested, 150, Overdue::Keys),
            (Step::Keyed, keyed, 2_005 + PLATFORM_PATIENCE_MS, Overdue::Life),
            (Step::Running, keyed, 2_005 + PLATFORM_PATIENCE_MS, Overdue::Life),
            (Step::Running, drained, 700, Overdue::Drain),
            (Step::Accepted, drained, 700, Overdue::Drain),
        ] {
            assert_eq!(overdue(&at(step), Intent::Run, &dates, &times(last, None)), None, "{step} {due:?}");
            assert_eq!(overdue(&at(step), Intent::Run, &dates, &times(last + 1, None)), Some(due), "{step}");
            assert_eq!(overdue(&at(step), Intent::Stop, &dates, &times(last + 1, None)), None, "it is on its way down");
        }
        assert_eq!(ends_at_ms(u64::MAX, u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn what_has_ended_is_never_overdue_and_a_lost_node_always_comes_first(
            step in 0usize..11, failed in any::<bool>(), exited in any::<bool>(), stop in any::<bool>(),
            maintenance in any::<bool>(), now in any::<u64>(), silent in proptest::option::of(any::<u64>()),
            (start, attested, ends, drained) in (any::<u64>(), any::<Option<u64>>(), any::<Option<u64>>(), any::<Option<u64>>()),
        ) {
            let failure = failed.then(|| Failure { step: Step::Booted, check: "x".into(), detail: String::new() });
            let actual = Actual { step: Step::ALL[step], exit_code: exited.then_some(0), failure };
            let dates = Dates { start_before_ms: start, attested_at_ms: attested, ends_at_ms: ends, drained_at_ms: drained, maintenance };
            let intent = if stop { Intent::Stop } else { Intent::Run };
            let due = overdue(&actual, intent, &dates, &times(now, silent));
            if failed || exited || actual.step >= Step::Wiped {
                prop_assert_eq!(due, None);
            } else if silent.is_some_and(|silent| silent > 30) {
                prop_assert_eq!(due, Some(Overdue::Node));
            } else if stop {
                prop_assert_eq!(due, None);
            } else if maintenance {
                prop_assert_eq!(due, Some(Overdue::Maintenance));
            }
        }
    }
}

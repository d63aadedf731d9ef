//! The life of an instance.
//!
//! ```text
//! requested > scheduled > accepted > prepared > booted > attested > keyed > running > stopping > wiped > gone
//!      \________________________ any failure, any stop request ___________________/
//! ```
//!
//! A failed instance is stopped and wiped like any other; its [`Failure`] stays with it to the end.

use std::fmt;

/// What the tenant (or the platform on the tenant's behalf) wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Intent {
    /// Run to its natural end.
    Run,
    /// End now, wipe, keep the record.
    Stop,
    /// End now, wipe, forget.
    Delete,
}

/// How far an instance has come. The order of the variants is the order of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Known to the platform.
    Requested,
    /// A node was chosen.
    Scheduled,
    /// The node's agent took the signed assignment.
    Accepted,
    /// Image, scratch, vTPM and jail are ready.
    Prepared,
    /// The guest answers on its channel.
    Booted,
    /// The platform appraised the evidence as affirming.
    Attested,
    /// The guest opened the keys that the relying party sealed.
    Keyed,
    /// The workload's process runs.
    Running,
    /// On the way down, gracefully or not.
    Stopping,
    /// Memory, vTPM state and scratch are wiped; the receipt is signed.
    Wiped,
    /// Nothing is left on the node.
    Gone,
}

impl Step {
    /// All steps in order.
    pub const ALL: [Self; 11] = [
        Self::Requested,
        Self::Scheduled,
        Self::Accepted,
        Self::Prepared,
        Self::Booted,
        Self::Attested,
        Self::Keyed,
        Self::Running,
        Self::Stopping,
        Self::Wiped,
        Self::Gone,
    ];

    /// The name on the wire and in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Scheduled => "scheduled",
            Self::Accepted => "accepted",
            Self::Prepared => "prepared",
            Self::Booted => "booted",
            Self::Attested => "attested",
            Self::Keyed => "keyed",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Wiped => "wiped",
            Self::Gone => "gone",
        }
    }

    /// The step of that name; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == text)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an instance ended before its workload did.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Failure {
    /// The step that was being attempted.
    pub step: Step,
    /// The name of the check or operation that failed, e.g. `guest.kernel`.
    pub check: String,
    /// What was seen, for a person.
    pub detail: String,
}

/// What is the case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Actual {
    /// The furthest step reached.
    pub step: Step,
    /// The exit status of the workload, once it ended by itself.
    pub exit_code: Option<i32>,
    /// The first failure; later ones never replace it.
    pub failure: Option<Failure>,
}

impl Actual {
    /// A new instance.
    pub fn new() -> Self {
        Self { step: Step::Requested, exit_code: None, failure: None }
    }

    /// Whether anything of it may still exist on a node.
    pub fn is_live(&self) -> bool {
        self.step < Step::Gone
    }
}

impl Default for Actual {
    fn default() -> Self {
        Self::new()
    }
}

/// What happened to an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// It reached this step.
    Reached(Step),
    /// Its workload ended with this status.
    Exited(i32),
    /// Something failed; the instance is going down.
    Failed(Failure),
}

/// What somebody asks of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Hand sealed keys to the guest.
    ReleaseKeys,
    /// Ask for evidence.
    Challenge,
    /// Stop it.
    Stop,
    /// Forget it.
    Delete,
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Do it.
    Accept,
    /// It is already so; answer as if done.
    Ignore,
    /// No, and this is why.
    Refuse(Refusal),
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Keys only go to a guest that the platform, too, has verified.
    #[error("the guest is not attested yet")]
    NotAttested,
    /// There is no guest to ask.
    #[error("the guest has not booted yet")]
    NotBooted,
    /// The instance is ending or has ended.
    #[error("the instance is ending or has ended")]
    Ended,
    /// Deleting waits until the wipe is done.
    #[error("the instance still runs; stop it first")]
    StillRunning,
}

/// Decides on a request from what is the case; changes nothing.
pub fn admit(actual: &Actual, intent: Intent, request: Request) -> Admission {
    let ending = actual.failure.is_some() || actual.step >= Step::Stopping || intent != Intent::Run;
    match request {
        Request::ReleaseKeys | Request::Challenge if ending => Admission::Refuse(Refusal::Ended),
        Request::ReleaseKeys => match actual.step {
            Step::Attested => Admission::Accept,
            Step::Keyed | Step::Running => Admission::Ignore,
            _ => Admission::Refuse(Refusal::NotAttested),
        },
        Request::Challenge if actual.step < Step::Booted => Admission::Refuse(Refusal::NotBooted),
        Request::Challenge => Admission::Accept,
        Request::Stop if ending => Admission::Ignore,
        Request::Stop => Admission::Accept,
        Request::Delete if actual.step < Step::Wiped => Admission::Refuse(Refusal::StillRunning),
        Request::Delete if intent == Intent::Delete => Admission::Ignore,
        Request::Delete => Admission::Accept,
    }
}

/// The state after an event. Steps never go backwards; the first failure stays; nothing moves forward to a
/// guest-trusting step after a failure.
pub fn apply(mut actual: Actual, event: Event) -> Actual {
    match event {
        Event::Reached(step) if step <= actual.step => {}
        Event::Reached(step) if actual.failure.is_some() && step < Step::Stopping => {}
        Event::Reached(step) => actual.step = step,
        Event::Exited(code) => {
            if actual.failure.is_none() && actual.exit_code.is_none() && actual.step >= Step::Keyed {
                actual.exit_code = Some(code);
            }
        }
        Event::Failed(failure) => {
            if actual.failure.is_none() && actual.exit_code.is_none() && actual.step < Step::Wiped {
                actual.failure = Some(failure);
            }
        }
    }
    actual
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(step: Step) -> Actual {
        Actual { step, exit_code: None, failure: None }
    }

    #[test]
    fn releases_keys_only_to_an_attested_guest() {
        for step in Step::ALL {
            let admission = admit(&at(step), Intent::Run, Request::ReleaseKeys);
            assert_eq!(admission == Admission::Accept, step == Step::Attested, "{step}");
        }
    }

    #[test]
    fn deletes_only_what_is_wiped() {
        for step in Step::ALL {
            let admission = admit(&at(step), Intent::Stop, Request::Delete);
            assert_eq!(admission == Admission::Accept, step >= Step::Wiped, "{step}");
        }
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0usize..11).prop_map(|i| Event::Reached(Step::ALL[i])),
            any::<i32>().prop_map(Event::Exited),
            Just(Event::Failed(Failure { step: Step::Booted, check: "x".into(), detail: String::new() })),
        ]
    }

    proptest! {
        #[test]
        fn never_goes_back_and_never_gets_keys_after_a_failure(events in prop::collection::vec(any_event(), 0..40)) {
            let mut state = Actual::new();
            for event in events {
                let before = state.clone();
                state = apply(state, event);
                prop_assert!(state.step >= before.step);
                prop_assert!(before.failure.is_none() || state.failure == before.failure);
                if before.failure.is_some() && before.step < Step::Keyed {
                    prop_assert!(!matches!(state.step, Step::Keyed | Step::Running));
                }
                if state.failure.is_some() {
                    prop_assert!(admit(&state, Intent::Run, Request::ReleaseKeys) != Admission::Accept);
                }
            }
        }
    }
}

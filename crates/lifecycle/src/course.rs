//! The platform's side of an instance: what it wants, what it believes, and what follows from a change.

use crate::{Actual, Event, Failure, Intent, Step, apply};

/// What the platform holds of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Course {
    /// What should be.
    pub intent: Intent,
    /// Grows with every change of what should be; a node follows no order that is not newer than the one it holds.
    pub generation: u64,
    /// What is the case, as far as the platform knows.
    pub actual: Actual,
    /// Whether sealed keys wait for the guest.
    pub keys_wait: bool,
}

impl Course {
    /// A new instance, to be run.
    pub fn new() -> Self {
        Self { intent: Intent::Run, generation: 1, actual: Actual::new(), keys_wait: false }
    }

    /// Takes an event over. What failed is stopped at once, and keys that were opened, or may not be any more, wait no longer.
    pub fn happen(&mut self, event: Event) {
        let had_failed = self.actual.failure.is_some();
        self.actual = apply(std::mem::take(&mut self.actual), event);
        if !had_failed && self.actual.failure.is_some() {
            self.intend(Intent::Stop);
        }
        if self.actual.step >= Step::Keyed {
            self.keys_wait = false;
        }
    }

    /// Changes what should be. Keys that were on their way go nowhere any more.
    pub fn intend(&mut self, intent: Intent) {
        if self.intent != intent {
            self.intent = intent;
            self.generation += 1;
            self.keys_wait = false;
        }
    }

    /// Whether the platform has to ask the guest for evidence now.
    pub fn is_due_for_appraisal(&self) -> bool {
        due_for_appraisal(&self.actual, self.intent)
    }

    /// Whether the keys that wait may be handed to the node now.
    pub fn is_due_for_delivery(&self) -> bool {
        self.keys_wait && self.intent == Intent::Run && self.actual.failure.is_none() && self.actual.step == Step::Attested
    }
}

impl Default for Course {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether evidence is wanted of a guest in this state. It is asked again before a verdict is taken over: what was to be judged may
/// have ended meanwhile.
pub fn due_for_appraisal(actual: &Actual, intent: Intent) -> bool {
    actual.step == Step::Booted && actual.failure.is_none() && intent == Intent::Run
}

/// What a node says of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Reported {
    /// How far it came, where the platform knows a step of that name.
    pub step: Option<Step>,
    /// How its workload ended.
    pub exit_code: Option<i32>,
    /// What went wrong.
    pub failure: Option<Failure>,
}

/// What the platform believes of a report, in order. A node may say how far it came, that it failed and how the workload ended. It may
/// not say that a guest is attested, and no instance gets keys or runs with keys that the platform did not attest.
pub fn believed(actual: &Actual, reported: Reported) -> Vec<Event> {
    let step = reported.step.filter(|step| match step {
        Step::Accepted | Step::Prepared | Step::Booted | Step::Stopping => true,
        Step::Keyed | Step::Running => actual.step >= Step::Attested,
        Step::Requested | Step::Scheduled | Step::Attested | Step::Wiped | Step::Gone => false,
    });
    // What came to its end between two sessions ran before: otherwise its exit status would be lost, and it were taken for stopped.
    let ran = reported.exit_code.is_some() && (Step::Attested..Step::Running).contains(&actual.step);
    let mut events: Vec<Event> = ran.then_some(Event::Reached(Step::Running)).into_iter().collect();
    events.extend(step.map(Event::Reached));
    events.extend(reported.exit_code.filter(|_| actual.step >= Step::Attested).map(Event::Exited));
    events.extend(reported.failure.map(Event::Failed));
    if matches!(reported.step, Some(Step::Wiped | Step::Gone)) {
        let after = events.iter().cloned().fold(actual.clone(), apply);
        events.extend(wiped(&after));
    }
    events
}

/// The events of a wipe. What ended without a reason was stopped.
pub fn wiped(actual: &Actual) -> Vec<Event> {
    let stopped = (actual.failure.is_none() && actual.exit_code.is_none()).then(|| {
        let detail = "it was stopped before its workload ended".to_owned();
        Event::Failed(Failure { step: actual.step, check: "stopped".into(), detail })
    });
    stopped.into_iter().chain([Event::Reached(Step::Wiped)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: Step) -> Actual {
        Actual { step, ..Actual::new() }
    }

    fn says(step: Step) -> Reported {
        Reported { step: Some(step), ..Reported::default() }
    }

    #[test]
    fn no_node_can_say_that_a_guest_is_attested() {
        for step in Step::ALL {
            assert_eq!(believed(&at(step), says(Step::Attested)), [], "{step}");
        }
    }

    #[test]
    fn keys_are_believed_only_where_the_platform_attested() {
        for (step, claim) in Step::ALL.into_iter().flat_map(|step| [(step, Step::Keyed), (step, Step::Running)]) {
            let taken = believed(&at(step), says(claim)) == [Event::Reached(claim)];
            assert_eq!(taken, step >= Step::Attested, "{claim} at {step}");
        }
    }

    #[test]
    fn a_wipe_without_a_reason_is_a_stop_and_one_with_a_reason_is_not() {
        let events = believed(&at(Step::Running), says(Step::Wiped));
        assert!(matches!(&events[..], [Event::Failed(failure), Event::Reached(Step::Wiped)] if failure.check == "stopped"));
        let exited = Reported { exit_code: Some(0), ..says(Step::Wiped) };
        assert_eq!(believed(&at(Step::Running), exited), [Event::Exited(0), Event::Reached(Step::Wiped)]);
    }

    #[test]
    fn what_ran_and_ended_while_its_node_was_away_has_its_exit_status_and_only_where_the_platform_attested() {
        for (step, claim) in
            Step::ALL.into_iter().flat_map(|step| [Step::Running, Step::Stopping, Step::Wiped].map(|claim| (step, claim)))
        {
            let course = |step| Course { actual: at(step), keys_wait: step == Step::Attested, ..Course::new() };
            let mut after = course(step);
            let reported = Reported { exit_code: Some(7), ..says(claim) };
            believed(&at(step), reported).into_iter().for_each(|event| after.happen(event));
            let ran =
                believed(&at(step), Reported { exit_code: Some(7), ..says(claim) }).contains(&Event::Reached(Step::Running));
            assert_eq!(ran && step < Step::Running, (Step::Attested..Step::Running).contains(&step), "{claim} at {step}");
            assert!(
                step >= Step::Attested || after.actual.exit_code.is_none(),
                "{claim} at {step}: nothing ran that nobody attested"
            );
            if (Step::Attested..Step::Wiped).contains(&step) {
                assert_eq!(
                    (after.actual.exit_code, after.actual.failure.is_none(), after.keys_wait),
                    (Some(7), true, false),
                    "{claim} at {step}"
                );
            }
        }
    }

    #[test]
    fn keys_wait_only_while_they_may_be_used() {
        let keyed = || Course { actual: at(Step::Attested), keys_wait: true, ..Course::new() };
        assert!(keyed().is_due_for_delivery());
        let failure = Failure { step: Step::Keyed, check: "x".into(), detail: String::new() };
        let ends: [fn(&mut Course); 2] =
            [|course| course.intend(Intent::Stop), |course| course.happen(Event::Reached(Step::Keyed))];
        for end in ends {
            let mut course = keyed();
            end(&mut course);
            assert!(!course.keys_wait);
        }
        let mut failed = keyed();
        failed.happen(Event::Failed(failure));
        assert_eq!((failed.keys_wait, failed.intent, failed.generation), (false, Intent::Stop, 2));
    }
}

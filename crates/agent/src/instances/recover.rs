//! After a restart: what becomes of each instance of which anything is left. Pure.

use casemate_lifecycle::{self as lifecycle, Failure, Interrupted, Launch, Recorded, Step};
use casemate_sandbox::Presence;

use crate::{
    failure::{self, check},
    journal::{Ending, Journal, Machine},
};

/// What to do with an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Its machine runs and everything about it is known: go on with it.
    Adopt,
    /// Its machine was started and is gone: ask the driver why, then wipe.
    Inquire,
    /// Wipe it; the failure is new, or there is none because the journal says why it ends.
    Finish(Option<Failure>),
    /// It is wiped, only its receipt (and records) are still to be sent. The driver should have nothing of it.
    Linger,
}

/// Decides from the journal and from what the driver has.
pub(crate) fn plan(journal: &Journal, presence: Option<Presence>) -> Recovery {
    let machine = match presence {
        None => lifecycle::Machine::Absent,
        Some(Presence::Remains) => lifecycle::Machine::Remains,
        Some(Presence::Running) => lifecycle::Machine::Running,
    };
    match lifecycle::recover(recorded(journal), machine) {
        lifecycle::Recovery::Adopt => Recovery::Adopt,
        lifecycle::Recovery::Inquire => Recovery::Inquire,
        lifecycle::Recovery::Linger => Recovery::Linger,
        lifecycle::Recovery::Finish(interrupted) => Recovery::Finish(interrupted.map(|what| told(what, presence))),
    }
}

fn recorded(journal: &Journal) -> Recorded {
    Recorded {
        launch: match journal.machine {
            Machine::None => Launch::NotBegun,
            Machine::Begun => Launch::Begun,
            Machine::Started(_) => Launch::Recorded,
        },
        exited: journal.actual.exit_code.is_some(),
        ending: journal.ending.is_some(),
        receipted: journal.receipt.is_some(),
    }
}

fn told(interrupted: Interrupted, presence: Option<Presence>) -> Failure {
    match interrupted {
        Interrupted::Gathering => {
            let detail = "the agent was restarted while it fetched or converted the image";
            failure::at(Step::Prepared, check::PREPARE, detail)
        }
        Interrupted::Starting => {
            let seen = match presence {
                Some(Presence::Running) => "the machine ran, but what was launched had not been recorded",
                Some(Presence::Remains) | None => "no machine ran",
            };
            let detail = format!("the agent was restarted while it prepared or started the machine; {seen}");
            failure::at(Step::Booted, check::START, detail)
        }
    }
}

/// How an instance ends whose journal does not say it yet.
pub(crate) fn ending(journal: &Journal) -> Ending {
    match (&journal.actual.failure, journal.actual.exit_code) {
        (Some(_), _) => Ending::Failed,
        (None, Some(_)) => Ending::Exited,
        (None, None) => Ending::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        assignment::tests::{body, order},
        journal::{Launched, SignedReceipt},
    };

    fn journal() -> Journal {
        Journal::new(order(&body()), 0)
    }

    fn started() -> Journal {
        let launched = Launched { started_at_ms: 1, record: vec![], message: vec![] };
        Journal { machine: Machine::Started(launched), ..journal() }
    }

    const PRESENCES: [Option<Presence>; 3] = [None, Some(Presence::Remains), Some(Presence::Running)];

    #[test]
    fn adopts_only_a_running_machine_of_which_everything_is_known() {
        for presence in PRESENCES {
            let running = presence == Some(Presence::Running);
            assert_eq!(plan(&started(), presence) == Recovery::Adopt, running, "{presence:?}");
            for journal in [journal(), Journal { machine: Machine::Begun, ..journal() }] {
                assert!(matches!(plan(&journal, presence), Recovery::Finish(Some(_))), "{presence:?}");
            }
        }
    }

    #[test]
    fn finishes_what_was_ending_and_keeps_its_reason() {
        for presence in PRESENCES {
            let ending = Journal { ending: Some(Ending::Stopped), ..started() };
            assert_eq!(plan(&ending, presence), Recovery::Finish(None));
        }
    }

    #[test]
    fn asks_why_a_started_machine_is_gone_unless_its_workload_had_ended() {
        assert_eq!(plan(&started(), None), Recovery::Inquire);
        let mut exited = started();
        exited.actual.exit_code = Some(0);
        assert_eq!(plan(&exited, Some(Presence::Remains)), Recovery::Finish(None));
        assert_eq!(ending(&exited), Ending::Exited);
    }

    #[test]
    fn never_touches_what_has_its_receipt() {
        let receipt = Some(SignedReceipt { body: vec![], signature: vec![] });
        for presence in PRESENCES {
            assert_eq!(plan(&Journal { receipt: receipt.clone(), ..started() }, presence), Recovery::Linger);
        }
    }
}

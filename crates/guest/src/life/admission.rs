//! Which messages are taken in which phase.

use casemate_api::guest::{Launch, to_guest::Message};

use crate::phase::Phase;

/// What happens with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Take,
    /// It was done already, or does not matter any more.
    Ignore,
    /// The host broke the protocol; the machine ends.
    Refuse(&'static str),
}

/// Decides about a message; `known` is the Launch that was taken. The host repeats Launch in every session, and Release
/// until it sees the phase that follows.
pub(super) fn admit(phase: Phase, known: Option<&Launch>, message: &Message) -> Admission {
    match (message, phase) {
        (Message::Launch(_), Phase::Booted) => Admission::Take,
        (Message::Launch(launch), _) if Some(launch) == known => Admission::Ignore,
        (Message::Launch(_), _) => Admission::Refuse("a second Launch differs from the first"),
        (Message::Challenge(_), Phase::Booted) => Admission::Refuse("Challenge came before Launch"),
        (Message::Challenge(_), _) => Admission::Take,
        (Message::Release(_), Phase::Booted) => Admission::Refuse("Release came before Launch"),
        (Message::Release(_), Phase::Configured) => Admission::Take,
        (Message::Release(_), Phase::Keyed | Phase::Running | Phase::Exited) => Admission::Ignore,
        (Message::Stop(_), Phase::Exited) => Admission::Ignore,
        (Message::Stop(_), _) => Admission::Take,
    }
}

#[cfg(test)]
mod tests {
    use casemate_api::guest::{Challenge, Release, Stop};

    use super::*;

    fn launch(instance: &str) -> Launch {
        Launch { instance: instance.into(), ..Launch::default() }
    }

    #[test]
    fn a_repeated_launch_is_ignored_and_a_different_one_refused() {
        let first = launch("a");
        assert_eq!(admit(Phase::Booted, None, &Message::Launch(first.clone())), Admission::Take);
        for phase in [Phase::Configured, Phase::Keyed, Phase::Running, Phase::Exited] {
            assert_eq!(admit(phase, Some(&first), &Message::Launch(first.clone())), Admission::Ignore);
            assert!(matches!(admit(phase, Some(&first), &Message::Launch(launch("b"))), Admission::Refuse(_)));
        }
    }

    #[test]
    fn nothing_is_answered_or_opened_before_the_workload_is_measured() {
        assert!(matches!(admit(Phase::Booted, None, &Message::Challenge(Challenge::default())), Admission::Refuse(_)));
        assert!(matches!(admit(Phase::Booted, None, &Message::Release(Release::default())), Admission::Refuse(_)));
    }

    #[test]
    fn keys_are_taken_once() {
        let (first, release) = (launch("a"), Message::Release(Release::default()));
        assert_eq!(admit(Phase::Configured, Some(&first), &release), Admission::Take);
        for phase in [Phase::Keyed, Phase::Running, Phase::Exited] {
            assert_eq!(admit(phase, Some(&first), &release), Admission::Ignore);
        }
    }

    #[test]
    fn a_running_guest_can_be_challenged_again_and_stopped() {
        let first = launch("a");
        assert_eq!(admit(Phase::Running, Some(&first), &Message::Challenge(Challenge::default())), Admission::Take);
        assert_eq!(admit(Phase::Running, Some(&first), &Message::Stop(Stop::default())), Admission::Take);
        assert_eq!(admit(Phase::Exited, Some(&first), &Message::Stop(Stop::default())), Admission::Ignore);
    }
}

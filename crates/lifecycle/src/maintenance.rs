//! Maintenance: the lawful way to change a node. While it is in one, it gets neither work nor keys, and nobody trusts it.
//!
//! ```text
//! (none) --begin--> opening --opened--> open --end--> sealing --sealed--> appraising --passed--> (none)
//!                      ^  \______________end___________^   \                  |
//!                      |                               |    \--refused--> open|
//!                      \-----begin------ closed <-----end-------<--failed-----/
//! ```
//!
//! The platform holds the phase; what a node says moves it only where the platform waits for that word. A node that is away, or starts
//! anew, stays where it is. Only an appraisal over a challenge that was drawn after the seal leads out.

/// Where a maintenance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The node is to end what it has, and to be unsealed.
    Opening,
    /// It may be changed.
    Open,
    /// It is to be sealed.
    Sealing,
    /// It is sealed, as it says, and has to show what it is.
    Appraising,
    /// It is sealed, and what it showed did not pass.
    Closed,
}

/// What the platform wants of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// To be unsealed.
    Open,
    /// To be sealed.
    Sealed,
    /// To be sealed, and to attest itself at once.
    Attested,
}

/// What a node says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// It is unsealed, as far as it was ever sealed.
    Opened,
    /// It is sealed, as far as it can be.
    Sealed,
    /// What was wanted was refused.
    Refused,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Opening, Self::Open, Self::Sealing, Self::Appraising, Self::Closed];

    /// The name in the store and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Sealing => "sealing",
            Self::Appraising => "appraising",
            Self::Closed => "closed",
        }
    }

    /// The phase of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text)
    }

    /// What the node is told.
    pub fn wanted(self) -> Wanted {
        match self {
            Self::Opening | Self::Open => Wanted::Open,
            Self::Sealing | Self::Closed => Wanted::Sealed,
            Self::Appraising => Wanted::Attested,
        }
    }

    /// Whether what the node's monitor sees is lawful, if its record says that it is unsealed. A seal that is under way may not have
    /// begun.
    pub fn may_be_open(self) -> bool {
        match self {
            Self::Opening | Self::Open | Self::Sealing => true,
            Self::Appraising | Self::Closed => false,
        }
    }

    /// After the node's word; `None` where nobody waits for it.
    #[must_use]
    pub fn heard(self, word: Word) -> Option<Self> {
        match (self, word) {
            (Self::Opening, Word::Opened) => Some(Self::Open),
            (Self::Sealing, Word::Sealed) => Some(Self::Appraising),
            // It goes on trying, and this says why it has not.
            (Self::Opening, Word::Refused) => Some(Self::Opening),
            (Self::Sealing, Word::Refused) => Some(Self::Open),
            (Self::Open | Self::Appraising | Self::Closed, _) | (Self::Opening, Word::Sealed) | (Self::Sealing, Word::Opened) => {
                None
            }
        }
    }

    /// After another begin; `None` where it is open, or about to be.
    #[must_use]
    pub fn begun_again(self) -> Option<Self> {
        match self {
            Self::Closed => Some(Self::Opening),
            Self::Opening | Self::Open | Self::Sealing | Self::Appraising => None,
        }
    }

    /// After an appraisal over a challenge that was drawn in this phase; `None` where none counts, the inner `None`: it is over.
    #[must_use]
    pub fn judged(self, passed: bool) -> Option<Option<Self>> {
        match self {
            Self::Appraising => Some((!passed).then_some(Self::Closed)),
            Self::Opening | Self::Open | Self::Sealing | Self::Closed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Act {
        Heard(Word),
        End,
        Again,
        Judged(bool),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let word = prop_oneof![Just(Word::Opened), Just(Word::Sealed), Just(Word::Refused)];
        let act = prop_oneof![word.prop_map(Act::Heard), Just(Act::End), Just(Act::Again), any::<bool>().prop_map(Act::Judged)];
        proptest::collection::vec(act, 0..40)
    }

    #[test]
    fn names_are_read_as_they_were_written() {
        for phase in Phase::ALL {
            assert_eq!(Phase::parse(phase.as_str()), Some(phase));
        }
        assert_eq!(Phase::parse("none"), None);
    }

    proptest! {
        /// Whatever a node says, and in whatever order: out comes only who was sealed after the last end, and appraised after that.
        #[test]
        fn only_a_seal_and_then_an_appraisal_lead_out(acts in acts()) {
            let mut phase = Phase::Opening;
            let (mut asked, mut sealed) = (false, false);
            for act in acts {
                match act {
                    Act::Heard(word) => if let Some(next) = phase.heard(word) {
                        sealed |= next == Phase::Appraising;
                        prop_assert!(next != Phase::Appraising || asked, "sealed without an end");
                        asked &= next != Phase::Open;
                        phase = next;
                    },
                    Act::End => (phase, asked, sealed) = (Phase::Sealing, true, false),
                    Act::Again => if let Some(next) = phase.begun_again() {
                        (phase, asked, sealed) = (next, false, false);
                    },
                    Act::Judged(passed) => match phase.judged(passed) {
                        Some(None) => {
                            prop_assert!(passed && asked && sealed);
                            return Ok(());
                        }
                        Some(Some(next)) => {
                            prop_assert!(!passed);
                            phase = next;
                        }
                        None => {}
                    },
                }
            }
        }
    }
}

//! The score card, as clients see it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::score::{ITEMS, Item, Observation};

/// What holds an instance, from the platform's firmware to the guest's kernel. Every line is there for every instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScoreCard {
    /// The instance.
    pub instance: String,
    /// When the node's agent looked, milliseconds since 1970; absent where it did not say anything.
    pub observed_at_ms: Option<u64>,
    /// At most 64.
    pub lines: Vec<ScoreLine>,
}

/// One line of a score card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScoreLine {
    /// `L-1` platform, `L0` host, `L1` jail, `L2` VMM, `L3` guest.
    pub layer: String,
    /// Its name.
    pub item: String,
    /// What holds when it holds.
    pub what: String,
    /// Whether it does.
    pub state: ScoreState,
    /// Who saw it, or would have had to: `agent`, `guest`, `verifier`.
    pub observer: String,
    /// The part of the evidence that says the same; absent where only the observer's word stands for it.
    pub evidence: Option<String>,
    /// What was seen; empty where nothing was.
    pub seen: String,
}

/// Whether a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreState {
    /// It was seen to hold.
    Held,
    /// It was seen not to hold.
    Missing,
    /// Nobody who may say so saw it.
    NotObserved,
}

impl ScoreState {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Missing => "missing",
            Self::NotObserved => "not-observed",
        }
    }
}

impl ScoreCard {
    /// All lines, with what was seen of them; the observations are [believable](crate::score::believable) already.
    pub fn new(instance: String, observed_at_ms: Option<u64>, seen: &[Observation]) -> Self {
        let line = |item: &Item| ScoreLine::new(item, seen.iter().find(|observation| observation.item == item.name));
        Self { instance, observed_at_ms, lines: ITEMS.iter().map(line).collect() }
    }
}

impl ScoreLine {
    fn new(item: &Item, observation: Option<&Observation>) -> Self {
        let state = match observation {
            Some(Observation { held: true, .. }) => ScoreState::Held,
            Some(Observation { held: false, .. }) => ScoreState::Missing,
            None => ScoreState::NotObserved,
        };
        Self {
            layer: item.layer.as_str().to_owned(),
            item: item.name.to_owned(),
            what: item.what.to_owned(),
            state,
            observer: item.observer.as_str().to_owned(),
            evidence: (!item.evidence.is_empty()).then(|| item.evidence.to_owned()),
            seen: observation.map(|observation| observation.seen.clone()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_saw_is_not_held() {
        let card = ScoreCard::new("i-1".into(), None, &[]);
        assert_eq!(card.lines.len(), ITEMS.len());
        assert!(card.lines.iter().all(|line| line.state == ScoreState::NotObserved && line.seen.is_empty()));
    }

    #[test]
    fn a_line_is_what_was_seen() {
        let seen = [Observation::new("iommu", false, "none"), Observation::new("jail-seccomp", true, "filtered")];
        let card = ScoreCard::new("i-1".into(), Some(1), &seen);
        let line = |name: &str| card.lines.iter().find(|line| line.item == name).unwrap();
        assert_eq!((line("iommu").state, line("iommu").seen.as_str()), (ScoreState::Missing, "none"));
        assert_eq!(
            (line("jail-seccomp").state, line("jail-seccomp").evidence.as_deref()),
            (ScoreState::Held, Some("launch record"))
        );
        assert_eq!(line("tpm").state, ScoreState::NotObserved);
    }
}

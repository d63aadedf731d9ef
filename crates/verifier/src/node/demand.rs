//! What a relying party demands of a node's boot and of what it executed since.

use serde::{Deserialize, Serialize};

use crate::{boot::BootPolicy, ima::ImaPolicy};

/// What is demanded of a node that enrols or renews its certificate. There is no default; begin with [`NodePolicy::strict`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePolicy {
    /// Of the firmware's log: firmware, boot loader, kernel and command line.
    pub boot: Demand<BootPolicy>,
    /// Of the kernel's list of files.
    pub ima: Demand<ImaPolicy>,
}

/// Whether something is judged, and by which rules. The evidence has no say in this: a log that is demanded and absent is a refusal,
/// and so is one that leaves out what the quoted PCRs hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand<R> {
    /// It is judged by these rules.
    Required(R),
    /// The same, but not for a simulator: no firmware ever measured into a TPM that is a program. The verdict says so.
    UnlessSimulated(R),
    /// Nothing is demanded here: the platform judged it before it gave the node its certificate. The verdict says so. Of a node that
    /// asks for that certificate it is a refusal.
    #[default]
    LeftToPlatform,
    /// Nothing is demanded, and nobody else judges it. The verdict says so.
    DangerNotJudged,
}

/// What a demand comes to for one TPM.
pub(crate) enum Due<'a, R> {
    /// Judge it.
    Judge(&'a R),
    /// Do not; why, for people and for policies.
    Not(NotJudged),
}

/// Why something was not judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotJudged {
    Simulated,
    LeftToPlatform,
    Danger,
}

impl NotJudged {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Simulated => "the TPM is a simulator, into which no firmware measured",
            Self::LeftToPlatform => "it is left to the platform, which judges it before it certifies a node",
            Self::Danger => "the policy does not ask for it",
        }
    }

    /// As claims say it.
    pub(crate) fn claim(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::LeftToPlatform => "left-to-platform",
            Self::Danger => "not-judged",
        }
    }
}

impl NodePolicy {
    /// Firmware's log and list of files, of every node but a simulated one, by rules that accept nothing yet.
    pub fn strict() -> Self {
        Self { boot: Demand::UnlessSimulated(BootPolicy::strict()), ima: Demand::UnlessSimulated(ImaPolicy::strict()) }
    }
}

impl<R> Demand<R> {
    pub(crate) fn due(&self, simulated: bool) -> Due<'_, R> {
        match self {
            Self::UnlessSimulated(_) if simulated => Due::Not(NotJudged::Simulated),
            Self::Required(rules) | Self::UnlessSimulated(rules) => Due::Judge(rules),
            Self::LeftToPlatform => Due::Not(NotJudged::LeftToPlatform),
            Self::DangerNotJudged => Due::Not(NotJudged::Danger),
        }
    }
}

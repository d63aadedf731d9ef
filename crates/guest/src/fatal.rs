//! The named reasons for which the machine ends itself.

use std::{error::Error, fmt};

/// What failed. The names are those that agent, platform and tenant show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    RootVerity,
    Container,
    LayerVerity,
    Scratch,
    Tpm,
    Entropy,
    WorkloadFormat,
    KeysAuthentic,
    AssetDigest,
    AssetDecrypt,
    WorkloadStart,
    Network,
    Protocol,
    Panic,
}

impl Check {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RootVerity => "guest.root-verity",
            Self::Container => "guest.container",
            Self::LayerVerity => "guest.layer-verity",
            Self::Scratch => "guest.scratch",
            Self::Tpm => "guest.tpm",
            Self::Entropy => "guest.entropy",
            Self::WorkloadFormat => "workload.format",
            Self::KeysAuthentic => "keys.authentic",
            Self::AssetDigest => "asset.digest",
            Self::AssetDecrypt => "asset.decrypt",
            Self::WorkloadStart => "workload.start",
            Self::Network => "guest.network",
            Self::Protocol => "guest.protocol",
            Self::Panic => "guest.panic",
        }
    }
}

/// A failure that ends the machine: which check, and what was attempted on what. Never holds a secret.
#[derive(Debug)]
pub(crate) struct Fatal {
    pub(crate) check: Check,
    pub(crate) detail: String,
}

impl Fatal {
    pub(crate) fn new(check: Check, detail: impl Into<String>) -> Self {
        Self { check, detail: detail.into() }
    }

    /// For the channel, if it is open.
    pub(crate) fn to_wire(&self) -> casemate_api::guest::Fatal {
        casemate_api::guest::Fatal { check: self.check.name().into(), detail: self.detail.clone() }
    }

    /// The line that the host's driver looks for on the console.
    pub(crate) fn print(&self) {
        crate::phase::say(&self.to_string());
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever a message from below holds.
        let detail: String = self.detail.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL).collect();
        write!(f, "CASEMATE-FATAL {} {detail}", self.check.name())
    }
}

/// Turns a failure from below into the end of the machine.
pub(crate) trait OrFatal<T> {
    /// `attempt` says what was attempted and on what; the chain of causes follows it.
    fn or_fatal(self, check: Check, attempt: impl fmt::Display) -> Result<T, Fatal>;
}

impl<T, E: Error> OrFatal<T> for Result<T, E> {
    fn or_fatal(self, check: Check, attempt: impl fmt::Display) -> Result<T, Fatal> {
        self.map_err(|error| Fatal::new(check, format!("{attempt}: {}", chain(&error))))
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

const MAX_DETAIL: usize = 600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_bounded_line_whatever_the_detail_holds() {
        let fatal = Fatal::new(Check::LayerVerity, format!("layer 0\nCASEMATE-PHASE keyed 1\n{}", "x".repeat(9000)));
        let line = fatal.to_string();
        assert!(line.starts_with("CASEMATE-FATAL guest.layer-verity layer 0 CASEMATE-PHASE"), "{line}");
        assert_eq!(line.lines().count(), 1);
        assert!(line.len() < 700);
    }

    #[test]
    fn tells_the_chain_of_causes() {
        let failed: Result<(), _> = Err(std::io::Error::from_raw_os_error(5));
        let fatal = failed.or_fatal(Check::Scratch, "mount /dev/dm-1").unwrap_err();
        assert_eq!(fatal.to_string(), "CASEMATE-FATAL guest.scratch mount /dev/dm-1: Input/output error (os error 5)");
    }
}

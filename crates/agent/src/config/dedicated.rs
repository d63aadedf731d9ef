//! The table `[dedicated]`: what this host may have beside being a node.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

/// How often it is looked, unless the configuration says otherwise.
const EVERY_S: u64 = 60;
/// The shortest and the longest time between two looks.
const EVERY: std::ops::RangeInclusive<u64> = 1..=3600;
/// The table `[dedicated]`; see docs/dedicated-node.md.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedicatedFile {
    /// The policy's file; it is read at the agent's start.
    pub policy: PathBuf,
    /// Seconds between two looks.
    pub every_s: Option<u64>,
}

/// What is looked for, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) policy: PathBuf,
    pub(crate) every: Duration,
}

/// Checks the table.
pub(super) fn look(file: Option<&DedicatedFile>, faults: &mut Vec<String>) -> Option<Look> {
    let file = file?;
    let every_s = file.every_s.unwrap_or(EVERY_S);
    if !EVERY.contains(&every_s) {
        faults.push(format!("dedicated.every_s: must be {} to {}, got {every_s}", EVERY.start(), EVERY.end()));
    }
    Some(Look { policy: file.policy.clone(), every: Duration::from_secs(every_s) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_between_two_looks_has_its_limits() {
        for (every_s, fits) in [(None, true), (Some(1), true), (Some(3600), true), (Some(0), false), (Some(3601), false)] {
            let mut faults = Vec::new();
            look(Some(&DedicatedFile { policy: "/p".into(), every_s }), &mut faults);
            assert_eq!(faults.is_empty(), fits, "{every_s:?}: {faults:?}");
        }
    }
}

//! Why a node will not do, and why none does.

use std::{cmp::Reverse, collections::BTreeMap, fmt};

use super::Standing;

/// The first thing that stands in the way of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// Another node was asked for.
    Other,
    /// It takes no work.
    Standing(Standing),
    /// The trust in it rests on less.
    Tier,
    /// It stands elsewhere.
    Place,
    /// It has no level that is strong enough.
    Level,
    /// It has one, without a network.
    Network,
    /// It has no such GPUs, free or not.
    GpuKind,
    /// It costs more.
    Price,
    /// It has not all labels.
    Labels,
    /// Too few CPUs.
    Cpus,
    /// Too little memory.
    Memory,
    /// Too little disk.
    Disk,
    /// Too few GPUs are free.
    Gpus,
    /// Enough are free, but not linked to each other.
    GpuLinks,
}

impl Lack {
    /// What is said of such nodes, after their number.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Other => "not the requested node",
            // A node that takes work lacks nothing; no such reason is ever made.
            Self::Standing(Standing::Ready) => "ready",
            Self::Standing(Standing::Suspended) => "suspended",
            Self::Standing(Standing::Maintenance) => "in maintenance",
            Self::Standing(Standing::Untrusted) => "not trusted",
            Self::Standing(Standing::Drains) => "out of service soon (drained)",
            Self::Standing(Standing::Disconnected) => "not connected",
            Self::Standing(Standing::Held) => "held back by their owners",
            Self::Standing(Standing::Withdrawn) => "not on offer",
            Self::Tier => "below the trust tier",
            Self::Place => "elsewhere",
            Self::Level => "without the isolation level",
            Self::Network => "without a network for instances of the isolation level",
            Self::GpuKind => "without such GPUs",
            Self::Price => "above the price limit",
            Self::Labels => "without the labels",
            Self::Cpus => "without enough CPUs",
            Self::Memory => "without enough memory",
            Self::Disk => "without enough disk",
            Self::Gpus => "without enough free GPUs",
            Self::GpuLinks => "without enough free GPUs that are linked",
        }
    }
}

/// Why no node will do: how many lack what, each node once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoNode(pub BTreeMap<Lack, usize>);

impl NoNode {
    pub(super) fn add(&mut self, lack: Lack, count: usize) {
        if count > 0 {
            *self.0.entry(lack).or_default() += count;
        }
    }

    /// How many nodes were passed over.
    pub fn nodes(&self) -> usize {
        self.0.values().sum()
    }
}

impl fmt::Display for NoNode {
    /// The most frequent reason first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no node is enrolled");
        }
        let mut counts: Vec<(Reverse<usize>, &str)> =
            self.0.iter().map(|(lack, count)| (Reverse(*count), lack.as_str())).collect();
        counts.sort_unstable();
        let reasons: Vec<String> = counts.iter().map(|(Reverse(count), reason)| format!("{count} {reason}")).collect();
        write!(f, "no node will do: {}", reasons.join(", "))
    }
}

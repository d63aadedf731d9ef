//! What a node offers.

use std::{collections::BTreeMap, str::FromStr};

use crate::NodeId;

/// Smallest units in one unit of money. Prices and balances are integers of the smallest.
pub const UNITS: u64 = 1_000_000;

/// Isolation levels of the ladder, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Namespaces of the host's kernel.
    Container,
    /// User-space kernel.
    Sandbox,
    /// Own kernel in a jailed VMM.
    Microvm,
    /// Hardware memory encryption.
    Confidential,
}

impl Level {
    /// All, weakest first.
    pub const ALL: [Self; 4] = [Self::Container, Self::Sandbox, Self::Microvm, Self::Confidential];
}

/// A set of levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Levels(u8);

impl Levels {
    /// Whether it has this one.
    pub fn has(self, level: Level) -> bool {
        self.0 & (1 << level as u8) != 0
    }

    /// The weakest of them that is not weaker than this.
    pub fn at_least(self, level: Level) -> Option<Level> {
        Level::ALL.into_iter().find(|one| *one >= level && self.has(*one))
    }
}

impl FromIterator<Level> for Levels {
    fn from_iter<I: IntoIterator<Item = Level>>(levels: I) -> Self {
        Self(levels.into_iter().fold(0, |bits, level| bits | 1 << level as u8))
    }
}

/// What the trust in a node rests on, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// A simulator's root.
    Simulated,
    /// The root of a maker of TPMs.
    Attested,
}

impl Tier {
    /// As in offers and requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Attested => "attested",
        }
    }
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Simulated, Self::Attested];
        all.into_iter().find(|tier| tier.as_str() == text).ok_or_else(|| "must be simulated or attested".to_owned())
    }
}

/// Whether a node takes new work at all; what is said first is what stands in the way most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It does.
    Ready,
    /// An operator has to look at it first.
    Suspended,
    /// It is being changed.
    Maintenance,
    /// Its last appraisal did not pass.
    Untrusted,
    /// It goes out of service.
    Drains,
    /// Its session is not open.
    Disconnected,
    /// Its owner holds it back.
    Held,
    /// Its owner took the offer back, or its time is over.
    Withdrawn,
}

impl Standing {
    /// How many there are.
    pub(super) const COUNT: usize = 8;
}

/// CPUs, memory, disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// CPUs of a node, virtual CPUs of instances.
    pub cpus: u64,
    /// Memory.
    pub memory_mib: u64,
    /// Disk; absent where nobody measured it.
    pub disk_mib: Option<u64>,
}

/// GPUs of one model that are linked to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuGroup {
    /// As the vendor calls it.
    pub model: String,
    /// Of each.
    pub memory_mib: u64,
    /// GPUs of the same island are linked.
    pub island: u32,
    /// How many.
    pub total: u32,
    /// How many are given away.
    pub used: u32,
}

/// What an hour costs, each in the smallest unit of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prices {
    /// A virtual CPU.
    pub cpu: u64,
    /// A GiB of memory.
    pub memory_gib: u64,
    /// A GiB of disk.
    pub disk_gib: u64,
    /// A GPU.
    pub gpu: u64,
}

impl Prices {
    /// An hour of so much, rounded up once.
    pub fn hour(&self, cpus: u64, memory_mib: u64, disk_mib: u64, gpus: u64) -> u64 {
        const MIB_OF_GIB: u128 = 1024;
        let times = |count: u64, price: u64| u128::from(count) * u128::from(price);
        let whole = times(cpus, self.cpu).saturating_add(times(gpus, self.gpu));
        let parts = times(memory_mib, self.memory_gib).saturating_add(times(disk_mib, self.disk_gib));
        u64::try_from(whole.saturating_add(parts.div_ceil(MIB_OF_GIB))).unwrap_or(u64::MAX)
    }

    /// The least of both in each.
    pub(super) fn least(&self, other: &Self) -> Self {
        Self {
            cpu: self.cpu.min(other.cpu),
            memory_gib: self.memory_gib.min(other.memory_gib),
            disk_gib: self.disk_gib.min(other.disk_gib),
            gpu: self.gpu.min(other.gpu),
        }
    }
}

/// Why a text is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a place is parts of a-z, 0-9 and '-' with '/' between them, from the large to the small, such as \"eu/de/fra\"; at most 63 characters"
)]
pub struct PlaceError;

/// Where a node stands: `eu/de/fra`, from the large to the small. Empty where nobody said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place(String);

impl Place {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the other one is this one, or in it. Everything is in the empty place.
    pub fn contains(&self, other: &Self) -> bool {
        let Some(rest) = other.0.strip_prefix(&self.0) else { return false };
        self.0.is_empty() || rest.is_empty() || rest.starts_with('/')
    }

    /// How many parts they have in common from the beginning.
    pub(super) fn common(&self, other: &Self) -> usize {
        self.0.split('/').zip(other.0.split('/')).take_while(|(one, two)| one == two && !one.is_empty()).count()
    }

    pub(super) fn parts(&self) -> usize {
        self.0.split('/').filter(|part| !part.is_empty()).count()
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        let good = text.is_empty() || (text.len() <= 63 && text.split('/').all(is_part));
        if good { Ok(Self(text.to_owned())) } else { Err(PlaceError) }
    }
}

/// A node and what it offers, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The node.
    pub node: NodeId,
    /// Whose it is; the platform's own without one.
    pub hoster: Option<String>,
    /// Whether it takes work at all.
    pub standing: Standing,
    /// What the trust in it rests on.
    pub tier: Tier,
    /// The isolation levels that it offers.
    pub levels: Levels,
    /// Those of them whose instances can have a network.
    pub networked: Levels,
    /// What it has for instances.
    pub total: Room,
    /// What they take, machines' overhead included.
    pub used: Room,
    /// Its GPUs.
    pub gpus: Vec<GpuGroup>,
    /// Where it stands.
    pub place: Place,
    /// What an hour costs.
    pub prices: Prices,
    /// What its owner says of it.
    pub labels: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_in_larger_places_and_in_no_other() {
        let place = |text: &str| text.parse::<Place>().unwrap();
        assert!(
            place("eu").contains(&place("eu/de/fra")) && place("").contains(&place("eu")) && place("eu").contains(&place("eu"))
        );
        assert!(
            !place("eu").contains(&place("europe"))
                && !place("eu/de").contains(&place("eu"))
                && !place("eu").contains(&place(""))
        );
        assert_eq!((place("eu/de/fra").common(&place("eu/fr/par")), place("").common(&place(""))), (1, 0));
        for bad in ["/", "eu/", "/eu", "EU", "a b", "eu//de", "ä"] {
            assert_eq!(bad.parse::<Place>(), Err(PlaceError), "{bad}");
        }
    }

    #[test]
    fn a_price_is_rounded_up_once_and_never_wraps() {
        let prices = Prices { cpu: 10, memory_gib: 3, disk_gib: 1, gpu: 100 };
        assert_eq!(prices.hour(2, 512, 512, 1), 20 + 2 + 100);
        assert_eq!(prices.hour(0, 1, 0, 0), 1);
        let most = Prices { cpu: u64::MAX, memory_gib: u64::MAX, disk_gib: u64::MAX, gpu: u64::MAX };
        assert_eq!(most.hour(u64::MAX, u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    }
}

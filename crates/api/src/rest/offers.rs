//! Offers of nodes, and what one may ask of them. Money is in whole numbers of the smallest unit: 1,000,000 of them are one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an hour costs, each in the smallest unit of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
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

/// GPUs that an offer says to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuClaim {
    /// As the vendor calls it.
    pub model: String,
    /// How many.
    pub count: u32,
    /// Of each.
    pub memory_mib: u64,
}

/// What a hoster asks for a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewOffer {
    /// CPUs of the node that are for instances; all that were measured when absent, never more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u64>,
    /// Memory that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Disk that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u64>,
    /// Isolation levels that are; all that the node has when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levels: Option<Vec<String>>,
    /// GPUs that the node is said to have; refused where they were not measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuClaim>,
    /// What an hour costs.
    pub prices: Prices,
    /// Where the node stands, from the large to the small: `eu/de/fra`.
    pub place: String,
    /// At most 16 names with values, to find it by.
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since 1970; the node takes no new work from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at_ms: Option<u64>,
    /// The version that this replaces, 0 for none; whichever it is when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u64>,
}

/// A node as it can be rented.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Offer {
    /// The node.
    pub node: String,
    /// Whose it is; told to himself and to operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hoster: Option<String>,
    /// `ready`, or why it takes no new work.
    pub standing: String,
    /// What the trust in it rests on: `attested` (the root of a maker of TPMs) or `simulated`.
    pub trust_tier: String,
    /// Isolation levels.
    pub levels: Vec<String>,
    /// Those of them whose instances can have a network.
    pub levels_with_network: Vec<String>,
    /// CPUs for instances.
    pub cpus: u64,
    /// Memory for instances.
    pub memory_mib: u64,
    /// Disk for instances; absent where nobody measured it.
    pub disk_mib: Option<u64>,
    /// Virtual CPUs that are free.
    pub free_cpus: u64,
    /// Memory that is free.
    pub free_memory_mib: u64,
    /// Its GPUs.
    pub gpus: Vec<GpuClaim>,
    /// Who found all this out: `inventory`, the node's attested agent. No guest has measured it from inside.
    pub measured_by: String,
    /// What an hour costs.
    pub prices: Prices,
    /// Where it stands; empty where nobody said.
    pub place: String,
    /// What its owner says of it.
    pub labels: BTreeMap<String, String>,
    /// Version of the hoster's offer; 0 while he made none, and what he asks for is nothing.
    pub version: u64,
    /// Until when it takes new work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at_ms: Option<u64>,
}

/// Offers in the order that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Offers {
    /// The offers.
    pub offers: Vec<Offer>,
    /// Ask with this as `after` for more; absent at the end.
    pub next: Option<String>,
}

/// What the offer that an instance is placed on must be like.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// `attested` or `simulated`: the least that the trust in the node may rest on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_tier: Option<String>,
    /// Only within this place: `eu/de`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
    /// Rather near to this place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near: Option<String>,
    /// The most that an hour may cost, in the smallest unit of money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most_per_hour: Option<u64>,
    /// Only nodes with all of these labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `price` (which is so without it) or `spread`: rather where there is room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer: Option<String>,
}

/// The offer that an instance was placed on, as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OfferTaken {
    /// Version of the hoster's offer; 0 where he had made none.
    pub version: u64,
    /// What the trust in the node rested on.
    pub trust_tier: String,
    /// Where it stood.
    pub place: String,
    /// What an hour cost.
    pub prices: Prices,
    /// What an hour of this instance costs.
    pub price_per_hour: u64,
}

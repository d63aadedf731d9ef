//! What is asked for.

use std::collections::BTreeMap;

use super::{Level, Place, Tier};
use crate::NodeId;

/// What an instance needs, and what it would like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// The weakest isolation that will do.
    pub level: Level,
    /// The weakest trust that will do.
    pub tier: Tier,
    /// Virtual CPUs.
    pub cpus: u64,
    /// Guest memory.
    pub memory_mib: u64,
    /// Scratch: disk of a machine, memory of a container.
    pub scratch_mib: u64,
    /// Whether it has a network.
    pub network: bool,
    /// Its GPUs.
    pub gpus: Option<GpuDemand>,
    /// Only this node.
    pub node: Option<NodeId>,
    /// Only within this place.
    pub within: Place,
    /// The most that an hour may cost, in the smallest unit of money.
    pub most_per_hour: Option<u64>,
    /// Only nodes with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Rather near to this place.
    pub near: Place,
    /// What matters more.
    pub prefer: Prefer,
    /// Rather not beside these.
    pub beside: Beside,
}

/// GPUs, all of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuDemand {
    /// Of this model; of any without one.
    pub model: Option<String>,
    /// How many.
    pub count: u32,
    /// Each with so much memory at least.
    pub memory_mib: u64,
    /// All of them linked to each other.
    pub linked: bool,
}

/// What matters more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefer {
    /// The price; among prices that are much alike the rest.
    #[default]
    Price,
    /// Load, distance and company; then the price.
    Spread,
}

/// Where others are that it should not share its fate with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beside {
    /// How many on each node.
    pub nodes: BTreeMap<NodeId, u32>,
    /// How many at each hoster.
    pub hosters: BTreeMap<String, u32>,
}

//! Maintenance of nodes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a maintenance is begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMaintenance {
    /// What for, at most 500 characters; it is in the node's events and in the audit record.
    pub reason: String,
    /// End what runs there. Needs an operator's token.
    #[serde(default)]
    pub forced: bool,
}

/// A node's maintenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Maintenance {
    /// Counts a node's.
    pub number: u64,
    /// `opening`, `open` (the node may be changed), `sealing`, `appraising`, `closed` (sealed, and the appraisal failed), `over`.
    pub phase: String,
    /// The account that began it.
    pub begun_by: String,
    /// Milliseconds since 1970.
    pub begun_at_ms: u64,
    /// What for.
    pub reason: String,
    /// Whether instances were ended for it.
    pub forced: bool,
    /// What the node said is open now, and what is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Opened>,
    /// Why the last attempt to open, to seal or to appraise it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
}

/// What is open on a node in maintenance, as it said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Opened {
    /// Whether a monitor guards the node at all; without one nothing was sealed.
    pub monitored: bool,
    /// The monitor's class; a lower one never guarded everything.
    #[serde(default)]
    pub class: String,
    /// Groups of hooks that the class does without.
    #[serde(default)]
    pub without: Vec<String>,
    /// Kernel settings that are not as they were, because the kernel takes them back at a reboot only.
    #[serde(default)]
    pub until_reboot: Vec<String>,
}

/// The last maintenance of a node, and what happened to the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeMaintenance {
    /// Absent: there never was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// Newest first.
    pub events: Vec<NodeEvent>,
}

/// Something that happened to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeEvent {
    /// Its number; grows.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// `maintenance-begun` and the like.
    pub kind: String,
    /// The account that caused it; absent for the node and the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<String>,
    /// For people.
    pub text: String,
}

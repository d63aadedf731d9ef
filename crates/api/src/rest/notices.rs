//! What projects are told of the nodes that had their instances.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Failure, Receipt};

/// Something that happened to a node, told to a project that has or had instances there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    /// Its id.
    pub id: String,
    /// Its number; later ones are higher.
    pub seq: u64,
    /// `incident`, `suspended`, `revoked` or `restored`.
    pub kind: String,
    /// The project that is told.
    pub project: String,
    /// The node.
    pub node: String,
    /// The instances of the project that it concerns.
    pub instances: Vec<String>,
    /// What happened, for a person.
    pub text: String,
    /// In the words of the node's monitor, or of who looked at its record.
    pub detail: String,
    /// When the platform heard of it, or did it; milliseconds since 1970.
    pub at_ms: u64,
    /// When it happened by the node's clock, where the node says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_at_ms: Option<u64>,
    /// What the platform has of the node's record; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<NoticeEvidence>,
    /// How the instances are now; not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endings: Vec<Ending>,
}

/// Lines of the record of a node's monitor, as they were taken in. Each names the SHA-256 of the one before (`previous`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoticeEvidence {
    /// Number of the first line here.
    pub from: u64,
    /// The lines, without gaps; base64 each.
    pub lines: Vec<String>,
    /// How many lines the platform had of the node then.
    pub stored: u64,
    /// Hex SHA-256 of the last of those, the head of the chain.
    pub head: String,
}

/// How an instance that a notice is about is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ending {
    /// The instance.
    pub instance: String,
    /// The furthest step reached.
    pub step: String,
    /// The first failure.
    pub failure: Option<Failure>,
    /// The node's signed receipt, where there is one.
    pub receipt: Option<Receipt>,
}

/// Notices, newest first, without their evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notices {
    /// The notices.
    pub notices: Vec<Notice>,
    /// Ask for those before this number to get more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

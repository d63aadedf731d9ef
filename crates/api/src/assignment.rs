//! What the platform signs for a node: run this, or end it.

use serde::{Deserialize, Serialize};

use crate::workload::Isolation;

/// Domain of the signature: `Ed25519("casemate/assignment/v1\0" || body)`.
pub const SIGNATURE_DOMAIN: &[u8] = b"casemate/assignment/v1\0";

/// The signed body, canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// Format version; 1.
    pub version: u16,
    /// The instance.
    pub instance: String,
    /// The node it is meant for; any other node refuses it.
    pub node: String,
    /// Grows with each change of this instance; the stale is refused.
    pub generation: u64,
    /// What should be.
    pub intent: Intent,
    /// The level that it was placed at: the workload's minimum, or a stronger one. The agent refuses a weaker one.
    #[serde(default = "microvm")]
    pub level: Isolation,
    /// Canonical workload, as text; its digest is recomputed by the node.
    pub workload: String,
    /// When it was signed; milliseconds since 1970.
    pub issued_at_ms: u64,
    /// Not to be started after this time.
    pub start_before_ms: u64,
    /// Time between SIGTERM and SIGKILL when it is stopped.
    pub grace_ms: u32,
}

/// What nodes had before assignments named a level.
fn microvm() -> Isolation {
    Isolation::Microvm
}

/// What should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// Run to its end.
    Run,
    /// End, wipe.
    Stop,
}

/// The bytes that are signed.
pub fn signed_bytes(body: &[u8]) -> Vec<u8> {
    [SIGNATURE_DOMAIN, body].concat()
}

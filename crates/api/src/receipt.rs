//! The receipt: what the node wiped at the end of an instance, signed.
//!
//! It is signed by the node's Ed25519 receipt key, whose public half is in the node certificate (extension
//! `RECEIPT_KEY_OID`), which the platform CA signed after a passing appraisal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Domain of the signature: `Ed25519("casemate/receipt/v1\0" || body)`.
pub const SIGNATURE_DOMAIN: &[u8] = b"casemate/receipt/v1\0";

/// The signed body, canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// Format version; 1.
    pub version: u16,
    /// The instance.
    pub instance: String,
    /// The node.
    pub node: String,
    /// Digest of the canonical workload, hex.
    pub workload_digest: String,
    /// Digest of the launch record, hex; empty when no machine was started.
    pub launch_record_digest: String,
    /// When the machine was started and when the wipe was done; milliseconds since 1970, 0 when it never was.
    pub started_at_ms: u64,
    /// See `started_at_ms`.
    pub wiped_at_ms: u64,
    /// Exit status of the workload, if it ended by itself.
    pub exit_code: Option<i32>,
    /// Why it ended: `exited`, `stopped`, `expired` (its time to live was over), `failed: <check>`.
    pub reason: String,
    /// What was wiped: `guest-ram`, `scratch`, `vtpm`, `jail`, `cgroup`.
    pub wiped: BTreeMap<String, Wiped>,
}

/// How one thing was wiped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wiped {
    /// `overwritten`, `crypto-erased`, `removed`, `released-by-kernel`, `never-existed`.
    pub method: String,
    /// Whether the result was looked at and found as it should be.
    pub verified: bool,
    /// How: e.g. `4096 of 131072 pages sampled, all zero`.
    pub detail: String,
    /// Bytes, where it has any.
    pub bytes: u64,
    /// How long it took.
    pub duration_ms: u64,
}

/// The bytes that are signed.
pub fn signed_bytes(body: &[u8]) -> Vec<u8> {
    [SIGNATURE_DOMAIN, body].concat()
}

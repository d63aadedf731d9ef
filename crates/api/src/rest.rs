//! REST types under `/api/v1`. Byte strings are base64 (standard alphabet, padded).
//!
//! | method and path | body -> answer |
//! |---|---|
//! | `GET /platform` | -> [`Platform`] (no token needed) |
//! | `HEAD`/`PUT /blobs/{digest}` | raw bytes -> 201, or 200 when it was there; the digest is checked |
//! | `POST /instances` (header `Idempotency-Key`) | [`NewInstance`] -> 201 [`Instance`] |
//! | `GET /instances`, `GET /instances/{id}` | -> [`Instances`], [`Instance`] |
//! | `GET /instances/{id}/events?after=N&wait_ms=M` | long poll -> [`Events`] |
//! | `POST /instances/{id}/challenges` | [`NewChallenge`] -> [`EvidenceBundle`] |
//! | `POST /instances/{id}/keys` | [`KeyRelease`] -> 202 |
//! | `GET /instances/{id}/records?from=N&wait_ms=M` | long poll -> [`Records`] |
//! | `POST /instances/{id}/stop`, `DELETE /instances/{id}` | -> 202, 204 |
//! | `GET /instances/{id}/receipt` | -> [`Receipt`] |
//! | `GET /instances/{id}/score-card` | -> [`ScoreCard`] |
//! | `GET /nodes` | -> [`Nodes`] |
//! | `POST /bootstrap-tokens` (operator) | -> 201 [`BootstrapToken`] |
//! | `POST /appraisals/challenges` | -> 201 [`AppraisalChallenge`] |
//! | `POST /appraisals` | [`NewAppraisal`] -> [`Appraisal`] |
//! | `GET /appraisals/keys`, `GET /.well-known/jwks.json` | -> [`Jwks`] (no token needed) |
//! | `GET /appraisals/policies/{name}`, `…/versions` | -> [`PolicyVersion`], [`PolicyVersions`] |
//! | `PUT /appraisals/policies/{name}` (operator) | Rego -> 201 [`PolicyVersion`], or 200 when it is the one in force |
//! | `GET`, `PUT /appraisals/revocations` (`PUT`: operator) | signed list -> [`Revocations`] |
//! | `GET /openapi.json` | -> this API |
//!
//! A server runs the roles that [`Platform`] tells: `verifier` has what begins with `/appraisals`, `api` the rest.
//!
//! Errors are `application/problem+json` ([`Problem`], RFC 9457).

mod appraisals;
mod score;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use appraisals::{
    Appraisal, AppraisalChallenge, AppraisalCheck, Jwks, NewAppraisal, PolicyVersion, PolicyVersions, Revocations, TokenForm,
};
pub use score::{ScoreCard, ScoreLine, ScoreState};

/// What a client needs to know of the platform. Trust anchors come from the client's own context, never from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Platform {
    /// Version of the server.
    pub version: String,
    /// Roles this server runs.
    pub roles: Vec<String>,
    /// `ok`, or what is wrong.
    pub status: String,
}

/// A workload to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInstance {
    /// Canonical workload (JSON text, see `workload`): kept byte for byte.
    pub workload: String,
    /// A node by id; any suitable one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// An instance as the platform knows it: intended and actual state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// The workload's name.
    pub name: String,
    /// `run`, `stop` or `delete`.
    pub intent: String,
    /// The furthest step reached.
    pub step: String,
    /// The node, once scheduled.
    pub node: Option<String>,
    /// The isolation level that it was placed at, once scheduled; never below the workload's minimum.
    pub level: Option<String>,
    /// The workload's exit status.
    pub exit_code: Option<i32>,
    /// The first failure.
    pub failure: Option<Failure>,
    /// Hex digest of the canonical workload.
    pub workload_digest: String,
    /// Canonical workload.
    pub workload: String,
    /// The platform's own appraisal (the verifier's attestation result), once there is one.
    #[schema(value_type = Option<Object>)]
    pub platform_verdict: Option<serde_json::Value>,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Milliseconds by stage, as measured by the node.
    pub stages_ms: BTreeMap<String, u64>,
    /// Whether a receipt is there.
    pub has_receipt: bool,
}

/// Why an instance failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The step that was being attempted.
    pub step: String,
    /// The check's name.
    pub check: String,
    /// What was seen.
    pub detail: String,
}

/// A list of instances, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instances {
    /// The instances.
    pub instances: Vec<Instance>,
}

/// What happened, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Events {
    /// At most 1000.
    pub events: Vec<Event>,
}

/// One thing that happened to an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// From 1, without gaps.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// `step`, `note`, `verdict`, `keys`, `exit`, `failure`, `receipt`, `node-lost`.
    pub kind: String,
    /// For a `step`, its name; otherwise a sentence.
    pub text: String,
    /// Further data; for `verdict`, the attestation result.
    #[schema(value_type = Option<Object>)]
    pub data: Option<serde_json::Value>,
}

/// The tenant's own challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewChallenge {
    /// 32 bytes, base64; each is used once.
    pub nonce: String,
}

/// Evidence and what is needed to judge it offline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EvidenceBundle {
    /// The instance.
    pub instance: String,
    /// The isolation level that the platform says it was placed at: which appraisal is due, and nothing else.
    #[serde(default = "microvm")]
    pub level: String,
    /// e.g. `application/vnd.casemate.instance-evidence+cbor`.
    pub media_type: String,
    /// The evidence, base64.
    pub evidence: String,
    /// Node certificate chain, leaf first; base64 DER.
    pub node_chain: Vec<String>,
    /// EK certificate chain, leaf first; base64 DER.
    pub ek_chain: Vec<String>,
}

/// What instances had before bundles named a level.
fn microvm() -> String {
    "microvm".to_owned()
}

/// Keys, sealed to the attested guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRelease {
    /// HPKE message, base64; opaque to the platform.
    pub sealed: String,
}

/// Sealed records for the tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Records {
    /// Number of the first.
    pub from: u64,
    /// Base64 each, in order; at most 4 MiB in all.
    pub records: Vec<String>,
    /// The instance is at its end and there are no further records.
    pub complete: bool,
}

/// A signed receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// The body as signed (JSON text, see `receipt`).
    pub body: String,
    /// Ed25519, base64.
    pub signature: String,
    /// Certificate chain of the node that signed it, leaf first; base64 DER.
    pub node_chain: Vec<String>,
}

/// A node as the platform knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// `trusted` or `untrusted`, with the reason in `detail`.
    pub trust: String,
    /// Why.
    pub detail: String,
    /// Whether its session is open.
    pub connected: bool,
    /// Whether the trust rests on a simulator root.
    pub simulated: bool,
    /// Inventory as it reported.
    #[schema(value_type = Object)]
    pub inventory: serde_json::Value,
    /// Live instances.
    pub instances: u32,
    /// When the certificate ends; milliseconds since 1970.
    pub certificate_ends_at_ms: u64,
}

/// All nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Nodes {
    /// The nodes.
    pub nodes: Vec<Node>,
}

/// A one-time token for enrolling a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootstrapToken {
    /// Shown once.
    pub token: String,
    /// Milliseconds since 1970.
    pub expires_at_ms: u64,
}

/// An error (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A stable name, e.g. `urn:casemate:problem:not-attested`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short sentence.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What exactly, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

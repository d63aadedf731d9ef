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
//! | `GET /offers`, `GET /offers/{node}` | -> [`Offers`], [`Offer`] |
//! | `PUT`, `DELETE /offers/{node}` (hoster) | [`NewOffer`] -> [`Offer`], 204 |
//! | `GET /nodes/{id}/instances` (hoster) | -> [`HostedInstances`] |
//! | `PUT /nodes/{id}/hoster`, `POST /nodes/{id}/restore` (operator) | [`NodeHoster`] -> 204 |
//! | `POST /nodes/{id}/drain`, `POST /nodes/{id}/undrain` (hoster) | [`NodeDrain`] -> 204 |
//! | `GET`, `POST /nodes/{id}/maintenance`, `POST /nodes/{id}/maintenance/end` (hoster) | [`NewMaintenance`] -> [`NodeMaintenance`], 202 |
//! | `GET /incidents` (hoster) | -> [`Incidents`] |
//! | `GET /notices?instance=ID&before=N&limit=M`, `GET /notices/{id}` (tenant) | -> [`Notices`], [`Notice`] |
//! | `GET`, `POST /webhooks`, `DELETE /webhooks/{id}`, `POST /webhooks/{id}/test`, `GET /webhooks/{id}/deliveries` | [`NewWebhook`] -> [`MadeWebhook`] |
//! | `POST /bootstrap-tokens` (hoster, operator) | [`NewBootstrapToken`] -> 201 [`BootstrapToken`] |
//! | `GET /me` | -> [`Me`] |
//! | `GET`, `POST /accounts`, `GET`, `PUT /accounts/{name}` (operator) | [`NewAccount`], [`AccountUpdate`] -> [`Account`] |
//! | `GET`, `POST /projects`, `GET /projects/{id}` | [`NewProject`] -> [`Project`] |
//! | `PUT`, `DELETE /projects/{id}/members/{account}` | [`Membership`] -> 204 |
//! | `PUT /projects/{id}/quota` (operator) | [`Quota`] -> 204 |
//! | `GET`, `POST /tokens`, `DELETE /tokens/{id}` | [`NewToken`] -> [`MadeToken`] |
//! | `GET /audit?before=N&limit=M` | -> [`AuditLines`] |
//! | `POST /appraisals/challenges` | -> 201 [`AppraisalChallenge`] |
//! | `POST /appraisals` | [`NewAppraisal`] -> [`Appraisal`] |
//! | `GET /appraisals/keys`, `GET /.well-known/jwks.json` | -> [`Jwks`] (no token needed) |
//! | `GET /appraisals/policies/{name}`, `…/versions` | -> [`PolicyVersion`], [`PolicyVersions`] |
//! | `PUT /appraisals/policies/{name}` (operator) | Rego -> 201 [`PolicyVersion`], or 200 when it is the one in force |
//! | `GET`, `PUT /appraisals/revocations` (`PUT`: operator) | signed list -> [`Revocations`] |
//! | `GET /openapi.json` | -> this API |
//!
//! A server runs the roles that [`Platform`] tells: `verifier` has what begins with `/appraisals`, every server accounts, projects,
//! tokens and the audit record, `api` the rest. Who may do what: docs/accounts.md.
//!
//! Errors are `application/problem+json` ([`Problem`], RFC 9457).

mod accounts;
mod appraisals;
mod maintenance;
mod notices;
mod offers;
mod score;
mod webhooks;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use accounts::{
    Account, AccountUpdate, Accounts, AuditLine, AuditLines, HostedInstance, HostedInstances, MadeToken, Me, Member, Membership,
    NewAccount, NewBootstrapToken, NewProject, NewToken, NodeHoster, Project, ProjectHead, Projects, Quota, Token, Tokens, Usage,
};
pub use appraisals::{
    Appraisal, AppraisalChallenge, AppraisalCheck, Jwks, NewAppraisal, PolicyVersion, PolicyVersions, Revocations, TokenForm,
};
pub use maintenance::{Maintenance, NewMaintenance, NodeEvent, NodeMaintenance, Opened};
pub use notices::{Ending, Notice, NoticeEvidence, Notices};
pub use offers::{GpuClaim, NewOffer, Offer, OfferTaken, Offers, Placement, Prices};
pub use score::{ScoreCard, ScoreLine, ScoreState};
pub use webhooks::{Deliveries, Delivery, MadeWebhook, NewWebhook, Queued, Webhook, WebhookEvent, Webhooks};

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
    /// The project that it will belong to; the token's, or else the account's own, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// What the offer must be like; any will do when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
}

/// An instance as the platform knows it: intended and actual state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// The workload's name.
    pub name: String,
    /// The project that it belongs to.
    #[serde(default)]
    pub project: String,
    /// `run`, `stop` or `delete`.
    pub intent: String,
    /// The furthest step reached.
    pub step: String,
    /// The node, once scheduled.
    pub node: Option<String>,
    /// The isolation level that it was placed at, once scheduled; never below the workload's minimum.
    pub level: Option<String>,
    /// The offer as it was when it was placed, and what an hour costs by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<OfferTaken>,
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
    /// End of its time to live, once the guest has opened its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at_ms: Option<u64>,
    /// Milliseconds by stage, as measured by the node.
    pub stages_ms: BTreeMap<String, u64>,
    /// What went over its link so far, as the node counted it; absent where it has no network.
    pub network: Option<NetworkUse>,
    /// Whether a receipt is there.
    pub has_receipt: bool,
}

/// What an instance sent and got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkUse {
    /// Bytes that it sent by its rules.
    pub sent_bytes: u64,
    /// Packets that it sent by its rules.
    pub sent_packets: u64,
    /// Packets that it sent and no rule allowed.
    pub sent_dropped: u64,
    /// Bytes that it got.
    pub received_bytes: u64,
    /// Packets that it got.
    pub received_packets: u64,
    /// Packets that were sent to it and no rule allowed.
    pub received_dropped: u64,
    /// Questions for names.
    pub names_asked: u64,
    /// Those for names that no rule allows.
    pub names_refused: u64,
    /// Those that had no answer which could be passed on.
    pub names_failed: u64,
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

/// How a node goes out of service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeDrain {
    /// After how many seconds what still runs there is ended; without it, when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
}

/// How an instance is at the moment; a line of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceState {
    /// Its id.
    pub id: String,
    /// The workload's name.
    pub name: String,
    /// Where it was placed.
    pub node: Option<String>,
    /// `run`, `stop`, `delete`: what should be.
    pub intent: String,
    /// What is.
    pub step: String,
    /// Of the workload, once it ended by itself.
    pub exit_code: Option<i32>,
    /// The first failure.
    pub failure: Option<Failure>,
    /// Number of its newest event.
    pub last_event: u64,
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
    /// `step`, `note`, `verdict`, `keys`, `exit`, `failure`, `receipt`, `node-lost`, `notice`.
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
    /// `trusted`, `untrusted`, `suspended` or `revoked`, with the reason in `detail`.
    pub trust: String,
    /// Why.
    pub detail: String,
    /// Whether its session is open.
    pub connected: bool,
    /// `connected`, `unreachable`, or, after the platform's `node_lost_ms`, `lost`: then nothing is known of what it runs.
    #[serde(default)]
    pub reach: String,
    /// Its last message, by the platform's clock; idle nodes say something every few seconds, too.
    #[serde(default)]
    pub last_seen_ms: u64,
    /// Whether it gets no new instances.
    #[serde(default)]
    pub draining: bool,
    /// When what still runs on it is ended, where it drains and there is a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_until_ms: Option<u64>,
    /// Whether the trust rests on a simulator root.
    pub simulated: bool,
    /// Inventory as it reported.
    #[schema(value_type = Object)]
    pub inventory: serde_json::Value,
    /// Live instances.
    pub instances: u32,
    /// When the certificate ends; milliseconds since 1970.
    pub certificate_ends_at_ms: u64,
    /// Whose it is, as far as the caller may know; absent for the platform's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hoster: Option<String>,
}

/// All nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Nodes {
    /// The nodes.
    pub nodes: Vec<Node>,
}

/// Something that a node's monitor wrote down, after which the node gets no work until an operator has looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Incident {
    /// The node.
    pub node: String,
    /// Number of the line in its monitor's record.
    pub sequence: u64,
    /// `instances_ended`, `monitor_ended` or `canary_missed`.
    pub kind: String,
    /// Why, and which detectors had counted.
    pub detail: String,
    /// By the node's clock; milliseconds since 1970.
    pub at_ms: u64,
    /// When the platform heard of it.
    pub received_at_ms: u64,
}

/// Incidents, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Incidents {
    /// The incidents.
    pub incidents: Vec<Incident>,
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

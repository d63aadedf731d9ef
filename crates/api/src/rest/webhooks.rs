//! Calls to an address of yours when something happens to a node.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::NoticeEvidence;

/// An address to call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// `https://…`, with a name or a public address.
    pub url: String,
    /// Of `incident`, `suspended`, `revoked`, `restored`; all of them when absent.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// `project` (when absent): what a project of yours is told. `hoster`: what happens to your nodes. `platform`: what happens to any
    /// node (operators).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Which project; your own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
}

/// An address that is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// Where.
    pub url: String,
    /// For what.
    pub kinds: Vec<String>,
    /// `project`, `hoster` or `platform`.
    pub scope: String,
    /// The project or the hoster; empty for the platform.
    pub owner: String,
    /// The account that made it.
    pub made_by: String,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
}

/// A new one, with its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MadeWebhook {
    /// `whsec_` and base64; shown once.
    pub secret: String,
    /// What is known of it.
    pub webhook: Webhook,
}

/// Webhooks, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhooks {
    /// The webhooks.
    pub webhooks: Vec<Webhook>,
}

/// A call that was made, or is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// Its id, the header `webhook-id` of each attempt.
    pub id: String,
    /// `incident`, `suspended`, `revoked`, `restored` or `test`.
    pub kind: String,
    /// `waiting`, `delivered` or `failed`.
    pub state: String,
    /// How often it was tried.
    pub attempts: u32,
    /// HTTP's status of the last answer.
    pub status: Option<u16>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it is tried next, where it waits.
    pub next_at_ms: Option<u64>,
}

/// Deliveries, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deliveries {
    /// At most 100.
    pub deliveries: Vec<Delivery>,
}

/// A delivery that was queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queued {
    /// Its id.
    pub delivery: String,
}

/// The body of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookEvent {
    /// Of the delivery; the same for each attempt.
    pub id: String,
    /// `incident`, `suspended`, `revoked`, `restored` or `test`.
    pub kind: String,
    /// When the platform heard of it, or did it; milliseconds since 1970.
    pub at_ms: u64,
    /// What happened, for a person.
    pub text: String,
    /// The node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// In the words of the node's monitor, or of who looked at its record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When it happened by the node's clock, where the node says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_at_ms: Option<u64>,
    /// The notice that the project has of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// The project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The instances of the project that it concerns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<String>,
    /// What the platform has of the node's record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<NoticeEvidence>,
}

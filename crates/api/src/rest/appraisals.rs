//! Types of the role `verifier`, under `/api/v1/appraisals`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A nonce that the verifier made, for one use by whoever asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppraisalChallenge {
    /// Names it in the request for an appraisal.
    pub id: String,
    /// 32 bytes, base64.
    pub nonce: String,
    /// Milliseconds since 1970.
    pub expires_at_ms: u64,
}

/// The form of the token to sign.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenForm {
    /// EAR as JWT, text.
    Jwt,
    /// EAR as CWT, base64.
    Cwt,
    /// No token.
    #[default]
    None,
}

/// Evidence to be judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAppraisal {
    /// The challenge whose nonce the evidence answers (passport model). Without one the nonce is the caller's own
    /// (background-check model).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
    /// The appraisal request: version, kind, evidence, endorsements, policy, expectation. At most 8 MiB.
    #[schema(value_type = Object)]
    pub request: serde_json::Value,
    /// A policy of the verifier by name; `strict` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The form of the token.
    #[serde(default)]
    pub token: TokenForm,
}

/// One check of an appraisal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppraisalCheck {
    /// Its name.
    pub name: String,
    /// `pass`, `fail` or `not-reached`.
    pub outcome: String,
    /// What was seen.
    pub detail: String,
}

/// A verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Appraisal {
    /// Whether everything passed.
    pub accepted: bool,
    /// The check that failed, if one did.
    pub failed: Option<AppraisalCheck>,
    /// Every check, in order.
    pub checks: Vec<AppraisalCheck>,
    /// What the evidence says.
    #[schema(value_type = Object)]
    pub claims: serde_json::Value,
    /// The attestation result.
    #[schema(value_type = Object)]
    pub result: serde_json::Value,
    /// The signed token, in the form that was asked for; also of a refusal.
    pub ear: Option<String>,
    /// The policy that was applied: name, version and digest of its text.
    pub policy_id: String,
    /// Who made the nonce: `verifier` or `relying-party`.
    pub freshness: String,
}

/// Public keys of the verifier (RFC 7517).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Jwks {
    /// One JWK each.
    #[schema(value_type = Vec<Object>)]
    pub keys: Vec<serde_json::Value>,
}

/// One version of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyVersion {
    /// Its name.
    pub name: String,
    /// From 1, without gaps.
    pub version: u64,
    /// Of this version, hex; covers the version before.
    pub digest: String,
    /// Seconds since 1970.
    pub created_at: u64,
    /// The policy, in Rego.
    pub text: String,
    /// The digest of the version before, hex; zeros for the first.
    pub previous: String,
}

/// All versions of a policy, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyVersions {
    /// The versions.
    pub versions: Vec<PolicyVersion>,
}

/// The revocation list in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revocations {
    /// Its serial: no lower one is accepted any more.
    pub serial: u64,
    /// Seconds since 1970.
    pub issued_at: u64,
    /// Seconds since 1970; from then on the list is worth nothing.
    pub next_update: u64,
    /// The signed file.
    pub file: String,
}

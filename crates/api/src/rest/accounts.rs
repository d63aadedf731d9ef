//! Accounts, projects, tokens, and the record of what was done with them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who calls, as the platform sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    /// The account.
    pub account: String,
    /// What it may act as with this token.
    pub roles: Vec<String>,
    /// The token.
    pub token: Token,
    /// Ids of the projects that it may use.
    pub projects: Vec<String>,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Its name; its own project has the same.
    pub name: String,
    /// Of `tenant`, `hoster`, `operator`.
    pub roles: Vec<String>,
    /// Its tokens are worth nothing.
    pub disabled: bool,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
}

/// An account to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// 1 to 64 lower case letters, digits, `.`, `_`, `-`; it begins with a letter or digit, and not with `p-`.
    pub name: String,
    /// Of `tenant`, `hoster`, `operator`; at least one.
    pub roles: Vec<String>,
}

/// What an account is to be from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountUpdate {
    /// Of `tenant`, `hoster`, `operator`; at least one.
    pub roles: Vec<String>,
    /// Whether its tokens are worth nothing.
    #[serde(default)]
    pub disabled: bool,
}

/// Accounts by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accounts {
    /// The accounts.
    pub accounts: Vec<Account>,
    /// Ask with this as `after` for more; absent at the end.
    pub next: Option<String>,
}

/// What instances belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Its id.
    pub id: String,
    /// What its owners call it.
    pub name: String,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// What its live instances may take together; what is absent is not limited.
    pub quota: Quota,
    /// What they take now.
    pub usage: Usage,
    /// Who may see and make its instances.
    pub members: Vec<Member>,
}

/// A project in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectHead {
    /// Its id.
    pub id: String,
    /// What its owners call it.
    pub name: String,
}

/// Projects by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Projects {
    /// The projects.
    pub projects: Vec<ProjectHead>,
}

/// A project to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProject {
    /// 1 to 100 characters.
    pub name: String,
}

/// Limits of what the live instances of a project take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<u64>,
    /// Their virtual CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u64>,
    /// Their memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
}

/// What the live instances of a project take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// How many.
    pub instances: u64,
    /// Their virtual CPUs.
    pub cpus: u64,
    /// Their memory.
    pub memory_mib: u64,
}

/// An account in a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Its name.
    pub account: String,
    /// `owner` or `member`.
    pub role: String,
}

/// What an account is to be in a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// `owner` (may change the members) or `member`.
    pub role: String,
}

/// A token, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// `t-` and the first 16 hex digits of the token's SHA-256.
    pub id: String,
    /// Whose it is.
    pub account: String,
    /// What its holder calls it.
    pub name: String,
    /// It acts only as one of these.
    pub roles: Option<Vec<String>>,
    /// It works only within this project.
    pub project: Option<String>,
    /// It does only this.
    pub verbs: Option<Vec<String>>,
    /// It changes nothing.
    pub read_only: bool,
    /// The token that made it.
    pub made_by: Option<String>,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Milliseconds since 1970.
    pub expires_at_ms: u64,
    /// Milliseconds since 1970.
    pub revoked_at_ms: Option<u64>,
}

/// Tokens of an account, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tokens {
    /// The tokens.
    pub tokens: Vec<Token>,
}

/// A token to make. It can never do more than the one that makes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewToken {
    /// At most 100 characters, to know it by.
    pub name: String,
    /// For this account; one's own when absent. Another one's needs an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// It acts only as one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    /// It works only within this project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// It does only this; docs/accounts.md names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbs: Option<Vec<String>>,
    /// It changes nothing.
    pub read_only: bool,
    /// Its life in seconds, at most a year; 30 days when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// A token that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MadeToken {
    /// The secret; shown once.
    pub token: String,
    /// What the platform keeps of it.
    pub info: Token,
}

/// A one-time token to make, for enrolling a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewBootstrapToken {
    /// Whose the node will be. Hosters make them for themselves; an operator's without one enrol the platform's own nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hoster: Option<String>,
}

/// Whose a node is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodeHoster {
    /// The account; the platform's own when absent.
    pub hoster: Option<String>,
}

/// An instance as the hoster of its node sees it: what it takes, and nothing of what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostedInstance {
    /// Its id.
    pub id: String,
    /// `run`, `stop` or `delete`.
    pub intent: String,
    /// The furthest step reached.
    pub step: String,
    /// Its isolation level.
    pub level: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory.
    pub memory_mib: u64,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
}

/// What a node has, or should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostedInstances {
    /// The instances.
    pub instances: Vec<HostedInstance>,
}

/// A change that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditLine {
    /// Its number; later ones are higher.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Who.
    pub account: String,
    /// Id of the token; absent at the server's own command line, and of nodes.
    pub token: Option<String>,
    /// What, by its verb.
    pub action: String,
    /// On what.
    pub target: String,
    /// HTTP's status of the answer; absent where the server ended before it knew.
    pub status: Option<u16>,
    /// What it made, or what it changed to.
    pub detail: Option<String>,
}

/// Lines of the record, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditLines {
    /// The lines.
    pub lines: Vec<AuditLine>,
    /// Ask with this as `before` for older ones; absent at the end.
    pub next: Option<u64>,
}

//! Who wants to be called when something happens to a node.

use super::{
    OccasionKind, Result, Store,
    rows::Columns,
    sql::{Row, sql},
};
use crate::webhooks::Secret;

/// Most webhooks in one list.
const MAX_LIST: i64 = 1000;
/// Name of the lock under which webhooks are counted and made.
const MAKING: i64 = 0x6361_7365_0032;

/// Whose events a webhook is called for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// What this project is told.
    Project(String),
    /// What happens to this hoster's nodes.
    Hoster(String),
    /// What happens to any node.
    Platform,
}

impl Scope {
    /// The name in the store and in answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Project(_) => "project",
            Self::Hoster(_) => "hoster",
            Self::Platform => "platform",
        }
    }

    /// The project or the account.
    pub fn owner(&self) -> &str {
        match self {
            Self::Project(owner) | Self::Hoster(owner) => owner,
            Self::Platform => "",
        }
    }

    fn new(name: &str, owner: String) -> Option<Self> {
        match name {
            "project" => Some(Self::Project(owner)),
            "hoster" => Some(Self::Hoster(owner)),
            "platform" => Some(Self::Platform),
            _ => None,
        }
    }
}

/// An address that is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// For whose events.
    pub scope: Scope,
    /// Where.
    pub url: String,
    /// For what.
    pub kinds: Vec<OccasionKind>,
    /// What calls are signed with.
    pub secret: Secret,
    /// The account that made it.
    pub made_by: String,
    /// When.
    pub created_at_ms: u64,
}

/// Whose webhooks: without anything none, unless all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WebhooksOf<'a> {
    /// Those of projects that this account is a member of.
    pub member: Option<&'a str>,
    /// This hoster's.
    pub hoster: Option<&'a str>,
    /// Everybody's.
    pub all: bool,
}

impl Store {
    /// Makes a webhook, if its owner has fewer than `most`.
    pub async fn insert_webhook(&self, webhook: &Webhook, most: u64) -> Result<bool> {
        let mut tx = self.begin(WRITE).await?;
        tx.alone(MAKING).await?;
        let count = sql(WRITE, "SELECT COUNT(*) AS webhooks FROM webhooks WHERE scope = $1 AND owner = $2");
        let row = count.bind(webhook.scope.as_str()).bind(webhook.scope.owner()).optional(tx.on()).await?;
        let known = row.as_ref().map_or(Ok(0), |row| Columns::new(row, "webhooks", "webhooks").uint("webhooks"))?;
        if known >= most {
            return Ok(false);
        }
        let kinds: Vec<&str> = webhook.kinds.iter().map(|kind| kind.as_str()).collect();
        let text = "INSERT INTO webhooks (id, scope, owner, url, kinds, secret, made_by, created_at_ms) \
                    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let insert = sql(WRITE, text).bind(&webhook.id).bind(webhook.scope.as_str()).bind(webhook.scope.owner());
        let insert = insert.bind(&webhook.url).bind(kinds.join(",")).bind(webhook.secret.bytes());
        insert.bind(&webhook.made_by).bind(webhook.created_at_ms).run(tx.on()).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Webhooks, oldest first.
    pub async fn webhooks(&self, of: WebhooksOf<'_>) -> Result<Vec<Webhook>> {
        let text = "SELECT w.* FROM webhooks w WHERE $1 = 1 OR (w.scope = 'hoster' AND w.owner = $2) OR (w.scope = 'project' \
                    AND EXISTS (SELECT 1 FROM project_members m WHERE m.project = w.owner AND m.account = $3)) \
                    ORDER BY w.created_at_ms, w.id LIMIT $4";
        let list = sql(READ, text).bind(i64::from(of.all)).bind(of.hoster).bind(of.member).bind(MAX_LIST);
        list.all(self.read()).await?.iter().map(from_row).collect()
    }

    /// The webhook with this id.
    pub async fn webhook(&self, id: &str) -> Result<Option<Webhook>> {
        let row = sql(READ, "SELECT * FROM webhooks WHERE id = $1").bind(id).optional(self.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Forgets a webhook with all that was to be delivered to it.
    pub async fn remove_webhook(&self, id: &str) -> Result<bool> {
        Ok(sql(WRITE, "DELETE FROM webhooks WHERE id = $1").bind(id).run(self.write()).await? > 0)
    }
}

pub(super) fn from_row(row: &Row) -> Result<Webhook> {
    let columns = Columns::new(row, "webhook", "id");
    let kinds = columns.text("kinds")?;
    let kinds = kinds.split(',').map(|kind| kind.parse().map_err(|error: String| columns.bad(format!("kinds: {error}"))));
    Ok(Webhook {
        id: columns.text("id")?,
        scope: Scope::new(&columns.text("scope")?, columns.text("owner")?).ok_or_else(|| columns.bad("scope"))?,
        url: columns.text("url")?,
        kinds: kinds.collect::<Result<_>>()?,
        secret: Secret::new(columns.bytes32("secret")?),
        made_by: columns.text("made_by")?,
        created_at_ms: columns.uint("created_at_ms")?,
    })
}

const READ: &str = "read webhooks";
const WRITE: &str = "write a webhook";

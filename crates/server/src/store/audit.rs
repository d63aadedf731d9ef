//! The record of changes: what was begun, and what came of it. The database itself refuses to change or forget a line.

use super::{Result, Store, StoreError, rows::Columns, sql::sql};

/// What is begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun<'a> {
    /// When.
    pub at_ms: u64,
    /// Who.
    pub account: &'a str,
    /// With which token; absent at the server's own command line, and of nodes.
    pub token: Option<&'a str>,
    /// What, by its verb.
    pub action: &'a str,
    /// On what.
    pub target: &'a str,
}

/// A line of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    /// Its number; later ones are higher.
    pub seq: u64,
    /// When it was begun.
    pub at_ms: u64,
    /// Who.
    pub account: String,
    /// With which token.
    pub token: Option<String>,
    /// What, by its verb.
    pub action: String,
    /// On what.
    pub target: String,
    /// HTTP's status of the answer; absent where the server died before it knew.
    pub status: Option<u64>,
    /// What it made, or what it changed to.
    pub detail: Option<String>,
}

impl Store {
    /// Writes down what is about to be done; its number.
    pub async fn audit(&self, begun: &Begun<'_>) -> Result<u64> {
        let text = "INSERT INTO audit (at_ms, account, token, action, target) VALUES ($1, $2, $3, $4, $5) RETURNING seq";
        let insert = sql(ATTEMPT, text).bind(begun.at_ms).bind(begun.account).bind(begun.token);
        let row = insert.bind(begun.action).bind(begun.target).optional(self.write()).await?;
        let absent = || StoreError::Row { what: "audit".to_owned(), detail: "the new line has no number".to_owned() };
        Columns::new(&row.ok_or_else(absent)?, "audit", "seq").uint("seq")
    }

    /// Writes down what came of it, once.
    pub async fn audit_outcome(&self, seq: u64, status: u16, detail: Option<&str>) -> Result<()> {
        let insert = sql(ATTEMPT, "INSERT INTO audit_outcomes (seq, status, detail) VALUES ($1, $2, $3)");
        insert.bind(seq).bind(u32::from(status)).bind(detail).run(self.write()).await.map(drop)
    }

    /// Lines before number `before`, newest first: of one account, or all.
    pub async fn audit_lines(&self, account: Option<&str>, before: u64, limit: u32) -> Result<Vec<AuditLine>> {
        let text = "SELECT a.*, o.status, o.detail FROM audit a LEFT JOIN audit_outcomes o ON o.seq = a.seq \
                    WHERE a.seq < $1 AND ($2 IS NULL OR a.account = $2) ORDER BY a.seq DESC LIMIT $3";
        let rows = sql("read the audit record", text).bind(before).bind(account).bind(limit).all(self.read()).await?;
        rows.iter()
            .map(|row| {
                let columns = Columns::new(row, "audit of", "account");
                Ok(AuditLine {
                    seq: columns.uint("seq")?,
                    at_ms: columns.uint("at_ms")?,
                    account: columns.text("account")?,
                    token: columns.opt_text("token")?,
                    action: columns.text("action")?,
                    target: columns.text("target")?,
                    status: columns.opt_uint("status")?,
                    detail: columns.opt_text("detail")?,
                })
            })
            .collect()
    }
}

const ATTEMPT: &str = "write the audit record";

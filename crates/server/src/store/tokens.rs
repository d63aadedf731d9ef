//! Bearer and bootstrap tokens, known here by their hash only.

use sqlx::Row as _;

use super::{
    Result, Store, failed,
    rows::{Columns, int},
};

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Own instances.
    Tenant,
    /// Everything.
    Operator,
    /// Enrolling one node.
    Bootstrap,
}

impl Role {
    /// The name in the store and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Operator => "operator",
            Self::Bootstrap => "bootstrap",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Self::Tenant, Self::Operator, Self::Bootstrap]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("role must be tenant, operator or bootstrap, got {text:?}"))
    }
}

/// A token, without the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it allows.
    pub role: Role,
    /// Who holds it; owner of the instances that are made with it.
    pub subject: String,
    /// The end of its validity.
    pub expires_at_ms: u64,
    /// The node that enrolled with it.
    pub used_by: Option<String>,
}

impl Store {
    /// Keeps a token.
    pub async fn insert_token(&self, hash: &[u8; 32], token: &Token, now_ms: u64) -> Result<()> {
        sqlx::query("INSERT INTO tokens (hash, role, subject, created_at_ms, expires_at_ms) VALUES (?, ?, ?, ?, ?)")
            .bind(&hash[..])
            .bind(token.role.as_str())
            .bind(&token.subject)
            .bind(int(now_ms))
            .bind(int(token.expires_at_ms))
            .execute(&self.writer)
            .await
            .map_err(failed("store a token"))?;
        Ok(())
    }

    /// The token with this hash, while it is valid.
    pub async fn token(&self, hash: &[u8; 32], now_ms: u64) -> Result<Option<Token>> {
        let row = sqlx::query("SELECT role, subject, expires_at_ms, used_by FROM tokens WHERE hash = ? AND expires_at_ms > ?")
            .bind(&hash[..])
            .bind(int(now_ms))
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("look up a token"))?;
        let Some(row) = row else { return Ok(None) };
        let columns = Columns::new(&row, "token of", "subject");
        Ok(Some(Token {
            role: columns.parsed("role")?,
            subject: columns.text("subject")?,
            expires_at_ms: columns.uint("expires_at_ms")?,
            used_by: columns.opt_text("used_by")?,
        }))
    }

    /// Marks a bootstrap token as used by `node`; `false` when it is unknown, expired, or another node's.
    pub async fn use_bootstrap_token(&self, hash: &[u8; 32], node: &str, now_ms: u64) -> Result<bool> {
        let row = sqlx::query(
            "UPDATE tokens SET used_by = ?2 WHERE hash = ?1 AND role = 'bootstrap' AND expires_at_ms > ?3 \
             AND (used_by IS NULL OR used_by = ?2) RETURNING 1 AS used",
        )
        .bind(&hash[..])
        .bind(node)
        .bind(int(now_ms))
        .fetch_optional(&self.writer)
        .await
        .map_err(failed("use a bootstrap token"))?;
        Ok(row.is_some_and(|row| row.try_get::<i64, _>("used").is_ok()))
    }

    /// Forgets tokens whose time is over.
    pub async fn forget_expired_tokens(&self, now_ms: u64) -> Result<()> {
        sqlx::query("DELETE FROM tokens WHERE expires_at_ms <= ?")
            .bind(int(now_ms))
            .execute(&self.writer)
            .await
            .map_err(failed("forget expired tokens"))?;
        Ok(())
    }
}

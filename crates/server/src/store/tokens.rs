//! Bootstrap tokens, known here by their hash only.

use super::{Result, Store, rows::Columns, sql::sql};

/// A token that enrols one node, without the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    /// Who asked for it.
    pub subject: String,
    /// Whose the node will be; the platform's own without one.
    pub hoster: Option<String>,
    /// The end of its validity.
    pub expires_at_ms: u64,
    /// The node that enrolled with it.
    pub used_by: Option<String>,
}

impl Store {
    /// Keeps a token.
    pub async fn insert_bootstrap_token(&self, hash: &[u8; 32], token: &BootstrapToken, now_ms: u64) -> Result<()> {
        let text = "INSERT INTO tokens (hash, role, subject, hoster, created_at_ms, expires_at_ms) \
                    VALUES ($1, 'bootstrap', $2, $3, $4, $5)";
        let insert = sql("store a token", text).bind(&hash[..]).bind(&token.subject).bind(token.hoster.as_deref());
        insert.bind(now_ms).bind(token.expires_at_ms).run(self.write()).await.map(drop)
    }

    /// The token with this hash, while it is valid.
    pub async fn bootstrap_token(&self, hash: &[u8; 32], now_ms: u64) -> Result<Option<BootstrapToken>> {
        let text = "SELECT subject, hoster, expires_at_ms, used_by FROM tokens \
                    WHERE hash = $1 AND role = 'bootstrap' AND expires_at_ms > $2";
        let Some(row) = sql("look up a token", text).bind(&hash[..]).bind(now_ms).optional(self.read()).await? else {
            return Ok(None);
        };
        let columns = Columns::new(&row, "token of", "subject");
        Ok(Some(BootstrapToken {
            subject: columns.text("subject")?,
            hoster: columns.opt_text("hoster")?,
            expires_at_ms: columns.uint("expires_at_ms")?,
            used_by: columns.opt_text("used_by")?,
        }))
    }

    /// Marks a bootstrap token as used by `node`; `false` when it is unknown, expired, or another node's.
    pub async fn use_bootstrap_token(&self, hash: &[u8; 32], node: &str, now_ms: u64) -> Result<bool> {
        let used = sql(
            "use a bootstrap token",
            "UPDATE tokens SET used_by = $2 WHERE hash = $1 AND role = 'bootstrap' AND expires_at_ms > $3 \
             AND (used_by IS NULL OR used_by = $2) ",
        )
        .bind(&hash[..])
        .bind(node)
        .bind(now_ms)
        .run(self.write())
        .await?;
        Ok(used == 1)
    }

    /// Forgets tokens whose time is over.
    pub async fn forget_expired_tokens(&self, now_ms: u64) -> Result<()> {
        sql("forget expired tokens", "DELETE FROM tokens WHERE expires_at_ms <= $1").bind(now_ms).run(self.write()).await?;
        Ok(())
    }
}

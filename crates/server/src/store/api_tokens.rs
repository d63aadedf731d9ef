//! Tokens of accounts, known here by their hash only.

use std::collections::BTreeSet;

use super::{
    Result, Store,
    roles::RoleSet,
    rows::Columns,
    sql::{Row, sql},
};

/// Most tokens in one list.
const MAX_LIST: i64 = 10_000;

/// A token, without the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// Names it; begins its hash.
    pub id: String,
    /// Whose it is.
    pub account: String,
    /// What its holder calls it.
    pub name: String,
    /// What it is limited to.
    pub scope: TokenScope,
    /// The token that made it.
    pub made_by: Option<String>,
    /// When it was made.
    pub created_at_ms: u64,
    /// When it ends.
    pub expires_at_ms: u64,
    /// When it was ended.
    pub revoked_at_ms: Option<u64>,
}

/// What a token is limited to, beside what its account may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenScope {
    /// Only as one who is this.
    pub roles: Option<RoleSet>,
    /// Only within this project.
    pub project: Option<String>,
    /// Only these.
    pub verbs: Option<BTreeSet<String>>,
    /// Nothing that changes something.
    pub read_only: bool,
}

/// A token and the account behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The token.
    pub token: ApiToken,
    /// What the account is.
    pub roles: RoleSet,
}

impl Store {
    /// Keeps a token.
    pub async fn insert_api_token(&self, hash: &[u8; 32], token: &ApiToken) -> Result<()> {
        let text = "INSERT INTO api_tokens (id, hash, account, name, roles, project, verbs, read_only, made_by, created_at_ms, \
                    expires_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let scope = &token.scope;
        let verbs = scope.verbs.as_ref().map(|verbs| verbs.iter().map(String::as_str).collect::<Vec<_>>().join(","));
        sql("store a token", text)
            .bind(&token.id)
            .bind(hash)
            .bind(&token.account)
            .bind(&token.name)
            .bind(scope.roles.as_ref().map(RoleSet::to_string))
            .bind(scope.project.as_deref())
            .bind(verbs)
            .bind(i64::from(scope.read_only))
            .bind(token.made_by.as_deref())
            .bind(token.created_at_ms)
            .bind(token.expires_at_ms)
            .run(self.write())
            .await
            .map(drop)
    }

    /// Who holds the token with this hash, while it is good for something.
    pub async fn holder(&self, hash: &[u8; 32], now_ms: u64) -> Result<Option<Holder>> {
        let text = "SELECT t.*, a.roles AS account_roles FROM api_tokens t JOIN accounts a ON a.name = t.account \
                    WHERE t.hash = $1 AND t.expires_at_ms > $2 AND t.revoked_at_ms IS NULL AND a.disabled_at_ms IS NULL";
        let Some(row) = sql("look up a token", text).bind(hash).bind(now_ms).optional(self.read()).await? else {
            return Ok(None);
        };
        let roles = Columns::new(&row, "token", "id").parsed("account_roles")?;
        Ok(Some(Holder { token: from_row(&row)?, roles }))
    }

    /// Whether a token is still good for something.
    pub async fn is_good(&self, id: &str, now_ms: u64) -> Result<bool> {
        let text = "SELECT t.id FROM api_tokens t JOIN accounts a ON a.name = t.account \
                    WHERE t.id = $1 AND t.expires_at_ms > $2 AND t.revoked_at_ms IS NULL AND a.disabled_at_ms IS NULL";
        Ok(sql("look at a token again", text).bind(id).bind(now_ms).optional(self.read()).await?.is_some())
    }

    /// The token with this id.
    pub async fn api_token(&self, id: &str) -> Result<Option<ApiToken>> {
        let row = sql("read a token", "SELECT * FROM api_tokens WHERE id = $1").bind(id).optional(self.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Tokens of an account, newest first; ended ones as long as they are remembered.
    pub async fn api_tokens(&self, account: &str) -> Result<Vec<ApiToken>> {
        let text = "SELECT * FROM api_tokens WHERE account = $1 ORDER BY created_at_ms DESC, id LIMIT $2";
        sql("list tokens", text).bind(account).bind(MAX_LIST).all(self.read()).await?.iter().map(from_row).collect()
    }

    /// Ends a token, and with `made` all that were made with it, and with those.
    pub async fn revoke_token(&self, id: &str, made: bool, now_ms: u64) -> Result<u64> {
        const ATTEMPT: &str = "revoke a token";
        let alone = "UPDATE api_tokens SET revoked_at_ms = $2 WHERE id = $1 AND revoked_at_ms IS NULL";
        let all = "UPDATE api_tokens SET revoked_at_ms = $2 WHERE revoked_at_ms IS NULL AND id IN \
                   (WITH RECURSIVE ended (id) AS (SELECT id FROM api_tokens WHERE id = $1 \
                    UNION SELECT t.id FROM api_tokens t JOIN ended e ON t.made_by = e.id) SELECT id FROM ended)";
        sql(ATTEMPT, if made { all } else { alone }).bind(id).bind(now_ms).run(self.write()).await
    }

    /// Forgets tokens whose time is over since `before_ms`.
    pub async fn forget_api_tokens(&self, before_ms: u64) -> Result<()> {
        let forget = sql("forget expired tokens", "DELETE FROM api_tokens WHERE expires_at_ms <= $1");
        forget.bind(before_ms).run(self.write()).await.map(drop)
    }
}

fn from_row(row: &Row) -> Result<ApiToken> {
    let columns = Columns::new(row, "token", "id");
    let roles = columns.opt_text("roles")?.map(|text| text.parse().map_err(|_| columns.bad("roles"))).transpose()?;
    let verbs = columns.opt_text("verbs")?.map(|text| text.split(',').map(str::to_owned).collect());
    Ok(ApiToken {
        id: columns.text("id")?,
        account: columns.text("account")?,
        name: columns.text("name")?,
        scope: TokenScope { roles, project: columns.opt_text("project")?, verbs, read_only: columns.uint("read_only")? != 0 },
        made_by: columns.opt_text("made_by")?,
        created_at_ms: columns.uint("created_at_ms")?,
        expires_at_ms: columns.uint("expires_at_ms")?,
        revoked_at_ms: columns.opt_uint("revoked_at_ms")?,
    })
}

//! Tokens: made here, shown once, known afterwards by their SHA-256.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::{accounts::named, random};
use crate::{
    clock::now_ms,
    fault::Fault,
    store::{ApiToken, Begun, BootstrapToken, Role, RoleSet, Store, TokenScope, Whose},
};

/// Life of a bootstrap token unless told otherwise.
const BOOTSTRAP_LIFE: Duration = Duration::from_secs(60 * 60);
/// Life of other tokens unless told otherwise.
pub(super) const TOKEN_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Who acts at the server's own command line, in the audit record.
const COMMAND_LINE: &str = "(command line)";

/// Who calls, and what this token is limited to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account.
    pub account: String,
    /// What it may act as here: its roles, as far as the token has them.
    pub roles: RoleSet,
    /// The token.
    pub token: ApiToken,
}

impl Caller {
    /// Whether the caller acts as this.
    pub fn is(&self, role: Role) -> bool {
        self.roles.has(role)
    }

    /// What the token is limited to.
    pub fn scope(&self) -> &TokenScope {
        &self.token.scope
    }

    /// The instances that the caller may see.
    pub(super) fn sees(&self) -> Whose<'_> {
        let member = (!self.is(Role::Operator)).then_some(self.account.as_str());
        Whose { member, project: self.scope().project.as_deref() }
    }

    /// Refuses everybody but operators. The routes' table has done so before; this holds where a service is called otherwise.
    pub(super) fn must_operate(&self, what: &'static str) -> Result<(), Fault> {
        if self.is(Role::Operator) { Ok(()) } else { Err(Fault::Forbidden(what)) }
    }
}

/// Who holds this bearer token.
pub async fn authenticate(store: &Store, text: &str) -> Result<Caller, Fault> {
    let (hash, now_ms) = (hash(text), now_ms());
    let Some(holder) = store.holder(&hash, now_ms).await? else {
        return Err(match store.bootstrap_token(&hash, now_ms).await? {
            Some(_) => Fault::Forbidden("use this API; it enrols one node"),
            None => Fault::Unauthenticated,
        });
    };
    let roles = match &holder.token.scope.roles {
        Some(only) => holder.roles.common(only),
        None => holder.roles,
    };
    Ok(Caller { account: holder.token.account.clone(), roles, token: holder.token })
}

/// Makes a token at the server's own command line, and whatever account it needs. Returns the token and the end of its life.
///
/// An operator's is how a new platform gets its first one. The token acts in this role only, whatever else its account is.
pub async fn make_token(
    store: &Store,
    role: Role,
    subject: Option<String>,
    life: Option<Duration>,
) -> Result<(String, u64), Fault> {
    let now_ms = now_ms();
    let life = life.unwrap_or(if role == Role::Bootstrap { BOOTSTRAP_LIFE } else { TOKEN_LIFE });
    let subject = match subject {
        Some(subject) => subject,
        None => format!("{}-{}", role.as_str(), hex::encode(random::<8>()?)),
    };
    let action = if role == Role::Bootstrap { "nodes.enrol" } else { "tokens.write" };
    let line = store.audit(&Begun { at_ms: now_ms, account: COMMAND_LINE, token: None, action, target: &subject }).await?;
    let expires_at_ms = after(now_ms, life);
    let text = match role {
        Role::Bootstrap => make_bootstrap_token(store, subject, None, expires_at_ms).await?,
        Role::Tenant | Role::Hoster | Role::Operator => {
            let name = named(&subject)?;
            let account = store.ensure_account(name, role, now_ms).await?.ok_or_else(|| Fault::Conflict {
                detail: format!("the account {name:?} is disabled, or a project has its name"),
            })?;
            let scope = TokenScope { roles: Some(RoleSet::of(&[role])), ..TokenScope::default() };
            let token = Fresh { account: account.name, name: String::new(), scope, made_by: None, expires_at_ms };
            token.make(store, role.as_str(), now_ms).await?.0
        }
    };
    store.audit_outcome(line, 201, Some(role.as_str())).await?;
    Ok((text, expires_at_ms))
}

/// A token to make.
pub(super) struct Fresh {
    pub(super) account: String,
    pub(super) name: String,
    pub(super) scope: TokenScope,
    pub(super) made_by: Option<String>,
    pub(super) expires_at_ms: u64,
}

impl Fresh {
    /// The secret, and what is kept of it. `kind` shows in the secret, so that a person knows what was found.
    pub(super) async fn make(self, store: &Store, kind: &str, now_ms: u64) -> Result<(String, ApiToken), Fault> {
        let text = format!("casemate-{kind}-{}", URL_SAFE_NO_PAD.encode(random::<32>()?));
        let hash = hash(&text);
        let token = ApiToken {
            id: format!("t-{}", hex::encode(&hash[..8])),
            account: self.account,
            name: self.name,
            scope: self.scope,
            made_by: self.made_by,
            created_at_ms: now_ms,
            expires_at_ms: self.expires_at_ms,
            revoked_at_ms: None,
        };
        store.insert_api_token(&hash, &token).await?;
        Ok((text, token))
    }
}

/// A token for enrolling one node, which will be this hoster's.
pub(super) async fn make_bootstrap_token(
    store: &Store,
    subject: String,
    hoster: Option<String>,
    expires_at_ms: u64,
) -> Result<String, Fault> {
    let text = format!("casemate-bootstrap-{}", URL_SAFE_NO_PAD.encode(random::<32>()?));
    let token = BootstrapToken { subject, hoster, expires_at_ms, used_by: None };
    store.insert_bootstrap_token(&hash(&text), &token, now_ms()).await?;
    Ok(text)
}

/// The end of a bootstrap token that is made now.
pub(super) fn bootstrap_end(now_ms: u64) -> u64 {
    after(now_ms, BOOTSTRAP_LIFE)
}

pub(super) fn after(now_ms: u64, life: Duration) -> u64 {
    now_ms.saturating_add(u64::try_from(life.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

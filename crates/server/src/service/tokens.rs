//! Tokens: made here, shown once, known afterwards by their SHA-256.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use casemate_api::rest;
use sha2::{Digest as _, Sha256};

use super::{Service, random};
use crate::{
    clock::now_ms,
    fault::Fault,
    store::{Role, Store, Token},
};

/// Life of a bootstrap token unless told otherwise.
const BOOTSTRAP_LIFE: Duration = Duration::from_secs(60 * 60);
/// Life of other tokens unless told otherwise.
const TOKEN_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Owner of the instances that the caller makes.
    pub subject: String,
    /// What the caller may do.
    pub role: Role,
}

impl Caller {
    /// The owner whose instances the caller may see; `None` for all.
    pub(super) fn sees(&self) -> Option<&str> {
        match self.role {
            Role::Operator => None,
            Role::Tenant | Role::Bootstrap => Some(&self.subject),
        }
    }
}

impl Service {
    /// A one-time token for enrolling a node.
    pub async fn make_bootstrap_token(&self, caller: &Caller) -> Result<rest::BootstrapToken, Fault> {
        if caller.role != Role::Operator {
            return Err(Fault::Forbidden("make bootstrap tokens; that needs an operator's token"));
        }
        let (token, expires_at_ms) = make_token(self.store(), Role::Bootstrap, None, None).await?;
        Ok(rest::BootstrapToken { token, expires_at_ms })
    }
}

/// Who holds this bearer token.
pub async fn authenticate(store: &Store, token: &str) -> Result<Caller, Fault> {
    let token = store.token(&hash(token), now_ms()).await?.ok_or(Fault::Unauthenticated)?;
    match token.role {
        Role::Tenant | Role::Operator => Ok(Caller { subject: token.subject, role: token.role }),
        Role::Bootstrap => Err(Fault::Forbidden("use this API; it enrols one node")),
    }
}

/// Makes a token, stores its hash, and returns the token and the end of its life.
pub async fn make_token(
    store: &Store,
    role: Role,
    subject: Option<String>,
    life: Option<Duration>,
) -> Result<(String, u64), Fault> {
    let now_ms = now_ms();
    let life = life.unwrap_or(if role == Role::Bootstrap { BOOTSTRAP_LIFE } else { TOKEN_LIFE });
    let expires_at_ms = now_ms.saturating_add(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
    let subject = match subject {
        Some(subject) => subject,
        None => format!("{}-{}", role.as_str(), hex::encode(random::<8>()?)),
    };
    let text = format!("casemate-{}-{}", role.as_str(), URL_SAFE_NO_PAD.encode(random::<32>()?));
    store.insert_token(&hash(&text), &Token { role, subject, expires_at_ms, used_by: None }, now_ms).await?;
    Ok((text, expires_at_ms))
}

pub(super) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

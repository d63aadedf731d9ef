//! Accounts and their tokens: who may come, as what, and with how little.
//!
//! A token never does more than the one that made it: it has the same limits or narrower ones.

use std::{collections::BTreeSet, time::Duration};

use casemate_api::rest;

use super::{
    Caller,
    nodes::known_hoster,
    tokens::{Fresh, TOKEN_LIFE, after, bootstrap_end, make_bootstrap_token},
};
use crate::{
    access,
    clock::now_ms,
    fault::Fault,
    life::clipped,
    store::{Account, AccountChange, ApiToken, Quota, Role, RoleSet, Store, TokenScope},
};

/// Longest name of an account.
const MAX_NAME: usize = 64;
/// Longest name of a token or a project, in characters.
const MAX_LABEL: usize = 100;
/// Longest life of a token.
const MAX_LIFE_S: u64 = 365 * 24 * 3600;
/// Accounts in one answer.
const PAGE: u32 = 1000;
/// Most lines of the audit record in one answer.
const MAX_LINES: u32 = 1000;
/// The line after the last one, in the audit record.
const END: u64 = i64::MAX as u64;

/// Accounts, projects, tokens and the audit record; cheap to clone.
#[derive(Debug, Clone)]
pub struct Accounts {
    pub(super) store: Store,
    /// What a project may have that has no limits of its own.
    pub(super) quota: Quota,
}

impl Accounts {
    /// Over what the store has.
    pub fn new(store: Store, quota: Quota) -> Self {
        Self { store, quota }
    }

    /// Who calls.
    pub async fn me(&self, caller: &Caller) -> Result<rest::Me, Fault> {
        let projects = match &caller.scope().project {
            Some(only) => vec![only.clone()],
            None => self.store.projects(Some(&caller.account)).await?.into_iter().map(|project| project.id).collect(),
        };
        let (account, roles) = (caller.account.clone(), caller.roles.names());
        Ok(rest::Me { account, roles, token: token_view(caller.token.clone()), projects })
    }

    /// Makes an account with its own project.
    pub async fn make(&self, caller: &Caller, new: rest::NewAccount) -> Result<rest::Account, Fault> {
        caller.must_operate("make accounts; that needs an operator's token")?;
        let (name, roles, now_ms) = (named(&new.name)?, some_roles(&new.roles)?, now_ms());
        if !self.store.insert_account(name, &roles, now_ms).await? {
            return Err(Fault::Conflict { detail: format!("there is an account {name:?} already") });
        }
        Ok(view(Account { name: name.to_owned(), roles, created_at_ms: now_ms, disabled_at_ms: None }))
    }

    /// Changes what an account is. The last operator stays one.
    pub async fn change(&self, caller: &Caller, name: &str, update: rest::AccountUpdate) -> Result<rest::Account, Fault> {
        caller.must_operate("change accounts; that needs an operator's token")?;
        let roles = some_roles(&update.roles)?;
        match self.store.change_account(name, &roles, update.disabled, now_ms()).await? {
            AccountChange::Done(account) => Ok(view(account)),
            AccountChange::Unknown => Err(unknown(name)),
            AccountChange::LastOperator => {
                Err(Fault::Conflict { detail: "this is the last operator; make another one first".to_owned() })
            }
        }
    }

    /// One account.
    pub async fn account(&self, caller: &Caller, name: &str) -> Result<rest::Account, Fault> {
        caller.must_operate("see accounts; that needs an operator's token")?;
        self.store.account(name).await?.map(view).ok_or_else(|| unknown(name))
    }

    /// Accounts by name, after this one.
    pub async fn list(&self, caller: &Caller, after: &str) -> Result<rest::Accounts, Fault> {
        caller.must_operate("see accounts; that needs an operator's token")?;
        let accounts: Vec<_> = self.store.accounts(after, PAGE).await?.into_iter().map(view).collect();
        let full = accounts.len() == PAGE as usize;
        let next = accounts.last().filter(|_| full).map(|account| account.name.clone());
        Ok(rest::Accounts { accounts, next })
    }

    /// Makes a token, for oneself or as an operator for another.
    pub async fn make_token(&self, caller: &Caller, new: rest::NewToken) -> Result<rest::MadeToken, Fault> {
        let account = self.holder(caller, new.account.as_deref()).await?;
        label("name", &new.name, 0)?;
        let life_s = new.ttl_s.unwrap_or(TOKEN_LIFE.as_secs());
        if !(1..=MAX_LIFE_S).contains(&life_s) {
            return Err(invalid("ttl_s", format!("must be 1 to {MAX_LIFE_S}, got {life_s}")));
        }
        let scope = self.scope(caller, &account, &new).await?;
        let now_ms = now_ms();
        let fresh = Fresh {
            account: account.name,
            name: new.name,
            scope,
            made_by: Some(caller.token.id.clone()),
            expires_at_ms: after(now_ms, Duration::from_secs(life_s)),
        };
        let (token, kept) = fresh.make(&self.store, "token", now_ms).await?;
        Ok(rest::MadeToken { token, info: token_view(kept) })
    }

    /// Tokens of an account; another's needs an operator.
    pub async fn tokens(&self, caller: &Caller, account: Option<&str>) -> Result<rest::Tokens, Fault> {
        let account = self.holder(caller, account).await?;
        let tokens = self.store.api_tokens(&account.name).await?;
        Ok(rest::Tokens { tokens: tokens.into_iter().map(token_view).collect() })
    }

    /// Ends a token, and with `made` all that were made with it.
    pub async fn revoke_token(&self, caller: &Caller, id: &str, made: bool) -> Result<(), Fault> {
        let token = self.store.api_token(id).await?;
        let may = |token: &ApiToken| caller.is(Role::Operator) || token.account == caller.account;
        let token = token.filter(may).ok_or_else(|| Fault::NotFound { what: "token", id: clipped(id, 80) })?;
        self.store.revoke_token(&token.id, made, now_ms()).await?;
        Ok(())
    }

    /// A one-time token for enrolling a node: a hoster's for himself, an operator's for anybody.
    pub async fn make_bootstrap_token(
        &self,
        caller: &Caller,
        new: rest::NewBootstrapToken,
    ) -> Result<rest::BootstrapToken, Fault> {
        let hoster = match new.hoster {
            Some(other) if other != caller.account || !caller.is(Role::Hoster) => {
                caller.must_operate("enrol nodes for others; that needs an operator's token")?;
                known_hoster(&self.store, &other).await?;
                Some(other)
            }
            None if caller.is(Role::Operator) => None,
            _ => Some(caller.account.clone()),
        };
        let expires_at_ms = bootstrap_end(now_ms());
        let token = make_bootstrap_token(&self.store, caller.account.clone(), hoster, expires_at_ms).await?;
        Ok(rest::BootstrapToken { token, expires_at_ms })
    }

    /// Lines of the audit record before this one: of all for operators, of one's own account for others.
    pub async fn audit(&self, caller: &Caller, before: Option<u64>, limit: Option<u32>) -> Result<rest::AuditLines, Fault> {
        let account = (!caller.is(Role::Operator)).then_some(caller.account.as_str());
        let limit = limit.unwrap_or(100).clamp(1, MAX_LINES);
        let lines = self.store.audit_lines(account, before.unwrap_or(END), limit).await?;
        let lines: Vec<_> = lines
            .into_iter()
            .map(|line| rest::AuditLine {
                seq: line.seq,
                at_ms: line.at_ms,
                account: line.account,
                token: line.token,
                action: line.action,
                target: line.target,
                status: line.status.and_then(|status| u16::try_from(status).ok()),
                detail: line.detail,
            })
            .collect();
        let next = lines.last().filter(|_| lines.len() == limit as usize).map(|line| line.seq);
        Ok(rest::AuditLines { lines, next })
    }

    /// The account that a request names: the caller's own, or as an operator another one.
    async fn holder(&self, caller: &Caller, name: Option<&str>) -> Result<Account, Fault> {
        let name = name.unwrap_or(&caller.account);
        if name != caller.account {
            caller.must_operate("act for another account; that needs an operator's token")?;
        }
        self.store.account(name).await?.ok_or_else(|| unknown(name))
    }

    /// The limits of a new token: what was asked for, and never less than those of the caller's.
    async fn scope(&self, caller: &Caller, account: &Account, new: &rest::NewToken) -> Result<TokenScope, Fault> {
        let (own, for_self) = (caller.scope(), account.name == caller.account);
        let ceiling = if for_self { &caller.roles } else { &account.roles };
        let roles = match &new.roles {
            Some(names) => Some(some_roles(names)?),
            None => own.roles.clone().filter(|_| for_self).map(|_| caller.roles.clone()),
        };
        if roles.as_ref().is_some_and(|roles| !roles.is_within(ceiling)) {
            return Err(Fault::Forbidden("make one with roles that it does not have itself"));
        }
        let verbs: Option<BTreeSet<String>> = match &new.verbs {
            Some(verbs) => Some(known_verbs(verbs)?),
            None => own.verbs.clone(),
        };
        let within = |verbs: &BTreeSet<String>| own.verbs.as_ref().is_none_or(|own| verbs.is_subset(own));
        if verbs.as_ref().is_some_and(|verbs| !within(verbs)) {
            return Err(Fault::Forbidden("make one for verbs that it does not have itself"));
        }
        // The routes' table lets no token of one project come here; this does not rely on it.
        let project = new.project.clone().or_else(|| own.project.clone());
        if let Some(id) = &project {
            let strange = own.project.as_ref().is_some_and(|own| own != id);
            if strange || self.store.membership(id, &account.name).await?.is_none() {
                return Err(super::projects::unknown_project(id));
            }
        }
        Ok(TokenScope { roles, project, verbs, read_only: new.read_only || own.read_only })
    }
}

/// A name that an account may have.
pub(super) fn named(name: &str) -> Result<&str, Fault> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-'))
        && !name.starts_with("p-");
    if good {
        return Ok(name);
    }
    let detail = format!(
        "must be 1 to {MAX_NAME} of a-z, 0-9, '.', '_' and '-', begin with a letter or digit and not with \"p-\", got {:?}",
        clipped(name, 80)
    );
    Err(invalid("account name", detail))
}

/// A name for people.
pub(super) fn label(what: &'static str, text: &str, least: usize) -> Result<(), Fault> {
    let length = text.chars().count();
    if (least..=MAX_LABEL).contains(&length) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(invalid(what, format!("must have {least} to {MAX_LABEL} characters, and no control characters")))
}

fn some_roles(names: &[String]) -> Result<RoleSet, Fault> {
    let roles: Result<Vec<Role>, String> = names.iter().map(|name| clipped(name, 40).parse()).collect();
    let roles = RoleSet::of(&roles.map_err(|detail| invalid("roles", detail))?);
    if roles.is_empty() { Err(invalid("roles", "at least one is needed".to_owned())) } else { Ok(roles) }
}

fn known_verbs(verbs: &[String]) -> Result<BTreeSet<String>, Fault> {
    let strange = verbs.iter().find(|verb| !access::is_verb(verb));
    match strange {
        Some(verb) => Err(invalid("verbs", format!("there is no verb {:?}", clipped(verb, 80)))),
        None if verbs.is_empty() => Err(invalid("verbs", "a token that does nothing is of no use".to_owned())),
        None => Ok(verbs.iter().cloned().collect()),
    }
}

fn invalid(what: &'static str, detail: String) -> Fault {
    Fault::Invalid { what, detail, hint: "docs/accounts.md tells the form" }
}

fn unknown(name: &str) -> Fault {
    Fault::NotFound { what: "account", id: clipped(name, 80) }
}

fn view(account: Account) -> rest::Account {
    rest::Account {
        name: account.name,
        roles: account.roles.names(),
        disabled: account.disabled_at_ms.is_some(),
        created_at_ms: account.created_at_ms,
    }
}

fn token_view(token: ApiToken) -> rest::Token {
    rest::Token {
        id: token.id,
        account: token.account,
        name: token.name,
        roles: token.scope.roles.map(|roles| roles.names()),
        project: token.scope.project,
        verbs: token.scope.verbs.map(|verbs| verbs.into_iter().collect()),
        read_only: token.scope.read_only,
        made_by: token.made_by,
        created_at_ms: token.created_at_ms,
        expires_at_ms: token.expires_at_ms,
        revoked_at_ms: token.revoked_at_ms,
    }
}

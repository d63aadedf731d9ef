//! Accounts, projects, tokens, the audit record, and whose nodes are.
//!
//! What makes something goes with an idempotency key: a repetition after a lost answer makes nothing twice, and gets the same answer.

use casemate_api::rest::{
    Account, AccountUpdate, Accounts, AuditLines, BootstrapToken, HostedInstances, MadeToken, Me, Membership, NewAccount,
    NewBootstrapToken, NewProject, NewToken, NodeHoster, Project, Projects, Quota, Tokens,
};
use reqwest::Method;
use serde::{Serialize, de::DeserializeOwned};

use super::{Client, segment};
use crate::resolve::random32;

impl Client {
    pub(crate) async fn me(&self) -> anyhow::Result<Me> {
        self.get("/me").await
    }

    /// All accounts, page by page.
    pub(crate) async fn accounts(&self) -> anyhow::Result<Accounts> {
        let mut all: Accounts = self.get("/accounts").await?;
        while let Some(after) = all.next.take() {
            let more: Accounts = self.get(&format!("/accounts?after={}", part(&after)?)).await?;
            all.accounts.extend(more.accounts);
            all.next = more.next;
        }
        Ok(all)
    }

    pub(crate) async fn account(&self, name: &str) -> anyhow::Result<Account> {
        self.get(&format!("/accounts/{}", part(name)?)).await
    }

    pub(crate) async fn make_account(&self, new: &NewAccount) -> anyhow::Result<Account> {
        self.make("/accounts", new, "make the account").await
    }

    pub(crate) async fn change_account(&self, name: &str, update: &AccountUpdate) -> anyhow::Result<Account> {
        let request = self.request(Method::PUT, &format!("/accounts/{}", part(name)?)).json(update);
        self.fetch(request, "change the account").await
    }

    pub(crate) async fn projects(&self) -> anyhow::Result<Projects> {
        self.get("/projects").await
    }

    pub(crate) async fn project(&self, id: &str) -> anyhow::Result<Project> {
        self.get(&format!("/projects/{}", part(id)?)).await
    }

    pub(crate) async fn make_project(&self, name: String) -> anyhow::Result<Project> {
        self.make("/projects", &NewProject { name }, "make the project").await
    }

    /// Makes an account a member, or without a role no member any more.
    pub(crate) async fn set_member(&self, project: &str, account: &str, role: Option<&str>) -> anyhow::Result<()> {
        let path = format!("/projects/{}/members/{}", part(project)?, part(account)?);
        let request = match role {
            Some(role) => self.request(Method::PUT, &path).json(&Membership { role: role.to_owned() }),
            None => self.request(Method::DELETE, &path),
        };
        self.retry(request, "change the project's members").await.map(drop)
    }

    pub(crate) async fn set_quota(&self, project: &str, quota: &Quota) -> anyhow::Result<()> {
        let request = self.request(Method::PUT, &format!("/projects/{}/quota", part(project)?)).json(quota);
        self.retry(request, "set the quota").await.map(drop)
    }

    pub(crate) async fn tokens(&self, account: Option<&str>) -> anyhow::Result<Tokens> {
        match account {
            Some(account) => self.get(&format!("/tokens?account={}", part(account)?)).await,
            None => self.get("/tokens").await,
        }
    }

    pub(crate) async fn make_token(&self, new: &NewToken) -> anyhow::Result<MadeToken> {
        self.make("/tokens", new, "make the token").await
    }

    pub(crate) async fn revoke_token(&self, id: &str, made: bool) -> anyhow::Result<()> {
        let request = self.request(Method::DELETE, &format!("/tokens/{}?made={made}", part(id)?));
        self.retry(request, "revoke the token").await.map(drop)
    }

    pub(crate) async fn audit(&self, before: Option<u64>, limit: u32) -> anyhow::Result<AuditLines> {
        let before = before.map(|before| format!("&before={before}")).unwrap_or_default();
        self.get(&format!("/audit?limit={limit}{before}")).await
    }

    pub(crate) async fn bootstrap_token(&self, hoster: Option<String>) -> anyhow::Result<BootstrapToken> {
        self.make("/bootstrap-tokens", &NewBootstrapToken { hoster }, "make a token for a node").await
    }

    pub(crate) async fn give_node(&self, node: &str, hoster: Option<&str>) -> anyhow::Result<()> {
        let body = NodeHoster { hoster: hoster.map(str::to_owned) };
        let request = self.request(Method::PUT, &format!("/nodes/{}/hoster", segment(node)?)).json(&body);
        self.retry(request, "give the node to a hoster").await.map(drop)
    }

    pub(crate) async fn hosted(&self, node: &str) -> anyhow::Result<HostedInstances> {
        self.get(&format!("/nodes/{}/instances", segment(node)?)).await
    }

    pub(super) async fn make<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
        attempt: &str,
    ) -> anyhow::Result<T> {
        let key = hex::encode(&random32()?[..16]);
        let request = self.request(Method::POST, path).header("Idempotency-Key", key).json(body);
        self.fetch(request, attempt).await
    }
}

/// A name as a part of a path; those of the platform have no other characters.
fn part(name: &str) -> anyhow::Result<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good = (1..=100).contains(&name.len()) && name.chars().all(plain) && !matches!(name, "." | "..");
    anyhow::ensure!(
        good,
        "{name:?} is not a name: it has other characters than a-z, 0-9, '.', '_' and '-', or none, or too many"
    );
    Ok(name)
}

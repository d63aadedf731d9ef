//! Policies of the operator, by name: versions are added and never changed, and each is compiled before it is stored.
//!
//! Requests name a policy and never bring one: evaluating a stranger's text is bounded in instructions, not in time.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use casemate_api::rest;
use casemate_verifier::{
    UnixTime,
    rego::{AppraisalPolicy, HistoryError, MAX_TEXT, NamedPolicy, STRICT, verify_history},
};

use super::{super::Caller, Appraisals, blocking};
use crate::{
    clock::now_ms,
    fault::{Fault, chain},
    life::clipped,
    store::Role,
};

/// The built-in policy's name.
pub(super) const STRICT_NAME: &str = "strict";
/// Most policies.
const MAX_POLICIES: u64 = 256;
/// Most compiled policies that are kept.
const MAX_COMPILED: usize = 64;

/// Compiled policies by digest of their version.
#[derive(Debug, Default)]
pub(super) struct Compiled(Mutex<BTreeMap<String, AppraisalPolicy>>);

/// A version that was added, or that was in force already.
#[derive(Debug)]
pub enum Written {
    /// Added now.
    New(rest::PolicyVersion),
    /// Its text is that of the version in force.
    Same(rest::PolicyVersion),
}

impl Appraisals {
    /// Adds a version. The text must compile.
    pub async fn put_policy(&self, caller: &Caller, name: &str, text: &[u8]) -> Result<Written, Fault> {
        if caller.role != Role::Operator {
            return Err(Fault::Forbidden("write policies; that needs an operator's token"));
        }
        if name == STRICT_NAME {
            let detail = "the built-in policy cannot be replaced".to_owned();
            return Err(Fault::Invalid { what: "policy", detail, hint: "choose another name" });
        }
        let text = std::str::from_utf8(text).map_err(|_| unacceptable("the text is not UTF-8".to_owned()))?.to_owned();
        let versions = self.history(name).await?;
        if let Some(last) = versions.last().filter(|last| last.text == text) {
            return Ok(Written::Same(view(last)));
        }
        if versions.is_empty() && self.store().policy_count().await? >= MAX_POLICIES {
            return Err(Fault::Conflict { detail: format!("there are {MAX_POLICIES} policies, more are not kept") });
        }
        let (name, previous) = (name.to_owned(), versions.last().cloned());
        // A clock that went back does not stop the history.
        let now = previous.as_ref().map_or(0, |previous| previous.created_at.0).max(now_ms() / 1000);
        let limit = self.limits().appraisal;
        let next = blocking(limit, move || NamedPolicy::next(&name, &text, UnixTime(now), previous.as_ref())).await?;
        let next = next.map_err(|error| unacceptable(chain(&error)))?;
        if !self.store().insert_policy(&next).await? {
            return Err(Fault::Conflict { detail: "somebody else wrote this policy at the same time".to_owned() });
        }
        tracing::info!(policy = %next.name, version = next.version, digest = %next.digest, "a policy was written");
        Ok(Written::New(view(&next)))
    }

    /// The version in force.
    pub async fn policy(&self, _caller: &Caller, name: &str) -> Result<rest::PolicyVersion, Fault> {
        self.policy_in_force(name).await.map(|policy| view(&policy))
    }

    /// All versions.
    pub async fn policy_versions(&self, _caller: &Caller, name: &str) -> Result<rest::PolicyVersions, Fault> {
        let versions = if name == STRICT_NAME { vec![strict()] } else { self.history(name).await? };
        if versions.is_empty() {
            return Err(unknown(name));
        }
        Ok(rest::PolicyVersions { versions: versions.iter().map(view).collect() })
    }

    /// The policy of this name, ready to be evaluated.
    pub(super) async fn rules(&self, name: &str) -> Result<AppraisalPolicy, Fault> {
        if name == STRICT_NAME {
            return Ok(self.0.strict.clone());
        }
        let policy = self.policy_in_force(name).await?;
        if let Some(known) = self.0.compiled.find(&policy.digest) {
            return Ok(known);
        }
        let digest = policy.digest.clone();
        let compiled = blocking(self.limits().appraisal, move || policy.compile()).await?.map_err(damaged)?;
        self.0.compiled.keep(digest, &compiled);
        Ok(compiled)
    }

    async fn policy_in_force(&self, name: &str) -> Result<NamedPolicy, Fault> {
        if name == STRICT_NAME {
            return Ok(strict());
        }
        self.history(name).await?.pop().ok_or_else(|| unknown(name))
    }

    /// All versions as stored; empty where there is none.
    async fn history(&self, name: &str) -> Result<Vec<NamedPolicy>, Fault> {
        let versions = self.store().policy_versions(name).await?;
        if !versions.is_empty() {
            verify_history(&versions).map_err(damaged)?;
        }
        Ok(versions)
    }
}

impl Compiled {
    fn find(&self, digest: &str) -> Option<AppraisalPolicy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    fn keep(&self, digest: String, policy: &AppraisalPolicy) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_COMPILED {
            kept.clear();
        }
        kept.insert(digest, policy.clone());
    }
}

fn strict() -> NamedPolicy {
    NamedPolicy::next(STRICT_NAME, STRICT, UnixTime(0), None).expect("the built-in policy compiles")
}

fn view(policy: &NamedPolicy) -> rest::PolicyVersion {
    rest::PolicyVersion {
        name: policy.name.clone(),
        version: policy.version,
        digest: policy.digest.clone(),
        created_at: policy.created_at.0,
        text: policy.text.clone(),
        previous: policy.previous.clone(),
    }
}

fn unknown(name: &str) -> Fault {
    Fault::NotFound { what: "policy", id: clipped(name, 200) }
}

fn unacceptable(detail: String) -> Fault {
    Fault::Invalid { what: "policy", detail, hint: "docs/policies.md tells what a policy may be" }
}

fn damaged(error: HistoryError) -> Fault {
    Fault::internal("use a stored policy")(error.into())
}

/// Longest text, in bytes.
pub const MAX_POLICY: usize = MAX_TEXT;

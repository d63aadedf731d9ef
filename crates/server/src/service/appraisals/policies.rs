//! Policies of the operator, by name: versions are added and never changed, and each is compiled before it is stored.
//!
//! Requests name a policy and never bring one: evaluating a stranger's text is bounded in instructions, not in time.

use casemate_api::rest;
use casemate_verifier::{
    UnixTime,
    rego::{MAX_TEXT, NamedPolicy},
};

use super::{
    super::{
        Caller,
        rules::{STRICT_NAME, blocking, strict, unknown},
    },
    Appraisals,
};
use crate::{
    clock::now_ms,
    fault::{Fault, chain},
};

/// Most policies.
const MAX_POLICIES: u64 = 256;
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
        caller.must_operate("write policies; that needs an operator's token")?;
        if name == STRICT_NAME {
            let detail = "the built-in policy cannot be replaced".to_owned();
            return Err(Fault::Invalid { what: "policy", detail, hint: "choose another name" });
        }
        let text = std::str::from_utf8(text).map_err(|_| unacceptable("the text is not UTF-8".to_owned()))?.to_owned();
        let versions = self.0.rules.history(name).await?;
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
        self.0.rules.in_force(name).await.map(|policy| view(&policy))
    }

    /// All versions.
    pub async fn policy_versions(&self, _caller: &Caller, name: &str) -> Result<rest::PolicyVersions, Fault> {
        let versions = if name == STRICT_NAME { vec![strict()] } else { self.0.rules.history(name).await? };
        if versions.is_empty() {
            return Err(unknown(name));
        }
        Ok(rest::PolicyVersions { versions: versions.iter().map(view).collect() })
    }
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

fn unacceptable(detail: String) -> Fault {
    Fault::Invalid { what: "policy", detail, hint: "docs/policies.md tells what a policy may be" }
}

/// Longest text, in bytes.
pub const MAX_POLICY: usize = MAX_TEXT;

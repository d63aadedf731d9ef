//! Policies by name, ready to be evaluated: the built-in one, and what the operator wrote.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use casemate_verifier::{
    UnixTime,
    rego::{AppraisalPolicy, HistoryError, NamedPolicy, STRICT, verify_history},
};

use crate::{fault::Fault, life::clipped, store::Store};

/// The built-in policy's name.
pub const STRICT_NAME: &str = "strict";
/// Most compiled policies that are kept.
const MAX_COMPILED: usize = 64;

/// The policies of one server; cheap to clone.
#[derive(Debug, Clone)]
pub struct Rules(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    strict: AppraisalPolicy,
    /// By digest of their version.
    compiled: Mutex<BTreeMap<String, AppraisalPolicy>>,
}

impl Rules {
    /// Over what the store has.
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Inner { store, strict: AppraisalPolicy::strict(), compiled: Mutex::default() }))
    }

    /// The policy of this name, as it is in force now. Compiling it takes `limit` at the longest.
    pub async fn named(&self, name: &str, limit: Duration) -> Result<AppraisalPolicy, Fault> {
        if name == STRICT_NAME {
            return Ok(self.0.strict.clone());
        }
        let policy = self.in_force(name).await?;
        if let Some(known) = self.compiled().get(&policy.digest) {
            return Ok(known.clone());
        }
        let digest = policy.digest.clone();
        let compiled = blocking(limit, move || policy.compile()).await?.map_err(damaged)?;
        let mut kept = self.compiled();
        if kept.len() >= MAX_COMPILED {
            kept.clear();
        }
        kept.insert(digest, compiled.clone());
        Ok(compiled)
    }

    pub(super) async fn in_force(&self, name: &str) -> Result<NamedPolicy, Fault> {
        if name == STRICT_NAME {
            return Ok(strict());
        }
        self.history(name).await?.pop().ok_or_else(|| unknown(name))
    }

    /// All versions as stored; empty where there is none.
    pub(super) async fn history(&self, name: &str) -> Result<Vec<NamedPolicy>, Fault> {
        let versions = self.0.store.policy_versions(name).await?;
        if !versions.is_empty() {
            verify_history(&versions).map_err(damaged)?;
        }
        Ok(versions)
    }

    fn compiled(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, AppraisalPolicy>> {
        self.0.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn strict() -> NamedPolicy {
    NamedPolicy::next(STRICT_NAME, STRICT, UnixTime(0), None).expect("the built-in policy compiles")
}

pub(super) fn unknown(name: &str) -> Fault {
    Fault::NotFound { what: "policy", id: clipped(name, 200) }
}

fn damaged(error: HistoryError) -> Fault {
    Fault::internal("use a stored policy")(error.into())
}

/// Runs work that keeps a processor busy. What is not done in time goes on by itself, but nobody waits for it.
pub(super) async fn blocking<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    match tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await {
        Err(_) => Err(Fault::TooSlow { limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) }),
        Ok(Err(error)) => Err(Fault::internal("judge evidence")(error.into())),
        Ok(Ok(done)) => Ok(done),
    }
}
